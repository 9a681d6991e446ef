/* How much more a process may use: its cgroups' limits (v1 and v2) and the machine's memory. */
#ifndef CKPT_DUMP_HEADROOM_H
#define CKPT_DUMP_HEADROOM_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct headroom {
  uint64_t
      memory;    /* bytes that can be had before somebody's limit; the page cache counts as free */
  uint64_t pids; /* processes and threads, UINT64_MAX without a limit */
};

/* The directories of a process's control groups, from its own up to the top of each hierarchy. */
struct headroom_place;
struct headroom_places {
  struct headroom_place *items;
  size_t count;
};

/*
 * Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids}.rst. What cannot be read is
 * no limit. Return 0, -1 with e set: the process is gone.
 */
int headroom_find(pid_t pid, struct headroom_places *places, struct err *e);
int headroom_read(const struct headroom_places *places, struct headroom *headroom, struct err *e);
void headroom_forget(struct headroom_places *places);

#endif
