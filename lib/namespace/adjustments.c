/*
 * What SEM_UNDO of semop(2) adds to semaphores when a process ends. The kernel shows it nowhere,
 * but an operation that would take the sum out of its range fails with ERANGE, and one that fails
 * changes nothing (perform_atomic_semop in ipc/sem.c). So the process itself tries: operations that
 * move the sum close to an end of its range and end in one that cannot succeed.
 */
#include "base/cleanup.h"
#include "namespace/ipc.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <stdio.h>
#include <sys/sem.h>
#include <sys/syscall.h>

enum {
  VALUE_MAX = 32767,        /* SEMVMX; the sum is at most this */
  SUM_MIN = -VALUE_MAX - 1, /* and at least this */
  OPERATIONS = 6,
};

/* Operations on one semaphore, made at once or not at all. */
struct attempt {
  struct sembuf operations[OPERATIONS];
  size_t count;
};

static void operate(struct attempt *attempt, uint32_t semaphore, int change, int flags)
{
  if (change) /* 0 would wait for the value 0 */
    attempt->operations[attempt->count++] =
        (struct sembuf){(unsigned short)semaphore, (short)change, (short)(flags | IPC_NOWAIT)};
}

static int run(struct tracee *tracee, int id, const struct attempt *attempt, int64_t *result,
               struct err *e)
{
  uint64_t area = tracee_scratch(tracee);

  if (tracee_write(tracee, area, attempt->operations, sizeof(attempt->operations), e) < 0)
    return -1;
  return TRACEE_CALL(tracee, e, result, SYS_semop, (uint64_t)id, area, attempt->count, 0, 0, 0);
}

/* Is the sum at least `least`, which is positive? Or, when that is negative: is it at most that? */
static int reaches(struct tracee *tracee, const struct semaphore_set *set, uint32_t semaphore,
                   int least, struct err *e)
{
  struct attempt attempt = {.count = 0};
  int value = (int)set->values[semaphore];
  int64_t result;

  if (least > 0) { /* sum + (VALUE_MAX + 1 - least) is above the range if it is */
    operate(&attempt, semaphore, VALUE_MAX - value, 0);
    operate(&attempt, semaphore, -(VALUE_MAX + 1 - least), SEM_UNDO);
  } else {
    int push = -(SUM_MIN - 1 - least);
    int first = push > VALUE_MAX ? VALUE_MAX : push;

    operate(&attempt, semaphore, -value, 0);
    operate(&attempt, semaphore, first, SEM_UNDO);
    if (push > first) {
      operate(&attempt, semaphore, -(push - first), 0);
      operate(&attempt, semaphore, push - first, SEM_UNDO);
    }
  }
  operate(&attempt, semaphore, SUM_MIN, 0); /* no value is that high */
  if (run(tracee, set->object.id, &attempt, &result, e) < 0)
    return -1;
  if (result == -ERANGE || result == -EAGAIN)
    return result == -ERANGE;
  errno = result < 0 ? (int)-result : EPROTO;
  return err_sys(e,
                 "cannot be checkpointed: what it owes to semaphores (SEM_UNDO) cannot be asked");
}

/* The sum of one semaphore: 0 as a rule, which takes two questions. */
static int find_sum(struct tracee *tracee, const struct semaphore_set *set, uint32_t semaphore,
                    int *sum, struct err *e)
{
  int sign = 1;
  int low = 1; /* it reaches this */
  int high;
  int result = reaches(tracee, set, semaphore, 1, e);

  *sum = 0;
  if (result == 0) {
    sign = -1;
    result = reaches(tracee, set, semaphore, -1, e);
  }
  if (result <= 0)
    return result;
  high = sign > 0 ? VALUE_MAX : -SUM_MIN;
  while (low < high) {
    int middle = low + (high - low + 1) / 2;

    result = reaches(tracee, set, semaphore, sign * middle, e);
    if (result < 0)
      return -1;
    if (result)
      low = middle;
    else
      high = middle - 1;
  }
  *sum = sign * low;
  return 0;
}

static bool has_same_list(pid_t one, pid_t two)
{
  return syscall(SYS_kcmp, one, two, KCMP_SYSVSEM, 0, 0) == 0;
}

/* Threads have one, though it is empty as a rule; we give ours up, and have none. */
static bool has_list(pid_t pid)
{
  unshare(CLONE_SYSVSEM);
  return !has_same_list(getpid(), pid);
}

static int ask_member(const struct namespace_member *member, struct semaphore_set *set,
                      struct err *e)
{
  for (uint32_t i = 0; i < set->value_count; i++) {
    struct adjustment *adjustment;
    int sum;

    if (find_sum(&member->threads[0], set, i, &sum, e) < 0)
      return -1;
    if (sum == 0)
      continue;
    adjustment = list_append(&set->adjustments, &set->adjustment_count, sizeof(*adjustment));
    if (!adjustment)
      return err_sys(e, "adjustments");
    *adjustment = (struct adjustment){member->number, i, sum};
  }
  return 0;
}

/* One list for all threads of a process, and for no other process: as it comes back. */
static int check_sharing(const struct namespace_owner *owner, size_t index, struct err *e)
{
  const struct namespace_member *member = &owner->members[index];
  pid_t pid = member->threads[0].pid;

  for (size_t i = 1; i < member->thread_count; i++) {
    if (!has_same_list(pid, member->threads[i].tid))
      return err_set(e, "thread %d: has semaphore adjustments of its own: cannot be checkpointed",
                     member->threads[i].tid);
  }
  for (size_t i = 0; i < index && has_list(pid); i++) {
    if (has_same_list(pid, owner->members[i].threads[0].pid))
      return err_set(e,
                     "shares its semaphore adjustments (CLONE_SYSVSEM) with pid %d: cannot be "
                     "checkpointed",
                     owner->members[i].threads[0].pid);
  }
  return 0;
}

int adjustments_dump(const struct namespace_owner *owner, struct semaphore_set *set, struct err *e)
{
  for (size_t i = 0; i < owner->member_count; i++) {
    const struct namespace_member *member = &owner->members[i];

    if (check_sharing(owner, i, e) < 0 ||
        (has_list(member->threads[0].pid) && ask_member(member, set, e) < 0))
      return err_prefix(e, "pid %d: semaphore set %d", member->threads[0].pid, set->object.id);
  }
  return 0;
}

static const struct namespace_member *member_of(const struct namespace_owner *owner, int32_t number)
{
  for (size_t i = 0; i < owner->member_count; i++) {
    if (owner->members[i].number == number)
      return &owner->members[i];
  }
  return NULL;
}

static int succeed(const struct namespace_member *member, int id, const struct attempt *attempt,
                   struct err *e)
{
  int64_t result;

  if (run(&member->threads[0], id, attempt, &result, e) < 0)
    return -1;
  if (result < 0) {
    errno = (int)-result;
    return err_sys(e, "pid %d: semaphore set %d", member->number, id);
  }
  return 0;
}

/*
 * Up and down, or down and up, whatever the value has room for: it stays, and the one who does it
 * is the one who changed it last. The part with SEM_UNDO goes against the sum.
 */
static void balance(struct attempt *attempt, uint32_t semaphore, int value, int sum)
{
  int size = sum > 0 ? sum : -sum;
  int up_flags = sum > 0 ? 0 : SEM_UNDO;
  int down_flags = sum > 0 ? SEM_UNDO : 0;

  if (value < size)
    operate(attempt, semaphore, size, up_flags);
  operate(attempt, semaphore, -size, down_flags);
  if (value >= size)
    operate(attempt, semaphore, size, up_flags);
}

static int adjust(const struct namespace_owner *owner, const struct semaphore_set *set,
                  const struct adjustment *adjustment, struct err *e)
{
  enum { STEP = VALUE_MAX / 2 }; /* for one of the two ways there is room */
  const struct namespace_member *member = member_of(owner, adjustment->pid);
  int left = adjustment->value;

  if (!member)
    return err_set(e, "semaphore set %d: pid %d is not there", set->object.id, adjustment->pid);
  while (left) {
    int step = left > STEP ? STEP : left < -STEP ? -STEP : left;
    struct attempt attempt = {.count = 0};

    balance(&attempt, adjustment->semaphore, (int)set->values[adjustment->semaphore], step);
    if (succeed(member, set->object.id, &attempt, e) < 0)
      return -1;
    left -= step;
  }
  return 0;
}

/* The value goes up and down by 1, without SEM_UNDO. */
static int touch(const struct namespace_owner *owner, const struct semaphore_set *set,
                 uint32_t semaphore, struct err *e)
{
  const struct namespace_member *member = member_of(owner, (int32_t)set->pids[semaphore]);
  struct attempt attempt = {.count = 0};
  int first = set->values[semaphore] ? -1 : 1;

  if (!member)
    return err_set(e, "semaphore set %d: pid %u is not there", set->object.id,
                   set->pids[semaphore]);
  operate(&attempt, semaphore, first, 0);
  operate(&attempt, semaphore, -first, 0);
  return succeed(member, set->object.id, &attempt, e);
}

int adjustments_restore(const struct namespace_owner *owner, const struct semaphore_set *set,
                        struct err *e)
{
  for (size_t i = 0; i < set->adjustment_count; i++) {
    if (adjust(owner, set, &set->adjustments[i], e) < 0)
      return -1;
  }
  for (uint32_t i = 0; i < set->value_count; i++) {
    if (set->pids[i] && touch(owner, set, i, e) < 0)
      return -1;
  }
  return 0;
}
