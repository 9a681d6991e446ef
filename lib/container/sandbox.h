/* The namespaces of a ckpt-run container: pid and mount, with a /proc of its own. */
#ifndef CKPT_CONTAINER_SANDBOX_H
#define CKPT_CONTAINER_SANDBOX_H

#include "base/err.h"

#include <sys/types.h>

/*
 * Makes a process that is the first of a new pid namespace and leads a new session, and in it calls
 * child(argument); what that returns is the exit status. Returns its pid here, or -1 with e set,
 * also when the namespaces could not be set up.
 */
pid_t sandbox_clone(int (*child)(void *), void *argument, struct err *e);

#endif
