#include "container/enter.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "container/cgroup.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct {
  int flag;
  const char *kind;
} namespaces[] = {
    {CLONE_NEWUSER, "user"},     {CLONE_NEWNS, "mnt"},  {CLONE_NEWPID, "pid"},
    {CLONE_NEWNET, "net"},       {CLONE_NEWIPC, "ipc"}, {CLONE_NEWUTS, "uts"},
    {CLONE_NEWCGROUP, "cgroup"},
};

/* What the one in between has to say: the child's pid here, or why there is none. */
struct report {
  pid_t pid;
  int error;
  char text[256];
};

/* Our own namespaces cannot all be entered again, and need not be. */
static int differing(pid_t init, int kinds, int *flags, struct err *e)
{
  *flags = 0;
  for (size_t i = 0; i < ARRAY_LEN(namespaces); i++) {
    int result = kinds & namespaces[i].flag
                     ? proc_namespace_differs(init, getpid(), namespaces[i].kind, e)
                     : 0;

    if (result < 0)
      return -1;
    *flags |= result ? namespaces[i].flag : 0;
  }
  return 0;
}

/* Capabilities outlive the exec that follows only in the root of the namespace. */
static int become_root(struct err *e)
{
  if ((setgroups(0, NULL) < 0 && errno != EPERM) || setresgid(0, 0, 0) < 0 ||
      setresuid(0, 0, 0) < 0)
    return err_sys(e, "root of the user namespace");
  return 0;
}

static int join(pid_t init, int kinds, struct err *e)
{
  AUTO_CLOSE int pidfd = pidfd_open(init, 0);
  int flags;

  if (pidfd < 0)
    return err_sys(e, "pid %d", init);
  if (differing(init, kinds, &flags, e) < 0)
    return -1;
  if (kinds & CLONE_NEWNS && cgroup_join(getpid(), init, e) < 0)
    return -1;
  if (flags && setns(pidfd, flags) < 0)
    return err_sys(e, "namespaces of pid %d", init);
  return flags & CLONE_NEWUSER ? become_root(e) : 0;
}

/* The process in between: what it clones is our child, with a number of our choice. */
static _Noreturn void between(pid_t init, int kinds, pid_t number, int (*child)(void *),
                              void *argument, int writer)
{
  struct clone_args args = {
      .flags = CLONE_PARENT,
      .set_tid = (uint64_t)&number,
      .set_tid_size = 1,
  };
  struct report report = {0};
  struct err e = {""};

  setsid(); /* of no terminal of ours; inside, a session from outside has the number 0 */
  if (join(init, kinds, &e) == 0) {
    report.pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (report.pid == 0) {
      close(writer);
      _exit(child(argument));
    }
    if (report.pid < 0)
      err_sys(&e, errno == EEXIST ? "pid %d is in use" : "pid %d: clone", number);
  }
  report.error = errno;
  snprintf(report.text, sizeof(report.text), "%.*s", (int)sizeof(report.text) - 1, e.text);
  io_write(writer, &report, sizeof(report));
  _exit(EXIT_DONE);
}

pid_t enter_clone(pid_t init, int kinds, pid_t number, int (*child)(void *), void *argument,
                  struct err *e)
{
  AUTO_CLOSE int reader = -1;
  AUTO_CLOSE int writer = -1;
  struct report report;
  int ends[2];
  ssize_t n;
  pid_t pid;

  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  reader = ends[0];
  writer = ends[1];
  pid = fork();
  if (pid < 0)
    return err_sys(e, "fork");
  if (pid == 0)
    between(init, kinds, number, child, argument, writer);
  close(take_fd(&writer));
  n = io_read(reader, &report, sizeof(report));
  waitpid(pid, NULL, 0);
  if (n != sizeof(report))
    return err_set(e, "pid %d: its namespaces could not be entered", init);
  errno = report.error;
  report.text[sizeof(report.text) - 1] = '\0';
  return report.text[0] ? err_set(e, "%s", report.text) : report.pid;
}
