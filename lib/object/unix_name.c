/* Addresses of UNIX sockets, and the files that they stand for. */
#include "object/unix.h"

#include "base/cleanup.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE 0x89e0 /* linux/un.h */
#endif

int unix_ids_inside(pid_t pid, uint32_t *uid, uint32_t *gid, struct err *e)
{
  struct proc_idmap uids, gids;

  if (proc_idmap_read(pid, "uid_map", &uids, e) != 0 ||
      proc_idmap_read(pid, "gid_map", &gids, e) != 0)
    return err_set(e, "its user namespace cannot be read");
  *uid = proc_id_inside(&uids, *uid);
  *gid = proc_id_inside(&gids, *gid);
  return 0;
}

bool unix_is_abstract(const struct blob *address)
{
  return address->size > 0 && address->data[0] == 0;
}

int unix_address(int fd, struct blob *address, struct err *e)
{
  struct sockaddr_un name = {.sun_family = AF_UNSPEC};
  socklen_t size = sizeof(name);
  const size_t path = offsetof(struct sockaddr_un, sun_path);

  if (getsockname(fd, (struct sockaddr *)&name, &size) < 0)
    return err_sys(e, "socket name");
  if (size <= path)
    return 0;
  size = size > sizeof(name) ? sizeof(name) : size;
  address->size = size - path;
  if (name.sun_path[0])
    address->size = strnlen(name.sun_path, address->size);
  address->data = malloc(address->size + 1);
  if (!address->data)
    return err_sys(e, "socket name");
  memcpy(address->data, name.sun_path, address->size);
  address->data[address->size] = 0;
  return 0;
}

/* A path below another root; its last part is not followed. */
static int open_below(int root, const char *path)
{
  struct open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW, .resolve = RESOLVE_IN_ROOT};

  return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

/* Where the file is, seen from the process's root. The link is what /proc says to us. */
static const char *inside_root(const char *link, const char *root)
{
  size_t length = root ? strlen(root) : 0;

  return strncmp(link, root ? root : "", length) == 0 && link[length] == '/' ? link + length : NULL;
}

static int read_link(int fd, char *link, size_t room, struct err *e)
{
  char path[32];
  ssize_t n;

  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  n = readlink(path, link, room - 1);
  if (n < 0)
    return err_sys(e, "%s", path);
  link[n] = '\0';
  return 0;
}

static int take_owner(const struct object_source *source, const struct stat *file,
                      struct unix_detail *detail, struct err *e)
{
  detail->mode = file->st_mode & 0777;
  detail->uid = file->st_uid;
  detail->gid = file->st_gid;
  return unix_ids_inside(source->pid, &detail->uid, &detail->gid, e);
}

static int take_root(const struct object_source *source, struct unix_detail *detail, struct err *e)
{
  char link[PATH_MAX];

  if (proc_link(source->pid, "root", link, sizeof(link), e) != 0)
    return -1;
  if (strcmp(link, "/") == 0)
    return 0;
  detail->root = strdup(link);
  return detail->root ? 0 : err_sys(e, "socket name");
}

/* A relative address: where it was bound is known by where the file is now. */
static int take_directory(const char *path, struct unix_detail *detail, struct err *e)
{
  const char *address = (const char *)detail->address.data;
  size_t length = strlen(path);

  if (length <= detail->address.size ||
      strcmp(path + length - detail->address.size, address) != 0 ||
      path[length - detail->address.size - 1] != '/')
    return err_set(e,
                   "cannot be checkpointed: it is bound to \"%s\", relative to a directory that "
                   "is not known; bind it by its whole path",
                   address);
  length -= detail->address.size + 1;
  detail->directory = length ? strndup(path, length) : strdup("/");
  return detail->directory ? 0 : err_sys(e, "socket name");
}

/*
 * The path at which its file was made, in `link`; 1, or 0 when it has none there any more. An
 * ordinary user is told only the file's number, and has to believe the address.
 */
static int find_path(const struct object_source *source, const struct unix_info *info,
                     struct unix_detail *detail, char link[PATH_MAX], struct stat *bound,
                     struct err *e)
{
  AUTO_CLOSE int file = ioctl(source->local, SIOCUNIXFILE);
  const char *address = (const char *)detail->address.data;
  const char *path = address;

  if (file >= 0) {
    if (fstat(file, bound) < 0 || read_link(file, link, PATH_MAX, e) < 0)
      return err_sys(e, "socket file");
    path = address[0] == '/' ? address : inside_root(link, detail->root);
  } else if (errno != EPERM) {
    return err_sys(e, "socket file");
  } else if (address[0] != '/') {
    return err_set(e,
                   "cannot be checkpointed: user %u cannot find out where it was bound to \"%s\"; "
                   "bind it by its whole path, or checkpoint it as root",
                   geteuid(), address);
  } else {
    *bound = (struct stat){.st_dev = info->file_device, .st_ino = info->file_inode};
  }
  if (!path)
    return 0;
  memmove(link, path, strlen(path) + 1);
  return 1;
}

int unix_find_file(const struct object_source *source, const struct unix_info *info,
                   struct unix_detail *detail, struct err *e)
{
  AUTO_CLOSE int root = -1;
  AUTO_CLOSE int fd = -1;
  struct stat bound, found;
  char path[PATH_MAX];
  char name[32];
  int result;

  snprintf(name, sizeof(name), "/proc/%d/root", source->pid);
  root = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    return err_sys(e, "%s", name);
  if (take_root(source, detail, e) < 0)
    return -1;
  result = find_path(source, info, detail, path, &bound, e);
  if (result <= 0)
    return result;
  fd = open_below(root, path);
  if (fd < 0 || fstat(fd, &found) < 0 || found.st_dev != bound.st_dev ||
      found.st_ino != bound.st_ino)
    return 0; /* unlinked or replaced: it is only a name any more */
  detail->has_file = true;
  if (detail->address.data[0] != '/' && take_directory(path, detail, e) < 0)
    return -1;
  return take_owner(source, &found, detail, e);
}
