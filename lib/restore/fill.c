/*
 * Page frames into memory: of a process by UFFDIO_COPY (uffd.c) or process_vm_writev(2), of a
 * shared object by pwrite. Several threads fill at once, each another frame.
 */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "restore/fill.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

/* The runs of set bits, one after the other. */
struct runs {
  uint64_t bits;
  unsigned first, count; /* the current run */
};

static bool next_run(struct runs *runs)
{
  if (runs->bits == 0)
    return false;
  runs->first = (unsigned)__builtin_ctzll(runs->bits);
  runs->count = ~(runs->bits >> runs->first) == 0
                    ? EXTENT_PAGES
                    : (unsigned)__builtin_ctzll(~(runs->bits >> runs->first));
  if (runs->first + runs->count >= EXTENT_PAGES)
    runs->bits = 0;
  else
    runs->bits &= ~UINT64_C(0) << (runs->first + runs->count);
  return true;
}

static struct rebuilt *owner_of_space(const struct rebuild *rebuild, uint32_t space)
{
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    struct rebuilt *which = &rebuild->processes[i];

    if (which->mm && which->mm->id == space)
      return which;
  }
  return NULL;
}

const struct vma *fill_vma(const struct mm *mm, uint64_t address)
{
  size_t low = 0;
  size_t high = mm->vma_count;

  while (low < high) {
    size_t middle = low + (high - low) / 2;

    if (mm->vmas[middle].end <= address)
      low = middle + 1;
    else
      high = middle;
  }
  return low < mm->vma_count && mm->vmas[low].start <= address ? &mm->vmas[low] : NULL;
}

/* Every described page must lie in private memory of the image. */
static int check_extent(const struct mm *mm, uint64_t address, uint64_t present, struct err *e)
{
  for (struct runs runs = {.bits = present}; next_run(&runs);) {
    uint64_t at = address + (uint64_t)runs.first * PAGE_SIZE_X86;
    uint64_t end = at + (uint64_t)runs.count * PAGE_SIZE_X86;

    while (at < end) {
      const struct vma *vma = fill_vma(mm, at);

      if (!vma || vma->special || !(vma->flags & MAP_PRIVATE))
        return err_set(e, "space %u: page at 0x%" PRIx64 " is in no private mapping", mm->id, at);
      at = vma->end;
    }
  }
  return 0;
}

/* A piece lies in one mapping: a run of pages may cross from one into the next. */
static void add_pieces(struct pieces *pieces, const struct mm *mm, uint64_t to, const uint8_t *from,
                       size_t size)
{
  while (size) {
    uint64_t room = fill_vma(mm, to)->end - to;
    size_t length = room < size ? room : size;

    pieces->remote[pieces->count] = (struct iovec){(void *)to, length};    /* NOLINT */
    pieces->local[pieces->count++] = (struct iovec){(void *)from, length}; /* NOLINT */
    to += length;
    from += length;
    size -= length;
  }
}

/*
 * What of the frame goes where. Zero pages are there by themselves, except where a private mapping
 * shows a file otherwise.
 */
static void collect(const struct mm *mm, const struct frame *frame, const uint8_t *payload,
                    struct pieces *pieces)
{
  static const uint8_t zeros[PAGE_SIZE_X86];

  pieces->count = 0;
  for (struct runs runs = {.bits = frame->stored}; next_run(&runs);) {
    size_t size = (size_t)runs.count * PAGE_SIZE_X86;

    add_pieces(pieces, mm, frame->address + (uint64_t)runs.first * PAGE_SIZE_X86, payload, size);
    payload += size;
  }
  for (uint64_t bits = frame->present & ~frame->stored; bits; bits &= bits - 1) {
    uint64_t at = frame->address + (uint64_t)__builtin_ctzll(bits) * PAGE_SIZE_X86;

    if (fill_vma(mm, at)->file)
      add_pieces(pieces, mm, at, zeros, sizeof(zeros));
  }
}

static int fill_process(const struct rebuild *rebuild, const struct rebuilt *which,
                        const struct frame *frame, const void *payload)
{
  struct pieces pieces;
  size_t size = 0;

  collect(which->mm, frame, payload, &pieces);
  uffd_copy(rebuild, which, &pieces);
  for (unsigned i = 0; i < pieces.count; i++)
    size += pieces.local[i].iov_len;
  return size == 0 || process_vm_writev(which->threads[0].pid, pieces.local, pieces.count,
                                        pieces.remote, pieces.count, 0) == (ssize_t)size
             ? 0
             : 1;
}

/* /proc/PID/mem writes to what the process itself may not. */
int rebuild_fill_by_force(const struct rebuilt *which, const struct frame *frame,
                          const void *payload, struct err *e)
{
  pid_t pid = which->threads[0].pid;
  AUTO_FREE char *path = io_format(e, "/proc/%d/mem", pid);
  AUTO_CLOSE int fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;
  struct pieces pieces;

  if (fd < 0)
    return path ? err_sys(e, "%s", path) : -1;
  collect(which->mm, frame, payload, &pieces);
  for (unsigned i = 0; i < pieces.count; i++) {
    uint64_t address = (uint64_t)pieces.remote[i].iov_base;

    if (io_pwrite(fd, pieces.local[i].iov_base, pieces.local[i].iov_len, (off_t)address) < 0)
      return err_sys(e, "pid %d: memory at 0x%" PRIx64, pid, address);
  }
  return 0;
}

/* The description may be a read-only one; filling takes another. */
static int open_object(const struct rebuild *rebuild, size_t index, struct err *e)
{
  const struct file *file = &rebuild->tree.files[index];
  const struct object_type *type = object_type_by_name(file->type);

  if (type->open)
    return type->open(&rebuild->objects, rebuild->objects.root_fd, file, O_WRONLY, e);
  return object_reopen(rebuild->objects.local[index], O_RDWR, e);
}

static int write_object(const struct file *file, int fd, const struct frame *frame,
                        const uint8_t *payload, struct err *e)
{
  for (struct runs runs = {.bits = frame->stored}; next_run(&runs);) {
    uint64_t offset = frame->address + (uint64_t)runs.first * PAGE_SIZE_X86;
    uint64_t size = (uint64_t)runs.count * PAGE_SIZE_X86;

    if (offset >= file->size)
      return err_set(e, "space %u: page at %" PRIu64 " is behind the end", frame->space, offset);
    /* The last page may be longer than the object. */
    if (io_pwrite(fd, payload, size < file->size - offset ? size : file->size - offset,
                  (off_t)offset) < 0)
      return err_sys(e, "space %u: write", frame->space);
    payload += size;
  }
  return 0;
}

/* The last one that was found is not far. Returns an index, or the number of files. */
static size_t object_of_space(struct rebuild *rebuild, uint32_t space)
{
  size_t count = rebuild->tree.file_count;

  for (size_t i = 0; space && i < count; i++) {
    size_t index = (rebuild->filled + i) % count;

    if (rebuild->tree.files[index].space == space)
      return rebuild->filled = index;
  }
  return count;
}

static int fill_object(const struct rebuild *rebuild, size_t index, const struct frame *frame,
                       const void *payload, struct err *e)
{
  AUTO_CLOSE int fd = open_object(rebuild, index, e);

  return fd < 0 ? -1 : write_object(&rebuild->tree.files[index], fd, frame, payload, e);
}

int rebuild_fill_place(struct rebuild *rebuild, const struct frame *frame, struct place *place,
                       struct err *e)
{
  place->which = owner_of_space(rebuild, frame->space);
  if (place->which)
    return check_extent(place->which->mm, frame->address, frame->present, e);
  place->file = object_of_space(rebuild, frame->space);
  if (place->file == rebuild->tree.file_count)
    return err_set(e, "page frame of space %u, which no state frame knows", frame->space);
  return 0;
}

int rebuild_fill(const struct rebuild *rebuild, const struct place *place,
                 const struct frame *frame, const void *payload, struct err *e)
{
  return place->which ? fill_process(rebuild, place->which, frame, payload)
                      : fill_object(rebuild, place->file, frame, payload, e);
}

int rebuild_inherit(struct rebuild *rebuild, const struct frame *frame, struct err *e)
{
  struct rebuilt *which = owner_of_space(rebuild, frame->space);
  struct extent *longer;

  if (!which || !which->mm->parent)
    return err_set(e, "INHERIT frame of space %u, which has no parent", frame->space);
  if (which->laid_out)
    return err_set(e, "INHERIT frame of space %u behind its pages", frame->space);
  if (check_extent(which->mm, frame->address, frame->present, e) < 0)
    return -1;
  if (which->inherited_count &&
      which->inherited[which->inherited_count - 1].address >= frame->address)
    return err_set(e, "INHERIT frames of space %u are not in order", frame->space);
  /* Room doubles: it is a power of two whenever it is full. */
  if ((which->inherited_count & (which->inherited_count - 1)) == 0) {
    longer = reallocarray(which->inherited, which->inherited_count ? which->inherited_count * 2 : 1,
                          sizeof(*longer));
    if (!longer)
      return err_sys(e, "space %u", frame->space);
    which->inherited = longer;
  }
  which->inherited[which->inherited_count++] =
      (struct extent){.address = frame->address, .present = frame->present};
  return 0;
}
