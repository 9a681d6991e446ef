/* Threads: made by remote clones, given their state, and let go. */
#include "restore/rebuild.h"

#include "base/io.h"
#include "base/policy.h"
#include "restore/batch.h"

#include <elf.h>
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
  THREAD_FLAGS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
  IOPRIO_WHO_PROCESS = 1,
};

static int clone_thread(struct rebuild *rebuild, struct rebuilt *which, size_t index, struct err *e)
{
  struct tracee *leader = &which->threads[0];
  struct tracee *thread = &which->threads[index];
  int32_t tid = which->process->threads[index].tid;

  if (rebuild_clone(rebuild, leader, THREAD_FLAGS, 0, tid, e) < 0)
    return err_prefix(e, "thread %d", tid);
  *thread = (struct tracee){.tid = leader->event_tid, .pid = leader->pid};
  if (tracee_wait_stop(thread, 0, e) != 0)
    return err_prefix(e, "thread %d: was not cloned", tid);
  thread->remote = leader->remote;
  which->thread_count = index + 1;
  return 0;
}

int rebuild_threads(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  for (size_t i = which->thread_count; i < which->process->thread_count; i++) {
    if (clone_thread(rebuild, which, i, e) < 0)
      return -1;
  }
  return 0;
}

static int set_scheduling(const struct thread *thread, pid_t tid, struct err *e)
{
  struct policy_attributes attributes = {
      .policy = (uint32_t)thread->policy,
      .flags = thread->sched_flags,
      .nice = thread->nice,
      .priority = (uint32_t)thread->priority,
      .runtime = thread->sched_runtime,
      .deadline = thread->sched_deadline,
      .period = thread->sched_period,
  };

  if (policy_set(tid, &attributes) < 0)
    return err_sys(e, "scheduling policy");
  if (thread->affinity.size &&
      sched_setaffinity(tid, thread->affinity.size, (const cpu_set_t *)thread->affinity.data) < 0)
    return err_sys(e, "CPU affinity");
  if (thread->io_priority &&
      syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, thread->io_priority) < 0)
    return err_sys(e, "I/O priority");
  return 0;
}

static int set_altstack(const struct thread *thread, struct batch *batch, struct err *e)
{
  uint64_t area;
  struct {
    uint64_t address;
    int32_t flags;
    uint64_t size;
  } stack = {thread->altstack_address,
             thread->altstack_flags & ~1 /* SS_ONSTACK follows from the stack pointer */,
             thread->altstack_size};

  if (batch_data(batch, &stack, sizeof(stack), &area, e) < 0)
    return -1;
  return BATCH_CALL(batch, e, "alternate signal stack", SYS_sigaltstack, area);
}

static int set_name(const struct thread *thread, struct batch *batch, struct err *e)
{
  uint64_t area;

  if (batch_data(batch, thread->name, strlen(thread->name) + 1, &area, e) < 0)
    return -1;
  return BATCH_CALL(batch, e, "name", SYS_prctl, PR_SET_NAME, area);
}

/* What the thread has asked the kernel to do with its memory. */
static int set_pointers(const struct thread *thread, struct batch *batch, struct err *e)
{
  if (BATCH_CALL(batch, e, "set_tid_address", SYS_set_tid_address, thread->clear_child_tid) < 0)
    return -1;
  if (thread->robust_list && BATCH_CALL(batch, e, "robust list", SYS_set_robust_list,
                                        thread->robust_list, thread->robust_list_size) < 0)
    return -1;
  if (thread->rseq_address &&
      BATCH_CALL(batch, e, "rseq", SYS_rseq, thread->rseq_address, thread->rseq_size,
                 thread->rseq_flags, thread->rseq_signature) < 0)
    return -1;
  return set_altstack(thread, batch, e);
}

int rebuild_thread_state(struct rebuilt *which, size_t index, struct err *e)
{
  const struct thread *thread = &which->process->threads[index];
  struct tracee *tracee = &which->threads[index];
  struct batch batch = {.tracee = tracee};

  if (set_name(thread, &batch, e) < 0 || set_pointers(thread, &batch, e) < 0 ||
      BATCH_CALL(&batch, e, "timer slack", SYS_prctl, PR_SET_TIMERSLACK, thread->timer_slack) < 0 ||
      batch_run(&batch, e) < 0 || set_scheduling(thread, tracee->tid, e) < 0 ||
      rebuild_credentials(&which->process->credentials, tracee, e) < 0)
    return -1;
  /* A change of credentials clears it, so it comes last. A new thread has none. */
  return index && thread->parent_death_signal == 0
             ? 0
             : call(tracee, e, "parent death signal", NULL, SYS_prctl, PR_SET_PDEATHSIG,
                    (uint64_t)thread->parent_death_signal, 0, 0, 0, 0);
}

static struct user_regs_struct to_user_regs(const struct registers *r)
{
  struct user_regs_struct regs;

  _Static_assert(sizeof(regs) == sizeof(*r), "registers stand in the order of user_regs_struct");
  memcpy(&regs, r, sizeof(regs));
  return regs;
}

/* What the thread resumes with, in place of what it was cloned with. */
static int take_registers(const struct thread *thread, struct tracee *tracee, struct err *e)
{
  struct iovec xstate = {.iov_base = thread->xstate.data, .iov_len = thread->xstate.size};

  tracee->regs = to_user_regs(&thread->registers);
  tracee->regs.orig_rax = (uint64_t)-1;
  tracee->sigmask = thread->sigmask;
  tracee->diverted = true;
  if (ptrace(PTRACE_SETREGSET, tracee->tid, NT_X86_XSTATE, &xstate) < 0)
    return err_sys(e, "thread %d: extended state", thread->tid);
  return remote_restore(tracee, e);
}

int rebuild_finish(struct rebuilt *which, struct err *e)
{
  const struct process *process = which->process;

  for (size_t i = process->thread_count; i-- > 1;) {
    if (take_registers(&process->threads[i], &which->threads[i], e) < 0)
      return -1;
  }
  if (remote_unmap(&which->threads[0], e) < 0)
    return -1;
  for (size_t i = 1; i < process->thread_count; i++)
    which->threads[i].remote = NULL;
  return take_registers(&process->threads[0], &which->threads[0], e);
}
