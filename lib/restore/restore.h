/* Rebuilding a tree from a stream: DESIGN "Restore". */
#ifndef CKPT_RESTORE_RESTORE_H
#define CKPT_RESTORE_RESTORE_H

#include "base/err.h"

#include <stdbool.h>

struct restore_options {
  const char *id;       /* register the tree under this id; NULL: the image's, if it has one */
  const char *registry; /* directory of the registry, ours or the runtime's; NULL: the default */
  const char *bundle;   /* of a container of a runtime, into which the image's is restored; NULL */
  bool created;         /* or into one that waits to be started: made by an engine, and its own */
  const char *runtime;  /* its program; NULL: that of the image */
  const char *console_socket; /* gets the master of a new terminal; NULL: it has none */
  int streams[3];             /* otherwise its standard streams, where they came from outside */
  bool paused;                /* the container is frozen when we are done */
  const char *pid_file;       /* gets the root's pid in our pid namespace; NULL: none */
  int report_fd;              /* gets one line {"pid":N,"id":"..."} when the tree runs; -1: none */
  int stats_fd;               /* gets the summary line; -1: none */
  bool tcp_close;             /* established TCP connections come back closed */
};

/*
 * Reads a whole stream from in_fd and rebuilds its tree. Nothing runs before END was read and its
 * totals agree; on failure everything that was made is gone again. Returns 0 when the tree runs.
 */
int restore_run(const struct restore_options *options, int in_fd, struct err *e);

#endif
