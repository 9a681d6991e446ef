/* The parts of an ipc namespace. Unless said otherwise all run inside it. */
#ifndef CKPT_NAMESPACE_IPC_H
#define CKPT_NAMESPACE_IPC_H

#include "namespace/namespace.h"
#include "object/sysv.h"

/* messages.c: message queues of System V, a JSON list. */
json_t *queues_dump(pid_t init, struct err *e);
int queues_restore(pid_t init, const json_t *list, struct err *e);

/* A set of semaphores of System V. */
struct semaphore_set {
  struct sysv_object object;
  uint32_t *values;
  size_t value_count;
  uint32_t *pids; /* who changed each last; 0: somebody outside or gone */
  size_t pid_count;
  struct adjustment *adjustments;
  size_t adjustment_count;
};

/* What SEM_UNDO adds to a semaphore when a process ends. */
struct adjustment {
  int32_t pid;
  uint32_t semaphore; /* its number in the set */
  int32_t value;      /* never 0 */
};
extern const struct field semaphore_set_fields[];

/* semaphores.c. Their numbers of the machine's processes become those of the members. */
int semaphores_dump(const struct namespace_owner *owner, struct semaphore_set **sets, size_t *count,
                    struct err *e);
int semaphores_restore(pid_t init, const struct semaphore_set *sets, size_t count, struct err *e);
int semaphores_finish(pid_t init, const struct semaphore_set *sets, size_t count, struct err *e);
/* adjustments.c. Not in the namespace, but by remote system calls in its members. */
int adjustments_dump(const struct namespace_owner *owner, struct semaphore_set *set, struct err *e);
int adjustments_restore(const struct namespace_owner *owner, const struct semaphore_set *set,
                        struct err *e);

/* named_queues.c: message queues that have a name (mq_overview(7)), a JSON list. */
int named_queues_check(json_t *obstacles, struct err *e);
json_t *named_queues_dump(pid_t init, struct err *e);
int named_queues_restore(pid_t init, const json_t *list, struct err *e);

#endif
