/*
 * Who has a pipe, a socket or a deleted file open: what a process outside the tree holds, too,
 * would come apart.
 */
#ifndef CKPT_OBJECT_HOLDERS_H
#define CKPT_OBJECT_HOLDERS_H

#include "base/err.h"
#include "object/object.h"

#include <stdbool.h>
#include <sys/types.h>

struct holders {
  bool in_tree;
  pid_t outsider; /* one of those outside the tree; 0: none */
  bool others;    /* there are processes that we may not look at */
};

/*
 * Looks through the descriptors of all processes but our own: once, and again for an object that is
 * not known yet. Nobody has it open: neither is set.
 */
int object_holders(const struct object_dump *dump, dev_t device, ino_t inode,
                   struct holders *holders, struct err *e);

#endif
