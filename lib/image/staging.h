/*
 * Sequential writing to a file through large buffers: one is filled while others are written. With
 * O_DIRECT where it is asked for and possible.
 */
#ifndef CKPT_IMAGE_STAGING_H
#define CKPT_IMAGE_STAGING_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct staging;

/* Room for at least this much can be asked for at once. */
enum { STAGING_PIECE = 256 << 10 };

/* Does not own fd. `name` is for messages. */
struct staging *staging_new(int fd, bool direct, const char *name, struct err *e);
void staging_free(struct staging *staging);

/* The next byte's offset in the file. */
uint64_t staging_offset(const struct staging *staging);

/* Writes zeros up to the next multiple of 4096. */
int staging_align(struct staging *staging, struct err *e);

/* Where the next size bytes (at most STAGING_PIECE) are to be put; then staging_done takes them. */
void *staging_room(struct staging *staging);
int staging_done(struct staging *staging, size_t size, struct err *e);

/* Writes all that is left; the file then has its exact length. Does not sync. */
int staging_finish(struct staging *staging, struct err *e);

#endif
