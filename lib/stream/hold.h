/*
 * A look at a payload on its way from pipe to pipe: its pages wait in a pipe of ours by
 * reference, while a copy of them is looked at in a buffer that stays in the CPU's cache.
 */
#ifndef CKPT_STREAM_HOLD_H
#define CKPT_STREAM_HOLD_H

#include "stream/peek.h"
#include "stream/stream.h"

struct hold {
  int kept[2];
  int nowhere; /* /dev/null */
  struct peek peek;
  bool works;
};

/* Where no pipe can be had, payloads are in the buffer alone. */
void hold_open(struct hold *hold);
void hold_close(struct hold *hold);

/*
 * The payload of the reader's current frame into the buffer (frame.length bytes), its checksum not
 * looked at. Returns 1: it is held, too, until it is passed or dropped; 0: it is not; -1 with e
 * set.
 */
int hold_payload(struct hold *hold, struct stream_reader *reader, struct frame *frame, void *buffer,
                 struct err *e);

/* Writes the frame with the payload that is held. */
int hold_pass(struct hold *hold, struct stream_writer *writer, const struct frame *frame,
              struct err *e);

/* Lets go what is held: length bytes. */
int hold_drop(struct hold *hold, size_t length, struct err *e);

#endif
