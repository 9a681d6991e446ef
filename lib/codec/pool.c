#include "codec/pool.h"

#include "base/cleanup.h"
#include "stream/stats.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

enum { WORKERS_LIMIT = 64 };

struct pool {
  struct stream_reader *reader;
  struct stream_writer *writer;
  pool_transform *transform;
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

/* The next frame and its place in the order: 1, or 0 at the end, -1. */
static int take(struct pool *pool, struct frame *frame, uint64_t *ticket, void **buffer,
                size_t *room, struct err *e)
{
  int result = 0;

  pthread_mutex_lock(&pool->read_lock);
  if (!pool->read_all)
    result = stream_read_into(pool->reader, frame, buffer, room, e);
  if (result == 1)
    *ticket = pool->next_ticket++;
  else
    pool->read_all = true;
  pthread_mutex_unlock(&pool->read_lock);
  return result;
}

/* Writes when all before it are written. */
static int give(struct pool *pool, const struct frame *frame, uint64_t ticket, struct err *e)
{
  int result = -1;

  pthread_mutex_lock(&pool->write_lock);
  while (!pool->failed && pool->turn != ticket)
    pthread_cond_wait(&pool->turn_changed, &pool->write_lock);
  if (!pool->failed) {
    result = stream_write(pool->writer, frame, e);
    pool->turn++;
    pthread_cond_broadcast(&pool->turn_changed);
  }
  pthread_mutex_unlock(&pool->write_lock);
  return result;
}

static int work_on_frames(struct pool *pool, struct err *e)
{
  CLEANUP(codec_context_cleanup) struct codec_context *context = codec_context_new(e);
  AUTO_FREE void *out = malloc(EXTENT_SIZE);
  AUTO_FREE void *buffer = NULL;
  size_t room = 0;
  struct frame frame;
  uint64_t ticket;
  int result;

  if (!context || !out)
    return err_set(e, "out of memory");
  while ((result = take(pool, &frame, &ticket, &buffer, &room, e)) == 1) {
    if (frame.type == FRAME_PAGES && pool->transform(&frame, context, out, pool->argument, e) < 0)
      return -1;
    if (give(pool, &frame, ticket, e) < 0)
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

  return count < WORKERS_LIMIT ? count : WORKERS_LIMIT;
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

static void reader_cleanup(struct stream_reader **reader)
{
  stream_reader_free(*reader);
}

static void writer_cleanup(struct stream_writer **writer)
{
  stream_writer_free(*writer);
}

int pool_run(const struct pool_options *options, pool_transform *transform, const void *argument,
             struct err *e)
{
  struct stats_clock clock = stats_start();
  struct stream_header header;
  CLEANUP(reader_cleanup)
  struct stream_reader *reader = stream_reader_new(options->in_fd, &header, e);
  CLEANUP(writer_cleanup)
  struct stream_writer *writer = reader ? stream_writer_new(options->out_fd, &header, e) : NULL;
  struct pool pool = {.transform = transform, .argument = argument};

  if (!reader || !writer)
    return -1;
  if (options->splice)
    stream_writer_trust_reader(writer);
  pool.reader = reader;
  pool.writer = writer;
  /* Twice as many as can run: those whose frames were easy wait for their turn. */
  if (run_workers(&pool, options->workers ? options->workers : 2 * processors(), e) < 0)
    return -1;
  return stats_write(options->stats_fd, options->stage, &clock, stream_reader_totals(reader).bytes,
                     stream_writer_totals(writer).bytes, NULL, e);
}
