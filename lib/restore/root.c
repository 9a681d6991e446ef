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
int rebuild_seize(pid_t tid, struct err *e)
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
int rebuild_leave_exec(struct tracee *tracee, struct err *e)
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
  if (rebuild_seize(tracee->tid, e) < 0)
    return -1;
  if (io_write(gate, "", 1) < 0)
    return err_sys(e, "thread %d: gate", tracee->tid);
  if (wait_event(tracee->tid, EXEC_STOP, e) < 0)
    return err_prefix(e, "the program cannot be executed");
  return rebuild_leave_exec(tracee, e);
}

/* Files are opened by way of the tree's own mounts: a directory of ours would have no path there.
 */
int rebuild_open_root(struct rebuild *rebuild, pid_t root, struct err *e)
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
  return seedling.leads_session ? rebuild_open_root(rebuild, pid, e) : 0;
}

static int check_bounds(const struct rebuild *rebuild, const struct process *process, struct err *e)
{
  const struct credentials *wanted = &process->credentials;
  uint64_t more = (wanted->bounding | wanted->permitted | wanted->inheritable | wanted->ambient) &
                  ~rebuild->bounds.capabilities;

  if (more)
    return err_set(e,
                   "pid %d: had entered the container with capabilities that its bundle does not "
                   "give (0x%llx)",
                   process->pid, (unsigned long long)more);
  if (process->filter_count < rebuild->bounds.filter_count)
    return err_set(e, "pid %d: had entered the container without its bundle's seccomp profile",
                   process->pid);
  return 0;
}

int rebuild_enter(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  if (check_bounds(rebuild, which->process, e) < 0 || raise_child(rebuild, which, e) < 0)
    return -1;
  return remote_begin_at(&which->threads[0], rebuild->trampoline, e);
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

  if ((rebuild_by_runtime(rebuild) ? rebuild_init(rebuild, e) : raise_child(rebuild, root, e)) < 0)
    return -1;
  leader = &root->threads[0];
  root->executed = !rebuild->created;
  if (layout_free_range(rebuild, leader->pid, REMOTE_SIZE, &rebuild->trampoline, e) < 0 ||
      remote_begin_at(leader, rebuild->trampoline, e) < 0)
    return -1;
  return open_control(rebuild, leader, e);
}
