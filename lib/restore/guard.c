/*
 * A container that a runtime has made for us must not stay when the restore fails, also when we are
 * killed: a process of ours waits for our end, and deletes it unless it is told that all went well.
 */
#include "restore/rebuild.h"

#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void guard(const struct oci *oci, int pipe)
{
  struct err e = {""};
  char byte;

  setsid();
  for (int i = 1; i < NSIG; i++)
    signal(i, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
  if (dup2(pipe, STDIN_FILENO) < 0)
    _exit(EXIT_FAILED);
  close_range(3, ~0U, 0);
  close(STDOUT_FILENO);
  if (io_read(STDIN_FILENO, &byte, 1) == 1)
    _exit(EXIT_DONE);
  if (oci_delete(oci, &e) < 0)
    warn_user("the container stays behind: %s", e.text);
  _exit(EXIT_DONE);
}

int guard_start(struct rebuild *rebuild, struct err *e)
{
  int ends[2];
  pid_t pid;

  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  pid = fork();
  if (pid == 0) {
    close(ends[1]);
    guard(&rebuild->oci, ends[0]);
  }
  close(ends[0]);
  if (pid < 0) {
    close(ends[1]);
    return err_sys(e, "fork");
  }
  rebuild->guard = (struct guard){.pid = pid, .pipe = ends[1]};
  return 0;
}

void guard_end(struct rebuild *rebuild, bool well)
{
  if (rebuild->guard.pid == 0)
    return;
  if (well)
    io_write(rebuild->guard.pipe, "", 1);
  close(rebuild->guard.pipe);
  while (waitpid(rebuild->guard.pid, NULL, 0) < 0 && errno == EINTR)
    ;
  rebuild->guard.pid = 0;
}
