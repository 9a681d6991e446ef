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
  return remote_divert(tracee, &regs, ~UINT64_C(0), e) < 0 ||
                 remote_run(tracee, PTRACE_CONT, e) < 0
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

/* A thread on its way through its sheet. */
struct inquiry {
  struct tracee *tracee;
  uint8_t *sheet;
  size_t size;
  int signal_number; /* tells of the end; 0: it stops at every call */
  size_t stops;      /* until it is done; 0: it does not run */
};

static enum __ptrace_request request_of(const struct inquiry *inquiry)
{
  return inquiry->signal_number ? PTRACE_CONT : PTRACE_SYSCALL;
}

static int start(struct inquiry *inquiry, size_t count, struct err *e)
{
  struct tracee *tracee = inquiry->tracee;
  uint64_t area = tracee_scratch(tracee);
  struct user_regs_struct regs;

  if (tracee->xstate.size == 0 && tracee_save(tracee, e) < 0)
    return -1;
  if (tracee_write(tracee, area, inquiry->sheet, inquiry->size, e) < 0)
    return -1;
  inquiry->signal_number = telling_signal(tracee);
  regs = remote_registers(tracee);
  regs.rip = tracee->remote->base + remote_offset(trampoline_ask);
  regs.rbx = area;
  regs.r12 = count;
  regs.r13 = (uint64_t)inquiry->signal_number;
  if (remote_divert(tracee, &regs,
                    inquiry->signal_number ? ~bit_of(inquiry->signal_number) : ~UINT64_C(0),
                    e) < 0 ||
      remote_run(tracee, request_of(inquiry), e) < 0)
    return -1;
  /* At entry and exit of each call, and of one more, before which the last result is stored. */
  inquiry->stops = inquiry->signal_number ? 1 : 2 * (count + 1);
  return 0;
}

/* Has it made all its calls? The signal may come from somebody else, too. */
static int is_done(const struct inquiry *inquiry, struct err *e)
{
  struct user_regs_struct regs;

  if (!inquiry->signal_number)
    return 1;
  if (ptrace(PTRACE_GETREGS, inquiry->tracee->tid, NULL, &regs) < 0)
    return err_sys(e, "thread %d: registers", inquiry->tracee->tid);
  return regs.r12 == 0;
}

/* Waits for its next stop, and lets it run on if that is not its last. */
static int step(struct inquiry *inquiry, struct err *e)
{
  int wanted = inquiry->signal_number ? inquiry->signal_number : REMOTE_SYSCALL_STOP;
  size_t left = inquiry->stops;
  int done;

  inquiry->stops = 0;
  if (remote_wait(inquiry->tracee, request_of(inquiry), wanted, e) < 0)
    return -1;
  done = is_done(inquiry, e);
  if (done < 0)
    return -1;
  left -= (size_t)done;
  if (left && remote_run(inquiry->tracee, request_of(inquiry), e) < 0)
    return -1;
  inquiry->stops = left;
  return 0;
}

/* Until nobody runs any more. */
static int finish(struct inquiry *inquiries, size_t count, struct err *e)
{
  struct err late = {""};
  int result = 0;
  bool running;

  do {
    running = false;
    for (size_t i = 0; i < count; i++) {
      if (inquiries[i].stops && step(&inquiries[i], result < 0 ? &late : e) < 0)
        result = -1;
      running = running || inquiries[i].stops;
    }
  } while (running);
  return result;
}

int tracee_ask(struct tracee *threads, size_t thread_count, void *sheets, size_t size, size_t count,
               struct err *e)
{
  struct inquiry inquiries[TRACEE_AT_ONCE] = {0};
  struct err late = {""};
  int result = 0;

  if (thread_count > TRACEE_AT_ONCE || size > TRACEE_SCRATCH_SIZE)
    return err_set(e, "pid %d: too much is asked at once", threads->pid);
  for (size_t i = 0; i < thread_count && result == 0; i++) {
    inquiries[i].tracee = &threads[i];
    inquiries[i].sheet = (uint8_t *)sheets + i * size;
    inquiries[i].size = size;
    result = start(&inquiries[i], count, e);
  }
  if (finish(inquiries, thread_count, result < 0 ? &late : e) < 0)
    result = -1;
  for (size_t i = 0; i < thread_count && result == 0; i++)
    result = tracee_read(&threads[i], tracee_scratch(&threads[i]), inquiries[i].sheet, size, e);
  return result;
}
