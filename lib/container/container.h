/*
 * Containers by id, whatever runs them. A registry is a directory with one directory per container,
 * in it the runtime's own record: state.json (ckpt-run, and runc: libcontainer's State) or status
 * (crun: libcrun_container_status_s). It tells the init process and when that was started, so that
 * a pid that was given to another process is noticed.
 */
#ifndef CKPT_CONTAINER_CONTAINER_H
#define CKPT_CONTAINER_CONTAINER_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum container_status {
  CONTAINER_CREATED, /* its init waits to be started */
  CONTAINER_RUNNING,
  CONTAINER_STOPPED,
};

struct container {
  char *id;
  const char *runtime; /* "ckpt-run", "runc", "crun" */
  pid_t pid;           /* of its first process */
  uint64_t start_time; /* field 22 of /proc/PID/stat */
  char *bundle;        /* directory of its config.json; NULL: it was made without one */
  enum container_status status;
};
void container_free(struct container *container);

/*
 * find.c: the running container with this id, or that an engine knows by this name, or the only one
 * whose id begins so, in this order. registry: a directory of any of the runtimes; NULL: where they
 * all have theirs by default. The caller frees what is found.
 */
int container_find(const char *registry, const char *id, struct container *found, struct err *e);

/*
 * runtime.c: reads <directory>/<id>, a container of whatever runtime. One that is only reserved is
 * stopped. The caller frees it, also after a failure.
 */
int container_read(const char *directory, const char *id, struct container *container,
                   struct err *e);
int container_check_id(const char *id, struct err *e);

/* What follows is ckpt-run's own registry. NULL: /run/ckpt or $XDG_RUNTIME_DIR/ckpt. */

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
