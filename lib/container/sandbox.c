#include "container/sandbox.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* In the child. Mounts stop to propagate to the outside; then /proc shows the new namespace. */
static int set_up(struct err *e)
{
  if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
    return err_sys(e, "mount propagation");
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
    return err_sys(e, "/proc");
  if (setsid() < 0)
    return err_sys(e, "setsid");
  return 0;
}

static _Noreturn void run_child(int report, int (*child)(void *), void *argument)
{
  struct err e = {""};

  if (set_up(&e) < 0) {
    io_write(report, e.text, strlen(e.text));
    _exit(EXIT_FAILED);
  }
  close(report);
  _exit(child(argument));
}

pid_t sandbox_clone(int (*child)(void *), void *argument, struct err *e)
{
  struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNS, .exit_signal = SIGCHLD};
  AUTO_CLOSE int reader = -1;
  AUTO_CLOSE int writer = -1;
  struct err theirs = {""};
  int ends[2];
  pid_t pid;
  ssize_t n;

  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  reader = ends[0];
  writer = ends[1];
  pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
  if (pid < 0)
    return err_sys(e, "new namespaces");
  if (pid == 0)
    run_child(writer, child, argument);
  close(take_fd(&writer));
  n = io_read(reader, theirs.text, sizeof(theirs.text) - 1);
  if (n == 0)
    return pid;
  waitpid(pid, NULL, 0);
  *e = theirs;
  return err_prefix(e, "new namespaces");
}
