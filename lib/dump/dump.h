/* Capturing a live tree into a stream. */
#ifndef CKPT_DUMP_DUMP_H
#define CKPT_DUMP_DUMP_H

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

enum snapshot_mode {
  SNAPSHOT_AUTO, /* copy on write if there is room */
  SNAPSHOT_FORK, /* the same or fail */
  SNAPSHOT_STOP, /* the tree stands still while it is copied */
};

struct dump_options {
  const char *id;              /* container id, or NULL for a tree given by pid */
  pid_t pid;                   /* root of the tree, in our pid namespace */
  const char *runtime;         /* "runc", "crun": whose container it is; NULL: a plain tree */
  const char *bundle;          /* a runtime's container: the directory of its config.json */
  bool archive_rootfs;         /* what it has changed on its root file system is in the image */
  bool leave_running;          /* when committed: let it run on, instead of ending it */
  bool tcp_close;              /* established TCP connections are no obstacle */
  bool splice;                 /* the reader of the stream is one of ours */
  enum snapshot_mode snapshot; /* of a tree that runs on */
  int commit_fd;               /* a byte from it commits; -1: nobody commits, the tree runs on */
  int stats_fd;                /* gets the summary line; -1: none */
};

/*
 * Stops the tree, writes its stream to out_fd and closes that, waits for the commit. However it
 * ends, the tree runs on as it was, except that it is gone when it was committed without
 * leave_running.
 */
int dump_run(const struct dump_options *options, int out_fd, struct err *e);

/*
 * Lists everything that stands against a checkpoint of the tree, without touching it: a line each,
 * or a JSON array. *count is the number of obstacles.
 */
int dump_check(const struct dump_options *options, FILE *out, bool json, size_t *count,
               struct err *e);

#endif
