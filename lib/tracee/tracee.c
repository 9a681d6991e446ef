#include "tracee/tracee.h"

#include "base/cleanup.h"
#include "proc/proc.h"
#include "tracee/remote.h"

#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

enum { XSTATE_LIMIT = 64 << 10 }; /* bytes; AVX-512 needs 2.7 KiB, AMX 11 KiB */

bool tracee_is_exiting(pid_t tid)
{
  struct proc_stat stat;
  struct err ignored;

  return proc_stat_read(tid, &stat, &ignored) != 0 || stat.exiting || stat.state == 'Z' ||
         stat.state == 'X';
}

int tracee_seize(struct tracee *tracee, pid_t pid, pid_t tid, struct err *e)
{
  memset(tracee, 0, sizeof(*tracee));
  tracee->tid = tid;
  tracee->pid = pid;
  if (ptrace(PTRACE_SEIZE, tid, NULL, PTRACE_O_TRACESYSGOOD) < 0) {
    int cause = errno;

    if (cause == ESRCH || tracee_is_exiting(tid))
      return 1;
    errno = cause;
    return err_sys(e, "pid %d: thread %d: cannot be traced", pid, tid);
  }
  tracee->seized = true;
  if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0) {
    if (errno == ESRCH)
      return 1;
    err_sys(e, "pid %d: thread %d: cannot be interrupted", pid, tid);
    ptrace(PTRACE_DETACH, tid, NULL, NULL);
    return -1;
  }
  return 0;
}

static uint64_t now_ms(void)
{
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/*
 * Waits for the thread's next report; with a deadline by polling, as wait(2) knows none.
 * Returns 0 with *status, 1 when the thread is gone, 2 when the deadline passed.
 */
static int wait_report(pid_t tid, uint64_t deadline_ms, int *status, struct err *e)
{
  for (long pause_us = 20;; pause_us = pause_us < 1000 ? pause_us * 2 : pause_us) {
    pid_t got = waitpid(tid, status, __WALL | (deadline_ms ? WNOHANG : 0));

    if (got == tid)
      return WIFSTOPPED(*status) ? 0 : 1;
    if (got < 0 && errno == ECHILD)
      return 1;
    if (got < 0 && errno != EINTR)
      return err_sys(e, "thread %d: wait", tid);
    if (got == 0 && now_ms() >= deadline_ms)
      return 2;
    if (got == 0)
      nanosleep(&(struct timespec){.tv_nsec = pause_us * 1000}, NULL);
  }
}

int tracee_wait_stop(struct tracee *tracee, uint64_t deadline_ms, struct err *e)
{
  for (;;) {
    int status;
    int result = wait_report(tracee->tid, deadline_ms, &status, e);
    int event = status >> 16;
    int signal = WSTOPSIG(status);

    if (result == 1)
      tracee->seized = false;
    if (result != 0)
      return result;
    if (event == PTRACE_EVENT_STOP) {
      tracee->stopped = true;
      /* Job control: the stop's own signal instead of the trap that we asked for. */
      tracee->group_stopped = signal != SIGTRAP;
      return 0;
    }
    /* A signal was on its way: it is delivered as if we were not here; our stop comes next. */
    if (ptrace(PTRACE_CONT, tracee->tid, NULL, event ? 0 : signal) < 0 && errno != ESRCH)
      return err_sys(e, "thread %d: continue", tracee->tid);
  }
}

static int save_xstate(struct tracee *tracee, struct err *e)
{
  uint8_t buffer[XSTATE_LIMIT];
  struct iovec area = {.iov_base = buffer, .iov_len = sizeof(buffer)};
  uint8_t *data;

  if (ptrace(PTRACE_GETREGSET, tracee->tid, NT_X86_XSTATE, &area) < 0)
    return err_sys(e, "thread %d: extended state", tracee->tid);
  data = malloc(area.iov_len);
  if (!data)
    return err_sys(e, "thread %d: extended state", tracee->tid);
  memcpy(data, buffer, area.iov_len);
  free(tracee->xstate.data);
  tracee->xstate = (struct blob){.data = data, .size = area.iov_len};
  return 0;
}

int tracee_save(struct tracee *tracee, struct err *e)
{
  struct iovec area = {.iov_base = &tracee->regs, .iov_len = sizeof(tracee->regs)};

  if (ptrace(PTRACE_GETREGSET, tracee->tid, NT_PRSTATUS, &area) < 0)
    return err_sys(e, "thread %d: registers", tracee->tid);
  if (tracee->regs.cs != 0x33)
    return err_set(e, "pid %d: thread %d runs 32-bit code: cannot be checkpointed", tracee->pid,
                   tracee->tid);
  if (ptrace(PTRACE_GETSIGMASK, tracee->tid, sizeof(tracee->sigmask), &tracee->sigmask) < 0)
    return err_sys(e, "thread %d: signal mask", tracee->tid);
  return save_xstate(tracee, e);
}

int tracee_detach(struct tracee *tracee, struct err *e)
{
  int result = 0;

  if (!tracee->stopped)
    return 0;
  if (remote_restore(tracee, e) < 0)
    result = -1;
  tracee->stopped = false;
  tracee->seized = false;
  free(tracee->xstate.data);
  tracee->xstate = (struct blob){0};
  if (ptrace(PTRACE_DETACH, tracee->tid, NULL, NULL) < 0 && errno != ESRCH && result == 0)
    result = err_sys(e, "thread %d: detach", tracee->tid);
  return result;
}

/*
 * Through /proc/PID/mem, which forces protections: where it is open. One process_vm_readv or writev
 * is as good otherwise, as a rule.
 */
static int transfer(const struct tracee *tracee, uint64_t address, void *buffer, size_t size,
                    bool to_tracee, struct err *e)
{
  struct iovec local = {.iov_base = buffer, .iov_len = size};
  struct iovec remote = {.iov_base = (void *)address, .iov_len = size}; /* NOLINT */
  ssize_t n;

  if (tracee->remote)
    return remote_mem_at(tracee->remote->mem, address, buffer, size, to_tracee, e);
  n = to_tracee ? process_vm_writev(tracee->pid, &local, 1, &remote, 1, 0)
                : process_vm_readv(tracee->pid, &local, 1, &remote, 1, 0);
  if (n == (ssize_t)size)
    return 0;
  return remote_mem(tracee->pid, address, buffer, size, to_tracee, e);
}

int tracee_read(const struct tracee *tracee, uint64_t address, void *buffer, size_t size,
                struct err *e)
{
  return transfer(tracee, address, buffer, size, false, e);
}

int tracee_write(const struct tracee *tracee, uint64_t address, const void *buffer, size_t size,
                 struct err *e)
{
  return transfer(tracee, address, (void *)buffer, size, true, e); /* NOLINT: one body for both */
}
