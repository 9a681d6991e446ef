/*
 * Inodes of a mounted file system as files of the model: all that is there, or what an overlay has
 * in its upper directory (Documentation/filesystems/overlayfs.rst). They are read where the
 * container sees them; what is covered by another mount is not its affair.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "dump/capture.h"
#include "object/inode.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

/* A directory whose entries are still to be taken. */
struct directory {
  char *path; /* from the mount point */
  bool whole; /* nothing else is in it at the restore */
  bool seen;  /* its entries are those that the container sees; else those of the upper directory */
};

struct walk {
  struct capture *capture;
  const char *point;
  int mount;                     /* what is mounted there */
  int upper;                     /* or -1 */
  struct directory *directories; /* parents first */
  size_t count;
  json_t *links; /* object: by inode, the first path of each that has several */
};

static void walk_free(struct walk *walk)
{
  for (size_t i = 0; i < walk->count; i++)
    free(walk->directories[i].path);
  free(walk->directories);
  cleanup_close(&walk->mount);
  json_decref(walk->links);
}

static int add_file(struct walk *walk, const struct inode *inode, uint64_t size, struct err *e)
{
  struct file *file = capture_new_file(walk->capture, &object_inode, e);

  if (!file)
    return -1;
  file->size = size;
  file->space = size ? ++walk->capture->last_space : 0;
  file->detail = inode_to_json(inode, e);
  return file->detail ? 0 : -1;
}

static int add_directory(struct walk *walk, const char *path, bool whole, bool seen, struct err *e)
{
  struct directory *directory =
      list_append(&walk->directories, &walk->count, sizeof(*walk->directories));

  if (directory)
    *directory = (struct directory){.path = strdup(path), .whole = whole, .seen = seen};
  return directory && directory->path ? 0 : err_sys(e, "directories");
}

/* *known: the path under which the inode was met before, or NULL. */
static int find_link(struct walk *walk, int fd, const char *path, const char **known, struct err *e)
{
  struct stat stat;
  char key[64];

  *known = NULL;
  if (fstat(fd, &stat) < 0)
    return err_sys(e, "stat");
  if (stat.st_nlink < 2 || S_ISDIR(stat.st_mode))
    return 0;
  snprintf(key, sizeof(key), "%ju:%ju", (uintmax_t)stat.st_dev, (uintmax_t)stat.st_ino);
  *known = json_string_value(json_object_get(walk->links, key));
  if (*known || json_object_set_new(walk->links, key, json_string_nocheck(path)) == 0)
    return 0;
  return err_set(e, "out of memory");
}

static int add_inode(struct walk *walk, int fd, const char *path, bool whole, struct err *e)
{
  CLEANUP(inode_free) struct inode inode = {0};
  const char *link;
  uint64_t size = 0;

  if (find_link(walk, fd, path, &link, e) < 0)
    return -1;
  inode.mount = strdup(walk->point);
  inode.path = strdup(path);
  inode.link = link ? strdup(link) : NULL;
  if (!inode.mount || !inode.path || (link && !inode.link))
    return err_sys(e, "inode");
  if (!link && inode_read(fd, &walk->capture->uids, &walk->capture->gids, &inode, &size, e) < 0)
    return -1;
  inode.whole = whole && S_ISDIR(inode.mode);
  return add_file(walk, &inode, size, e);
}

static int add_absent(struct walk *walk, const char *path, struct err *e)
{
  const struct inode inode = {
      .mount = (char *)walk->point,
      .path = (char *)path,
      .absent = true,
  };

  return add_file(walk, &inode, 0, e);
}

/* An attribute of overlayfs: in a user namespace it has them under another name. */
static bool has_overlay_attribute(int directory, const char *name, const char *attribute)
{
  static const char *const prefixes[] = {"trusted", "user"};
  char path[NAME_MAX + 64];
  char value[PATH_MAX];

  snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", directory, name);
  for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
    char full[64];
    ssize_t length;

    snprintf(full, sizeof(full), "%s.overlay.%s", prefixes[i], attribute);
    length = lgetxattr(path, full, value, sizeof(value));
    if (length > 0 && (strcmp(attribute, "opaque") != 0 || value[0] == 'y'))
      return true;
  }
  return false;
}

static bool is_whiteout(int directory, const char *name)
{
  struct stat stat;

  return fstatat(directory, name, &stat, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(stat.st_mode) &&
         stat.st_rdev == makedev(0, 0);
}

/* One entry of a directory, which is open at `list`. */
static int take_entry(struct walk *walk, const struct directory *in, int list, const char *name,
                      struct err *e)
{
  AUTO_FREE char *path = io_format(e, "%s%s%s", in->path, in->path[0] ? "/" : "", name);
  AUTO_CLOSE int fd = -1;
  bool whole = in->whole;
  bool seen = in->seen;
  struct stat stat;

  if (!path)
    return -1;
  if (!in->seen && is_whiteout(list, name))
    return add_absent(walk, path, e);
  fd = inode_open(walk->mount, path, O_PATH);
  if (fd < 0)
    return errno == EXDEV ? 0 : err_sys(e, "%s", path);
  if (fstat(fd, &stat) < 0)
    return err_sys(e, "%s", path);
  if (!in->seen && S_ISDIR(stat.st_mode)) {
    /* One that was renamed has the entries of another below it. */
    seen = has_overlay_attribute(list, name, "redirect");
    whole = whole || seen || has_overlay_attribute(list, name, "opaque");
  }
  if (add_inode(walk, fd, path, whole, e) < 0)
    return err_prefix(e, "%s", path);
  return S_ISDIR(stat.st_mode) ? add_directory(walk, path, whole, seen, e) : 0;
}

static int take_directory(struct walk *walk, size_t index, struct err *e)
{
  /* The list grows, and moves, while entries are added. */
  const struct directory directory = walk->directories[index];
  AUTO_CLOSE int list = inode_open(directory.seen ? walk->mount : walk->upper, directory.path,
                                   O_RDONLY | O_DIRECTORY | O_NOATIME);
  AUTO_CLOSEDIR DIR *stream = list < 0 ? NULL : fdopendir(fcntl(list, F_DUPFD_CLOEXEC, 0));
  const struct dirent *entry;

  if (!stream)
    return err_sys(e, "%s", directory.path);
  while ((entry = readdir(stream))) {
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
        take_entry(walk, &directory, list, entry->d_name, e) < 0)
      return -1;
  }
  return 0;
}

int capture_contents(struct capture *capture, const char *point, int upper, struct err *e)
{
  CLEANUP(walk_free)
  struct walk walk = {
      .capture = capture,
      .point = point,
      .mount = inode_open_mount(capture->root, point),
      .upper = upper,
      .links = json_object(),
  };
  bool all = upper < 0;

  if (walk.mount < 0 || !walk.links)
    return err_sys(e, "%s", point);
  if (add_inode(&walk, walk.mount, "", all, e) < 0 || add_directory(&walk, "", all, all, e) < 0)
    return err_prefix(e, "%s", point);
  for (size_t i = 0; i < walk.count; i++) {
    if (take_directory(&walk, i, e) < 0)
      return err_prefix(e, "what is mounted at %s", point);
  }
  return 0;
}
