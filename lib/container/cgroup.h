/*
 * Control groups (cgroups(7); Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst,
 * Documentation/admin-guide/cgroup-v2.rst), whichever of v1, v2 or both the machine has.
 */
#ifndef CKPT_CONTAINER_CGROUP_H
#define CKPT_CONTAINER_CGROUP_H

#include "base/err.h"
#include "proc/proc.h"

#include <stdbool.h>
#include <sys/types.h>

/*
 * The directory of the group by which the container of this process is told from other processes:
 * of the freezer, else of another hierarchy. *path is the caller's to free; NULL when the process
 * is in no group of its own.
 */
int cgroup_find(pid_t pid, char **path, struct err *e);

/*
 * The directory of the process's group in the hierarchy of a controller, "" for v2's; its first
 * *top bytes are the mount's. *path is the caller's to free; NULL when there is no such hierarchy.
 */
int cgroup_directory(pid_t pid, const char *controller, char **path, size_t *top, struct err *e);

/* Every process in the group and the groups below it. One that is gone has none. */
int cgroup_members(const char *path, struct proc_list *members, struct err *e);

/* Has the group itself been told to stand still? */
bool cgroup_is_frozen(const char *path);
/* Or one above it? */
bool cgroup_is_frozen_above(const char *path);
/* Freezing waits until all stand. Thawing returns at once. */
int cgroup_freeze(const char *path, bool frozen, struct err *e);

/* Puts a process into all the groups that another one is in. */
int cgroup_join(pid_t pid, pid_t other, struct err *e);

#endif
