/* Many remote calls of one thread with one stop. */
#include "tracee/remote.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>

extern const uint8_t trampoline_batch[];

/* Where the calls stand in the scratch memory. */
static uint64_t calls_area(const struct tracee *tracee)
{
  return tracee_scratch(tracee) + TRACEE_SCRATCH_SIZE -
         REMOTE_BATCH_LIMIT * sizeof(struct remote_call);
}

int remote_batch_start(struct tracee *tracee, const struct remote_call *calls, size_t count,
                       struct err *e)
{
  uint64_t area = calls_area(tracee);
  struct user_regs_struct regs;

  if (tracee->xstate.size == 0 && tracee_save(tracee, e) < 0)
    return -1;
  if (tracee_write(tracee, area, calls, count * sizeof(*calls), e) < 0)
    return -1;
  regs = remote_registers(tracee);
  regs.rip = tracee->remote->base + remote_offset(trampoline_batch);
  regs.rbx = area;
  regs.r12 = count;
  return remote_divert(tracee, &regs, ~UINT64_C(0), e) < 0 || remote_run(tracee, PTRACE_CONT, e) < 0
             ? -1
             : 0;
}

int remote_batch_end(struct tracee *tracee, struct remote_call *calls, size_t count, struct err *e)
{
  const uint64_t all = ~UINT64_C(0);
  struct user_regs_struct regs;

  if (remote_wait(tracee, PTRACE_CONT, SIGTRAP, e) < 0)
    return -1;
  if (ptrace(PTRACE_GETREGS, tracee->tid, NULL, &regs) < 0)
    return err_sys(e, "thread %d: registers", tracee->tid);
  /* The trap has unblocked its signal. */
  if (ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(all), &all) < 0)
    return err_sys(e, "thread %d: set signal mask", tracee->tid);
  if (regs.r12 >= count)
    return err_set(e, "pid %d: a batch of system calls went astray", tracee->pid);
  count -= regs.r12;
  if (tracee_read(tracee, calls_area(tracee), calls, count * sizeof(*calls), e) < 0)
    return -1;
  return (int)count;
}

int remote_batch(struct tracee *tracee, struct remote_call *calls, size_t count, struct err *e)
{
  if (count == 0)
    return 0;
  if (count > REMOTE_BATCH_LIMIT)
    count = REMOTE_BATCH_LIMIT;
  return remote_batch_start(tracee, calls, count, e) < 0
             ? -1
             : remote_batch_end(tracee, calls, count, e);
}
