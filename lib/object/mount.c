#include "object/mount.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "object/inode.h"
#include "object/object.h"
#include "proc/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000U
#endif

static const struct field fields[] = {
    F_STRING(struct mount_state, point),
    F_BOOL(struct mount_state, absent),
    F_STRING(struct mount_state, type),
    F_STRING(struct mount_state, source),
    F_STRING(struct mount_state, flags),
    F_STRING(struct mount_state, options),
    F_STRING(struct mount_state, bound),
    F_BOOL(struct mount_state, directory),
    F_END,
};

static void mount_free(struct mount_state *mount)
{
  fields_free(fields, mount);
}

json_t *mount_to_json(const struct mount_state *mount, struct err *e)
{
  return fields_to_json(fields, mount, e);
}

/* mount_setattr(2): what the mount table says of a mount. */
static const struct {
  const char *name;
  uint64_t set, clear;
} flag_names[] = {
    {"rw", 0, MOUNT_ATTR_RDONLY},
    {"ro", MOUNT_ATTR_RDONLY, 0},
    {"nosuid", MOUNT_ATTR_NOSUID, 0},
    {"nodev", MOUNT_ATTR_NODEV, 0},
    {"noexec", MOUNT_ATTR_NOEXEC, 0},
    {"noatime", MOUNT_ATTR_NOATIME, 0},
    {"nodiratime", MOUNT_ATTR_NODIRATIME, 0},
    {"relatime", MOUNT_ATTR_RELATIME, 0},
    {"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0},
};

static int parse_flags(const char *text, struct mount_attr *attributes, struct err *e)
{
  AUTO_FREE char *copy = strdup(text);
  char *rest = copy;

  if (!copy)
    return err_sys(e, "mount");
  *attributes = (struct mount_attr){
      .attr_clr = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
                  MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW | MOUNT_ATTR__ATIME,
  };
  for (const char *flag = strsep(&rest, ","); flag; flag = strsep(&rest, ",")) {
    size_t i = 0;

    while (i < ARRAY_LEN(flag_names) && strcmp(flag_names[i].name, flag) != 0)
      i++;
    if (i == ARRAY_LEN(flag_names))
      return err_set(e, "the mount flag \"%s\" is not supported", flag);
    attributes->attr_set |= flag_names[i].set;
  }
  if (!strstr(text, "relatime") && !strstr(text, "noatime"))
    attributes->attr_set |= MOUNT_ATTR_STRICTATIME;
  return 0;
}

/* What can be mounted by its type alone, and the options that it then takes as it shows them. */
static const struct kind {
  const char *type;
  const char *options[10]; /* "=" where it has a value */
} types[] = {
    {"tmpfs",
     {"ro", "rw", "mode=", "size=", "nr_blocks=", "nr_inodes=", "huge=", "inode32", "inode64",
      "noswap"}},
    {"proc", {"ro", "rw", "hidepid=", "gid=", "subset="}},
    {"sysfs", {"ro", "rw"}},
    {"mqueue", {"ro", "rw"}},
};

/* Of a tmpfs: who has its root directory, which is an inode like others. */
static bool is_of_root(const char *option)
{
  return strncmp(option, "uid=", 4) == 0 || strncmp(option, "gid=", 4) == 0;
}

/* Calls `each` for every option that is the file system's own. */
typedef int option_visitor(void *context, char *name, char *value, struct err *e);

static int each_option(const struct mount_state *mount, option_visitor *each, void *context,
                       struct err *e)
{
  bool of_tmpfs = strcmp(mount->type, "tmpfs") == 0;
  AUTO_FREE char *copy = strdup(mount->options ? mount->options : "");
  char *rest = copy;

  if (!copy)
    return err_sys(e, "mount");
  for (char *option = proc_mount_option(&rest); option; option = proc_mount_option(&rest)) {
    char *value = strchr(option, '=');

    if (option[0] == '\0' || (of_tmpfs && is_of_root(option)))
      continue;
    if (value)
      *value++ = '\0';
    if (each(context, option, value, e) < 0)
      return -1;
  }
  return 0;
}

static int check_option(void *context, char *name, char *value, struct err *e)
{
  const struct kind *kind = context;

  for (size_t i = 0; i < ARRAY_LEN(kind->options) && kind->options[i]; i++) {
    size_t length = strcspn(kind->options[i], "=");

    if (strlen(name) == length && strncmp(kind->options[i], name, length) == 0 &&
        (kind->options[i][length] == '=') == (value != NULL))
      return 0;
  }
  return err_set(e, "its option \"%s\" is not supported", name);
}

int mount_check(const struct mount_state *mount, struct err *e)
{
  struct mount_attr attributes;

  if (!mount->type || !mount->flags || parse_flags(mount->flags, &attributes, e) < 0)
    return mount->type && mount->flags ? -1 : err_set(e, "a mount without a type or flags");
  if (mount->bound)
    return 0;
  if (!mount->options)
    return err_set(e, "a mount without options");
  for (size_t i = 0; i < ARRAY_LEN(types); i++) {
    if (strcmp(types[i].type, mount->type) == 0)
      return each_option(mount, check_option, (void *)&types[i], e);
  }
  return err_set(e, "a %s could not be mounted by a restore", mount->type);
}

static bool is_mount_root(const struct statx *stat)
{
  return stat->stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

int64_t mount_id_at(int root, const char *path)
{
  struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
  AUTO_CLOSE int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
  struct statx stat;

  if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &stat) < 0)
    return -1;
  return is_mount_root(&stat) ? (int64_t)stat.stx_mnt_id : 0;
}

/* Restore */

/* What is done in the container's namespaces, standing in its root directory. */
typedef int mount_function(const struct mount_state *mount, struct err *e);

struct job {
  const struct object_restore *restore;
  const struct mount_state *mount;
  mount_function *function;
};

static int do_job(void *argument, struct err *e)
{
  const struct job *job = argument;

  if (fchdir(job->restore->root_fd) < 0 || chroot(".") < 0)
    return err_sys(e, "root directory");
  return job->function(job->mount, e);
}

static int run_inside(const struct object_restore *restore, const struct mount_state *mount,
                      mount_function *function, struct err *e)
{
  struct job job = {restore, mount, function};

  return inside_all(restore->init, do_job, &job, e);
}

static int unmount_inside(const struct mount_state *mount, struct err *e)
{
  return umount2(mount->point, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? err_sys(e, "unmount") : 0;
}

static int set_option(void *context, char *name, char *value, struct err *e)
{
  const int *fs = context;
  /* Read-only or not: that is a flag of the mount that comes last. */
  bool rw = strcmp(name, "rw") == 0 || strcmp(name, "ro") == 0;

  if (!rw && fsconfig(*fs, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, name, value, 0) < 0)
    return err_sys(e, "option %s%s%s", name, value ? "=" : "", value ? value : "");
  return 0;
}

/* A descriptor of a new mount that is not yet anywhere. */
static int new_mount(const struct mount_state *mount, struct err *e)
{
  AUTO_CLOSE int fs = fsopen(mount->type, FSOPEN_CLOEXEC);
  int fd;

  if (fs < 0)
    return err_sys(e, "%s", mount->type);
  if (mount->source && fsconfig(fs, FSCONFIG_SET_STRING, "source", mount->source, 0) < 0)
    return err_sys(e, "source");
  if (each_option(mount, set_option, &fs, e) < 0)
    return -1;
  if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
    return err_sys(e, "%s", mount->type);
  fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
  return fd < 0 ? err_sys(e, "%s", mount->type) : fd;
}

/* Makes the mount point, and the directories above it, where they are not there. */
static int make_point(const struct mount_state *mount, struct err *e)
{
  AUTO_FREE char *path = strdup(mount->point);
  int result = 0;

  if (!path)
    return err_sys(e, "mount point");
  for (char *slash = strchr(path + 1, '/'); slash && result == 0; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    result = mkdir(path, 0755) < 0 && errno != EEXIST ? -1 : 0;
    *slash = '/';
  }
  if (result == 0)
    result = mount->directory ? mkdir(path, 0755) : mknod(path, S_IFREG | 0644, 0);
  return result < 0 && errno != EEXIST ? err_sys(e, "mount point") : 0;
}

static int mount_inside(const struct mount_state *mount, struct err *e)
{
  AUTO_CLOSE int fd = -1;

  if (make_point(mount, e) < 0)
    return -1;
  if (mount->bound)
    fd = open_tree(AT_FDCWD, mount->bound, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  else
    fd = new_mount(mount, e);
  if (fd < 0)
    return mount->bound ? err_sys(e, "%s", mount->bound) : -1;
  if (move_mount(fd, "", AT_FDCWD, mount->point, MOVE_MOUNT_F_EMPTY_PATH) < 0)
    return err_sys(e, "mount");
  return 0;
}

static int reconfigure_inside(const struct mount_state *mount, struct err *e)
{
  AUTO_CLOSE int fs = fspick(AT_FDCWD, mount->point, FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW);

  if (fs < 0)
    return err_sys(e, "reconfigure");
  if (each_option(mount, set_option, &fs, e) < 0)
    return -1;
  return fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0 ? err_sys(e, "reconfigure") : 0;
}

static int set_flags_inside(const struct mount_state *mount, struct err *e)
{
  struct mount_attr attributes;

  if (parse_flags(mount->flags, &attributes, e) < 0)
    return -1;
  return mount_setattr(AT_FDCWD, mount->point, AT_SYMLINK_NOFOLLOW, &attributes,
                       sizeof(attributes)) < 0
             ? err_sys(e, "flags %s", mount->flags)
             : 0;
}

static int read_detail(const struct file *file, struct mount_state *mount, struct err *e)
{
  if (fields_from_json(fields, mount, file->detail, e) < 0)
    return -1;
  if (!mount->point || mount->point[0] != '/' || strcmp(mount->point, "/") == 0)
    return err_set(e, "its mount point is none");
  return mount->absent ? 0 : mount_check(mount, e);
}

static const struct proc_mount *mount_by_id(const struct proc_mounts *table, uint64_t id)
{
  for (size_t i = 0; i < table->count; i++) {
    if (table->items[i].id == id)
      return &table->items[i];
  }
  return NULL;
}

/* The mount at its point as the new container has it; items NULL where there is none. */
static int find_present(const struct object_restore *restore, const struct mount_state *mount,
                        struct proc_mounts *table, const struct proc_mount **found, struct err *e)
{
  int64_t id = mount_id_at(restore->root_fd, mount->point);

  *found = NULL;
  if (id <= 0)
    return 0; /* make it: that tells what is wrong with the path */
  if (proc_mounts_read(restore->init, table, e) != 0)
    return -1;
  *found = mount_by_id(table, (uint64_t)id);
  return *found ? 0 : err_set(e, "is not in the mount table");
}

/* Is the path the directory, or below it? */
static bool is_in(const char *path, const char *directory)
{
  size_t length = directory ? strlen(directory) : 0;

  return length > 1 && strncmp(path, directory, length) == 0 &&
         (path[length] == '/' || path[length] == '\0');
}

/* Is it mounted where we are, outside the bundle? */
static int check_outside(const struct object_restore *restore, dev_t device, struct err *e)
{
  CLEANUP(proc_mounts_free) struct proc_mounts ours = {0};

  if (proc_mounts_read(getpid(), &ours, e) != 0)
    return -1;
  for (size_t i = 0; i < ours.count; i++) {
    if (ours.items[i].device == device && !is_in(ours.items[i].point, restore->bundle))
      return err_set(e, "is not a tmpfs of the new container's own: it is mounted at %s, too",
                     ours.items[i].point);
  }
  return 0;
}

int mount_check_own(const struct object_restore *restore, int fd, struct err *e)
{
  CLEANUP(proc_mounts_free) struct proc_mounts table = {0};
  const struct proc_mount *mount;
  struct statx stat;

  if (restore->init == 0)
    return err_set(e, "there is no container");
  if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &stat) < 0)
    return err_sys(e, "stat");
  if (proc_mounts_read(restore->init, &table, e) != 0)
    return -1;
  mount = is_mount_root(&stat) ? mount_by_id(&table, stat.stx_mnt_id) : NULL;
  if (!mount)
    return err_set(e, "nothing is mounted there in the new container");
  if (strcmp(mount->type, "tmpfs") != 0 || strcmp(mount->root, "/") != 0)
    return err_set(e, "is not a tmpfs of the new container's own (%s%s)",
                   strcmp(mount->root, "/") ? "a part of " : "", mount->type);
  return check_outside(restore, mount->device, e);
}

/* Is the bound one at its point already? */
static bool is_bound(const struct object_restore *restore, const struct mount_state *mount)
{
  AUTO_CLOSE int from = inode_open_mount(restore->root_fd, mount->bound);
  AUTO_CLOSE int to = inode_open_mount(restore->root_fd, mount->point);
  struct stat one, other;

  return from >= 0 && to >= 0 && fstat(from, &one) == 0 && fstat(to, &other) == 0 &&
         one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

/*
 * What keeps a container in its place is mounted by its bundle: what is read-only, what is masked.
 * An image changes no more of that than the new container's own processes could.
 */
static int check_rights(const struct object_restore *restore, struct err *e)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};

  if (proc_status_read(restore->init, &status, e) != 0)
    return -1;
  if (status.cap_bounding & UINT64_C(1) << CAP_SYS_ADMIN)
    return 0;
  return err_set(e, "the image changes what is mounted there, which the new container may not: its "
                    "bundle does not give it CAP_SYS_ADMIN");
}

static int open_and_check_own(const struct object_restore *restore, const struct mount_state *mount,
                              struct err *e)
{
  AUTO_CLOSE int fd = inode_open_mount(restore->root_fd, mount->point);

  return fd < 0 ? err_sys(e, "open") : mount_check_own(restore, fd, e);
}

static int unmount(const struct object_restore *restore, const struct mount_state *mount,
                   struct err *e)
{
  return check_rights(restore, e) < 0 ? -1 : run_inside(restore, mount, unmount_inside, e);
}

/* An empty tmpfs gives nobody anything. */
static int mount_it(const struct object_restore *restore, const struct mount_state *mount,
                    struct err *e)
{
  bool harmless = !mount->bound && strcmp(mount->type, "tmpfs") == 0;

  return !harmless && check_rights(restore, e) < 0 ? -1
                                                   : run_inside(restore, mount, mount_inside, e);
}

/* What its options say is of the file system, wherever else that is mounted. */
static int reconfigure(const struct object_restore *restore, const struct mount_state *mount,
                       struct err *e)
{
  return open_and_check_own(restore, mount, e) < 0
             ? -1
             : run_inside(restore, mount, reconfigure_inside, e);
}

static int set_flags(const struct object_restore *restore, const struct mount_state *mount,
                     struct err *e)
{
  if (open_and_check_own(restore, mount, &(struct err){""}) < 0 && check_rights(restore, e) < 0)
    return -1;
  return run_inside(restore, mount, set_flags_inside, e);
}

static int provide(const struct object_restore *restore, const struct mount_state *mount,
                   struct err *e)
{
  CLEANUP(proc_mounts_free) struct proc_mounts table = {0};
  const struct proc_mount *present;

  if (find_present(restore, mount, &table, &present, e) < 0)
    return -1;
  if (mount->absent)
    return present ? unmount(restore, mount, e) : 0;
  if (present && mount->bound && is_bound(restore, mount))
    return 0;
  if (!present || mount->bound || strcmp(present->type, mount->type) != 0)
    return mount_it(restore, mount, e);
  if (strcmp(present->options, mount->options) != 0 && strcmp(mount->type, "tmpfs") == 0)
    return reconfigure(restore, mount, e);
  return 0;
}

static int create(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(mount_free) struct mount_state mount = {0};

  if (read_detail(file, &mount, e) < 0)
    return -1;
  if (restore->init == 0)
    return err_set(e, "%s: there is no container to mount it in", mount.point);
  return provide(restore, &mount, e) < 0 ? err_prefix(e, "mount at %s", mount.point) : 0;
}

/* Flags come last: it may be read-only. */
static int attach(struct object_restore *restore, const struct file *file, int fd,
                  struct tracee *tracee, struct err *e)
{
  CLEANUP(mount_free) struct mount_state mount = {0};
  CLEANUP(proc_mounts_free) struct proc_mounts table = {0};
  const struct proc_mount *present;

  (void)fd;
  (void)tracee;
  if (read_detail(file, &mount, e) < 0)
    return -1;
  if (mount.absent)
    return 0;
  if (find_present(restore, &mount, &table, &present, e) < 0)
    return err_prefix(e, "mount at %s", mount.point);
  if (!present || strcmp(present->flags, mount.flags) == 0)
    return 0;
  return set_flags(restore, &mount, e) < 0 ? err_prefix(e, "mount at %s", mount.point) : 0;
}

const struct object_type object_mount = {
    .name = "mount",
    .create = create,
    .attach = attach,
};
