#include "object/inode.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "object/mount.h"
#include "object/object.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

static const struct field fields[] = {
    F_STRING(struct inode, mount),
    F_STRING(struct inode, path),
    F_STRING(struct inode, link),
    F_BOOL(struct inode, absent),
    F_BOOL(struct inode, whole),
    F_HEX(struct inode, mode),
    F_UNSIGNED(struct inode, uid),
    F_UNSIGNED(struct inode, gid),
    F_UNSIGNED(struct inode, major),
    F_UNSIGNED(struct inode, minor),
    F_STRING(struct inode, target),
    F_SIGNED(struct inode, mtime_seconds),
    F_UNSIGNED(struct inode, mtime_nanoseconds),
    F_HEX(struct inode, attributes),
    F_LIST(struct inode, xattrs, xattr_count, xattr_fields),
    F_END,
};

void inode_free(struct inode *inode)
{
  fields_free(fields, inode);
}

json_t *inode_to_json(const struct inode *inode, struct err *e)
{
  return fields_to_json(fields, inode, e);
}

int inode_open(int mount, const char *path, int flags)
{
  struct open_how how = {
      .flags = (uint64_t)flags | O_CLOEXEC | O_NOFOLLOW,
      .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS,
  };

  return (int)syscall(SYS_openat2, mount, path[0] ? path : ".", &how, sizeof(how));
}

int inode_open_mount(int root, const char *point)
{
  struct open_how how = {
      .flags = O_PATH | O_CLOEXEC,
      .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
  };

  return (int)syscall(SYS_openat2, root, point, &how, sizeof(how));
}

/* Dump */

/* What chattr(1) has set, of the things that a tmpfs knows. */
static const struct {
  uint64_t shown; /* stx_attributes */
  uint32_t flag;  /* FS_IOC_SETFLAGS */
} attributes[] = {
    {STATX_ATTR_IMMUTABLE, FS_IMMUTABLE_FL},
    {STATX_ATTR_APPEND, FS_APPEND_FL},
    {STATX_ATTR_NODUMP, FS_NODUMP_FL},
};

static uint32_t attributes_of(const struct statx *stat)
{
  uint32_t found = 0;

  for (size_t i = 0; i < ARRAY_LEN(attributes); i++) {
    if (stat->stx_attributes & attributes[i].shown)
      found |= attributes[i].flag;
  }
  return found;
}

static int read_target(int fd, char **target, struct err *e)
{
  char text[PATH_MAX];
  ssize_t length = readlinkat(fd, "", text, sizeof(text));

  if (length < 0 || (size_t)length >= sizeof(text))
    return err_sys(e, "symbolic link");
  *target = strndup(text, (size_t)length);
  return *target ? 0 : err_sys(e, "symbolic link");
}

int inode_read(int fd, const struct proc_idmap *uids, const struct proc_idmap *gids,
               struct inode *inode, uint64_t *size, struct err *e)
{
  struct statx stat;

  if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stat) < 0)
    return err_sys(e, "stat");
  inode->mode = stat.stx_mode;
  inode->uid = proc_id_inside(uids, stat.stx_uid);
  inode->gid = proc_id_inside(gids, stat.stx_gid);
  inode->major = stat.stx_rdev_major;
  inode->minor = stat.stx_rdev_minor;
  inode->mtime_seconds = stat.stx_mtime.tv_sec;
  inode->mtime_nanoseconds = stat.stx_mtime.tv_nsec;
  inode->attributes = attributes_of(&stat);
  *size = S_ISREG(stat.stx_mode) ? stat.stx_size : 0;
  if (S_ISLNK(stat.stx_mode) && read_target(fd, &inode->target, e) < 0)
    return -1;
  return xattr_read(fd, uids, gids, &inode->xattrs, &inode->xattr_count, e);
}

/* Restore */

/* An inode of the image with the directories in which it is to be. */
struct place {
  struct inode inode;
  int mount;  /* root of its file system; not the place's to close */
  int parent; /* the directory that it is in; -1 for the root directory itself */
  const char *name;
};

static void place_free(struct place *place)
{
  inode_free(&place->inode);
  cleanup_close(&place->parent);
}

/* From an image, that is from anybody. */
static int check(const struct file *file, const struct inode *inode, struct err *e)
{
  if (!inode->mount || inode->mount[0] != '/' || !inode->path || inode->path[0] == '/')
    return err_set(e, "its mount or path is none");
  if (!inode->link && !inode->absent && S_ISLNK(inode->mode) && !inode->target)
    return err_set(e, "is a symbolic link without a target");
  if (file->space && !S_ISREG(inode->mode))
    return err_set(e, "has pages, but is no regular file");
  if (file->size > INT64_MAX)
    return err_set(e, "size %" PRIu64 " is impossible", file->size);
  return 0;
}

static int open_parent(struct place *place, struct err *e)
{
  const char *slash = strrchr(place->inode.path, '/');
  AUTO_FREE char *directory =
      strndup(place->inode.path, slash ? (size_t)(slash - place->inode.path) : 0);

  if (!directory)
    return err_sys(e, "path");
  place->name = slash ? slash + 1 : place->inode.path;
  if (place->name[0] == '\0')
    return 0;
  place->parent = inode_open(place->mount, directory, O_PATH | O_DIRECTORY);
  return place->parent < 0 && errno != EXDEV ? err_sys(e, "its directory") : 0;
}

/* Where inodes of the mount are: one descriptor for all of them, whatever is mounted there later.
 */
static char *mount_key(const struct inode *inode, struct err *e)
{
  return io_format(e, "inodes of %s", inode->mount);
}

/*
 * Opened once, when it has been found that what is there is the container's: an image could name
 * any directory that the bundle binds. "/" is the root file system that the bundle gives it.
 */
static int own_mount(struct object_restore *restore, const struct inode *inode, struct err *e)
{
  AUTO_FREE char *key = mount_key(inode, e);
  AUTO_CLOSE int mount = -1;
  int known = key ? object_shared_fd(restore, key) : -1;

  if (!key || known >= 0)
    return known;
  mount = inode_open_mount(restore->root_fd, inode->mount);
  if (mount < 0)
    return err_sys(e, "%s", inode->mount);
  if (strcmp(inode->mount, "/") != 0 && mount_check_own(restore, mount, e) < 0)
    return err_prefix(e, "mount at %s, of which the image has files", inode->mount);
  return object_share_fd(restore, key, mount, e) < 0 ? -1 : take_fd(&mount);
}

static int find_place(struct object_restore *restore, const struct file *file, struct place *place,
                      struct err *e)
{
  struct inode *inode = &place->inode;

  if (fields_from_json(fields, inode, file->detail, e) < 0 || check(file, inode, e) < 0)
    return -1;
  place->mount = own_mount(restore, inode, e);
  if (place->mount < 0)
    return -1;
  if (open_parent(place, e) < 0)
    return err_prefix(e, "%s of %s", inode->path, inode->mount);
  return 0;
}

/* With all capabilities, which a change of the file system's ids takes away. */
static int act_as(uint32_t uid, uint32_t gid, struct err *e)
{
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

  setfsgid(gid);
  setfsuid(uid);
  if (syscall(SYS_capget, &header, data) < 0)
    return err_sys(e, "capabilities");
  for (size_t i = 0; i < ARRAY_LEN(data); i++)
    data[i].effective = data[i].permitted;
  return syscall(SYS_capset, &header, data) < 0 ? err_sys(e, "capabilities") : 0;
}

/*
 * A file system of a user namespace takes only files of owners that this one knows. We may be none
 * of them: then it is its root who makes them. Returns 1 when we are somebody else now.
 */
static int act_as_root(const struct object_restore *restore, struct err *e)
{
  uint32_t uid = proc_id_outside(&restore->uids, 0);
  uint32_t gid = proc_id_outside(&restore->gids, 0);

  if (uid == UINT32_MAX || gid == UINT32_MAX || (uid == geteuid() && gid == getegid()))
    return 0;
  return act_as(uid, gid, e) < 0 ? -1 : 1;
}

static int remove_entry(int parent, const char *name, struct err *e);

/* All that is in it and stays below `parent`. 1: something is mounted in there, and stays. */
static int empty_directory(int directory, struct err *e) /* NOLINT(misc-no-recursion) */
{
  AUTO_CLOSEDIR DIR *stream = fdopendir(fcntl(directory, F_DUPFD_CLOEXEC, 0));
  struct dirent *entry;
  int left = 0;

  if (!stream)
    return err_sys(e, "directory");
  while ((entry = readdir(stream))) {
    int result;

    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
      continue;
    result = remove_entry(directory, entry->d_name, e);
    if (result < 0)
      return -1;
    left |= result;
  }
  return left;
}

/* Removes what is there, as deep as it is. 1: something is mounted there, and stays. */
static int remove_entry(int parent, const char *name, struct err *e) /* NOLINT(misc-no-recursion) */
{
  AUTO_CLOSE int directory = -1;
  AUTO_CLOSE int fd = inode_open(parent, name, O_PATH);
  int result;

  if (fd < 0 && errno == ENOENT)
    return 0;
  /* From outside its mount namespace we could: unlink(2) would take the mount along. */
  if (fd < 0 && errno == EXDEV)
    return 1;
  if (fd < 0)
    return err_sys(e, "%s", name);
  directory = inode_open(parent, name, O_RDONLY | O_DIRECTORY);
  if (directory < 0 && (errno == ENOTDIR || errno == ELOOP))
    return unlinkat(parent, name, 0) < 0 ? err_sys(e, "%s: remove", name) : 0;
  if (directory < 0)
    return err_sys(e, "%s", name);
  result = empty_directory(directory, e);
  if (result != 0)
    return result;
  return unlinkat(parent, name, AT_REMOVEDIR) < 0 ? err_sys(e, "%s: remove", name) : 0;
}

/* "<mount>\n<path>": the name of a place in the set of those that the image knows. */
static char *place_key(const struct inode *inode, const char *name, struct err *e)
{
  return io_format(e, "%s\n%s%s%s", inode->mount, inode->path, inode->path[0] && name[0] ? "/" : "",
                   name);
}

static int add_known(json_t *set, const struct file *file, struct err *e)
{
  CLEANUP(inode_free) struct inode inode = {0};
  AUTO_FREE char *key = NULL;

  if (strcmp(file->type, object_inode.name) != 0)
    return 0;
  if (fields_from_json(fields, &inode, file->detail, e) < 0 || check(file, &inode, e) < 0)
    return -1;
  key = place_key(&inode, "", e);
  if (!key)
    return -1;
  return json_object_set_new_nocheck(set, key, json_true()) < 0 ? err_set(e, "out of memory") : 0;
}

/* All places that the image knows: an object whose members have their names. Made once. */
static const json_t *known_places(const struct object_restore *restore, struct err *e)
{
  static const char name[] = "places of inodes";
  json_t *set = json_object_get(restore->shared, name);

  if (set)
    return set;
  set = json_object();
  if (!set || json_object_set_new(restore->shared, name, set) < 0) {
    err_set(e, "out of memory");
    return NULL;
  }
  for (size_t i = 0; i < restore->tree->file_count; i++) {
    if (add_known(set, &restore->tree->files[i], e) < 0)
      return NULL;
  }
  return set;
}

static int purge_entry(int directory, const char *name, const struct inode *inode,
                       const json_t *known, struct err *e)
{
  AUTO_FREE char *key = place_key(inode, name, e);

  if (!key)
    return -1;
  return json_object_get(known, key) || remove_entry(directory, name, e) >= 0 ? 0 : -1;
}

/* A directory that is whole loses what the image does not have in it. */
static int purge(const struct object_restore *restore, const struct place *place, struct err *e)
{
  const json_t *known = known_places(restore, e);
  AUTO_CLOSE int directory = inode_open(place->mount, place->inode.path, O_RDONLY | O_DIRECTORY);
  AUTO_CLOSEDIR DIR *stream = NULL;
  struct dirent *entry;

  if (!known)
    return -1;
  stream = fdopendir(fcntl(directory, F_DUPFD_CLOEXEC, 0));
  if (!stream)
    return err_sys(e, "directory");
  while ((entry = readdir(stream))) {
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
        purge_entry(directory, entry->d_name, &place->inode, known, e) < 0)
      return -1;
  }
  return 0;
}

/*
 * May what is there stay? A regular file is always made anew: it may be another's too (a hard
 * link), or be executed by somebody.
 */
static bool is_fitting(int fd, const struct inode *inode)
{
  struct stat stat;
  char target[PATH_MAX];
  ssize_t length;

  if (fstat(fd, &stat) < 0 || (stat.st_mode & S_IFMT) != (inode->mode & S_IFMT) ||
      S_ISREG(stat.st_mode))
    return false;
  if (S_ISCHR(stat.st_mode) || S_ISBLK(stat.st_mode))
    return stat.st_rdev == makedev(inode->major, inode->minor);
  if (!S_ISLNK(stat.st_mode))
    return true;
  length = readlinkat(fd, "", target, sizeof(target));
  return length == (ssize_t)strlen(inode->target) &&
         memcmp(target, inode->target, (size_t)length) == 0;
}

static int make(const struct place *place, struct err *e)
{
  const struct inode *inode = &place->inode;
  int result = -1;

  if (S_ISDIR(inode->mode)) {
    result = mkdirat(place->parent, place->name, 0700);
  } else if (S_ISLNK(inode->mode)) {
    result = symlinkat(inode->target, place->parent, place->name);
  } else if (S_ISREG(inode->mode) || S_ISFIFO(inode->mode) || S_ISSOCK(inode->mode) ||
             S_ISCHR(inode->mode) || S_ISBLK(inode->mode)) {
    result = mknodat(place->parent, place->name, (inode->mode & S_IFMT) | 0600,
                     makedev(inode->major, inode->minor));
  } else {
    errno = EINVAL;
  }
  return result < 0 ? err_sys(e, "create") : 0;
}

/* Another name of an inode that is there by now. */
static int make_link(const struct place *place, struct err *e)
{
  AUTO_CLOSE int fd = inode_open(place->mount, place->inode.link, O_PATH);
  int result;

  if (fd < 0)
    return err_sys(e, "link to %s", place->inode.link);
  result = remove_entry(place->parent, place->name, e);
  if (result != 0)
    return result < 0 ? -1 : 0;
  if (linkat(fd, "", place->parent, place->name, AT_EMPTY_PATH) < 0)
    return err_sys(e, "link to %s", place->inode.link);
  return 0;
}

/* All of it is pages that are to come. */
static int set_size(const struct place *place, uint64_t size, struct err *e)
{
  AUTO_CLOSE int fd = inode_open(place->mount, place->inode.path, O_WRONLY);

  if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
    return err_sys(e, "size %" PRIu64, size);
  return 0;
}

/* Owner and mode, where they differ: a file system that is read-only may have them already. */
static int set_owner(const struct object_restore *restore, int fd, const struct inode *inode,
                     struct err *e)
{
  uint32_t uid = proc_id_outside(&restore->uids, inode->uid);
  uint32_t gid = proc_id_outside(&restore->gids, inode->gid);
  struct stat stat;
  char path[32];

  if (uid == UINT32_MAX || gid == UINT32_MAX)
    return err_set(e, "its owner %u:%u is not in the container's user namespace", inode->uid,
                   inode->gid);
  if (fstat(fd, &stat) < 0)
    return err_sys(e, "stat");
  if ((stat.st_uid != uid || stat.st_gid != gid) &&
      fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
    return err_sys(e, "owner %u:%u", inode->uid, inode->gid);
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  /* A change of owner may have cost it setuid and setgid. */
  if (!S_ISLNK(inode->mode) && (fstat(fd, &stat) < 0 || stat.st_mode != inode->mode) &&
      chmod(path, inode->mode & 07777) < 0)
    return err_sys(e, "mode %o", inode->mode & 07777);
  return 0;
}

/* Opens what is there or makes it. -1 with errno EXDEV: something is mounted there. */
static int provide(const struct place *place, struct err *e)
{
  AUTO_CLOSE int fd = inode_open(place->mount, place->inode.path, O_PATH);

  if (fd >= 0 && (place->parent < 0 || is_fitting(fd, &place->inode)))
    return take_fd(&fd);
  if (fd < 0 && errno != ENOENT)
    return err_sys(e, "open");
  if ((fd >= 0 && remove_entry(place->parent, place->name, e) < 0) || make(place, e) < 0)
    return -1;
  cleanup_close(&fd);
  fd = inode_open(place->mount, place->inode.path, O_PATH);
  return fd < 0 ? err_sys(e, "open") : take_fd(&fd);
}

static int create_inode(const struct object_restore *restore, const struct file *file,
                        const struct place *place, struct err *e)
{
  const struct inode *inode = &place->inode;
  AUTO_CLOSE int fd = -1;

  if (place->name[0] && place->parent < 0)
    return 0; /* below something that is mounted here, and was not there */
  if (inode->absent)
    return place->parent < 0 || remove_entry(place->parent, place->name, e) >= 0 ? 0 : -1;
  if (inode->link)
    return make_link(place, e);
  fd = provide(place, e);
  if (fd < 0)
    return errno == EXDEV ? 0 : -1;
  if (S_ISREG(inode->mode) && set_size(place, file->size, e) < 0)
    return -1;
  if (inode->whole && S_ISDIR(inode->mode) && purge(restore, place, e) < 0)
    return -1;
  return set_owner(restore, fd, inode, e);
}

static int create(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(place_free) struct place place = {.mount = -1, .parent = -1};
  struct err late = {""};
  int acting, result;

  if (find_place(restore, file, &place, e) < 0)
    return -1;
  acting = act_as_root(restore, e);
  if (acting < 0)
    return -1;
  result = create_inode(restore, file, &place, e);
  if (result < 0)
    err_prefix(e, "%s/%s", strcmp(place.inode.mount, "/") ? place.inode.mount : "",
               place.inode.path);
  if (acting && act_as(geteuid(), getegid(), &late) < 0 && result == 0) {
    *e = late;
    return -1;
  }
  return result;
}

static int open_content(const struct object_restore *restore, int root, const struct file *file,
                        int flags, struct err *e)
{
  CLEANUP(inode_free) struct inode inode = {0};
  AUTO_FREE char *key = NULL;
  AUTO_CLOSE int mount = -1;
  int fd;

  if (fields_from_json(fields, &inode, file->detail, e) < 0 || check(file, &inode, e) < 0)
    return -1;
  key = mount_key(&inode, e);
  if (!key)
    return -1;
  mount = restore ? fcntl(object_shared_fd(restore, key), F_DUPFD_CLOEXEC, 0)
                  : inode_open_mount(root, inode.mount);
  fd = mount < 0 ? -1 : inode_open(mount, inode.path, flags);
  return fd < 0 ? err_sys(e, "%s of %s", inode.path, inode.mount) : fd;
}

static int set_attributes(const struct place *place, struct err *e)
{
  const uint32_t ours = FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL;
  AUTO_CLOSE int fd = -1;
  int flags;

  if (place->inode.attributes == 0)
    return 0;
  fd = inode_open(place->mount, place->inode.path, O_RDONLY);
  if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
    return err_sys(e, "attributes");
  flags = (int)(((uint32_t)flags & ~ours) | (place->inode.attributes & ours));
  return ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 ? err_sys(e, "attributes") : 0;
}

/* What all that was done in it and with it would have changed again. */
static int finish(const struct object_restore *restore, const struct place *place, struct err *e)
{
  const struct inode *inode = &place->inode;
  AUTO_CLOSE int fd = inode_open(place->mount, inode->path, O_PATH);
  const struct timespec times[2] = {
      {.tv_nsec = UTIME_OMIT},
      {.tv_sec = inode->mtime_seconds, .tv_nsec = inode->mtime_nanoseconds},
  };

  if (fd < 0)
    return errno == EXDEV ? 0 : err_sys(e, "open");
  if (set_owner(restore, fd, inode, e) < 0 ||
      xattr_write(fd, &restore->uids, &restore->gids, inode->xattrs, inode->xattr_count, e) < 0)
    return -1;
  if (utimensat(fd, "", times, AT_EMPTY_PATH) < 0)
    return err_sys(e, "time");
  return set_attributes(place, e);
}

static int attach(struct object_restore *restore, const struct file *file, int number,
                  struct tracee *tracee, struct err *e)
{
  CLEANUP(place_free) struct place place = {.mount = -1, .parent = -1};

  (void)number;
  (void)tracee;
  if (find_place(restore, file, &place, e) < 0)
    return -1;
  if (place.inode.link || place.inode.absent || finish(restore, &place, e) == 0)
    return 0;
  return err_prefix(e, "%s/%s", strcmp(place.inode.mount, "/") ? place.inode.mount : "",
                    place.inode.path);
}

const struct object_type object_inode = {
    .name = "inode",
    .create = create,
    .open = open_content,
    .attach = attach,
};
