/*
 * How the kernel schedules us, and others: sched(7). What we ask for ourselves may be refused; then
 * we are slower.
 */
#ifndef CKPT_BASE_POLICY_H
#define CKPT_BASE_POLICY_H

#include <sched.h>
#include <stdint.h>
#include <sys/types.h>

/* What we were before we hurried. */
struct policy {
  int policy, nice;
  struct sched_param priority;
};

/*
 * Somebody stands still until we are done: this thread goes before others if it may, as a real time
 * one, so that none that it wakes takes its processor from it, or else by its nice value. Children
 * do not inherit it.
 */
void policy_hurry(struct policy *before);

/*
 * As it was. Who has no CAP_SYS_NICE keeps the flag that children do not inherit it; it does no
 * harm.
 */
void policy_calm(const struct policy *before);

/*
 * A stage of a pipeline (SCHED_BATCH), for this thread and those that it starts: who is woken by
 * its neighbour does not interrupt it, and so they take turns when a pipe is full or empty, not at
 * each frame. A policy that was chosen for us stays.
 */
void policy_batch(void);

/* What sched_getattr(2) and sched_setattr(2) take, as the kernel has it. */
struct policy_attributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period; /* ns */
};

/* Those of a thread. Return 0, or -1 with errno set; policy_set fills in the size. */
int policy_get(pid_t tid, struct policy_attributes *attributes);
int policy_set(pid_t tid, struct policy_attributes *attributes);

#endif
