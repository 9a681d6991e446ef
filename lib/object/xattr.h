/* Extended attributes that belong to a file: xattr(7). Labels of security modules are not ours. */
#ifndef CKPT_OBJECT_XATTR_H
#define CKPT_OBJECT_XATTR_H

#include "base/err.h"
#include "proc/proc.h"
#include "state/fields.h"

struct xattr {
  char *name;
  struct blob value; /* ids in it are those inside the user namespace */
};

extern const struct field xattr_fields[];

/* All of an inode, by an O_PATH descriptor of it. The list is the caller's, also after a failure.
 */
int xattr_read(int fd, const struct proc_idmap *uids, const struct proc_idmap *gids,
               struct xattr **list, size_t *count, struct err *e);

/* Gives it exactly these. */
int xattr_write(int fd, const struct proc_idmap *uids, const struct proc_idmap *gids,
                const struct xattr *list, size_t count, struct err *e);

#endif
