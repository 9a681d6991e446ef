#include "base/policy.h"

#include <stdbool.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_real_time(int policy)
{
  policy &= ~SCHED_RESET_ON_FORK;
  return policy != SCHED_OTHER && policy != SCHED_BATCH && policy != SCHED_IDLE;
}

void policy_hurry(struct policy *before)
{
  const struct sched_param lowest = {.sched_priority = 1};
  struct rlimit limit;

  before->policy = sched_getscheduler(0);
  sched_getparam(0, &before->priority);
  before->nice = getpriority(PRIO_PROCESS, 0);
  if (is_real_time(before->policy))
    return; /* before others already */
  /* Who may be real-time for a while only would be killed. */
  if (getrlimit(RLIMIT_RTTIME, &limit) < 0 || limit.rlim_cur != RLIM_INFINITY ||
      sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) < 0)
    setpriority(PRIO_PROCESS, 0, -20);
}

void policy_calm(const struct policy *before)
{
  if (is_real_time(before->policy))
    return;
  sched_setscheduler(0, before->policy | SCHED_RESET_ON_FORK, &before->priority);
  setpriority(PRIO_PROCESS, 0, before->nice);
}

void policy_batch(void)
{
  const struct sched_param none = {0};
  int policy = sched_getscheduler(0);
  int flag = policy & SCHED_RESET_ON_FORK;

  if (policy >= 0 && (policy & ~flag) == SCHED_OTHER)
    sched_setscheduler(0, SCHED_BATCH | flag, &none);
}

int policy_get(pid_t tid, struct policy_attributes *attributes)
{
  *attributes = (struct policy_attributes){0};
  return (int)syscall(SYS_sched_getattr, tid, attributes, sizeof(*attributes), 0);
}

int policy_set(pid_t tid, struct policy_attributes *attributes)
{
  attributes->size = sizeof(*attributes);
  return (int)syscall(SYS_sched_setattr, tid, attributes, 0);
}
