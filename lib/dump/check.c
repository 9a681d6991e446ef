/*
 * Pass one: everything that can be refused, while the tree runs. Obstacles are collected, so that a
 * person sees them all at once.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "container/cgroup.h"
#include "dump/capture.h"
#include "tracee/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

/* A thread that is not on its way out: the first one may be. */
static bool has_live_thread(pid_t pid)
{
  CLEANUP(proc_list_free) struct proc_list threads = {0};
  struct err ignored;

  if (proc_threads(pid, &threads, &ignored) != 0)
    return false;
  for (size_t i = 0; i < threads.count; i++) {
    struct proc_stat stat;

    if (proc_stat_read(threads.items[i], &stat, &ignored) == 0 && !stat.exiting &&
        stat.state != 'Z' && stat.state != 'X')
      return true;
  }
  return false;
}

/* What a process that ends has let go already is no obstacle. */
static bool is_ending(pid_t pid)
{
  return !has_live_thread(pid);
}

int capture_obstacle(struct capture *capture, pid_t pid, const char *object, const struct err *why)
{
  json_t *obstacle =
      json_pack("{s:i, s:s, s:s}", "pid", pid, "object", object, "reason", why->text);

  if (obstacle && is_ending(pid)) {
    json_decref(obstacle);
    return 0;
  }
  return obstacle ? json_array_append_new(capture->obstacles, obstacle) : -1;
}

/*
 * Whom we may not trace we cannot even look at (ptrace(2), "Ptrace access mode checking"). 1: it
 * can be looked at.
 */
static int check_access(struct capture *capture, const struct source *source)
{
  AUTO_FREE char *path = io_format(&(struct err){""}, "/proc/%d/mem", source->pid);
  AUTO_CLOSE int memory = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  uint32_t user = source->status.uid[0];
  struct err why = {""};

  if (memory >= 0 || (errno != EACCES && errno != EPERM))
    return path ? 1 : -1;
  if (user != geteuid())
    err_set(&why,
            "cannot be checkpointed: it runs as user %u, and we are user %u; checkpoint it as that "
            "user, or as root",
            user, geteuid());
  else
    err_set(&why,
            "cannot be checkpointed: it may not be traced: it has more privileges than we, or "
            "has made itself undumpable (PR_SET_DUMPABLE); checkpoint it as root");
  return capture_obstacle(capture, source->pid, "process", &why);
}

/* Filters forbid calls of ours, too, unless they may rest. */
static int check_filters(struct capture *capture, const struct source *source)
{
  struct err why = {""};

  if (source->status.seccomp == SECCOMP_MODE_DISABLED)
    return 0;
  if (source->status.seccomp == SECCOMP_MODE_STRICT)
    err_set(&why, "cannot be checkpointed: strict seccomp is not supported; use a filter");
  else if (!seccomp_can_suspend())
    err_set(&why, "cannot be checkpointed: it is under a seccomp filter, which only root can "
                  "suspend and read; checkpoint it as root, or run it without");
  return why.text[0] ? capture_obstacle(capture, source->pid, "process", &why) : 0;
}

/* Restoring makes a user namespace like that of ckpt-run: of one user and one group. */
static int check_user_namespace(struct capture *capture)
{
  pid_t root = capture->sources[0].pid;
  struct err why = {""};

  capture->own_userns = proc_namespace_differs(root, getpid(), "user", &why) > 0;
  if (!capture->own_userns || capture->options->runtime ||
      (capture->uids.count == 1 && capture->uids.ranges[0].count == 1 && capture->gids.count == 1 &&
       capture->gids.ranges[0].count == 1))
    return 0;
  err_set(&why, "cannot be checkpointed: its user namespace has more than one user or group, and "
                "no container runtime to make another such; run it with ckpt-run");
  return capture_obstacle(capture, root, "process", &why);
}

int capture_same_namespaces(const struct capture *capture, const struct source *source,
                            struct err *e)
{
  static const char *const kinds[] = {"pid", "user", "mnt", "net", "ipc", "uts", "cgroup", "time"};

  for (size_t i = 0; i < ARRAY_LEN(kinds) && source != capture->sources; i++) {
    if (proc_namespace_differs(source->pid, capture->sources[0].pid, kinds[i], e) > 0)
      return err_set(e,
                     "cannot be checkpointed: it is in another %s namespace than the tree's root; "
                     "end it first",
                     kinds[i]);
  }
  return 0;
}

/* The runtime makes the container's init: only in a pid namespace of its own is its number given.
 */
static int check_init(struct capture *capture)
{
  struct err why = {""};

  if (capture->cgroup && cgroup_is_frozen_above(capture->cgroup)) {
    err_set(&why,
            "cannot be checkpointed: a control group above its container's is frozen (%s); "
            "thaw that one",
            capture->cgroup);
    if (capture_obstacle(capture, capture->sources[0].pid, "process", &why) < 0)
      return -1;
  }
  if (!capture->options->runtime || capture->sources[0].status.ns_pid[capture->depth] == 1)
    return 0;
  err_set(&why, "cannot be checkpointed: the container has no pid namespace of its own; let its "
                "bundle ask for one");
  return capture_obstacle(capture, capture->sources[0].pid, "process", &why);
}

static int check_process(struct capture *capture, struct source *source)
{
  struct err why = {""};

  if (source->stat.state == 'Z' && has_live_thread(source->pid)) {
    err_set(&why, CAPTURE_HEADLESS "; end it first");
    if (capture_obstacle(capture, source->pid, "process", &why) < 0)
      return -1;
  }
  if (capture_same_namespaces(capture, source, &why) < 0 &&
      capture_obstacle(capture, source->pid, "process", &why) < 0)
    return -1;
  if (source->status.tracer) {
    err_set(&why, "cannot be checkpointed: pid %d traces it already; detach that debugger",
            source->status.tracer);
    if (capture_obstacle(capture, source->pid, "process", &why) < 0)
      return -1;
  }
  return check_filters(capture, source);
}

/* context: how it is called in an obstacle; NULL: as its type and name say. */
static int visit_object(struct capture *capture, const struct object_source *object, void *context,
                        struct err *e)
{
  const struct object_type *type = object_type_of(object);
  struct err why = {""};
  char text[PATH_MAX + 64];
  const char *name = context;

  (void)e;
  if (!type->check || type->check(&capture->objects, object, &why) == 0)
    return 0;
  if (name)
    return capture_obstacle(capture, object->pid, name, &why);
  object_describe(object, text, sizeof(text));
  name = strchr(text + strlen("pid "), ' '); /* behind the pid, which stands on its own */
  return capture_obstacle(capture, object->pid, name ? name + 1 : text, &why);
}

/* Descriptors come and go while the tree runs: what is gone is no obstacle. */
static int check_descriptors(struct capture *capture, const struct source *source, struct err *e)
{
  AUTO_CLOSE int pidfd = pidfd_open(source->pid, 0);
  CLEANUP(proc_list_free) struct proc_list fds = {0};
  int result;

  if (pidfd < 0)
    return errno == ESRCH ? 0 : err_sys(e, "pid %d", source->pid);
  result = proc_descriptors(source->pid, &fds, e);
  if (result != 0)
    return result < 0 ? err_prefix(e, "pid %d", source->pid) : 0;
  for (size_t i = 0; i < fds.count; i++) {
    if (capture_visit(capture, source->pid, pidfd, fds.items[i], NULL, visit_object, NULL, e) < 0 &&
        errno != EBADF && errno != ENOENT && errno != ESRCH)
      return -1;
  }
  return 0;
}

static int check_maps(struct capture *capture, const struct source *source, struct err *e)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  const struct proc_map *last = NULL;
  int result = proc_smaps_read(source->pid, &maps, e);

  if (result != 0)
    return result < 0 ? -1 : 0;
  for (size_t i = 0; i < maps.count; i++) {
    const struct proc_map *map = &maps.maps[i];
    AUTO_CLOSE int local = -1;
    char name[PATH_MAX + 64];
    struct err why = {""};

    snprintf(name, sizeof(name), "mapping at 0x%lx (%s)", (unsigned long)map->start, map->name);
    if (capture_map_check(map, &why) < 0) {
      if (capture_obstacle(capture, source->pid, name, &why) < 0)
        return -1;
      continue;
    }
    if (!capture_map_has_file(map) ||
        (last && map->inode == last->inode && map->device == last->device))
      continue;
    last = map; /* the parts of a library stand one after the other */
    local =
        capture_map_is_object(map) ? capture_open_mapped(capture, source->pid, map, O_RDONLY) : -1;
    if (capture_visit_mapping(capture, source->pid, map, local, visit_object, name, e) < 0 &&
        errno != ENOENT && errno != ESRCH)
      return -1;
  }
  return 0;
}

static int check_links(struct capture *capture, const struct source *source, struct err *e)
{
  static const char *const names[] = {"exe", "cwd"};

  for (size_t i = 0; i < ARRAY_LEN(names); i++) {
    if (capture_visit(capture, source->pid, -1, -1, names[i], visit_object, NULL, e) < 0 &&
        errno != ENOENT && errno != ESRCH)
      return -1;
  }
  return 0;
}

/* Of one that ends meanwhile the kernel may show us nothing any more: EACCES to ordinary users. */
static int check_objects(struct capture *capture, const struct source *source, struct err *e)
{
  if (check_descriptors(capture, source, e) == 0 && check_maps(capture, source, e) == 0 &&
      check_links(capture, source, e) == 0)
    return 0;
  if (!is_ending(source->pid))
    return -1;
  e->text[0] = '\0';
  return 0;
}

int capture_check(struct capture *capture, struct err *e)
{
  if (check_init(capture) < 0)
    return err_set(e, "out of memory");
  if (capture_find_namespaces(capture, e) < 0)
    return -1;
  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];
    int accessible = source->zombie ? 0 : check_access(capture, source);

    if (accessible < 0)
      return err_set(e, "out of memory");
    if (!accessible)
      continue;
    if (check_process(capture, source) < 0)
      return err_set(e, "out of memory");
    if (i == 0 && check_user_namespace(capture) < 0)
      return err_set(e, "out of memory");
    if (check_objects(capture, source, e) < 0)
      return -1;
  }
  if (capture_check_mounts(capture, e) < 0)
    return -1;
  return capture_check_namespaces(capture, e);
}
