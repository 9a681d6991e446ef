#include "base/cleanup.h"
#include "base/io.h"
#include "stream/crc32c.h"
#include "stream/stream.h"
#include "stream/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

/*
 * The ring of slots that payloads are made in. A page that was vmspliced stays referenced by the
 * pipe until it is read, and a pipe holds as many pages as it has buffers, whatever is in them: so
 * a slot is free again when as many pages have followed it. A filter behind us may splice them on
 * into its own pipe, and the next into the next: room for four pipes is cheap.
 */
enum {
  PIPE_ROOM = 1 << 20,
  PIPES = 4,
  /* A short payload shares pipe pages with its header; its copy is cheaper than its own pages. */
  SPLICE_PAGES = 16,
  IN_PIPES = PIPES * PIPE_ROOM / PAGE_SIZE_X86 / SPLICE_PAGES, /* slots */
  SLOTS = STREAM_SLOTS + IN_PIPES + 1,
};

static const size_t ring_size = (size_t)SLOTS * EXTENT_SIZE; /* what is not used is not there */

struct slot {
  uint64_t free_at; /* when so many pages were spliced */
  bool taken;
};

struct stream_writer {
  int fd;
  struct wire_count count;
  uint64_t bytes;
  uint8_t *ring;
  struct slot slots[SLOTS];
  void *current;    /* the slot of stream_slot */
  uint64_t spliced; /* pages */
  bool splices;
};

static uint8_t *new_ring(struct err *e)
{
  uint8_t *ring = mmap(NULL, ring_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  if (ring == MAP_FAILED) {
    err_sys(e, "ring");
    return NULL;
  }
  madvise(ring, ring_size, MADV_HUGEPAGE);
  /* A fork would turn the pages copy-on-write under the pipe's feet. */
  madvise(ring, ring_size, MADV_DONTFORK);
  return ring;
}

struct stream_writer *stream_writer_new(int fd, const struct stream_header *header, struct err *e)
{
  struct stream_writer *writer = calloc(1, sizeof(*writer));
  uint8_t bytes[STREAM_HEADER_SIZE];

  if (!writer) {
    err_sys(e, "writer");
    return NULL;
  }
  writer->fd = fd;
  fcntl(fd, F_SETPIPE_SZ, PIPE_ROOM);
  wire_put_header(header, bytes);
  writer->ring = new_ring(e);
  if (!writer->ring || io_write(fd, bytes, sizeof(bytes)) < 0) {
    err_sys(e, "write");
    stream_writer_free(writer);
    return NULL;
  }
  writer->bytes = sizeof(bytes);
  return writer;
}

void stream_writer_free(struct stream_writer *writer)
{
  if (writer && writer->ring)
    munmap(writer->ring, ring_size);
  free(writer);
}

void stream_writer_trust_reader(struct stream_writer *writer)
{
  int room = fcntl(writer->fd, F_GETPIPE_SZ);

  writer->splices = room > 0 && room <= PIPE_ROOM;
}

void *stream_slot_take(struct stream_writer *writer)
{
  for (size_t i = 0; i < SLOTS; i++) {
    if (!writer->slots[i].taken && writer->slots[i].free_at <= writer->spliced) {
      writer->slots[i].taken = true;
      return writer->ring + i * EXTENT_SIZE;
    }
  }
  return NULL; /* more than STREAM_SLOTS are taken */
}

/* The slot that begins at the address, or NULL. */
static struct slot *slot_at(struct stream_writer *writer, const void *address)
{
  uintptr_t offset = (uintptr_t)address - (uintptr_t)writer->ring;

  return offset < ring_size && offset % EXTENT_SIZE == 0 ? &writer->slots[offset / EXTENT_SIZE]
                                                         : NULL;
}

void *stream_slot_renew(struct stream_writer *writer, void *slot)
{
  struct slot *old = slot_at(writer, slot);

  if (old->free_at <= writer->spliced)
    return slot;
  old->taken = false;
  return stream_slot_take(writer);
}

void *stream_slot(struct stream_writer *writer)
{
  writer->current =
      writer->current ? stream_slot_renew(writer, writer->current) : stream_slot_take(writer);
  return writer->current;
}

static int write_all(struct stream_writer *writer, struct iovec *parts, int count, struct err *e)
{
  while (count) {
    ssize_t n = writev(writer->fd, parts, count);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return err_sys(e, "write");
    for (; count && (size_t)n >= parts->iov_len; parts++, count--)
      n -= (ssize_t)parts->iov_len;
    if (count) {
      parts->iov_base = (char *)parts->iov_base + n;
      parts->iov_len -= (size_t)n;
    }
  }
  return 0;
}

static int splice_all(struct stream_writer *writer, struct slot *slot, struct iovec part,
                      struct err *e)
{
  writer->spliced += (part.iov_len + PAGE_SIZE_X86 - 1) / PAGE_SIZE_X86;
  slot->free_at = writer->spliced + (uint64_t)PIPES * PIPE_ROOM / PAGE_SIZE_X86;
  while (part.iov_len) {
    ssize_t n = vmsplice(writer->fd, &part, 1, 0);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return err_sys(e, "vmsplice");
    part.iov_base = (char *)part.iov_base + n;
    part.iov_len -= (size_t)n;
  }
  return 0;
}

/*
 * Pages that ckpt-scan-zero takes out leave the pipes before those in front of them, and say
 * nothing of when these are read: so they are copied, and not counted.
 */
static bool may_be_thinned(const struct frame *frame)
{
  return frame->type == FRAME_PAGES && frame->codec == CODEC_NONE &&
         !(frame->flags & FRAME_NO_ZEROS);
}

static int put(struct stream_writer *writer, uint8_t *header, const struct frame *frame,
               struct err *e)
{
  struct iovec parts[2] = {
      {.iov_base = header, .iov_len = FRAME_HEADER_SIZE},
      {.iov_base = (void *)frame->payload, .iov_len = frame->length},
  };
  struct slot *slot = slot_at(writer, frame->payload);
  bool stays = slot && !may_be_thinned(frame);

  writer->bytes += FRAME_HEADER_SIZE + (uint64_t)frame->length;
  if (!stays || !writer->splices || frame->length < SPLICE_PAGES * PAGE_SIZE_X86)
    return write_all(writer, parts, frame->length ? 2 : 1, e);
  if (write_all(writer, parts, 1, e) < 0)
    return -1;
  return splice_all(writer, slot, parts[1], e);
}

int stream_write(struct stream_writer *writer, const struct frame *frame, struct err *e)
{
  struct frame framed = *frame;
  uint8_t header[FRAME_HEADER_SIZE];

  if (!frame->crc_known)
    framed.payload_crc = crc32c(0, frame->payload, frame->length);
  wire_count(&writer->count, frame, wire_put_frame(&framed, header));
  return put(writer, header, frame, e);
}

/* Through our own memory, where neither end is a pipe. */
static int copy_payload(struct stream_writer *writer, int fd, size_t length, struct err *e)
{
  while (length) {
    void *buffer = stream_slot(writer);
    ssize_t n = io_read(fd, buffer, length < EXTENT_SIZE ? length : EXTENT_SIZE);

    if (n <= 0)
      return n < 0 ? err_sys(e, "read") : 1;
    if (io_write(writer->fd, buffer, (size_t)n) < 0)
      return err_sys(e, "write");
    length -= (size_t)n;
  }
  return 0;
}

/* Returns 1 when there is no more to read. */
static int move_payload(struct stream_writer *writer, int fd, size_t length, struct err *e)
{
  while (length) {
    ssize_t n = splice(fd, NULL, writer->fd, NULL, length, SPLICE_F_MOVE);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EINVAL)
      return copy_payload(writer, fd, length, e);
    if (n <= 0)
      return n < 0 ? err_sys(e, "splice") : 1;
    length -= (size_t)n;
  }
  return 0;
}

int stream_pass_from(struct stream_writer *writer, int fd, const struct frame *frame, struct err *e)
{
  uint8_t bytes[FRAME_HEADER_SIZE];
  struct iovec header = {.iov_base = bytes, .iov_len = FRAME_HEADER_SIZE};
  int result;

  wire_count(&writer->count, frame, wire_put_frame(frame, bytes));
  writer->bytes += FRAME_HEADER_SIZE + (uint64_t)frame->length;
  if (write_all(writer, &header, 1, e) < 0)
    return -1;
  result = move_payload(writer, fd, frame->length, e);
  return result > 0
             ? err_set(e, "the stream ends behind offset %" PRIu64 " without END", frame->offset)
             : result;
}

int stream_pass(struct stream_writer *writer, struct stream_reader *reader,
                const struct frame *frame, struct err *e)
{
  return stream_pass_from(writer, stream_hand_over(reader, frame->length), frame, e);
}

int stream_write_end(struct stream_writer *writer, struct err *e)
{
  uint8_t payload[END_PAYLOAD_SIZE];
  uint8_t header[FRAME_HEADER_SIZE];
  struct frame end = {
      .type = FRAME_END,
      .flags = FRAME_MUST_UNDERSTAND,
      .length = sizeof(payload),
      .payload = payload,
  };

  wire_put_end(&writer->count, payload);
  end.payload_crc = crc32c(0, payload, sizeof(payload));
  wire_put_frame(&end, header);
  return put(writer, header, &end, e);
}

struct stream_totals stream_writer_totals(const struct stream_writer *writer)
{
  struct stream_totals totals = writer->count.totals;

  totals.bytes = writer->bytes;
  return totals;
}
