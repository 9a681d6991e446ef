#include "codec/filter.h"

#include <string.h>

enum { BLOCK_WORDS = 32 }; /* 256 bytes are looked at before the loop may end */

/* A loop that the compiler vectorises: no exit within a block. */
__attribute__((optimize("O3"), target_clones("avx2", "default"))) static bool is_zero_page(
    const uint64_t *words)
{
  for (size_t block = 0; block < PAGE_SIZE_X86 / sizeof(*words); block += BLOCK_WORDS) {
    uint64_t any = 0;

    for (size_t i = 0; i < BLOCK_WORDS; i++)
      any |= words[block + i];
    if (any)
      return false;
  }
  return true;
}

int filter_scan_zero(struct frame *frame, struct codec_context *context, void *out,
                     const void *argument, struct err *e)
{
  const uint8_t *page = frame->payload;
  uint64_t kept = 0;
  uint8_t *to = out;

  (void)context;
  (void)argument;
  (void)e;
  if (frame->codec != CODEC_NONE)
    return 0;
  for (uint64_t bits = frame->stored; bits; bits &= bits - 1, page += PAGE_SIZE_X86) {
    if (!is_zero_page((const uint64_t *)(const void *)page))
      kept |= bits & -bits;
  }
  if (kept == frame->stored)
    return 0;
  page = frame->payload;
  for (uint64_t bits = frame->stored; bits; bits &= bits - 1, page += PAGE_SIZE_X86) {
    if (kept & bits & -bits) {
      memcpy(to, page, PAGE_SIZE_X86);
      to += PAGE_SIZE_X86;
    }
  }
  frame->stored = kept;
  frame->length = frame_raw_length(frame);
  frame->payload = out;
  frame->crc_known = false;
  return 0;
}

int filter_compress(struct frame *frame, struct codec_context *context, void *out,
                    const void *argument, struct err *e)
{
  uint8_t codec = *(const uint8_t *)argument;
  size_t length;

  (void)e;
  if (frame->codec != CODEC_NONE || frame->length == 0)
    return 0;
  length = codec_compress(context, codec, frame->payload, frame->length, out);
  if (length == 0)
    return 0;
  frame->codec = codec;
  frame->length = (uint32_t)length;
  frame->payload = out;
  frame->crc_known = false;
  return 0;
}

int filter_decompress(struct frame *frame, struct codec_context *context, void *out,
                      const void *argument, struct err *e)
{
  (void)argument;
  if (frame->codec == CODEC_NONE)
    return 0;
  if (codec_decompress(context, frame->codec, frame->payload, frame->length, out,
                       frame_raw_length(frame), e) < 0)
    return -1;
  frame->codec = CODEC_NONE;
  frame->length = frame_raw_length(frame);
  frame->payload = out;
  frame->crc_known = false;
  return 0;
}
