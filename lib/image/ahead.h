/*
 * A file read past the page cache (O_DIRECT), from front to back: threads read large windows of it
 * ahead of time, so that the disk always has something to do.
 */
#ifndef CKPT_IMAGE_AHEAD_H
#define CKPT_IMAGE_AHEAD_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct ahead;

/*
 * Does not own fd, whose O_DIRECT flag it sets, and takes away again where the file system refuses
 * it. `size` is the file's; `name` is for messages. NULL with e set on failure.
 */
struct ahead *ahead_new(int fd, uint64_t size, const char *name, struct err *e);
void ahead_free(struct ahead *ahead);

/* Copies bytes of the file. Offsets never descend: what lies before has been given up. */
int ahead_read(struct ahead *ahead, uint64_t offset, void *to, size_t size, struct err *e);

#endif
