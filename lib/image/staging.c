#include "image/staging.h"

#include "base/cleanup.h"
#include "image/flight.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

enum {
  ALIGNMENT = 4096,
  FULL = 4 << 20,                    /* a buffer is written when it holds this much */
  BUFFER = FULL + 2 * STAGING_PIECE, /* and may hold a last piece beyond it */
  BUFFERS = FLIGHT_WRITES, /* one is filled; they take what comes while a sync is under way */
  HUGE_PAGE = 2 << 20,
  MAP_SIZE = (BUFFERS * BUFFER + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE,
  SYNC_TAG = BUFFERS,
  SYNC_EVERY = 128 << 20,
  RESERVE = 64 << 20,
};

struct buffer {
  uint8_t *data;
  size_t size, written; /* of a write that is under way; size 0: the buffer is free */
  uint64_t offset;
  bool direct; /* how it was tried */
};

struct staging {
  int fd;
  const char *name;
  bool direct;
  uint8_t *map;
  struct buffer buffers[BUFFERS];
  unsigned filling; /* which buffer */
  size_t filled;    /* bytes of it */
  uint64_t base;    /* offset in the file of its first byte */
  struct flight *flight;
  uint64_t reserved; /* the file has blocks up to here */
  bool reserves;
  uint64_t unsynced; /* bytes that were written since the last sync began */
  bool syncing;
};

/* A file system may accept the flag and refuse the write. */
static int drop_direct(struct staging *staging)
{
  int flags = fcntl(staging->fd, F_GETFL);

  staging->direct = false;
  warn_user("%s: the file system does not write directly; going through the page cache",
            staging->name);
  return fcntl(staging->fd, F_SETFL, flags & ~O_DIRECT);
}

static int map_buffers(struct staging *staging, struct err *e)
{
  staging->map = mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (staging->map == MAP_FAILED) {
    staging->map = NULL;
    return err_sys(e, "%s: buffers", staging->name);
  }
  madvise(staging->map, MAP_SIZE, MADV_HUGEPAGE);
  madvise(staging->map, MAP_SIZE, MADV_DONTFORK);
  for (size_t i = 0; i < BUFFERS; i++)
    staging->buffers[i].data = staging->map + i * BUFFER;
  return 0;
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
  staging->direct = direct;
  staging->reserves = true;
  if (direct && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) < 0)
    drop_direct(staging);
  if (map_buffers(staging, e) == 0) {
    staging->flight = flight_new(fd, e);
    if (staging->flight)
      return staging;
  }
  staging_free(staging);
  return NULL;
}

void staging_free(struct staging *staging)
{
  if (!staging)
    return;
  flight_free(staging->flight);
  if (staging->map)
    munmap(staging->map, MAP_SIZE);
  free(staging);
}

uint64_t staging_offset(const struct staging *staging)
{
  return staging->base + staging->filled;
}

void *staging_room(struct staging *staging)
{
  return staging->buffers[staging->filling].data + staging->filled;
}

/*
 * Writes behind a file's end come one after the other (the inode is locked), those in blocks that
 * are reserved side by side. Where that is not possible it is slower, no more.
 */
static void reserve(struct staging *staging, uint64_t end)
{
  if (!staging->reserves || end <= staging->reserved)
    return;
  staging->reserves = fallocate(staging->fd, 0, (off_t)staging->reserved, RESERVE) == 0;
  if (staging->reserves)
    staging->reserved += RESERVE;
  else if (ftruncate(staging->fd, (off_t)staging->reserved) < 0)
    return; /* what is too much stays until the end */
}

/* What is left of the buffer's write. */
static int write_rest(struct staging *staging, unsigned which, struct err *e)
{
  struct buffer *buffer = &staging->buffers[which];

  buffer->direct = staging->direct;
  return flight_write(staging->flight, which, buffer->data + buffer->written,
                      buffer->size - buffer->written, buffer->offset + buffer->written, e);
}

/*
 * A disk that has taken the bytes into its cache still has to write them: it begins early, so that
 * the sync at the end is short. So does the page cache.
 */
static int sync_behind(struct staging *staging, struct err *e)
{
  if (staging->syncing || staging->unsynced < SYNC_EVERY)
    return 0;
  staging->syncing = true;
  staging->unsynced = 0;
  return flight_sync(staging->flight, SYNC_TAG, staging->direct, e);
}

/* One that was under way has ended. */
static int take_result(struct staging *staging, unsigned tag, int64_t result, struct err *e)
{
  struct buffer *buffer = &staging->buffers[tag];

  if (tag == SYNC_TAG) {
    staging->syncing = false;
    errno = (int)-result;
    return result < 0 ? err_sys(e, "%s", staging->name) : sync_behind(staging, e);
  }
  if (result == -EINVAL && buffer->direct && (!staging->direct || drop_direct(staging) == 0))
    return write_rest(staging, tag, e);
  if (result <= 0) {
    errno = result ? (int)-result : EIO;
    return err_sys(e, "%s", staging->name);
  }
  buffer->written += (size_t)result;
  if (buffer->written < buffer->size)
    return write_rest(staging, tag, e);
  staging->unsynced += buffer->size;
  buffer->size = 0;
  return sync_behind(staging, e);
}

static int wait_one(struct staging *staging, struct err *e)
{
  unsigned tag;
  int64_t result;

  if (flight_wait(staging->flight, &tag, &result, e) < 0)
    return err_prefix(e, "%s", staging->name);
  return take_result(staging, tag, result, e);
}

/* The first that is free: those behind it are never touched if the disk is fast. BUFFERS: none. */
static unsigned free_buffer(const struct staging *staging)
{
  unsigned i = 0;

  while (i < BUFFERS && (staging->buffers[i].size || i == staging->filling))
    i++;
  return i;
}

/* Starts to write the whole pages of the buffer; the rest begins another one. */
static int hand_over(struct staging *staging, struct err *e)
{
  unsigned which = staging->filling;
  unsigned next;
  struct buffer *full = &staging->buffers[which];
  size_t size = staging->filled & ~(size_t)(ALIGNMENT - 1);

  while (flight_has_ended(staging->flight) || free_buffer(staging) == BUFFERS) {
    if (wait_one(staging, e) < 0)
      return -1;
  }
  next = free_buffer(staging);
  memcpy(staging->buffers[next].data, full->data + size, staging->filled - size);
  full->size = size;
  full->written = 0;
  full->offset = staging->base;
  staging->filling = next;
  staging->base += size;
  staging->filled -= size;
  reserve(staging, staging->base);
  return write_rest(staging, which, e);
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

static bool is_busy(const struct staging *staging)
{
  for (size_t i = 0; i < BUFFERS; i++) {
    if (staging->buffers[i].size)
      return true;
  }
  return staging->syncing;
}

int staging_finish(struct staging *staging, struct err *e)
{
  uint64_t length = staging_offset(staging);

  if (staging_align(staging, e) < 0 || (staging->filled && hand_over(staging, e) < 0))
    return -1;
  while (is_busy(staging)) {
    if (wait_one(staging, e) < 0)
      return -1;
  }
  return ftruncate(staging->fd, (off_t)length) < 0 ? err_sys(e, "%s", staging->name) : 0;
}
