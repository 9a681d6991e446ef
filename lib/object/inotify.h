/* For its unit test: what /proc tells of inotify(7). */
#ifndef CKPT_OBJECT_INOTIFY_H
#define CKPT_OBJECT_INOTIFY_H

#include "base/err.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* One line of fdinfo: Documentation/filesystems/proc.rst. */
struct inotify_watch {
  int32_t wd;
  uint64_t inode;
  dev_t device; /* of the superblock */
  uint32_t mask;
  union {
    struct file_handle handle;
    char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
  };
};

/*
 * The next watch behind *at, which moves on; *at starts as the text of fdinfo. 1 there is one, 0
 * there is none left, -1.
 */
int inotify_next_watch(const char **at, struct inotify_watch *watch, struct err *e);

#endif
