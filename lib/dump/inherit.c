/*
 * Copy-on-write memory that a child still shares with its parent: the same page frame (or swap
 * slot) at the same address. It is in the image once, and shared again after the restore.
 */
#include "base/cleanup.h"
#include "dump/capture.h"
#include "proc/pagemap.h"
#include "stream/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

struct comparison {
  struct source *source;
  const struct mm *parent;
  const struct vma *vma;
  int pagemaps[2]; /* the child's, the parent's */
};

static bool in_parent(const struct comparison *comparison, uint64_t address)
{
  for (size_t i = 0; i < comparison->parent->vma_count; i++) {
    const struct vma *vma = &comparison->parent->vmas[i];

    if (address >= vma->start && address < vma->end)
      return vma_continues(comparison->vma, vma);
  }
  return false;
}

static bool same_page(uint64_t child, uint64_t parent)
{
  const uint64_t where = PAGEMAP_FRAME | PAGEMAP_PRESENT | PAGEMAP_SWAPPED;

  return !(child & PAGEMAP_EXCLUSIVE) && (child & PAGEMAP_FRAME) != 0 &&
         (child & where) == (parent & where);
}

/* One window of 256 KiB at most. */
static int compare_window(const struct comparison *comparison, uint64_t start, uint64_t end,
                          struct err *e)
{
  uint64_t window = start & ~(uint64_t)(EXTENT_SIZE - 1);
  size_t count = (end - start) / PAGE_SIZE_X86;
  uint64_t child[EXTENT_PAGES], parent[EXTENT_PAGES];
  struct source *source = comparison->source;
  struct inherited *last =
      source->inherited_count ? &source->inherited[source->inherited_count - 1] : NULL;
  uint64_t present = 0;

  if (pagemap_read(comparison->pagemaps[0], start, child, count, e) < 0 ||
      pagemap_read(comparison->pagemaps[1], start, parent, count, e) < 0)
    return -1;
  for (size_t i = 0; i < count; i++) {
    uint64_t address = start + i * PAGE_SIZE_X86;

    if (same_page(child[i], parent[i]) && in_parent(comparison, address))
      present |= UINT64_C(1) << ((address - window) / PAGE_SIZE_X86);
  }
  if (!present)
    return 0;
  if (!last || last->address != window) {
    last = list_append(&source->inherited, &source->inherited_count, sizeof(*last));
    if (!last)
      return err_sys(e, "inherited pages");
    last->address = window;
  }
  last->present |= present;
  return 0;
}

static int compare_run(void *context, const struct page_run *run, struct err *e)
{
  for (uint64_t at = run->start; at < run->end && !run->zero;) {
    uint64_t end = (at | (EXTENT_SIZE - 1)) + 1;

    if (end > run->end)
      end = run->end;
    if (compare_window(context, at, end, e) < 0)
      return -1;
    at = end;
  }
  return 0;
}

/* The restore forks the child from its parent only in these cases (see rebuild_spawn). */
static bool will_be_forked(const struct source *source)
{
  const struct proc_status *child = &source->status;
  const struct proc_status *parent = &source->parent->status;
  size_t own = child->ns_depth - 1;

  return child->ns_sid[own] == child->ns_pid[own] || child->ns_sid[own] == parent->ns_sid[own];
}

/*
 * Of two snapshots the same is true as of their processes: what these shared when they were taken,
 * they share.
 */
static pid_t pid_of_memory(const struct source *source)
{
  return source->snapshot.tid ? source->snapshot.tid : source->pid;
}

static int compare(struct capture *capture, struct source *source, struct err *e)
{
  struct comparison comparison = {.source = source, .pagemaps = {-1, -1}};
  struct mm *mm = tree_mm(&capture->tree, source->mm);
  AUTO_CLOSE int child = -1;
  AUTO_CLOSE int parent = -1;

  if (!source->parent || source->parent->zombie || !will_be_forked(source))
    return 0;
  source->inherited_count = 0; /* of an attempt before */
  mm->parent = 0;
  comparison.parent = tree_mm(&capture->tree, source->parent->mm);
  if (comparison.parent->exe != mm->exe)
    return 0;
  child = comparison.pagemaps[0] = pagemap_open(pid_of_memory(source), e);
  parent = comparison.pagemaps[1] = pagemap_open(pid_of_memory(source->parent), e);
  if (child < 0 || parent < 0)
    return -1;
  for (size_t i = 0; i < mm->vma_count; i++) {
    comparison.vma = &mm->vmas[i];
    if (vma_is_private(comparison.vma) &&
        pagemap_scan(child, comparison.vma->start, comparison.vma->end, comparison.vma->file != 0,
                     compare_run, &comparison, e) < 0)
      return -1;
  }
  if (source->inherited_count)
    mm->parent = comparison.parent->id;
  return 0;
}

int capture_inherited(struct capture *capture, struct err *e)
{
  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];

    if (!source->zombie && compare(capture, source, e) < 0)
      return err_prefix(e, "pid %d", source->pid);
  }
  return 0;
}
