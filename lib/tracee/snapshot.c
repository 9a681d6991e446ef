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

/*
 * Its descriptors are the process's: it leaves that table for an empty one of its own, where pipe i
 * is made of the numbers 2 * i and 2 * i + 1.
 */
static int open_remote_pipes(struct tracee *snapshot, struct err *e)
{
  uint64_t area = tracee_scratch(snapshot);
  struct remote_call calls[1 + TRACEE_PIPES] = {
      {.number = SYS_close_range, .arguments = {0, ~0U, CLOSE_RANGE_UNSHARE}},
  };
  int ends[2 * TRACEE_PIPES];

  for (size_t i = 0; i < TRACEE_PIPES; i++)
    calls[1 + i] = (struct remote_call){.number = SYS_pipe2,
                                        .arguments = {area + i * 2 * sizeof(ends[0]), O_CLOEXEC}};
  if (remote_batch(snapshot, calls, ARRAY_LEN(calls), e) != ARRAY_LEN(calls) ||
      calls[TRACEE_PIPES].result < 0 || tracee_read(snapshot, area, ends, sizeof(ends), e) < 0)
    return -1;
  for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
    if (ends[i] != (int)i)
      return -1;
  }
  return 0;
}

int tracee_send_open(struct tracee *snapshot, uint64_t base, uint64_t size, int pipes[TRACEE_PIPES])
{
  const int room = TRACEE_PIPE_PAGES * 4096;
  struct err ignored = {""};
  AUTO_CLOSE int pidfd = -1;

  /* A filter of its process could kill it. */
  if (set_options(snapshot->tid, PTRACE_O_EXITKILL | PTRACE_O_SUSPEND_SECCOMP, &ignored) < 0 ||
      remote_adopt(snapshot, base, size, &ignored) < 0 || open_remote_pipes(snapshot, &ignored) < 0)
    return -1;
  pidfd = pidfd_open(snapshot->tid, 0);
  for (size_t i = 0; i < TRACEE_PIPES; i++) {
    pipes[i] = pidfd_getfd(pidfd, 2 * (int)i, 0);
    if (pipes[i] < 0 || fcntl(pipes[i], F_SETPIPE_SZ, room) != room)
      return -1;
  }
  return 0;
}

int tracee_send_start(struct tracee *snapshot, const struct iovec *parts,
                      const size_t counts[TRACEE_PIPES], struct err *e)
{
  struct remote_call calls[TRACEE_PIPES];
  uint64_t area = tracee_scratch(snapshot);
  size_t sum = 0;

  /* No parts are sent as well as some: so each call is for one pipe. */
  for (size_t i = 0; i < TRACEE_PIPES; i++) {
    calls[i] = (struct remote_call){
        .number = SYS_vmsplice,
        .arguments = {2 * i + 1, area + sum * sizeof(*parts), counts[i]},
    };
    sum += counts[i];
  }
  if (sum > TRACEE_SEND_PARTS)
    return err_set(e, "snapshot: too much at once");
  return tracee_write(snapshot, area, parts, sum * sizeof(*parts), e) < 0
             ? -1
             : remote_batch_start(snapshot, calls, TRACEE_PIPES, e);
}

int tracee_send_end(struct tracee *snapshot, size_t sent[TRACEE_PIPES], struct err *e)
{
  struct remote_call calls[TRACEE_PIPES];
  int made = remote_batch_end(snapshot, calls, TRACEE_PIPES, e);

  if (made < 0)
    return -1;
  /* Behind one that fails none is made. */
  for (int i = 0; i < TRACEE_PIPES; i++)
    sent[i] = i < made && calls[i].result > 0 ? (size_t)calls[i].result : 0;
  return 0;
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
  remote_free(snapshot->remote);
  *snapshot = (struct tracee){0};
}

int tracee_reap(struct tracee *leader, int32_t number, struct err *e)
{
  int64_t result;

  /* If somebody else has waited for it there is nothing to reap. */
  return TRACEE_CALL(leader, e, &result, SYS_wait4, (uint64_t)number, 0, WNOHANG | __WALL, 0, 0, 0);
}
