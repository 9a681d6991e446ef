#include "image/flight.h"

#include "base/cleanup.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

enum { THREADS = 3 }; /* three writes, or two and a sync */

struct task {
  unsigned tag;
  const void *data; /* NULL: a sync */
  bool alone;
  size_t size;
  uint64_t offset;
  int64_t result;
};

/* Tasks in the order in which they came. */
struct queue {
  struct task tasks[FLIGHT_LIMIT];
  size_t count;
};

struct flight {
  int fd;
  size_t under_way;
#ifdef HAVE_LIBURING
  struct io_uring ring;
  bool has_ring;
#endif
  pthread_t threads[THREADS];
  size_t thread_count;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  struct queue waiting, done; /* under the lock, like the next */
  size_t running;
  bool is_alone; /* the one that runs */
  bool stop;
};

static void put(struct queue *queue, const struct task *task)
{
  queue->tasks[queue->count++] = *task;
}

static struct task get(struct queue *queue)
{
  struct task first = queue->tasks[0];

  memmove(queue->tasks, queue->tasks + 1, --queue->count * sizeof(first));
  return first;
}

static int64_t execute(int fd, const struct task *task)
{
  int64_t result =
      task->data ? pwrite(fd, task->data, task->size, (off_t)task->offset) : fdatasync(fd);

  return result < 0 ? -errno : result;
}

static bool may_begin(const struct flight *flight)
{
  return flight->waiting.count && !flight->is_alone &&
         (!flight->waiting.tasks[0].alone || flight->running == 0);
}

static void *work(void *argument)
{
  struct flight *flight = argument;

  pthread_mutex_lock(&flight->lock);
  for (;;) {
    struct task task;

    while (!may_begin(flight) && !flight->stop)
      pthread_cond_wait(&flight->changed, &flight->lock);
    if (flight->stop)
      break;
    task = get(&flight->waiting);
    flight->is_alone = task.alone;
    flight->running++;
    pthread_mutex_unlock(&flight->lock);
    task.result = execute(flight->fd, &task);
    pthread_mutex_lock(&flight->lock);
    flight->running--;
    flight->is_alone = false;
    put(&flight->done, &task);
    pthread_cond_broadcast(&flight->changed);
  }
  pthread_mutex_unlock(&flight->lock);
  return NULL;
}

static int start_threads(struct flight *flight, struct err *e)
{
  while (flight->thread_count < THREADS &&
         pthread_create(&flight->threads[flight->thread_count], NULL, work, flight) == 0)
    flight->thread_count++;
  /* One does it all, if slower. */
  return flight->thread_count ? 0 : err_set(e, "cannot start a thread");
}

static bool start_ring(struct flight *flight)
{
#ifdef HAVE_LIBURING
  flight->has_ring = io_uring_queue_init(FLIGHT_LIMIT, &flight->ring, 0) == 0;
  return flight->has_ring;
#else
  (void)flight;
  return false;
#endif
}

struct flight *flight_new(int fd, struct err *e)
{
  struct flight *flight = calloc(1, sizeof(*flight));

  if (!flight) {
    err_sys(e, "writes");
    return NULL;
  }
  flight->fd = fd;
  pthread_mutex_init(&flight->lock, NULL);
  pthread_cond_init(&flight->changed, NULL);
  if (!start_ring(flight) && start_threads(flight, e) < 0) {
    flight_free(flight);
    return NULL;
  }
  return flight;
}

static void stop_threads(struct flight *flight)
{
  pthread_mutex_lock(&flight->lock);
  flight->stop = true;
  pthread_cond_broadcast(&flight->changed);
  pthread_mutex_unlock(&flight->lock);
  while (flight->thread_count)
    pthread_join(flight->threads[--flight->thread_count], NULL);
}

void flight_free(struct flight *flight)
{
  struct err ignored;
  unsigned tag;
  int64_t result;

  if (!flight)
    return;
  while (flight->under_way && flight_wait(flight, &tag, &result, &ignored) == 0)
    ;
  stop_threads(flight);
#ifdef HAVE_LIBURING
  if (flight->has_ring)
    io_uring_queue_exit(&flight->ring);
#endif
  pthread_cond_destroy(&flight->changed);
  pthread_mutex_destroy(&flight->lock);
  free(flight);
}

#ifdef HAVE_LIBURING
static int submit(struct flight *flight, const struct task *task, struct err *e)
{
  struct io_uring_sqe *entry = io_uring_get_sqe(&flight->ring);
  int result;

  if (!entry)
    return err_set(e, "io_uring: no entry is free");
  if (task->data)
    io_uring_prep_write(entry, flight->fd, task->data, (unsigned)task->size, task->offset);
  else
    io_uring_prep_fsync(entry, flight->fd, IORING_FSYNC_DATASYNC);
  /* Behind the page cache a write is a copy: not in the thread that reads the stream. */
  entry->flags |= task->alone ? IOSQE_ASYNC | IOSQE_IO_DRAIN : IOSQE_ASYNC;
  io_uring_sqe_set_data64(entry, task->tag);
  do {
    result = io_uring_submit(&flight->ring);
  } while (result == -EINTR || result == -EAGAIN);
  errno = -result;
  return result < 0 ? err_sys(e, "io_uring") : 0;
}

static int complete(struct flight *flight, unsigned *tag, int64_t *result, struct err *e)
{
  struct io_uring_cqe *event;
  int got;

  do {
    got = io_uring_wait_cqe(&flight->ring, &event);
  } while (got == -EINTR);
  errno = -got;
  if (got < 0)
    return err_sys(e, "io_uring");
  *tag = (unsigned)io_uring_cqe_get_data64(event);
  *result = event->res;
  io_uring_cqe_seen(&flight->ring, event);
  return 0;
}
#endif

static int start(struct flight *flight, const struct task *task, struct err *e)
{
  flight->under_way++;
#ifdef HAVE_LIBURING
  if (flight->has_ring) {
    int result = submit(flight, task, e);

    flight->under_way -= result < 0;
    return result;
  }
#endif
  (void)e;
  pthread_mutex_lock(&flight->lock);
  put(&flight->waiting, task);
  pthread_cond_broadcast(&flight->changed);
  pthread_mutex_unlock(&flight->lock);
  return 0;
}

int flight_write(struct flight *flight, unsigned tag, const void *data, size_t size,
                 uint64_t offset, struct err *e)
{
  return start(flight, &(struct task){.tag = tag, .data = data, .size = size, .offset = offset}, e);
}

int flight_sync(struct flight *flight, unsigned tag, bool alone, struct err *e)
{
  return start(flight, &(struct task){.tag = tag, .alone = alone}, e);
}

bool flight_has_ended(struct flight *flight)
{
  bool ended;

#ifdef HAVE_LIBURING
  if (flight->has_ring)
    return io_uring_cq_ready(&flight->ring) > 0;
#endif
  pthread_mutex_lock(&flight->lock);
  ended = flight->done.count > 0;
  pthread_mutex_unlock(&flight->lock);
  return ended;
}

int flight_wait(struct flight *flight, unsigned *tag, int64_t *result, struct err *e)
{
  struct task task;

  (void)e;
#ifdef HAVE_LIBURING
  if (flight->has_ring) {
    if (complete(flight, tag, result, e) < 0)
      return -1;
    flight->under_way--;
    return 0;
  }
#endif
  pthread_mutex_lock(&flight->lock);
  while (!flight->done.count)
    pthread_cond_wait(&flight->changed, &flight->lock);
  task = get(&flight->done);
  pthread_mutex_unlock(&flight->lock);
  flight->under_way--;
  *tag = task.tag;
  *result = task.result;
  return 0;
}
