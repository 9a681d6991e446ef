/* One thread. */
#include "base/cleanup.h"
#include "dump/capture.h"
#include "tracee/signals.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { IOPRIO_WHO_PROCESS = 1, AFFINITY_SIZE = 1024 };

struct sched_attributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

static int take_scheduling(pid_t tid, struct thread *thread, struct err *e)
{
  struct sched_attributes attributes = {.size = sizeof(attributes)};
  uint8_t mask[AFFINITY_SIZE];
  long size;

  if (syscall(SYS_sched_getattr, tid, &attributes, sizeof(attributes), 0) < 0)
    return err_sys(e, "scheduling policy");
  thread->policy = (int32_t)attributes.policy;
  thread->sched_flags = (uint32_t)attributes.flags;
  thread->nice = attributes.nice;
  thread->priority = (int32_t)attributes.priority;
  thread->sched_runtime = attributes.runtime;
  thread->sched_deadline = attributes.deadline;
  thread->sched_period = attributes.period;
  /* The raw call: it returns how many bytes the kernel's masks have. */
  size = syscall(SYS_sched_getaffinity, tid, sizeof(mask), mask);
  if (size < 0)
    return err_sys(e, "CPU affinity");
  thread->affinity.data = malloc((size_t)size);
  if (!thread->affinity.data)
    return err_sys(e, "CPU affinity");
  memcpy(thread->affinity.data, mask, (size_t)size);
  thread->affinity.size = (size_t)size;
  thread->io_priority = (int32_t)syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid);
  if (thread->io_priority < 0)
    return err_sys(e, "I/O priority");
  return 0;
}

static int take_robust_list(pid_t tid, struct thread *thread, struct err *e)
{
  void *head = NULL;
  size_t size = 0;

  if (syscall(SYS_get_robust_list, tid, &head, &size) < 0)
    return err_sys(e, "robust list");
  thread->robust_list = (uint64_t)head;
  thread->robust_list_size = size;
  return 0;
}

/* What only the thread itself can ask. */
static int take_by_remote(struct tracee *tracee, struct thread *thread, struct err *e)
{
  struct {
    stack_t stack;
    uint64_t clear_child_tid;
    int64_t death_signal; /* the kernel writes an int */
  } values = {0};
  uint64_t area = tracee_scratch(tracee);
  uint64_t tid_area = area + offsetof(__typeof__(values), clear_child_tid);
  uint64_t signal_area = area + offsetof(__typeof__(values), death_signal);
  struct remote_call calls[] = {
      {.number = SYS_sigaltstack, .arguments = {0, area}},
      {.number = SYS_prctl, .arguments = {PR_GET_TID_ADDRESS, tid_area}},
      {.number = SYS_prctl, .arguments = {PR_GET_PDEATHSIG, signal_area}},
      {.number = SYS_prctl, .arguments = {PR_GET_TIMERSLACK}},
  };

  if (tracee_ask(tracee, calls, ARRAY_LEN(calls), e) < 0 ||
      tracee_read(tracee, area, &values, sizeof(values), e) < 0)
    return -1;
  if (calls[1].result < 0)
    return err_set(e, "the kernel does not tell its thread id address: it lacks "
                      "CONFIG_CHECKPOINT_RESTORE");
  thread->altstack_address = (uintptr_t)values.stack.ss_sp;
  thread->altstack_flags = values.stack.ss_flags;
  thread->altstack_size = values.stack.ss_size;
  thread->clear_child_tid = values.clear_child_tid;
  thread->parent_death_signal = (int32_t)values.death_signal;
  thread->timer_slack = (uint64_t)calls[3].result;
  return 0;
}

static int take_registers(const struct tracee *tracee, struct thread *thread, struct err *e)
{
  struct user_regs_struct regs = tracee->regs;

  tracee_resolve_restart(&regs);
  memcpy(&thread->registers, &regs, sizeof(thread->registers));
  thread->sigmask = tracee->sigmask;
  thread->xstate.data = malloc(tracee->xstate.size);
  if (!thread->xstate.data)
    return err_sys(e, "extended state");
  memcpy(thread->xstate.data, tracee->xstate.data, tracee->xstate.size);
  thread->xstate.size = tracee->xstate.size;
  return 0;
}

int capture_thread(struct source *source, struct tracee *tracee, struct thread *thread,
                   struct err *e)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};

  if (proc_status_read(tracee->tid, &status, e) != 0)
    return -1;
  if (memcmp(status.uid, source->status.uid, sizeof(status.uid)) != 0 ||
      memcmp(status.gid, source->status.gid, sizeof(status.gid)) != 0 ||
      status.cap_effective != source->status.cap_effective ||
      status.cap_permitted != source->status.cap_permitted ||
      status.seccomp != source->status.seccomp)
    return err_set(e, "its credentials differ from its first thread's: cannot be checkpointed");
  thread->tid = status.ns_pid[status.ns_depth - 1];
  thread->name = strdup(status.name);
  if (!thread->name)
    return err_sys(e, "name");
  if (tracee->xstate.size == 0 && tracee_save(tracee, e) < 0)
    return -1;
  if (take_registers(tracee, thread, e) < 0 ||
      tracee_rseq(tracee, &thread->rseq_address, &thread->rseq_size, &thread->rseq_signature,
                  &thread->rseq_flags, e) < 0 ||
      tracee_pending(tracee, false, &thread->pending, &thread->pending_count, e) < 0 ||
      take_scheduling(tracee->tid, thread, e) < 0 || take_robust_list(tracee->tid, thread, e) < 0 ||
      take_by_remote(tracee, thread, e) < 0)
    return -1;
  return tracee_rest(tracee, e);
}
