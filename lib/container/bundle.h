/*
 * What a container's bundle says of its mounts: config.json of the OCI runtime specification
 * (https://github.com/opencontainers/runtime-spec, config.md and config-linux.md).
 */
#ifndef CKPT_CONTAINER_BUNDLE_H
#define CKPT_CONTAINER_BUNDLE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* Where the runtime has mounted something in the container. */
struct bundle_place {
  char *destination; /* from the container's root; symbolic links in it are followed there */
  char *type;        /* "tmpfs", "proc", ..., "bind"; NULL: not said, or none of "mounts" */
  char *source;      /* what is bound; NULL for other types */
  bool asked;        /* it is one of "mounts" or masked; else the runtime may do it by itself */
  bool recursive;    /* whatever is mounted below it comes with it */
  bool read_only;
};

struct bundle {
  struct bundle_place *places; /* in the runtime's order */
  size_t count;
  bool has_hooks; /* programs that may mount more */
};

/* Reads <directory>/config.json. The caller frees the bundle, also after a failure. */
int bundle_read(const char *directory, struct bundle *bundle, struct err *e);
void bundle_free(struct bundle *bundle);

#endif
