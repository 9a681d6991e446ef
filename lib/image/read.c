#include "base/cleanup.h"
#include "base/io.h"
#include "base/policy.h"
#include "image/ahead.h"
#include "image/cache.h"
#include "image/image.h"
#include "image/names.h"
#include "stream/crc32c.h"
#include "stream/stats.h"
#include "stream/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* A file that is looked at as a whole. */
struct view {
  const uint8_t *bytes;
  size_t size;
};

struct image_reader {
  const char *path;
  struct view checkpoint, meta;
  int pages;
  uint64_t pages_size;
  size_t state_end; /* offset of the END frame in checkpoint.img */
  struct stream_header header;
  bool direct;
  char *pages_name;
  struct ahead *ahead; /* reads pages.img directly; NULL: not, or not yet */
};

enum { ALIGNMENT = 4096 };

static int open_file(const char *path, enum image_file which, uint64_t *size, struct err *e)
{
  AUTO_FREE char *name = io_format(e, "%s/%s", path, image_names[which].final);
  AUTO_CLOSE int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
  struct stat stat;

  if (!name)
    return -1;
  if (fd < 0 && errno == ENOENT && which == IMAGE_CHECKPOINT)
    return err_set(e, "%s: holds no checkpoint", path);
  if (fd < 0 || fstat(fd, &stat) < 0)
    return err_sys(e, "%s", name);
  *size = (uint64_t)stat.st_size;
  return take_fd(&fd);
}

static int view_file(const char *path, enum image_file which, struct view *view, struct err *e)
{
  uint64_t size;
  AUTO_CLOSE int fd = open_file(path, which, &size, e);
  void *bytes;

  if (fd < 0)
    return -1;
  if (size < STREAM_HEADER_SIZE)
    return err_set(e, "%s/%s: is too short", path, image_names[which].final);
  bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (bytes == MAP_FAILED)
    return err_sys(e, "%s/%s", path, image_names[which].final);
  *view = (struct view){bytes, size};
  return 0;
}

static void close_image(struct image_reader *reader)
{
  if (reader->checkpoint.bytes)
    munmap((void *)reader->checkpoint.bytes, reader->checkpoint.size);
  if (reader->meta.bytes)
    munmap((void *)reader->meta.bytes, reader->meta.size);
  ahead_free(reader->ahead);
  free(reader->pages_name);
  cleanup_close(&reader->pages);
}

/* One frame at an offset of checkpoint.img, checked whole. */
static int state_frame(const struct view *view, size_t at, struct frame *frame, struct err *e)
{
  if (view->size - at < FRAME_HEADER_SIZE)
    return err_set(e, "offset %zu: the file ends within a frame", at);
  if (wire_get_frame(view->bytes + at, frame, e) < 0)
    return err_prefix(e, "offset %zu", at);
  if (view->size - at - FRAME_HEADER_SIZE < frame->length)
    return err_set(e, "offset %zu: the file ends within a frame", at);
  frame->payload = view->bytes + at + FRAME_HEADER_SIZE;
  if (crc32c(0, frame->payload, frame->length) != frame->payload_crc)
    return err_set(e, "offset %zu: payload: checksum does not match", at + FRAME_HEADER_SIZE);
  return 0;
}

static int check_checkpoint(struct image_reader *reader, struct wire_count *count,
                            const uint8_t **end, struct err *e)
{
  const struct view *view = &reader->checkpoint;
  struct frame frame;
  size_t at = STREAM_HEADER_SIZE;

  if (wire_get_header(view->bytes, &reader->header, e) < 0)
    return -1;
  for (;; at += FRAME_HEADER_SIZE + frame.length) {
    if (state_frame(view, at, &frame, e) < 0)
      return -1;
    if (frame.type == FRAME_END)
      break;
    if (frame.type == FRAME_PAGES || frame.type == FRAME_INHERIT)
      return err_set(e, "offset %zu: a page frame does not belong here", at);
    wire_count(count, &frame, get32(view->bytes + at + 44));
  }
  if (at + FRAME_HEADER_SIZE + END_PAYLOAD_SIZE != view->size)
    return err_set(e, "offset %zu: bytes after END", at);
  reader->state_end = at;
  *end = frame.payload;
  return 0;
}

static int check_meta_header(const struct image_reader *reader, struct err *e)
{
  uint8_t bytes[STREAM_HEADER_SIZE];
  struct stream_header header;

  memcpy(bytes, reader->meta.bytes, sizeof(bytes));
  if (memcmp(bytes, META_MAGIC, 8) != 0)
    return err_set(e, "offset 0: not an index of pages");
  if (get32(bytes + 60) != crc32c(0, bytes, 60))
    return err_set(e, "offset 0: checksum does not match");
  memcpy(bytes, STREAM_MAGIC, 8);
  put32(bytes + 60, crc32c(0, bytes, 60));
  if (wire_get_header(bytes, &header, e) < 0)
    return -1;
  if (memcmp(header.image_id, reader->header.image_id, sizeof(header.image_id)) != 0)
    return err_set(e, "is of another image than checkpoint.img");
  if ((reader->meta.size - STREAM_HEADER_SIZE) % META_RECORD_SIZE)
    return err_set(e, "ends within a record");
  return 0;
}

static int get_record(const struct view *meta, size_t at, struct frame *frame, uint64_t *offset,
                      struct err *e)
{
  const uint8_t *record = meta->bytes + at;

  if (get32(record + 60) != crc32c(0, record, 60) || get32(record + 56) != 0)
    return err_set(e, "offset %zu: record: checksum does not match", at);
  if (wire_get_frame(record, frame, e) < 0)
    return err_prefix(e, "offset %zu", at);
  *offset = get64(record + 48);
  return 0;
}

/* Where the payload must begin: what is not compressed is aligned. */
static uint64_t expected_offset(const struct frame *frame, uint64_t end)
{
  if (frame->length == 0)
    return 0;
  return frame->codec == CODEC_NONE ? (end + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1) : end;
}

static int check_meta(const struct image_reader *reader, struct wire_count *count, struct err *e)
{
  uint64_t end = 0;

  if (check_meta_header(reader, e) < 0)
    return -1;
  for (size_t at = STREAM_HEADER_SIZE; at < reader->meta.size; at += META_RECORD_SIZE) {
    struct frame frame;
    uint64_t offset;

    if (get_record(&reader->meta, at, &frame, &offset, e) < 0)
      return -1;
    if (frame.type == FRAME_STATE || frame.type == FRAME_END ||
        offset != expected_offset(&frame, end))
      return err_set(e, "offset %zu: record does not belong here", at);
    if (frame.length)
      end = offset + frame.length;
    wire_count(count, &frame, get32(reader->meta.bytes + at + 44));
  }
  if (end != reader->pages_size)
    return err_set(e, "tells of %" PRIu64 " bytes, but pages.img has %" PRIu64, end,
                   reader->pages_size);
  return 0;
}

static int check_image(struct image_reader *reader, struct err *e)
{
  struct wire_count count = {0};
  uint8_t expected[END_PAYLOAD_SIZE];
  const uint8_t *end = NULL;

  if (check_checkpoint(reader, &count, &end, e) < 0)
    return err_prefix(e, "%s/checkpoint.img", reader->path);
  if (check_meta(reader, &count, e) < 0)
    return err_prefix(e, "%s/pages_meta.img", reader->path);
  wire_put_end(&count, expected);
  if (memcmp(expected, end, sizeof(expected)) != 0)
    return err_set(e, "%s: its files do not belong together: totals do not match", reader->path);
  return 0;
}

static int open_image(struct image_reader *reader, enum image_cache cache, struct err *e)
{
  if (view_file(reader->path, IMAGE_CHECKPOINT, &reader->checkpoint, e) < 0 ||
      view_file(reader->path, IMAGE_META, &reader->meta, e) < 0)
    return -1;
  reader->pages = open_file(reader->path, IMAGE_PAGES, &reader->pages_size, e);
  reader->pages_name = io_format(e, "%s/%s", reader->path, image_names[IMAGE_PAGES].final);
  if (reader->pages < 0 || !reader->pages_name)
    return -1;
  reader->direct = cache == IMAGE_CACHE_DIRECT ||
                   (cache == IMAGE_CACHE_AUTO && !cache_holds(reader->pages, reader->pages_size));
  if (!reader->direct)
    posix_fadvise(reader->pages, 0, 0, POSIX_FADV_SEQUENTIAL);
  return check_image(reader, e);
}

/* Through the page cache there is nothing to be won by reading elsewhere first. */
static int read_pages(struct image_reader *reader, uint64_t offset, void *to, size_t size,
                      struct err *e)
{
  ssize_t n;

  if (reader->direct && !reader->ahead) {
    reader->ahead = ahead_new(reader->pages, reader->pages_size, reader->pages_name, e);
    if (!reader->ahead)
      return -1;
  }
  if (reader->ahead)
    return ahead_read(reader->ahead, offset, to, size, e);
  n = io_pread(reader->pages, to, size, (off_t)offset);
  if (n < 0)
    return err_sys(e, "%s", reader->pages_name);
  return (size_t)n == size ? 0 : err_set(e, "%s: ends early", reader->pages_name);
}

/* What lies between two payloads, less than a page, must be zero. */
static int check_gap(struct image_reader *reader, uint64_t start, uint64_t end, struct err *e)
{
  uint8_t bytes[ALIGNMENT];

  if (start == end)
    return 0;
  if (read_pages(reader, start, bytes, end - start, e) < 0)
    return -1;
  for (size_t i = 0; i < end - start; i++) {
    if (bytes[i])
      return err_set(e, "%s: offset %" PRIu64 ": bytes between payloads", reader->pages_name,
                     start + i);
  }
  return 0;
}

/* Where a payload is put: into the buffer, or, longer than any that we know of, into `longer`. */
static int load_payload(struct image_reader *reader, struct frame *frame, uint64_t offset,
                        uint64_t *end, void *buffer, void **longer, struct err *e)
{
  if (frame->length > EXTENT_SIZE) {
    buffer = *longer = realloc(*longer, frame->length);
    if (!buffer)
      return err_sys(e, "payload of %u bytes", frame->length);
  }
  if (frame->length) {
    if (check_gap(reader, *end, offset, e) < 0 ||
        read_pages(reader, offset, buffer, frame->length, e) < 0)
      return -1;
    *end = offset + frame->length;
  }
  if (crc32c(0, buffer, frame->length) != frame->payload_crc)
    return err_set(e, "%s: offset %" PRIu64 ": checksum does not match", reader->pages_name,
                   offset);
  frame->payload = buffer;
  return 0;
}

struct walk {
  image_buffer *buffer; /* NULL: payloads of page frames stay where they are */
  image_visit *visit;
  void *argument;
};

static int walk_frames(struct image_reader *reader, const struct walk *walk, struct err *e)
{
  AUTO_FREE void *longer = NULL;
  struct frame frame;
  uint64_t end = 0;

  for (size_t at = STREAM_HEADER_SIZE; at < reader->state_end;
       at += FRAME_HEADER_SIZE + frame.length) {
    if (state_frame(&reader->checkpoint, at, &frame, e) < 0 ||
        walk->visit(&frame, walk->argument, e) < 0)
      return -1;
  }
  for (size_t at = STREAM_HEADER_SIZE; at < reader->meta.size; at += META_RECORD_SIZE) {
    uint64_t offset;

    if (get_record(&reader->meta, at, &frame, &offset, e) < 0)
      return -1;
    if (walk->buffer &&
        load_payload(reader, &frame, offset, &end, walk->buffer(walk->argument), &longer, e) < 0)
      return -1;
    if (walk->visit(&frame, walk->argument, e) < 0)
      return -1;
  }
  return 0;
}

int image_walk(const char *path, struct stream_header *header, image_buffer *buffer,
               image_visit *visit, void *argument, struct err *e)
{
  CLEANUP(close_image) struct image_reader reader = {.path = path, .pages = -1};
  const struct walk walk = {buffer, visit, argument};

  if (open_image(&reader, IMAGE_CACHE_AUTO, e) < 0)
    return -1;
  *header = reader.header;
  return walk_frames(&reader, &walk, e);
}

static void *next_slot(void *writer)
{
  return stream_slot(writer);
}

static int send_frame(const struct frame *frame, void *writer, struct err *e)
{
  return stream_write(writer, frame, e);
}

int image_read(const char *path, enum image_cache cache, bool splice, int out_fd, int stats_fd,
               struct err *e)
{
  CLEANUP(close_image) struct image_reader reader = {.path = path, .pages = -1};
  struct stats_clock clock = stats_start();
  struct stream_writer *writer;
  int result;

  policy_batch();
  if (open_image(&reader, cache, e) < 0)
    return -1;
  writer = stream_writer_new(out_fd, &reader.header, e);
  if (!writer)
    return -1;
  if (splice)
    stream_writer_trust_reader(writer);
  result = walk_frames(&reader, &(struct walk){next_slot, send_frame, writer}, e);
  if (result == 0)
    result = stream_write_end(writer, e);
  if (result == 0)
    result = stats_write(stats_fd, "ckpt-read-direct", &clock,
                         reader.pages_size + reader.meta.size + reader.checkpoint.size,
                         stream_writer_totals(writer).bytes, NULL, e);
  stream_writer_free(writer);
  return result;
}
