#include "stream/hold.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "stream/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

void hold_open(struct hold *hold)
{
  bool peeks = peek_open(&hold->peek);

  hold->kept[0] = hold->kept[1] = -1;
  hold->nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  hold->works = peeks && hold->nowhere >= 0 && pipe2(hold->kept, O_CLOEXEC) == 0 &&
                fcntl(hold->kept[1], F_SETPIPE_SZ, PEEK_ROOM) == PEEK_ROOM;
}

void hold_close(struct hold *hold)
{
  cleanup_close(&hold->kept[0]);
  cleanup_close(&hold->kept[1]);
  cleanup_close(&hold->nowhere);
  peek_close(&hold->peek);
}

/* A pipe is full when its buffers are, however little is in each. */
static bool has_room(int pipe)
{
  struct pollfd poll_fd = {.fd = pipe, .events = POLLOUT};

  return poll(&poll_fd, 1, 0) == 1 && poll_fd.revents & POLLOUT;
}

/* As much as the pipe takes: the count, or -1 with errno set. */
static ssize_t take_in(struct hold *hold, int fd, size_t length)
{
  size_t done = 0;

  while (done < length && has_room(hold->kept[1])) {
    ssize_t n = splice(fd, NULL, hold->kept[1], NULL, length - done, SPLICE_F_MOVE);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    if (n == 0)
      break; /* the reader will find the end, too */
    done += (size_t)n;
  }
  return (ssize_t)done;
}

int hold_payload(struct hold *hold, struct stream_reader *reader, struct frame *frame, void *buffer,
                 struct err *e)
{
  size_t length = frame->length;
  ssize_t taken = hold->works ? take_in(hold, stream_hand_over(reader, 0), length) : 0;
  struct frame rest = *frame;

  if (taken < 0 && errno != EINVAL)
    return err_sys(e, "splice");
  if (taken < 0)
    hold->works = false; /* not from such a file */
  taken = taken < 0 ? 0 : taken;
  stream_hand_over(reader, (uint32_t)taken);
  frame->payload = buffer;
  if ((size_t)taken == length && peek_at(&hold->peek, hold->kept[0], buffer, length))
    return 1;
  if (io_read(hold->kept[0], buffer, (size_t)taken) != taken)
    return err_sys(e, "pipe");
  rest.length = (uint32_t)(length - (size_t)taken);
  return stream_payload_unchecked(reader, &rest, (uint8_t *)buffer + taken, e);
}

int hold_pass(struct hold *hold, struct stream_writer *writer, const struct frame *frame,
              struct err *e)
{
  return stream_pass_from(writer, hold->kept[0], frame, e);
}

int hold_drop(struct hold *hold, size_t length, struct err *e)
{
  while (length) {
    ssize_t n = splice(hold->kept[0], NULL, hold->nowhere, NULL, length, SPLICE_F_MOVE);

    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return err_sys(e, "splice");
    length -= (size_t)n;
  }
  return 0;
}
