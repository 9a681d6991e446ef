/*
 * The stream: what stands where in a pipe. FORMAT.md beside this file is the definition; these
 * are its numbers in C.
 */
#ifndef CKPT_STREAM_FRAME_H
#define CKPT_STREAM_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#define STREAM_MAGIC "CKPTSTRM"
#define STREAM_VERSION 1

enum {
  STREAM_HEADER_SIZE = 64,
  FRAME_HEADER_SIZE = 48,
  PAGE_SIZE_X86 = 4096,
  EXTENT_PAGES = 64,                          /* one bit each in a frame's bitmaps */
  EXTENT_SIZE = EXTENT_PAGES * PAGE_SIZE_X86, /* 256 KiB */
  STATE_PAYLOAD_LIMIT = 16 << 20,             /* bytes of one JSON object */
};

enum frame_type {
  FRAME_STATE = 1,   /* one JSON object */
  FRAME_PAGES = 2,   /* an extent; present pages without a payload are zero-filled */
  FRAME_INHERIT = 3, /* an extent whose present pages are the parent space's at the same address */
  FRAME_END = 4,     /* totals; the last frame */
};

enum {
  /* in frame.flags */
  FRAME_MUST_UNDERSTAND = 1 << 0, /* a reader that does not know the type refuses */
  FRAME_NO_ZEROS = 1 << 1,        /* PAGES: who made it saw that no stored page is zero-filled */
};

enum codec_id {
  CODEC_NONE = 0,  /* the stored pages, one after the other */
  CODEC_FLATE = 1, /* the same as one raw deflate stream (RFC 1951) */
  CODEC_LZ4 = 2,   /* the same as one LZ4 block */
};

/* The stream's first bytes, decoded. */
struct stream_header {
  uint32_t version;
  uint32_t page_size;
  uint32_t machine; /* ELF e_machine: 62 is x86-64 */
  uint8_t image_id[16];
};

/*
 * One frame, decoded. For types other than PAGES and INHERIT space, address, present, stored and
 * codec are 0. The payload belongs to whoever made the frame.
 */
struct frame {
  uint16_t type;
  uint16_t flags;
  uint32_t length;  /* bytes of payload as it stands in the stream */
  uint32_t space;   /* id of the address space or shared object that the extent is in */
  uint64_t address; /* of bit 0, in bytes, a multiple of the page size */
  uint64_t present; /* pages of the extent that the image knows */
  uint64_t stored;  /* pages that the payload holds, in order; a subset of present */
  uint8_t codec;
  const void *payload;
  uint32_t payload_crc; /* CRC32C; read frames have it, written ones too if crc_known */
  bool crc_known;
  uint64_t offset; /* of the payload in the stream that it was read from */
};

/* Bytes of the stored pages before compression. */
static inline uint32_t frame_raw_length(const struct frame *frame)
{
  return (uint32_t)__builtin_popcountll(frame->stored) * PAGE_SIZE_X86;
}

#endif
