/* New processes in a container that runs: as `runc exec` does it. */
#ifndef CKPT_CONTAINER_ENTER_H
#define CKPT_CONTAINER_ENTER_H

#include "base/err.h"

#include <sys/types.h>

/*
 * Makes a child of ours with the given number in the pid namespace of `init`, in those of its
 * namespaces that `kinds` names (CLONE_NEW*; only where they differ from ours) and as its user
 * namespace's root; in it calls child(argument), whose result is the exit status. With CLONE_NEWNS
 * it also joins all its control groups. Returns its pid here, or -1 with e set: EEXIST when the
 * number is taken.
 */
pid_t enter_clone(pid_t init, int kinds, pid_t number, int (*child)(void *), void *argument,
                  struct err *e);

#endif
