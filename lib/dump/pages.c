/*
 * Page frames: what is there, read in windows of 256 KiB straight into the stream's slots. Spaces
 * come in the order of FORMAT.md: shared objects, then processes, parents before children.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "dump/capture.h"
#include "proc/pagemap.h"
#include "tracee/remote.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* The window that is being filled. */
struct emitter {
  struct capture *capture;
  struct stream_writer *writer;
  const struct source *source;
  size_t next_inherited; /* those before it lie below the window */
  uint32_t space;
  uint64_t address;
  uint64_t present;
  uint64_t stored;
};

/* Runs of set bits as iovecs of the process's memory. */
static unsigned to_iovecs(uint64_t address, uint64_t bits, struct iovec iov[EXTENT_PAGES])
{
  unsigned count = 0;

  for (unsigned i = 0; i < EXTENT_PAGES; i++) {
    if (!(bits >> i & 1))
      continue;
    if (i > 0 && bits >> (i - 1) & 1) {
      iov[count - 1].iov_len += PAGE_SIZE_X86;
      continue;
    }
    iov[count++] = (struct iovec){
        .iov_base = (void *)(address + (uint64_t)i * PAGE_SIZE_X86), /* NOLINT: not ours */
        .iov_len = PAGE_SIZE_X86,
    };
  }
  return count;
}

static int read_pages(const struct emitter *emitter, uint8_t *buffer, size_t size, struct err *e)
{
  struct iovec local = {.iov_base = buffer, .iov_len = size};
  struct iovec remote[EXTENT_PAGES];
  unsigned count = to_iovecs(emitter->address, emitter->stored, remote);
  pid_t pid = emitter->source->pid;

  if (process_vm_readv(pid, &local, 1, remote, count, 0) == (ssize_t)size)
    return 0;
  /* Memory that the process itself may not read: through /proc/PID/mem. */
  for (unsigned i = 0; i < count; i++) {
    if (remote_mem(pid, (uint64_t)remote[i].iov_base, buffer, remote[i].iov_len, false, e) < 0)
      return -1;
    buffer += remote[i].iov_len;
  }
  return 0;
}

static int flush(struct emitter *emitter, struct err *e)
{
  struct frame frame = {
      .type = FRAME_PAGES,
      .flags = FRAME_MUST_UNDERSTAND,
      .space = emitter->space,
      .address = emitter->address,
      .present = emitter->present,
      .stored = emitter->stored,
      .payload = stream_slot(emitter->writer),
  };

  if (!emitter->present)
    return 0;
  frame.length = frame_raw_length(&frame);
  if (frame.length && read_pages(emitter, stream_slot(emitter->writer), frame.length, e) < 0)
    return -1;
  emitter->capture->memory_bytes += (uint64_t)__builtin_popcountll(frame.present) * PAGE_SIZE_X86;
  emitter->present = emitter->stored = 0;
  return stream_write(emitter->writer, &frame, e);
}

/* Inherited pages of the window: they have had their frame. */
static uint64_t inherited_in(struct emitter *emitter, uint64_t window)
{
  const struct source *source = emitter->source;

  while (emitter->next_inherited < source->inherited_count &&
         source->inherited[emitter->next_inherited].address < window)
    emitter->next_inherited++;
  if (emitter->next_inherited < source->inherited_count &&
      source->inherited[emitter->next_inherited].address == window)
    return source->inherited[emitter->next_inherited].present;
  return 0;
}

static uint64_t mask(uint64_t window, uint64_t start, uint64_t end)
{
  unsigned first = (unsigned)((start - window) / PAGE_SIZE_X86);
  unsigned count = (unsigned)((end - start) / PAGE_SIZE_X86);

  return (count == EXTENT_PAGES ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1) << first;
}

static int add_run(void *context, const struct page_run *run, struct err *e)
{
  struct emitter *emitter = context;

  for (uint64_t at = run->start; at < run->end;) {
    uint64_t window = at & ~(uint64_t)(EXTENT_SIZE - 1);
    uint64_t end = window + EXTENT_SIZE < run->end ? window + EXTENT_SIZE : run->end;
    uint64_t pages = mask(window, at, end) & ~inherited_in(emitter, window);

    if (window != emitter->address) {
      if (flush(emitter, e) < 0)
        return -1;
      emitter->address = window;
    }
    emitter->present |= pages;
    emitter->stored |= run->zero ? 0 : pages;
    at = end;
  }
  return 0;
}

static int emit_inherited(struct emitter *emitter, struct err *e)
{
  for (size_t i = 0; i < emitter->source->inherited_count; i++) {
    const struct inherited *inherited = &emitter->source->inherited[i];
    struct frame frame = {
        .type = FRAME_INHERIT,
        .flags = FRAME_MUST_UNDERSTAND,
        .space = emitter->space,
        .address = inherited->address,
        .present = inherited->present,
    };

    if (stream_write(emitter->writer, &frame, e) < 0)
      return -1;
  }
  return 0;
}

static int emit_process(struct emitter *emitter, const struct mm *mm, struct err *e)
{
  pid_t pid = emitter->source->pid;

  if (emit_inherited(emitter, e) < 0)
    return -1;
  for (size_t i = 0; i < mm->vma_count; i++) {
    const struct vma *vma = &mm->vmas[i];

    if (vma_is_private(vma) &&
        pagemap_scan(pid, vma->start, vma->end, vma->file != 0, add_run, emitter, e) < 0)
      return -1;
  }
  return flush(emitter, e);
}

/* One window of a shared object, padded with zeros behind its end. */
static int emit_window(struct emitter *emitter, int fd, uint64_t offset, uint64_t end,
                       struct err *e)
{
  uint64_t window = offset & ~(uint64_t)(EXTENT_SIZE - 1);
  uint64_t padded = (end + PAGE_SIZE_X86 - 1) & ~(uint64_t)(PAGE_SIZE_X86 - 1);
  struct frame frame = {
      .type = FRAME_PAGES,
      .flags = FRAME_MUST_UNDERSTAND,
      .space = emitter->space,
      .address = window,
      .present = mask(window, offset, padded),
      .payload = stream_slot(emitter->writer),
  };
  ssize_t n;

  frame.stored = frame.present;
  frame.length = frame_raw_length(&frame);
  memset((uint8_t *)stream_slot(emitter->writer) + (end - offset), 0, padded - end);
  n = io_pread(fd, stream_slot(emitter->writer), end - offset, (off_t)offset);
  if (n != (ssize_t)(end - offset))
    return n < 0 ? err_sys(e, "read") : err_set(e, "shared memory shrank");
  emitter->capture->memory_bytes += frame.length;
  return stream_write(emitter->writer, &frame, e);
}

static int emit_object(struct emitter *emitter, int fd, uint64_t size, struct err *e)
{
  for (uint64_t at = 0; at < size;) {
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    off_t hole;

    if (data < 0)
      return errno == ENXIO ? 0 : err_sys(e, "seek");
    hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
      return err_sys(e, "seek");
    data &= ~(off_t)(PAGE_SIZE_X86 - 1);
    for (at = (uint64_t)data; at < (uint64_t)hole && at < size;) {
      uint64_t end = (at | (EXTENT_SIZE - 1)) + 1;

      end = end < (uint64_t)hole ? end : (uint64_t)hole;
      end = end < size ? end : size;
      if (emit_window(emitter, fd, at, end, e) < 0)
        return -1;
      at = end;
    }
    at = (uint64_t)hole;
  }
  return 0;
}

static int emit_objects(struct emitter *emitter, struct err *e)
{
  struct capture *capture = emitter->capture;
  uint32_t done = 0; /* spaces are numbered in the order of their first file */

  for (size_t i = 0; i < capture->tree.file_count; i++) {
    const struct file *file = &capture->tree.files[i];
    AUTO_CLOSE int fd = -1;

    if (file->space <= done)
      continue;
    done = emitter->space = file->space;
    /* A description of our own: seeking would move the target's position. */
    fd = object_reopen(capture->known[i].local, 0 /* O_RDONLY */, e);
    if (fd < 0 || emit_object(emitter, fd, file->size, e) < 0)
      return err_prefix(e, "file %u (%s)", file->id, file->type);
  }
  return 0;
}

int capture_pages(struct capture *capture, struct stream_writer *writer, struct err *e)
{
  struct emitter emitter = {.capture = capture, .writer = writer};

  if (emit_objects(&emitter, e) < 0)
    return -1;
  for (size_t i = 0; i < capture->source_count; i++) {
    const struct source *source = &capture->sources[i];

    if (source->zombie)
      continue;
    emitter.source = source;
    emitter.space = source->mm;
    emitter.address = UINT64_MAX;
    emitter.next_inherited = 0;
    if (emit_process(&emitter, tree_mm(&capture->tree, source->mm), e) < 0)
      return err_prefix(e, "pid %d", source->pid);
  }
  return 0;
}
