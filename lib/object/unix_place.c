/*
 * Where a UNIX socket is bound, and what is done there. A name without a file (of one end of a
 * stream, of a file that was unlinked) is bound in an empty file system that nobody else sees: the
 * kernel keeps the text of an address, whatever it led to.
 */
#include "object/unix.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* -- places -- */

/* Where an address that is a path leads to a file. */
struct place {
  int root, directory; /* directory -1: the root */
};

static void place_close(struct place *place)
{
  cleanup_close(&place->root);
  cleanup_close(&place->directory);
}

/* An empty file system, made when it is first needed, and gone with us. */
static int nowhere(struct object_restore *restore, struct err *e)
{
  static const char key[] = "unix nowhere";
  AUTO_CLOSE int context = -1;
  int fd = object_shared_fd(restore, key);

  if (fd >= 0)
    return fd;
  context = fsopen("tmpfs", FSOPEN_CLOEXEC);
  if (context < 0 || fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
    return err_sys(e, "a file system for names of sockets");
  fd = fsmount(context, FSMOUNT_CLOEXEC, 0);
  if (fd < 0)
    return err_sys(e, "a file system for names of sockets");
  return object_share_fd(restore, key, fd, e) < 0 ? -1 : fd;
}

static int open_nowhere(struct object_restore *restore, struct place *place, struct err *e)
{
  int fd = nowhere(restore, e);

  *place = (struct place){.root = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0), .directory = -1};
  if (fd < 0)
    return -1;
  return place->root < 0 ? err_sys(e, "socket") : 0;
}

static int open_place(const struct object_restore *restore, const struct unix_detail *detail,
                      struct place *place, struct err *e)
{
  const char *root = detail->root ? detail->root : "/";

  *place = (struct place){-1, -1};
  place->root = object_open(restore, root, O_PATH | O_DIRECTORY);
  if (place->root < 0)
    return err_sys(e, "%s", root);
  if (!detail->directory)
    return 0;
  {
    struct object_restore below = *restore;

    below.root_fd = place->root;
    place->directory = object_open(&below, detail->directory, O_PATH | O_DIRECTORY);
  }
  return place->directory < 0 ? err_sys(e, "%s", detail->directory) : 0;
}

static bool is_same(int one, int other)
{
  struct stat a, b;

  return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

/* Into the directory, as the root if that is another one: only root may have another. */
static int change_root(int to, int from)
{
  return fchdir(to) < 0 || (!is_same(to, from) && chroot(".") < 0) ? -1 : 0;
}

/* Calls with the place's root and directory as ours. */
static int in_place(const struct place *place, unix_call *function, const void *context,
                    struct err *e)
{
  AUTO_CLOSE int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  AUTO_CLOSE int directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  int result;

  if (root < 0 || directory < 0)
    return err_sys(e, "working directory");
  if (change_root(place->root, root) < 0 || (place->directory >= 0 && fchdir(place->directory) < 0))
    result = err_sys(e, "root directory");
  else
    result = function(context, e);
  if (change_root(root, place->root) < 0 || fchdir(directory) < 0)
    return err_sys(e, "root directory");
  return result;
}

static socklen_t to_sockaddr(const struct blob *address, struct sockaddr_un *name)
{
  *name = (struct sockaddr_un){.sun_family = AF_UNIX};
  memcpy(name->sun_path, address->data, address->size);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + address->size);
}

static const char *address_text(const struct blob *address, char text[128])
{
  bool abstract = unix_is_abstract(address);

  snprintf(text, 128, "%s%.*s", abstract ? "@" : "", (int)(address->size - abstract),
           address->size ? (const char *)address->data + abstract : "");
  return text;
}

static int do_bind(const void *context, struct err *e)
{
  const struct unix_naming *naming = context;
  struct sockaddr_un name;
  socklen_t size = to_sockaddr(naming->address, &name);
  char text[128];

  if (bind(naming->fd, (struct sockaddr *)&name, size) < 0)
    return err_sys(e, "%s", address_text(naming->address, text));
  return 0;
}

int unix_do_connect(const void *context, struct err *e)
{
  const struct unix_naming *naming = context;
  struct sockaddr_un name;
  socklen_t size = to_sockaddr(naming->address, &name);
  char text[128];

  if (connect(naming->fd, (struct sockaddr *)&name, size) < 0)
    return err_sys(e, "%s: connect", address_text(naming->address, text));
  return 0;
}

int unix_do_send(const void *context, struct err *e)
{
  const struct unix_naming *naming = context;
  const struct blob *data = &naming->message->data;
  struct sockaddr_un name;
  socklen_t size = to_sockaddr(naming->address, &name);
  char text[128];

  if (sendto(naming->fd, data->data, data->size, MSG_DONTWAIT | MSG_NOSIGNAL,
             (struct sockaddr *)&name, size) != (ssize_t)data->size)
    return err_sys(e, "%s: its %zu bytes", address_text(naming->address, text), data->size);
  return 0;
}

/* Directories on the way to a name, and nothing at its end. */
static int do_bind_nowhere(const void *context, struct err *e)
{
  const struct unix_naming *naming = context;
  mode_t before = umask(0);
  struct sockaddr_un name;
  char path[sizeof(name.sun_path) + 1] = "";
  int result;

  memcpy(path, naming->address->data, naming->address->size);
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(path, 0755); /* what is missing after all, bind will tell */
    *slash = '/';
  }
  unlink(path);
  result = do_bind(context, e);
  umask(before);
  return result;
}

/* The socket file anew: with its mode from the first moment. */
static int do_bind_file(const void *context, struct err *e)
{
  const struct unix_naming *naming = context;
  const struct unix_detail *detail = naming->detail;
  struct sockaddr_un name;
  char path[sizeof(name.sun_path) + 1] = "";
  struct stat found;
  mode_t before;
  int result;

  memcpy(path, naming->address->data, naming->address->size);
  if (lstat(path, &found) == 0) {
    if (!S_ISSOCK(found.st_mode))
      return err_set(e, "%s: is no longer a socket", path);
    if (unlink(path) < 0)
      return err_sys(e, "%s", path);
  }
  before = umask(0777 & ~detail->mode);
  result = do_bind(context, e);
  umask(before);
  if (result == 0 && (detail->uid != geteuid() || detail->gid != getegid()) &&
      lchown(path, detail->uid, detail->gid) < 0)
    return err_sys(e, "%s: owner", path);
  return result;
}

int unix_bind_nowhere(struct object_restore *restore, int fd, const struct blob *address,
                      struct err *e)
{
  CLEANUP(place_close) struct place place = {-1, -1};
  struct unix_naming naming = {.fd = fd, .address = address};

  if (unix_is_abstract(address))
    return do_bind(&naming, e);
  if (open_nowhere(restore, &place, e) < 0)
    return -1;
  return in_place(&place, do_bind_nowhere, &naming, e);
}

/* Does something at an address of the tree's, wherever that is. */
int unix_at(struct object_restore *restore, const struct unix_detail *whose, unix_call *function,
            const void *context, struct err *e)
{
  CLEANUP(place_close) struct place place = {-1, -1};

  if (unix_is_abstract(&whose->address))
    return function(context, e);
  if ((whose->has_file ? open_place(restore, whose, &place, e) : open_nowhere(restore, &place, e)) <
      0)
    return -1;
  return in_place(&place, function, context, e);
}

/* Is the directory there, and is at most a socket in it that nobody has? */
int unix_do_probe(const void *context, struct err *e)
{
  const struct unix_naming *naming = context;
  struct sockaddr_un name;
  socklen_t size = to_sockaddr(naming->address, &name);
  char path[sizeof(name.sun_path) + 1] = "";
  char text[128];
  struct stat found;

  address_text(naming->address, text);
  if (!unix_is_abstract(naming->address)) {
    memcpy(path, naming->address->data, naming->address->size);
    if (lstat(path, &found) < 0)
      return errno == ENOENT && stat(dirname(path), &found) == 0 ? 0 : err_sys(e, "%s", text);
    if (!S_ISSOCK(found.st_mode))
      return err_set(e, "%s: is no longer a socket", text);
  }
  /* A datagram socket disturbs nobody: who has the name is told of nothing, or is of another type.
   */
  if (connect(naming->fd, (struct sockaddr *)&name, size) < 0 && errno != EPROTOTYPE)
    return errno == ECONNREFUSED ? 0 : err_sys(e, "%s", text);
  return err_set(e, "%s: is in use; end the program that has this socket", text);
}

int unix_bind(struct object_restore *restore, int fd, const struct unix_detail *detail,
              struct err *e)
{
  struct unix_naming naming = {.fd = fd, .address = &detail->address, .detail = detail};

  return detail->has_file ? unix_at(restore, detail, do_bind_file, &naming, e)
                          : unix_bind_nowhere(restore, fd, &detail->address, e);
}
