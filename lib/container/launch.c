#include "container/launch.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "container/container.h"
#include "container/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct child {
  const struct launch *launch;
  int gate;   /* end of file opens it: the container is registered */
  int report; /* an errno when the command cannot be executed */
};

static int run_command(void *argument)
{
  const struct child *child = argument;
  sigset_t none;
  char byte;
  int cause;

  if (child->launch->detach) {
    int null = open("/dev/null", O_RDONLY);

    if (null < 0 || dup2(null, STDIN_FILENO) < 0)
      return EXIT_FAILED;
  }
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (io_read(child->gate, &byte, 1) != 1)
    return EXIT_FAILED; /* the launcher died or gave up */
  /* All but the standard streams and our own two, which end at exec. */
  if (fcntl(child->report, F_SETFD, FD_CLOEXEC) < 0 ||
      syscall(SYS_close_range, 3, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */) < 0)
    return EXIT_FAILED;
  execvp(child->launch->command[0], child->launch->command);
  cause = errno;
  io_write(child->report, &cause, sizeof(cause));
  return EXIT_FAILED;
}

static int exit_status(int status)
{
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Reaps all that have ended: who entered a container keeps its namespace until then. */
static bool reap(pid_t wanted, int *status)
{
  pid_t pid;
  int ended;

  while ((pid = waitpid(-1, &ended, WNOHANG)) > 0) {
    if (pid != wanted)
      continue;
    *status = ended;
    return true;
  }
  return false;
}

int launch_wait(int pid, struct err *e)
{
  static const int passed_on[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
  AUTO_CLOSE int signals = -1;
  sigset_t set;
  int status;

  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (size_t i = 0; i < ARRAY_LEN(passed_on); i++)
    sigaddset(&set, passed_on[i]);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signals = signalfd(-1, &set, SFD_CLOEXEC);
  if (signals < 0)
    return err_sys(e, "pid %d", pid);
  while (!reap(pid, &status)) {
    struct signalfd_siginfo info;

    if (read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGCHLD)
      kill(pid, (int)info.ssi_signo);
  }
  return exit_status(status);
}

/* Opens the gate; 0 when the command was executed. */
static int start_command(const struct launch *launch, pid_t pid, int gate, int report,
                         struct err *e)
{
  int cause = 0;

  if (container_register(launch->registry, launch->id, pid, e) < 0)
    return -1;
  if (io_write(gate, "", 1) < 0)
    return err_sys(e, "gate");
  if (io_read(report, &cause, sizeof(cause)) != sizeof(cause))
    return 0;
  errno = cause;
  return err_sys(e, "%s", launch->command[0]);
}

int launch_run(const struct launch *launch, struct err *e)
{
  AUTO_CLOSE int gate = -1, report = -1, child_gate = -1, child_report = -1;
  AUTO_CLOSE int reserved = container_reserve(launch->registry, launch->id, e);
  const struct sandbox_ids self = {geteuid(), getegid()}; /* users are the caller's */
  struct child child = {.launch = launch};
  int ends[2];
  int result;
  pid_t pid;

  if (reserved < 0)
    return -1;
  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  child.gate = child_gate = ends[0];
  gate = ends[1];
  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  report = ends[0];
  child.report = child_report = ends[1];
  pid = sandbox_clone(geteuid() == 0 ? NULL : &self, run_command, &child, e);
  if (pid < 0) {
    container_forget(launch->registry, launch->id, &(struct err){""});
    return -1;
  }
  close(take_fd(&child_gate));
  close(take_fd(&child_report));
  result = start_command(launch, pid, gate, report, e);
  close(take_fd(&reserved));
  if (result < 0) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
  } else if (launch->detach) {
    return 0;
  } else {
    result = launch_wait(pid, e);
  }
  container_forget(launch->registry, launch->id, &(struct err){""});
  return result;
}

static int end_container(const struct container *container, struct err *e)
{
  AUTO_CLOSE int pidfd = pidfd_open(container->pid, 0);
  struct pollfd fd = {.fd = pidfd, .events = POLLIN};

  if (pidfd < 0)
    return errno == ESRCH ? 0 : err_sys(e, "pid %d", container->pid);
  if (pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
    return err_sys(e, "pid %d", container->pid);
  while (poll(&fd, 1, -1) < 0) {
    if (errno != EINTR)
      return err_sys(e, "pid %d: wait", container->pid);
  }
  return 0;
}

int launch_delete(const char *registry, const char *id, bool force, struct err *e)
{
  struct container *list;
  size_t count;
  int result = -1;

  if (container_list(registry, &list, &count, e) < 0)
    return -1;
  err_set(e, "there is no container \"%s\"", id);
  for (size_t i = 0; i < count; i++) {
    if (strcmp(list[i].id, id) == 0) {
      if (list[i].status != CONTAINER_STOPPED && !force)
        err_set(e, "container %s runs; end it first, or use --force", id);
      else if (list[i].status == CONTAINER_STOPPED || end_container(&list[i], e) == 0)
        result = container_forget(registry, id, e);
    }
    container_free(&list[i]);
  }
  free(list);
  return result;
}
