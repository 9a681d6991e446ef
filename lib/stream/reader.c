#include "base/cleanup.h"
#include "base/io.h"
#include "stream/crc32c.h"
#include "stream/stream.h"
#include "stream/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

struct stream_reader {
  int fd;
  uint64_t offset; /* of the next byte */
  void *payload;   /* of stream_read */
  size_t room;
  struct wire_count count;
  bool ended;
};

/* Reads exactly; an early end is told by its offset. */
static int take(struct stream_reader *reader, void *buffer, size_t size, struct err *e)
{
  ssize_t n = io_read(reader->fd, buffer, size);

  if (n < 0)
    return err_sys(e, "offset %" PRIu64, reader->offset);
  reader->offset += (uint64_t)n;
  if ((size_t)n < size)
    return err_set(e, "the stream ends at offset %" PRIu64 " without END", reader->offset);
  return 0;
}

struct stream_reader *stream_reader_new(int fd, struct stream_header *header, struct err *e)
{
  struct stream_reader *reader = calloc(1, sizeof(*reader));
  uint8_t bytes[STREAM_HEADER_SIZE];

  if (!reader) {
    err_sys(e, "reader");
    return NULL;
  }
  reader->fd = fd;
  /* As large as it may be; refused or not a pipe: never mind. */
  fcntl(fd, F_SETPIPE_SZ, 1 << 20);
  if (take(reader, bytes, sizeof(bytes), e) < 0 || wire_get_header(bytes, header, e) < 0) {
    stream_reader_free(reader);
    return NULL;
  }
  return reader;
}

void stream_reader_free(struct stream_reader *reader)
{
  if (reader)
    free(reader->payload);
  free(reader);
}

static int make_room(void **buffer, size_t *room, size_t size, struct err *e)
{
  /* Extents from the start, state frames as they come: bounded by the limit of a payload. */
  size_t wanted = size < EXTENT_SIZE ? EXTENT_SIZE : size;
  void *larger;

  if (wanted <= *room)
    return 0;
  if (posix_memalign(&larger, PAGE_SIZE_X86, wanted))
    return err_set(e, "out of memory for a payload of %zu bytes", size);
  free(*buffer);
  *buffer = larger;
  *room = wanted;
  return 0;
}

static int check_end(struct stream_reader *reader, const uint8_t *payload, struct err *e)
{
  uint8_t expected[END_PAYLOAD_SIZE];
  uint8_t more;

  wire_put_end(&reader->count, expected);
  if (memcmp(expected, payload, sizeof(expected)) != 0)
    return err_set(e, "offset %" PRIu64 ": END: totals do not match the frames before it",
                   reader->offset - END_PAYLOAD_SIZE);
  if (io_read(reader->fd, &more, 1) != 0)
    return err_set(e, "offset %" PRIu64 ": bytes after END", reader->offset);
  reader->ended = true;
  return 0;
}

int stream_next(struct stream_reader *reader, struct frame *frame, struct err *e)
{
  uint64_t start = reader->offset;
  uint8_t bytes[FRAME_HEADER_SIZE];

  if (reader->ended)
    return 0;
  if (take(reader, bytes, sizeof(bytes), e) < 0)
    return -1;
  if (wire_get_frame(bytes, frame, e) < 0)
    return err_prefix(e, "offset %" PRIu64, start);
  if (frame->type == FRAME_STATE && reader->count.pages_seen)
    return err_set(e, "offset %" PRIu64 ": STATE frame behind page frames", start);
  frame->offset = reader->offset;
  if (frame->type != FRAME_END) {
    wire_count(&reader->count, frame, get32(bytes + 44));
    return 1;
  }
  {
    uint8_t payload[END_PAYLOAD_SIZE];

    return stream_payload(reader, frame, payload, e) < 0 ? -1 : check_end(reader, payload, e);
  }
}

int stream_payload_unchecked(struct stream_reader *reader, struct frame *frame, void *buffer,
                             struct err *e)
{
  frame->payload = buffer;
  return take(reader, buffer, frame->length, e);
}

int stream_check_payload(const struct frame *frame, struct err *e)
{
  if (crc32c(0, frame->payload, frame->length) != frame->payload_crc)
    return err_set(e, "offset %" PRIu64 ": payload: checksum does not match", frame->offset);
  return 0;
}

int stream_payload(struct stream_reader *reader, struct frame *frame, void *buffer, struct err *e)
{
  return stream_payload_unchecked(reader, frame, buffer, e) < 0 ? -1
                                                                : stream_check_payload(frame, e);
}

int stream_hand_over(struct stream_reader *reader, uint32_t length)
{
  reader->offset += length;
  return reader->fd;
}

int stream_payload_into(struct stream_reader *reader, struct frame *frame, void **buffer,
                        size_t *room, struct err *e)
{
  if (make_room(buffer, room, frame->length, e) < 0)
    return -1;
  return stream_payload(reader, frame, *buffer, e);
}

int stream_read(struct stream_reader *reader, struct frame *frame, struct err *e)
{
  int result = stream_next(reader, frame, e);

  if (result == 1 && stream_payload_into(reader, frame, &reader->payload, &reader->room, e) < 0)
    return -1;
  return result;
}

struct stream_totals stream_reader_totals(const struct stream_reader *reader)
{
  struct stream_totals totals = reader->count.totals;

  totals.bytes = reader->offset;
  return totals;
}
