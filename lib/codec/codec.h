/* Codecs of page payloads: raw deflate (RFC 1951) and LZ4 blocks. */
#ifndef CKPT_CODEC_CODEC_H
#define CKPT_CODEC_CODEC_H

#include "base/err.h"
#include "stream/frame.h"

#include <stddef.h>
#include <stdint.h>

/* Work areas of one thread for all codecs. */
struct codec_context;
struct codec_context *codec_context_new(struct err *e);
void codec_context_cleanup(struct codec_context **context);

/* The id for "none", "flate-best-speed" or "lz4"; -1 for other names. */
int codec_by_name(const char *name);

/*
 * Compresses size bytes into out, which has room for size - 1. Returns the length, or 0 when the
 * result would not be shorter.
 */
size_t codec_compress(struct codec_context *context, uint8_t codec, const void *in, size_t size,
                      void *out);

/* Decompresses to exactly out_size bytes, using all of the input. Returns 0, -1 with e set. */
int codec_decompress(struct codec_context *context, uint8_t codec, const void *in, size_t size,
                     void *out, size_t out_size, struct err *e);

/* Lines for --version: which libraries do the work. */
const char *codec_version_text(void);

#endif
