#include "image/ahead.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

enum {
  WINDOW = 4 << 20, /* bytes of one read */
  WINDOWS = 4,      /* that are held, being read or copied from */
  THREADS = 2,      /* reads in flight */
};

/* Windows are counted from the file's begin; window n stands in slot n % WINDOWS. */
struct slot {
  bool ready;
  size_t size;
  int error; /* errno of the read */
};

struct ahead {
  int fd;
  const char *name;
  uint64_t size;
  uint8_t *memory;
  pthread_t threads[THREADS];
  unsigned started;
  pthread_mutex_t lock; /* for the following */
  pthread_cond_t changed;
  struct slot slots[WINDOWS];
  uint64_t oldest; /* window that is still held */
  uint64_t next;   /* window to be read */
  bool stop;
};

static uint8_t *memory_of(const struct ahead *ahead, uint64_t window)
{
  return ahead->memory + window % WINDOWS * WINDOW;
}

/* The bytes that the window has in the file. */
static size_t wanted(const struct ahead *ahead, uint64_t window)
{
  uint64_t left = ahead->size - window * WINDOW;

  return left < WINDOW ? (size_t)left : WINDOW;
}

/* Always asks for whole blocks: a direct read must be aligned, also where the file ends. */
static struct slot read_window(const struct ahead *ahead, uint64_t window)
{
  struct slot slot = {.ready = true};

  while (slot.size < wanted(ahead, window)) {
    ssize_t n = pread(ahead->fd, memory_of(ahead, window) + slot.size, WINDOW - slot.size,
                      (off_t)(window * WINDOW + slot.size));

    if (n > 0)
      slot.size += (size_t)n;
    else if (n < 0 && errno == EINVAL && fcntl(ahead->fd, F_GETFL) & O_DIRECT)
      fcntl(ahead->fd, F_SETFL, fcntl(ahead->fd, F_GETFL) & ~O_DIRECT);
    else if (n == 0 || errno != EINTR) {
      slot.error = n < 0 ? errno : 0;
      break;
    }
  }
  return slot;
}

static bool may_read(const struct ahead *ahead)
{
  return ahead->next < ahead->oldest + WINDOWS && ahead->next * WINDOW < ahead->size;
}

static void *run(void *argument)
{
  struct ahead *ahead = argument;

  pthread_mutex_lock(&ahead->lock);
  while (!ahead->stop) {
    uint64_t window = ahead->next;
    struct slot slot;

    if (!may_read(ahead)) {
      pthread_cond_wait(&ahead->changed, &ahead->lock);
      continue;
    }
    ahead->slots[window % WINDOWS].ready = false;
    ahead->next++;
    pthread_mutex_unlock(&ahead->lock);
    slot = read_window(ahead, window);
    pthread_mutex_lock(&ahead->lock);
    ahead->slots[window % WINDOWS] = slot;
    pthread_cond_broadcast(&ahead->changed);
  }
  pthread_mutex_unlock(&ahead->lock);
  return NULL;
}

struct ahead *ahead_new(int fd, uint64_t size, const char *name, struct err *e)
{
  struct ahead *ahead = calloc(1, sizeof(*ahead));
  unsigned useful = size > WINDOW ? THREADS : 1;

  if (!ahead) {
    err_sys(e, "%s", name);
    return NULL;
  }
  ahead->fd = fd;
  ahead->name = name;
  ahead->size = size;
  pthread_mutex_init(&ahead->lock, NULL);
  pthread_cond_init(&ahead->changed, NULL);
  ahead->memory = mmap(NULL, (size_t)WINDOWS * WINDOW, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (ahead->memory == MAP_FAILED) {
    ahead->memory = NULL;
    err_sys(e, "%s: buffers", name);
    ahead_free(ahead);
    return NULL;
  }
  /* A device writes to few large pages much faster than to many small ones. */
  madvise(ahead->memory, (size_t)WINDOWS * WINDOW, MADV_HUGEPAGE);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT);
  while (ahead->started < useful &&
         pthread_create(&ahead->threads[ahead->started], NULL, run, ahead) == 0)
    ahead->started++;
  if (ahead->started == 0) {
    err_set(e, "%s: cannot start a thread", name);
    ahead_free(ahead);
    return NULL;
  }
  return ahead;
}

void ahead_free(struct ahead *ahead)
{
  if (!ahead)
    return;
  pthread_mutex_lock(&ahead->lock);
  ahead->stop = true;
  pthread_cond_broadcast(&ahead->changed);
  pthread_mutex_unlock(&ahead->lock);
  while (ahead->started)
    pthread_join(ahead->threads[--ahead->started], NULL);
  if (ahead->memory)
    munmap(ahead->memory, (size_t)WINDOWS * WINDOW);
  pthread_cond_destroy(&ahead->changed);
  pthread_mutex_destroy(&ahead->lock);
  free(ahead);
}

/* Gives up all windows before this one and waits until it is there. */
static struct slot take(struct ahead *ahead, uint64_t window)
{
  struct slot slot;

  pthread_mutex_lock(&ahead->lock);
  if (window > ahead->oldest) {
    ahead->oldest = window;
    /* Windows may be skipped, if they are not being read yet. */
    if (ahead->next < window)
      ahead->next = window;
    pthread_cond_broadcast(&ahead->changed);
  }
  while (ahead->next <= window || !ahead->slots[window % WINDOWS].ready)
    pthread_cond_wait(&ahead->changed, &ahead->lock);
  slot = ahead->slots[window % WINDOWS];
  pthread_mutex_unlock(&ahead->lock);
  return slot;
}

int ahead_read(struct ahead *ahead, uint64_t offset, void *to, size_t size, struct err *e)
{
  uint8_t *at = to;

  if (size > ahead->size || offset > ahead->size - size)
    return err_set(e, "%s: ends early", ahead->name);
  while (size) {
    uint64_t window = offset / WINDOW;
    size_t skip = offset % WINDOW;
    size_t piece = WINDOW - skip < size ? WINDOW - skip : size;
    struct slot slot = take(ahead, window);

    if (slot.size < skip + piece) {
      errno = slot.error;
      return slot.error ? err_sys(e, "%s", ahead->name) : err_set(e, "%s: ends early", ahead->name);
    }
    memcpy(at, memory_of(ahead, window) + skip, piece);
    offset += piece;
    at += piece;
    size -= piece;
  }
  return 0;
}
