/*
 * Processes and threads with the numbers that they had. clone3(2) gives them by set_tid to who has
 * CAP_CHECKPOINT_RESTORE over the pid namespace. A container's processes have not: for them a
 * helper that has, in the same namespace, says before each clone which number was the last
 * (/proc/sys/kernel/ns_last_pid, Documentation/admin-guide/sysctl/kernel.rst). All else in the
 * namespace stands still, so that nobody comes in between.
 */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "container/enter.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* The helper's side: a number in, an errno out. */
struct helper {
  int socket;
  int last_pid;
};

static int serve(void *argument)
{
  const struct helper *helper = argument;
  int32_t number;

  prctl(PR_SET_PDEATHSIG, SIGKILL);
  while (io_read(helper->socket, &number, sizeof(number)) == sizeof(number)) {
    char text[16];
    int length = snprintf(text, sizeof(text), "%d", number - 1);
    int32_t error = pwrite(helper->last_pid, text, (size_t)length, 0) == length ? 0 : errno;

    if (io_write(helper->socket, &error, sizeof(error)) < 0)
      break;
  }
  return EXIT_DONE;
}

static int start_helper(struct rebuild *rebuild, struct err *e)
{
  AUTO_CLOSE int last_pid = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
  AUTO_CLOSE int theirs = -1;
  struct helper helper;
  int ends[2];

  if (last_pid < 0)
    return err_sys(e, "/proc/sys/kernel/ns_last_pid");
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
    return err_sys(e, "socket");
  rebuild->numbers.socket = ends[0];
  theirs = ends[1];
  helper = (struct helper){.socket = theirs, .last_pid = last_pid};
  rebuild->numbers.pid =
      enter_clone(rebuild->processes[0].threads[0].pid, CLONE_NEWUSER | CLONE_NEWPID,
                  rebuild_unused_pid(rebuild) + 1, serve, &helper, e);
  return rebuild->numbers.pid < 0 ? -1 : 0;
}

void numbers_end(struct rebuild *rebuild)
{
  if (rebuild->numbers.pid > 0) {
    kill(rebuild->numbers.pid, SIGKILL);
    waitpid(rebuild->numbers.pid, NULL, 0);
  }
  cleanup_close(&rebuild->numbers.socket);
  rebuild->numbers = (struct numbers){.socket = -1};
}

static int say_last(struct rebuild *rebuild, int32_t number, struct err *e)
{
  int32_t error = 0;

  if (rebuild->numbers.pid <= 0 && start_helper(rebuild, e) < 0)
    return -1;
  if (io_write(rebuild->numbers.socket, &number, sizeof(number)) < 0 ||
      io_read(rebuild->numbers.socket, &error, sizeof(error)) != sizeof(error))
    return err_set(e, "the helper in the pid namespace is gone");
  errno = error;
  return error ? err_sys(e, "/proc/sys/kernel/ns_last_pid") : 0;
}

/* In the tracee's scratch memory. */
struct argument {
  struct clone_args args;
  int32_t number;
};

static int clone_plainly(struct tracee *tracee, struct argument *argument, int64_t *result,
                         struct err *e)
{
  uint64_t area = tracee_scratch(tracee);

  if (tracee_write(tracee, area, argument, sizeof(*argument), e) < 0)
    return -1;
  return TRACEE_CALL(tracee, e, result, SYS_clone3, area, sizeof(argument->args), 0, 0, 0, 0);
}

int rebuild_clone(struct rebuild *rebuild, struct tracee *tracee, uint64_t flags, int exit_signal,
                  int32_t number, struct err *e)
{
  struct argument argument = {
      .args = {.flags = flags,
               .exit_signal = (uint64_t)exit_signal,
               .set_tid = tracee_scratch(tracee) + offsetof(struct argument, number),
               .set_tid_size = 1},
      .number = number,
  };
  int64_t result = -EPERM;

  if (rebuild->numbers.pid <= 0 && clone_plainly(tracee, &argument, &result, e) < 0)
    return -1;
  if (result == -EPERM && rebuild->tree.checkpoint.own_pidns) {
    argument.args.set_tid = 0;
    argument.args.set_tid_size = 0;
    if (say_last(rebuild, number, e) < 0 || clone_plainly(tracee, &argument, &result, e) < 0)
      return -1;
  }
  if (result < 0) {
    errno = (int)-result;
    return err_sys(e, errno == EEXIST ? "pid %d is in use" : "pid %d: clone", number);
  }
  if (result != number)
    return err_set(e, "pid %d is in use: the kernel gave %d instead", number, (int)result);
  return 0;
}
