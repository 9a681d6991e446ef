/*
 * The model of a checkpointed tree: what the state frames of a stream say. One struct a JSON
 * object (or part of one); its table in model.c is the only list of its members.
 * All pids, process groups and sessions are numbers of the tree's own pid namespace.
 */
#ifndef CKPT_STATE_MODEL_H
#define CKPT_STATE_MODEL_H

#include "base/err.h"
#include "state/fields.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* kind "checkpoint": the first object, once. */
struct checkpoint {
  char *id;        /* container id, or NULL for a tree given by pid */
  char *kernel;    /* uname -r at the dump */
  int32_t root;    /* pid of the root process */
  char *runtime;   /* whose container it is ("runc", "crun"), or NULL for a plain tree */
  bool own_pidns;  /* the root is pid 1 of a pid namespace of its own: restore makes a new one */
  bool own_userns; /* the same of a user namespace: restore gives it the root's ids, no others */
  uint32_t xstate_size;     /* bytes of NT_X86_XSTATE at the dump */
  uint64_t xstate_features; /* XCR0 */
  char *vdso_digest;        /* of the vdso's bytes: another kernel has another one */
};

/* A mapping, in address order within its mm. */
struct vma {
  uint64_t start; /* address */
  uint64_t end;
  uint32_t prot;   /* PROT_* */
  uint32_t flags;  /* MAP_SHARED or MAP_PRIVATE, MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_NORESERVE */
  uint32_t file;   /* id of the file that is mapped; 0 for private anonymous memory */
  uint64_t offset; /* in the file, in bytes */
  char *special;   /* "vdso", "vvar", "vvar_vclock", "vsyscall": the kernel's own; else NULL */
  char *name;      /* PR_SET_VMA_ANON_NAME, or NULL */
  uint64_t advice; /* VMA_* below */
  bool huge;       /* had huge pages at the dump */
  uint32_t key;    /* of protection (pkeys(7)); 0: none */
};

/* What mmap(2), madvise(2) and mlock(2) have set on a VMA: VmFlags of /proc/PID/smaps. */
enum {
  VMA_DONTFORK = 1 << 0,
  VMA_WIPEONFORK = 1 << 1,
  VMA_DONTDUMP = 1 << 2,
  VMA_HUGEPAGE = 1 << 3,
  VMA_NOHUGEPAGE = 1 << 4,
  VMA_SEQUENTIAL = 1 << 5,
  VMA_RANDOM = 1 << 6,
  VMA_MERGEABLE = 1 << 7,
  VMA_LOCKED = 1 << 8,
  VMA_LOCKONFAULT = 1 << 9,
  VMA_DROPPABLE = 1 << 10, /* MAP_DROPPABLE, which mmap(2) takes for MAP_PRIVATE */
};

/* kind "mm": an address space. Its id is the `space` of its page frames. */
struct mm {
  uint32_t id;
  uint32_t parent; /* id of the mm that INHERIT frames speak of; 0: inherits nothing */
  uint32_t exe;    /* id of the file that is /proc/PID/exe */
  uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
  uint64_t arg_start, arg_end, env_start, env_end;
  uint64_t lock_future; /* VMA_LOCKED, VMA_LOCKONFAULT: what mlockall(MCL_FUTURE) gives a new one */
  struct blob auxv;
  struct vma *vmas;
  size_t vma_count;
};

/*
 * kind "file": an open file description, or something that is only mapped, executed or a working
 * directory. What its type needs to come back is in `detail`, which lib/object/TYPE.c reads and
 * writes.
 */
struct file {
  uint32_t id;
  char *type;     /* name of an object type: "regular", "pipe", ... */
  uint32_t flags; /* O_* as in fdinfo, without O_CLOEXEC */
  int64_t position;
  uint32_t space;       /* memory objects: the `space` of their page frames; 0 for others */
  uint64_t size;        /* memory objects: bytes */
  int32_t owner;        /* F_GETOWN: pid > 0, process group < 0, 0 none */
  int32_t owner_signal; /* F_GETSIG */
  json_t *detail;
};

struct descriptor {
  int32_t fd;
  uint32_t file;
  bool cloexec;
};

struct sigaction_state {
  int32_t signal;
  uint64_t handler; /* address, or 0 SIG_DFL, 1 SIG_IGN */
  uint64_t flags;   /* SA_* of the kernel, SA_RESTORER included */
  uint64_t restorer;
  uint64_t mask;
};

struct pending_signal {
  struct blob siginfo; /* 128 bytes */
};

struct itimer_state {
  int32_t which; /* ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF */
  int64_t interval_seconds, interval_microseconds;
  int64_t value_seconds, value_microseconds;
};

struct posix_timer {
  int32_t id;
  int32_t clock;
  int32_t notify; /* SIGEV_* */
  int32_t signal;
  int32_t tid;    /* SIGEV_THREAD_ID: of which thread */
  uint64_t value; /* sigev_value */
  int64_t interval_seconds, interval_nanoseconds;
  int64_t value_seconds, value_nanoseconds; /* remaining; 0 disarmed */
  int32_t overrun;
};

struct rlimit_state {
  int32_t resource;
  uint64_t soft, hard;
};

struct posix_lock {
  int32_t fd;
  int32_t type;          /* F_RDLCK, F_WRLCK */
  int64_t start, length; /* length 0: to the end */
};

struct credentials {
  uint32_t ruid, euid, suid, fsuid;
  uint32_t rgid, egid, sgid, fsgid;
  uint32_t *groups;
  size_t group_count;
  uint64_t inheritable, permitted, effective, bounding, ambient; /* capability sets */
  uint32_t securebits;
  bool no_new_privs;
};

/* A seccomp(2) filter. */
struct seccomp_filter {
  struct blob program; /* struct sock_filter[] */
  uint32_t flags;      /* SECCOMP_FILTER_FLAG_LOG */
};

/* General registers in the order of struct user_regs_struct (sys/user.h). */
struct registers {
  uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax;
  uint64_t rip, cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
};

struct thread {
  int32_t tid;
  char *name;
  struct registers registers; /* interrupted system calls are already resolved: resume as is */
  struct blob xstate;         /* NT_X86_XSTATE */
  uint64_t sigmask;
  uint64_t altstack_address, altstack_size;
  int32_t altstack_flags;
  uint64_t clear_child_tid;
  uint64_t robust_list, robust_list_size;
  uint64_t rseq_address;
  uint32_t rseq_size, rseq_signature, rseq_flags;
  int32_t policy, priority, nice; /* sched_getattr */
  uint32_t sched_flags;
  uint64_t sched_runtime, sched_deadline, sched_period;
  struct blob affinity; /* CPU mask as sched_getaffinity returns it */
  int32_t io_priority;
  int32_t parent_death_signal;
  uint64_t timer_slack;
  struct pending_signal *pending;
  size_t pending_count;
};

/*
 * kind "process". threads[0] is the leader. ppid 0: its parent is outside the tree; so is the
 * root's, and that of who entered a container later. A zombie has only the members up to exit_code.
 */
struct process {
  int32_t pid, ppid, pgid, sid;
  char *state;         /* "running", "stopped" (job control), "zombie" */
  int32_t exit_signal; /* what the parent gets when it dies, SIGCHLD as a rule */
  int32_t exit_code;   /* zombie: as wait(2) reports it */
  uint32_t mm;
  uint32_t cwd, root; /* files; root 0: the tree's root directory */
  uint32_t umask;
  int32_t oom_score_adj;
  uint64_t personality;
  uint64_t coredump_filter;
  int32_t dumpable;
  bool child_subreaper, thp_disabled;
  uint32_t membarrier; /* MEMBARRIER_CMD_GET_REGISTRATIONS */
  struct credentials credentials;
  struct descriptor *descriptors;
  size_t descriptor_count;
  struct posix_lock *locks;
  size_t lock_count;
  struct sigaction_state *sigactions; /* those that are not SIG_DFL with flags 0 */
  size_t sigaction_count;
  struct pending_signal *pending; /* of the whole process */
  size_t pending_count;
  struct itimer_state *itimers;
  size_t itimer_count;
  struct posix_timer *timers;
  size_t timer_count;
  struct rlimit_state *rlimits;
  size_t rlimit_count;
  struct seccomp_filter *filters; /* of all its threads, the first installed first */
  size_t filter_count;
  struct thread *threads;
  size_t thread_count;
};

/*
 * kind "namespace": what the processes of a container have changed inside one of its namespaces,
 * which itself is the runtime's. lib/namespace/TYPE.c reads and writes `detail`.
 */
struct namespace_state {
  char *type; /* name of a namespace type: "uts", "net", "ipc"; once each */
  json_t *detail;
};

/* A whole tree. Everything in it is owned by it. Parents precede their children. */
struct tree {
  struct checkpoint checkpoint;
  bool has_checkpoint; /* tree_add_json has seen it */
  struct process *processes;
  size_t process_count;
  struct mm *mms;
  size_t mm_count;
  struct file *files;
  size_t file_count;
  struct namespace_state *namespaces;
  size_t namespace_count;
};

void tree_free(struct tree *tree);

/*
 * Appends a zeroed element to a list that starts as {NULL, 0}: `list` is the address of its
 * pointer. Returns the element, or NULL with errno set.
 */
void *list_append(void *list, size_t *count, size_t size);

/* One state frame's worth: the JSON object of one part of the model. NULL with e set on failure. */
json_t *checkpoint_to_json(const struct checkpoint *checkpoint, struct err *e);
json_t *process_to_json(const struct process *process, struct err *e);
json_t *mm_to_json(const struct mm *mm, struct err *e);
json_t *file_to_json(const struct file *file, struct err *e);
json_t *namespace_to_json(const struct namespace_state *state, struct err *e);

/*
 * Adds what one state frame's payload says to the tree. Every member is checked for type and range;
 * a kind or a reference that is not known is an error that names it.
 */
int tree_add_json(struct tree *tree, const char *text, size_t size, struct err *e);

/* Checks that ids are unique and that every reference leads somewhere; parents precede children. */
int tree_check(const struct tree *tree, struct err *e);

/* Private memory of the program's: what page frames of an address space are about. */
bool vma_is_private(const struct vma *vma);

/*
 * Can a child's mapping go on living in its parent's after a fork? Only private memory from the
 * same source, at the same place in it.
 */
bool vma_continues(const struct vma *child, const struct vma *parent);

struct process *tree_process(const struct tree *tree, int32_t pid);
struct mm *tree_mm(const struct tree *tree, uint32_t id);
struct file *tree_file(const struct tree *tree, uint32_t id);
struct namespace_state *tree_namespace(const struct tree *tree, const char *type);

#endif
