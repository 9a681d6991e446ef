/*
 * Something that must be undone if we do not come to its end, whatever ends us: a process of ours
 * does it, waits for our end, and undoes it unless it is told that all went well. It heeds no
 * signal, and none that is sent to our process group reaches it.
 */
#ifndef CKPT_BASE_GUARD_H
#define CKPT_BASE_GUARD_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

struct guard {
  pid_t pid; /* 0: there is none */
  int pipe;
};

struct guarded {
  int (*act)(void *context, struct err *e);  /* on failure there is nothing to undo */
  int (*undo)(void *context, struct err *e); /* its failure is reported as a warning */
  void *context;
};

/* Has it done, in the other process, which has none of our descriptors but standard error. */
int guard_start(struct guard *guard, const struct guarded *what, struct err *e);

/* All went well, or it is to be undone now; returns when it is. Without a guard nothing. */
void guard_end(struct guard *guard, bool well);

#endif
