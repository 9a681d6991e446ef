#include "object/socket.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>

const struct field socket_option_fields[] = {
    F_SIGNED(struct socket_option, level),
    F_SIGNED(struct socket_option, name),
    F_SIGNED(struct socket_option, value),
    F_END,
};

union option_value {
  int number;
  struct timeval time;
  struct linger linger;
};

int socket_int_option(int fd, int level, int name)
{
  int value = -1;
  socklen_t size = sizeof(value);

  return getsockopt(fd, level, name, &value, &size) < 0 ? -1 : value;
}

static bool get(int fd, const struct socket_known_option *known, int64_t *value)
{
  union option_value got = {0};
  socklen_t size = known->kind == OPTION_TIME     ? sizeof(got.time)
                   : known->kind == OPTION_LINGER ? sizeof(got.linger)
                                                  : sizeof(got.number);

  if (getsockopt(fd, known->level, known->name, &got, &size) < 0)
    return false;
  if (known->kind == OPTION_TIME)
    *value = (int64_t)got.time.tv_sec * 1000000 + got.time.tv_usec;
  else if (known->kind == OPTION_LINGER)
    *value = got.linger.l_onoff ? got.linger.l_linger : -1;
  else
    *value = got.number;
  return true;
}

int socket_set_buffer(int fd, int name, int size)
{
  int force = name == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;

  int result = setsockopt(fd, SOL_SOCKET, force, &size, sizeof(size));

  if (result == 0 || errno != EPERM)
    return result;
  return setsockopt(fd, SOL_SOCKET, name, &size, sizeof(size));
}

static int set(int fd, const struct socket_known_option *known, int64_t value)
{
  union option_value wanted = {.number = (int)value};
  socklen_t size = sizeof(wanted.number);

  if (known->kind == OPTION_BUFFER)
    return socket_set_buffer(fd, known->name, (int)(value / 2));
  if (known->kind == OPTION_TIME) {
    wanted.time = (struct timeval){value / 1000000, value % 1000000};
    size = sizeof(wanted.time);
  } else if (known->kind == OPTION_LINGER) {
    wanted.linger = (struct linger){value >= 0, value >= 0 ? (int)value : 0};
    size = sizeof(wanted.linger);
  }
  return setsockopt(fd, known->level, known->name, &wanted, size);
}

int socket_read_options(int fd, const struct socket_known_option *known, size_t known_count,
                        struct socket_option **options, size_t *count, struct err *e)
{
  bool ipv6 = socket_int_option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6;

  for (size_t i = 0; i < known_count; i++) {
    struct socket_option *option;
    int64_t value;

    if ((known[i].ipv6_only && !ipv6) || !get(fd, &known[i], &value))
      continue;
    option = list_append(options, count, sizeof(*option));
    if (!option)
      return err_sys(e, "socket options");
    *option = (struct socket_option){known[i].level, known[i].name, value};
  }
  return 0;
}

int socket_set_options(int fd, const struct socket_known_option *known, size_t known_count,
                       const struct socket_option *options, size_t count, bool before_bind,
                       struct err *e)
{
  for (size_t i = 0; i < count; i++) {
    const struct socket_option *option = &options[i];

    for (size_t k = 0; k < known_count; k++) {
      int64_t now;

      if (known[k].level != option->level || known[k].name != option->name ||
          known[k].before_bind != before_bind || (get(fd, &known[k], &now) && now == option->value))
        continue;
      if (set(fd, &known[k], option->value) < 0)
        return err_sys(e, "socket option %d:%d", option->level, option->name);
    }
  }
  return 0;
}

int socket_make_there(const struct object_restore *restore,
                      int (*make)(const void *context, struct err *e), const void *context,
                      struct err *e)
{
  AUTO_CLOSE int here = -1;
  int fd;

  if (restore->net_fd < 0)
    return make(context, e);
  here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (here < 0 || setns(restore->net_fd, CLONE_NEWNET) < 0)
    return err_sys(e, "network namespace");
  fd = make(context, e);
  if (setns(here, CLONE_NEWNET) < 0) {
    cleanup_close(&fd);
    return err_sys(e, "network namespace");
  }
  return fd;
}
