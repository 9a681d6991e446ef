#include "image/staging.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

enum {
  ALIGNMENT = 4096,
  FULL = 4 << 20,                    /* a buffer is written when it holds this much */
  BUFFER = FULL + 2 * STAGING_PIECE, /* and may hold a last piece beyond it */
  BUFFERS = 2,
  MAP_SIZE = 10 << 20,
};

struct staging {
  int fd;
  const char *name;
  bool direct;
  uint8_t *buffers;
  unsigned filling; /* which buffer */
  size_t filled;    /* bytes of it */
  uint64_t base;    /* offset in the file of its first byte */
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool started;
  /* Under the lock: what the thread is to write. */
  const uint8_t *pending;
  size_t pending_size;
  uint64_t pending_base;
  bool stop;
  int error; /* errno of the first write that failed */
};

static uint8_t *buffer_of(const struct staging *staging, unsigned which)
{
  return staging->buffers + (size_t)which * (MAP_SIZE / BUFFERS);
}

/* A file system may accept the flag and refuse the write. */
static int drop_direct(struct staging *staging)
{
  int flags = fcntl(staging->fd, F_GETFL);

  staging->direct = false;
  warn_user("%s: the file system does not write directly; going through the page cache",
            staging->name);
  return fcntl(staging->fd, F_SETFL, flags & ~O_DIRECT);
}

static int write_out(struct staging *staging, const uint8_t *data, size_t size, uint64_t base)
{
  if (io_pwrite(staging->fd, data, size, (off_t)base) < 0) {
    if (errno != EINVAL || !staging->direct || drop_direct(staging) < 0 ||
        io_pwrite(staging->fd, data, size, (off_t)base) < 0)
      return -1;
  }
  /* Start write-back early, so that the sync at the end is short. */
  if (!staging->direct)
    sync_file_range(staging->fd, (off_t)base, (off_t)size, SYNC_FILE_RANGE_WRITE);
  return 0;
}

static void *run(void *argument)
{
  struct staging *staging = argument;

  pthread_mutex_lock(&staging->lock);
  for (;;) {
    const uint8_t *data;
    int result;

    while (!staging->pending && !staging->stop)
      pthread_cond_wait(&staging->changed, &staging->lock);
    if (!staging->pending)
      break;
    data = staging->pending;
    pthread_mutex_unlock(&staging->lock);
    result = write_out(staging, data, staging->pending_size, staging->pending_base);
    pthread_mutex_lock(&staging->lock);
    if (result < 0 && !staging->error)
      staging->error = errno;
    staging->pending = NULL;
    pthread_cond_broadcast(&staging->changed);
  }
  pthread_mutex_unlock(&staging->lock);
  return NULL;
}

struct staging *staging_new(int fd, bool direct, const char *name, struct err *e)
{
  struct staging *staging = calloc(1, sizeof(*staging));

  if (!staging) {
    err_sys(e, "%s", name);
    return NULL;
  }
  staging->fd = fd;
  staging->name = name;
  staging->buffers =
      mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (staging->buffers == MAP_FAILED) {
    err_sys(e, "%s: buffers", name);
    free(staging);
    return NULL;
  }
  madvise(staging->buffers, MAP_SIZE, MADV_HUGEPAGE);
  madvise(staging->buffers, MAP_SIZE, MADV_DONTFORK);
  staging->direct = direct;
  if (direct && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) < 0)
    drop_direct(staging);
  pthread_mutex_init(&staging->lock, NULL);
  pthread_cond_init(&staging->changed, NULL);
  staging->started = pthread_create(&staging->thread, NULL, run, staging) == 0;
  if (!staging->started) {
    err_set(e, "%s: cannot start a thread", name);
    staging_free(staging);
    return NULL;
  }
  return staging;
}

void staging_free(struct staging *staging)
{
  if (!staging)
    return;
  if (staging->started) {
    pthread_mutex_lock(&staging->lock);
    staging->stop = true;
    pthread_cond_broadcast(&staging->changed);
    pthread_mutex_unlock(&staging->lock);
    pthread_join(staging->thread, NULL);
  }
  pthread_cond_destroy(&staging->changed);
  pthread_mutex_destroy(&staging->lock);
  munmap(staging->buffers, MAP_SIZE);
  free(staging);
}

uint64_t staging_offset(const struct staging *staging)
{
  return staging->base + staging->filled;
}

void *staging_room(struct staging *staging)
{
  return buffer_of(staging, staging->filling) + staging->filled;
}

/* Waits until the thread has nothing to write. */
static int settle(struct staging *staging, struct err *e)
{
  int error;

  pthread_mutex_lock(&staging->lock);
  while (staging->pending)
    pthread_cond_wait(&staging->changed, &staging->lock);
  error = staging->error;
  pthread_mutex_unlock(&staging->lock);
  errno = error;
  return error ? err_sys(e, "%s", staging->name) : 0;
}

/* Hands the whole pages of the buffer to the thread; the rest begins the other buffer. */
static int hand_over(struct staging *staging, struct err *e)
{
  const uint8_t *full = buffer_of(staging, staging->filling);
  size_t size = staging->filled & ~(size_t)(ALIGNMENT - 1);

  if (settle(staging, e) < 0)
    return -1;
  staging->filling = (staging->filling + 1) % BUFFERS;
  memcpy(buffer_of(staging, staging->filling), full + size, staging->filled - size);
  pthread_mutex_lock(&staging->lock);
  staging->pending = full;
  staging->pending_size = size;
  staging->pending_base = staging->base;
  pthread_cond_broadcast(&staging->changed);
  pthread_mutex_unlock(&staging->lock);
  staging->base += size;
  staging->filled -= size;
  return 0;
}

int staging_done(struct staging *staging, size_t size, struct err *e)
{
  staging->filled += size;
  return staging->filled >= FULL ? hand_over(staging, e) : 0;
}

int staging_align(struct staging *staging, struct err *e)
{
  size_t gap = -staging_offset(staging) & (ALIGNMENT - 1);

  memset(staging_room(staging), 0, gap);
  return staging_done(staging, gap, e);
}

int staging_finish(struct staging *staging, struct err *e)
{
  uint64_t length = staging_offset(staging);

  if (staging_align(staging, e) < 0 || (staging->filled && hand_over(staging, e) < 0) ||
      settle(staging, e) < 0)
    return -1;
  return ftruncate(staging->fd, (off_t)length) < 0 ? err_sys(e, "%s", staging->name) : 0;
}
