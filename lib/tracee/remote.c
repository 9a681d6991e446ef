#include "tracee/remote.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/proc.h"
#include "tracee/stack.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern const uint8_t trampoline_start[], trampoline_call[], trampoline_clone[], trampoline_slots[],
    trampoline_end[];

uint64_t remote_offset(const uint8_t *label)
{
  return (uintptr_t)label - (uintptr_t)trampoline_start;
}

enum { FRAME_OFFSET = 4096 + SIGFRAME_ROOM_BELOW }; /* in the mapping, behind the code page */

static int open_mem(pid_t pid, int flags, struct err *e)
{
  char path[64];
  int fd;

  snprintf(path, sizeof(path), "/proc/%d/mem", pid);
  fd = open(path, flags | O_CLOEXEC);
  return fd < 0 ? err_sys(e, "pid %d: memory", pid) : fd;
}

int remote_mem_at(int mem, uint64_t address, void *buffer, size_t size, bool write, struct err *e)
{
  ssize_t n =
      write ? pwrite(mem, buffer, size, (off_t)address) : pread(mem, buffer, size, (off_t)address);

  if (n < 0)
    return err_sys(e, "memory at 0x%lx", (unsigned long)address);
  if ((size_t)n != size)
    return err_set(e, "memory at 0x%lx ends early", (unsigned long)address);
  return 0;
}

int remote_mem(pid_t pid, uint64_t address, void *buffer, size_t size, bool write, struct err *e)
{
  AUTO_CLOSE int mem = open_mem(pid, write ? O_WRONLY : O_RDONLY, e);

  if (mem < 0)
    return -1;
  return remote_mem_at(mem, address, buffer, size, write, e) < 0 ? err_prefix(e, "pid %d", pid) : 0;
}

static struct remote *remote_new(pid_t pid, struct err *e)
{
  struct remote *remote = calloc(1, sizeof(*remote));

  if (!remote) {
    err_sys(e, "pid %d", pid);
    return NULL;
  }
  remote->mem = open_mem(pid, O_RDWR, e);
  if (remote->mem < 0) {
    free(remote);
    return NULL;
  }
  return remote;
}

void remote_free(struct remote *remote)
{
  if (!remote)
    return;
  close(remote->mem);
  entry_free(&remote->boot);
  free(remote);
}

/* How far the thread's entry and frame are from those of slot 0. */
static uint64_t slot_offset(const struct tracee *tracee)
{
  return tracee->slot * REMOTE_FRAME_SIZE;
}

static int write_sigframe(const struct tracee *tracee, const struct entry *entry, struct err *e)
{
  uint8_t frame[SIGFRAME_SIZE];
  uint64_t address = entry->frame + slot_offset(tracee);
  int size;

  if (entry->frame == 0)
    return 0;
  size = sigframe_build(tracee, address, entry->restorer, frame, e);
  if (size < 0 || stack_borrow(tracee, entry, e) < 0)
    return -1;
  return tracee_write(tracee, address, frame, (size_t)size, e);
}

/*
 * The order keeps the thread safe at every point: the frame is complete before the registers lead
 * to it, and the mask changes last (rt_sigreturn puts it back).
 */
int remote_divert(struct tracee *tracee, struct user_regs_struct *regs, uint64_t blocked,
                  struct err *e)
{
  struct tracee *other = tracee->remote->diverted[tracee->slot];

  if (other && other != tracee && remote_restore(other, e) < 0)
    return -1;
  if (!tracee->diverted && write_sigframe(tracee, &tracee->remote->entry, e) < 0)
    return -1;
  if (ptrace(PTRACE_SETREGS, tracee->tid, NULL, regs) < 0)
    return err_sys(e, "thread %d: set registers", tracee->tid);
  if ((!tracee->diverted || tracee->blocked != blocked) &&
      ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(blocked), &blocked) < 0)
    return err_sys(e, "thread %d: set signal mask", tracee->tid);
  tracee->blocked = blocked;
  tracee->diverted = true;
  tracee->remote->diverted[tracee->slot] = tracee;
  return 0;
}

/* It stands in no entry any more. */
static void forget_diverted(struct tracee *tracee)
{
  tracee->diverted = false;
  if (tracee->remote)
    tracee->remote->diverted[tracee->slot] = NULL;
}

int remote_restore(struct tracee *tracee, struct err *e)
{
  if (!tracee->diverted)
    return 0;
  /*
   * The thread stands at the exit of a system call. The trap that this asks for takes it through
   * the kernel's signal code, which restarts the call that the original registers tell of.
   */
  if (ptrace(PTRACE_INTERRUPT, tracee->tid, NULL, NULL) < 0 ||
      ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(tracee->sigmask), &tracee->sigmask) < 0 ||
      ptrace(PTRACE_SETREGS, tracee->tid, NULL, &tracee->regs) < 0)
    return errno == ESRCH ? 0 : err_sys(e, "thread %d: restore registers", tracee->tid);
  forget_diverted(tracee);
  return 0;
}

static bool is_clone_event(int event)
{
  return event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE;
}

static int run(struct tracee *tracee, enum __ptrace_request request, int deliver, struct err *e)
{
  if (ptrace(request, tracee->tid, NULL, deliver) < 0)
    return err_sys(e, "thread %d: continue", tracee->tid);
  return 0;
}

int remote_run(struct tracee *tracee, enum __ptrace_request request, struct err *e)
{
  return run(tracee, request, 0, e);
}

/*
 * wait(2) tells that a first thread has died only when somebody has waited for all others, which
 * died with it: whose are traced, too, is looked at now and then. 1: it is dead.
 */
static int wait_leader(pid_t tid, int *status)
{
  const struct timespec patience = {.tv_nsec = 2000000};
  sigset_t child, before;
  pid_t got;

  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, &before);
  while ((got = waitpid(tid, status, __WALL | WNOHANG)) == 0) {
    if (sigtimedwait(&child, NULL, &patience) < 0 && errno == EAGAIN && tracee_is_exiting(tid))
      break;
  }
  sigprocmask(SIG_SETMASK, &before, NULL);
  return got < 0 ? -1 : got == 0;
}

/* The thread's next report: 0 with *status, 1 when it is dead, -1 with errno set. */
static int wait_report(const struct tracee *tracee, int *status)
{
  int result;

  do {
    result = tracee->tid == tracee->pid && tracee->remote && tracee->remote->shared
                 ? wait_leader(tracee->tid, status)
                 : waitpid(tracee->tid, status, __WALL);
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -1 : result == 1 || !WIFSTOPPED(*status);
}

int remote_wait(struct tracee *tracee, enum __ptrace_request request, int wanted, struct err *e)
{
  for (;;) {
    int deliver, status;
    int dead = wait_report(tracee, &status);

    if (dead < 0)
      return err_sys(e, "thread %d: wait", tracee->tid);
    if (dead) {
      tracee->stopped = false;
      forget_diverted(tracee);
      return err_set(e, "pid %d: thread %d died while it was stopped", tracee->pid, tracee->tid);
    }
    if (status >> 16 == 0 && WSTOPSIG(status) == wanted)
      return 0;
    if (is_clone_event(status >> 16)) {
      unsigned long tid;

      if (ptrace(PTRACE_GETEVENTMSG, tracee->tid, NULL, &tid) < 0)
        return err_sys(e, "thread %d: event", tracee->tid);
      tracee->event_tid = (pid_t)tid;
    }
    deliver =
        status >> 16 == 0 && WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != REMOTE_SYSCALL_STOP
            ? WSTOPSIG(status)
            : 0;
    if (deliver == SIGSEGV || deliver == SIGILL || deliver == SIGBUS)
      return err_set(e, "pid %d: thread %d: signal %d in a remote system call", tracee->pid,
                     tracee->tid, deliver);
    if (run(tracee, request, deliver, e) < 0)
      return -1;
  }
}

int remote_through_call(struct tracee *tracee, struct err *e)
{
  for (int stop = 0; stop < 2; stop++) { /* its entry, its exit */
    if (remote_run(tracee, PTRACE_SYSCALL, e) < 0 ||
        remote_wait(tracee, PTRACE_SYSCALL, REMOTE_SYSCALL_STOP, e) < 0)
      return -1;
  }
  return 0;
}

struct user_regs_struct remote_registers(const struct tracee *tracee)
{
  struct user_regs_struct regs = tracee->regs;

  regs.orig_rax = (uint64_t)-1; /* or the kernel would restart what was interrupted */
  regs.rip = tracee->remote->entry.rip;
  if (tracee->remote->entry.rsp)
    regs.rsp = tracee->remote->entry.rsp;
  regs.rbp = tracee->remote->entry.rbp + slot_offset(tracee);
  return regs;
}

static int syscall_at(struct tracee *tracee, uint64_t rip, long number, const uint64_t arguments[6],
                      int64_t *result, struct err *e)
{
  struct user_regs_struct regs;

  if (tracee->xstate.size == 0 && tracee_save(tracee, e) < 0)
    return -1;
  regs = remote_registers(tracee);
  regs.rip = rip;
  regs.rax = (uint64_t)number;
  regs.rdi = arguments[0];
  regs.rsi = arguments[1];
  regs.rdx = arguments[2];
  regs.r10 = arguments[3];
  regs.r8 = arguments[4];
  regs.r9 = arguments[5];
  if (remote_divert(tracee, &regs, ~UINT64_C(0), e) < 0)
    return -1;
  if (remote_through_call(tracee, e) < 0)
    return -1;
  if (ptrace(PTRACE_GETREGS, tracee->tid, NULL, &regs) < 0)
    return err_sys(e, "thread %d: registers", tracee->tid);
  *result = (int64_t)regs.rax;
  return 0;
}

int tracee_syscall(struct tracee *tracee, long number, const uint64_t arguments[6], int64_t *result,
                   struct err *e)
{
  return syscall_at(tracee, tracee->remote->entry.rip, number, arguments, result, e);
}

int remote_clone(struct tracee *tracee, uint64_t flags, int64_t *result, struct err *e)
{
  uint64_t rip = tracee->remote->base + remote_offset(trampoline_clone);

  return syscall_at(tracee, rip, SYS_clone, (const uint64_t[6]){flags}, result, e);
}

/* Once the mapping is there, calls go through it. */
static void use_trampoline(struct remote *remote, uint64_t base)
{
  remote->base = base;
  remote->entry = (struct entry){
      .rip = base + remote_offset(trampoline_call),
      .rbp = base + FRAME_OFFSET + 8, /* rt_sigreturn(2) wants it behind the return address */
      .frame = base + FRAME_OFFSET,
  };
}

uint64_t remote_code_size(size_t slots)
{
  return 4096 + slots * REMOTE_FRAME_SIZE;
}

uint64_t remote_size(size_t slots)
{
  return remote_code_size(slots) + slots * TRACEE_SCRATCH_SIZE;
}

/* As large as it is to be, or where the process has a limit (RLIMIT_AS, RLIMIT_MEMLOCK) small. */
static int map_slots(struct tracee *leader, uint64_t base, int64_t *result, struct err *e)
{
  struct remote *remote = leader->remote;

  for (;; remote->slots = 1) {
    if (TRACEE_CALL(
            leader, e, result, SYS_mmap, base, remote_size(remote->slots), PROT_READ | PROT_EXEC,
            MAP_PRIVATE | MAP_ANONYMOUS | (base ? MAP_FIXED_NOREPLACE : 0), (uint64_t)-1, 0) < 0)
      return -1;
    if (remote->slots == 1 || (*result != -ENOMEM && *result != -EAGAIN))
      return 0;
  }
}

/* The code page, which tells the next tracer how many slots there are. */
static int write_trampoline(struct tracee *leader, uint64_t base, struct err *e)
{
  const uint64_t slots = leader->remote->slots;
  uint8_t page[4096];

  memcpy(page, trampoline_start, remote_offset(trampoline_end));
  memcpy(page + remote_offset(trampoline_slots), &slots, sizeof(slots));
  return tracee_write(leader, base, page, remote_offset(trampoline_end), e);
}

static int map_trampoline(struct tracee *leader, uint64_t base, struct err *e)
{
  struct remote *remote = leader->remote;
  int64_t result;

  if (map_slots(leader, base, &result, e) < 0)
    return -1;
  if (result < 0) {
    errno = (int)-result;
    return err_sys(e, "pid %d: cannot map a trampoline page", leader->pid);
  }
  if (write_trampoline(leader, (uint64_t)result, e) < 0)
    return -1;
  remote->base = (uint64_t)result;
  /* From the next call on the registers lead into the page: its frame must be there first. */
  if (write_sigframe(leader, &(struct entry){.frame = remote->base + FRAME_OFFSET}, e) < 0)
    return -1;
  use_trampoline(remote, remote->base);
  if (TRACEE_CALL(leader, e, &result, SYS_mprotect, remote->base + remote_code_size(remote->slots),
                  remote->slots * TRACEE_SCRATCH_SIZE, PROT_READ | PROT_WRITE, 0, 0, 0) < 0)
    return -1;
  if (result < 0) {
    errno = (int)-result;
    return err_sys(e, "pid %d: cannot make scratch memory", leader->pid);
  }
  return stack_give_back(leader, &remote->boot, e);
}

void remote_set_options(struct tracee *tracee)
{
  tracee->unfiltered = ptrace(PTRACE_SETOPTIONS, tracee->tid, NULL,
                              PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP) == 0;
  if (!tracee->unfiltered)
    ptrace(PTRACE_SETOPTIONS, tracee->tid, NULL, PTRACE_O_TRACESYSGOOD);
}

static int begin(struct tracee *leader, uint64_t base, size_t slots, const struct proc_maps *maps,
                 uint64_t *restorer, struct err *e)
{
  struct remote *remote;

  if (leader->xstate.size == 0 && tracee_save(leader, e) < 0)
    return -1;
  remote = remote_new(leader->pid, e);
  if (!remote)
    return -1;
  if (entry_find(leader, maps, restorer, &remote->boot, e) < 0) {
    remote_free(remote);
    return -1;
  }
  remote->entry = remote->boot;
  remote->slots = slots;
  leader->remote = remote;
  if (map_trampoline(leader, base, e) == 0)
    return 0;
  tracee_end_remote(leader, &(struct err){""});
  return -1;
}

int remote_begin_at(struct tracee *leader, uint64_t base, struct err *e)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};

  if (proc_maps_read(leader->pid, &maps, e) != 0)
    return -1;
  return begin(leader, base, 1, &maps, &(uint64_t){0}, e);
}

int tracee_begin_remote_known(struct tracee *threads, size_t count, const struct proc_maps *maps,
                              uint64_t *restorer, struct err *e)
{
  size_t slots = count < TRACEE_AT_ONCE ? count : TRACEE_AT_ONCE;

  remote_set_options(threads);
  if (begin(threads, 0, slots, maps, restorer, e) < 0)
    return -1;
  if (remote_unmap_copies(threads, count, maps, e) == 0)
    return 0;
  tracee_end_remote(threads, &(struct err){""});
  return -1;
}

int tracee_begin_remote(struct tracee *leader, struct err *e)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};

  if (proc_maps_read(leader->pid, &maps, e) != 0 || tracee_heal(leader, 1, &maps, e) < 0 ||
      tracee_save(leader, e) < 0)
    return -1;
  remote_set_options(leader);
  return begin(leader, 0, 1, &maps, &(uint64_t){0}, e);
}

void tracee_share_remote(struct tracee *threads, size_t count)
{
  threads[0].remote->shared = count > 1;
  for (size_t i = 1; i < count; i++) {
    remote_set_options(&threads[i]);
    threads[i].remote = threads[0].remote;
    threads[i].slot = i % threads[0].remote->slots;
  }
}

int remote_adopt(struct tracee *child, uint64_t base, uint64_t size, struct err *e)
{
  child->remote = remote_new(child->pid, e);
  if (!child->remote)
    return -1;
  child->remote->slots = (size - 4096) / REMOTE_SLOT_SIZE;
  use_trampoline(child->remote, base);
  return 0;
}

/* Through the vdso again, as the page cannot unmap the ground under its own feet. */
static int unmap_trampoline(struct tracee *leader, struct err *e)
{
  struct remote *remote = leader->remote;
  uint64_t base = remote->base;
  int64_t result;

  if (base == 0)
    return 0;
  if (write_sigframe(leader, &remote->boot, e) < 0)
    return -1;
  remote->entry = remote->boot;
  if (TRACEE_CALL(leader, e, &result, SYS_munmap, base, remote_size(remote->slots), 0, 0, 0, 0) < 0)
    return -1;
  remote->base = 0;
  if (result < 0) {
    errno = (int)-result;
    return err_sys(e, "pid %d: cannot unmap the trampoline page", leader->pid);
  }
  return 0;
}

int tracee_end_remote(struct tracee *leader, struct err *e)
{
  struct remote *remote = leader->remote;
  int result = 0;

  if (!remote)
    return 0;
  for (size_t i = 0; i < TRACEE_AT_ONCE; i++) {
    struct tracee *other = remote->diverted[i];

    if (other && other != leader && remote_restore(other, e) < 0)
      result = -1;
  }
  if (leader->stopped && unmap_trampoline(leader, e) < 0)
    result = -1;
  if (remote_restore(leader, e) < 0)
    result = -1;
  if (leader->stopped && !leader->diverted && stack_give_back(leader, &remote->boot, e) < 0)
    result = -1;
  leader->remote = NULL;
  remote_free(remote);
  return result;
}

uint64_t tracee_remote_base(const struct tracee *tracee)
{
  return tracee->remote ? tracee->remote->base : 0;
}

uint64_t tracee_remote_size(const struct tracee *tracee)
{
  return tracee->remote ? remote_size(tracee->remote->slots) : 0;
}

uint64_t tracee_scratch(const struct tracee *tracee)
{
  const struct remote *remote = tracee->remote;

  return remote->base + remote_code_size(remote->slots) + tracee->slot * TRACEE_SCRATCH_SIZE;
}

int tracee_die(struct tracee *tracee, int code, struct err *e)
{
  struct user_regs_struct regs;
  const uint64_t none = 0;
  int status;

  if (tracee->xstate.size == 0 && tracee_save(tracee, e) < 0)
    return -1;
  regs = remote_registers(tracee);
  regs.rax = SYS_exit_group;
  regs.rdi = (uint64_t)WEXITSTATUS(code);
  if (remote_divert(tracee, &regs, ~UINT64_C(0), e) < 0)
    return -1;
  if (WIFSIGNALED(code) && (ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(none), &none) < 0 ||
                            kill(tracee->pid, WTERMSIG(code)) < 0))
    return err_sys(e, "thread %d: signal", tracee->tid);
  /* ESRCH: SIGKILL does not wait for us. */
  if (ptrace(PTRACE_CONT, tracee->tid, NULL, NULL) < 0 && errno != ESRCH)
    return err_sys(e, "thread %d: continue", tracee->tid);
  for (;;) {
    if (waitpid(tracee->tid, &status, __WALL) < 0)
      return err_sys(e, "thread %d: wait", tracee->tid);
    if (!WIFSTOPPED(status))
      break;
    ptrace(PTRACE_CONT, tracee->tid, NULL, status >> 16 ? 0 : WSTOPSIG(status));
  }
  tracee_forget(tracee);
  return 0;
}

void tracee_forget(struct tracee *leader)
{
  free(leader->xstate.data);
  remote_free(leader->remote);
  *leader = (struct tracee){.tid = leader->tid, .pid = leader->pid};
}

int remote_unmap(struct tracee *leader, struct err *e)
{
  struct remote *remote = leader->remote;

  entry_free(&remote->boot);
  if (entry_find_plain(leader->pid, &remote->boot, e) < 0 || unmap_trampoline(leader, e) < 0)
    return -1;
  remote_free(remote);
  leader->remote = NULL;
  return 0;
}
