#include "tracee/remote.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

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

void tracee_kill_snapshot(struct tracee *snapshot)
{
  int status;

  if (snapshot->tid == 0)
    return;
  kill(snapshot->tid, SIGKILL);
  while (waitpid(snapshot->tid, &status, __WALL) == snapshot->tid && WIFSTOPPED(status))
    ;
  free(snapshot->xstate.data);
  *snapshot = (struct tracee){0};
}

int tracee_reap(struct tracee *leader, int32_t number, struct err *e)
{
  int64_t result;

  /* If somebody else has waited for it there is nothing to reap. */
  return TRACEE_CALL(leader, e, &result, SYS_wait4, (uint64_t)number, 0, WNOHANG | __WALL, 0, 0, 0);
}
