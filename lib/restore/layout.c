/*
 * The mappings of a process. What is there goes, except the remote mapping and the kernel's own
 * (vdso, vvar), which move to where they were; of what a forked child shares with its parent, the
 * inherited pages stay.
 */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "restore/batch.h"
#include "stream/frame.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { LOWEST_ADDRESS = 0x10000 };
#define HIGHEST_ADDRESS UINT64_C(0x7ffffffff000)

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

struct range {
  uint64_t start, end;
};

static int compare_ranges(const void *a, const void *b)
{
  const struct range *x = a;
  const struct range *y = b;

  return x->start < y->start ? -1 : x->start > y->start;
}

/* Everything that is mapped in the process now: start, end and name of each. */
struct mapping {
  uint64_t start, end;
  char name[32];
};

static int read_mappings(pid_t pid, struct mapping **mappings, size_t *count, struct err *e)
{
  AUTO_FREE char *path = io_format(e, "/proc/%d/maps", pid);
  AUTO_FCLOSE FILE *file = path ? fopen(path, "re") : NULL;
  AUTO_FREE struct mapping *list = NULL;
  AUTO_FREE char *line = NULL;
  size_t room = 0;
  size_t used = 0;

  if (!file)
    return err_sys(e, "pid %d: maps", pid);
  while (getline(&line, &room, file) > 0) {
    struct mapping *longer = reallocarray(list, used + 1, sizeof(*list));

    if (!longer)
      return err_sys(e, "pid %d: maps", pid);
    list = longer;
    list[used].name[0] = '\0';
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*x %*s %*u %31s", &list[used].start,
               &list[used].end, list[used].name) < 2)
      return err_set(e, "pid %d: maps: unexpected line", pid);
    used++;
  }
  *mappings = TAKE_POINTER(list);
  *count = used;
  return 0;
}

int layout_free_range(const struct rebuild *rebuild, pid_t pid, uint64_t size, uint64_t *address,
                      struct err *e)
{
  AUTO_FREE struct mapping *mappings = NULL;
  AUTO_FREE struct range *used = NULL;
  uint64_t candidate = LOWEST_ADDRESS;
  size_t count = 0;
  size_t total;

  if (read_mappings(pid, &mappings, &count, e) < 0)
    return -1;
  total = count;
  for (size_t i = 0; i < rebuild->tree.mm_count; i++)
    total += rebuild->tree.mms[i].vma_count;
  used = calloc(total + 1, sizeof(*used));
  if (!used)
    return err_sys(e, "address space");
  for (size_t i = 0; i < count; i++)
    used[i] = (struct range){mappings[i].start, mappings[i].end};
  for (size_t i = 0; i < rebuild->tree.mm_count; i++) {
    for (size_t k = 0; k < rebuild->tree.mms[i].vma_count; k++)
      used[count++] =
          (struct range){rebuild->tree.mms[i].vmas[k].start, rebuild->tree.mms[i].vmas[k].end};
  }
  qsort(used, count, sizeof(*used), compare_ranges);
  for (size_t i = 0; i < count; i++) {
    if (used[i].start >= candidate && used[i].start - candidate >= size)
      break;
    if (used[i].end > candidate)
      candidate = used[i].end;
  }
  if (candidate > HIGHEST_ADDRESS - size)
    return err_set(e, "pid %d: no address range of %" PRIu64 " bytes is free", pid, size);
  *address = candidate;
  return 0;
}

static const struct vma *special_vma(const struct mm *mm, const char *name)
{
  for (size_t i = 0; i < mm->vma_count; i++) {
    if (mm->vmas[i].special && strcmp(mm->vmas[i].special, name) == 0)
      return &mm->vmas[i];
  }
  return NULL;
}

static int unmap(struct batch *batch, uint64_t start, uint64_t end, struct err *e)
{
  if (start >= end)
    return 0;
  return BATCH_CALL(batch, e, "munmap", SYS_munmap, start, end - start);
}

static bool is_kernels(const struct mapping *mapping)
{
  return strcmp(mapping->name, "[vdso]") == 0 || strncmp(mapping->name, "[vvar", 5) == 0;
}

/* Unmaps all but the remote mapping and the kernel's own. */
static int unmap_program(const struct rebuild *rebuild, struct batch *batch,
                         const struct mapping *mappings, size_t count, struct err *e)
{
  uint64_t from = 0;

  for (size_t i = 0; i < count && mappings[i].start < HIGHEST_ADDRESS; i++) {
    bool ours = mappings[i].start >= rebuild->trampoline &&
                mappings[i].end <= rebuild->trampoline + REMOTE_SIZE;

    if (!ours && !is_kernels(&mappings[i]))
      continue;
    if (unmap(batch, from, mappings[i].start, e) < 0)
      return -1;
    from = mappings[i].end;
  }
  return unmap(batch, from, HIGHEST_ADDRESS, e);
}

static int move(struct batch *batch, const struct mapping *mapping, uint64_t to, struct err *e)
{
  uint64_t size = mapping->end - mapping->start;

  return BATCH_CALL(batch, e, "mremap of the vdso", SYS_mremap, mapping->start, size, size,
                    MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

/* Moves the kernel's mappings: by way of a free range, as old and new places may overlap. */
static int move_kernels(const struct rebuild *rebuild, struct rebuilt *which, struct batch *batch,
                        struct mapping *mappings, size_t count, struct err *e)
{
  uint64_t lowest = 0;
  uint64_t highest = 0;
  uint64_t stage;

  for (size_t i = 0; i < count; i++) {
    if (!is_kernels(&mappings[i]))
      continue;
    lowest = lowest ? lowest : mappings[i].start;
    highest = mappings[i].end;
  }
  if (layout_free_range(rebuild, which->threads[0].pid, highest - lowest, &stage, e) < 0)
    return -1;
  for (size_t i = 0; i < count; i++) {
    struct mapping *mapping = &mappings[i];
    uint64_t size = mapping->end - mapping->start;

    if (!is_kernels(mapping))
      continue;
    if (move(batch, mapping, stage + (mapping->start - lowest), e) < 0)
      return -1;
    mapping->start = stage + (mapping->start - lowest);
    mapping->end = mapping->start + size;
  }
  for (size_t i = 0; i < count; i++) {
    struct mapping *mapping = &mappings[i];
    const struct vma *vma;

    if (!is_kernels(mapping))
      continue;
    mapping->name[strlen(mapping->name) - 1] = '\0'; /* "[vdso]" -> "vdso" */
    vma = special_vma(which->mm, mapping->name + 1);
    if (!vma || vma->end - vma->start != mapping->end - mapping->start)
      return err_set(e, "pid %d: its %s was of another size: another kernel", which->process->pid,
                     mapping->name + 1);
    if (move(batch, mapping, vma->start, e) < 0)
      return -1;
  }
  return 0;
}

/* Descriptors of the files that the process maps, in it: numbers by index in tree.files. */
static int send_files(struct rebuild *rebuild, struct rebuilt *which, int *numbers, struct err *e)
{
  struct tracee *tracee = &which->threads[0];
  AUTO_FREE bool *wanted = calloc(rebuild->tree.file_count + 1, sizeof(*wanted));
  int fds[SEND_LIMIT], remote[SEND_LIMIT];
  size_t index[SEND_LIMIT];
  size_t count = 0;

  if (!wanted)
    return err_sys(e, "pid %d: files", which->process->pid);
  for (size_t i = 0; i < which->mm->vma_count; i++) {
    const struct file *file = tree_file(&rebuild->tree, which->mm->vmas[i].file);

    if (file)
      wanted[file - rebuild->tree.files] = true;
  }
  for (size_t i = 0; i <= rebuild->tree.file_count; i++) {
    if (i < rebuild->tree.file_count && wanted[i]) {
      index[count] = i;
      fds[count++] = rebuild->objects.local[i];
    }
    if (count == SEND_LIMIT || (i == rebuild->tree.file_count && count)) {
      if (rebuild_send(rebuild, tracee, fds, count, remote, e) < 0)
        return -1;
      for (size_t k = 0; k < count; k++)
        numbers[index[k]] = remote[k];
      count = 0;
    }
  }
  return 0;
}

/* Before the pages come: it decides of what size they are. */
int layout_page_size(struct batch *batch, const struct vma *vma, uint64_t start, uint64_t end,
                     struct err *e)
{
  uint64_t advice = vma->advice & VMA_HUGEPAGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;

  if (!(vma->advice & (VMA_HUGEPAGE | VMA_NOHUGEPAGE)))
    return 0;
  return BATCH_CALL(batch, e, "madvise", SYS_madvise, start, end - start, advice);
}

/* The calls that make one mapping, or part of one, in the image's state as far as it can be now. */
static int map_part(const struct rebuild *rebuild, struct batch *batch, const struct vma *vma,
                    uint64_t start, uint64_t end, const int *numbers, struct err *e)
{
  const struct file *file = tree_file(&rebuild->tree, vma->file);
  uint64_t flags = vma->flags | MAP_FIXED;
  uint64_t fd = file ? (uint64_t)numbers[file - rebuild->tree.files] : (uint64_t)-1;

  if (vma->advice & VMA_DROPPABLE)
    flags = (flags & ~(uint64_t)MAP_TYPE) | MAP_DROPPABLE;
  if (BATCH_CALL(batch, e, "mmap", SYS_mmap, start, end - start, vma->prot,
                 file ? flags : flags | MAP_ANONYMOUS, fd,
                 file ? vma->offset + (start - vma->start) : 0) < 0)
    return -1;
  return layout_page_size(batch, vma, start, end, e);
}

/* The first inherited extent that ends above the address: an index, or their count. */
static size_t inherited_from(const struct rebuilt *which, uint64_t address)
{
  size_t low = 0;
  size_t high = which->inherited_count;

  while (low < high) {
    size_t middle = low + (high - low) / 2;

    if (which->inherited[middle].address + EXTENT_SIZE <= address)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static bool is_inherited(const struct rebuilt *which, uint64_t address)
{
  size_t index = inherited_from(which, address);
  const struct extent *extent = &which->inherited[index];

  return index < which->inherited_count && extent->address <= address &&
         extent->present >> ((address - extent->address) / PAGE_SIZE_X86) & 1;
}

bool layout_inherits(const struct rebuilt *which, uint64_t start, uint64_t end)
{
  size_t index = inherited_from(which, start);

  return index < which->inherited_count && which->inherited[index].address < end;
}

static int drop(struct batch *batch, uint64_t start, uint64_t end, struct err *e)
{
  if (start >= end)
    return 0;
  return BATCH_CALL(batch, e, "madvise", SYS_madvise, start, end - start, MADV_DONTNEED);
}

/* Pages of the range that came with the fork but are not the child's: gone. */
static int drop_strangers(const struct rebuilt *which, struct batch *batch, uint64_t start,
                          uint64_t end, struct err *e)
{
  uint64_t from = start;

  for (uint64_t at = start; at < end; at += PAGE_SIZE_X86) {
    if (!is_inherited(which, at))
      continue;
    if (drop(batch, from, at, e) < 0)
      return -1;
    from = at + PAGE_SIZE_X86;
  }
  return drop(batch, from, end, e);
}

/* One mapping of a child: the parts that the parent has stay, the others are made. */
static int map_over(const struct rebuild *rebuild, struct rebuilt *which, struct batch *batch,
                    const struct vma *vma, const int *numbers, struct err *e)
{
  const struct mm *parent = tree_mm(&rebuild->tree, which->mm->parent);
  uint64_t at = vma->start;

  for (size_t i = 0; parent && i < parent->vma_count && at < vma->end; i++) {
    const struct vma *old = &parent->vmas[i];
    uint64_t start = old->start > at ? old->start : at;
    uint64_t end = old->end < vma->end ? old->end : vma->end;

    if (start >= end || !vma_continues(vma, old) || !layout_inherits(which, start, end))
      continue;
    if (at < start && map_part(rebuild, batch, vma, at, start, numbers, e) < 0)
      return -1;
    if (vma->prot != old->prot &&
        BATCH_CALL(batch, e, "mprotect", SYS_mprotect, start, end - start, vma->prot) < 0)
      return -1;
    if (drop_strangers(which, batch, start, end, e) < 0)
      return -1;
    at = end;
  }
  return at < vma->end ? map_part(rebuild, batch, vma, at, vma->end, numbers, e) : 0;
}

/* What the child has not: holes between its mappings that the parent had filled. */
static int unmap_holes(const struct rebuild *rebuild, struct rebuilt *which, struct batch *batch,
                       struct err *e)
{
  uint64_t from = 0;

  for (size_t i = 0; i < which->mm->vma_count && from < HIGHEST_ADDRESS; i++) {
    const struct vma *vma = &which->mm->vmas[i];

    if (rebuild->trampoline >= from && rebuild->trampoline < vma->start) {
      if (unmap(batch, from, rebuild->trampoline, e) < 0)
        return -1;
      from = rebuild->trampoline + REMOTE_SIZE;
    }
    if (unmap(batch, from, vma->start < HIGHEST_ADDRESS ? vma->start : HIGHEST_ADDRESS, e) < 0)
      return -1;
    from = vma->end;
  }
  if (rebuild->trampoline >= from) {
    if (unmap(batch, from, rebuild->trampoline, e) < 0)
      return -1;
    from = rebuild->trampoline + REMOTE_SIZE;
  }
  return unmap(batch, from, HIGHEST_ADDRESS, e);
}

static int clear_ground(const struct rebuild *rebuild, struct rebuilt *which, struct batch *batch,
                        struct err *e)
{
  AUTO_FREE struct mapping *mappings = NULL;
  size_t count;

  if (which->mm->parent)
    return unmap_holes(rebuild, which, batch, e);
  if (read_mappings(which->threads[0].pid, &mappings, &count, e) < 0 ||
      unmap_program(rebuild, batch, mappings, count, e) < 0)
    return -1;
  return move_kernels(rebuild, which, batch, mappings, count, e);
}

static int make_mapping(struct rebuild *rebuild, struct rebuilt *which, struct batch *batch,
                        size_t index, const int *numbers, struct err *e)
{
  const struct vma *vma = &which->mm->vmas[index];

  if (rebuild_is_segment(rebuild, vma))
    return rebuild_segment(rebuild, which, batch, index, e);
  return map_over(rebuild, which, batch, vma, numbers, e);
}

static int lay_out(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  AUTO_FREE int *numbers = calloc(rebuild->tree.file_count + 1, sizeof(*numbers));
  struct batch batch = {.tracee = &which->threads[0]};

  if (!numbers)
    return err_sys(e, "files");
  if (rebuild_keys(which, e) < 0 || send_files(rebuild, which, numbers, e) < 0 ||
      clear_ground(rebuild, which, &batch, e) < 0)
    return -1;
  for (size_t i = 0; i < which->mm->vma_count; i++) {
    if (!which->mm->vmas[i].special && make_mapping(rebuild, which, &batch, i, numbers, e) < 0)
      return -1;
  }
  /* All but the control socket: nothing that was sent is needed any more. */
  if (BATCH_CALL(&batch, e, "close_range", SYS_close_range, 0, (uint64_t)rebuild->control_fd - 1) <
      0)
    return -1;
  return batch_run(&batch, e);
}

int rebuild_layout(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  if (which->laid_out || !which->mm)
    return 0;
  which->laid_out = true;
  if (rebuild_spawn(rebuild, which, e) < 0 || lay_out(rebuild, which, e) < 0)
    return err_prefix(e, "pid %d", which->process->pid);
  return 0;
}

static const struct {
  uint64_t advice;
  int madvise;
} late_advice[] = {
    {VMA_DONTFORK, MADV_DONTFORK}, {VMA_WIPEONFORK, MADV_WIPEONFORK},
    {VMA_DONTDUMP, MADV_DONTDUMP}, {VMA_SEQUENTIAL, MADV_SEQUENTIAL},
    {VMA_RANDOM, MADV_RANDOM},     {VMA_MERGEABLE, MADV_MERGEABLE},
};

static int lock_vma(struct batch *batch, const struct vma *vma, struct err *e)
{
  if (!(vma->advice & (VMA_LOCKED | VMA_LOCKONFAULT)))
    return 0;
  return BATCH_CALL(batch, e, "mlock2", SYS_mlock2, vma->start, vma->end - vma->start,
                    vma->advice & VMA_LOCKONFAULT ? MLOCK_ONFAULT : 0);
}

static int name_vma(struct batch *batch, const struct vma *vma, struct err *e)
{
  uint64_t name;

  if (!vma->name)
    return 0;
  if (batch_data(batch, vma->name, strlen(vma->name) + 1, &name, e) < 0)
    return -1;
  return BATCH_CALL(batch, e, "name of a mapping", SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME,
                    vma->start, vma->end - vma->start, name);
}

static int seal_vma(struct batch *batch, const struct vma *vma, struct err *e)
{
  for (size_t i = 0; i < ARRAY_LEN(late_advice); i++) {
    if (vma->advice & late_advice[i].advice &&
        BATCH_CALL(batch, e, "madvise", SYS_madvise, vma->start, vma->end - vma->start,
                   (uint64_t)late_advice[i].madvise) < 0)
      return -1;
  }
  if (rebuild_key_of(batch, vma, e) < 0 || lock_vma(batch, vma, e) < 0)
    return -1;
  return name_vma(batch, vma, e);
}

int rebuild_seal(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  struct batch batch = {.tracee = &which->threads[0]};
  uint64_t future = which->mm->lock_future;

  (void)rebuild;
  for (size_t i = 0; i < which->mm->vma_count; i++) {
    if (!which->mm->vmas[i].special && seal_vma(&batch, &which->mm->vmas[i], e) < 0)
      return -1;
  }
  if (future && BATCH_CALL(&batch, e, "mlockall", SYS_mlockall,
                           MCL_FUTURE | (future & VMA_LOCKONFAULT ? MCL_ONFAULT : 0)) < 0)
    return -1;
  return batch_run(&batch, e);
}
