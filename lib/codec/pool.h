/*
 * A stream through a transformation of its frames, on all processors, in order. Each worker reads a
 * frame, transforms it, and waits for its turn to write it: memory is bounded by their number.
 * Frames that are none of the filter's business are spliced from pipe to pipe.
 */
#ifndef CKPT_CODEC_POOL_H
#define CKPT_CODEC_POOL_H

#include "base/err.h"
#include "codec/codec.h"
#include "codec/stage.h"

/* By its header: is the frame one that may be changed? What is not passes unseen. */
typedef bool pool_choice(const struct frame *frame, const void *argument);

/*
 * Changes a frame; a new payload goes to `out` (EXTENT_SIZE bytes), or stays in its place. Checks
 * the payload before anything else is made of it. Runs in several threads at once.
 */
typedef int pool_transform(struct frame *frame, struct codec_context *context, void *out,
                           const void *argument, struct err *e);

struct pool_filter {
  pool_choice *chooses;
  pool_transform *transform;
};

/* Copies the stream from in_fd to out_fd through the transformation, END included. */
int pool_run(const struct stage_options *options, const struct pool_filter *filter,
             const void *argument, struct err *e);

#endif
