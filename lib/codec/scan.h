/* Zero-filled pages, taken out of a stream. */
#ifndef CKPT_CODEC_SCAN_H
#define CKPT_CODEC_SCAN_H

#include "codec/pool.h"

/*
 * Copies the stream from in_fd to out_fd, END included, without the zero-filled pages of
 * uncompressed payloads: they stay present, but are no longer stored. Payloads that have none are
 * spliced from pipe to pipe. One thread looks as fast as memory can be read: workers is not used.
 */
int scan_run(const struct pool_options *options, struct err *e);

#endif
