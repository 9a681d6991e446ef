#include "container/enter.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "container/cgroup.h"
#include "proc/join.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the one in between has to say: the child's pid here, or why there is none. */
struct report {
  pid_t pid;
  int error;
  char text[256];
};

static int join(pid_t init, int kinds, struct err *e)
{
  if (kinds & CLONE_NEWNS && cgroup_join(getpid(), init, e) < 0)
    return -1;
  return join_namespaces(init, kinds, e);
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

  /* No terminal and no keys of ours; inside, a session from outside has the number 0. */
  setsid();
  syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
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
