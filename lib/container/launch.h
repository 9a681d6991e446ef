/* Running a command as a container: what ckpt-run does. */
#ifndef CKPT_CONTAINER_LAUNCH_H
#define CKPT_CONTAINER_LAUNCH_H

#include "base/err.h"

#include <stdbool.h>

struct launch {
  const char *registry; /* NULL: the default */
  const char *id;
  char **command; /* argv, ends with NULL */
  bool detach;
};

/*
 * Starts and registers it. Detached: returns 0 as soon as the command was executed. Otherwise
 * returns its exit status (128 and the number of the signal that ended it) when it is gone, and the
 * id with it. -1 with e set when it could not be started; nothing is left then.
 */
int launch_run(const struct launch *launch, struct err *e);

/* Waits for a child, passing on SIGINT, SIGTERM, SIGHUP and SIGQUIT; its exit status as above. */
int launch_wait(int pid, struct err *e);

/* Removes a container that is stopped, or with force ends it first. */
int launch_delete(const char *registry, const char *id, bool force, struct err *e);

#endif
