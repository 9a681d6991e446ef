/* NETLINK_SOCK_DIAG: the only way to learn who the peer of a socket is. */
#include "object/unix.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

static int take_attribute(const struct rtattr *attribute, struct unix_info *info)
{
  const void *data = RTA_DATA(attribute);
  size_t size = RTA_PAYLOAD(attribute);
  struct unix_diag_rqlen queue;
  struct unix_diag_vfs file;

  switch (attribute->rta_type) {
  case UNIX_DIAG_PEER:
    if (size < sizeof(info->peer))
      return -1;
    memcpy(&info->peer, data, sizeof(info->peer));
    info->connected = true;
    return 0;
  case UNIX_DIAG_RQLEN:
    if (size < sizeof(queue))
      return -1;
    memcpy(&queue, data, sizeof(queue));
    info->waiting = queue.udiag_rqueue;
    info->backlog = queue.udiag_wqueue;
    return 0;
  case UNIX_DIAG_VFS:
    if (size < sizeof(file))
      return -1;
    memcpy(&file, data, sizeof(file));
    /* As the kernel itself has it: 12 bits and 20. */
    info->file_device = makedev(file.udiag_vfs_dev >> 20, file.udiag_vfs_dev & 0xfffff);
    info->file_inode = file.udiag_vfs_ino;
    return 0;
  case UNIX_DIAG_SHUTDOWN:
    if (size < sizeof(info->shutdown))
      return -1;
    memcpy(&info->shutdown, data, sizeof(info->shutdown));
    return 0;
  default:
    return 0;
  }
}

int unix_diag_parse(const void *reply, size_t size, struct unix_info *info, struct err *e)
{
  const struct nlmsghdr *header = reply;
  const struct unix_diag_msg *message;
  const struct rtattr *attribute;
  size_t left;

  *info = (struct unix_info){0};
  if (size >= NLMSG_LENGTH(sizeof(struct nlmsgerr)) && header->nlmsg_type == NLMSG_ERROR) {
    errno = -((const struct nlmsgerr *)NLMSG_DATA(header))->error;
    return err_sys(e, "sock_diag");
  }
  if (size < NLMSG_LENGTH(sizeof(*message)) || !NLMSG_OK(header, size) ||
      header->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
      header->nlmsg_len < NLMSG_LENGTH(sizeof(*message)))
    return err_set(e, "sock_diag: an answer of %zu bytes is not understood", size);
  message = NLMSG_DATA(header);
  info->state = message->udiag_state;
  attribute = (const struct rtattr *)(message + 1);
  left = header->nlmsg_len - NLMSG_LENGTH(sizeof(*message));
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    if (take_attribute(attribute, info) < 0)
      return err_set(e, "sock_diag: attribute %u is too short", attribute->rta_type);
  }
  return 0;
}

static int ask(ino_t inode, struct unix_info *info, struct err *e)
{
  AUTO_CLOSE int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  struct {
    struct nlmsghdr header;
    struct unix_diag_req body;
  } request = {
      .header = {.nlmsg_len = sizeof(request),
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST},
      .body = {.sdiag_family = AF_UNIX,
               .udiag_states = UINT32_MAX,
               .udiag_ino = (uint32_t)inode,
               .udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_VFS,
               .udiag_cookie = {UINT32_MAX, UINT32_MAX}},
  };
  struct nlmsghdr reply[128];
  ssize_t n;

  if (fd < 0 || send(fd, &request, sizeof(request), 0) < 0)
    return err_sys(e, "sock_diag");
  n = recv(fd, reply, sizeof(reply), 0);
  return n < 0 ? err_sys(e, "sock_diag") : unix_diag_parse(reply, (size_t)n, info, e);
}

int unix_diag(int net, ino_t inode, struct unix_info *info, struct err *e)
{
  AUTO_CLOSE int here = -1;
  int result;

  if (net < 0)
    return ask(inode, info, e);
  here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (here < 0 || setns(net, CLONE_NEWNET) < 0)
    return err_sys(e, "network namespace");
  result = ask(inode, info, e);
  return setns(here, CLONE_NEWNET) < 0 ? err_sys(e, "network namespace") : result;
}
