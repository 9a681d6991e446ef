/*
 * Processes whose parents are outside the tree. The root is forked from us, or is the init of a
 * container that its runtime makes; who entered a container later (`runc exec`) does so again. Each
 * executes its program, so that /proc/PID/exe is right without any privilege, and is caught before
 * that one's first instruction.
 */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "container/enter.h"
#include "container/sandbox.h"
#include "proc/join.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum {
  TRACE_OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_TRACECLONE |
                  PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_EXITKILL,
  ALL_NAMESPACES = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                   CLONE_NEWUTS | CLONE_NEWCGROUP,
  EXEC_STOP = SIGTRAP | PTRACE_EVENT_EXEC << 8,
  SYSCALL_STOP = SIGTRAP | 0x80,
  PROFILE_TRIES = 64, /* of orders, of which there are a few */
};

int rebuild_new_leader(struct rebuilt *which, pid_t host_pid, struct err *e)
{
  which->threads = calloc(which->process->thread_count ? which->process->thread_count : 1,
                          sizeof(*which->threads));
  if (!which->threads)
    return err_sys(e, "pid %d", which->process->pid);
  which->threads[0] = (struct tracee){.tid = host_pid, .pid = host_pid};
  which->thread_count = 1;
  which->forked = true;
  return 0;
}

int rebuild_program(const struct rebuild *rebuild, const struct mm *mm, struct err *e)
{
  const struct file *file = tree_file(&rebuild->tree, mm->exe);
  struct object_restore objects = rebuild->objects;

  if (!file)
    return err_set(e, "space %u has no program", mm->id);
  return object_type_by_name(file->type)->restore(&objects, file, e);
}

/* Filters rest while we trace; who may not ask for that has none that matter. */
static int seize(pid_t tid, struct err *e)
{
  if (ptrace(PTRACE_SEIZE, tid, NULL, TRACE_OPTIONS | PTRACE_O_SUSPEND_SECCOMP) < 0 &&
      ptrace(PTRACE_SEIZE, tid, NULL, TRACE_OPTIONS) < 0)
    return err_sys(e, "thread %d: cannot be traced", tid);
  return 0;
}

static int wait_event(pid_t tid, int wanted, struct err *e)
{
  int status;

  if (waitpid(tid, &status, __WALL) < 0)
    return err_sys(e, "thread %d: wait", tid);
  if (!WIFSTOPPED(status) || status >> 8 != wanted)
    return err_set(e, "thread %d: died before it could be rebuilt", tid);
  return 0;
}

/* Out of execve(2), in which it stands: its return value would overwrite our first register. */
static int leave_exec(struct tracee *tracee, struct err *e)
{
  tracee->stopped = true;
  if (ptrace(PTRACE_SYSCALL, tracee->tid, NULL, NULL) < 0)
    return err_sys(e, "thread %d: continue", tracee->tid);
  return wait_event(tracee->tid, SYSCALL_STOP, e);
}

/* A child of ours before it is of the tree: waits to be seized, then becomes the program. */
struct seedling {
  const struct rebuild *rebuild;
  const struct process *process;
  bool leads_session; /* has its own by now */
  int exe;
  int gate[2]; /* a byte from the tracer opens it */
};

/*
 * The first of a user namespace has all capabilities in it until it executes a program. Ambient
 * ones stay until its credentials are restored: choosing pids and the root directory needs some.
 */
static int keep_capabilities(void)
{
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];

  if (syscall(SYS_capget, &header, data) < 0)
    return -1;
  for (unsigned i = 0; i < 2; i++)
    data[i].inheritable = data[i].permitted;
  if (syscall(SYS_capset, &header, data) < 0)
    return -1;
  for (unsigned i = 0; i < 64; i++) {
    if (data[i / 32].permitted >> (i % 32) & 1 &&
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) < 0)
      return -1;
  }
  return 0;
}

static int grow(void *argument)
{
  const struct seedling *seedling = argument;
  const struct process *process = seedling->process;
  const struct rebuild *rebuild = seedling->rebuild;
  char *const empty[] = {(char *)"", NULL};
  sigset_t all;
  char byte;

  close(seedling->gate[1]);
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  for (int signal = 1; signal < NSIG; signal++)
    sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
  if (!seedling->leads_session && process->sid == process->pid)
    setsid();
  if (rebuild->tree.checkpoint.own_userns && keep_capabilities() < 0)
    return EXIT_FAILED;
  if ((rebuild->control[1] >= 0 && dup3(rebuild->control[1], rebuild->control_fd, 0) < 0) ||
      io_read(seedling->gate[0], &byte, 1) != 1)
    return EXIT_FAILED;
  execveat(seedling->exe, "", empty, empty, AT_EMPTY_PATH);
  return EXIT_FAILED;
}

/* fork(2) with a pid of our choice, in our own pid namespace. */
static pid_t fork_with_pid(pid_t pid, struct seedling *seedling, struct err *e)
{
  struct clone_args args = {
      .exit_signal = SIGCHLD,
      .set_tid = (uint64_t)&pid,
      .set_tid_size = 1,
  };
  long result = syscall(SYS_clone3, &args, sizeof(args));

  if (result == 0)
    _exit(grow(seedling));
  if (result < 0)
    err_sys(e,
            errno == EEXIST  ? "pid %d is in use"
            : errno == EPERM ? "pid %d: only root can choose pids in this pid namespace; an "
                               "ordinary user can restore what he has run with ckpt-run"
                             : "pid %d: clone",
            pid);
  return (pid_t)result;
}

/* The child as it is fitting for the process: in new namespaces, in the container's, or in ours. */
static pid_t plant(struct rebuild *rebuild, struct seedling *seedling, struct err *e)
{
  const struct credentials *owner = &seedling->process->credentials;
  const struct sandbox_ids ids = {owner->euid, owner->egid};

  if (rebuild->created)
    return enter_clone(rebuild->processes[0].threads[0].pid, ALL_NAMESPACES, seedling->process->pid,
                       grow, seedling, e);
  if (rebuild->tree.checkpoint.own_pidns)
    return sandbox_clone(rebuild->tree.checkpoint.own_userns ? &ids : NULL, grow, seedling, e);
  return fork_with_pid(seedling->process->pid, seedling, e);
}

/* Seizes the waiting child, lets it execute the program, and stops it behind execve(2). */
static int catch_child(struct tracee *tracee, int gate, struct err *e)
{
  if (seize(tracee->tid, e) < 0)
    return -1;
  if (io_write(gate, "", 1) < 0)
    return err_sys(e, "thread %d: gate", tracee->tid);
  if (wait_event(tracee->tid, EXEC_STOP, e) < 0)
    return err_prefix(e, "the program cannot be executed");
  return leave_exec(tracee, e);
}

/* Files are opened by way of the tree's own mounts: a directory of ours would have no path there.
 */
static int open_root(struct rebuild *rebuild, pid_t root, struct err *e)
{
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/root", root);
  cleanup_close(&rebuild->objects.root_fd);
  rebuild->objects.root_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return rebuild->objects.root_fd < 0 ? err_sys(e, "%s", path) : 0;
}

static int raise_child(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  AUTO_CLOSE int exe = rebuild_program(rebuild, which->mm, e);
  AUTO_CLOSE int gate = -1;
  AUTO_CLOSE int child_gate = -1;
  struct seedling seedling = {
      .rebuild = rebuild,
      .process = which->process,
      .leads_session = !rebuild->created && rebuild->tree.checkpoint.own_pidns,
      .exe = exe,
  };
  pid_t pid;

  if (exe < 0)
    return -1;
  if (pipe2(seedling.gate, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  child_gate = seedling.gate[0];
  gate = seedling.gate[1];
  pid = plant(rebuild, &seedling, e);
  if (pid < 0 || rebuild_new_leader(which, pid, e) < 0)
    return -1;
  which->executed = true;
  if (catch_child(&which->threads[0], gate, e) < 0)
    return -1;
  return seedling.leads_session ? open_root(rebuild, pid, e) : 0;
}

int rebuild_enter(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  if (raise_child(rebuild, which, e) < 0)
    return -1;
  return remote_begin_at(&which->threads[0], rebuild->trampoline, e);
}

/* A runtime's init may have threads; any of them may be the one that executes the program. */
static int seize_init(pid_t init, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list threads = {0};

  if (proc_threads(init, &threads, e) != 0)
    return err_prefix(e, "the container's init");
  for (size_t i = 0; i < threads.count; i++) {
    if (seize(threads.items[i], e) == 0 || threads.items[i] != init)
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

  if (join_owner(init, e) < 0 || open_root(rebuild, init, e) < 0)
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

/*
 * Its standard streams: the terminal that the runtime has made, or what an engine has given it,
 * else ours. The runtime gives what it hands on to the container's user, so that it can be opened
 * anew (/dev/stdout): so do we.
 */
static int take_streams(struct rebuild *rebuild, pid_t init, struct err *e)
{
  AUTO_CLOSE int pidfd = pidfd_open(init, 0);

  for (int i = 0; i < 3; i++) {
    AUTO_CLOSE int theirs = pidfd_getfd(pidfd, i, 0);
    struct stat given, ours;
    int fd;

    if (theirs < 0)
      return err_sys(e, "the container's descriptor %d", i);
    fd = rebuild->oci.console_socket || rebuild->options->created ? theirs
                                                                  : rebuild->options->streams[i];
    rebuild->objects.streams[i] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (rebuild->objects.streams[i] < 0 || fstat(theirs, &given) < 0 || fstat(fd, &ours) < 0)
      return err_sys(e, "standard stream %d", i);
    if (ours.st_uid != given.st_uid && !S_ISCHR(ours.st_mode))
      fchown(fd, given.st_uid, (gid_t)-1); /* as far as it goes */
  }
  return 0;
}

/* The runtime's container up to the first instruction of its program. */
static int make_container(struct rebuild *rebuild, struct err *e)
{
  struct rebuilt *root = &rebuild->processes[0];
  pid_t init;

  if (oci_create(&rebuild->oci, &init, e) < 0)
    return -1;
  rebuild->created = true;
  if (guard_start(rebuild, e) < 0) {
    oci_delete(&rebuild->oci, &(struct err){""});
    return -1;
  }
  if (rebuild_new_leader(root, init, e) < 0 || seize_init(init, e) < 0 ||
      catch_init(&rebuild->oci, init, e) < 0)
    return -1;
  return leave_exec(&root->threads[0], e);
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
  guard_end(rebuild, false);
  rebuild->created = false;
}

/* What counts of a seccomp profile are its instructions: made anew until they are the image's. */
static int raise_init(struct rebuild *rebuild, struct err *e)
{
  struct rebuilt *root = &rebuild->processes[0];
  int reordered = 1;

  for (int i = 0; reordered > 0 && i < PROFILE_TRIES; i++) {
    if (i > 0)
      unmake_container(rebuild);
    if (make_container(rebuild, e) < 0)
      return -1;
    reordered = rebuild_is_reordered(root, e);
    if (reordered > 0 && rebuild->oci.foreign)
      return err_set(e,
                     "container %s: its seccomp profile is compiled to another order of "
                     "instructions than the image's: create it again, or with crun, which has one",
                     rebuild->id);
  }
  if (reordered < 0 || open_places(rebuild, root->threads[0].pid, e) < 0)
    return -1;
  return take_streams(rebuild, root->threads[0].pid, e);
}

/* Descriptors are handed over by numbers that may be high. */
static int raise_limit(struct tracee *tracee, struct err *e)
{
  uint64_t area = tracee_scratch(tracee);
  struct rlimit limit;

  if (call(tracee, e, "limit", NULL, SYS_prlimit64, 0, RLIMIT_NOFILE, 0, area, 0, 0) < 0 ||
      tracee_read(tracee, area, &limit, sizeof(limit), e) < 0)
    return -1;
  limit.rlim_cur = limit.rlim_max;
  if (tracee_write(tracee, area, &limit, sizeof(limit), e) < 0)
    return -1;
  return call(tracee, e, "limit", NULL, SYS_prlimit64, 0, RLIMIT_NOFILE, area, 0, 0, 0);
}

/*
 * The control socket is made in the root and taken out of it: there is no other way into a process
 * that somebody else has made.
 */
static int open_control(struct rebuild *rebuild, struct tracee *root, struct err *e)
{
  AUTO_CLOSE int pidfd = pidfd_open(root->pid, 0);
  uint64_t area = tracee_scratch(root);
  int ends[2];

  if (raise_limit(root, e) < 0 ||
      call(root, e, "socketpair", NULL, SYS_socketpair, AF_UNIX, SOCK_SEQPACKET, 0, area, 0, 0) <
          0 ||
      tracee_read(root, area, ends, sizeof(ends), e) < 0)
    return -1;
  for (int i = 0; i < 2; i++) {
    rebuild->control[i] = pidfd_getfd(pidfd, ends[i], 0);
    if (rebuild->control[i] < 0)
      return err_sys(e, "control socket");
  }
  if (call(root, e, "dup3", NULL, SYS_dup3, (uint64_t)ends[1], (uint64_t)rebuild->control_fd, 0, 0,
           0, 0) < 0)
    return -1;
  return call(root, e, "close_range", NULL, SYS_close_range, 0, (uint64_t)rebuild->control_fd - 1,
              0, 0, 0, 0);
}

int rebuild_root(struct rebuild *rebuild, struct err *e)
{
  struct rebuilt *root = &rebuild->processes[0];
  struct tracee *leader;

  if ((rebuild_by_runtime(rebuild) ? raise_init(rebuild, e) : raise_child(rebuild, root, e)) < 0)
    return -1;
  leader = &root->threads[0];
  root->executed = !rebuild->created;
  if (layout_free_range(rebuild, leader->pid, REMOTE_SIZE, &rebuild->trampoline, e) < 0 ||
      remote_begin_at(leader, rebuild->trampoline, e) < 0)
    return -1;
  return open_control(rebuild, leader, e);
}
