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

static bool is_raw(const struct frame *frame, const void *argument)
{
  (void)argument;
  return frame->type == FRAME_PAGES && frame->codec == CODEC_NONE && frame->length > 0;
}

/* Stored pages that are not all zeros. */
static uint64_t find_kept(const struct frame *frame)
{
  const uint8_t *page = frame->payload;
  uint64_t kept = 0;

  for (uint64_t bits = frame->stored; bits; bits &= bits - 1, page += PAGE_SIZE_X86) {
    if (!is_zero_page((const uint64_t *)(const void *)page))
      kept |= bits & -bits;
  }
  return kept;
}

/* In place: those that are kept move up. */
static int scan_zero(struct frame *frame, struct codec_context *context, void *out,
                     const void *argument, struct err *e)
{
  uint64_t kept = find_kept(frame);
  uint8_t *page = (uint8_t *)frame->payload;
  uint8_t *to = page;

  (void)context;
  (void)out;
  (void)argument;
  if (kept == frame->stored)
    return 0;
  if (stream_check_payload(frame, e) < 0)
    return -1;
  for (uint64_t bits = frame->stored; bits; bits &= bits - 1, page += PAGE_SIZE_X86) {
    if (!(kept & bits & -bits))
      continue;
    if (to != page)
      memcpy(to, page, PAGE_SIZE_X86);
    to += PAGE_SIZE_X86;
  }
  frame->stored = kept;
  frame->length = frame_raw_length(frame);
  frame->crc_known = false;
  return 0;
}

static bool is_to_compress(const struct frame *frame, const void *argument)
{
  return *(const uint8_t *)argument != CODEC_NONE && is_raw(frame, NULL);
}

static int compress_pages(struct frame *frame, struct codec_context *context, void *out,
                          const void *argument, struct err *e)
{
  uint8_t codec = *(const uint8_t *)argument;
  size_t length;

  if (stream_check_payload(frame, e) < 0)
    return -1;
  length = codec_compress(context, codec, frame->payload, frame->length, out);
  if (length == 0)
    return 0;
  frame->codec = codec;
  frame->length = (uint32_t)length;
  frame->payload = out;
  frame->crc_known = false;
  return 0;
}

static bool is_compressed(const struct frame *frame, const void *argument)
{
  (void)argument;
  return frame->type == FRAME_PAGES && frame->codec != CODEC_NONE;
}

static int decompress_pages(struct frame *frame, struct codec_context *context, void *out,
                            const void *argument, struct err *e)
{
  (void)argument;
  if (stream_check_payload(frame, e) < 0 ||
      codec_decompress(context, frame->codec, frame->payload, frame->length, out,
                       frame_raw_length(frame), e) < 0)
    return -1;
  frame->codec = CODEC_NONE;
  frame->length = frame_raw_length(frame);
  frame->payload = out;
  frame->crc_known = false;
  return 0;
}

const struct pool_filter filter_scan_zero = {is_raw, scan_zero};
const struct pool_filter filter_compress = {is_to_compress, compress_pages};
const struct pool_filter filter_decompress = {is_compressed, decompress_pages};
