#include "codec/scan.h"

#include "base/cleanup.h"
#include "stream/hold.h"
#include "stream/zero.h"

#include <string.h>

/* In place: those that are kept move up. */
static int leave_out(struct frame *frame, uint64_t kept, struct err *e)
{
  uint8_t *page = (uint8_t *)frame->payload;
  uint8_t *to = page;

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

static int scan_payload(struct hold *hold, struct stream_reader *reader,
                        struct stream_writer *writer, struct frame *frame, struct err *e)
{
  size_t length = frame->length;
  int held = hold_payload(hold, reader, frame, stream_slot(writer), e);
  uint64_t kept;

  if (held < 0)
    return -1;
  kept = zero_kept(frame->payload, frame->stored);
  frame->flags |= kept ? FRAME_NO_ZEROS : 0;
  if (kept == frame->stored && held)
    return hold_pass(hold, writer, frame, e);
  if (kept != frame->stored && leave_out(frame, kept, e) < 0)
    return -1;
  if (held && hold_drop(hold, length, e) < 0)
    return -1;
  return stream_write(writer, frame, e);
}

static int scan(void *context, struct stream_reader *reader, struct stream_writer *writer,
                struct err *e)
{
  CLEANUP(hold_close) struct hold hold;
  struct frame frame;
  int result;

  (void)context;
  hold_open(&hold);
  while ((result = stream_next(reader, &frame, e)) == 1) {
    bool to_see = frame.type == FRAME_PAGES && frame.codec == CODEC_NONE && frame.length > 0 &&
                  !(frame.flags & FRAME_NO_ZEROS);

    if ((to_see ? scan_payload(&hold, reader, writer, &frame, e)
                : stream_pass(writer, reader, &frame, e)) < 0)
      return -1;
  }
  return result < 0 ? -1 : stream_write_end(writer, e);
}

int scan_run(const struct stage_options *options, struct err *e)
{
  return stage_run(options, scan, NULL, e);
}
