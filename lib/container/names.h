/* The names that engines above the runtimes (podman, Docker) give to their containers. */
#ifndef CKPT_CONTAINER_NAMES_H
#define CKPT_CONTAINER_NAMES_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct id_list {
  char **items;
  size_t count;
};
void id_list_free(struct id_list *ids);
bool id_list_has(const struct id_list *ids, const char *id);

/*
 * The ids of all containers with this name, running or not, in the engines' own lists. The caller
 * frees them, also after a failure. A list that we may not read has none.
 */
int names_find(const char *name, struct id_list *ids, struct err *e);

#endif
