/*
 * Whose is what is mounted in a container: what its bundle tells of is mounted by the runtime, at
 * the restore as at its start; all else the container has mounted itself. A tmpfs is carried along
 * with what is in it, whoever has mounted it, unless it is bound from outside.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "container/bundle.h"
#include "dump/capture.h"
#include "object/inode.h"
#include "object/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* A mount of the container's mount table. */
struct mounted {
  const struct proc_mount *mount;
  const struct bundle_place *place; /* by which the runtime has mounted it, or NULL */
  bool runtime;                     /* it is the runtime's */
  bool visible;                     /* nothing covers it */
  bool directory;
  char *bound; /* the container's own: where else in the container the same is seen */
};

/* In the order of mounting. */
struct view {
  const struct capture *capture;
  struct proc_mounts table;
  struct bundle bundle;
  struct mounted *items; /* as many as the table's */
  bool *missing;         /* by place: the runtime's mount is gone */
};

static void view_free(struct view *view)
{
  for (size_t i = 0; view->items && i < view->table.count; i++)
    free(view->items[i].bound);
  free(view->items);
  free(view->missing);
  bundle_free(&view->bundle);
  proc_mounts_free(&view->table);
}

/* Is it the path, or below it? */
static bool is_below(const char *path, const char *above)
{
  size_t length = strcmp(above, "/") == 0 ? 0 : strlen(above);

  return strncmp(path, above, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static const struct proc_mount *mount_by_id(const struct view *view, int64_t id)
{
  for (size_t i = 0; i < view->table.count; i++) {
    if (view->table.items[i].id == id)
      return &view->table.items[i];
  }
  return NULL;
}

/* The lowest one at a point that nobody has claimed so far. */
static struct mounted *unclaimed(struct view *view, const char *point)
{
  for (size_t i = 0; i < view->table.count; i++) {
    if (!view->items[i].runtime && strcmp(view->table.items[i].point, point) == 0)
      return &view->items[i];
  }
  return NULL;
}

/*
 * A place of the bundle claims what is mounted there. It may be covered: then the path leads
 * elsewhere, but the mount table has it.
 */
static void claim(struct view *view, size_t index)
{
  const struct bundle_place *place = &view->bundle.places[index];
  int64_t id = mount_id_at(view->capture->root, place->destination);
  const struct proc_mount *top = id > 0 ? mount_by_id(view, id) : NULL;
  struct mounted *mounted = unclaimed(view, top ? top->point : place->destination);

  if (mounted) {
    mounted->runtime = true;
    mounted->place = place;
  }
  /* Not all that is to be masked exists in every kernel. */
  view->missing[index] = !top && !mounted && place->asked && (place->type || id == 0);
}

/* Without namespaces of its own the container sees ours, and all that is mounted below. */
static bool is_recursive(const struct mounted *mounted)
{
  const struct bundle_place *place = mounted->place;
  struct stat ours;

  if (!place || place->recursive || !place->type)
    return place && place->recursive;
  return (strcmp(place->type, "sysfs") == 0 || strcmp(place->type, "proc") == 0) &&
         stat(mounted->mount->point, &ours) == 0 && ours.st_dev == mounted->mount->device;
}

static bool comes_along(const struct view *view, const struct mounted *mounted)
{
  for (size_t i = 0; i < view->table.count; i++) {
    const struct mounted *other = &view->items[i];

    if (other != mounted && is_below(mounted->mount->point, other->mount->point) &&
        is_recursive(other))
      return true;
  }
  return false;
}

/* Where the root of a mount is seen through another one of the same file system; NULL: nowhere. */
static char *path_through(const struct proc_mount *mount, const struct proc_mount *other,
                          struct err *e)
{
  const char *point = strcmp(other->point, "/") == 0 ? "" : other->point;
  const char *rest = mount->root + (strcmp(other->root, "/") == 0 ? 0 : strlen(other->root));

  if (strcmp(rest, "/") == 0)
    rest = "";
  return io_format(e, "%s%s", point[0] || rest[0] ? point : "/", rest);
}

static bool is_same(int root, const char *path, const struct stat *stat)
{
  AUTO_CLOSE int fd = inode_open_mount(root, path);
  struct stat found;

  return fd >= 0 && fstat(fd, &found) == 0 && found.st_dev == stat->st_dev &&
         found.st_ino == stat->st_ino;
}

/* Where else the same directory or file is seen: by a mount that is older, or the runtime's. */
static int find_bound(const struct view *view, struct mounted *mounted, struct err *e)
{
  const struct proc_mount *mount = mounted->mount;
  AUTO_CLOSE int here = inode_open_mount(view->capture->root, mount->point);
  struct stat stat;

  if (here < 0 || fstat(here, &stat) < 0)
    return 0; /* it is covered */
  mounted->directory = S_ISDIR(stat.st_mode);
  for (size_t i = 0; i < view->table.count && !mounted->bound; i++) {
    const struct mounted *other = &view->items[i];
    AUTO_FREE char *path = NULL;

    if (other == mounted || !other->visible || (!other->runtime && other > mounted) ||
        other->mount->device != mount->device || !is_below(mount->root, other->mount->root))
      continue;
    path = path_through(mount, other->mount, e);
    if (!path)
      return -1;
    if (is_same(view->capture->root, path, &stat))
      mounted->bound = TAKE_POINTER(path);
  }
  return 0;
}

static int read_tables(struct view *view, struct err *e)
{
  const struct dump_options *options = view->capture->options;

  if (!options->bundle)
    return err_set(e, "its runtime's record does not tell its bundle");
  if (bundle_read(options->bundle, &view->bundle, e) < 0)
    return err_prefix(e, "bundle");
  if (proc_mounts_read(options->pid, &view->table, e) != 0)
    return err_prefix(e, "pid %d", options->pid);
  view->items = calloc(view->table.count + 1, sizeof(*view->items));
  view->missing = calloc(view->bundle.count + 1, sizeof(*view->missing));
  return view->items && view->missing ? 0 : err_sys(e, "mounts");
}

static int read_view(struct view *view, struct err *e)
{
  if (read_tables(view, e) < 0)
    return -1;
  for (size_t i = 0; i < view->table.count; i++) {
    const struct proc_mount *mount = &view->table.items[i];

    view->items[i].mount = mount;
    view->items[i].visible = mount_id_at(view->capture->root, mount->point) == mount->id;
    view->items[i].runtime = strcmp(mount->point, "/") == 0;
  }
  for (size_t i = 0; i < view->bundle.count; i++)
    claim(view, i);
  for (size_t i = 0; i < view->table.count; i++) {
    struct mounted *mounted = &view->items[i];

    mounted->runtime = mounted->runtime || comes_along(view, mounted);
  }
  for (size_t i = 0; i < view->table.count; i++) {
    if (!view->items[i].runtime && find_bound(view, &view->items[i], e) < 0)
      return -1;
  }
  return 0;
}

static bool is_tmpfs(const struct mounted *mounted)
{
  return strcmp(mounted->mount->type, "tmpfs") == 0 && strcmp(mounted->mount->root, "/") == 0;
}

/*
 * Is what is in it the container's? Of the runtime's that is a tmpfs that may be written; and one
 * that an engine keeps in the bundle itself, which ends with the container (podman's /dev/shm).
 */
static bool is_carried(const struct view *view, const struct mounted *mounted)
{
  const struct bundle_place *place = mounted->place;

  if (!is_tmpfs(mounted) || mounted->bound)
    return false;
  if (!mounted->runtime)
    return true;
  if (!place || !place->type || place->read_only)
    return false;
  return strcmp(place->type, "tmpfs") == 0 ||
         (place->source && is_below(place->source, view->capture->options->bundle));
}

static struct mount_state state_of(const struct mounted *mounted)
{
  const struct proc_mount *mount = mounted->mount;

  return (struct mount_state){
      .point = mount->point,
      .type = mount->type,
      .source = mount->source,
      .flags = mount->flags,
      .options = mount->options,
      .bound = mounted->bound,
      .directory = mounted->directory || mounted->runtime,
  };
}

/* Could a restore mount it? */
static int judge_own(const struct mounted *mounted, struct err *e)
{
  struct mount_state state = state_of(mounted);

  if (!mounted->visible)
    return err_set(e, "another mount covers it, so that it cannot be looked at");
  if (!mounted->bound && strcmp(mounted->mount->root, "/") != 0)
    return err_set(e, "it shows what is nowhere else in the container");
  return mount_check(&state, e);
}

/* One that is not the runtime's: 1 the container's, 0 a hook's, which will do it again; -1. */
static int judge_other(const struct view *view, const struct mounted *mounted, struct err *e)
{
  if (judge_own(mounted, e) == 0)
    return 1;
  return view->bundle.has_hooks && mounted->visible ? 0 : -1;
}

static bool covered_by_own(const struct view *view, const struct mounted *mounted)
{
  for (size_t i = 0; i < view->table.count; i++) {
    const struct mounted *other = &view->items[i];

    if (!other->runtime && other->visible && is_below(mounted->mount->point, other->mount->point))
      return true;
  }
  return false;
}

static int judge_runtimes(const struct view *view, const struct mounted *mounted, struct err *e)
{
  static const char *const kinds[] = {"tmpfs", "proc", "sysfs", "devpts", "mqueue"};
  const char *type = mounted->place && mounted->place->type ? mounted->place->type : "";

  for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
    if (strcmp(kinds[i], type) == 0 && strcmp(mounted->mount->type, type) != 0)
      return err_set(e, "in its bundle there is a %s", type);
  }
  if (is_carried(view, mounted) && !mounted->visible && covered_by_own(view, mounted))
    return err_set(e, "another mount covers it, so that it cannot be looked at");
  return 0;
}

static int refuse(struct capture *capture, const struct mounted *mounted, struct err *why)
{
  size_t length;
  char name[256];

  err_prefix(why, "cannot be checkpointed");
  length = strlen(why->text);
  snprintf(why->text + length, sizeof(why->text) - length, "; unmount it in the container");
  snprintf(name, sizeof(name), "mount at %.200s (%.40s)", mounted->mount->point,
           mounted->mount->type);
  return capture_obstacle(capture, capture->options->pid, name, why);
}

static int judge(struct capture *capture, const struct view *view, const struct mounted *mounted)
{
  struct err why = {""};

  if ((mounted->runtime ? judge_runtimes(view, mounted, &why) : judge_other(view, mounted, &why)) >=
      0)
    return 0;
  return refuse(capture, mounted, &why);
}

static const struct proc_mount *root_mount(const struct view *view)
{
  for (size_t i = 0; i < view->table.count; i++) {
    if (view->items[i].visible && strcmp(view->table.items[i].point, "/") == 0)
      return &view->table.items[i];
  }
  return NULL;
}

/* The directory into which the root's overlay writes, or -1 with e set. */
static int open_upper(const struct view *view, struct err *e)
{
  const struct proc_mount *root = root_mount(view);
  AUTO_FREE char *options = NULL;
  char *rest;
  int fd;

  if (!root || strcmp(root->type, "overlay") != 0)
    return err_set(
        e, "--archive-rootfs-changes: it is no overlay, which alone knows what was changed; "
           "leave the option out, and keep the files themselves");
  options = rest = strdup(root->options);
  if (!options)
    return err_sys(e, "root file system");
  for (const char *option = proc_mount_option(&rest); option; option = proc_mount_option(&rest)) {
    if (strncmp(option, "upperdir=", 9) != 0)
      continue;
    fd = open(option + 9, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_sys(e, "--archive-rootfs-changes: %s", option + 9) : fd;
  }
  return err_set(e, "--archive-rootfs-changes: its overlay cannot be written to");
}

static int check_root(struct capture *capture, const struct view *view)
{
  const struct proc_mount *root = root_mount(view);
  struct err why = {""};
  AUTO_CLOSE int upper = open_upper(view, &why);
  char name[64];

  if (upper >= 0)
    return 0;
  snprintf(name, sizeof(name), "root file system (%.40s)", root ? root->type : "none");
  return capture_obstacle(capture, capture->options->pid, name, &why);
}

int capture_check_mounts(struct capture *capture, struct err *e)
{
  CLEANUP(view_free) struct view view = {.capture = capture};

  if (!capture->options->runtime)
    return capture->options->archive_rootfs
               ? err_set(e, "--archive-rootfs-changes is for containers of runc and crun")
               : 0;
  if (read_view(&view, e) < 0)
    return -1;
  for (size_t i = 0; i < view.table.count; i++) {
    if (judge(capture, &view, &view.items[i]) < 0)
      return err_set(e, "out of memory");
  }
  if (capture->options->archive_rootfs && check_root(capture, &view) < 0)
    return err_set(e, "out of memory");
  return 0;
}

static int add_mount(struct capture *capture, const struct mount_state *state, struct err *e)
{
  struct file *file = capture_new_file(capture, &object_mount, e);

  if (!file)
    return -1;
  file->detail = mount_to_json(state, e);
  return file->detail ? 0 : -1;
}

/* What the container has unmounted: what was mounted last goes first. */
static int take_missing(struct capture *capture, const struct view *view, struct err *e)
{
  for (size_t i = view->bundle.count; i-- > 0;) {
    const struct mount_state state = {.point = view->bundle.places[i].destination, .absent = true};

    if (view->missing[i] && add_mount(capture, &state, e) < 0)
      return -1;
  }
  return 0;
}

static int take_mounted(struct capture *capture, const struct view *view,
                        const struct mounted *mounted, struct err *e)
{
  const struct mount_state state = state_of(mounted);
  bool carried = is_carried(view, mounted) && mounted->visible;
  struct err why = {""};
  int wanted = mounted->runtime ? carried : judge_other(view, mounted, &why);

  if (wanted < 0)
    return err_set(e, "mount at %s: cannot be checkpointed: %s", state.point, why.text);
  if (wanted == 0)
    return 0;
  if (add_mount(capture, &state, e) < 0)
    return -1;
  return carried ? capture_contents(capture, state.point, -1, e) : 0;
}

static int take_root(struct capture *capture, const struct view *view, struct err *e)
{
  const struct proc_mount *root = root_mount(view);
  AUTO_CLOSE int upper = open_upper(view, e);

  if (upper < 0)
    return -1;
  /* All that is new in one that cannot be written are mount points. */
  return strncmp(root->flags, "ro", 2) == 0 ? 0 : capture_contents(capture, "/", upper, e);
}

int capture_mounts(struct capture *capture, struct err *e)
{
  CLEANUP(view_free) struct view view = {.capture = capture};

  if (!capture->options->runtime)
    return 0;
  if (read_view(&view, e) < 0 || take_missing(capture, &view, e) < 0 ||
      (capture->options->archive_rootfs && take_root(capture, &view, e) < 0))
    return -1;
  for (size_t i = 0; i < view.table.count; i++) {
    if (take_mounted(capture, &view, &view.items[i], e) < 0)
      return -1;
  }
  return 0;
}
