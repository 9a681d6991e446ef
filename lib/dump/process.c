/* One process, but for its memory and descriptors. */
#include "base/cleanup.h"
#include "base/io.h"
#include "dump/capture.h"
#include "tracee/seccomp.h"
#include "tracee/signals.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

static int remote(struct source *source, struct err *e, const char *what, int64_t *result,
                  long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
  if (TRACEE_CALL(&source->threads[0], e, result, number, a, b, c, d, 0, 0) < 0)
    return -1;
  if (*result < 0) {
    errno = (int)-*result;
    return err_sys(e, "%s", what);
  }
  return 0;
}

/* What only the process itself can be asked, all at once. */
enum {
  ASK_BRK,
  ASK_SECUREBITS,
  ASK_DUMPABLE,
  ASK_THP_DISABLE,
  ASK_SUBREAPER,
  ASK_MEMBARRIER,
  ASK_ITIMERS,
  ASK_SIGACTIONS = ASK_ITIMERS + ITIMER_PROF + 1,
  QUESTIONS = ASK_SIGACTIONS + 64, /* at most */
};

struct action {
  uint64_t handler, flags, restorer, mask;
};

struct sheet {
  struct remote_call calls[QUESTIONS];
  uint64_t subreaper; /* the kernel writes an int */
  struct itimerval itimers[ITIMER_PROF + 1];
  struct action actions[64];
};

/* Returns how many questions it has: signal actions as many as `signals`. */
static size_t fill_sheet(struct sheet *sheet, uint64_t area, uint64_t signals)
{
  const uint64_t subreaper = area + offsetof(struct sheet, subreaper);
  const uint64_t itimers = area + offsetof(struct sheet, itimers);
  const uint64_t actions = area + offsetof(struct sheet, actions);
  size_t count = ASK_SIGACTIONS;

  *sheet = (struct sheet){
      .calls =
          {
              [ASK_BRK] = {SYS_brk, {0}, 0},
              [ASK_SECUREBITS] = {SYS_prctl, {PR_GET_SECUREBITS}, 0},
              [ASK_DUMPABLE] = {SYS_prctl, {PR_GET_DUMPABLE}, 0},
              [ASK_THP_DISABLE] = {SYS_prctl, {PR_GET_THP_DISABLE}, 0},
              [ASK_SUBREAPER] = {SYS_prctl, {PR_GET_CHILD_SUBREAPER, subreaper}, 0},
              /* MEMBARRIER_CMD_GET_REGISTRATIONS is of Linux 6.3; before it nobody can know. */
              [ASK_MEMBARRIER] = {SYS_membarrier, {1 << 9}, 0},
          },
  };
  for (uint64_t i = ITIMER_REAL; i <= ITIMER_PROF; i++)
    sheet->calls[ASK_ITIMERS + i] =
        (struct remote_call){SYS_getitimer, {i, itimers + i * sizeof(struct itimerval)}, 0};
  for (uint64_t signal = 1; signal <= 64; signal++) {
    if (signals >> (signal - 1) & 1) {
      uint64_t action = actions + (count - ASK_SIGACTIONS) * sizeof(struct action);

      sheet->calls[count++] =
          (struct remote_call){SYS_rt_sigaction, {signal, 0, action, sizeof(uint64_t)}, 0};
    }
  }
  return count;
}

/* Returns how many questions were asked, or -1. */
static int ask(struct source *source, struct sheet *sheet, struct err *e)
{
  struct tracee *leader = &source->threads[0];
  size_t count = fill_sheet(sheet, tracee_scratch(leader),
                            source->status.sig_ignored | source->status.sig_caught);

  if (tracee_ask(leader, sheet, sizeof(*sheet), count, e) < 0)
    return -1;
  for (size_t i = 0; i < count; i++) {
    if (sheet->calls[i].result < 0 && i != ASK_MEMBARRIER) {
      errno = (int)-sheet->calls[i].result;
      return err_sys(e, "system call %d", (int)sheet->calls[i].number);
    }
  }
  return (int)count;
}

static int take_credentials(const struct capture *capture, const struct source *source,
                            const struct sheet *sheet, struct credentials *credentials,
                            struct err *e)
{
  const struct proc_status *status = &source->status;

  *credentials = (struct credentials){
      .ruid = proc_id_inside(&capture->uids, status->uid[0]),
      .euid = proc_id_inside(&capture->uids, status->uid[1]),
      .suid = proc_id_inside(&capture->uids, status->uid[2]),
      .fsuid = proc_id_inside(&capture->uids, status->uid[3]),
      .rgid = proc_id_inside(&capture->gids, status->gid[0]),
      .egid = proc_id_inside(&capture->gids, status->gid[1]),
      .sgid = proc_id_inside(&capture->gids, status->gid[2]),
      .fsgid = proc_id_inside(&capture->gids, status->gid[3]),
      .inheritable = status->cap_inheritable,
      .permitted = status->cap_permitted,
      .effective = status->cap_effective,
      .bounding = status->cap_bounding,
      .ambient = status->cap_ambient,
      .securebits = (uint32_t)sheet->calls[ASK_SECUREBITS].result,
      .no_new_privs = status->no_new_privs != 0,
      .group_count = status->group_count,
  };
  credentials->groups = calloc(status->group_count + 1, sizeof(*credentials->groups));
  if (!credentials->groups)
    return err_sys(e, "groups");
  for (size_t i = 0; i < status->group_count; i++)
    credentials->groups[i] = proc_id_inside(&capture->gids, status->groups[i]);
  return 0;
}

/* Only those that /proc shows as caught or ignored can differ from the default. */
static int take_sigactions(const struct sheet *sheet, size_t questions, struct process *process,
                           struct err *e)
{
  for (size_t i = ASK_SIGACTIONS; i < questions; i++) {
    const struct action *action = &sheet->actions[i - ASK_SIGACTIONS];
    struct sigaction_state *state =
        list_append(&process->sigactions, &process->sigaction_count, sizeof(*state));

    if (!state)
      return err_sys(e, "signal actions");
    *state = (struct sigaction_state){(int32_t)sheet->calls[i].arguments[0], action->handler,
                                      action->flags, action->restorer, action->mask};
  }
  return 0;
}

static int take_itimers(const struct sheet *sheet, struct process *process, struct err *e)
{
  for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
    struct itimerval value = sheet->itimers[which];
    struct itimer_state *state;

    /*
     * A real-time one that has expired stands still until its SIGALRM, which is pending, is
     * delivered (dequeue_signal in kernel/signal.c): it is not off.
     */
    if (which == ITIMER_REAL && !timerisset(&value.it_value))
      value.it_value = value.it_interval;
    if (!timerisset(&value.it_value))
      continue;
    state = list_append(&process->itimers, &process->itimer_count, sizeof(*state));
    if (!state)
      return err_sys(e, "interval timers");
    *state = (struct itimer_state){which, value.it_interval.tv_sec, value.it_interval.tv_usec,
                                   value.it_value.tv_sec, value.it_value.tv_usec};
  }
  return 0;
}

/* "signal: 60/00007fff86e452a8" and "notify: signal/pid.2634" of /proc/PID/timers. */
static int parse_timer(struct capture *capture, const char *text, struct posix_timer *timer,
                       struct err *e)
{
  char how[16], whom[8];
  int tid;

  if (sscanf(text, "ID: %d\nsignal: %d/%" SCNx64 "\nnotify: %15[^/]/%7[^.].%d\nClockID: %d",
             &timer->id, &timer->signal, &timer->value, how, whom, &tid, &timer->clock) != 7)
    return err_set(e, "timers: unexpected text");
  timer->notify = strcmp(how, "none") == 0     ? SIGEV_NONE
                  : strcmp(how, "thread") == 0 ? SIGEV_THREAD
                                               : SIGEV_SIGNAL;
  if (strcmp(whom, "tid") == 0) {
    CLEANUP(proc_status_free) struct proc_status status = {0};

    timer->notify |= SIGEV_THREAD_ID;
    if (proc_status_read(tid, &status, e) != 0)
      return -1;
    timer->tid = status.ns_pid[capture->depth];
  }
  return 0;
}

static int take_timer(struct source *source, struct posix_timer *timer, struct err *e)
{
  uint64_t area = tracee_scratch(&source->threads[0]);
  struct itimerspec value;
  int64_t result;

  if (remote(source, e, "timer", &result, SYS_timer_gettime, (uint64_t)timer->id, area, 0, 0) < 0 ||
      tracee_read(&source->threads[0], area, &value, sizeof(value), e) < 0)
    return -1;
  timer->interval_seconds = value.it_interval.tv_sec;
  timer->interval_nanoseconds = value.it_interval.tv_nsec;
  timer->value_seconds = value.it_value.tv_sec;
  timer->value_nanoseconds = value.it_value.tv_nsec;
  return 0;
}

static int take_timers(struct capture *capture, struct source *source, struct process *process,
                       struct err *e)
{
  AUTO_FREE char *text = NULL;

  if (proc_text(source->pid, "timers", &text, NULL, e) != 0)
    return -1;
  for (const char *at = strstr(text, "ID: "); at; at = strstr(at + 1, "\nID: ")) {
    struct posix_timer *timer;

    at += *at == '\n';
    timer = list_append(&process->timers, &process->timer_count, sizeof(*timer));
    if (!timer)
      return err_sys(e, "timers");
    if (parse_timer(capture, at, timer, e) < 0 || take_timer(source, timer, e) < 0)
      return -1;
  }
  return 0;
}

static int take_rlimits(struct source *source, struct process *process, struct err *e)
{
  uint64_t area = tracee_scratch(&source->threads[0]);

  for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
    struct rlimit_state *state =
        list_append(&process->rlimits, &process->rlimit_count, sizeof(*state));
    struct rlimit limit;
    int64_t result;

    if (!state)
      return err_sys(e, "limits");
    /* From outside where that is allowed; it always is to the process itself. */
    if (prlimit(source->pid, (__rlimit_resource_t)resource, NULL, &limit) < 0 &&
        (remote(source, e, "limits", &result, SYS_prlimit64, 0, (uint64_t)resource, 0, area) < 0 ||
         tracee_read(&source->threads[0], area, &limit, sizeof(limit), e) < 0))
      return -1;
    *state = (struct rlimit_state){resource, limit.rlim_cur, limit.rlim_max};
  }
  return 0;
}

static int take_number(pid_t pid, const char *name, int base, uint64_t *value, struct err *e)
{
  AUTO_FREE char *text = NULL;

  if (proc_text(pid, name, &text, NULL, e) != 0)
    return -1;
  *value = strtoull(text, NULL, base);
  return 0;
}

static int take_switches(const struct source *source, const struct sheet *sheet,
                         struct process *process, struct err *e)
{
  int64_t membarrier = sheet->calls[ASK_MEMBARRIER].result;
  uint64_t score;

  if (take_number(source->pid, "oom_score_adj", 10, &score, e) < 0 ||
      take_number(source->pid, "personality", 16, &process->personality, e) < 0 ||
      take_number(source->pid, "coredump_filter", 16, &process->coredump_filter, e) < 0)
    return -1;
  process->oom_score_adj = (int32_t)score;
  process->dumpable = (int32_t)sheet->calls[ASK_DUMPABLE].result;
  process->thp_disabled = sheet->calls[ASK_THP_DISABLE].result != 0;
  process->child_subreaper = sheet->subreaper != 0;
  process->membarrier = membarrier > 0 ? (uint32_t)membarrier : 0;
  return 0;
}

/* Of all threads the same: then a filter comes back with its first thread's. */
static int take_filters(struct source *source, struct process *process, struct err *e)
{
  if (source->status.seccomp == 0)
    return 0;
  if (tracee_filters(&source->threads[0], &process->filters, &process->filter_count, e) < 0)
    return -1;
  for (size_t i = 1; i < source->thread_count; i++) {
    struct seccomp_filter *filters = NULL;
    size_t count = 0;
    int result = tracee_filters(&source->threads[i], &filters, &count, e);

    if (result == 0 && (count != process->filter_count ||
                        !seccomp_filters_equal(filters, process->filters, count)))
      result = err_set(e,
                       "thread %d: its seccomp filters differ from its first thread's: cannot be "
                       "checkpointed",
                       source->threads[i].tid);
    seccomp_filters_free(filters, count);
    if (result < 0)
      return -1;
  }
  return 0;
}

static void take_numbers(const struct capture *capture, const struct source *source,
                         struct process *process)
{
  const struct proc_status *status = &source->status;

  process->pid = status->ns_pid[capture->depth];
  process->ppid = source->parent ? source->parent->status.ns_pid[capture->depth] : 0;
  process->pgid = status->ns_pgid[capture->depth];
  process->sid = status->ns_sid[capture->depth];
  process->exit_signal = source->stat.exit_signal > 0 ? source->stat.exit_signal : 0;
}

int capture_process(struct capture *capture, struct source *source, struct process *process,
                    struct err *e)
{
  struct tracee *leader = source->threads;
  struct sheet sheet;
  int questions;

  take_numbers(capture, source, process);
  if (source->zombie) {
    process->exit_code = source->stat.exit_code;
    process->state = strdup("zombie");
    return process->state ? 0 : err_sys(e, "state");
  }
  process->state = strdup(leader->group_stopped ? "stopped" : "running");
  process->umask = source->status.umask;
  process->mm = source->mm;
  if (!process->state)
    return err_sys(e, "state");
  questions = ask(source, &sheet, e);
  if (questions < 0)
    return -1;
  source->brk = (uint64_t)sheet.calls[ASK_BRK].result;
  if (take_credentials(capture, source, &sheet, &process->credentials, e) < 0 ||
      take_sigactions(&sheet, (size_t)questions, process, e) < 0 ||
      take_itimers(&sheet, process, e) < 0 || take_timers(capture, source, process, e) < 0 ||
      take_rlimits(source, process, e) < 0 || take_switches(source, &sheet, process, e) < 0 ||
      take_filters(source, process, e) < 0 ||
      tracee_pending(leader, true, &process->pending, &process->pending_count, e) < 0)
    return -1;
  return capture_threads(source, process, e);
}
