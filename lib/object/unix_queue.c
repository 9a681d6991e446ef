/*
 * The receive queue of a UNIX socket, read with MSG_PEEK (recv(2)). Behind its first message lead
 * only SO_PEEK_OFF (socket(7)), which belongs to the socket: for the moments that we need it, it is
 * ours, and then as it was. An empty message that it has passed once is passed over from then on,
 * by later peeks at an offset, too (net/core/datagram.c): a second checkpoint does not see it.
 */
#include "object/unix.h"

#include "base/cleanup.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
  QUEUE_LIMIT = 8 << 20, /* bytes: they must fit into one state object */
  SHUT_RECEIVE = 1,      /* of unix_info.shutdown */
};

/*
 * Peeks at one message or piece of the stream: 1 there was something, 0 nothing, -1. Without room
 * for control data none is made; MSG_CTRUNC tells that there was some.
 */
static int peek(int fd, void *data, size_t size, ssize_t *length, struct blob *from, struct err *e)
{
  struct iovec iov = {.iov_base = data, .iov_len = size};
  struct sockaddr_un name = {.sun_family = AF_UNSPEC};
  struct msghdr message = {
      .msg_name = &name, .msg_namelen = sizeof(name), .msg_iov = &iov, .msg_iovlen = 1};
  const size_t path = offsetof(struct sockaddr_un, sun_path);

  *length = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
  if (*length < 0)
    return errno == EAGAIN ? 0 : err_sys(e, "its queue");
  if (message.msg_flags & MSG_CTRUNC)
    return err_set(e, "cannot be checkpointed: unread data carries descriptors or credentials; "
                      "retry when it has been read");
  if (!from || message.msg_namelen <= path)
    return 1;
  from->size = message.msg_namelen - path;
  if (name.sun_path[0])
    from->size = strnlen(name.sun_path, from->size);
  from->data = malloc(from->size);
  if (!from->data)
    return err_sys(e, "its queue");
  memcpy(from->data, name.sun_path, from->size);
  return 1;
}

static int read_stream(int fd, size_t size, struct unix_detail *detail, struct err *e)
{
  struct unix_message *message =
      list_append(&detail->messages, &detail->message_count, sizeof(*message));
  ssize_t length;

  if (message)
    message->data.data = malloc(size);
  if (!message || !message->data.data)
    return err_sys(e, "its queue");
  message->data.size = size;
  if (peek(fd, message->data.data, size, &length, NULL, e) < 0)
    return -1;
  if (length != (ssize_t)size)
    return err_set(e,
                   "cannot be checkpointed: its %zu unread bytes cannot be copied; retry when "
                   "they have been read",
                   size);
  return 0;
}

/* One message: how long it is, then the message itself. 0 when there is no further one. */
static int read_message(int fd, struct unix_detail *detail, size_t done, struct err *e)
{
  struct unix_message *message;
  struct blob from = {0};
  ssize_t length;
  int result = peek(fd, NULL, 0, &length, &from, e);

  if (result <= 0)
    return result;
  message = list_append(&detail->messages, &detail->message_count, sizeof(*message));
  if (!message) {
    free(from.data);
    return err_sys(e, "its queue");
  }
  message->from = from;
  if ((size_t)length > QUEUE_LIMIT - done)
    return err_set(e, "cannot be checkpointed: too much is in its queue; retry when it has been "
                      "read");
  if (length == 0)
    return 1; /* asking for its length has passed it */
  message->data.data = malloc((size_t)length);
  if (!message->data.data)
    return err_sys(e, "its queue");
  message->data.size = (size_t)length;
  result = peek(fd, message->data.data, message->data.size, &length, NULL, e);
  return result == 0 ? err_set(e, "its queue has changed") : result;
}

static void drop_last(struct unix_detail *detail)
{
  struct unix_message *message = &detail->messages[--detail->message_count];

  free(message->data.data);
  free(message->from.data);
}

/* Once nothing more can come, end of file looks like an empty message: it is one behind all. */
static int read_messages(int fd, bool ends, struct unix_detail *detail, struct err *e)
{
  size_t done = 0;
  int waiting = 0;
  int result;

  if (ends && ioctl(fd, FIONREAD, &waiting) < 0)
    return err_sys(e, "its queue");
  while ((result = read_message(fd, detail, done, e)) > 0) {
    size_t size = detail->messages[detail->message_count - 1].data.size;

    if (ends && size == 0 && done >= (size_t)waiting) {
      drop_last(detail);
      return 0;
    }
    done += size;
  }
  return result;
}

static int set_peek_offset(int fd, int offset, struct err *e)
{
  if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0)
    return err_sys(e, "SO_PEEK_OFF");
  return 0;
}

/* With the offset that the peeks need, and then with the one that was there. */
static int read_at(int fd, int offset, const struct unix_info *info, struct unix_detail *detail,
                   struct err *e)
{
  int before = socket_int_option(fd, SOL_SOCKET, SO_PEEK_OFF);
  bool ends = detail->type == SOCK_SEQPACKET && info->shutdown & SHUT_RECEIVE;
  struct err late = {""};
  int waiting = 0;
  int result;

  if (ioctl(fd, FIONREAD, &waiting) < 0)
    return err_sys(e, "its queue");
  if (waiting > QUEUE_LIMIT)
    return err_set(e, "cannot be checkpointed: %d bytes are in its queue", waiting);
  if (detail->type == SOCK_STREAM && waiting == 0)
    return 0; /* it has only ended */
  if (before != offset && set_peek_offset(fd, offset, e) < 0)
    return -1;
  result = detail->type == SOCK_STREAM ? read_stream(fd, (size_t)waiting, detail, e)
                                       : read_messages(fd, ends, detail, e);
  if (before != offset && set_peek_offset(fd, before, &late) < 0 && result == 0) {
    *e = late;
    return -1;
  }
  return result;
}

int unix_read_queue(int fd, const struct unix_info *info, struct unix_detail *detail, struct err *e)
{
  struct pollfd ready = {.fd = fd, .events = POLLIN | POLLPRI};

  if (poll(&ready, 1, 0) < 0)
    return err_sys(e, "its queue");
  if (ready.revents & POLLPRI)
    return err_set(e, "cannot be checkpointed: an urgent byte (MSG_OOB) waits in its queue; retry "
                      "when it has been read");
  detail->reset = ready.revents & POLLERR;
  if (!(ready.revents & POLLIN))
    return 0;
  if (read_at(fd, detail->type == SOCK_STREAM ? -1 : 0, info, detail, e) < 0)
    return -1;
  if (detail->type == SOCK_DGRAM && detail->message_count == 0)
    return err_set(e, "cannot be checkpointed: an empty message waits in its queue; retry when it "
                      "has been read");
  return 0;
}
