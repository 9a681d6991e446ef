/*
 * TCP sockets that have no peer: listening, bound or fresh ones are made anew with their address
 * and options. Established ones are refused, or come back as if the peer had closed (--tcp-close).
 */
#include "base/cleanup.h"
#include "object/object.h"
#include "object/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

struct detail {
  int32_t family;
  char *state;   /* "fresh", "bound", "listening", "closed" */
  char *address; /* as inet_ntop writes it; NULL when fresh or closed */
  uint16_t port;
  uint32_t scope;
  int32_t backlog; /* listening */
  struct socket_option *options;
  size_t option_count;
};

static const struct field fields[] = {
    F_SIGNED(struct detail, family),
    F_STRING(struct detail, state),
    F_STRING(struct detail, address),
    F_UNSIGNED(struct detail, port),
    F_UNSIGNED(struct detail, scope),
    F_SIGNED(struct detail, backlog),
    F_LIST(struct detail, options, option_count, socket_option_fields),
    F_END,
};

static const struct socket_known_option known_options[] = {
    {SOL_SOCKET, SO_REUSEADDR, OPTION_INT, false, true},
    {SOL_SOCKET, SO_REUSEPORT, OPTION_INT, false, true},
    {IPPROTO_IPV6, IPV6_V6ONLY, OPTION_INT, true, true},
    {IPPROTO_IP, IP_FREEBIND, OPTION_INT, false, true},
    {SOL_SOCKET, SO_KEEPALIVE, OPTION_INT, false, false},
    {SOL_SOCKET, SO_PRIORITY, OPTION_INT, false, false},
    {SOL_SOCKET, SO_OOBINLINE, OPTION_INT, false, false},
    {SOL_SOCKET, SO_RCVLOWAT, OPTION_INT, false, false},
    {SOL_SOCKET, SO_RCVTIMEO, OPTION_TIME, false, false},
    {SOL_SOCKET, SO_SNDTIMEO, OPTION_TIME, false, false},
    {SOL_SOCKET, SO_LINGER, OPTION_LINGER, false, false},
    {IPPROTO_TCP, TCP_NODELAY, OPTION_INT, false, false},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, OPTION_INT, false, false},
    {IPPROTO_TCP, TCP_KEEPIDLE, OPTION_INT, false, false},
    {IPPROTO_TCP, TCP_KEEPINTVL, OPTION_INT, false, false},
    {IPPROTO_TCP, TCP_KEEPCNT, OPTION_INT, false, false},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, OPTION_INT, false, false},
    {IPPROTO_IP, IP_TOS, OPTION_INT, false, false},
};

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static bool matches(const struct object_source *source)
{
  int domain;

  if (!S_ISSOCK(source->stat.st_mode) || source->local < 0)
    return false;
  domain = socket_int_option(source->local, SOL_SOCKET, SO_DOMAIN);
  return (domain == AF_INET || domain == AF_INET6) &&
         socket_int_option(source->local, SOL_SOCKET, SO_TYPE) == SOCK_STREAM &&
         socket_int_option(source->local, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP;
}

static int get_info(int fd, struct tcp_info *info, struct err *e)
{
  socklen_t size = sizeof(*info);

  memset(info, 0, sizeof(*info));
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) < 0 ? err_sys(e, "TCP_INFO") : 0;
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  struct tcp_info info;

  if (get_info(source->local, &info, e) < 0)
    return -1;
  if (dump->tcp_close || info.tcpi_state == TCP_CLOSE)
    return 0;
  if (info.tcpi_state != TCP_LISTEN)
    return err_set(e, "cannot be checkpointed: an established TCP connection; close it, or use "
                      "--tcp-close to bring it back closed");
  if (info.tcpi_unacked > 0)
    return err_set(e,
                   "cannot be checkpointed: %u connections wait to be accepted; retry, or use "
                   "--tcp-close to drop them",
                   info.tcpi_unacked);
  return 0;
}

static int read_address(int fd, struct detail *detail, struct err *e)
{
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } name = {.any.sa_family = AF_UNSPEC};
  socklen_t size = sizeof(name);
  char text[INET6_ADDRSTRLEN];
  const void *address;

  if (getsockname(fd, &name.any, &size) < 0)
    return err_sys(e, "socket name");
  if (detail->family == AF_INET) {
    address = &name.v4.sin_addr;
    detail->port = ntohs(name.v4.sin_port);
  } else {
    address = &name.v6.sin6_addr;
    detail->port = ntohs(name.v6.sin6_port);
    detail->scope = name.v6.sin6_scope_id;
  }
  detail->address = inet_ntop(detail->family, address, text, sizeof(text)) ? strdup(text) : NULL;
  return detail->address ? 0 : err_sys(e, "socket name");
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  const char *state = "closed";
  struct tcp_info info;

  if (check(dump, source, e) < 0 || get_info(source->local, &info, e) < 0)
    return -1;
  detail.family = socket_int_option(source->local, SOL_SOCKET, SO_DOMAIN);
  if (info.tcpi_state == TCP_LISTEN) {
    state = "listening";
    detail.backlog = (int32_t)info.tcpi_sacked; /* of a listening socket: its largest backlog */
  }
  if (info.tcpi_state == TCP_LISTEN || info.tcpi_state == TCP_CLOSE) {
    if (read_address(source->local, &detail, e) < 0)
      return -1;
    if (info.tcpi_state == TCP_CLOSE)
      state = detail.port ? "bound" : "fresh";
  }
  detail.state = strdup(state);
  if (!detail.state)
    return err_sys(e, "socket");
  if (socket_read_options(source->local, known_options, ARRAY_LEN(known_options), &detail.options,
                          &detail.option_count, e) < 0)
    return -1;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

static int to_sockaddr(const struct detail *detail, struct sockaddr_storage *storage,
                       socklen_t *size, struct err *e)
{
  struct sockaddr_in *v4 = (struct sockaddr_in *)storage;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)storage;
  void *address = detail->family == AF_INET ? (void *)&v4->sin_addr : (void *)&v6->sin6_addr;

  memset(storage, 0, sizeof(*storage));
  storage->ss_family = (sa_family_t)detail->family;
  if (!detail->address || inet_pton(detail->family, detail->address, address) != 1)
    return err_set(e, "address \"%s\" is impossible", detail->address ? detail->address : "");
  if (detail->family == AF_INET) {
    v4->sin_port = htons(detail->port);
    *size = sizeof(*v4);
  } else {
    v6->sin6_port = htons(detail->port);
    v6->sin6_scope_id = detail->scope;
    *size = sizeof(*v6);
  }
  return 0;
}

static int set_options(int fd, const struct detail *detail, bool before_bind, struct err *e)
{
  return socket_set_options(fd, known_options, ARRAY_LEN(known_options), detail->options,
                            detail->option_count, before_bind, e);
}

/* A connection whose other end is closed: over loopback, with ourselves. */
static int closed_connection(struct err *e)
{
  AUTO_CLOSE int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  AUTO_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  AUTO_CLOSE int peer = -1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof(address);

  if (listener < 0 || fd < 0)
    return err_sys(e, "socket");
  if (bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0 &&
      getsockname(listener, (struct sockaddr *)&address, &size) == 0 &&
      connect(fd, (struct sockaddr *)&address, size) == 0)
    peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  /* Without loopback it stays a socket that was never connected: reading fails at once. */
  return take_fd(&fd);
}

static int make_socket(const void *context, struct err *e)
{
  const struct detail *detail = context;
  struct sockaddr_storage address;
  socklen_t size = 0;
  AUTO_CLOSE int fd = -1;

  if (detail->family != AF_INET && detail->family != AF_INET6)
    return err_set(e, "socket family %d", detail->family);
  if (strcmp(detail->state, "closed") == 0)
    return closed_connection(e);
  fd = socket(detail->family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
  if (fd < 0)
    return err_sys(e, "socket");
  if (set_options(fd, detail, true, e) < 0)
    return -1;
  if (strcmp(detail->state, "fresh") != 0) {
    if (to_sockaddr(detail, &address, &size, e) < 0)
      return -1;
    if (bind(fd, (struct sockaddr *)&address, size) < 0)
      return err_sys(e, "%s port %u", detail->address, detail->port);
  }
  if (strcmp(detail->state, "listening") == 0 && listen(fd, detail->backlog) < 0)
    return err_sys(e, "%s port %u: listen", detail->address, detail->port);
  if (set_options(fd, detail, false, e) < 0)
    return -1;
  return take_fd(&fd);
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_CLOSE int fd = -1;

  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  if (!detail.state)
    return err_set(e, "state: is missing");
  fd = socket_make_there(restore, make_socket, &detail, e);
  if (fd < 0)
    return -1;
  if (fcntl(fd, F_SETFL, file->flags & (O_NONBLOCK | O_ASYNC)) < 0)
    return err_sys(e, "socket flags");
  return take_fd(&fd);
}

/* A port that is taken is found before anything is made. */
static int check_restore(const struct object_restore *restore_, const struct file *file,
                         struct err *e)
{
  struct object_restore copy = *restore_;
  AUTO_CLOSE int fd = restore(&copy, file, e);

  return fd < 0 ? -1 : 0;
}

const struct object_type object_tcp = {
    .name = "tcp",
    .matches = matches,
    .check = check,
    .dump = dump,
    .check_restore = check_restore,
    .restore = restore,
};
