/* What the files of this directory share: the tree as it is taken. */
#ifndef CKPT_DUMP_CAPTURE_H
#define CKPT_DUMP_CAPTURE_H

#include "base/err.h"
#include "base/guard.h"
#include "dump/dump.h"
#include "object/object.h"
#include "proc/pagemap.h"
#include "proc/proc.h"
#include "state/model.h"
#include "stream/stream.h"
#include "tracee/tracee.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Pages of a space that are its parent's, in one 256 KiB window. */
struct inherited {
  uint64_t address;
  uint64_t present;
};

/* A process of the tree. Parents precede children. */
struct source {
  pid_t pid; /* in our pid namespace */
  struct source *parent;
  struct proc_stat stat;
  struct proc_status status;
  bool zombie;
  struct tracee *threads; /* seized ones; the leader is [0] */
  size_t thread_count;
  uint32_t mm; /* id of its space; 0 for zombies */
  uint64_t brk;
  uint64_t remote_base; /* of the mapping that we have in it, and in its snapshot */
  uint64_t remote_size;
  struct proc_maps maps; /* without flags, and without ours */
  bool mapped;           /* its mappings are in the model */
  struct inherited *inherited;
  size_t inherited_count;
  struct tracee snapshot; /* tid 0: none, its memory is read in the process itself */
  bool whole;             /* the snapshot shows all that there is of the process's memory */
  struct held_frame *held;
  size_t held_count;
};

/* Pages that a snapshot does not have: read while the process stood. */
struct held_frame {
  struct frame frame;
  void *payload;
};

/* Who a file of the model is, for as long as the dump lasts. By index in tree.files. */
struct known_file {
  dev_t device;
  ino_t inode;
  int local;       /* our duplicate of its descriptor, -1 for what is only mapped or named */
  bool is_mapping; /* mapped, executed, or a directory that somebody is in */
  uint32_t flags;
};

/*
 * Part of a memory object that nobody has a descriptor of and that we may not open: it is read
 * where a process has it mapped.
 */
struct mapped_part {
  dev_t device;
  ino_t inode;
  pid_t pid;
  uint64_t start;        /* address in the process */
  uint64_t offset, end;  /* in the object */
  bool last;             /* the object has nothing behind it */
  struct page_run *runs; /* what exists of it; start and end are offsets in the object */
  size_t run_count;
};

struct capture {
  const struct dump_options *options;
  struct source *sources;
  size_t source_count;
  size_t depth;                 /* index of the tree's pid namespace in NSpid lists */
  struct proc_idmap uids, gids; /* of the tree's user namespace */
  int root;        /* the tree's root directory, from which paths count; -1: it cannot be opened */
  bool own_userns; /* which is not ours */
  char *cgroup;    /* a container's directory; its members belong to the tree. NULL: none */
  uint64_t restorer; /* tracee_begin_remote's, of the last process */
  struct guard thaw; /* it stood frozen, and must again when we let it go */
  struct tree tree;
  struct known_file *known;
  size_t known_count;
  uint32_t *descriptions; /* ids of files that are descriptions, in the order that kcmp(2) knows */
  size_t description_count;
  uint32_t last_space;
  struct mapped_part *parts;
  size_t part_count;
  struct object_dump objects;
  const char *own_namespaces[8]; /* kinds of those in which nobody but the tree is */
  size_t own_namespace_count;
  json_t *prepared;        /* of them, before the stop */
  json_t *obstacles;       /* array of {pid, object, reason} */
  struct timespec stopped; /* when the first thread stood */
  bool copied;             /* it is small: all its pages are held, there are no snapshots */
  uint64_t memory_bytes;
};

/*
 * find.c: the tree under the root, parents first. Of a container also those who entered it later:
 * they have no parent in it.
 */
int capture_find(struct capture *capture, struct err *e);
bool capture_knows(const struct capture *capture, pid_t pid);
void capture_forget_sources(struct capture *capture);
void capture_forget_held(struct capture *capture);

/* check.c: pass one. Obstacles are collected, not reported. */
int capture_check(struct capture *capture, struct err *e);
int capture_obstacle(struct capture *capture, pid_t pid, const char *object, const struct err *why);

/*
 * namespaces.c: which of its namespaces are a container's own; what is against their checkpoint;
 * the states of all. A plain tree has none.
 */
int capture_find_namespaces(struct capture *capture, struct err *e);
int capture_check_namespaces(struct capture *capture, struct err *e);
int capture_namespaces(struct capture *capture, struct err *e);

/* The tree comes back in one set of namespaces, its root's. Also asked when all stand: by then
 * others may have entered. */
int capture_same_namespaces(const struct capture *capture, const struct source *source,
                            struct err *e);

#define CAPTURE_HEADLESS "its first thread has exited, others run on: cannot be checkpointed"

/* stop.c: every thread of every process in a stop; the tree is what it was when they all stood. */
int capture_stop(struct capture *capture, struct err *e);
/* All that was asked of the tree is answered: takes out what we have in it. It stays stopped. */
int capture_end_remote(struct capture *capture, struct err *e);
int capture_resume(struct capture *capture, struct err *e);
void capture_kill(struct capture *capture);

/*
 * sharing.c: 1 and two processes of the tree that share a resource (a type of kcmp(2)), 0 when
 * there are none.
 */
int capture_sharing(const struct capture *capture, int type, const struct source *pair[2],
                    struct err *e);

/* state.c: the model of the stopped tree. */
int capture_state(struct capture *capture, struct err *e);
/* process.c, thread.c: one process, by /proc and remote calls. */
int capture_process(struct capture *capture, struct source *source, struct process *process,
                    struct err *e);
int capture_threads(struct source *source, struct process *process, struct err *e);

/* files.c: ids of files in the model, made on first sight. */
int capture_descriptors(struct capture *capture, struct source *source, struct process *process,
                        struct err *e);
/* name: "cwd", "root", "exe". */
int capture_link(struct capture *capture, struct source *source, const char *name, uint32_t *id,
                 struct err *e);
int capture_mapped(struct capture *capture, pid_t pid, const struct proc_map *map, uint32_t *id,
                   struct err *e);
/* An object that no process has open. */
int capture_object(struct capture *capture, const struct object_source *object, struct err *e);
/*
 * What an object looks like from outside, opened; `visit` must not keep it. fd -1 with a name
 * ("cwd", "map_files/...") for what is no descriptor.
 */
typedef int source_visitor(struct capture *capture, const struct object_source *object,
                           void *context, struct err *e);
int capture_visit(struct capture *capture, pid_t pid, int pidfd, int fd, const char *name,
                  source_visitor *visit, void *context, struct err *e);

/*
 * mounts.c: what the container has mounted and unmounted itself, and each tmpfs with what is in it.
 * In pass one, what of that stands against a checkpoint.
 */
int capture_check_mounts(struct capture *capture, struct err *e);
int capture_mounts(struct capture *capture, struct err *e);
/*
 * contents.c: what is mounted at a point, inode by inode. upper: -1, or a directory with the
 * overlay's changes, which are all that is taken.
 */
int capture_contents(struct capture *capture, const char *point, int upper, struct err *e);
/* files.c: a new file of the model that nobody has open. */
struct file *capture_new_file(struct capture *capture, const struct object_type *type,
                              struct err *e);

/*
 * A descriptor of what a process maps: through map_files, or one that the tree has of the same; -1
 * when we may not have one.
 */
int capture_open_mapped(const struct capture *capture, pid_t pid, const struct proc_map *map,
                        uint32_t flags);

/* The same as capture_visit of a mapped file; local: a descriptor of it, or -1. */
int capture_visit_mapping(struct capture *capture, pid_t pid, const struct proc_map *map, int local,
                          source_visitor *visit, void *context, struct err *e);

/*
 * mapped.c: without the privilege to open /proc/PID/map_files. What the file behind a mapping is,
 * as stat(2) tells, if its path still leads to it; else only its device and inode are filled in.
 */
void mapped_stat(pid_t pid, const struct proc_map *map, const char *link, struct stat *found);
/*
 * Is it shared memory that had a name in a tmpfs (shm_open(3), sem_open(3))? Of whom it is only
 * mapped it is like a memfd.
 */
bool mapped_is_memory(pid_t pid, const struct proc_map *map);
/* Notes a mapping of a memory object in a process that is ready for remote calls. */
int mapped_take(struct capture *capture, pid_t pid, const struct proc_map *map, struct err *e);
/* All are noted: fills in sizes; refuses objects that are not whole. */
int mapped_finish(struct capture *capture, struct err *e);
void mapped_free(struct capture *capture);

/*
 * memory.c: what only the stopped process tells of its memory, and its mappings if there is an
 * object among them; then the mappings of all processes. Those of whole snapshots can wait until
 * the tree runs.
 */
int capture_space(struct capture *capture, struct source *source, struct mm *mm, struct err *e);
int capture_memory(struct capture *capture, bool with_snapshots, struct err *e);
/* Whether a mapping can be captured at all. */
int capture_map_check(const struct proc_map *map, struct err *e);
const char *capture_special_name(const struct proc_map *map);
bool capture_map_has_file(const struct proc_map *map);
/* Is it memory or a deleted file, which is in the image as an object of its own? */
bool capture_map_is_object(const struct proc_map *map);

/*
 * inherit.c: which pages of children are still their parents', when all mappings are known: in the
 * snapshots, or in the processes while they stand.
 */
int capture_inherited(struct capture *capture, struct err *e);

/* pages.c: all page frames of the tree, in two parts: of shared objects, then of processes. */
int capture_objects(struct capture *capture, struct stream_writer *writer, struct err *e);
int capture_pages(struct capture *capture, struct stream_writer *writer, struct err *e);
/*
 * Reads into memory what no snapshot has: all of a small tree, or what is not forked
 * (MADV_DONTFORK, MADV_WIPEONFORK). Returns 1 when that is more than we want to hold.
 */
int capture_hold(struct capture *capture, struct stream_writer *writer, struct err *e);

/* snapshot.c: copies on write of all processes, so that the tree can run while they are read. */
struct keeper;
/* What they may cost at worst: so many processes and bytes more. */
struct snapshot_need {
  uint64_t bytes;
  size_t processes;
  uint64_t small; /* none is made: so many bytes are copied in less time than a fork takes */
};
struct snapshot_need snapshot_need(const struct capture *capture);
/* Is one asked for, and is there room? If not, and it is wanted, the user is told. */
bool snapshot_fits(const struct capture *capture);
/* Says which are whole. On failure none is there; the keeper has the dead ones reaped. */
int snapshot_take(struct capture *capture, const struct keeper *keeper, struct err *e);
void snapshot_drop(struct capture *capture);

/* state.c: the model as state frames. */
int capture_write_state(const struct capture *capture, struct stream_writer *writer, struct err *e);

/* The tree's number for a pid of ours; 0 for one outside. */
int32_t capture_number(const struct capture *capture, pid_t pid);

#endif
