/*
 * A stopped thread under ptrace(2). This directory is the one place that calls ptrace.
 *
 * Whatever kills the tracer, whenever: a tracee that is in the middle of a remote system call
 * carries on by itself through rt_sigreturn(2) with its own registers (remote.c).
 */
#ifndef CKPT_TRACEE_TRACEE_H
#define CKPT_TRACEE_TRACEE_H

#include "base/err.h"
#include "proc/proc.h"
#include "state/fields.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>

struct remote;

struct tracee {
  pid_t tid;                    /* host thread id */
  pid_t pid;                    /* host process id */
  bool seized;                  /* not yet detached, nor seen to exit */
  bool stopped;                 /* in a ptrace stop */
  bool group_stopped;           /* was stopped by job control when it was seized */
  struct user_regs_struct regs; /* as it stopped; what it resumes with */
  uint64_t sigmask;             /* the same */
  struct blob xstate;           /* the same; empty until tracee_save */
  struct remote *remote;        /* the process's page for remote system calls, or NULL */
  size_t slot;                  /* of the page, that it uses */
  bool diverted;                /* its registers are ours for now */
  uint64_t blocked;             /* its signal mask while it is diverted */
  bool unfiltered;              /* its seccomp filters rest */
  pid_t event_tid;              /* the last process or thread that a remote call cloned */
};

/* PTRACE_SEIZE and PTRACE_INTERRUPT; does not wait. ESRCH (it is gone) returns 1, success 0. */
int tracee_seize(struct tracee *tracee, pid_t pid, pid_t tid, struct err *e);

/*
 * Waits until the seized thread is in its stop; signals that arrive first are delivered. Returns
 * 0, 1 when the thread exited instead, 2 when `deadline_ms` (CLOCK_MONOTONIC; 0: none) passed.
 */
int tracee_wait_stop(struct tracee *tracee, uint64_t deadline_ms, struct err *e);

/* Reads general registers, signal mask and extended state of a stopped tracee into it. */
int tracee_save(struct tracee *tracee, struct err *e);

/*
 * Finishes an interrupted system call on paper: registers from which the thread can be resumed by
 * anyone, anywhere. A call whose timeout would start anew returns EINTR instead. The tracee itself
 * is better resumed with what it had: then the kernel restarts the call.
 */
void tracee_resolve_restart(struct user_regs_struct *regs);

/*
 * Lets it run on exactly as it was, and forgets it. Job-control stops stay. Idempotent.
 */
int tracee_detach(struct tracee *tracee, struct err *e);

/*
 * Prepares the process for remote system calls: heals `leader` (tracee_heal), reads its registers,
 * and maps a trampoline page into the process through it.
 * Its other threads may then use it, too: tracee_share_remote, whose first thread is the leader.
 * tracee_end_remote unmaps it and puts the registers of all back.
 */
int tracee_begin_remote(struct tracee *leader, struct err *e);
void tracee_share_remote(struct tracee *threads, size_t count);

/*
 * Of threads of a process, which stand, its first one first: those that a killed tracer left in its
 * mapping, and that had no time to carry on by themselves or stand by job control, have their own
 * registers again. Before anything of them is saved.
 */
int tracee_heal(struct tracee *threads, size_t count, const struct proc_maps *maps, struct err *e);

/*
 * The same as tracee_begin_remote for a process whose threads all stand, are healed, and whose
 * mappings are known: what killed tracers left is unmapped, but for what a handler still returns
 * to. There is room for as many of its threads as are asked at once (tracee_begin_remote: for one).
 * *restorer, 0 at first, keeps for the next process what was found in this one: they often have the
 * same C library at the same place.
 */
int tracee_begin_remote_known(struct tracee *threads, size_t count, const struct proc_maps *maps,
                              uint64_t *restorer, struct err *e);
int tracee_end_remote(struct tracee *leader, struct err *e);

/*
 * Runs one system call in the stopped thread. *result is what the kernel returned: negative errno
 * values are results, not failures; -1 is that the call could not be made.
 */
int tracee_syscall(struct tracee *tracee, long number, const uint64_t arguments[6], int64_t *result,
                   struct err *e);

#define TRACEE_CALL(tracee, e, result, number, ...) \
  tracee_syscall(tracee, number, (const uint64_t[6]){__VA_ARGS__}, result, e)

/* One call of many. */
struct remote_call {
  uint64_t number;
  uint64_t arguments[6];
  int64_t result;
};

/* Scratch memory for arguments of the thread's remote calls: its address there, its bytes. */
uint64_t tracee_scratch(const struct tracee *tracee);
enum { TRACEE_SCRATCH_SIZE = 16384 };

/*
 * Makes all the calls of a sheet, whatever each returns, where possible with one stop: questions,
 * which do no harm when the tracer dies and nobody hears the answers. A sheet of `size` bytes
 * (TRACEE_SCRATCH_SIZE at most) is `count` calls, and behind them room for what they write: it
 * stands at the thread's tracee_scratch meanwhile. The process's `caught` signals (those with
 * handlers) must be known: tracee_caught.
 */
int tracee_ask(struct tracee *tracee, void *sheet, size_t size, size_t count, struct err *e);
void tracee_caught(struct tracee *leader, uint64_t caught);

/*
 * The same of all threads of a process, several at the same time. `fill` writes a thread's sheet,
 * `take` gets it with the answers, in the order of threads.
 */
enum { TRACEE_AT_ONCE = 16 };
struct tracee_questions {
  size_t size, count;
  int (*fill)(void *context, size_t index, void *sheet, struct err *e);
  int (*take)(void *context, size_t index, const void *sheet, struct err *e);
  void *context;
};
int tracee_ask_all(struct tracee *threads, size_t count, const struct tracee_questions *questions,
                   struct err *e);

/* Where the trampoline page and its like are mapped, and their bytes; 0: not mapped. */
uint64_t tracee_remote_base(const struct tracee *tracee);
uint64_t tracee_remote_size(const struct tracee *tracee);

/* Frees what is known of a process's leader that is gone, the remote mapping's part included. */
void tracee_forget(struct tracee *leader);

/* Memory of the process; works on any mapping that the process could read or write itself. */
int tracee_read(const struct tracee *tracee, uint64_t address, void *buffer, size_t size,
                struct err *e);
int tracee_write(const struct tracee *tracee, uint64_t address, const void *buffer, size_t size,
                 struct err *e);

/*
 * A copy-on-write snapshot of the process's private memory: a child of it that never runs, dies
 * with us, and that no wait(2) of the process sees. Shares its descriptor table, so that it holds
 * no file open. Memory marked MADV_DONTFORK or MADV_WIPEONFORK is not in it, and shared memory is
 * no snapshot. *number is the pid by which the process knows it.
 * The leader must have remote calls begun; it may run again as soon as this returns.
 */
int tracee_snapshot(struct tracee *leader, struct tracee *snapshot, int32_t *number, struct err *e);

/*
 * Has the snapshot send pages through pipes, by vmsplice(2): one copy less than /proc/PID/mem.
 * Several pipes are filled with one stop.
 * tracee_send_open gives us the pipes' ends, which are the caller's to close. It returns -1 without
 * a reason when that cannot be, with what is not open untouched; the memory is then to be read
 * otherwise. base and size are of its process's remote mapping.
 * tracee_send_start has counts[i] of the parts, which follow each other, put into pipe i; those
 * that are meant are empty and have room for TRACEE_PIPE_PAGES. The others can be read meanwhile.
 * tracee_send_end waits until it is done: sent[i] tells how many bytes are there, fewer where a
 * page cannot be read.
 */
enum { TRACEE_PIPES = 12, TRACEE_PIPE_PAGES = 256, TRACEE_SEND_PARTS = 768 };
int tracee_send_open(struct tracee *snapshot, uint64_t base, uint64_t size,
                     int pipes[TRACEE_PIPES]);
int tracee_send_start(struct tracee *snapshot, const struct iovec *parts,
                      const size_t counts[TRACEE_PIPES], struct err *e);
int tracee_send_end(struct tracee *snapshot, size_t sent[TRACEE_PIPES], struct err *e);

/* Kills the snapshot. Its process must still reap it: tracee_reap, stopped, with remote calls. */
void tracee_kill_snapshot(struct tracee *snapshot);
int tracee_reap(struct tracee *leader, int32_t number, struct err *e);

/*
 * A digest of the vdso's bytes, as text that the caller frees; pid 0: our own. Restored processes
 * call into it at their old addresses, so the image's must be this kernel's.
 */
int tracee_vdso_digest(pid_t pid, char **digest, struct err *e);

/* Our processor's: XCR0 and the bytes of NT_X86_XSTATE that threads have here. */
int tracee_xstate_features(uint64_t *features, uint32_t *size, struct err *e);

#endif
