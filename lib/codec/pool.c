#include "codec/pool.h"

#include "base/cleanup.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

enum { WORKERS_LIMIT = STREAM_SLOTS / 2 - 1 }; /* two slots each */

struct pool {
  struct stream_reader *reader;
  struct stream_writer *writer;
  const struct pool_filter *filter;
  const void *argument;
  pthread_mutex_t read_lock;
  uint64_t next_ticket; /* under read_lock */
  bool read_all;        /* under read_lock */
  pthread_mutex_t write_lock;
  pthread_cond_t turn_changed;
  uint64_t turn; /* under write_lock, like the following */
  bool failed;
  struct err cause;
};

static void fail(struct pool *pool, const struct err *e)
{
  pthread_mutex_lock(&pool->write_lock);
  if (!pool->failed)
    pool->cause = *e;
  pool->failed = true;
  pthread_cond_broadcast(&pool->turn_changed);
  pthread_mutex_unlock(&pool->write_lock);
}

/* A worker's slots of the writer: a payload is read into one, and made into the other. */
struct work {
  void *in, *out;
  struct frame frame;
  uint64_t ticket; /* the frame's place in the order */
};

/* Waits until all before it are written; then the writer is ours until end_turn. False: failed. */
static bool begin_turn(struct pool *pool, uint64_t ticket)
{
  pthread_mutex_lock(&pool->write_lock);
  while (!pool->failed && pool->turn != ticket)
    pthread_cond_wait(&pool->turn_changed, &pool->write_lock);
  return !pool->failed;
}

/* What was written in part nobody writes behind. */
static int end_turn(struct pool *pool, int result, const struct err *e)
{
  pool->turn++;
  if (result < 0 && !pool->failed) {
    pool->failed = true;
    pool->cause = *e;
  }
  pthread_cond_broadcast(&pool->turn_changed);
  pthread_mutex_unlock(&pool->write_lock);
  return result;
}

/* Nobody can read on before the payload is out of the way. */
static int pass(struct pool *pool, const struct frame *frame, uint64_t ticket, struct err *e)
{
  int result = -1;

  if (begin_turn(pool, ticket))
    result = stream_pass(pool->writer, pool->reader, frame, e);
  return end_turn(pool, result, e);
}

/* Under the read lock: the next frame for the filter: 1, or 0 at the end, -1. */
static int read_next(struct pool *pool, struct work *work, struct err *e)
{
  int result;

  while ((result = stream_next(pool->reader, &work->frame, e)) == 1) {
    work->ticket = pool->next_ticket++;
    if (pool->filter->chooses(&work->frame, pool->argument))
      return stream_payload_unchecked(pool->reader, &work->frame, work->in, e) < 0 ? -1 : 1;
    if (pass(pool, &work->frame, work->ticket, e) < 0)
      return -1;
  }
  return result;
}

static int take(struct pool *pool, struct work *work, struct err *e)
{
  int result = 0;

  pthread_mutex_lock(&pool->read_lock);
  if (!pool->read_all)
    result = read_next(pool, work, e);
  pool->read_all = result != 1;
  pthread_mutex_unlock(&pool->read_lock);
  return result;
}

static int give(struct pool *pool, struct work *work, struct err *e)
{
  int result = -1;

  if (begin_turn(pool, work->ticket)) {
    result = stream_write(pool->writer, &work->frame, e);
    work->in = stream_slot_renew(pool->writer, work->in);
    work->out = stream_slot_renew(pool->writer, work->out);
  }
  return end_turn(pool, result, e);
}

static int work_on_frames(struct pool *pool, struct err *e)
{
  CLEANUP(codec_context_cleanup) struct codec_context *context = codec_context_new(e);
  struct work work = {0};
  int result;

  if (!context)
    return -1;
  pthread_mutex_lock(&pool->write_lock);
  work.in = stream_slot_take(pool->writer);
  work.out = stream_slot_take(pool->writer);
  pthread_mutex_unlock(&pool->write_lock);
  while ((result = take(pool, &work, e)) == 1) {
    if (pool->filter->transform(&work.frame, context, work.out, pool->argument, e) < 0 ||
        give(pool, &work, e) < 0)
      return -1;
  }
  return result;
}

static void *worker(void *argument)
{
  struct pool *pool = argument;
  struct err e = {""};

  if (work_on_frames(pool, &e) < 0)
    fail(pool, &e);
  return NULL;
}

static unsigned processors(void)
{
  cpu_set_t set;
  unsigned count = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;

  return count < WORKERS_LIMIT / 2 ? count : WORKERS_LIMIT / 2;
}

static int run_workers(struct pool *pool, unsigned count, struct err *e)
{
  pthread_t threads[WORKERS_LIMIT];
  unsigned started = 0;

  pthread_mutex_init(&pool->read_lock, NULL);
  pthread_mutex_init(&pool->write_lock, NULL);
  pthread_cond_init(&pool->turn_changed, NULL);
  /* One of them is this thread: where no other can be had, it works alone. */
  while (started + 1 < count && pthread_create(&threads[started], NULL, worker, pool) == 0)
    started++;
  worker(pool);
  while (started)
    pthread_join(threads[--started], NULL);
  pthread_cond_destroy(&pool->turn_changed);
  pthread_mutex_destroy(&pool->write_lock);
  pthread_mutex_destroy(&pool->read_lock);
  if (pool->failed) {
    *e = pool->cause;
    return -1;
  }
  return stream_write_end(pool->writer, e);
}

static int work_in_pool(void *context, struct stream_reader *reader, struct stream_writer *writer,
                        struct err *e)
{
  struct pool *pool = context;

  pool->reader = reader;
  pool->writer = writer;
  /* Twice as many as can run: those whose frames were easy wait for their turn. */
  return run_workers(pool, 2 * processors(), e);
}

int pool_run(const struct stage_options *options, const struct pool_filter *filter,
             const void *argument, struct err *e)
{
  struct pool pool = {.filter = filter, .argument = argument};

  return stage_run(options, work_in_pool, &pool, e);
}
