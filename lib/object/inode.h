/*
 * Inodes that an image carries whole: those of a container's tmpfs, and what it has changed on its
 * root file system. They are files of the model of type "inode"; the bytes of a regular one are
 * page frames of a space of its own.
 */
#ifndef CKPT_OBJECT_INODE_H
#define CKPT_OBJECT_INODE_H

#include "base/err.h"
#include "object/xattr.h"
#include "proc/proc.h"
#include "state/model.h"

#include <stdbool.h>
#include <stdint.h>

struct inode {
  char *mount;       /* where its file system is mounted, from the tree's root */
  char *path;        /* from there; "" is its root directory */
  char *link;        /* path of the same inode, which precedes; there is nothing else of this one */
  bool absent;       /* there is nothing at the path any more */
  bool whole;        /* a directory that has nothing in it but what the image has */
  uint32_t mode;     /* st_mode */
  uint32_t uid, gid; /* in the tree's user namespace */
  uint32_t major, minor; /* of a device */
  char *target;          /* of a symbolic link */
  int64_t mtime_seconds;
  uint32_t mtime_nanoseconds;
  uint32_t attributes; /* FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL */
  struct xattr *xattrs;
  size_t xattr_count;
};
void inode_free(struct inode *inode);

/*
 * Opens what is at the path of the mounted file system: nothing of another one, and not through
 * symbolic links. -1 with errno: EXDEV for a place where something is mounted, or below one.
 */
int inode_open(int mount, const char *path, int flags);

/* The root directory of what is mounted at a point, O_PATH. -1 with errno. */
int inode_open_mount(int root, const char *point);

/* Fills all but mount, path, link, absent and whole from an O_PATH descriptor. size: in bytes. */
int inode_read(int fd, const struct proc_idmap *uids, const struct proc_idmap *gids,
               struct inode *inode, uint64_t *size, struct err *e);

/* The detail of a file of type "inode". */
json_t *inode_to_json(const struct inode *inode, struct err *e);

#endif
