#include "stream/peek.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <fcntl.h>
#include <unistd.h>

bool peek_open(struct peek *peek)
{
  *peek = (struct peek){{-1, -1}};
  return pipe2(peek->ends, O_CLOEXEC) == 0 &&
         fcntl(peek->ends[1], F_SETPIPE_SZ, PEEK_ROOM) == PEEK_ROOM;
}

void peek_close(struct peek *peek)
{
  cleanup_close(&peek->ends[0]);
  cleanup_close(&peek->ends[1]);
}

bool peek_at(struct peek *peek, int pipe, void *buffer, size_t length)
{
  ssize_t n = tee(pipe, peek->ends[1], length, SPLICE_F_NONBLOCK);

  if (n == (ssize_t)length)
    return io_read(peek->ends[0], buffer, length) == n;
  if (n > 0)
    io_read(peek->ends[0], buffer, (size_t)n);
  return false;
}
