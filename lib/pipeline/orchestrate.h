/* The two orchestrators: checkpoint and restore as a whole, with one outcome. */
#ifndef CKPT_PIPELINE_ORCHESTRATE_H
#define CKPT_PIPELINE_ORCHESTRATE_H

#include "base/err.h"
#include "base/opt.h"

#include <stdbool.h>
#include <stdint.h>

struct checkpoint_options {
  const char *id;       /* of the container; NULL with a pid */
  const char *registry; /* NULL: the default */
  uint64_t pid;         /* or the root of a tree */
  const char *image_path;
  const char *compression;
  const char *snapshot; /* NULL: ckpt-load decides */
  const char *stats;    /* NULL: none, "": a line, "json" */
  uint64_t deadline;    /* seconds, 0: none */
  struct opt_list swaps;
  bool leave_running, exclude_zero, direct, tcp_close, archive_rootfs, check, json, print;
};

/* Returns the exit status; what went wrong is in e and was not printed. */
int orchestrate_checkpoint(const struct checkpoint_options *options, struct err *e);

struct restore_pipeline_options {
  const char *id;
  const char *bundle; /* of a runtime's container, into which the image's is restored; NULL */
  const char *runtime;
  const char *console_socket;
  bool created;
  const char *registry;
  const char *image_path;
  const char *direct; /* NULL: by what is cached; else the value of the flag */
  const char *pid_file;
  const char *stats;
  uint64_t deadline;
  struct opt_list swaps;
  bool detach, paused, tcp_close, print;
};

/* Returns the exit status: of the restored root, without detach. */
int orchestrate_restore(const struct restore_pipeline_options *options, struct err *e);

#endif
