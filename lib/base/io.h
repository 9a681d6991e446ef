/* Whole reads and writes: short counts and EINTR end here. */
#ifndef CKPT_BASE_IO_H
#define CKPT_BASE_IO_H

#include "base/err.h"

#include <stddef.h>
#include <sys/types.h>

/* Reads until `size` bytes are there or the file ends. Returns the count, or -1 with errno set. */
ssize_t io_read(int fd, void *buffer, size_t size);

/* Writes all bytes. Returns 0, or -1 with errno set. */
int io_write(int fd, const void *buffer, size_t size);

/* The same at an offset of a file. */
ssize_t io_pread(int fd, void *buffer, size_t size, off_t offset);
int io_pwrite(int fd, const void *buffer, size_t size, off_t offset);

/*
 * Reads a whole file that does not know its size (/proc), relative to the directory `at`
 * (AT_FDCWD allowed), of at most `limit` bytes. On success *text is the caller's to free, ends in
 * a NUL that *size (which may be NULL) does not count. A longer file is an error (EFBIG).
 * Returns 0, or -1 with the path and reason in e.
 */
int io_read_file(int at, const char *path, size_t limit, char **text, size_t *size, struct err *e);

/* Writes a text to an existing file in one write(2), as /proc and cgroup files want it. */
int io_write_file(int at, const char *path, const char *text, struct err *e);

/* asprintf that reports. The result is the caller's to free; NULL with e set when memory is out. */
char *io_format(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
