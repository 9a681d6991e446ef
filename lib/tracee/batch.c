/* Many remote calls with one stop. */
#include "tracee/remote.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>

extern const uint8_t trampoline_batch[], trampoline_ask[];

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
  if (remote_divert(tracee, &regs, e) < 0)
    return -1;
  if (ptrace(PTRACE_CONT, tracee->tid, NULL, 0) < 0)
    return err_sys(e, "thread %d: continue", tracee->tid);
  return 0;
}

int remote_batch_end(struct tracee *tracee, struct remote_call *calls, size_t count, struct err *e)
{
  const uint64_t all = ~UINT64_C(0);
  struct user_regs_struct regs;

  if (remote_wait_for(tracee, PTRACE_CONT, SIGTRAP, e) < 0)
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

static uint64_t bit_of(int signal_number)
{
  return UINT64_C(1) << (signal_number - 1);
}

void tracee_caught(struct tracee *leader, uint64_t caught)
{
  leader->remote->ignored = (bit_of(SIGURG) | bit_of(SIGWINCH) | bit_of(SIGCHLD)) & ~caught;
}

/*
 * A signal by which the thread tells us that it is done. Without a tracer it is ignored, and it is
 * not blocked: then none waits, ours is no more than what anybody might have sent.
 */
static int telling_signal(const struct tracee *tracee)
{
  uint64_t usable = tracee->remote->ignored & ~tracee->sigmask;

  /* A filter could refuse the call that sends it, and the thread would run away. */
  return tracee->unfiltered && usable ? __builtin_ctzll(usable) + 1 : 0;
}

static int set_mask(const struct tracee *tracee, uint64_t mask, struct err *e)
{
  if (ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(mask), &mask) < 0)
    return err_sys(e, "thread %d: set signal mask", tracee->tid);
  return 0;
}

/* Until all have been made: the same signal may come from somebody else, too. */
static int run_all(struct tracee *tracee, int signal_number, struct err *e)
{
  struct user_regs_struct regs;

  do {
    if (remote_run_to(tracee, PTRACE_CONT, signal_number, e) < 0)
      return -1;
    if (ptrace(PTRACE_GETREGS, tracee->tid, NULL, &regs) < 0)
      return err_sys(e, "thread %d: registers", tracee->tid);
  } while (regs.r12 != 0);
  return set_mask(tracee, ~UINT64_C(0), e);
}

static int ask_at_once(struct tracee *tracee, struct remote_call *calls, size_t count,
                       int signal_number, struct err *e)
{
  struct user_regs_struct regs = remote_registers(tracee);
  uint64_t area = calls_area(tracee);

  if (tracee_write(tracee, area, calls, count * sizeof(*calls), e) < 0)
    return -1;
  regs.rip = tracee->remote->base + remote_offset(trampoline_ask);
  regs.rbx = area;
  regs.r12 = count;
  regs.r13 = (uint64_t)signal_number;
  if (remote_divert(tracee, &regs, e) < 0 || set_mask(tracee, ~bit_of(signal_number), e) < 0 ||
      run_all(tracee, signal_number, e) < 0)
    return -1;
  return tracee_read(tracee, area, calls, count * sizeof(*calls), e);
}

static int ask_one_by_one(struct tracee *tracee, struct remote_call *calls, size_t count,
                          struct err *e)
{
  for (size_t i = 0; i < count; i++) {
    if (tracee_syscall(tracee, (long)calls[i].number, calls[i].arguments, &calls[i].result, e) < 0)
      return -1;
  }
  return 0;
}

int tracee_ask(struct tracee *tracee, struct remote_call *calls, size_t count, struct err *e)
{
  int signal_number;

  if (tracee->xstate.size == 0 && tracee_save(tracee, e) < 0)
    return -1;
  signal_number = telling_signal(tracee);
  if (!signal_number)
    return ask_one_by_one(tracee, calls, count, e);
  for (size_t done = 0; done < count; done += REMOTE_BATCH_LIMIT) {
    size_t piece = count - done < REMOTE_BATCH_LIMIT ? count - done : REMOTE_BATCH_LIMIT;

    if (ask_at_once(tracee, calls + done, piece, signal_number, e) < 0)
      return -1;
  }
  return 0;
}
