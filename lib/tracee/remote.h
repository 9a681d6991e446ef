/* Remote system calls: what tracee.c and remote.c share, and batches for the restore. */
#ifndef CKPT_TRACEE_REMOTE_H
#define CKPT_TRACEE_REMOTE_H

#include "tracee/tracee.h"

#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>

enum {
  REMOTE_FRAME_SIZE = 3 * 4096, /* room for a signal frame with the extended state */
  SIGFRAME_ROOM_BELOW = 256,    /* of it, what function ends may pop before they return */
  SIGFRAME_SIZE = REMOTE_FRAME_SIZE - SIGFRAME_ROOM_BELOW,
  /* One mapping: r-x code and a frame for each slot, rw- scratch memory for each. */
  REMOTE_SLOT_SIZE = REMOTE_FRAME_SIZE + TRACEE_SCRATCH_SIZE,
  REMOTE_SIZE = 4096 + REMOTE_SLOT_SIZE, /* with one slot */
  REMOTE_SYSCALL_STOP = SIGTRAP | 0x80,  /* PTRACE_O_TRACESYSGOOD */
};

/* Where a remote call enters, and what lets a thread heal itself when the tracer dies there. */
struct entry {
  uint64_t rip; /* of a `syscall` instruction */
  uint64_t rsp; /* 0: the thread's own */
  uint64_t rbp;
  uint64_t frame;    /* address of the signal frame that it leads to; 0: none, it cannot heal */
  uint64_t restorer; /* code that returns through the frame, its first word; 0: it is ours */
  uint8_t *before;   /* what the bytes that are borrowed for it are given back with; NULL: none */
  size_t borrowed;   /* how many, from the mark on */
};

/* One for each process. */
struct remote {
  int mem;                                 /* its memory, open: /proc/PID/mem */
  uint64_t base;                           /* of the mapping; 0 before it is there */
  size_t slots;                            /* of the mapping */
  bool shared;                             /* other threads are traced, too */
  struct entry boot;                       /* through the vdso, to map and unmap; of slot 0 */
  struct entry entry;                      /* the current one, of slot 0 */
  struct tracee *diverted[TRACEE_AT_ONCE]; /* the thread that may stand in it, in each slot */
  uint64_t ignored;                        /* signals that do nothing if nobody traces: mask */
};

enum { REMOTE_BATCH_LIMIT = 64 };

/* What tracee_begin_remote and remote_adopt made; NULL, too. */
void remote_free(struct remote *remote);

/* Where a label of trampoline.S is, counted from its begin. */
uint64_t remote_offset(const uint8_t *label);

/* Registers for a remote entry: the thread's own, so that segment bases stay, then ours. */
struct user_regs_struct remote_registers(const struct tracee *tracee);

/* Sends the thread to the entry, with these signals blocked. */
int remote_divert(struct tracee *tracee, struct user_regs_struct *regs, uint64_t blocked,
                  struct err *e);

/* A target under a seccomp filter may forbid our calls: the filter rests while we trace. */
void remote_set_options(struct tracee *tracee);

/*
 * Unmaps what killed tracers left behind, but for what a handler of a thread returns to. All
 * threads stand, and tracee_heal was there.
 */
int remote_unmap_copies(struct tracee *threads, size_t count, const struct proc_maps *maps,
                        struct err *e);

/* Lets the thread run (PTRACE_CONT, PTRACE_SYSCALL). */
int remote_run(struct tracee *tracee, enum __ptrace_request request, struct err *e);
/*
 * Waits until it is in the next stop of the wanted kind. Other stops on the way (job control, a
 * trap that was asked for before) are passed through.
 */
int remote_wait(struct tracee *tracee, enum __ptrace_request request, int wanted, struct err *e);
/* Through the system call that its registers lead to, to its exit. */
int remote_through_call(struct tracee *tracee, struct err *e);

/* clone(2) whose child never runs: it is stopped, or exits when nobody traces it. */
int remote_clone(struct tracee *tracee, uint64_t flags, int64_t *result, struct err *e);

/* Has the thread exited, so that it is only there to be waited for? */
bool tracee_is_exiting(pid_t tid);

/* The mapping's size, and that of its code and frames. */
uint64_t remote_size(size_t slots);
uint64_t remote_code_size(size_t slots);

/*
 * Of tracee_begin_remote the mapping alone, at `base` (MAP_FIXED_NOREPLACE; 0: anywhere): for
 * processes that we have made ourselves.
 */
int remote_begin_at(struct tracee *leader, uint64_t base, struct err *e);

/* For a process that was forked from one that has the mapping, of `size` bytes: it has it too. */
int remote_adopt(struct tracee *child, uint64_t base, uint64_t size, struct err *e);

/*
 * Runs up to REMOTE_BATCH_LIMIT calls with one stop; it ends early behind the first that fails.
 * Uses the last quarter of the scratch memory. Only for tracees that die with their tracer, and
 * before their signal actions are set: it ends in a trap, which puts back SIGTRAP's.
 * Returns how many ran (the last of these may have failed), -1 with e set.
 */
int remote_batch(struct tracee *tracee, struct remote_call *calls, size_t count, struct err *e);

/* The same in two steps, between which it runs beside us: count is at most the limit, not 0. */
int remote_batch_start(struct tracee *tracee, const struct remote_call *calls, size_t count,
                       struct err *e);
int remote_batch_end(struct tracee *tracee, struct remote_call *calls, size_t count, struct err *e);

/*
 * Ends the process as wait(2) status `code` tells: by exit status or by signal. Returns when its
 * tracer is done with it; its parent has it to reap.
 */
int tracee_die(struct tracee *tracee, int code, struct err *e);

/*
 * Unmaps the remote mapping, through the vdso where it is now, and forgets it. The thread then
 * stands where its registers must be set. Only for tracees that die with their tracer.
 */
int remote_unmap(struct tracee *leader, struct err *e);

/* Puts a diverted thread's own registers and signal mask back; a no-op for others. */
int remote_restore(struct tracee *tracee, struct err *e);

/* Reads or writes through /proc/PID/mem, whatever the mapping's protection; or through that, open.
 */
int remote_mem(pid_t pid, uint64_t address, void *buffer, size_t size, bool write, struct err *e);
int remote_mem_at(int mem, uint64_t address, void *buffer, size_t size, bool write, struct err *e);

/*
 * Does the thread, which has these registers, stand where entry_find sent it for a tracer that is
 * gone? Then they lead to rt_sigreturn(2) with its frame.
 */
bool entry_find_return(const struct tracee *tracee, const struct proc_maps *maps,
                       struct user_regs_struct *regs);

/* The first `syscall` instruction of the process's vdso, where nothing heals. */
int entry_find_plain(pid_t pid, struct entry *entry, struct err *e);

/*
 * Finds how to make system calls in a process that has no trampoline: a `syscall` instruction of
 * the vdso, and where possible the way on from it to the C library's signal return and a frame in
 * bytes at the low end of the first thread's stack that it does not use. Frees nothing of what
 * *entry was: the caller's to free by entry_free. *restorer: where that signal return may be (0: no
 * idea); where it is.
 */
int entry_find(const struct tracee *tracee, const struct proc_maps *maps, uint64_t *restorer,
               struct entry *entry, struct err *e);

/* Frees what entry_find has allocated. */
void entry_free(struct entry *entry);

/*
 * Remote mappings that a tracer that was killed left behind: they begin with `size` bytes of code,
 * behind which the number of their slots stands. Returns how many, at most `room`.
 */
struct remote_copy {
  uint64_t base;
  size_t slots;
};
size_t entry_find_copies(pid_t pid, const struct proc_maps *maps, const void *code, size_t size,
                         struct remote_copy copies[], size_t room);

/*
 * Writes the signal frame that rt_sigreturn(2) takes to resume the thread as it was saved
 * (arch/x86/kernel/signal_64.c). `address` is where it will stand; frame has room for
 * SIGFRAME_SIZE bytes. Returns how many it takes, which sigframe_size tells beforehand, or -1.
 */
size_t sigframe_size(const struct tracee *tracee);
int sigframe_build(const struct tracee *tracee, uint64_t address, uint64_t restorer, void *frame,
                   struct err *e);

#endif
