/*
 * inotify(7). The kernel shows what is watched by its inode and a handle of it; the name is found
 * by the handle, or, where a file system cannot do that (overlayfs), among what the process has
 * open. Changes between the checkpoint and the restore are not told of.
 */
#include "object/inotify.h"

#include "base/cleanup.h"
#include "object/object.h"
#include "proc/proc.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct watch {
  int32_t wd;
  char *path; /* from the tree's root */
  uint32_t mask;
};

struct detail {
  struct watch *watches; /* in the order of their numbers */
  size_t watch_count;
};

static const struct field watch_fields[] = {
    F_SIGNED(struct watch, wd),
    F_STRING(struct watch, path),
    F_HEX(struct watch, mask),
    F_END,
};

static const struct field fields[] = {
    F_LIST(struct detail, watches, watch_count, watch_fields),
    F_END,
};

enum { HIGHEST_WD = 1 << 17 }; /* a number is reached by counting up to it */

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static bool matches(const struct object_source *source)
{
  return strcmp(source->link, "anon_inode:inotify") == 0;
}

static int parse_handle(const char *text, struct inotify_watch *watch)
{
  for (unsigned i = 0; i < watch->handle.handle_bytes; i++) {
    unsigned byte;

    if (sscanf(text + (size_t)i * 2, "%2x", &byte) != 1)
      return -1;
    watch->handle.f_handle[i] = (unsigned char)byte;
  }
  return 0;
}

/* inotify wd:3 ino:1 sdev:15 mask:2 ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:0100 */
int inotify_next_watch(const char **at, struct inotify_watch *watch, struct err *e)
{
  static const char line[] = "inotify wd:";
  const char *found = strstr(*at, line);
  unsigned device;
  int end = 0;

  if (!found)
    return 0;
  memset(watch, 0, sizeof(*watch));
  if (sscanf(found,
             "inotify wd:%" SCNx32 " ino:%" SCNx64 " sdev:%x mask:%" SCNx32 " ignored_mask:%*x %n",
             (uint32_t *)&watch->wd, &watch->inode, &device, &watch->mask, &end) != 4 ||
      watch->wd <= 0)
    return err_set(e, "cannot be checkpointed: its watches are not known");
  watch->device = makedev(device >> 20, device & 0xfffff);
  *at = found + strlen(line);
  /* Without a handle it must be found otherwise. */
  if (end == 0 ||
      sscanf(found + end, "fhandle-bytes:%x fhandle-type:%x f_handle:%n",
             &watch->handle.handle_bytes, (unsigned *)&watch->handle.handle_type, &end) < 2) {
    watch->handle.handle_bytes = 0;
    return 1;
  }
  found = strstr(found, "f_handle:");
  if (!found || watch->handle.handle_bytes > MAX_HANDLE_SZ ||
      parse_handle(found + strlen("f_handle:"), watch) < 0)
    return err_set(e, "cannot be checkpointed: its watches are not known");
  return 1;
}

/* Does the path lead to what is watched? */
static bool leads_to(const struct object_source *source, const char *path, dev_t device,
                     uint64_t inode)
{
  AUTO_CLOSE int fd = path[0] == '/' ? object_open_shown(source, path) : -1;
  struct stat found;

  return fd >= 0 && fstat(fd, &found) == 0 && found.st_ino == inode && found.st_dev == device;
}

/* By its handle, below one mount of its file system. */
static bool find_below(const struct object_source *source, const char *point,
                       struct inotify_watch *watch, char path[PATH_MAX])
{
  char place[PATH_MAX + 32];
  AUTO_CLOSE int mount = -1;
  AUTO_CLOSE int found = -1;
  struct stat stat;
  ssize_t n;

  snprintf(place, sizeof(place), "/proc/%d/root%s", source->pid, point);
  mount = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* O_PATH will not do */
  if (mount < 0)
    return false;
  found = open_by_handle_at(mount, &watch->handle, O_PATH | O_CLOEXEC);
  if (found < 0 || fstat(found, &stat) < 0 || stat.st_ino != watch->inode)
    return false;
  snprintf(place, sizeof(place), "/proc/self/fd/%d", found);
  n = readlink(place, path, PATH_MAX - 1);
  if (n < 0)
    return false;
  path[n] = '\0';
  return leads_to(source, path, stat.st_dev, watch->inode);
}

static bool find_by_handle(const struct object_source *source, struct inotify_watch *watch,
                           char path[PATH_MAX])
{
  CLEANUP(proc_mounts_free) struct proc_mounts mounts = {0};
  struct err ignored;

  if (watch->handle.handle_bytes == 0 || proc_mounts_read(source->pid, &mounts, &ignored) != 0)
    return false;
  for (size_t i = 0; i < mounts.count; i++) {
    if (mounts.items[i].device == watch->device &&
        find_below(source, mounts.items[i].point, watch, path))
      return true;
  }
  return false;
}

/* The path itself, or a directory on the way to it. */
static bool find_on_the_way(const struct object_source *source, const struct inotify_watch *watch,
                            char path[PATH_MAX])
{
  while (path[0] == '/') {
    char *slash;

    if (leads_to(source, path, watch->device, watch->inode))
      return true;
    if (path[1] == '\0')
      return false;
    slash = strrchr(path, '/');
    slash[slash == path] = '\0';
  }
  return false;
}

static bool find_among_open(const struct object_source *source, const struct inotify_watch *watch,
                            char path[PATH_MAX])
{
  CLEANUP(proc_list_free) struct proc_list fds = {0};
  struct err ignored;

  if (proc_link(source->pid, "cwd", path, PATH_MAX, &ignored) == 0 &&
      find_on_the_way(source, watch, path))
    return true;
  if (proc_descriptors(source->pid, &fds, &ignored) != 0)
    return false;
  for (size_t i = 0; i < fds.count; i++) {
    char name[32];

    snprintf(name, sizeof(name), "fd/%d", fds.items[i]);
    if (proc_link(source->pid, name, path, PATH_MAX, &ignored) == 0 &&
        find_on_the_way(source, watch, path))
      return true;
  }
  return false;
}

static int add_watch(const struct object_source *source, struct inotify_watch *found,
                     struct detail *detail, struct err *e)
{
  struct watch *watch;
  char path[PATH_MAX];

  if (found->wd > HIGHEST_WD)
    return err_set(e,
                   "cannot be checkpointed: its watch descriptors have come to %d; make the "
                   "program start anew with another inotify descriptor",
                   found->wd);
  if (!find_by_handle(source, found, path) && !find_among_open(source, found, path))
    return err_set(e,
                   "cannot be checkpointed: it watches inode %" PRIu64 " of device %u:%u, which "
                   "has no name that can be found; make the program watch it anew",
                   found->inode, major(found->device), minor(found->device));
  watch = list_append(&detail->watches, &detail->watch_count, sizeof(*watch));
  if (watch)
    watch->path = strdup(path);
  if (!watch || !watch->path)
    return err_sys(e, "inotify");
  watch->wd = found->wd;
  watch->mask = found->mask;
  return 0;
}

static int compare_watches(const void *a, const void *b)
{
  const struct watch *x = a;
  const struct watch *y = b;

  return x->wd < y->wd ? -1 : x->wd > y->wd;
}

static int read_watches(const struct object_source *source, struct detail *detail, struct err *e)
{
  struct inotify_watch watch;
  const char *at = source->fdinfo ? source->fdinfo : "";
  int waiting = 0;
  int result;

  if (ioctl(source->local, FIONREAD, &waiting) < 0)
    return err_sys(e, "inotify");
  if (waiting > 0)
    return err_set(e,
                   "cannot be checkpointed: %d bytes of events wait in it; retry when they have "
                   "been read",
                   waiting);
  while ((result = inotify_next_watch(&at, &watch, e)) > 0) {
    if (add_watch(source, &watch, detail, e) < 0)
      return -1;
  }
  if (detail->watch_count)
    qsort(detail->watches, detail->watch_count, sizeof(*detail->watches), compare_watches);
  return result;
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  (void)dump;
  return read_watches(source, &detail, e);
}

static int dump_it(const struct object_dump *dump, const struct object_source *source,
                   struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  (void)dump;
  if (read_watches(source, &detail, e) < 0)
    return -1;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

static int read_detail(const struct file *file, struct detail *detail, struct err *e)
{
  int32_t last = 0;

  if (fields_from_json(fields, detail, file->detail, e) < 0)
    return -1;
  for (size_t i = 0; i < detail->watch_count; i++) {
    const struct watch *watch = &detail->watches[i];

    if (!watch->path || watch->wd <= last || watch->wd > HIGHEST_WD)
      return err_set(e, "watch %d is impossible", watch->wd);
    last = watch->wd;
  }
  return 0;
}

static int check_restore(const struct object_restore *restore, const struct file *file,
                         struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  if (read_detail(file, &detail, e) < 0)
    return -1;
  for (size_t i = 0; i < detail.watch_count; i++) {
    AUTO_CLOSE int fd = object_open(restore, detail.watches[i].path, O_PATH);

    if (fd < 0)
      return err_sys(e, "%s, which is watched", detail.watches[i].path);
  }
  return 0;
}

static int restore_it(struct object_restore *restore, const struct file *file, struct err *e)
{
  int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

  (void)restore;
  (void)file;
  return fd < 0 ? err_sys(e, "inotify") : fd;
}

/* Every watch has the next number. Those that nobody has any more are counted through. */
static int set_watch(const struct object_restore *restore, int fd, const struct watch *watch,
                     struct err *e)
{
  AUTO_CLOSE int target = object_open(restore, watch->path, O_PATH);
  char path[32];
  int wd;

  if (target < 0)
    return err_sys(e, "%s", watch->path);
  snprintf(path, sizeof(path), "/proc/self/fd/%d", target);
  while ((wd = inotify_add_watch(fd, path, watch->mask)) != watch->wd) {
    if (wd < 0)
      return err_sys(e, "%s: watch", watch->path);
    if (wd > watch->wd || inotify_rm_watch(fd, wd) < 0)
      return err_set(e, "%s: watch %d cannot be had again", watch->path, watch->wd);
  }
  return 0;
}

/* What we have caused ourselves: watches that went. */
static int drain(int fd, struct err *e)
{
  char buffer[4096];
  ssize_t n;

  while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
  }
  return n < 0 && errno != EAGAIN ? err_sys(e, "inotify") : 0;
}

/* Late: so that it does not hear of how the tree is made. */
static int attach(struct object_restore *restore, const struct file *file, int fd,
                  struct tracee *tracee, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  int local = restore->local[file - restore->tree->files];

  (void)fd;
  (void)tracee;
  if (read_detail(file, &detail, e) < 0)
    return -1;
  for (size_t i = 0; i < detail.watch_count; i++) {
    if (set_watch(restore, local, &detail.watches[i], e) < 0)
      return -1;
  }
  if (drain(local, e) < 0)
    return -1;
  if (fcntl(local, F_SETFL, file->flags & (O_NONBLOCK | O_ASYNC)) < 0)
    return err_sys(e, "inotify");
  return 0;
}

const struct object_type object_inotify = {
    .name = "inotify",
    .matches = matches,
    .check = check,
    .dump = dump_it,
    .check_restore = check_restore,
    .restore = restore_it,
    .attach = attach,
};
