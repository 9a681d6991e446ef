/*
 * Driving a container runtime by its command line, as engines do: create, start, delete
 * (https://github.com/opencontainers/runtime-tools, docs/command-line-interface.md).
 */
#ifndef CKPT_CONTAINER_OCI_H
#define CKPT_CONTAINER_OCI_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

struct oci {
  const char *program; /* "runc", "crun", or a path */
  const char *root;    /* its state directory; NULL: its default */
  const char *id;
  const char *bundle;
  bool foreign;               /* somebody else has created it, and will remove it */
  const char *console_socket; /* where the master of a new terminal is sent; NULL: no terminal */
};

/*
 * Creates the container: its namespaces, mounts and groups are there, and its init waits to be
 * started. On failure there is no container of ours, and e has the runtime's own words. A foreign
 * one is there already.
 */
int oci_create(const struct oci *oci, struct err *e);

/* The pid of the init of a container that waits to be started. */
int oci_init(const struct oci *oci, pid_t *init, struct err *e);

/*
 * Starts it: the init becomes the bundle's program. Returns the pid of the runtime that does so;
 * oci_started says how that went when it has ended with the given wait(2) status.
 */
pid_t oci_start(const struct oci *oci, int *messages, struct err *e);
int oci_started(const struct oci *oci, int messages, int status, struct err *e);

/* Removes the container, ending what is left of it. A foreign one is only ended. */
int oci_delete(const struct oci *oci, struct err *e);

#endif
