/* What can only be asked or changed inside a namespace of another process (setns(2)). */
#ifndef CKPT_PROC_INSIDE_H
#define CKPT_PROC_INSIDE_H

#include "base/err.h"

#include <sys/types.h>

typedef int inside_function(void *argument, struct err *e);

/*
 * A thread of ours enters, does it, and ends, which takes microseconds: calls function(argument) in
 * the namespace of kind "ipc", "net" or "uts" of a process; pid 0: in a new one that nobody has
 * touched. Returns what it returns, or -1 with e set.
 */
int inside(pid_t pid, const char *kind, inside_function *function, void *argument, struct err *e);

/*
 * The same in all of these and in its user, mount and pid namespace, as root, from which there is
 * no way back: in a forked child, with a copy of our memory. Only success or the error come back,
 * also when the child died.
 */
int inside_all(pid_t pid, inside_function *function, void *argument, struct err *e);

/* As another user for a moment: what is made then has that one as its maker. */
struct identity {
  uid_t uid;
  gid_t gid;
  int dumpable;
};
int identity_take(struct identity *before, uid_t uid, gid_t gid, struct err *e);
int identity_return(const struct identity *before, struct err *e);

#endif
