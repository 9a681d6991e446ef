/* What the files of this directory share: the tree as it grows. */
#ifndef CKPT_RESTORE_REBUILD_H
#define CKPT_RESTORE_REBUILD_H

#include "base/err.h"
#include "base/guard.h"
#include "container/oci.h"
#include "object/object.h"
#include "restore/restore.h"
#include "state/model.h"
#include "tracee/remote.h"
#include "tracee/tracee.h"

#include <stdbool.h>
#include <stdint.h>

/* Pages that a space inherits from its parent, in address order. */
struct extent {
  uint64_t address;
  uint64_t present;
};

/* One process of the tree on its way. */
struct rebuilt {
  const struct process *process;
  const struct mm *mm; /* NULL for zombies */
  struct rebuilt *parent;
  struct tracee *threads; /* [0] is the leader; thread_count of them exist */
  size_t thread_count;
  bool forked;   /* it exists */
  bool executed; /* it runs its program, if that is not its parent's */
  bool parted;   /* its early children exist and it is in its own session */
  bool grouped;  /* it is in its process group */
  bool laid_out; /* its mappings are there, pages can come */
  struct extent *inherited;
  size_t inherited_count;
};

/* numbers.c: the helper that chooses pids where the tree itself may not. */
struct numbers {
  pid_t pid; /* 0: not needed so far */
  int socket;
};

/* What the bundle gives at most to who enters its container: as the new init has it. */
struct bounds {
  uint64_t capabilities;
  size_t filter_count; /* of the image's init, the first ones: the runtime's profile */
};

struct rebuild {
  const struct restore_options *options;
  struct tree tree;
  struct rebuilt *processes; /* in the order of tree.processes */
  struct object_restore objects;
  int control[2];      /* SOCK_SEQPACKET: [0] ours, [1] the tree's */
  int control_fd;      /* its number in every process of the tree */
  uint64_t trampoline; /* base of the remote mapping in every process */
  const char *id;      /* under which it is registered, or NULL */
  int reserved;        /* keeps that id until the tree is registered or gone; -1: none */
  struct oci oci;      /* the runtime's container that we restore into */
  bool created;        /* that is there */
  struct guard guard;  /* which deletes it if all goes wrong */
  struct bounds bounds;
  bool frozen; /* by us */
  struct numbers numbers;
  size_t filled;              /* index of the file that was filled last: the next is not far */
  uint64_t page_bytes;        /* filled so far */
  struct rebuilt *uffd_owner; /* whose userfaultfd `uffd` is; NULL: none is open */
  int uffd;
};

/* Does a runtime make the tree's first process? */
static inline bool rebuild_by_runtime(const struct rebuild *rebuild)
{
  return rebuild->options->bundle || rebuild->options->created;
}

/* check.c: everything that can be refused before anything is made. */
int rebuild_check(struct rebuild *rebuild, struct err *e);
/* The same of files: they are looked for in the root directory of the tree, which must be there. */
int rebuild_check_files(struct rebuild *rebuild, struct err *e);

/* init.c: the init of a new container, caught at its program; its places and streams. */
int rebuild_init(struct rebuild *rebuild, struct err *e);
/* At the end: gives standard streams to the container's user, as its runtime does. */
void rebuild_give_streams(const struct rebuild *rebuild);

/* root.c: processes whose parents are outside the tree: its root, and who entered it later. */
int rebuild_root(struct rebuild *rebuild, struct err *e);
int rebuild_enter(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
/* Paths are from now on those below the root directory of this process. */
int rebuild_open_root(struct rebuild *rebuild, pid_t root, struct err *e);
/* Traces a thread, which dies with us; leads it out of the execve(2) that it has been caught in. */
int rebuild_seize(pid_t tid, struct err *e);
int rebuild_leave_exec(struct tracee *tracee, struct err *e);
/* spawn.c: processes that exist, stopped, with one thread and the remote mapping. */
int rebuild_spawn(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
/* Forks the children that stay in the session which the process leaves; then it makes its own. */
int rebuild_part(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
/* Process groups, when all processes exist. */
int rebuild_groups(struct rebuild *rebuild, struct err *e);
/* Ends the processes that are zombies in the image. */
int rebuild_zombies(struct rebuild *rebuild, struct err *e);
/* restore.c: freezes the runtime's container, or thaws it if we have frozen it. */
int rebuild_pause(struct rebuild *rebuild, bool frozen, struct err *e);

/* Waits for one of the dead, and whoever must be reaped before it. */
void rebuild_reap(pid_t pid);
/* Kills whatever was made and waits until it is gone. */
void rebuild_kill(struct rebuild *rebuild);
/* What each process begins with: its leader, a descriptor of ours of its program. */
int rebuild_new_leader(struct rebuilt *which, pid_t host_pid, struct err *e);
int rebuild_program(const struct rebuild *rebuild, const struct mm *mm, struct err *e);
/* A pid that no process or thread of the image has; nor the one behind it. */
int32_t rebuild_unused_pid(const struct rebuild *rebuild);

/*
 * numbers.c: a remote clone3(2), whose child has this number in the tree's pid namespace; its
 * number here is tracee->event_tid.
 */
int rebuild_clone(struct rebuild *rebuild, struct tracee *tracee, uint64_t flags, int exit_signal,
                  int32_t number, struct err *e);
void numbers_end(struct rebuild *rebuild);

/* layout.c: the mappings of one process, before its pages come. */
int rebuild_layout(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
/* What must wait until all pages are there and all children are forked: advice, locks, names. */
int rebuild_seal(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
/* Does it inherit pages of the range from its parent? */
bool layout_inherits(const struct rebuilt *which, uint64_t start, uint64_t end);
/* An address range that neither the process nor any mapping of the image uses. */
int layout_free_range(const struct rebuild *rebuild, pid_t pid, uint64_t size, uint64_t *address,
                      struct err *e);

/* madvise(2) for huge pages, or against them, on a part of a mapping. */
struct batch;
int layout_page_size(struct batch *batch, const struct vma *vma, uint64_t start, uint64_t end,
                     struct err *e);

/* keys.c: takes the process's keys of protection; gives a mapping its own. */
int rebuild_keys(struct rebuilt *which, struct err *e);
int rebuild_key_of(struct batch *batch, const struct vma *vma, struct err *e);

/* segments.c: a mapping that is (part of) an attachment of System V shared memory. */
bool rebuild_is_segment(const struct rebuild *rebuild, const struct vma *vma);
int rebuild_segment(struct rebuild *rebuild, struct rebuilt *which, struct batch *batch,
                    size_t index, struct err *e);

/*
 * namespaces.c: before the first object is made, which may be in one; and when all processes and
 * their mappings are there, before credentials are set.
 */
int rebuild_namespaces(struct rebuild *rebuild, struct err *e);
int rebuild_namespaces_end(struct rebuild *rebuild, struct err *e);

/* feed.c: all frames of the stream behind the state, of which the first one's header is read. */
struct frame;
struct stream_reader;
int rebuild_feed(struct rebuild *rebuild, struct stream_reader *reader, const struct frame *first,
                 struct err *e);

/* Where the pages of a PAGES frame go. */
struct place {
  struct rebuilt *which; /* the process; NULL: a shared object, */
  size_t file;           /* of this index in the tree's files */
};

/*
 * fill.c: PAGES frames into their places. What lies is refused when the place is looked for; a
 * process must then be laid out. Threads may fill different frames at once. A result of 1: some of
 * it must be done by force, by the thread that traces.
 */
int rebuild_fill_place(struct rebuild *rebuild, const struct frame *frame, struct place *place,
                       struct err *e);
int rebuild_fill(const struct rebuild *rebuild, const struct place *place,
                 const struct frame *frame, const void *payload, struct err *e);
int rebuild_fill_by_force(const struct rebuilt *which, const struct frame *frame,
                          const void *payload, struct err *e);
int rebuild_inherit(struct rebuild *rebuild, const struct frame *frame, struct err *e);

/* files.c: descriptions here, descriptors there. */
/* What the image brings into the file systems of a container that is there: files are opened there.
 */
int rebuild_create(struct rebuild *rebuild, struct err *e);
int rebuild_files(struct rebuild *rebuild, struct err *e);
/* Installs all descriptors, the working directory and the root of a process. */
int rebuild_descriptors(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
int rebuild_attach(struct rebuild *rebuild, struct err *e);
/*
 * Sends descriptors of ours into a process: numbers[i] is then the number of fds[i] there. At most
 * SEND_LIMIT at once.
 */
enum { SEND_LIMIT = 128 };
int rebuild_send(struct rebuild *rebuild, struct tracee *tracee, const int *fds, size_t count,
                 int *numbers, struct err *e);

/* attributes.c: all else that the kernel keeps for a process; credentials.c: who it is. */
int rebuild_attributes(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
/* Whether others may trace it and dump its core: after the credentials, which change it. */
int rebuild_dumpable(struct rebuilt *which, struct err *e);
int rebuild_credentials(const struct credentials *wanted, struct tracee *tracee, struct err *e);
/* signals.c: actions, pending signals, timers. Timers start to run here. */
int rebuild_signals(struct rebuilt *which, struct err *e);
int rebuild_timers(struct rebuilt *which, struct err *e);

/*
 * filters.c. Has the container's init, caught at its program, the profile of the image in another
 * order of instructions? 1 yes, 0 no (another profile is found out later), -1. *count: of its
 * filters.
 */
int rebuild_is_reordered(const struct rebuilt *root, size_t *count, struct err *e);
/* Before there is more than one thread, which share them from then on. */
int rebuild_filters(struct rebuild *rebuild, struct rebuilt *which, struct err *e);

/* threads.c */
int rebuild_threads(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
int rebuild_thread_state(struct rebuilt *which, size_t index, struct err *e);
/* Unmaps the remote mapping, gives every thread its registers. Nothing remote is possible after. */
int rebuild_finish(struct rebuilt *which, struct err *e);

/* remote calls with the errno as an error: "pid 7: <what>: <reason>". Fails on negative results. */
int call(struct tracee *tracee, struct err *e, const char *what, int64_t *result, long number,
         uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t f, uint64_t g);

struct rebuilt *rebuilt_by_pid(const struct rebuild *rebuild, int32_t pid);

#endif
