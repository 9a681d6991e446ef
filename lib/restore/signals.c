/* Signal actions, pending signals, timers. */
#include "restore/batch.h"
#include "restore/rebuild.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77 /* Linux 6.16 */
#endif

enum { TIMER_ID_TRIES = 100000 };

/* The kernel's struct sigaction, which is not the C library's. */
struct kernel_sigaction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

static int set_action(struct batch *batch, int signal, const struct kernel_sigaction *action,
                      struct err *e)
{
  uint64_t area;

  if (batch_data(batch, action, sizeof(*action), &area, e) < 0)
    return -1;
  return BATCH_CALL(batch, e, "signal action", SYS_rt_sigaction, (uint64_t)signal, area, 0,
                    sizeof(action->mask));
}

/* Behind the last batch, as each puts this one's action back: by a call of its own. */
static int set_trap_action(struct tracee *tracee, const struct kernel_sigaction *action,
                           struct err *e)
{
  uint64_t area = tracee_scratch(tracee);

  if (tracee_write(tracee, area, action, sizeof(*action), e) < 0)
    return -1;
  return call(tracee, e, "signal action", NULL, SYS_rt_sigaction, SIGTRAP, area, 0,
              sizeof(action->mask), 0, 0);
}

static int set_actions(const struct process *process, struct tracee *leader, struct err *e)
{
  struct batch batch = {.tracee = leader};
  const struct kernel_sigaction ignored = {.handler = 1};
  const struct kernel_sigaction none = {.handler = 0};
  struct kernel_sigaction trap = none;

  /* What rebuilding made pending (children that ended) is dropped: ignoring a signal does it. */
  if (set_action(&batch, SIGCHLD, &ignored, e) < 0 || set_action(&batch, SIGCHLD, &none, e) < 0)
    return -1;
  for (size_t i = 0; i < process->sigaction_count; i++) {
    const struct sigaction_state *state = &process->sigactions[i];
    struct kernel_sigaction action = {state->handler, state->flags, state->restorer, state->mask};

    if (state->signal == SIGTRAP)
      trap = action;
    else if (set_action(&batch, state->signal, &action, e) < 0)
      return -1;
  }
  if (batch_run(&batch, e) < 0)
    return -1;
  return memcmp(&trap, &none, sizeof(trap)) == 0 ? 0 : set_trap_action(leader, &trap, e);
}

/* rt_sigqueueinfo (whole process) or rt_tgsigqueueinfo (one thread), by itself to itself. */
static int queue_signal(struct tracee *tracee, int32_t pid, int32_t tid,
                        const struct pending_signal *pending, struct err *e)
{
  uint64_t area = tracee_scratch(tracee);
  siginfo_t info;

  if (pending->siginfo.size != sizeof(info))
    return err_set(e, "pending signal of %zu bytes", pending->siginfo.size);
  memcpy(&info, pending->siginfo.data, sizeof(info));
  if (tracee_write(tracee, area, &info, sizeof(info), e) < 0)
    return -1;
  if (tid)
    return call(tracee, e, "pending signal", NULL, SYS_rt_tgsigqueueinfo, (uint64_t)pid,
                (uint64_t)tid, (uint64_t)info.si_signo, area, 0, 0);
  return call(tracee, e, "pending signal", NULL, SYS_rt_sigqueueinfo, (uint64_t)pid,
              (uint64_t)info.si_signo, area, 0, 0, 0);
}

int rebuild_signals(struct rebuilt *which, struct err *e)
{
  const struct process *process = which->process;
  struct tracee *leader = &which->threads[0];

  if (set_actions(process, leader, e) < 0)
    return -1;
  for (size_t i = 0; i < process->pending_count; i++) {
    if (queue_signal(leader, process->pid, 0, &process->pending[i], e) < 0)
      return -1;
  }
  for (size_t k = 0; k < process->thread_count; k++) {
    const struct thread *thread = &process->threads[k];

    for (size_t i = 0; i < thread->pending_count; i++) {
      if (queue_signal(&which->threads[k], process->pid, thread->tid, &thread->pending[i], e) < 0)
        return -1;
    }
  }
  return 0;
}

/* The kernel's struct sigevent, with SIGEV_THREAD_ID's thread. */
struct kernel_sigevent {
  uint64_t value;
  int32_t signal;
  int32_t notify;
  int32_t tid;
  int32_t padding[11];
};

static int create_timer(struct tracee *tracee, const struct posix_timer *timer, int32_t *id,
                        struct err *e)
{
  uint64_t area = tracee_scratch(tracee);
  struct {
    struct kernel_sigevent event;
    int32_t id;
  } argument = {
      .event = {.value = timer->value,
                .signal = timer->signal,
                .notify = timer->notify,
                .tid = timer->tid},
      .id = timer->id,
  };

  if (tracee_write(tracee, area, &argument, sizeof(argument), e) < 0 ||
      call(tracee, e, "timer_create", NULL, SYS_timer_create, (uint64_t)timer->clock, area,
           area + offsetof(__typeof__(argument), id), 0, 0, 0) < 0)
    return -1;
  return tracee_read(tracee, area + offsetof(__typeof__(argument), id), id, sizeof(*id), e);
}

/*
 * A timer with the id that it had. Kernels from 6.16 on take it from us; on others ids count up,
 * so timers are made and deleted until its turn comes.
 */
static int restore_timer(struct tracee *tracee, const struct posix_timer *timer, struct err *e)
{
  for (int i = 0; i < TIMER_ID_TRIES; i++) {
    int32_t id;

    if (create_timer(tracee, timer, &id, e) < 0)
      return -1;
    if (id == timer->id)
      return 0;
    if (call(tracee, e, "timer_delete", NULL, SYS_timer_delete, (uint64_t)id, 0, 0, 0, 0, 0) < 0)
      return -1;
    if (id > timer->id)
      break;
  }
  return err_set(e, "timer %d cannot get its id", timer->id);
}

static int arm_timer(struct tracee *tracee, const struct posix_timer *timer, struct err *e)
{
  uint64_t area = tracee_scratch(tracee);
  struct itimerspec value = {
      .it_interval = {timer->interval_seconds, timer->interval_nanoseconds},
      .it_value = {timer->value_seconds, timer->value_nanoseconds},
  };

  if (tracee_write(tracee, area, &value, sizeof(value), e) < 0)
    return -1;
  return call(tracee, e, "timer_settime", NULL, SYS_timer_settime, (uint64_t)timer->id, 0, area, 0,
              0, 0);
}

static int set_itimer(struct tracee *tracee, const struct itimer_state *state, struct err *e)
{
  uint64_t area = tracee_scratch(tracee);
  struct itimerval value = {
      .it_interval = {state->interval_seconds, state->interval_microseconds},
      .it_value = {state->value_seconds, state->value_microseconds},
  };

  if (tracee_write(tracee, area, &value, sizeof(value), e) < 0)
    return -1;
  return call(tracee, e, "setitimer", NULL, SYS_setitimer, (uint64_t)state->which, area, 0, 0, 0,
              0);
}

int rebuild_timers(struct rebuilt *which, struct err *e)
{
  const struct process *process = which->process;
  struct tracee *leader = &which->threads[0];
  int64_t ignored;

  if (process->timer_count &&
      TRACEE_CALL(leader, e, &ignored, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0, 0) < 0)
    return -1;
  for (size_t i = 0; i < process->timer_count; i++) {
    if (restore_timer(leader, &process->timers[i], e) < 0 ||
        arm_timer(leader, &process->timers[i], e) < 0)
      return -1;
  }
  if (process->timer_count &&
      TRACEE_CALL(leader, e, &ignored, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0, 0) < 0)
    return -1;
  for (size_t i = 0; i < process->itimer_count; i++) {
    if (set_itimer(leader, &process->itimers[i], e) < 0)
      return -1;
  }
  return 0;
}
