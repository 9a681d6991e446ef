/*
 * Kernel objects behind descriptors. One file a kind: how it is recognised, dumped and restored.
 * All of it works on ordinary local descriptors: the dump gets a duplicate of the target's
 * (pidfd_getfd(2)), the restore makes the object here and the caller hands it to the restored
 * processes over a UNIX socket. Only what is bound to a process (epoll's descriptor numbers) is
 * done inside it, in `attach`.
 */
#ifndef CKPT_OBJECT_OBJECT_H
#define CKPT_OBJECT_OBJECT_H

#include "base/err.h"
#include "state/model.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

struct object_type;
struct tracee;

/* What the dump knows of one descriptor of the target. */
struct object_source {
  pid_t pid;          /* host pid of a process that has it; for error texts and /proc/PID/root */
  int fd;             /* its number there, or -1: executed, mapped, a working directory */
  int local;          /* our duplicate of it (for fd -1 an O_PATH or map_files descriptor) */
  const char *link;   /* what /proc/PID/fd/N reads: "/path", "pipe:[123]", "anon_inode:[eventfd]" */
  struct stat stat;   /* of it */
  const char *fdinfo; /* text of /proc/PID/fdinfo/N; NULL for fd -1 */
};

struct object_dump {
  bool tcp_close;
  /* Is this host pid a process of the tree? For objects that others may share. */
  bool (*in_tree)(const struct object_dump *dump, pid_t pid);
  void *tree;
};

struct object_restore {
  const struct tree *tree;
  int root_fd; /* O_PATH of the restored tree's root directory; paths are opened below it */
  int net_fd;  /* its network namespace, or -1: ours */
  bool tcp_close;
  int *local;     /* by index in tree->files: our descriptor of each restored file, -1 not yet */
  json_t *shared; /* object; scratch for types whose descriptions share something (a pipe) */
};

struct object_type {
  const char *name; /* of struct file's `type` */

  bool (*matches)(const struct object_source *source);

  /*
   * Pass one, before the target is touched or while it runs: can this be dumped? Refusals are
   * errors "cannot be checkpointed: <reason>; <remedy>". May be NULL. Called again while the
   * target is stopped by way of dump.
   */
  int (*check)(const struct object_dump *dump, const struct object_source *source, struct err *e);

  /*
   * The target is stopped: fills file->detail (a new object) and, for memory objects, size.
   * flags, position, owner are filled in by the caller. Must leave the object as it was.
   */
  int (*dump)(const struct object_dump *dump, const struct object_source *source, struct file *file,
              struct err *e);

  /*
   * Before anything is created: would restore succeed here (file there, size the same, port
   * free)? May be NULL.
   */
  int (*check_restore)(const struct object_restore *restore, const struct file *file,
                       struct err *e);

  /* Makes the object. Returns our descriptor of it (the caller's to close), or -1 with e set. */
  int (*restore)(struct object_restore *restore, const struct file *file, struct err *e);

  /*
   * When the process has all its descriptors: what only it can do, by remote system calls
   * (tracee/remote.h). Called once for each file, in one process that has it at number fd. May be
   * NULL.
   */
  int (*attach)(struct object_restore *restore, const struct file *file, int fd,
                struct tracee *tracee, struct err *e);
};

/* The type that takes the source, never NULL: the last one refuses what no other knows. */
const struct object_type *object_type_of(const struct object_source *source);
const struct object_type *object_type_by_name(const char *name);

/* "pid 4711 fd 7 (io_uring)", or "pid 4711 (/path)" for fd -1: the start of every error text. */
void object_describe(const struct object_source *source, char *text, size_t size);

#endif
