#include "proc/pagemap.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
  PAGE = 4096,
  /* Longer vectors make the kernel return the last regions twice (seen on 6.18). */
  VECTOR = 512,
};

/* linux/fs.h of 6.7, which Debian 12's headers have not. */
struct scan_region {
  uint64_t start, end, categories;
};
struct scan_argument {
  uint64_t size, flags, start, end, walk_end, vector, vector_length, max_pages;
  uint64_t category_inverted, category_mask, category_any_of, return_mask;
};
#define SCAN_IOCTL _IOWR('f', 16, struct scan_argument)
enum {
  SCAN_FILE = 1 << 2,
  SCAN_PRESENT = 1 << 3,
  SCAN_SWAPPED = 1 << 4,
  SCAN_ZERO = 1 << 5,
};

static int visit_merged(struct page_run *pending, const struct page_run *next,
                        page_run_visitor *visit, void *context, struct err *e)
{
  if (next && pending->end == next->start && pending->zero == next->zero) {
    pending->end = next->end;
    return 0;
  }
  if (pending->end > pending->start && visit(context, pending, e) < 0)
    return -1;
  if (next)
    *pending = *next;
  return 0;
}

/* Returns 1 when the kernel has no PAGEMAP_SCAN. */
static int scan_by_ioctl(int pagemap, uint64_t start, uint64_t end, bool own_only,
                         page_run_visitor *visit, void *context, struct err *e)
{
  struct scan_region regions[VECTOR];
  struct page_run pending = {0};
  struct scan_argument argument = {
      .size = sizeof(argument),
      .start = start,
      .end = end,
      .vector = (uint64_t)regions,
      .vector_length = VECTOR,
      .category_any_of = SCAN_PRESENT | SCAN_SWAPPED,
      .category_inverted = own_only ? SCAN_FILE : 0,
      .category_mask = own_only ? SCAN_FILE : 0,
      .return_mask = SCAN_ZERO,
  };

  while (argument.start < end) {
    int count = ioctl(pagemap, SCAN_IOCTL, &argument);

    if (count < 0)
      return errno == ENOTTY || errno == EINVAL ? 1 : err_sys(e, "PAGEMAP_SCAN");
    for (int i = 0; i < count; i++) {
      struct page_run run = {regions[i].start, regions[i].end, regions[i].categories & SCAN_ZERO};

      if (visit_merged(&pending, &run, visit, context, e) < 0)
        return -1;
    }
    if (argument.walk_end <= argument.start)
      break;
    argument.start = argument.walk_end;
  }
  return visit_merged(&pending, NULL, visit, context, e);
}

/* Those that end before the region have none. Returns the first range behind what it shows. */
static size_t note_first(struct page_range *ranges, size_t i, size_t count,
                         const struct scan_region *region)
{
  for (; i < count && ranges[i].start < region->end; i++) {
    if (ranges[i].end > region->start)
      ranges[i].first = ranges[i].start > region->start ? ranges[i].start : region->start;
  }
  return i;
}

int pagemap_first(int pagemap, struct page_range *ranges, size_t count)
{
  struct scan_region regions[VECTOR];
  struct scan_argument argument = {
      .size = sizeof(argument),
      .end = count ? ranges[count - 1].end : 0,
      .vector = (uint64_t)regions,
      .vector_length = VECTOR,
      .max_pages = VECTOR, /* soon in the next range when this one has many */
      .category_any_of = SCAN_PRESENT | SCAN_SWAPPED,
      .return_mask = SCAN_PRESENT | SCAN_SWAPPED,
  };

  for (size_t i = 0; i < count; i++)
    ranges[i].first = UINT64_MAX;
  for (size_t i = 0; i < count;) {
    int found;

    argument.start = argument.walk_end > ranges[i].start ? argument.walk_end : ranges[i].start;
    found = ioctl(pagemap, SCAN_IOCTL, &argument);
    if (found < 0 || argument.walk_end <= argument.start)
      return -1;
    for (int k = 0; k < found; k++)
      i = note_first(ranges, i, count, &regions[k]);
    while (i < count && ranges[i].end <= argument.walk_end)
      i++;
  }
  return 0;
}

int pagemap_read(int pagemap, uint64_t start, uint64_t *entries, size_t count, struct err *e)
{
  ssize_t n = io_pread(pagemap, entries, count * sizeof(*entries), (off_t)(start / PAGE * 8));

  if (n < 0)
    return err_sys(e, "pagemap");
  memset((char *)entries + n, 0, count * sizeof(*entries) - (size_t)n);
  return 0;
}

static int scan_by_read(int pagemap, uint64_t start, uint64_t end, bool own_only,
                        page_run_visitor *visit, void *context, struct err *e)
{
  struct page_run pending = {0};
  uint64_t entries[VECTOR];

  for (uint64_t at = start; at < end;) {
    size_t count = (end - at) / PAGE < VECTOR ? (end - at) / PAGE : VECTOR;

    if (pagemap_read(pagemap, at, entries, count, e) < 0)
      return -1;
    for (size_t i = 0; i < count; i++, at += PAGE) {
      struct page_run run = {at, at + PAGE, false};

      if (!(entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) ||
          (own_only && entries[i] & PAGEMAP_FILE))
        continue;
      if (visit_merged(&pending, &run, visit, context, e) < 0)
        return -1;
    }
  }
  return visit_merged(&pending, NULL, visit, context, e);
}

int pagemap_open(pid_t pid, struct err *e)
{
  char path[64];
  int fd;

  snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  return fd < 0 ? err_sys(e, "%s", path) : fd;
}

int pagemap_scan(int pagemap, uint64_t start, uint64_t end, bool own_only, page_run_visitor *visit,
                 void *context, struct err *e)
{
  int result = scan_by_ioctl(pagemap, start, end, own_only, visit, context, e);

  if (result == 1)
    result = scan_by_read(pagemap, start, end, own_only, visit, context, e);
  return result;
}
