#include "tracee/remote.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { SEND_FD = 1 }; /* of the snapshot: the pipe takes the first two numbers */

static int set_options(pid_t tid, long options, struct err *e)
{
  if (ptrace(PTRACE_SETOPTIONS, tid, NULL, options) < 0)
    return err_sys(e, "thread %d: trace options", tid);
  return 0;
}

int tracee_snapshot(struct tracee *leader, struct tracee *snapshot, int32_t *number, struct err *e)
{
  int64_t result = 0;

  *snapshot = (struct tracee){0};
  leader->event_tid = 0;
  if (set_options(leader->tid,
                  PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_SUSPEND_SECCOMP, e) < 0 &&
      set_options(leader->tid, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE, e) < 0)
    return -1;
  /* Exit signal 0: its end is reported to nobody, and only __WALL waits see it. */
  if (remote_clone(leader, CLONE_FILES | CLONE_FS, &result, e) < 0)
    return -1;
  if (result < 0) {
    errno = (int)-result;
    return err_sys(e, "pid %d: snapshot", leader->pid);
  }
  *number = (int32_t)result;
  *snapshot = (struct tracee){.tid = leader->event_tid, .pid = leader->event_tid};
  if (snapshot->tid == 0 || tracee_wait_stop(snapshot, 0, e) != 0)
    return err_set(e, "pid %d: snapshot: its process is not traced", leader->pid);
  return set_options(snapshot->tid, PTRACE_O_EXITKILL, e);
}

/* Its descriptors are the process's: it leaves that table for an empty one of its own. */
static int open_remote_pipe(struct tracee *snapshot, struct err *e)
{
  uint64_t area = tracee_scratch(snapshot);
  struct remote_call calls[] = {
      {.number = SYS_close_range, .arguments = {0, ~0U, CLOSE_RANGE_UNSHARE}},
      {.number = SYS_pipe2, .arguments = {area, O_CLOEXEC}},
  };
  int pidfd, ends[2], fd;

  if (remote_batch(snapshot, calls, 2, e) != 2 || calls[0].result < 0 || calls[1].result < 0 ||
      tracee_read(snapshot, area, ends, sizeof(ends), e) < 0 || ends[1] != SEND_FD)
    return -1;
  pidfd = pidfd_open(snapshot->tid, 0);
  fd = pidfd_getfd(pidfd, ends[0], 0);
  close(pidfd);
  return fd;
}

int tracee_send_open(struct tracee *snapshot, uint64_t base)
{
  struct err ignored = {""};
  AUTO_CLOSE int fd = -1;

  /* A filter of its process could kill it. */
  if (set_options(snapshot->tid, PTRACE_O_EXITKILL | PTRACE_O_SUSPEND_SECCOMP, &ignored) < 0 ||
      remote_adopt(snapshot, base, &ignored) < 0)
    return -1;
  fd = open_remote_pipe(snapshot, &ignored);
  if (fd < 0 || fcntl(fd, F_SETPIPE_SZ, TRACEE_SEND_PAGES * 4096) != TRACEE_SEND_PAGES * 4096)
    return -1;
  return take_fd(&fd);
}

ssize_t tracee_send(struct tracee *snapshot, const struct iovec *parts, size_t count, struct err *e)
{
  uint64_t area = tracee_scratch(snapshot);
  struct remote_call call = {.number = SYS_vmsplice, .arguments = {SEND_FD, area, count}};

  if (count > TRACEE_SEND_PAGES)
    return err_set(e, "snapshot: too much at once");
  if (tracee_write(snapshot, area, parts, count * sizeof(*parts), e) < 0 ||
      remote_batch(snapshot, &call, 1, e) < 0)
    return -1;
  return call.result < 0 ? 0 : (ssize_t)call.result;
}

void tracee_kill_snapshot(struct tracee *snapshot)
{
  int status;

  if (snapshot->tid == 0)
    return;
  kill(snapshot->tid, SIGKILL);
  while (waitpid(snapshot->tid, &status, __WALL) == snapshot->tid && WIFSTOPPED(status))
    ;
  free(snapshot->xstate.data);
  free(snapshot->remote);
  *snapshot = (struct tracee){0};
}

int tracee_reap(struct tracee *leader, int32_t number, struct err *e)
{
  int64_t result;

  /* If somebody else has waited for it there is nothing to reap. */
  return TRACEE_CALL(leader, e, &result, SYS_wait4, (uint64_t)number, 0, WNOHANG | __WALL, 0, 0, 0);
}
