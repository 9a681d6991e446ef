/*
 * What the processes of a container change inside its own namespaces: one file a kind, how it is
 * dumped and restored side by side, behind one small table. The namespaces themselves, and what the
 * runtime sets up in them, are the runtime's; nothing here makes one.
 */
#ifndef CKPT_NAMESPACE_NAMESPACE_H
#define CKPT_NAMESPACE_NAMESPACE_H

#include "base/err.h"
#include "object/object.h"
#include "state/model.h"
#include "tracee/tracee.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* A process of the tree, stopped and ready for remote system calls. */
struct namespace_member {
  int32_t number;         /* its pid in the tree's namespace */
  struct tracee *threads; /* [0] is its leader */
  size_t thread_count;
};

/* The container, at the dump and at the restore. */
struct namespace_owner {
  pid_t init; /* host pid of its first process, which is in the namespaces */
  const struct namespace_member *members;
  size_t member_count;
  const struct tree *tree; /* as it is known so far */
  const json_t *prepared;  /* dump: what namespaces_prepare returned */
  /* Dump: adds an object that no process has open to it. */
  int (*add_file)(void *context, const struct object_source *object, struct err *e);
  void *context; /* add_file's */
};

struct namespace_type {
  const char *name; /* of a namespace_state's `type` */
  const char *kind; /* in /proc/PID/ns */

  /*
   * Pass one, while the tree runs: appends {"object": ..., "reason": ...} to `obstacles` for what
   * cannot come back. May be NULL.
   */
  int (*check)(pid_t init, json_t *obstacles, struct err *e);

  /*
   * The same: what takes too long while the tree stands, and changes rarely. May be NULL. Returns
   * what dump finds in `prepared` under the type's name.
   */
  json_t *(*prepare)(pid_t init, struct err *e);

  /* The tree is stopped: returns the detail. Must leave the namespace as it was. */
  json_t *(*dump)(const struct namespace_owner *owner, struct err *e);

  /* The new container has its namespaces, and no member but init, which has not run yet. */
  int (*restore)(pid_t init, const json_t *detail, struct err *e);

  /*
   * All processes and their memory are there, with the credentials that their programs were started
   * with: what only they can do, and what would have been in the way. May be NULL.
   */
  int (*complete)(const struct namespace_owner *owner, const json_t *detail, struct err *e);
};

/* Appends what all types have against the own namespaces of the container to `obstacles`. */
typedef bool namespace_filter(void *context, const char *kind);
int namespaces_check(pid_t init, namespace_filter *is_own, void *context, json_t *obstacles,
                     struct err *e);

/* What all types have to prepare, by name. */
json_t *namespaces_prepare(pid_t init, namespace_filter *is_own, void *context, struct err *e);

/* Adds a state of each own namespace to the tree. */
int namespaces_dump(const struct namespace_owner *owner, namespace_filter *is_own, void *context,
                    struct tree *tree, struct err *e);

/*
 * Puts everything back into the namespaces of a new container, before the objects of the tree are
 * made; namespaces_complete before credentials are set and anybody runs. Refuses a container that
 * shares with us what would be changed.
 */
int namespaces_restore(pid_t init, const struct tree *tree, struct err *e);
int namespaces_complete(const struct namespace_owner *owner, struct err *e);

extern const struct namespace_type namespace_uts, namespace_net, namespace_ipc;

#endif
