/*
 * What is mounted in a container's mount namespace and may not be so in a new one: what the
 * container has mounted or unmounted itself, and each tmpfs whose inodes follow in the image.
 * Files of the model of type "mount", in the order in which they are made.
 */
#ifndef CKPT_OBJECT_MOUNT_H
#define CKPT_OBJECT_MOUNT_H

#include "base/err.h"
#include "proc/proc.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct object_restore;

struct mount_state {
  char *point;    /* from the tree's root */
  bool absent;    /* nothing is mounted there any more, whatever the runtime does */
  char *type;     /* of the file system */
  char *source;   /* what the mount table calls it */
  char *flags;    /* as in the mount table: "rw,nosuid,relatime" */
  char *options;  /* of the file system, the same */
  char *bound;    /* a path from the tree's root that is mounted there a second time, or NULL */
  bool directory; /* the point is one; else a file is bound */
};

/* The detail of a file of type "mount". */
json_t *mount_to_json(const struct mount_state *mount, struct err *e);

/* Could a restore make this mount anew? If not, -1 with the reason in e. */
int mount_check(const struct mount_state *mount, struct err *e);

/*
 * May the image change what is in the file system, or the file system itself, that `fd` is the root
 * directory of? Only a whole tmpfs, and only if nothing of it is mounted outside the new container
 * but in its bundle, where engines keep one for it (/dev/shm). -1 with the reason in e.
 */
int mount_check_own(const struct object_restore *restore, int fd, struct err *e);

/*
 * The id in mountinfo of the mount whose root directory is at the path below `root`; 0: none is
 * mounted just there; -1 with errno: there is no such path. Symbolic links lead on, below the root.
 */
int64_t mount_id_at(int root, const char *path);

#endif
