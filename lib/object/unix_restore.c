/*
 * UNIX sockets come back in two steps. Connections are made first, with what was in their queues;
 * the names of the tree's own sockets are taken last (attach), when nothing else can fail any more:
 * that replaces the socket files that are there.
 */
#include "object/unix.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

enum { SEND_ROOM = 64 << 20 }; /* bytes; the socket's own room comes back with its options */

/* -- the tree -- */

static int read_detail(const struct file *file, struct unix_detail *detail, struct err *e)
{
  return fields_from_json(unix_fields, detail, file->detail, e);
}

/* An id of the tree's user namespace as we see it. A plain tree is in ours. */
static uint32_t outside(const struct proc_idmap *map, uint32_t id)
{
  enum { OVERFLOW_ID = 65534 };
  uint32_t found = id == UINT32_MAX || map->count == 0 ? id : proc_id_outside(map, id);

  return found == UINT32_MAX && id != UINT32_MAX ? OVERFLOW_ID : found;
}

/* Of what is made here. */
static int read_here(const struct object_restore *restore, const struct file *file,
                     struct unix_detail *detail, struct err *e)
{
  if (read_detail(file, detail, e) < 0)
    return -1;
  detail->uid = outside(&restore->uids, detail->uid);
  detail->gid = outside(&restore->gids, detail->gid);
  detail->peer_uid = outside(&restore->uids, detail->peer_uid);
  detail->peer_gid = outside(&restore->gids, detail->peer_gid);
  return 0;
}

static const struct file *file_by_inode(const struct tree *tree, uint64_t inode)
{
  for (size_t i = 0; i < tree->file_count && inode; i++) {
    const json_t *number = json_object_get(tree->files[i].detail, "inode");

    if (strcmp(tree->files[i].type, "unix") == 0 && json_is_integer(number) &&
        (uint64_t)json_integer_value(number) == inode)
      return &tree->files[i];
  }
  return NULL;
}

static bool is_connected(const struct unix_detail *detail)
{
  return strcmp(detail->state, "connected") == 0;
}

/* Each is the other's peer: always so of streams. A datagram socket may just be somebody's target.
 */
static bool are_pair(const struct unix_detail *one, const struct unix_detail *other)
{
  return is_connected(one) && is_connected(other) && one->peer == other->inode &&
         other->peer == one->inode && one->inode != other->inode;
}

static bool same_blob(const struct blob *a, const struct blob *b)
{
  return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

/* Numbers and texts that an image could have wrong. */
static int check_detail(const struct unix_detail *detail, struct err *e)
{
  if (detail->type != SOCK_STREAM && detail->type != SOCK_SEQPACKET && detail->type != SOCK_DGRAM)
    return err_set(e, "socket type %d", detail->type);
  if (!detail->state || (strcmp(detail->state, "unconnected") != 0 && !is_connected(detail) &&
                         strcmp(detail->state, "listening") != 0))
    return err_set(e, "state \"%s\"", detail->state ? detail->state : "");
  if (detail->inode == 0 || detail->address.size > sizeof(((struct sockaddr_un *)0)->sun_path) ||
      detail->mode > 0777 || detail->shutdown > 3)
    return err_set(e, "a member is out of range");
  if (detail->has_file && (detail->address.size == 0 || unix_is_abstract(&detail->address) ||
                           (unix_is_stream(detail) && is_connected(detail))))
    return err_set(e, "a file without a path");
  for (size_t i = 0; i < detail->message_count; i++) {
    if (detail->messages[i].from.size > sizeof(((struct sockaddr_un *)0)->sun_path))
      return err_set(e, "an address is too long");
  }
  return 0;
}

/* What it is connected to has to be there, and in a state in which it can be connected to. */
static int check_peer(const struct tree *tree, const struct unix_detail *detail, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail peer = {0};
  const struct file *file = file_by_inode(tree, detail->peer);

  if (!is_connected(detail) || detail->peer == 0)
    return 0;
  if (!file)
    return err_set(e, "cannot be checkpointed: its other end is outside the tree");
  if (read_detail(file, &peer, e) < 0 || check_detail(&peer, e) < 0)
    return -1;
  if (peer.type != detail->type || (unix_is_stream(detail) && !are_pair(detail, &peer)))
    return err_set(e, "its other end is no such socket");
  if (are_pair(detail, &peer))
    return 0;
  if (is_connected(&peer) && peer.peer != detail->inode)
    return err_set(e,
                   "cannot be checkpointed: what it sends to has been connected elsewhere since");
  if (peer.address.size == 0)
    return err_set(e, "cannot be checkpointed: what it sends to has no name");
  return 0;
}

int unix_complete(const struct tree *tree, const struct file *file, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail detail = {0};

  if (read_detail(file, &detail, e) < 0 || check_detail(&detail, e) < 0 ||
      check_peer(tree, &detail, e) < 0)
    return -1;
  if (detail.message_count && !is_connected(&detail) && detail.address.size == 0)
    return err_set(e, "cannot be checkpointed: messages wait in a socket that has no name");
  return 0;
}

/* -- connections -- */

static int do_socket(const void *context, struct err *e)
{
  const struct unix_detail *detail = context;
  int fd = socket(AF_UNIX, detail->type | SOCK_CLOEXEC, 0);

  return fd < 0 ? err_sys(e, "socket") : fd;
}

static int new_socket(const struct object_restore *restore, const struct unix_detail *detail,
                      struct err *e)
{
  return socket_make_there(restore, do_socket, detail, e);
}

/*
 * The kernel notes who connects and who listens (SO_PEERCRED): for that moment we are of the ids
 * that were noted. This thread alone, as the C library would not have it; the process id is ours.
 */
static int become(uint32_t uid, uint32_t gid, struct err *e)
{
  if (syscall(SYS_setresgid, -1, gid, -1) < 0 || syscall(SYS_setresuid, -1, uid, -1) < 0)
    return err_sys(e, "peer credentials %u:%u", uid, gid);
  return 0;
}

static int unbecome(uint32_t uid, uint32_t gid, struct err *e)
{
  if (syscall(SYS_setresuid, -1, uid, -1) < 0 || syscall(SYS_setresgid, -1, gid, -1) < 0)
    return err_sys(e, "own credentials");
  return 0;
}

static int as_peer(const struct unix_detail *detail, unix_call *function, const void *context,
                   struct err *e)
{
  uint32_t uid = geteuid();
  uint32_t gid = getegid();
  int result;

  if (detail->peer_uid == UINT32_MAX || (detail->peer_uid == uid && detail->peer_gid == gid))
    return function(context, e);
  result = become(detail->peer_uid, detail->peer_gid, e);
  if (result == 0)
    result = function(context, e);
  return unbecome(uid, gid, e) < 0 ? -1 : result;
}

struct pair {
  const struct unix_detail *one, *other; /* other NULL: that end is closed */
  int *fds;
};

static int do_socketpair(const void *context, struct err *e)
{
  const struct pair *pair = context;

  if (socketpair(AF_UNIX, pair->one->type | SOCK_CLOEXEC, 0, pair->fds) < 0)
    return err_sys(e, "socketpair");
  return 0;
}

static int do_socketpair_there(const void *context, struct err *e)
{
  const struct pair *pair = context;

  return as_peer(pair->one, do_socketpair, pair, e);
}

struct listening {
  int fd, backlog;
};

static int do_listen(const void *context, struct err *e)
{
  const struct listening *listening = context;

  return listen(listening->fd, listening->backlog) < 0 ? err_sys(e, "listen") : 0;
}

/* In the place of a listener, as somebody else. */
struct visit {
  const struct unix_detail *as;
  struct unix_naming naming;
};

static int do_visit(const void *context, struct err *e)
{
  const struct visit *visit = context;

  return as_peer(visit->as, unix_do_connect, &visit->naming, e);
}

/*
 * A stream one end of which has a name: through a listener of that name, as it once came about.
 * Only accept(2) gives a socket a name that others have, too. fds[0] is the named end.
 */
static int make_named_pair(struct object_restore *restore, const struct unix_detail *named,
                           const struct unix_detail *client, int fds[2], struct err *e)
{
  const struct unix_detail nobody = {.peer_uid = UINT32_MAX};
  AUTO_CLOSE int listener = new_socket(restore, named, e);
  AUTO_CLOSE int fd = new_socket(restore, named, e);
  struct visit visit = {.as = named, .naming = {.fd = fd, .address = &named->address}};
  int server;

  if (listener < 0 || fd < 0 || unix_bind_nowhere(restore, listener, &named->address, e) < 0 ||
      as_peer(client ? client : &nobody, do_listen, &(struct listening){listener, 1}, e) < 0 ||
      unix_at(restore, named, do_visit, &visit, e) < 0)
    return -1;
  server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (server < 0)
    return err_sys(e, "accept");
  fds[0] = server;
  fds[1] = take_fd(&fd);
  if (client && client->address.size && unix_bind_nowhere(restore, fds[1], &client->address, e) < 0)
    return -1;
  return 0;
}

/* Both ends of a connection, fds[0] of `one`. */
static int make_pair(struct object_restore *restore, const struct unix_detail *one,
                     const struct unix_detail *other, int fds[2], struct err *e)
{
  struct pair pair = {.one = one, .other = other, .fds = fds};
  int swapped[2] = {-1, -1};
  int result;

  fds[0] = fds[1] = -1;
  if (unix_is_stream(one) && one->address.size)
    return make_named_pair(restore, one, other, fds, e);
  if (!unix_is_stream(one) || !other || other->address.size == 0)
    return socket_make_there(restore, do_socketpair_there, &pair, e);
  result = make_named_pair(restore, other, one, swapped, e);
  fds[0] = swapped[1];
  fds[1] = swapped[0];
  return result;
}

static int send_all(int fd, const struct blob *data, struct err *e)
{
  size_t done = 0;

  do {
    ssize_t n = send(fd, data->data + done, data->size - done, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0)
      return err_sys(e, "its unread %zu bytes", data->size);
    done += (size_t)n;
  } while (done < data->size);
  return 0;
}

/* What waits at one end comes from the other. */
static int send_messages(int from, const struct unix_detail *to, struct err *e)
{
  if (to->message_count && socket_set_buffer(from, SO_SNDBUF, SEND_ROOM) < 0)
    return err_sys(e, "its queue");
  for (size_t i = 0; i < to->message_count; i++) {
    if (send_all(from, &to->messages[i].data, e) < 0)
      return -1;
  }
  return 0;
}

static void socket_key(char *key, size_t size, const char *what, uint64_t inode)
{
  snprintf(key, size, "unix %s %" PRIu64, what, inode);
}

/* The end that the other's file is to find. */
static int leave_peer(struct object_restore *restore, uint64_t inode, int *fd, struct err *e)
{
  char key[64];

  socket_key(key, sizeof(key), "end", inode);
  if (object_share_fd(restore, key, *fd, e) < 0)
    return -1;
  *fd = -1;
  return 0;
}

static int take_left(struct object_restore *restore, uint64_t inode)
{
  char key[64];
  int fd;

  socket_key(key, sizeof(key), "end", inode);
  fd = object_shared_fd(restore, key);
  if (fd >= 0)
    json_object_del(restore->shared, key);
  return fd;
}

/* The end of a connection whose other end is closed: with it, ours would be told what it was told.
 */
static int close_peer(struct object_restore *restore, const struct unix_detail *detail, int ours,
                      int theirs, struct err *e)
{
  if (detail->type == SOCK_DGRAM && detail->message_count && detail->messages[0].from.size &&
      unix_bind_nowhere(restore, theirs, &detail->messages[0].from, e) < 0)
    return -1;
  if (send_messages(theirs, detail, e) < 0)
    return -1;
  if (detail->reset && send(ours, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
    return err_sys(e, "connection that was reset");
  return 0;
}

static int connection(struct object_restore *restore, const struct unix_detail *detail,
                      struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail peer = {0};
  const struct file *peer_file = file_by_inode(restore->tree, detail->peer);
  AUTO_CLOSE int ours = -1;
  AUTO_CLOSE int theirs = -1;
  int fds[2];
  int result;

  if (peer_file && read_here(restore, peer_file, &peer, e) < 0)
    return -1;
  result = make_pair(restore, detail, peer_file ? &peer : NULL, fds, e);
  ours = fds[0];
  theirs = fds[1];
  if (result < 0)
    return -1;
  if (!peer_file)
    return close_peer(restore, detail, ours, theirs, e) < 0 ? -1 : take_fd(&ours);
  if (send_messages(theirs, detail, e) < 0 || send_messages(ours, &peer, e) < 0 ||
      leave_peer(restore, peer.inode, &theirs, e) < 0)
    return -1;
  return take_fd(&ours);
}

/* Is its other end closed, or the other end of a pair? Else it can be connected when all is named.
 */
static int has_pair(const struct tree *tree, const struct unix_detail *detail, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail peer = {0};
  const struct file *file = file_by_inode(tree, detail->peer);

  if (!is_connected(detail))
    return 0;
  if (!file)
    return 1;
  return read_detail(file, &peer, e) < 0 ? -1 : are_pair(detail, &peer);
}

int unix_restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail detail = {0};
  AUTO_CLOSE int fd = -1;
  int paired;

  if (read_here(restore, file, &detail, e) < 0)
    return -1;
  fd = take_left(restore, detail.inode);
  paired = has_pair(restore->tree, &detail, e);
  if (paired < 0)
    return -1;
  if (fd < 0)
    fd = paired ? connection(restore, &detail, e) : new_socket(restore, &detail, e);
  if (fd < 0)
    return -1;
  if (fcntl(fd, F_SETFL, file->flags & (O_NONBLOCK | O_ASYNC)) < 0)
    return err_sys(e, "socket flags");
  return take_fd(&fd);
}

/* -- names -- */

static int local_of(const struct object_restore *restore, const struct file *file)
{
  return restore->local[file - restore->tree->files];
}

/* Binds a socket of the tree, once: others may need its name before its own turn comes. */
static int take_name(struct object_restore *restore, const struct file *file,
                     const struct unix_detail *detail, struct err *e)
{
  char key[64];

  socket_key(key, sizeof(key), "named", detail->inode);
  if (detail->address.size == 0 || (unix_is_stream(detail) && is_connected(detail)) ||
      json_object_get(restore->shared, key))
    return 0;
  if (json_object_set_new(restore->shared, key, json_true()) < 0)
    return err_set(e, "out of memory");
  return unix_bind(restore, local_of(restore, file), detail, e);
}

/* The socket of the tree with that address that datagrams can be sent from; NULL: none. */
static const struct file *file_by_address(const struct object_restore *restore,
                                          const struct blob *address, struct unix_detail *detail,
                                          struct err *e)
{
  for (size_t i = 0; i < restore->tree->file_count; i++) {
    const struct file *file = &restore->tree->files[i];

    if (strcmp(file->type, "unix") != 0)
      continue;
    unix_detail_free(detail);
    *detail = (struct unix_detail){0};
    if (read_here(restore, file, detail, e) < 0)
      return NULL;
    if (detail->type == SOCK_DGRAM && same_blob(&detail->address, address))
      return file;
  }
  return NULL;
}

/* Somebody who had sent: the tree's own socket of that name, or one that we make. */
static int open_sender(struct object_restore *restore, const struct unix_detail *to,
                       const struct blob *from, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail detail = {0};
  const struct file *file = from->size ? file_by_address(restore, from, &detail, e) : NULL;
  AUTO_CLOSE int fd = -1;

  if (file) {
    if (take_name(restore, file, &detail, e) < 0)
      return -1;
    fd = fcntl(local_of(restore, file), F_DUPFD_CLOEXEC, 0);
    return fd < 0 ? err_sys(e, "socket") : take_fd(&fd);
  }
  fd = new_socket(restore, to, e);
  if (fd < 0 || (from->size && unix_bind_nowhere(restore, fd, from, e) < 0))
    return -1;
  return take_fd(&fd);
}

/* Datagrams that anybody had sent to this address. */
static int deliver(struct object_restore *restore, const struct unix_detail *to, struct err *e)
{
  for (size_t i = 0; i < to->message_count; i++) {
    const struct unix_message *message = &to->messages[i];
    AUTO_CLOSE int fd = open_sender(restore, to, &message->from, e);
    struct unix_naming naming = {.fd = fd, .address = &to->address, .message = message};

    if (fd < 0)
      return -1;
    if (socket_set_buffer(fd, SO_SNDBUF, SEND_ROOM) < 0)
      return err_sys(e, "its queue");
    if (unix_at(restore, to, unix_do_send, &naming, e) < 0)
      return -1;
  }
  return 0;
}

/* A datagram socket to what it sends to. */
static int connect_to_peer(struct object_restore *restore, const struct unix_detail *detail, int fd,
                           struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail peer = {0};
  const struct file *file = file_by_inode(restore->tree, detail->peer);
  struct unix_naming naming = {.fd = fd, .address = &peer.address};

  if (!is_connected(detail))
    return 0;
  if (read_here(restore, file, &peer, e) < 0 || take_name(restore, file, &peer, e) < 0)
    return -1;
  return unix_at(restore, &peer, unix_do_connect, &naming, e);
}

static int finish(struct object_restore *restore, const struct unix_detail *detail, int fd,
                  struct err *e)
{
  int paired = has_pair(restore->tree, detail, e);

  if (paired < 0)
    return -1;
  if (strcmp(detail->state, "listening") == 0 &&
      as_peer(detail, do_listen, &(struct listening){fd, detail->backlog}, e) < 0)
    return -1;
  if (!paired && (deliver(restore, detail, e) < 0 || connect_to_peer(restore, detail, fd, e) < 0))
    return -1;
  if (socket_set_options(fd, unix_options, unix_option_count, detail->options, detail->option_count,
                         false, e) < 0)
    return -1;
  if (detail->shutdown && shutdown(fd, (int)detail->shutdown - 1) < 0 && errno != ENOTCONN)
    return err_sys(e, "shutdown");
  return 0;
}

int unix_attach(struct object_restore *restore, const struct file *file, int fd,
                struct tracee *tracee, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail detail = {0};

  (void)fd;
  (void)tracee;
  if (read_here(restore, file, &detail, e) < 0 || take_name(restore, file, &detail, e) < 0)
    return -1;
  return finish(restore, &detail, local_of(restore, file), e);
}

/* -- before anything is made -- */

int unix_check_restore(const struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail detail = {0};
  const struct unix_detail datagram = {.type = SOCK_DGRAM};
  struct unix_naming naming = {.address = &detail.address};
  struct object_restore copy = *restore;
  AUTO_CLOSE int fd = -1;

  if (read_here(restore, file, &detail, e) < 0)
    return -1;
  if (!detail.has_file && !unix_is_abstract(&detail.address))
    return 0;
  naming.fd = fd = new_socket(restore, &datagram, e);
  return fd < 0 ? -1 : unix_at(&copy, &detail, unix_do_probe, &naming, e);
}
