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

#endif
