/* The image directory: a stream at rest. FORMAT.md beside this file has the bytes. */
#ifndef CKPT_IMAGE_IMAGE_H
#define CKPT_IMAGE_IMAGE_H

#include "base/err.h"
#include "stream/stream.h"

#include <stdbool.h>

struct image_options {
  const char *path; /* of the directory */
  bool direct;      /* O_DIRECT: past the page cache */
  int stats_fd;     /* gets the summary line; -1: none */
};

/*
 * Reads a whole stream from in_fd into a new image. When it returns 0 the image is on disk to stay.
 * When it fails, or SIGINT, SIGTERM or SIGHUP ends the program, the path is as it was found.
 */
int image_write(const struct image_options *options, int in_fd, struct err *e);

/* Removes what a killed writer has left. An image that is complete, or being written, stays. */
void image_abandon(const char *path);

/*
 * Writes the image's stream to out_fd. What is incomplete or damaged in state or index is refused
 * before the first byte; payloads are checked on the way. splice: the reader is one of ours.
 */
enum image_cache { IMAGE_CACHE_AUTO, IMAGE_CACHE_DIRECT, IMAGE_CACHE_BUFFERED };
int image_read(const char *path, enum image_cache cache, bool splice, int out_fd, int stats_fd,
               struct err *e);

/*
 * Calls visit for each frame but END, in order, after the same checks. Payloads of page frames are
 * read, and checked, into what buffer returns (EXTENT_SIZE bytes); without it they are NULL.
 */
typedef void *image_buffer(void *argument);
typedef int image_visit(const struct frame *frame, void *argument, struct err *e);
int image_walk(const char *path, struct stream_header *header, image_buffer *buffer,
               image_visit *visit, void *argument, struct err *e);

#endif
