/* One thread. */
#include "base/cleanup.h"
#include "base/policy.h"
#include "dump/capture.h"
#include "tracee/signals.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { IOPRIO_WHO_PROCESS = 1, AFFINITY_SIZE = 1024 };

static int take_scheduling(pid_t tid, struct thread *thread, struct err *e)
{
  struct policy_attributes attributes;
  uint8_t mask[AFFINITY_SIZE];
  long size;

  if (policy_get(tid, &attributes) < 0)
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

/* What only the thread itself can ask, and what /proc shows slowly. */
enum {
  ASK_STACK,
  ASK_TID_ADDRESS,
  ASK_DEATH_SIGNAL,
  ASK_TIMER_SLACK,
  ASK_TID,
  ASK_NAME,
  ASK_UIDS,
  ASK_GIDS,
  ASK_FSUID,
  ASK_FSGID,
  ASK_CAPABILITIES,
  ASK_SECCOMP,
  QUESTIONS,
};

struct sheet {
  struct remote_call calls[QUESTIONS];
  stack_t stack;
  uint64_t clear_child_tid;
  int64_t death_signal; /* the kernel writes an int */
  char name[16];
  uint32_t uids[3], gids[3];
  struct __user_cap_header_struct version;
  struct __user_cap_data_struct capabilities[_LINUX_CAPABILITY_U32S_3];
};

static void fill_sheet(struct sheet *sheet, uint64_t area)
{
  const uint64_t none = UINT32_MAX; /* changes nothing */
  const uint64_t uids = area + offsetof(struct sheet, uids);
  const uint64_t gids = area + offsetof(struct sheet, gids);
  const struct remote_call calls[QUESTIONS] = {
      [ASK_STACK] = {SYS_sigaltstack, {0, area + offsetof(struct sheet, stack)}, 0},
      [ASK_TID_ADDRESS] = {SYS_prctl,
                           {PR_GET_TID_ADDRESS, area + offsetof(struct sheet, clear_child_tid)},
                           0},
      [ASK_DEATH_SIGNAL] = {SYS_prctl,
                            {PR_GET_PDEATHSIG, area + offsetof(struct sheet, death_signal)},
                            0},
      [ASK_TIMER_SLACK] = {SYS_prctl, {PR_GET_TIMERSLACK}, 0},
      [ASK_TID] = {SYS_gettid, {0}, 0},
      [ASK_NAME] = {SYS_prctl, {PR_GET_NAME, area + offsetof(struct sheet, name)}, 0},
      [ASK_UIDS] = {SYS_getresuid, {uids, uids + 4, uids + 8}, 0},
      [ASK_GIDS] = {SYS_getresgid, {gids, gids + 4, gids + 8}, 0},
      [ASK_FSUID] = {SYS_setfsuid, {none}, 0},
      [ASK_FSGID] = {SYS_setfsgid, {none}, 0},
      [ASK_CAPABILITIES] = {SYS_capget,
                            {area + offsetof(struct sheet, version),
                             area + offsetof(struct sheet, capabilities)},
                            0},
      [ASK_SECCOMP] = {SYS_prctl, {PR_GET_SECCOMP}, 0},
  };

  *sheet = (struct sheet){0};
  sheet->version.version = _LINUX_CAPABILITY_VERSION_3;
  memcpy(sheet->calls, calls, sizeof(calls));
}

static bool same_credentials(const struct sheet *a, const struct sheet *b)
{
  for (size_t i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
    if (a->capabilities[i].effective != b->capabilities[i].effective ||
        a->capabilities[i].permitted != b->capabilities[i].permitted)
      return false;
  }
  return memcmp(a->uids, b->uids, sizeof(a->uids)) == 0 &&
         memcmp(a->gids, b->gids, sizeof(a->gids)) == 0 &&
         a->calls[ASK_FSUID].result == b->calls[ASK_FSUID].result &&
         a->calls[ASK_FSGID].result == b->calls[ASK_FSGID].result &&
         a->calls[ASK_SECCOMP].result == b->calls[ASK_SECCOMP].result;
}

/* `first` is the leader's sheet. */
static int take_answers(const struct sheet *sheet, const struct sheet *first, struct thread *thread,
                        struct err *e)
{
  for (size_t i = 0; i < QUESTIONS; i++) {
    if (sheet->calls[i].result < 0 && i == ASK_TID_ADDRESS)
      return err_set(e, "the kernel does not tell its thread id address: it lacks "
                        "CONFIG_CHECKPOINT_RESTORE");
    if (sheet->calls[i].result < 0) {
      errno = (int)-sheet->calls[i].result;
      return err_sys(e, "system call %d", (int)sheet->calls[i].number);
    }
  }
  if (!same_credentials(sheet, first))
    return err_set(e, "its credentials differ from its first thread's: cannot be checkpointed");
  thread->tid = (int32_t)sheet->calls[ASK_TID].result;
  thread->name = strndup(sheet->name, sizeof(sheet->name));
  if (!thread->name)
    return err_sys(e, "name");
  thread->altstack_address = (uintptr_t)sheet->stack.ss_sp;
  thread->altstack_flags = sheet->stack.ss_flags;
  thread->altstack_size = sheet->stack.ss_size;
  thread->clear_child_tid = sheet->clear_child_tid;
  thread->parent_death_signal = (int32_t)sheet->death_signal;
  thread->timer_slack = (uint64_t)sheet->calls[ASK_TIMER_SLACK].result;
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

/* What the tracer sees of it. */
static int take_seen(struct tracee *tracee, struct thread *thread, struct err *e)
{
  if (tracee->xstate.size == 0 && tracee_save(tracee, e) < 0)
    return -1;
  if (take_registers(tracee, thread, e) < 0 ||
      tracee_rseq(tracee, &thread->rseq_address, &thread->rseq_size, &thread->rseq_signature,
                  &thread->rseq_flags, e) < 0 ||
      tracee_pending(tracee, false, &thread->pending, &thread->pending_count, e) < 0 ||
      take_scheduling(tracee->tid, thread, e) < 0)
    return -1;
  return take_robust_list(tracee->tid, thread, e);
}

/* All threads of a process. */
struct taken {
  struct tracee *tracees;
  struct thread *threads;
  struct sheet first; /* the leader's */
};

static int fill(void *context, size_t index, void *sheet, struct err *e)
{
  const struct taken *taken = context;
  struct tracee *tracee = &taken->tracees[index];

  if (take_seen(tracee, &taken->threads[index], e) < 0)
    return err_prefix(e, "thread %d", tracee->tid);
  fill_sheet(sheet, tracee_scratch(tracee));
  return 0;
}

static int take(void *context, size_t index, const void *sheet, struct err *e)
{
  struct taken *taken = context;

  if (index == 0)
    memcpy(&taken->first, sheet, sizeof(taken->first));
  if (take_answers(sheet, &taken->first, &taken->threads[index], e) < 0)
    return err_prefix(e, "thread %d", taken->tracees[index].tid);
  return 0;
}

int capture_threads(struct source *source, struct process *process, struct err *e)
{
  struct taken taken = {.tracees = source->threads};
  const struct tracee_questions questions = {.size = sizeof(struct sheet),
                                             .count = QUESTIONS,
                                             .fill = fill,
                                             .take = take,
                                             .context = &taken};

  taken.threads = process->threads = calloc(source->thread_count, sizeof(*process->threads));
  if (!process->threads)
    return err_sys(e, "threads");
  process->thread_count = source->thread_count;
  return tracee_ask_all(source->threads, source->thread_count, &questions, e);
}
