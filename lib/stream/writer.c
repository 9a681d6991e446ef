#include "base/cleanup.h"
#include "base/io.h"
#include "stream/crc32c.h"
#include "stream/stream.h"
#include "stream/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

/*
 * The ring that payloads are made in. A page that was vmspliced stays referenced by the pipe until
 * it is read; when the ring is larger than all that a pipe holds, a page comes round only after its
 * bytes have left. So the next payload begins right behind the last one that was spliced, however
 * short that was. Four times the pipe's room is cheap.
 */
enum {
  PIPE_ROOM = 1 << 20,
  RING_SIZE = 4 << 20,
};

struct stream_writer {
  int fd;
  struct wire_count count;
  uint64_t bytes;
  uint8_t *ring;
  size_t slot; /* offset in the ring where the next payload is made */
  bool splices;
};

static uint8_t *new_ring(struct err *e)
{
  uint8_t *ring = mmap(NULL, RING_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  if (ring == MAP_FAILED) {
    err_sys(e, "ring");
    return NULL;
  }
  madvise(ring, RING_SIZE, MADV_HUGEPAGE);
  /* A fork would turn the pages copy-on-write under the pipe's feet. */
  madvise(ring, RING_SIZE, MADV_DONTFORK);
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
    munmap(writer->ring, RING_SIZE);
  free(writer);
}

void stream_writer_trust_reader(struct stream_writer *writer)
{
  int room = fcntl(writer->fd, F_GETPIPE_SZ);

  writer->splices = room > 0 && room <= RING_SIZE / 4;
}

void *stream_slot(struct stream_writer *writer)
{
  return writer->ring + writer->slot;
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

/* The slot behind a payload of so many bytes, or the first again. */
static void next_slot(struct stream_writer *writer, size_t length)
{
  writer->slot += (length + PAGE_SIZE_X86 - 1) & ~(size_t)(PAGE_SIZE_X86 - 1);
  if (writer->slot + EXTENT_SIZE > RING_SIZE)
    writer->slot = 0;
}

static int splice_all(struct stream_writer *writer, struct iovec part, struct err *e)
{
  next_slot(writer, part.iov_len);
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

static int put(struct stream_writer *writer, uint8_t *header, const struct frame *frame,
               struct err *e)
{
  struct iovec parts[2] = {
      {.iov_base = header, .iov_len = FRAME_HEADER_SIZE},
      {.iov_base = (void *)frame->payload, .iov_len = frame->length},
  };
  bool in_slot = frame->payload == stream_slot(writer);

  writer->bytes += FRAME_HEADER_SIZE + (uint64_t)frame->length;
  /* A short payload shares a pipe page with its header; its copy is cheaper than its own page. */
  if (!in_slot || !writer->splices || frame->length < 4 * PAGE_SIZE_X86)
    return write_all(writer, parts, frame->length ? 2 : 1, e);
  if (write_all(writer, parts, 1, e) < 0)
    return -1;
  return splice_all(writer, parts[1], e);
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
