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
#include "proc/proc.h"
#include "state/model.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

struct object_type;
struct tracee;

/* What the dump knows of one descriptor of the target. */
struct object_source {
  pid_t pid;          /* host pid of a process that has it; for error texts */
  int fd;             /* its number there, or -1: executed, mapped, a working directory */
  int local;          /* our duplicate of it (for fd -1 an O_PATH or map_files descriptor) */
  int root;           /* O_PATH of the tree's root directory, from which paths count; -1: none */
  const char *link;   /* what /proc/PID/fd/N reads: "/path", "pipe:[123]", "anon_inode:[eventfd]" */
  struct stat stat;   /* of it */
  const char *fdinfo; /* text of /proc/PID/fdinfo/N; NULL for fd -1 */
  bool foreign;       /* a container's standard stream that is not of the container */
};

struct object_dump {
  bool tcp_close;
  bool own_ipc; /* nobody but the tree is in its ipc namespace, which is a container's */
  /* Is this host pid a process of the tree? For objects that others may share. */
  bool (*in_tree)(const struct object_dump *dump, pid_t pid);
  /*
   * Which of a container's standard streams (0, 1, 2) is this? -1: none. *entered, if asked for:
   * not of its init, but of a process that entered it later.
   */
  int (*stream)(const struct object_dump *dump, const struct object_source *source, bool *entered);
  int32_t (*number)(const struct object_dump *dump, pid_t pid); /* in the tree; 0: not of it */
  void *context;                                                /* theirs */
  json_t *outsiders;                                            /* object; memory of holders.c */
  json_t *shared; /* object; scratch for types whose descriptions share something (a pipe) */
};

struct object_restore {
  const struct tree *tree;
  int root_fd;        /* O_PATH of the restored tree's root directory; paths are opened below it */
  int net_fd;         /* its network namespace, or -1: ours */
  int streams[3];     /* what a container has from outside; -1: nothing */
  pid_t init;         /* a runtime's container: its first process, here; else 0 */
  const char *bundle; /* of that container, a whole path; NULL: not known */
  struct proc_idmap uids, gids; /* of its user namespace */
  bool tcp_close;
  int *local;     /* by index in tree->files: our descriptor of each restored file, -1 not yet */
  json_t *shared; /* object; scratch for types whose descriptions share something (a pipe) */
};

struct object_type {
  const char *name; /* of struct file's `type` */
  bool has_pages;   /* its content is page frames, of one space for all descriptions of it */

  /*
   * Is it what the source is? Types that no descriptor has, but that are there for others to be
   * opened in (mounts, inodes), are not asked and have create instead of dump and restore.
   */
  bool (*matches)(const struct object_source *source);

  /*
   * Makes what stands in the file systems of a restored container, before anything is looked for in
   * there. Nobody keeps a descriptor of it.
   */
  int (*create)(struct object_restore *restore, const struct file *file, struct err *e);

  /*
   * A descriptor of the content of a file with a space that none of ours is open on: at the dump
   * (restore NULL) below the root directory of the tree, at the restore where create has made it.
   * -1 with e set. The caller's to close.
   */
  int (*open)(const struct object_restore *restore, int root, const struct file *file, int flags,
              struct err *e);

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
   * All files of the tree are known, at the end of a dump and before a restore: is what this one
   * refers to among them? May be NULL.
   */
  int (*complete)(const struct tree *tree, const struct file *file, struct err *e);

  /*
   * Before anything is created: would restore succeed here (file there, size the same, port
   * free)? May be NULL.
   */
  int (*check_restore)(const struct object_restore *restore, const struct file *file,
                       struct err *e);

  /* Makes the object. Returns our descriptor of it (the caller's to close), or -1 with e set. */
  int (*restore)(struct object_restore *restore, const struct file *file, struct err *e);

  /*
   * When all memory and descriptors are there: what had to wait (seals), and what only the process
   * can do, by remote system calls. Called once for each file, in one process that has it at
   * number fd (-1 and NULL: none has it open, it is only mapped). May be NULL.
   */
  int (*attach)(struct object_restore *restore, const struct file *file, int fd,
                struct tracee *tracee, struct err *e);
};

/* The type that takes the source, never NULL: the last one refuses what no other knows. */
const struct object_type *object_type_of(const struct object_source *source);
const struct object_type *object_type_by_name(const char *name);

/* Calls `complete` for every file of the tree. */
int object_check_complete(const struct tree *tree, struct err *e);

/*
 * Opens (O_PATH) a path that /proc shows, which counts from the root directory of the tree even
 * where the process has another one (chroot). -1 with errno.
 */
int object_open_shown(const struct object_source *source, const char *path);

/* Does the path of the link still lead to the very file? */
bool object_path_leads_to(const struct object_source *source);

/* Opens a path below the restored tree's root as it would be seen from inside. -1 with errno. */
int object_open(const struct object_restore *restore, const char *path, uint32_t flags);

/* Our descriptor of something that several descriptions share, by its key; -1: not made yet. */
int object_shared_fd(const struct object_restore *restore, const char *key);
int object_share_fd(struct object_restore *restore, const char *key, int fd, struct err *e);

/* Opens the object behind a descriptor of ours anew: another description with other flags. */
int object_reopen(int fd, uint32_t flags, struct err *e);

/* The types, one a file. */
extern const struct object_type object_regular, object_deleted, object_directory, object_device,
    object_pipe, object_fifo, object_eventfd, object_epoll, object_timerfd, object_signalfd,
    object_memfd, object_shmem, object_sysvshm, object_mqueue, object_tcp, object_unix,
    object_inotify, object_stream, object_unknown, object_mount, object_inode;

/* regular.c: the flock(2) lock of a description: LOCK_SH, LOCK_EX, or 0. Refuses other kinds. */
int object_find_flock(const struct object_source *source, int32_t *flock, struct err *e);

/* stream.c: is it one that a container has from outside? For `foreign`. */
bool object_is_foreign(const struct object_dump *dump, const struct object_source *source);
bool object_is_dev_tty(const struct stat *stat); /* /dev/tty: whatever terminal the process has */

/*
 * sysvshm.c, in a process that has entered the ipc namespace: the inode of a segment, by way of a
 * mapping. It is as a memfd's, for as long as the segment lives. access: O_RDONLY, O_RDWR.
 */
int sysvshm_open(int id, size_t size, int access, struct err *e);

/* "pid 4711 fd 7 (io_uring)", or "pid 4711 (/path)" for fd -1: the start of every error text. */
void object_describe(const struct object_source *source, char *text, size_t size);

#endif
