/*
 * The frames behind the state: read, decompressed and filled by workers on all processors. Who has
 * the read lock reads the next frame and finds out where it goes; then it fills it while the next
 * one reads. ptrace(2) stays with the thread that made the tree, which does what workers ask of it.
 *
 * Frames are filled at once as long as they ascend in one space. Otherwise the ones before must be
 * done first: so what is described twice ends as it does in the stream, and who is forked finds its
 * parent's pages complete.
 */
#include "restore/fill.h"

#include "base/cleanup.h"
#include "codec/codec.h"
#include "stream/stream.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

enum { WORKERS_LIMIT = 64 };

/* What a worker has in its hands. */
struct item {
  struct frame frame;
  void *in;    /* a payload of pages as it came: EXTENT_SIZE bytes, aligned like pages, which */
  void *raw;   /* makes copies twice as fast; the same for what it decompresses to */
  void *other; /* payloads of other frames, with their room */
  size_t room;
  struct place place;
  const void *payload; /* uncompressed */
};

typedef int tracer_step(struct rebuild *rebuild, struct item *item, struct err *e);

struct feed {
  struct rebuild *rebuild;
  pthread_mutex_t read_lock; /* for the following, and the rebuild's bookkeeping */
  struct stream_reader *reader;
  const struct frame *first; /* to be taken before the reader's next one; NULL: it is taken */
  bool read_all;
  uint32_t space; /* of the last frame, and where it ended */
  uint64_t end;
  pthread_mutex_t lock;   /* for the following */
  pthread_cond_t asked;   /* the tracing thread waits for work, or for the workers' end */
  pthread_cond_t changed; /* workers wait for each other, or for it */
  unsigned workers;       /* that have not ended */
  unsigned filling;       /* items that are being filled */
  bool failed;
  struct err cause;
  tracer_step *step; /* what the tracing thread is to do; NULL: nothing */
  struct item *item;
  bool served; /* it has done so, with this result: */
  int result;
  struct err *e;
};

/* The first failure is the cause; those that follow from it are not. */
static void fail(struct feed *feed, const struct err *e)
{
  if (!feed->failed)
    feed->cause = *e;
  feed->failed = true;
  pthread_cond_broadcast(&feed->changed);
}

static bool has_failed(struct feed *feed)
{
  bool failed;

  pthread_mutex_lock(&feed->lock);
  failed = feed->failed;
  pthread_mutex_unlock(&feed->lock);
  return failed;
}

/* Has the tracing thread do something. One worker at a time. */
static int ask(struct feed *feed, tracer_step *step, struct item *item, struct err *e)
{
  int result;

  pthread_mutex_lock(&feed->lock);
  while (feed->step)
    pthread_cond_wait(&feed->changed, &feed->lock);
  feed->step = step;
  feed->item = item;
  feed->e = e;
  feed->served = false;
  pthread_cond_signal(&feed->asked);
  while (!feed->served)
    pthread_cond_wait(&feed->changed, &feed->lock);
  result = feed->result;
  feed->step = NULL;
  pthread_cond_broadcast(&feed->changed);
  pthread_mutex_unlock(&feed->lock);
  return result;
}

/* The tracing thread's part, until there is nobody left to ask. */
static void serve(struct feed *feed)
{
  pthread_mutex_lock(&feed->lock);
  while (feed->workers) {
    if (!feed->step || feed->served) {
      pthread_cond_wait(&feed->asked, &feed->lock);
      continue;
    }
    pthread_mutex_unlock(&feed->lock);
    feed->result = feed->step(feed->rebuild, feed->item, feed->e);
    pthread_mutex_lock(&feed->lock);
    feed->served = true;
    pthread_cond_broadcast(&feed->changed);
  }
  pthread_mutex_unlock(&feed->lock);
}

static int lay_out(struct rebuild *rebuild, struct item *item, struct err *e)
{
  if (rebuild_layout(rebuild, item->place.which, e) < 0)
    return -1;
  return uffd_open(rebuild, item->place.which, e);
}

static int fill_by_force(struct rebuild *rebuild, struct item *item, struct err *e)
{
  (void)rebuild;
  return rebuild_fill_by_force(item->place.which, &item->frame, item->payload, e);
}

/* Waits until all frames before are filled. -1: one of them failed, which is the cause. */
static int drain(struct feed *feed)
{
  pthread_mutex_lock(&feed->lock);
  while (feed->filling)
    pthread_cond_wait(&feed->changed, &feed->lock);
  pthread_mutex_unlock(&feed->lock);
  return has_failed(feed) ? -1 : 0;
}

/* Finds where the frame goes, and makes that place. With the read lock. */
static int prepare(struct feed *feed, struct item *item, struct err *e)
{
  const struct frame *frame = &item->frame;

  if (rebuild_fill_place(feed->rebuild, frame, &item->place, e) < 0)
    return -1;
  if ((frame->space != feed->space || frame->address < feed->end) && drain(feed) < 0)
    return -1;
  feed->space = frame->space;
  feed->end = frame->address + EXTENT_SIZE;
  if (item->place.which && !item->place.which->laid_out && ask(feed, lay_out, item, e) < 0)
    return -1;
  feed->rebuild->page_bytes += frame_raw_length(frame);
  pthread_mutex_lock(&feed->lock);
  feed->filling++;
  pthread_mutex_unlock(&feed->lock);
  return 1;
}

/* Checksums of pages are the workers' to check, beside each other. */
static int next_frame(struct feed *feed, struct item *item, struct err *e)
{
  struct frame *frame = &item->frame;
  int result = 1;

  if (feed->first)
    *frame = *feed->first;
  else
    result = stream_next(feed->reader, frame, e);
  feed->first = NULL;
  if (result != 1)
    return result;
  result = frame->type == FRAME_PAGES
               ? stream_payload_unchecked(feed->reader, frame, item->in, e)
               : stream_payload_into(feed->reader, frame, &item->other, &item->room, e);
  return result < 0 ? -1 : 1;
}

/* The next item to be filled: 1, or 0 at the end, -1. With the read lock. */
static int next_item(struct feed *feed, struct item *item, struct err *e)
{
  int result;

  while ((result = next_frame(feed, item, e)) == 1) {
    if (item->frame.type == FRAME_PAGES)
      return prepare(feed, item, e);
    if (item->frame.type == FRAME_INHERIT && rebuild_inherit(feed->rebuild, &item->frame, e) < 0)
      return -1;
  }
  return result;
}

static int take_item(struct feed *feed, struct item *item, struct err *e)
{
  int result = 0;

  pthread_mutex_lock(&feed->read_lock);
  if (!feed->read_all && !has_failed(feed))
    result = next_item(feed, item, e);
  if (result != 1)
    feed->read_all = true;
  pthread_mutex_unlock(&feed->read_lock);
  return result;
}

static int fill_item(struct feed *feed, struct item *item, struct codec_context *codec,
                     struct err *e)
{
  const struct frame *frame = &item->frame;
  int result;

  if (stream_check_payload(frame, e) < 0)
    return -1;
  item->payload = frame->payload;
  if (frame->codec != CODEC_NONE) {
    if (codec_decompress(codec, frame->codec, frame->payload, frame->length, item->raw,
                         frame_raw_length(frame), e) < 0)
      return -1;
    item->payload = item->raw;
  }
  result = rebuild_fill(feed->rebuild, &item->place, frame, item->payload, e);
  return result == 1 ? ask(feed, fill_by_force, item, e) : result;
}

static void item_done(struct feed *feed, int result, const struct err *e)
{
  pthread_mutex_lock(&feed->lock);
  if (result < 0)
    fail(feed, e);
  if (--feed->filling == 0)
    pthread_cond_broadcast(&feed->changed);
  pthread_mutex_unlock(&feed->lock);
}

static void item_free(struct item *item)
{
  free(item->in);
  free(item->raw);
  free(item->other);
}

static int work_on_items(struct feed *feed, struct err *e)
{
  CLEANUP(codec_context_cleanup) struct codec_context *codec = codec_context_new(e);
  CLEANUP(item_free)
  struct item item = {.in = aligned_alloc(PAGE_SIZE_X86, EXTENT_SIZE),
                      .raw = aligned_alloc(PAGE_SIZE_X86, EXTENT_SIZE)};
  int result;

  if (!codec || !item.in || !item.raw)
    return err_set(e, "out of memory");
  while ((result = take_item(feed, &item, e)) == 1) {
    result = fill_item(feed, &item, codec, e);
    item_done(feed, result, e);
    if (result < 0)
      break;
  }
  return result;
}

static void *worker(void *argument)
{
  struct feed *feed = argument;
  struct err e = {""};
  int result = work_on_items(feed, &e);

  pthread_mutex_lock(&feed->lock);
  if (result < 0)
    fail(feed, &e);
  feed->workers--;
  pthread_cond_signal(&feed->asked);
  pthread_mutex_unlock(&feed->lock);
  return NULL;
}

static unsigned processors(void)
{
  cpu_set_t set;
  unsigned count = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;

  return count < WORKERS_LIMIT ? count : WORKERS_LIMIT;
}

static int run_workers(struct feed *feed, struct err *e)
{
  pthread_t threads[WORKERS_LIMIT];
  unsigned wanted = processors();
  unsigned started = 0;

  feed->workers = wanted;
  while (started < wanted && pthread_create(&threads[started], NULL, worker, feed) == 0)
    started++;
  pthread_mutex_lock(&feed->lock);
  feed->workers -= wanted - started;
  pthread_mutex_unlock(&feed->lock);
  serve(feed);
  for (unsigned i = 0; i < started; i++)
    pthread_join(threads[i], NULL);
  if (started == 0)
    return err_set(e, "no thread can be started");
  if (feed->failed)
    *e = feed->cause;
  return feed->failed ? -1 : 0;
}

int rebuild_feed(struct rebuild *rebuild, struct stream_reader *reader, const struct frame *first,
                 struct err *e)
{
  struct feed feed = {.rebuild = rebuild, .reader = reader, .first = first};
  int result;

  pthread_mutex_init(&feed.read_lock, NULL);
  pthread_mutex_init(&feed.lock, NULL);
  pthread_cond_init(&feed.asked, NULL);
  pthread_cond_init(&feed.changed, NULL);
  result = run_workers(&feed, e);
  uffd_close(rebuild);
  pthread_cond_destroy(&feed.changed);
  pthread_cond_destroy(&feed.asked);
  pthread_mutex_destroy(&feed.lock);
  pthread_mutex_destroy(&feed.read_lock);
  return result;
}
