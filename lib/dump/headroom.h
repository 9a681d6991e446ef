/* How much more a process may use: its cgroups' limits (v1 and v2) and the machine's memory. */
#ifndef CKPT_DUMP_HEADROOM_H
#define CKPT_DUMP_HEADROOM_H

#include "base/err.h"

#include <stdint.h>
#include <sys/types.h>

struct headroom {
  uint64_t
      memory;    /* bytes that can be had before somebody's limit; the page cache counts as free */
  uint64_t pids; /* processes and threads, UINT64_MAX without a limit */
};

/*
 * Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids}.rst. What cannot be read is
 * no limit. Returns 0, -1 with e set when the process is gone.
 */
int headroom_read(pid_t pid, struct headroom *headroom, struct err *e);

#endif
