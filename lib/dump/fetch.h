/* The bytes of a process's pages: read in itself while it stands, or in its snapshot. */
#ifndef CKPT_DUMP_FETCH_H
#define CKPT_DUMP_FETCH_H

#include "base/err.h"
#include "dump/capture.h"
#include "stream/frame.h"

struct fetch {
  struct source *source;
  int mem;        /* /proc/PID/mem of the snapshot, or -1 */
  int pipe;       /* from the snapshot, or -1 */
  bool tried;     /* to have a pipe */
  uint64_t bytes; /* that were read */
  size_t in_pipe; /* bytes that wait there */
};

/* Frames that may be asked for at once. */
enum { FETCH_FRAMES = 16 };

/* Of the process itself, or of its snapshot. */
int fetch_open(struct fetch *fetch, struct source *source, bool of_snapshot, struct err *e);
void fetch_close(struct fetch *fetch);

/*
 * Announces frames (space, address, stored): fetch_read must then be called for each, in order.
 * They hold at most TRACEE_SEND_PAGES pages.
 */
int fetch_ask(struct fetch *fetch, const struct frame *frames, size_t count, struct err *e);
int fetch_read(struct fetch *fetch, const struct frame *frame, uint8_t *buffer, struct err *e);

#endif
