/* The three filters: what each does to a frame of pages. */
#ifndef CKPT_CODEC_FILTER_H
#define CKPT_CODEC_FILTER_H

#include "codec/pool.h"

/* Takes zero-filled pages out of uncompressed payloads; compressed ones stay. No argument. */
extern const struct pool_filter filter_scan_zero;

/* Compresses what is not yet compressed. Argument: uint8_t, the codec. */
extern const struct pool_filter filter_compress;

/* Decompresses what is compressed. No argument. */
extern const struct pool_filter filter_decompress;

#endif
