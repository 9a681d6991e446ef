#include "base/cleanup.h"
#include "image/image.h"
#include "inspect/inspect.h"
#include "stream/wire.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static struct space_pages *add_space(struct inspection *inspection, uint32_t id, struct err *e)
{
  const struct mm *mm = tree_mm(&inspection->tree, id);
  struct space_pages *space;

  space = list_append(&inspection->spaces, &inspection->space_count, sizeof(*space));
  if (!space) {
    err_sys(e, "space %u", id);
    return NULL;
  }
  space->space = id;
  if (mm) {
    space->vma_present = calloc(mm->vma_count + 1, sizeof(uint64_t));
    space->vma_stored = calloc(mm->vma_count + 1, sizeof(uint64_t));
    if (!space->vma_present || !space->vma_stored) {
      err_sys(e, "space %u", id);
      return NULL;
    }
  }
  return space;
}

/* State is complete when the first page frame comes: each space that it names gets its row. */
static int begin_pages(struct inspection *inspection, struct err *e)
{
  const struct tree *tree = &inspection->tree;

  if (inspection->spaces)
    return 0;
  if (tree_check(tree, e) < 0)
    return -1;
  for (size_t i = 0; i < tree->mm_count; i++) {
    if (!add_space(inspection, tree->mms[i].id, e))
      return -1;
  }
  for (size_t i = 0; i < tree->file_count; i++) {
    if (tree->files[i].space && !add_space(inspection, tree->files[i].space, e))
      return -1;
  }
  return 0;
}

static struct space_pages *find_space(const struct inspection *inspection, uint32_t id)
{
  for (size_t i = 0; i < inspection->space_count; i++) {
    if (inspection->spaces[i].space == id)
      return &inspection->spaces[i];
  }
  return NULL;
}

/* The bits of an extent at `address` that are in [start, end). */
static uint64_t bits_within(uint64_t address, uint64_t start, uint64_t end)
{
  uint64_t last = address + EXTENT_SIZE;
  uint64_t low = start > address ? (start - address) / PAGE_SIZE_X86 : 0;
  uint64_t high = end < last ? (end - address) / PAGE_SIZE_X86 : EXTENT_PAGES;
  uint64_t mask;

  if (start >= last || end <= address || low >= high)
    return 0;
  mask = high - low == EXTENT_PAGES ? UINT64_MAX : ((uint64_t)1 << (high - low)) - 1;
  return mask << low;
}

static unsigned count_bits(uint64_t bits)
{
  return (unsigned)__builtin_popcountll(bits);
}

/* Shares an extent's pages out among the VMAs; all of them must be in one. */
static int count_vmas(const struct mm *mm, struct space_pages *space, const struct frame *frame,
                      struct err *e)
{
  uint64_t left = frame->present;
  size_t low = 0;
  size_t high = mm->vma_count;

  while (low < high) { /* the first VMA that ends behind the extent's begin */
    size_t middle = (low + high) / 2;

    if (mm->vmas[middle].end <= frame->address)
      low = middle + 1;
    else
      high = middle;
  }
  for (size_t i = low; i < mm->vma_count && left; i++) {
    const struct vma *vma = &mm->vmas[i];
    uint64_t mask = bits_within(frame->address, vma->start, vma->end);

    if (vma->start >= frame->address + EXTENT_SIZE)
      break;
    space->vma_present[i] += count_bits(frame->present & mask);
    space->vma_stored[i] += count_bits(frame->stored & mask);
    left &= ~mask;
  }
  return left ? err_set(e, "holds pages that no mapping has") : 0;
}

static int check_object(const struct file *file, const struct frame *frame, struct err *e)
{
  unsigned last = EXTENT_PAGES - 1 - (unsigned)__builtin_clzll(frame->present | 1);
  uint64_t end = frame->address + (uint64_t)(last + 1) * PAGE_SIZE_X86;
  uint64_t size = (file->size + PAGE_SIZE_X86 - 1) & ~(uint64_t)(PAGE_SIZE_X86 - 1);

  return frame->present && end > size ? err_set(e, "holds pages past the object's end") : 0;
}

static int check_payload(const struct inspection *inspection, const struct frame *frame,
                         struct err *e)
{
  if (!inspection->verify || frame->codec == CODEC_NONE)
    return 0;
  return codec_decompress(inspection->codecs, frame->codec, frame->payload, frame->length,
                          inspection->scratch, frame_raw_length(frame), e);
}

static int count_pages(struct inspection *inspection, const struct frame *frame, struct err *e)
{
  struct space_pages *space = find_space(inspection, frame->space);
  const struct mm *mm = tree_mm(&inspection->tree, frame->space);
  const struct file *file = NULL;

  for (size_t i = 0; i < inspection->tree.file_count && !file; i++) {
    if (inspection->tree.files[i].space == frame->space)
      file = &inspection->tree.files[i];
  }
  if (!space || (!mm && !file))
    return err_set(e, "is unknown");
  if (frame->type == FRAME_INHERIT) {
    if (!mm || !mm->parent)
      return err_set(e, "has no parent to inherit from");
    space->inherited += count_bits(frame->present);
  } else {
    space->present += count_bits(frame->present);
    space->stored += count_bits(frame->stored);
    space->payload_bytes += frame->length;
    if (frame->codec != CODEC_NONE) {
      space->compressed += count_bits(frame->stored);
      space->compressed_bytes += frame->length;
    }
  }
  if ((mm ? count_vmas(mm, space, frame, e) : check_object(file, frame, e)) < 0)
    return -1;
  return check_payload(inspection, frame, e);
}

static int add_state(struct inspection *inspection, const struct frame *frame, struct err *e)
{
  json_t *object;

  if (tree_add_json(&inspection->tree, frame->payload, frame->length, e) < 0)
    return -1;
  object = json_loadb(frame->payload, frame->length, 0, NULL);
  return json_array_append_new(inspection->objects, object) == 0 ? 0 : err_set(e, "out of memory");
}

static int add_frame(const struct frame *frame, void *argument, struct err *e)
{
  struct inspection *inspection = argument;

  inspection->frames++;
  inspection->bytes += FRAME_HEADER_SIZE + frame->length;
  if (frame->type == FRAME_STATE)
    return add_state(inspection, frame, e);
  if (frame->type != FRAME_PAGES && frame->type != FRAME_INHERIT)
    return 0;
  if (begin_pages(inspection, e) < 0)
    return -1;
  if (count_pages(inspection, frame, e) < 0)
    return err_prefix(e, "frame %" PRIu64 ": space %u, address %#" PRIx64, inspection->frames,
                      frame->space, frame->address);
  return 0;
}

static int read_stream(struct inspection *inspection, int fd, struct err *e)
{
  struct stream_reader *reader = stream_reader_new(fd, &inspection->header, e);
  struct frame frame;
  int result;

  if (!reader)
    return -1;
  while ((result = stream_read(reader, &frame, e)) > 0) {
    if (add_frame(&frame, inspection, e) < 0) {
      result = -1;
      break;
    }
  }
  stream_reader_free(reader);
  return result;
}

static void *image_payload(void *argument)
{
  return ((struct inspection *)argument)->scratch + EXTENT_SIZE;
}

int inspect_read(struct inspection *inspection, const char *path, bool verify, struct err *e)
{
  int result;

  *inspection = (struct inspection){
      .verify = verify,
      .bytes = STREAM_HEADER_SIZE + FRAME_HEADER_SIZE + END_PAYLOAD_SIZE,
  };
  inspection->objects = json_array();
  /* One half for what is decompressed, one for what is read from an image. */
  inspection->scratch = malloc(2 * (size_t)EXTENT_SIZE);
  if (!inspection->objects || !inspection->scratch)
    return err_set(e, "out of memory");
  inspection->codecs = codec_context_new(e);
  if (!inspection->codecs)
    return -1;
  if (strcmp(path, "-") == 0)
    result = read_stream(inspection, STDIN_FILENO, e);
  else
    result = image_walk(path, &inspection->header, verify ? image_payload : NULL, add_frame,
                        inspection, e);
  return result < 0 ? -1 : begin_pages(inspection, e);
}

void inspect_free(struct inspection *inspection)
{
  for (size_t i = 0; i < inspection->space_count; i++) {
    free(inspection->spaces[i].vma_present);
    free(inspection->spaces[i].vma_stored);
  }
  free(inspection->spaces);
  free(inspection->scratch);
  codec_context_cleanup(&inspection->codecs);
  json_decref(inspection->objects);
  tree_free(&inspection->tree);
}

struct space_pages inspect_totals(const struct inspection *inspection)
{
  struct space_pages sum = {0};

  for (size_t i = 0; i < inspection->space_count; i++) {
    const struct space_pages *space = &inspection->spaces[i];

    sum.present += space->present;
    sum.inherited += space->inherited;
    sum.stored += space->stored;
    sum.compressed += space->compressed;
    sum.payload_bytes += space->payload_bytes;
    sum.compressed_bytes += space->compressed_bytes;
  }
  return sum;
}
