/* The bytes of a process's pages: read in itself while it stands, or in its snapshot. */
#ifndef CKPT_DUMP_FETCH_H
#define CKPT_DUMP_FETCH_H

#include "base/err.h"
#include "dump/capture.h"
#include "stream/peek.h"
#include "stream/stream.h"

struct fetch {
  struct source *source;
  int mem;                      /* /proc/PID/mem of the snapshot, or -1 */
  int pipes[TRACEE_PIPES];      /* from the snapshot, or -1 */
  size_t in_pipe[TRACEE_PIPES]; /* bytes that wait there */
  struct peek peek;
  bool sends;
  bool tried;     /* to have pipes */
  uint64_t bytes; /* that were read */
};

/* Frames that may be asked for at once: each has a pipe's share for itself. */
enum {
  FETCH_PIPE_FRAMES = TRACEE_PIPE_PAGES / EXTENT_PAGES,
  FETCH_FRAMES = TRACEE_PIPES * FETCH_PIPE_FRAMES,
};

/* Of the process itself, or of its snapshot. */
int fetch_open(struct fetch *fetch, struct source *source, bool of_snapshot, struct err *e);
void fetch_close(struct fetch *fetch);

/*
 * Announces frames (address, stored): fetch_read or fetch_pass must then be called for each that
 * has stored pages, in order, with its index.
 */
int fetch_ask(struct fetch *fetch, const struct frame *frames, size_t count, struct err *e);
int fetch_read(struct fetch *fetch, size_t index, const struct frame *frame, uint8_t *buffer,
               struct err *e);

/*
 * The frame to the stream with the snapshot's own pages, if they are in a pipe: nobody writes to
 * them, so that no reader has to be trusted. The buffer is for a look at them: their checksum.
 * Returns 1 when that is done, 0 when the frame is to be read, -1 with e set.
 */
int fetch_pass(struct fetch *fetch, size_t index, struct frame *frame, void *buffer,
               struct stream_writer *writer, struct err *e);

#endif
