/*
 * What can only be asked or changed inside a namespace of another process: a function of ours runs
 * in a forked child that has entered it (setns(2)), and its result comes back.
 */
#ifndef CKPT_PROC_INSIDE_H
#define CKPT_PROC_INSIDE_H

#include "base/err.h"

#include <jansson.h>
#include <sys/types.h>

/* Returns a new value, or NULL with e set. *fd starts as -1: a descriptor to be passed back. */
typedef json_t *inside_function(void *argument, int *fd, struct err *e);

/*
 * Runs the function in the namespace of kind "ipc", "net" or "uts" of a process; kind NULL: in all
 * of these and in its user, mount and pid namespace, as root; pid 0: in a new one of the kind that
 * nobody has touched. The function sees a copy of our memory. Returns its value (the
 * caller's), or NULL with e set, also when the child died. fd: gets the descriptor that it passed
 * back, or -1; NULL: it passes none.
 */
json_t *inside_run(pid_t pid, const char *kind, inside_function *function, void *argument, int *fd,
                   struct err *e);

/* The same for functions of which only success matters. */
int inside_do(pid_t pid, const char *kind, inside_function *function, void *argument,
              struct err *e);

#endif
