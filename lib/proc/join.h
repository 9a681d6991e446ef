/* Into the namespaces of another process: setns(2). */
#ifndef CKPT_PROC_JOIN_H
#define CKPT_PROC_JOIN_H

#include "base/err.h"

#include <sys/types.h>

/*
 * Joins those namespaces of a process that `kinds` names (CLONE_NEW*) and that are not ours
 * already, all at once; as its user namespace's root, where we join that one. A pid namespace is
 * that of children to come. We must have one thread.
 */
int join_namespaces(pid_t pid, int kinds, struct err *e);

/*
 * An ordinary user has no capability over a namespace of a container of his before he is in the
 * user namespace that owns it: joins that of the process, if it is not ours, and stays who he is.
 * Root does not need to. We must have one thread.
 */
int join_owner(pid_t pid, struct err *e);

#endif
