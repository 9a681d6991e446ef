#include "base/guard.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* Speaks through its standard input: the text of an error, empty for none; then hears of the end.
 */
static _Noreturn void keep(const struct guarded *what, int socket)
{
  struct err e = {""};
  int null = open("/dev/null", O_WRONLY);
  char byte;

  setsid();
  for (int i = 1; i < NSIG; i++)
    signal(i, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
  if (dup2(socket, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
    _exit(EXIT_FAILED);
  close_range(3, ~0U, 0);
  if (what->act(what->context, &e) < 0) {
    io_write(STDIN_FILENO, &e, sizeof(e));
    _exit(EXIT_FAILED);
  }
  signal(SIGPIPE, SIG_IGN);
  io_write(STDIN_FILENO, &e, sizeof(e));
  if (io_read(STDIN_FILENO, &byte, 1) != 1 && what->undo(what->context, &e) < 0)
    warn_user("%s", e.text);
  _exit(EXIT_DONE);
}

static void wait_for(pid_t pid)
{
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
    ;
}

int guard_start(struct guard *guard, const struct guarded *what, struct err *e)
{
  AUTO_CLOSE int ours = -1;
  struct err theirs;
  int ends[2];
  pid_t pid;

  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
    return err_sys(e, "socket");
  pid = fork();
  if (pid == 0)
    keep(what, ends[1]);
  close(ends[1]);
  ours = ends[0];
  if (pid < 0)
    return err_sys(e, "fork");
  if (io_read(ours, &theirs, sizeof(theirs)) == sizeof(theirs) && theirs.text[0] == '\0') {
    *guard = (struct guard){.pid = pid, .pipe = take_fd(&ours)};
    return 0;
  }
  wait_for(pid);
  theirs.text[sizeof(theirs.text) - 1] = '\0';
  *e = theirs;
  return -1;
}

void guard_end(struct guard *guard, bool well)
{
  if (guard->pid == 0)
    return;
  if (well)
    io_write(guard->pipe, "", 1);
  close(guard->pipe);
  wait_for(guard->pid);
  guard->pid = 0;
}
