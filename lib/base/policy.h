/* How the kernel schedules us: sched(7). All of it is a wish; what is refused makes us slower only.
 */
#ifndef CKPT_BASE_POLICY_H
#define CKPT_BASE_POLICY_H

#include <sched.h>

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

/* As it was. Who has no CAP_SYS_NICE keeps the flag that children do not inherit it; it does no
 * harm. */
void policy_calm(const struct policy *before);

/*
 * A stage of a pipeline (SCHED_BATCH), for this thread and those that it starts: who is woken by
 * its neighbour does not interrupt it, and so they take turns when a pipe is full or empty, not at
 * each frame. A policy that was chosen for us stays.
 */
void policy_batch(void);

#endif
