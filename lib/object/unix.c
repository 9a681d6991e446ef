/*
 * UNIX sockets (unix(7)). One is a file of the model; both ends of a connection must be in the
 * tree. What is in the queues comes along, message by message.
 */
#include "object/unix.h"

#include "base/cleanup.h"
#include "object/holders.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static const struct field message_fields[] = {
    F_BLOB(struct unix_message, data),
    F_BLOB(struct unix_message, from),
    F_END,
};

const struct field unix_fields[] = {
    F_UNSIGNED(struct unix_detail, inode),
    F_SIGNED(struct unix_detail, type),
    F_STRING(struct unix_detail, state),
    F_BLOB(struct unix_detail, address),
    F_BOOL(struct unix_detail, has_file),
    F_STRING(struct unix_detail, root),
    F_STRING(struct unix_detail, directory),
    F_UNSIGNED(struct unix_detail, mode),
    F_UNSIGNED(struct unix_detail, uid),
    F_UNSIGNED(struct unix_detail, gid),
    F_SIGNED(struct unix_detail, backlog),
    F_UNSIGNED(struct unix_detail, peer),
    F_BOOL(struct unix_detail, reset),
    F_UNSIGNED(struct unix_detail, shutdown),
    F_UNSIGNED(struct unix_detail, peer_uid),
    F_UNSIGNED(struct unix_detail, peer_gid),
    F_LIST(struct unix_detail, options, option_count, socket_option_fields),
    F_LIST(struct unix_detail, messages, message_count, message_fields),
    F_END,
};

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

const struct socket_known_option unix_options[] = {
    {SOL_SOCKET, SO_SNDBUF, OPTION_BUFFER, false, false},
    {SOL_SOCKET, SO_RCVBUF, OPTION_BUFFER, false, false},
    {SOL_SOCKET, SO_PASSCRED, OPTION_INT, false, false},
    {SOL_SOCKET, SO_PASSSEC, OPTION_INT, false, false},
    {SOL_SOCKET, SO_PASSPIDFD, OPTION_INT, false, false},
    {SOL_SOCKET, SO_PASSRIGHTS, OPTION_INT, false, false},
    {SOL_SOCKET, SO_PEEK_OFF, OPTION_INT, false, false},
    {SOL_SOCKET, SO_PRIORITY, OPTION_INT, false, false},
    {SOL_SOCKET, SO_RCVLOWAT, OPTION_INT, false, false},
    {SOL_SOCKET, SO_RCVTIMEO, OPTION_TIME, false, false},
    {SOL_SOCKET, SO_SNDTIMEO, OPTION_TIME, false, false},
    {SOL_SOCKET, SO_LINGER, OPTION_LINGER, false, false},
    {SOL_SOCKET, SO_REUSEADDR, OPTION_INT, false, false},
    {SOL_SOCKET, SO_KEEPALIVE, OPTION_INT, false, false},
    {SOL_SOCKET, SO_BROADCAST, OPTION_INT, false, false},
    {SOL_SOCKET, SO_TIMESTAMP, OPTION_INT, false, false},
};
const size_t unix_option_count = ARRAY_LEN(unix_options);

void unix_detail_free(struct unix_detail *detail)
{
  fields_free(unix_fields, detail);
}

static bool matches(const struct object_source *source)
{
  return S_ISSOCK(source->stat.st_mode) && source->local >= 0 &&
         socket_int_option(source->local, SOL_SOCKET, SO_DOMAIN) == AF_UNIX;
}

/*
 * What the kernel says of it, wherever it was made; it comes back in the tree's namespace. Only who
 * rules over its namespace is told which that is: for others it is the process's, and ours.
 */
static int read_info(const struct object_source *source, struct unix_info *info, struct err *e)
{
  AUTO_CLOSE int net = ioctl(source->local, SIOCGSKNS);
  struct stat its, ours, theirs;
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/ns/net", source->pid);
  if ((net < 0 && errno != EPERM) || stat("/proc/self/ns/net", &ours) < 0 ||
      stat(path, &theirs) < 0 || (net >= 0 && fstat(net, &its) < 0))
    return err_sys(e, "network namespace");
  if (net < 0 && theirs.st_ino != ours.st_ino)
    return err_set(e,
                   "cannot be checkpointed: user %u may not look into its network namespace; "
                   "checkpoint it as root",
                   geteuid());
  if (net >= 0 && its.st_ino != theirs.st_ino)
    return err_set(e, "cannot be checkpointed: it is of another network namespace than the tree; "
                      "close it before the checkpoint");
  return unix_diag(theirs.st_ino == ours.st_ino ? -1 : net, source->stat.st_ino, info, e);
}

bool unix_is_stream(const struct unix_detail *detail)
{
  return detail->type == SOCK_STREAM || detail->type == SOCK_SEQPACKET;
}

/* What passes by itself, as a rule: connections and descriptors on their way. */
static int check_transit(const struct object_source *source, const struct unix_info *info,
                         const struct unix_detail *detail, struct err *e)
{
  uint64_t descriptors = 0;

  if (source->fdinfo && proc_field(source->fdinfo, "scm_fds", 10, &descriptors) && descriptors)
    return err_set(e,
                   "cannot be checkpointed: %d descriptors wait in its queue (SCM_RIGHTS); retry "
                   "when they have been received",
                   (int)descriptors);
  if (info->state == TCP_LISTEN && info->waiting)
    return err_set(e, "cannot be checkpointed: %u connections wait to be accepted; retry",
                   info->waiting);
  /* A closed end has shut the other down. */
  if (unix_is_stream(detail) && info->connected && info->peer == 0 && info->shutdown != 3)
    return err_set(e, "cannot be checkpointed: its connection has not been accepted yet; retry");
  return 0;
}

static int refuse_peer(const struct holders *holders, struct err *e)
{
  struct proc_status status = {0};
  struct err ignored;

  if (!holders->outsider)
    return err_set(e, "cannot be checkpointed: no process has its other end, which may be on its "
                      "way through another socket; retry");
  if (proc_status_read(holders->outsider, &status, &ignored) != 0)
    snprintf(status.name, sizeof(status.name), "?");
  err_record(e,
             "cannot be checkpointed: its other end is pid %d (%s), outside the tree; end that "
             "connection, or make both ends part of the tree",
             holders->outsider, status.name);
  proc_status_free(&status);
  return -1;
}

static const char *state_name(const struct unix_info *info)
{
  if (info->state == TCP_LISTEN)
    return "listening";
  return info->connected ? "connected" : "unconnected";
}

/* Who it is. One end of a stream is called by the name of who listened: that file is not its own.
 */
static int identify(const struct object_source *source, struct unix_info *info,
                    struct unix_detail *detail, struct err *e)
{
  if (read_info(source, info, e) < 0)
    return -1;
  detail->inode = source->stat.st_ino;
  detail->type = socket_int_option(source->local, SOL_SOCKET, SO_TYPE);
  detail->state = strdup(state_name(info));
  detail->backlog = info->state == TCP_LISTEN ? (int32_t)info->backlog : 0;
  detail->peer = info->peer;
  detail->shutdown = info->shutdown;
  if (!detail->state)
    return err_sys(e, "socket");
  if (check_transit(source, info, detail, e) < 0 ||
      unix_address(source->local, &detail->address, e) < 0)
    return -1;
  if (detail->address.size == 0 || unix_is_abstract(&detail->address))
    return 0;
  if (!(unix_is_stream(detail) && info->connected) && unix_find_file(source, info, detail, e) < 0)
    return -1;
  if (!detail->has_file && geteuid() != 0)
    return err_set(e, "cannot be checkpointed: only root can bring back a name that leads to no "
                      "file of its own; checkpoint it as root");
  return 0;
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail detail = {0};
  struct holders holders;
  struct unix_info info;

  if (identify(source, &info, &detail, e) < 0 ||
      object_holders(dump, source->stat.st_dev, source->stat.st_ino, &holders, e) < 0)
    return -1;
  if (holders.outsider)
    return err_set(e,
                   "cannot be checkpointed: pid %d outside the tree has the socket open, too; "
                   "start the program without that descriptor",
                   holders.outsider);
  if (info.peer == 0)
    return 0;
  if (object_holders(dump, source->stat.st_dev, info.peer, &holders, e) < 0)
    return -1;
  return holders.in_tree ? 0 : refuse_peer(&holders, e);
}

static int take_peer_credentials(const struct object_source *source, struct unix_detail *detail,
                                 struct err *e)
{
  struct ucred peer;
  socklen_t size = sizeof(peer);

  if (getsockopt(source->local, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
    return err_sys(e, "peer credentials");
  detail->peer_uid = peer.uid;
  detail->peer_gid = peer.gid;
  return peer.uid == UINT32_MAX
             ? 0
             : unix_ids_inside(source->pid, &detail->peer_uid, &detail->peer_gid, e);
}

static int dump_socket(const struct object_dump *dump, const struct object_source *source,
                       struct file *file, struct err *e)
{
  CLEANUP(unix_detail_free) struct unix_detail detail = {0};
  struct unix_info info;

  (void)dump;
  if (identify(source, &info, &detail, e) < 0 || take_peer_credentials(source, &detail, e) < 0 ||
      socket_read_options(source->local, unix_options, unix_option_count, &detail.options,
                          &detail.option_count, e) < 0)
    return -1;
  if ((info.connected || !unix_is_stream(&detail)) &&
      unix_read_queue(source->local, &info, &detail, e) < 0)
    return -1;
  file->detail = fields_to_json(unix_fields, &detail, e);
  return file->detail ? 0 : -1;
}

const struct object_type object_unix = {
    .name = "unix",
    .matches = matches,
    .check = check,
    .dump = dump_socket,
    .complete = unix_complete,
    .check_restore = unix_check_restore,
    .restore = unix_restore,
    .attach = unix_attach,
};
