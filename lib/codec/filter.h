/* Compression as filters: what each does to a frame of pages. */
#ifndef CKPT_CODEC_FILTER_H
#define CKPT_CODEC_FILTER_H

#include "codec/pool.h"

/* Compresses what is not yet compressed. Argument: uint8_t, the codec. */
extern const struct pool_filter filter_compress;

/* Decompresses what is compressed. No argument. */
extern const struct pool_filter filter_decompress;

#endif
