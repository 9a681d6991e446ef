/* A program in the middle of a pipeline: what all filters have in common. */
#ifndef CKPT_CODEC_STAGE_H
#define CKPT_CODEC_STAGE_H

#include "base/err.h"
#include "stream/stream.h"

/*
 * splice: all stages behind are ours. stats_fd: gets the summary line under the stage's name; -1:
 * none.
 */
struct stage_options {
  const char *stage;
  int in_fd, out_fd, stats_fd;
  bool splice;
};

/* Moves all frames, and then END. Returns 0, or -1 with e set. */
typedef int stage_work(void *context, struct stream_reader *reader, struct stream_writer *writer,
                       struct err *e);

/* The work between the stream from in_fd and the one to out_fd, whose header is the same. */
int stage_run(const struct stage_options *options, stage_work *work, void *context, struct err *e);

#endif
