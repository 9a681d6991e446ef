/* The bytes of a process's pages: read in itself while it stands, or in its snapshot. */
#ifndef CKPT_DUMP_FETCH_H
#define CKPT_DUMP_FETCH_H

#include "base/err.h"
#include "dump/capture.h"
#include "stream/peek.h"
#include "stream/stream.h"

struct fetch {
  struct source *source;
  bool of_snapshot;
  int mem;                      /* /proc/PID/mem of the snapshot, or of the process */
  int pagemap;                  /* of the process */
  int pipes[TRACEE_PIPES];      /* from the snapshot, or -1 */
  size_t in_pipe[TRACEE_PIPES]; /* bytes that wait there */
  size_t asked[TRACEE_PIPES];   /* bytes that are to come */
  unsigned first;               /* pipe of the frames that are read; the next use the other half */
  bool sends, tried;            /* there are pipes; it was tried to have them */
  bool asking;
  struct peek peek;
  uint64_t bytes; /* that were asked for */
};

/* Frames that may be asked for at once: some share a pipe. */
enum {
  FETCH_PIPE_FRAMES = TRACEE_PIPE_PAGES / EXTENT_PAGES,
  FETCH_PIPES = TRACEE_PIPES / 2,
  FETCH_FRAMES = FETCH_PIPES * FETCH_PIPE_FRAMES,
};

/* Of the process itself, or of its snapshot. */
int fetch_open(struct fetch *fetch, struct source *source, bool of_snapshot, struct err *e);
void fetch_close(struct fetch *fetch);

/* At the end: a snapshot that has died shows no pages any more, which is no error to see. */
int fetch_check(const struct fetch *fetch, struct err *e);

/*
 * Asks for frames (address, stored): while they are on their way, those that were asked for before
 * can be had. fetch_turn waits for them; from then on they are the ones that can be had.
 */
int fetch_ask(struct fetch *fetch, const struct frame *frames, size_t count, struct err *e);
int fetch_turn(struct fetch *fetch, struct err *e);

/* To be called for each frame that has stored pages, in order, with its index: */
int fetch_read(struct fetch *fetch, size_t index, const struct frame *frame, uint8_t *buffer,
               struct err *e);

/*
 * Or, where the snapshot's own pages are in a pipe: a look at them (true: the buffer has them), and
 * then the frame goes to the stream with them. Nobody writes to them: no reader has to be trusted.
 */
bool fetch_peek(struct fetch *fetch, size_t index, const struct frame *frame, void *buffer);
int fetch_pass(struct fetch *fetch, size_t index, struct frame *frame, struct stream_writer *writer,
               struct err *e);

#endif
