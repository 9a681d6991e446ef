#include "stream/wire.h"

#include "stream/crc32c.h"

#include <elf.h>
#include <inttypes.h>

void wire_put_header(const struct stream_header *header, uint8_t bytes[STREAM_HEADER_SIZE])
{
  memset(bytes, 0, STREAM_HEADER_SIZE);
  memcpy(bytes, STREAM_MAGIC, 8);
  put32(bytes + 8, header->version);
  put32(bytes + 12, STREAM_HEADER_SIZE);
  put32(bytes + 16, header->page_size);
  put32(bytes + 20, header->machine);
  memcpy(bytes + 24, header->image_id, sizeof(header->image_id));
  put32(bytes + 60, crc32c(0, bytes, 60));
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
  while (size && *bytes == 0)
    bytes++, size--;
  return size == 0;
}

int wire_get_header(const uint8_t bytes[STREAM_HEADER_SIZE], struct stream_header *header,
                    struct err *e)
{
  if (memcmp(bytes, STREAM_MAGIC, 8) != 0)
    return err_set(e, "offset 0: not a ckpt stream");
  header->version = get32(bytes + 8);
  if (header->version != STREAM_VERSION)
    return err_set(e, "offset 8: version %" PRIu32 " is not known here, only version %d",
                   header->version, STREAM_VERSION);
  if (get32(bytes + 60) != crc32c(0, bytes, 60))
    return err_set(e, "offset 0: stream header: checksum does not match");
  if (get32(bytes + 12) != STREAM_HEADER_SIZE || !all_zero(bytes + 40, 20))
    return err_set(e, "offset 12: stream header: length or reserved bytes are not version 1's");
  header->page_size = get32(bytes + 16);
  if (header->page_size != PAGE_SIZE_X86)
    return err_set(e, "offset 16: page size %" PRIu32 " is not supported", header->page_size);
  header->machine = get32(bytes + 20);
  if (header->machine != EM_X86_64)
    return err_set(e, "offset 20: machine %" PRIu32 " is not x86-64", header->machine);
  memcpy(header->image_id, bytes + 24, sizeof(header->image_id));
  return 0;
}

uint32_t wire_put_frame(const struct frame *frame, uint8_t bytes[FRAME_HEADER_SIZE])
{
  uint32_t crc;

  memset(bytes, 0, FRAME_HEADER_SIZE);
  put16(bytes, frame->type);
  put16(bytes + 2, frame->flags);
  put32(bytes + 4, frame->length);
  put32(bytes + 8, frame->payload_crc);
  put32(bytes + 12, frame->space);
  put64(bytes + 16, frame->address);
  put64(bytes + 24, frame->present);
  put64(bytes + 32, frame->stored);
  bytes[40] = frame->codec;
  crc = crc32c(0, bytes, 44);
  put32(bytes + 44, crc);
  return crc;
}

static int check_pages(const struct frame *frame, struct err *e)
{
  uint32_t raw = frame_raw_length(frame);

  if (frame->stored & ~frame->present)
    return err_set(e, "stores pages that it does not describe");
  if (frame->address % PAGE_SIZE_X86 || frame->address > UINT64_MAX - EXTENT_SIZE)
    return err_set(e, "address 0x%" PRIx64 " is impossible", frame->address);
  if (frame->codec > CODEC_LZ4)
    return err_set(e, "codec %d is not known", frame->codec);
  if (frame->codec == CODEC_NONE ? frame->length != raw
                                 : frame->length == 0 || frame->length >= raw)
    return err_set(e, "length %" PRIu32 " does not fit %" PRIu32 " bytes of pages", frame->length,
                   raw);
  return 0;
}

static bool is_known(uint16_t type)
{
  return type >= FRAME_STATE && type <= FRAME_END;
}

static uint16_t known_flags(uint16_t type)
{
  return type == FRAME_PAGES ? FRAME_MUST_UNDERSTAND | FRAME_NO_ZEROS : FRAME_MUST_UNDERSTAND;
}

int wire_get_frame(const uint8_t bytes[FRAME_HEADER_SIZE], struct frame *frame, struct err *e)
{
  if (get32(bytes + 44) != crc32c(0, bytes, 44))
    return err_set(e, "frame header: checksum does not match");
  *frame = (struct frame){
      .type = get16(bytes),
      .flags = get16(bytes + 2),
      .length = get32(bytes + 4),
      .payload_crc = get32(bytes + 8),
      .crc_known = true,
      .space = get32(bytes + 12),
      .address = get64(bytes + 16),
      .present = get64(bytes + 24),
      .stored = get64(bytes + 32),
      .codec = bytes[40],
  };
  if (frame->flags & ~known_flags(frame->type) || !all_zero(bytes + 41, 3))
    return err_set(e, "frame header: reserved bits are set");
  if (!is_known(frame->type) && frame->flags & FRAME_MUST_UNDERSTAND)
    return err_set(e, "frame type %d is not known here and must be understood", frame->type);
  if (frame->type != FRAME_PAGES && frame->type != FRAME_INHERIT && !all_zero(bytes + 12, 29))
    return err_set(e, "frame header: bytes 12 to 40 are set in a frame of type %d", frame->type);
  if (frame->type == FRAME_END && frame->length != END_PAYLOAD_SIZE)
    return err_set(e, "END of %" PRIu32 " bytes", frame->length);
  if (frame->type == FRAME_INHERIT && (frame->length || frame->stored || frame->codec))
    return err_set(e, "INHERIT with a payload");
  if (frame->length > STATE_PAYLOAD_LIMIT)
    return err_set(e, "payload of %" PRIu32 " bytes is longer than %d", frame->length,
                   STATE_PAYLOAD_LIMIT);
  if (frame->type == FRAME_PAGES || frame->type == FRAME_INHERIT)
    return check_pages(frame, e);
  return 0;
}

void wire_count(struct wire_count *count, const struct frame *frame, uint32_t header_crc)
{
  struct stream_totals *totals = &count->totals;
  uint8_t bytes[4];

  totals->frames++;
  totals->state_frames += frame->type == FRAME_STATE;
  if (frame->type == FRAME_PAGES) {
    totals->present_pages += (uint64_t)__builtin_popcountll(frame->present);
    totals->stored_pages += (uint64_t)__builtin_popcountll(frame->stored);
  }
  totals->payload_bytes += frame->length;
  count->pages_seen =
      count->pages_seen || frame->type == FRAME_PAGES || frame->type == FRAME_INHERIT;
  put32(bytes, header_crc);
  count->chain = crc32c(count->chain, bytes, sizeof(bytes));
}

void wire_put_end(const struct wire_count *count, uint8_t bytes[END_PAYLOAD_SIZE])
{
  put64(bytes, count->totals.frames);
  put64(bytes + 8, count->totals.state_frames);
  put64(bytes + 16, count->totals.present_pages);
  put64(bytes + 24, count->totals.stored_pages);
  put64(bytes + 32, count->totals.payload_bytes);
  put32(bytes + 40, count->chain);
  put32(bytes + 44, 0);
}
