#include "base/io.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

ssize_t io_read(int fd, void *buffer, size_t size)
{
  size_t done = 0;

  while (done < size) {
    ssize_t n = read(fd, (char *)buffer + done, size - done);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    if (n == 0)
      break;
    done += (size_t)n;
  }
  return (ssize_t)done;
}

int io_write(int fd, const void *buffer, size_t size)
{
  size_t done = 0;

  while (done < size) {
    ssize_t n = write(fd, (const char *)buffer + done, size - done);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    done += (size_t)n;
  }
  return 0;
}

ssize_t io_pread(int fd, void *buffer, size_t size, off_t offset)
{
  size_t done = 0;

  while (done < size) {
    ssize_t n = pread(fd, (char *)buffer + done, size - done, offset + (off_t)done);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    if (n == 0)
      break;
    done += (size_t)n;
  }
  return (ssize_t)done;
}

int io_pwrite(int fd, const void *buffer, size_t size, off_t offset)
{
  size_t done = 0;

  while (done < size) {
    ssize_t n = pwrite(fd, (const char *)buffer + done, size - done, offset + (off_t)done);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    done += (size_t)n;
  }
  return 0;
}

int io_read_file(int at, const char *path, size_t limit, char **text, size_t *size, struct err *e)
{
  AUTO_CLOSE int fd = openat(at, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  AUTO_FREE char *buffer = NULL;
  size_t room = 0;
  size_t done = 0;

  if (fd < 0)
    return err_sys(e, "%s", path);
  while (done + 1 >= room) { /* what was read had no room for more: it may not be all */
    char *larger;
    ssize_t n;

    room = room ? room * 2 : 4096;
    larger = realloc(buffer, room);
    if (!larger)
      return err_sys(e, "%s", path);
    buffer = larger;
    n = io_read(fd, buffer + done, room - done - 1);
    if (n < 0)
      return err_sys(e, "%s", path);
    done += (size_t)n;
    if (done > limit) {
      errno = EFBIG;
      return err_sys(e, "%s", path);
    }
  }
  buffer[done] = '\0';
  if (size)
    *size = done;
  *text = TAKE_POINTER(buffer);
  return 0;
}

int io_write_file(int at, const char *path, const char *text, struct err *e)
{
  AUTO_CLOSE int fd = openat(at, path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
  size_t size = strlen(text);

  if (fd < 0 || write(fd, text, size) != (ssize_t)size)
    return err_sys(e, "%s", path);
  return 0;
}

char *io_format(struct err *e, const char *format, ...)
{
  char *text = NULL;
  va_list args;
  int length;

  va_start(args, format);
  length = vasprintf(&text, format, args);
  va_end(args);
  if (length < 0) {
    err_set(e, "out of memory");
    return NULL;
  }
  return text;
}
