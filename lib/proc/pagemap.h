/*
 * Which pages of a process are there. PAGEMAP_SCAN (Linux 6.7) where it is, /proc/PID/pagemap
 * otherwise: Documentation/admin-guide/mm/pagemap.rst.
 */
#ifndef CKPT_PROC_PAGEMAP_H
#define CKPT_PROC_PAGEMAP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Bits of an entry of /proc/PID/pagemap. */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)
#define PAGEMAP_FILE (UINT64_C(1) << 61)
#define PAGEMAP_EXCLUSIVE (UINT64_C(1) << 56)
#define PAGEMAP_FRAME                                                        \
  ((UINT64_C(1) << 55) - 1) /* number of the page frame, or of the swap slot \
                             */

/* A run of pages that have content of the process's own. */
struct page_run {
  uint64_t start, end;
  bool zero; /* the kernel's zero page: known to be zeros without a look */
};

/* Called for each run in address order; a negative result ends the scan and is its result. */
typedef int page_run_visitor(void *context, const struct page_run *run, struct err *e);

/* Opens /proc/PID/pagemap, which the following take. */
int pagemap_open(pid_t pid, struct err *e);

/*
 * Visits the runs between start and end. own_only leaves out pages that are still the mapped
 * file's (for private file mappings).
 */
int pagemap_scan(int pagemap, uint64_t start, uint64_t end, bool own_only, page_run_visitor *visit,
                 void *context, struct err *e);

/*
 * Finds the first page that is there of each range. The ranges ascend.
 * -1 when this kernel cannot tell without a look at each page.
 */
struct page_range {
  uint64_t start, end;
  uint64_t first; /* UINT64_MAX: none */
};
int pagemap_first(int pagemap, struct page_range *ranges, size_t count);

/* Reads raw entries. Those behind the address space read as 0. */
int pagemap_read(int pagemap, uint64_t start, uint64_t *entries, size_t count, struct err *e);

#endif
