/*
 * The init of a runtime's container: the runtime makes it, we catch it before the first instruction
 * of the bundle's program, and take from it what the rebuilding needs of the container.
 */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "proc/join.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
  EXEC_STOP = SIGTRAP | PTRACE_EVENT_EXEC << 8,
  PROFILE_TRIES = 64, /* of orders, of which there are a few */
};

/* A runtime's init may have threads; any of them may be the one that executes the program. */
static int seize_init(pid_t init, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list threads = {0};

  if (proc_threads(init, &threads, e) != 0)
    return err_prefix(e, "the container's init");
  for (size_t i = 0; i < threads.count; i++) {
    if (rebuild_seize(threads.items[i], e) == 0 || threads.items[i] != init)
      continue;
    if (errno == EPERM && geteuid() != 0)
      err_set(e, "an ordinary user may not trace the container's init, which this runtime has made "
                 "undumpable; restore with --runtime runc, or as root");
    return -1;
  }
  return 0;
}

/*
 * Starts the container. Its init is traced, so that somebody must let it go on where it stops,
 * until it has executed the program and the runtime has seen that.
 */
static int catch_init(const struct oci *oci, pid_t init, struct err *e)
{
  AUTO_CLOSE int messages = -1;
  pid_t starter = oci_start(oci, &messages, e);
  bool caught = false;
  bool gone = false;
  bool started = false;

  if (starter < 0)
    return -1;
  while (!started || (!caught && !gone)) {
    int status;
    pid_t pid = waitpid(-1, &status, __WALL);

    if (pid < 0 && errno != EINTR)
      return err_sys(e, "%s: wait", oci->program);
    if (pid == starter && !WIFSTOPPED(status)) {
      started = true;
      if (oci_started(oci, messages, status, e) < 0)
        return -1;
    } else if (pid == init && WIFSTOPPED(status) && status >> 8 == EXEC_STOP) {
      caught = true;
    } else if (pid > 0 && WIFSTOPPED(status)) {
      ptrace(PTRACE_CONT, pid, NULL, status >> 16 ? 0 : WSTOPSIG(status));
    } else if (pid == init) {
      gone = true;
    }
  }
  return caught ? 0 : err_set(e, "the container's program ended before it could be rebuilt");
}

/* What is found by way of the init: its root directory, network and ids. */
static int open_places(struct rebuild *rebuild, pid_t init, struct err *e)
{
  char path[64];
  int own_net;

  if (join_owner(init, e) < 0 || rebuild_open_root(rebuild, init, e) < 0)
    return -1;
  own_net = proc_namespace_differs(init, getpid(), "net", e);
  if (own_net < 0)
    return -1;
  snprintf(path, sizeof(path), "/proc/%d/ns/net", init);
  if (own_net)
    rebuild->objects.net_fd = open(path, O_RDONLY | O_CLOEXEC);
  if (own_net && rebuild->objects.net_fd < 0)
    return err_sys(e, "%s", path);
  rebuild->objects.init = init;
  if (proc_idmap_read(init, "uid_map", &rebuild->objects.uids, e) != 0 ||
      proc_idmap_read(init, "gid_map", &rebuild->objects.gids, e) != 0)
    return err_prefix(e, "the container's init");
  return 0;
}

/* Its standard streams: those that a runtime or an engine has made, else ours. */
static int take_streams(struct rebuild *rebuild, pid_t init, struct err *e)
{
  bool made = rebuild->oci.console_socket || rebuild->options->created;
  AUTO_CLOSE int pidfd = pidfd_open(init, 0);

  for (int i = 0; i < 3; i++) {
    AUTO_CLOSE int theirs = made ? pidfd_getfd(pidfd, i, 0) : -1;

    rebuild->objects.streams[i] =
        fcntl(made ? theirs : rebuild->options->streams[i], F_DUPFD_CLOEXEC, 3);
    if (rebuild->objects.streams[i] < 0)
      return err_sys(e, "standard stream %d", i);
  }
  return 0;
}

/* So that they can be opened anew (/dev/stdout). */
void rebuild_give_streams(const struct rebuild *rebuild)
{
  const struct credentials *user = &rebuild->processes[0].process->credentials;
  uint32_t uid = proc_id_outside(&rebuild->objects.uids, user->euid);

  for (int i = 0; i < 3 && rebuild->created; i++) {
    int fd = rebuild->objects.streams[i];
    struct stat stat;

    if (uid != UINT32_MAX && fstat(fd, &stat) == 0 && !S_ISCHR(stat.st_mode) &&
        stat.st_uid != uid && fchown(fd, uid, (gid_t)-1) < 0)
      continue; /* as far as it goes */
  }
}

/* What follows is the image's doing, and an image may come from anybody. */
static int take_bounds(struct rebuild *rebuild, struct err *e)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};

  if (proc_status_read(rebuild->processes[0].threads[0].tid, &status, e) != 0)
    return err_prefix(e, "the container's init");
  rebuild->bounds.capabilities = status.cap_bounding;
  return 0;
}

static int create_container(void *context, struct err *e)
{
  return oci_create(context, e);
}

static int delete_container(void *context, struct err *e)
{
  return oci_delete(context, e) < 0 ? err_prefix(e, "the container stays behind") : 0;
}

/* The runtime's container up to the first instruction of its program. */
static int make_container(struct rebuild *rebuild, struct err *e)
{
  const struct guarded what = {create_container, delete_container, &rebuild->oci};
  struct rebuilt *root = &rebuild->processes[0];
  pid_t init;

  if (guard_start(&rebuild->guard, &what, e) < 0)
    return -1;
  rebuild->created = true;
  if (oci_init(&rebuild->oci, &init, e) < 0 || rebuild_new_leader(root, init, e) < 0 ||
      seize_init(init, e) < 0 || catch_init(&rebuild->oci, init, e) < 0)
    return -1;
  return rebuild_leave_exec(&root->threads[0], e);
}

static void unmake_container(struct rebuild *rebuild)
{
  struct rebuilt *root = &rebuild->processes[0];

  kill(root->threads[0].pid, SIGKILL);
  rebuild_reap(root->threads[0].pid);
  free(root->threads);
  root->threads = NULL;
  root->thread_count = 0;
  root->forked = false;
  guard_end(&rebuild->guard, false);
  rebuild->created = false;
}

/* What counts of a seccomp profile are its instructions: made anew until they are the image's. */
int rebuild_init(struct rebuild *rebuild, struct err *e)
{
  struct rebuilt *root = &rebuild->processes[0];
  int reordered = 1;

  for (int i = 0; reordered > 0 && i < PROFILE_TRIES; i++) {
    if (i > 0)
      unmake_container(rebuild);
    if (make_container(rebuild, e) < 0)
      return -1;
    reordered = rebuild_is_reordered(root, &rebuild->bounds.filter_count, e);
    if (reordered > 0 && rebuild->oci.foreign)
      return err_set(e,
                     "container %s: its seccomp profile is compiled to another order of "
                     "instructions than the image's: create it again, or with crun, which has one",
                     rebuild->id);
  }
  if (reordered < 0 || take_bounds(rebuild, e) < 0 ||
      open_places(rebuild, root->threads[0].pid, e) < 0)
    return -1;
  return take_streams(rebuild, root->threads[0].pid, e);
}
