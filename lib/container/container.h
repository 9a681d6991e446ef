/*
 * Containers by id. A registry is a directory with one directory per container, in it state.json in
 * the shape of the OCI runtime specification (runtime.md, "State"), with the init process's start
 * time added, so that a pid that was given to another process is noticed.
 */
#ifndef CKPT_CONTAINER_CONTAINER_H
#define CKPT_CONTAINER_CONTAINER_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct container {
  char *id;
  pid_t pid;           /* of its first process */
  uint64_t start_time; /* field 22 of /proc/PID/stat */
  bool running;
};
void container_free(struct container *container);

/*
 * The running container with this id, or the only one whose id begins so. registry NULL: the
 * default, /run/ckpt or $XDG_RUNTIME_DIR/ckpt. The caller frees what is found.
 */
int container_find(const char *registry, const char *id, struct container *found, struct err *e);

/*
 * Takes an id before there is a process; one whose process is gone is taken over. Returns a
 * descriptor that keeps the id for as long as it is open: until the container is registered, or
 * given back. It ends with us, so that nothing stays taken.
 */
int container_reserve(const char *registry, const char *id, struct err *e);
/* Fills a reserved id: the container runs. */
int container_register(const char *registry, const char *id, pid_t pid, struct err *e);
/* Gives the id back, unless a process runs under it. */
int container_forget(const char *registry, const char *id, struct err *e);

/* All of them, by id. The caller frees each and the list. */
int container_list(const char *registry, struct container **list, size_t *count, struct err *e);

#endif
