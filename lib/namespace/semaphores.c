/* Sets of semaphores of System V (semctl(2)): their values, and who changed each last. */
#include "base/cleanup.h"
#include "namespace/ipc.h"

#include <errno.h>
#include <string.h>
#include <sys/sem.h>

enum { VALUE_MAX = 32767 }; /* SEMVMX */

static const struct field adjustment_fields[] = {
    F_SIGNED(struct adjustment, pid),
    F_UNSIGNED(struct adjustment, semaphore),
    F_SIGNED(struct adjustment, value),
    F_END,
};

const struct field semaphore_set_fields[] = {
    F_STRUCT(struct semaphore_set, object, sysv_fields),
    F_NUMBERS(struct semaphore_set, values, value_count),
    F_NUMBERS(struct semaphore_set, pids, pid_count),
    F_LIST(struct semaphore_set, adjustments, adjustment_count, adjustment_fields),
    F_END,
};

union argument {
  int value;
  struct semid_ds *stat;
  unsigned short *values;
  struct seminfo *info;
};

static uint32_t number_of(const struct namespace_owner *owner, pid_t pid)
{
  for (size_t i = 0; i < owner->member_count; i++) {
    if (owner->members[i].threads[0].pid == pid)
      return (uint32_t)owner->members[i].number;
  }
  return 0;
}

static int read_set(const struct namespace_owner *owner, struct semaphore_set *set, size_t count,
                    struct err *e)
{
  AUTO_FREE unsigned short *values = calloc(count + 1, sizeof(*values));

  set->values = calloc(count + 1, sizeof(*set->values));
  set->pids = calloc(count + 1, sizeof(*set->pids));
  if (!values || !set->values || !set->pids)
    return err_sys(e, "values");
  if (semctl(set->object.id, 0, GETALL, (union argument){.values = values}) < 0)
    return err_sys(e, "values");
  set->value_count = set->pid_count = count;
  for (size_t i = 0; i < count; i++) {
    int pid = semctl(set->object.id, (int)i, GETPID);

    if (pid < 0)
      return err_sys(e, "semaphore %zu", i);
    set->values[i] = values[i];
    set->pids[i] = number_of(owner, pid);
  }
  return 0;
}

int semaphores_dump(const struct namespace_owner *owner, struct semaphore_set **sets, size_t *count,
                    struct err *e)
{
  struct seminfo info;
  int highest = semctl(0, 0, SEM_INFO, (union argument){.info = &info});

  for (int i = 0; i <= highest; i++) {
    struct semid_ds stat = {0};
    int id = semctl(i, 0, SEM_STAT, (union argument){.stat = &stat});
    struct semaphore_set *set;

    if (id < 0)
      continue; /* no set has this index */
    set = list_append(sets, count, sizeof(*set));
    if (!set)
      return err_sys(e, "semaphores");
    if (sysv_to_image(owner->init, id, &stat.sem_perm, &set->object, e) < 0 ||
        read_set(owner, set, stat.sem_nsems, e) < 0)
      return err_prefix(e, "semaphore set %d", id);
  }
  return 0;
}

static int make_set(key_t key, int flags, const void *context)
{
  const struct semaphore_set *set = context;

  return semget(key, (int)set->value_count, flags);
}

static int check_set(const struct semaphore_set *set, struct err *e)
{
  if (set->value_count == 0 || set->value_count > INT16_MAX || set->pid_count != set->value_count)
    return err_set(e, "semaphore set %d: %zu semaphores", set->object.id, set->value_count);
  for (size_t i = 0; i < set->value_count; i++) {
    if (set->values[i] > VALUE_MAX)
      return err_set(e, "semaphore set %d: value %u", set->object.id, set->values[i]);
  }
  for (size_t i = 0; i < set->adjustment_count; i++) {
    const struct adjustment *adjustment = &set->adjustments[i];

    if (adjustment->semaphore >= set->value_count || adjustment->value == 0 ||
        adjustment->value < -VALUE_MAX - 1 || adjustment->value > VALUE_MAX)
      return err_set(e, "semaphore set %d: adjustment of semaphore %u by %d", set->object.id,
                     adjustment->semaphore, adjustment->value);
  }
  return 0;
}

static int restore_set(pid_t init, const struct semaphore_set *set, struct err *e)
{
  AUTO_FREE unsigned short *values = calloc(set->value_count + 1, sizeof(*values));
  struct sysv_object owner;

  if (!values)
    return err_sys(e, "values");
  if (check_set(set, e) < 0 || sysv_from_image(init, &set->object, &owner, e) < 0 ||
      sysv_make("sem", &owner, make_set, set, e) < 0)
    return -1;
  for (size_t i = 0; i < set->value_count; i++)
    values[i] = (unsigned short)set->values[i];
  if (semctl(owner.id, 0, SETALL, (union argument){.values = values}) < 0)
    return err_sys(e, "semaphore set %d: values", owner.id);
  return 0;
}

int semaphores_restore(pid_t init, const struct semaphore_set *sets, size_t count, struct err *e)
{
  for (size_t i = 0; i < count; i++) {
    if (restore_set(init, &sets[i], e) < 0)
      return -1;
  }
  return 0;
}

int semaphores_finish(pid_t init, const struct semaphore_set *sets, size_t count, struct err *e)
{
  for (size_t i = 0; i < count; i++) {
    struct semid_ds stat = {0};
    struct sysv_object owner;

    if (sysv_from_image(init, &sets[i].object, &owner, e) < 0)
      return -1;
    sysv_set_owner(&owner, &stat.sem_perm);
    if (semctl(owner.id, 0, IPC_SET, (union argument){.stat = &stat}) < 0)
      return err_sys(e, "semaphore set %d: owner", owner.id);
  }
  return 0;
}
