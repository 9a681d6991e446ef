/* Puts right checksums into fuzzed bytes, so that what lies behind them is reached, too. */
#ifndef CKPT_TESTS_SEAL_H
#define CKPT_TESTS_SEAL_H

#include "stream/crc32c.h"
#include "stream/frame.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void seal(uint8_t *at, size_t size)
{
  uint32_t crc = crc32c(0, at, size - 4);

  memcpy(at + size - 4, &crc, 4);
}

/* Headers and payloads as lib/stream/FORMAT.md has them, for as far as they are there. */
static inline void seal_stream(uint8_t *data, size_t size)
{
  if (size < STREAM_HEADER_SIZE)
    return;
  seal(data, STREAM_HEADER_SIZE);
  for (size_t at = STREAM_HEADER_SIZE; size - at >= FRAME_HEADER_SIZE;) {
    uint32_t length, crc;

    memcpy(&length, data + at + 4, 4);
    if (length > size - at - FRAME_HEADER_SIZE)
      return;
    crc = crc32c(0, data + at + FRAME_HEADER_SIZE, length);
    memcpy(data + at + 8, &crc, 4);
    seal(data + at, FRAME_HEADER_SIZE);
    at += FRAME_HEADER_SIZE + length;
  }
}

/* The index of an image: lib/image/FORMAT.md. */
static inline void seal_index(uint8_t *data, size_t size)
{
  if (size < STREAM_HEADER_SIZE)
    return;
  seal(data, STREAM_HEADER_SIZE);
  for (size_t at = STREAM_HEADER_SIZE; size - at >= 64; at += 64) {
    seal(data + at, FRAME_HEADER_SIZE);
    seal(data + at, 64);
  }
}

#endif
