#include "codec/filter.h"

#include <string.h>

static bool is_to_compress(const struct frame *frame, const void *argument)
{
  return *(const uint8_t *)argument != CODEC_NONE && frame->type == FRAME_PAGES &&
         frame->codec == CODEC_NONE && frame->length > 0;
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

const struct pool_filter filter_compress = {is_to_compress, compress_pages};
const struct pool_filter filter_decompress = {is_compressed, decompress_pages};
