/* The namespaces of a ckpt-run container: pid and mount, with a /proc of its own. */
#ifndef CKPT_CONTAINER_SANDBOX_H
#define CKPT_CONTAINER_SANDBOX_H

#include "base/err.h"

#include <sys/types.h>

/* How our effective user and group are called in a user namespace that has no others. */
struct sandbox_ids {
  uid_t uid;
  gid_t gid;
};

/*
 * Makes a process that is the first of a new pid namespace and leads a new session, and in it calls
 * child(argument); what that returns is the exit status. With ids it is in a new user namespace,
 * too: that needs no privilege, and the process has all capabilities there until it executes a
 * program (user_namespaces(7)). Returns its pid here, or -1 with e set, also when the namespaces
 * could not be set up.
 */
pid_t sandbox_clone(const struct sandbox_ids *ids, int (*child)(void *), void *argument,
                    struct err *e);

#endif
