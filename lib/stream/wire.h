/* Headers between memory and bytes, for reader and writer. FORMAT.md has the offsets. */
#ifndef CKPT_STREAM_WIRE_H
#define CKPT_STREAM_WIRE_H

#include "base/err.h"
#include "stream/frame.h"
#include "stream/stream.h"

#include <endian.h>
#include <string.h>

enum {
  END_PAYLOAD_SIZE = 48,
  PAGES_PAYLOAD_LIMIT = EXTENT_SIZE,
};

static inline void put16(uint8_t *at, uint16_t value)
{
  value = htole16(value);
  memcpy(at, &value, sizeof(value));
}

static inline void put32(uint8_t *at, uint32_t value)
{
  value = htole32(value);
  memcpy(at, &value, sizeof(value));
}

static inline void put64(uint8_t *at, uint64_t value)
{
  value = htole64(value);
  memcpy(at, &value, sizeof(value));
}

static inline uint16_t get16(const uint8_t *at)
{
  uint16_t value;

  memcpy(&value, at, sizeof(value));
  return le16toh(value);
}

static inline uint32_t get32(const uint8_t *at)
{
  uint32_t value;

  memcpy(&value, at, sizeof(value));
  return le32toh(value);
}

static inline uint64_t get64(const uint8_t *at)
{
  uint64_t value;

  memcpy(&value, at, sizeof(value));
  return le64toh(value);
}

void wire_put_header(const struct stream_header *header, uint8_t bytes[STREAM_HEADER_SIZE]);
int wire_get_header(const uint8_t bytes[STREAM_HEADER_SIZE], struct stream_header *header,
                    struct err *e);

/* The frame's header; payload_crc must be set. Returns the header's own CRC. */
uint32_t wire_put_frame(const struct frame *frame, uint8_t bytes[FRAME_HEADER_SIZE]);
/* Checks everything that the header alone tells. */
int wire_get_frame(const uint8_t bytes[FRAME_HEADER_SIZE], struct frame *frame, struct err *e);

/* What END sums up. */
struct wire_count {
  struct stream_totals totals;
  uint32_t chain;
  bool pages_seen;
};

/* Counts a frame that is not END. */
void wire_count(struct wire_count *count, const struct frame *frame, uint32_t header_crc);
/* Where the reader's next byte comes from, for who takes `length` of them past it. */
int stream_hand_over(struct stream_reader *reader, uint32_t length);
/* Writes the frame with the payload that is next in fd; its checksum is the frame's. */
int stream_pass_from(struct stream_writer *writer, int fd, const struct frame *frame,
                     struct err *e);

void wire_put_end(const struct wire_count *count, uint8_t bytes[END_PAYLOAD_SIZE]);

#endif
