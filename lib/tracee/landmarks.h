/* The mappings that a process's first remote call depends on, and what stands in them. */
#ifndef CKPT_TRACEE_LANDMARKS_H
#define CKPT_TRACEE_LANDMARKS_H

#include "base/err.h"
#include "proc/proc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct range {
  uint64_t start, end;
};

struct landmarks {
  struct range vdso;
  struct range stack;
  struct range text[64]; /* executable, other than the vdso: the last ones, a ring */
  size_t text_count;     /* of all of them */
};

bool range_has(const struct range *range, uint64_t address);

/* Picks them out of the maps, or out of /proc/PID/maps. What is not there is 0..0. */
void landmarks_find(const struct proc_maps *maps, struct landmarks *landmarks);
int landmarks_read(pid_t pid, struct landmarks *landmarks, struct err *e);

/* process_vm_readv(2): the bytes that were read, or -1 with errno set. */
ssize_t read_memory(pid_t pid, uint64_t address, void *buffer, size_t size);

#endif
