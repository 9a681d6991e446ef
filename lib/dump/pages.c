/*
 * Page frames: what is there, read in windows of 256 KiB straight into the stream's slots. Spaces
 * come in the order of FORMAT.md: shared objects, then processes, parents before children.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "dump/capture.h"
#include "dump/fetch.h"
#include "proc/pagemap.h"
#include "stream/zero.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Frames whose pages are fetched together. */
struct group {
  struct frame frames[FETCH_FRAMES];
  size_t count;
};

/* The window that is being filled. */
struct emitter {
  struct capture *capture;
  struct stream_writer *writer;
  const struct source *source;
  size_t next_inherited; /* those before it lie below the window */
  pid_t pid;             /* whose memory is read: the process's, or its snapshot's */
  struct fetch fetch;
  struct source *holds; /* frames go to its held ones; NULL: to the stream */
  uint64_t held_bytes;
  uint32_t space;
  uint64_t address;
  uint64_t present;
  uint64_t stored;
  struct group groups[2]; /* one is asked for, while the one before it is written */
  unsigned growing;       /* index of the one that frames are put into */
};

enum { HOLD_LIMIT = 64 << 20 };

static int hold(struct emitter *emitter, const struct frame *frame, struct err *e)
{
  struct source *source = emitter->holds;
  struct held_frame *held;

  if (emitter->held_bytes > HOLD_LIMIT)
    return 1;
  held = list_append(&source->held, &source->held_count, sizeof(*held));
  if (held)
    held->payload = malloc(frame->length + 1);
  if (!held || !held->payload)
    return err_sys(e, "pages");
  held->frame = *frame;
  memcpy(held->payload, frame->payload, frame->length);
  held->frame.payload = held->payload;
  emitter->held_bytes += sizeof(*held) + frame->length;
  return 0;
}

/* What is known of a payload while it is in the cache. */
static void judge(struct frame *frame)
{
  if (frame->length && zero_kept(frame->payload, frame->stored) == frame->stored)
    frame->flags |= FRAME_NO_ZEROS;
}

/* The pages of a frame that was asked for, to the stream or to be held. */
static int emit(struct emitter *emitter, size_t index, struct frame *frame, struct err *e)
{
  struct fetch *fetch = &emitter->fetch;
  void *buffer = stream_slot(emitter->writer);
  bool peeked;

  frame->payload = buffer;
  frame->length = frame_raw_length(frame);
  peeked = frame->length && !emitter->holds && fetch_peek(fetch, index, frame, buffer);
  if (frame->length && !peeked && fetch_read(fetch, index, frame, buffer, e) < 0)
    return -1;
  judge(frame);
  if (peeked)
    return fetch_pass(fetch, index, frame, emitter->writer, e);
  return emitter->holds ? hold(emitter, frame, e) : stream_write(emitter->writer, frame, e);
}

/* Asks for the one group and writes the other. */
static int turn(struct emitter *emitter, struct err *e)
{
  struct group *asked = &emitter->groups[emitter->growing];
  struct group *there = &emitter->groups[!emitter->growing];
  int result = fetch_ask(&emitter->fetch, asked->frames, asked->count, e);

  for (size_t i = 0; i < there->count && result == 0; i++)
    result = emit(emitter, i, &there->frames[i], e);
  there->count = 0;
  emitter->growing = !emitter->growing;
  return result == 0 ? fetch_turn(&emitter->fetch, e) : result;
}

/* The window is done: its frame waits until there is enough to ask for at once. */
static int flush(struct emitter *emitter, struct err *e)
{
  struct group *group;

  if (!emitter->present)
    return 0;
  if (emitter->groups[emitter->growing].count == FETCH_FRAMES) {
    int result = turn(emitter, e);

    if (result != 0)
      return result;
  }
  group = &emitter->groups[emitter->growing];
  group->frames[group->count++] = (struct frame){
      .type = FRAME_PAGES,
      .flags = FRAME_MUST_UNDERSTAND,
      .space = emitter->space,
      .address = emitter->address,
      .present = emitter->present,
      .stored = emitter->stored,
  };
  emitter->capture->memory_bytes +=
      (uint64_t)__builtin_popcountll(emitter->present) * PAGE_SIZE_X86;
  emitter->present = emitter->stored = 0;
  return 0;
}

static int finish(struct emitter *emitter, struct err *e)
{
  int result = flush(emitter, e);

  for (int i = 0; i < 2 && result == 0; i++)
    result = turn(emitter, e);
  return result;
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
      int result = flush(emitter, e);

      if (result != 0)
        return result;
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

/* Was it read while the process stood? A fork leaves it out, or there is none. */
static bool is_held(const struct emitter *emitter, const struct vma *vma)
{
  bool of_fork = emitter->source->snapshot.tid != 0;

  return emitter->capture->copied || (of_fork && vma->advice & (VMA_DONTFORK | VMA_WIPEONFORK));
}

static int add_mappings(struct emitter *emitter, struct err *e)
{
  const struct mm *mm = tree_mm(&emitter->capture->tree, emitter->space);
  AUTO_CLOSE int pagemap = pagemap_open(emitter->pid, e);

  if (pagemap < 0)
    return -1;
  for (size_t i = 0; i < mm->vma_count; i++) {
    const struct vma *vma = &mm->vmas[i];

    if (vma_is_private(vma) && is_held(emitter, vma) == (emitter->holds != NULL) &&
        pagemap_scan(pagemap, vma->start, vma->end, vma->file != 0, add_run, emitter, e) < 0)
      return -1;
  }
  return finish(emitter, e);
}

/* Where a shared object is read: by a descriptor, or for fd -1 where a process maps part of it. */
struct object {
  int fd;
  const struct mapped_part *part;
};

static int read_object(const struct object *object, uint8_t *buffer, size_t size, uint64_t offset,
                       struct err *e)
{
  const struct mapped_part *part = object->part;
  ssize_t n;

  if (object->fd < 0)
    return tracee_read(&(struct tracee){.pid = part->pid}, part->start + (offset - part->offset),
                       buffer, size, e);
  n = io_pread(object->fd, buffer, size, (off_t)offset);
  if (n != (ssize_t)size)
    return n < 0 ? err_sys(e, "read") : err_set(e, "shared memory shrank");
  return 0;
}

/* One window of a shared object, padded with zeros behind its end. */
static int emit_window(struct emitter *emitter, const struct object *object, uint64_t offset,
                       uint64_t end, struct err *e)
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

  frame.stored = frame.present;
  frame.length = frame_raw_length(&frame);
  memset((uint8_t *)stream_slot(emitter->writer) + (end - offset), 0, padded - end);
  if (read_object(object, stream_slot(emitter->writer), end - offset, offset, e) < 0)
    return -1;
  judge(&frame);
  emitter->capture->memory_bytes += frame.length;
  return stream_write(emitter->writer, &frame, e);
}

static int emit_range(struct emitter *emitter, const struct object *object, uint64_t from,
                      uint64_t to, struct err *e)
{
  for (uint64_t at = from; at < to;) {
    uint64_t end = (at | (EXTENT_SIZE - 1)) + 1;

    end = end < to ? end : to;
    if (emit_window(emitter, object, at, end, e) < 0)
      return -1;
    at = end;
  }
  return 0;
}

static int emit_opened(struct emitter *emitter, int fd, uint64_t size, struct err *e)
{
  const struct object object = {.fd = fd};

  for (uint64_t at = 0; at < size;) {
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    off_t hole;

    if (data < 0)
      return errno == ENXIO ? 0 : err_sys(e, "seek");
    hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
      return err_sys(e, "seek");
    /* Blocks of a file system may be smaller than pages. */
    data &= ~(off_t)(PAGE_SIZE_X86 - 1);
    hole = (hole + PAGE_SIZE_X86 - 1) & ~(off_t)(PAGE_SIZE_X86 - 1);
    at = (uint64_t)hole < size ? (uint64_t)hole : size;
    if (emit_range(emitter, &object, (uint64_t)data, at, e) < 0)
      return -1;
  }
  return 0;
}

/* Parts stand in the order of their offsets, and may overlap. */
static int emit_mapped(struct emitter *emitter, const struct known_file *known, struct err *e)
{
  const struct capture *capture = emitter->capture;
  uint64_t done = 0;

  for (size_t i = 0; i < capture->part_count; i++) {
    const struct mapped_part *part = &capture->parts[i];
    const struct object object = {.fd = -1, .part = part};

    if (part->device != known->device || part->inode != known->inode)
      continue;
    for (size_t k = 0; k < part->run_count; k++) {
      uint64_t from = part->runs[k].start > done ? part->runs[k].start : done;

      if (emit_range(emitter, &object, from, part->runs[k].end, e) < 0)
        return -1;
    }
    done = part->end > done ? part->end : done;
  }
  return 0;
}

/* Our descriptor of any file of the space; -1: none. */
static int space_descriptor(const struct capture *capture, uint32_t space)
{
  for (size_t i = 0; i < capture->tree.file_count; i++) {
    if (capture->tree.files[i].space == space && capture->known[i].local >= 0)
      return capture->known[i].local;
  }
  return -1;
}

static int emit_space(struct emitter *emitter, size_t index, struct err *e)
{
  struct capture *capture = emitter->capture;
  const struct file *file = &capture->tree.files[index];
  const struct object_type *type = object_type_by_name(file->type);
  int local = space_descriptor(capture, file->space);
  AUTO_CLOSE int fd = -1;

  if (!type->open && local < 0)
    return emit_mapped(emitter, &capture->known[index], e);
  /* A description of our own: seeking would move the target's position. */
  fd = type->open ? type->open(NULL, capture->root, file, O_RDONLY | O_NOATIME, e)
                  : object_reopen(local, 0 /* O_RDONLY */, e);
  return fd < 0 ? -1 : emit_opened(emitter, fd, file->size, e);
}

static int emit_objects(struct emitter *emitter, struct err *e)
{
  struct capture *capture = emitter->capture;
  uint32_t done = 0; /* spaces are numbered in the order of their first file */

  for (size_t i = 0; i < capture->tree.file_count; i++) {
    const struct file *file = &capture->tree.files[i];

    if (file->space <= done)
      continue;
    done = emitter->space = file->space;
    if (emit_space(emitter, i, e) < 0)
      return err_prefix(e, "file %u (%s)", file->id, file->type);
  }
  return 0;
}

int capture_objects(struct capture *capture, struct stream_writer *writer, struct err *e)
{
  struct emitter emitter = {.capture = capture, .writer = writer};

  return emit_objects(&emitter, e);
}

/* To the beginning of a process. */
static void begin(struct emitter *emitter, struct source *source)
{
  bool of_snapshot = !emitter->holds && source->snapshot.tid;

  emitter->source = source;
  emitter->pid = of_snapshot ? source->snapshot.tid : source->pid;
  emitter->space = source->mm;
  emitter->address = UINT64_MAX;
  emitter->next_inherited = 0;
}

/* The private pages of a process: those that are held, if we hold, or else the others. */
static int fetch_mappings(struct emitter *emitter, struct source *source, struct err *e)
{
  int result = fetch_open(&emitter->fetch, source, emitter->pid != source->pid, e);

  if (result == 0)
    result = add_mappings(emitter, e);
  if (result == 0)
    result = fetch_check(&emitter->fetch, e);
  fetch_close(&emitter->fetch);
  return result;
}

static int hold_process(struct emitter *emitter, struct source *source, struct err *e)
{
  int result;

  emitter->holds = source;
  begin(emitter, source);
  result = fetch_mappings(emitter, source, e);
  return result == 0 && emitter->held_bytes > HOLD_LIMIT ? 1 : result;
}

int capture_hold(struct capture *capture, struct stream_writer *writer, struct err *e)
{
  struct emitter emitter = {.capture = capture, .writer = writer};

  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];
    int result = source->zombie ? 0 : hold_process(&emitter, source, e);

    if (result != 0)
      return result < 0 ? err_prefix(e, "pid %d", source->pid) : 1;
  }
  return 0;
}

static int emit_held(struct emitter *emitter, struct err *e)
{
  const struct source *source = emitter->source;

  for (size_t i = 0; i < source->held_count; i++) {
    if (stream_write(emitter->writer, &source->held[i].frame, e) < 0)
      return -1;
  }
  return 0;
}

static int emit_process(struct emitter *emitter, struct source *source, struct err *e)
{
  begin(emitter, source);
  if (emit_inherited(emitter, e) < 0 || emit_held(emitter, e) < 0)
    return -1;
  /* Of a tree that was copied that is all, and the process may be gone. */
  return emitter->capture->copied ? 0 : fetch_mappings(emitter, source, e);
}

int capture_pages(struct capture *capture, struct stream_writer *writer, struct err *e)
{
  struct emitter emitter = {.capture = capture, .writer = writer};

  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];

    if (source->zombie)
      continue;
    if (emit_process(&emitter, source, e) < 0)
      return err_prefix(e, "pid %d", source->pid);
  }
  return 0;
}
