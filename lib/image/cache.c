#include "image/cache.h"

#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* Linux 6.5 */
#endif

enum {
  CACHE_PAGE = 4096,
  STEP = 256 << 20, /* bytes that mincore(2) is asked about at once */
};

/* Pages that are resident in one step of the file, at most STEP bytes. */
static uint64_t count_resident(int fd, uint64_t offset, size_t size)
{
  unsigned char resident[STEP / CACHE_PAGE];
  void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, (off_t)offset);
  uint64_t count = 0;

  if (map == MAP_FAILED)
    return 0;
  if (mincore(map, size, resident) == 0) {
    for (size_t i = 0; i < (size + CACHE_PAGE - 1) / CACHE_PAGE; i++)
      count += resident[i] & 1;
  }
  munmap(map, size);
  return count;
}

static uint64_t cached_pages(int fd, uint64_t size)
{
  struct {
    uint64_t offset, length;
  } range = {0, size};
  struct {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } stat;
  uint64_t count = 0;

  if (syscall(SYS_cachestat, fd, &range, &stat, 0) == 0)
    return stat.cached;
  for (uint64_t at = 0; at < size; at += STEP)
    count += count_resident(fd, at, size - at < STEP ? (size_t)(size - at) : STEP);
  return count;
}

bool cache_holds(int fd, uint64_t size)
{
  return cached_pages(fd, size) >= size / CACHE_PAGE / 2;
}
