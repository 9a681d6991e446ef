#include "container/sandbox.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct sandbox {
  const struct sandbox_ids *ids;
  uid_t uid; /* outside */
  gid_t gid;
  int report; /* the child's end: end of file when all is set up, else the reason */
};

/* Why it could not be set up. */
struct report {
  int cause;
  struct err text;
};

static int write_map(const char *path, unsigned inside, unsigned outside, struct err *e)
{
  char text[64];

  snprintf(text, sizeof(text), "%u %u 1\n", inside, outside);
  return io_write_file(AT_FDCWD, path, text, e);
}

/* An ordinary user may map himself, if nobody in there can drop a group (user_namespaces(7)). */
static int map_ids(const struct sandbox *sandbox, struct err *e)
{
  if (io_write_file(AT_FDCWD, "/proc/self/setgroups", "deny", e) < 0 ||
      write_map("/proc/self/uid_map", sandbox->ids->uid, sandbox->uid, e) < 0 ||
      write_map("/proc/self/gid_map", sandbox->ids->gid, sandbox->gid, e) < 0)
    return -1;
  return 0;
}

/* In the child. Mounts stop to propagate to the outside; then /proc shows the new namespace. */
static int set_up(const struct sandbox *sandbox, struct err *e)
{
  if (sandbox->ids && map_ids(sandbox, e) < 0)
    return -1;
  if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
    return err_sys(e, "mount propagation");
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
    return err_sys(e, "/proc");
  if (setsid() < 0)
    return err_sys(e, "setsid");
  return 0;
}

static _Noreturn void run_child(const struct sandbox *sandbox, int (*child)(void *), void *argument)
{
  struct report report = {.text = {""}};

  if (set_up(sandbox, &report.text) < 0) {
    report.cause = errno;
    io_write(sandbox->report, &report, sizeof(report));
    _exit(EXIT_FAILED);
  }
  close(sandbox->report);
  _exit(child(argument));
}

/* What an ordinary user can do about it, or have done. */
static int explain(const struct sandbox *sandbox, int cause, struct err *e)
{
  const char *remedy = "";

  if (sandbox->ids && cause == ENOSPC)
    remedy = "; there may be no more user namespaces: raise user.max_user_namespaces (sysctl)";
  else if (sandbox->ids && (cause == EPERM || cause == EACCES))
    remedy = "; ordinary users may not make user namespaces here: look at "
             "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns "
             "(sysctl), and at what the container that we are in allows, or do it as root";
  err_prefix(e, "new namespaces");
  strncat(e->text, remedy, sizeof(e->text) - strlen(e->text) - 1);
  return -1;
}

pid_t sandbox_clone(const struct sandbox_ids *ids, int (*child)(void *), void *argument,
                    struct err *e)
{
  struct clone_args args = {
      .flags = CLONE_NEWPID | CLONE_NEWNS | (ids ? CLONE_NEWUSER : 0),
      .exit_signal = SIGCHLD,
  };
  struct sandbox sandbox = {.ids = ids, .uid = geteuid(), .gid = getegid()};
  AUTO_CLOSE int reader = -1;
  AUTO_CLOSE int writer = -1;
  struct report report = {0};
  int ends[2];
  pid_t pid;

  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  reader = ends[0];
  sandbox.report = writer = ends[1];
  pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
  if (pid < 0) {
    err_sys(e, "clone");
    return explain(&sandbox, errno, e);
  }
  if (pid == 0)
    run_child(&sandbox, child, argument);
  close(take_fd(&writer));
  if (io_read(reader, &report, sizeof(report)) <= 0)
    return pid;
  waitpid(pid, NULL, 0);
  *e = report.text;
  return explain(&sandbox, report.cause, e);
}
