/* Zero-filled pages, taken out of a stream. */
#ifndef CKPT_CODEC_SCAN_H
#define CKPT_CODEC_SCAN_H

#include "codec/stage.h"

/*
 * Copies the stream from in_fd to out_fd, END included, without the zero-filled pages of
 * uncompressed payloads: they stay present, but are no longer stored. Payloads that have none are
 * spliced from pipe to pipe. One thread looks as fast as memory can be read.
 */
int scan_run(const struct stage_options *options, struct err *e);

#endif
