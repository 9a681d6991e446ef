/*
 * What /proc tells of processes: parsers without policy. Format: proc(5),
 * Documentation/filesystems/proc.rst.
 *
 * All functions take pids of the pid namespace that our /proc shows. They return 0, 1 when the
 * process (or thread) is gone, -1 with e set.
 */
#ifndef CKPT_PROC_PROC_H
#define CKPT_PROC_PROC_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* /proc/PID/stat, the fields that somebody needs. */
struct proc_stat {
  char state;
  bool exiting; /* it is on its way out: of files and memory it may have none any more */
  int32_t ppid, pgrp, session, tty;
  int32_t foreground; /* process group of that terminal; -1: none */
  int32_t threads;
  uint64_t start_time; /* clock ticks since boot: with the pid it names a process for ever */
  uint64_t start_code, end_code, start_stack;
  int32_t exit_signal, processor;
  uint64_t start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end;
  int32_t exit_code; /* as wait(2) has it; 0 without the permission to trace */
};
int proc_stat_read(pid_t pid, struct proc_stat *stat, struct err *e);
/* Is it only there to be waited for? A process whose first thread has exited before others is not.
 */
bool proc_is_zombie(const struct proc_stat *stat);

enum { PROC_NAMESPACES = 8 }; /* nested pid namespaces that are looked at */

/* /proc/PID/status. */
struct proc_status {
  char name[64];
  int32_t tgid, ppid, tracer;
  uint32_t uid[4], gid[4]; /* real, effective, saved, file system */
  uint32_t *groups;
  size_t group_count;
  /* Numbers in each pid namespace, from ours to its own innermost. */
  int32_t ns_pid[PROC_NAMESPACES], ns_pgid[PROC_NAMESPACES], ns_sid[PROC_NAMESPACES];
  size_t ns_depth;
  uint32_t umask;
  uint64_t cap_inheritable, cap_permitted, cap_effective, cap_bounding, cap_ambient;
  uint32_t no_new_privs, seccomp, threads;
  uint64_t anonymous, swapped; /* bytes of memory of its own; of what is in swap */
  uint64_t sig_ignored, sig_caught;
};
int proc_status_read(pid_t tid, struct proc_status *status, struct err *e);
void proc_status_free(struct proc_status *status);

/*
 * /proc/PID/uid_map and gid_map (user_namespaces(7)): status shows a process's ids as we see them;
 * to the process itself they are those inside. In our own user namespace the two are the same.
 */
enum { PROC_ID_RANGES = 340 }; /* as many as the kernel takes */
struct proc_idrange {
  uint32_t inside, outside, count;
};
struct proc_idmap {
  struct proc_idrange ranges[PROC_ID_RANGES];
  size_t count;
};
int proc_idmap_read(pid_t pid, const char *name, struct proc_idmap *map, struct err *e);
uint32_t proc_id_inside(const struct proc_idmap *map, uint32_t outside);
uint32_t proc_id_outside(const struct proc_idmap *map, uint32_t inside); /* UINT32_MAX: none */
/* Turns all ids of a status into those that the process itself sees. */
int proc_status_inside(pid_t pid, struct proc_status *status, struct err *e);

/* One mapping of /proc/PID/smaps, or of maps, which does not have the last two members. */
struct proc_map {
  uint64_t start, end, offset;
  char perms[5];
  dev_t device;
  uint64_t inode;
  char *name;        /* "" for anonymous memory; with " (deleted)" where the kernel says so */
  uint64_t huge_kib; /* AnonHugePages */
  uint32_t key;      /* ProtectionKey */
  uint64_t swap_kib; /* Swap: of shared memory, what the object has there in this range */
  char flags[160];   /* VmFlags: two-letter words, each followed by a space */
};
struct proc_maps {
  struct proc_map *maps;
  size_t count;
};
/* The kernel looks at every page for smaps: some milliseconds a GiB. For maps it does not. */
int proc_smaps_read(pid_t pid, struct proc_maps *maps, struct err *e);
int proc_maps_read(pid_t pid, struct proc_maps *maps, struct err *e);
void proc_maps_free(struct proc_maps *maps);
bool proc_map_has_flag(const struct proc_map *map, const char *two_letters);

/* One line of /proc/PID/mountinfo: what is mounted where in the process's mount namespace. */
struct proc_mount {
  uint32_t id, parent;
  dev_t device;
  char *root;  /* which directory of the file system is mounted */
  char *point; /* where, from the process's root */
  char *flags; /* of the mount: "rw,nosuid,relatime" */
  char *type;
  char *source;
  char *options; /* of the file system; what stands between commas is still encoded */
};
struct proc_mounts {
  struct proc_mount *items;
  size_t count;
};
int proc_mounts_read(pid_t pid, struct proc_mounts *mounts, struct err *e);
void proc_mounts_free(struct proc_mounts *mounts);
/* The next of a copy of a mount's options, decoded in place; NULL when there is none. */
char *proc_mount_option(char **options);

/* Lists of numbers, in ascending order where the kernel has them so. */
struct proc_list {
  int32_t *items;
  size_t count;
};
int proc_threads(pid_t pid, struct proc_list *list, struct err *e);
int proc_children(pid_t pid, struct proc_list *list, struct err *e); /* of all its threads */
/* Those of one thread: added to the list. */
int proc_thread_children(pid_t pid, pid_t tid, struct proc_list *list, struct err *e);
int proc_descriptors(pid_t pid, struct proc_list *list, struct err *e);
int proc_all(struct proc_list *list, struct err *e); /* every process */
void proc_list_free(struct proc_list *list);

/* A small file of /proc/PID: its text is the caller's to free. */
int proc_text(pid_t pid, const char *name, char **text, size_t *size, struct err *e);
/* What a link of /proc/PID reads ("fd/3", "exe"); room must be for PATH_MAX and more. */
int proc_link(pid_t pid, const char *name, char *target, size_t room, struct err *e);

/* The number behind "name:" in a text of lines (fdinfo); false when there is none. base as
 * strtoull. */
bool proc_field(const char *text, const char *name, int base, uint64_t *value);

/* Is it in another namespace of the kind ("pid", "net", ...) than the other? 1 yes, 0 no, -1. */
int proc_namespace_differs(pid_t pid, pid_t other, const char *kind, struct err *e);

#endif
