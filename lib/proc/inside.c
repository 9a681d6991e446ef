#include "proc/inside.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/join.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum {
  REPLY_LIMIT = 64 << 20, /* bytes; messages of a queue are the longest that come */
  REPLY_VALUE = 'v',
  REPLY_ERROR = 'e',
};

/* One byte says what follows; a descriptor comes with it. */
union control {
  char buffer[CMSG_SPACE(sizeof(int))];
  struct cmsghdr align;
};

static int send_head(int socket, char what, int fd, struct err *e)
{
  union control control = {0};
  struct iovec iov = {.iov_base = &what, .iov_len = 1};
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

  if (fd >= 0) {
    struct cmsghdr *header;

    message.msg_control = control.buffer;
    message.msg_controllen = sizeof(control.buffer);
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL) == 1 ? 0 : err_sys(e, "reply");
}

static int receive_head(int socket, char *what, int *fd, struct err *e)
{
  union control control = {0};
  struct iovec iov = {.iov_base = what, .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &iov,
      .msg_iovlen = 1,
      .msg_control = control.buffer,
      .msg_controllen = sizeof(control.buffer),
  };
  const struct cmsghdr *header;
  ssize_t n;

  do
    n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n != 1)
    return n < 0 ? err_sys(e, "reply") : err_set(e, "the process that entered it died");
  header = CMSG_FIRSTHDR(&message);
  if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
      header->cmsg_len == CMSG_LEN(sizeof(int)))
    memcpy(fd, CMSG_DATA(header), sizeof(int));
  return 0;
}

static const struct {
  const char *kind;
  int flag;
} kinds[] = {{"ipc", CLONE_NEWIPC}, {"net", CLONE_NEWNET}, {"uts", CLONE_NEWUTS}};

static int make_new(const char *kind, struct err *e)
{
  size_t i = 0;

  while (i + 1 < ARRAY_LEN(kinds) && strcmp(kinds[i].kind, kind) != 0)
    i++;
  return unshare(kinds[i].flag) == 0 ? 0 : err_sys(e, "cannot be made");
}

/* Of the pid namespace is only a child: it goes on, and we end with it. */
static int enter_all(pid_t pid, struct err *e)
{
  pid_t child;

  if (join_namespaces(pid,
                      CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                          CLONE_NEWUTS,
                      e) < 0)
    return -1;
  child = fork();
  if (child < 0)
    return err_sys(e, "fork");
  if (child == 0)
    return 0;
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
    ;
  _exit(EXIT_DONE);
}

static int enter(pid_t pid, const char *kind, struct err *e)
{
  AUTO_CLOSE int fd = -1;
  char path[64];

  if (pid == 0)
    return make_new(kind, e);
  if (!kind)
    return enter_all(pid, e);
  snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, kind);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, 0) < 0)
    return err_sys(e, "%s", path);
  return 0;
}

/* In the child: enters, runs, replies. */
static void reply(int socket, pid_t pid, const char *kind, inside_function *function,
                  void *argument)
{
  struct err why = {""};
  AUTO_CLOSE int fd = -1;
  json_t *value = enter(pid, kind, &why) < 0 ? NULL : function(argument, &fd, &why);
  AUTO_FREE char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

  if (value && !text)
    err_set(&why, "out of memory");
  json_decref(value);
  if (send_head(socket, text ? REPLY_VALUE : REPLY_ERROR, fd, &why) < 0 ||
      io_write(socket, text ? text : why.text, strlen(text ? text : why.text)) < 0)
    return; /* nobody listens any more */
}

/* Everything up to the end of the reply. */
static int read_text(int socket, char **text, size_t *size, struct err *e)
{
  AUTO_FREE char *buffer = NULL;
  size_t room = 0;
  ssize_t n;

  *size = 0;
  do {
    if (*size == room) {
      char *larger = room < REPLY_LIMIT ? realloc(buffer, room ? room * 2 : 65536) : NULL;

      if (!larger)
        return err_set(e, "reply: more than fits into memory");
      buffer = larger;
      room = room ? room * 2 : 65536;
    }
    n = io_read(socket, buffer + *size, room - *size);
    if (n < 0)
      return err_sys(e, "reply");
    *size += (size_t)n;
  } while (*size == room);
  *text = TAKE_POINTER(buffer);
  return 0;
}

static json_t *receive(int socket, int *fd, struct err *e)
{
  AUTO_FREE char *text = NULL;
  AUTO_CLOSE int received = -1;
  json_error_t error;
  json_t *value;
  size_t size;
  char what;

  if (receive_head(socket, &what, &received, e) < 0 || read_text(socket, &text, &size, e) < 0)
    return NULL;
  if (what != REPLY_VALUE) {
    err_set(e, "%.*s", (int)size, text);
    return NULL;
  }
  value = json_loadb(text, size, JSON_DECODE_ANY, &error);
  if (!value)
    err_set(e, "reply: %s", error.text);
  else if (fd)
    *fd = take_fd(&received);
  return value;
}

json_t *inside_run(pid_t pid, const char *kind, inside_function *function, void *argument, int *fd,
                   struct err *e)
{
  AUTO_CLOSE int ours = -1;
  AUTO_CLOSE int theirs = -1;
  json_t *value;
  int pair[2];
  pid_t child;

  if (fd)
    *fd = -1;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
    err_sys(e, "socket");
    return NULL;
  }
  ours = pair[0];
  theirs = pair[1];
  child = fork();
  if (child == 0) {
    close(ours);
    reply(theirs, pid, kind, function, argument);
    _exit(EXIT_DONE);
  }
  if (child < 0) {
    err_sys(e, "fork");
    return NULL;
  }
  close(take_fd(&theirs));
  value = receive(ours, fd, e);
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
    ;
  if (!value && pid)
    err_prefix(e, "%s namespace%s of pid %d", kind ? kind : "the", kind ? "" : "s", pid);
  else if (!value)
    err_prefix(e, "a new %s namespace", kind);
  return value;
}

int inside_do(pid_t pid, const char *kind, inside_function *function, void *argument, struct err *e)
{
  json_t *value = inside_run(pid, kind, function, argument, NULL, e);

  json_decref(value);
  return value ? 0 : -1;
}
