/* What stands next in a pipe, without taking it out: so that it can be passed on by splice(2). */
#ifndef CKPT_STREAM_PEEK_H
#define CKPT_STREAM_PEEK_H

#include "stream/frame.h"

#include <stddef.h>

enum { PEEK_ROOM = 2 * EXTENT_SIZE }; /* of a pipe: pieces of a page have a buffer each */

/* A pipe of ours, where pages are seen once more. It is empty between calls. */
struct peek {
  int ends[2];
};

/* False: there are no such pipes to be had. To be closed in any case. */
bool peek_open(struct peek *peek);
void peek_close(struct peek *peek);

/*
 * Copies the next `length` bytes of a pipe, which are there already: at most an extent. False: they
 * could not be seen whole.
 */
bool peek_at(struct peek *peek, int pipe, void *buffer, size_t length);

#endif
