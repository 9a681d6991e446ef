/* What a tracer that was killed left behind: its mapping, and threads that still stand in it. */
#include "base/cleanup.h"
#include "tracee/remote.h"
#include "tracee/stack.h"

#include <errno.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

extern const uint8_t trampoline_start[], trampoline_return[], trampoline_slots[];

enum { COPIES = 8 };

static size_t find_copies(pid_t pid, const struct proc_maps *maps,
                          struct remote_copy copies[COPIES])
{
  return entry_find_copies(pid, maps, trampoline_start, remote_offset(trampoline_slots), copies,
                           COPIES);
}

/* Does it stand in one of the copies? Then the registers lead to its rt_sigreturn(2). */
static bool find_return(const struct remote_copy *copies, size_t count,
                        struct user_regs_struct *regs)
{
  for (size_t i = 0; i < count; i++) {
    if (regs->rip >= copies[i].base && regs->rip < copies[i].base + 4096) {
      regs->rip = copies[i].base + remote_offset(trampoline_return);
      return true;
    }
  }
  return false;
}

/* Through the signal frame that its registers lead to, with which its signal mask comes back. */
static int return_by(struct tracee *tracee, struct user_regs_struct *regs, struct err *e)
{
  const uint64_t all = ~UINT64_C(0); /* the calls of a handler are not the one that is waited for */

  regs->orig_rax = (uint64_t)-1;
  remote_set_options(tracee);
  if (ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(all), &all) < 0)
    return err_sys(e, "thread %d: set signal mask", tracee->tid);
  if (ptrace(PTRACE_SETREGS, tracee->tid, NULL, regs) < 0)
    return err_sys(e, "thread %d: set registers", tracee->tid);
  return remote_through_call(tracee, e);
}

int tracee_heal(struct tracee *threads, size_t count, const struct proc_maps *maps, struct err *e)
{
  struct remote_copy copies[COPIES];
  size_t found = find_copies(threads->pid, maps, copies);

  for (size_t i = 0; i < count && (i == 0 || found); i++) {
    struct user_regs_struct regs;

    if (ptrace(PTRACE_GETREGS, threads[i].tid, NULL, &regs) < 0)
      return err_sys(e, "thread %d: registers", threads[i].tid);
    /* The first one makes calls before there is a mapping. */
    if ((find_return(copies, found, &regs) ||
         (i == 0 && entry_find_return(&threads[i], maps, &regs))) &&
        return_by(&threads[i], &regs, e) < 0)
      return -1;
  }
  return 0;
}

/*
 * A thread whose tracer died before its signals were blocked may be in a handler, which returns to
 * the copy. 1: one is, 0: none.
 */
static int is_returned_to(const struct tracee *threads, size_t count, const struct proc_maps *maps,
                          uint64_t code, struct err *e)
{
  for (size_t i = 0; i < count; i++) {
    struct user_regs_struct regs = threads[i].regs; /* the first one is diverted already */

    if (i > 0 && ptrace(PTRACE_GETREGS, threads[i].tid, NULL, &regs) < 0)
      return err_sys(e, "thread %d: registers", threads[i].tid);
    if (stack_leads_to(threads->pid, maps, regs.rsp, &(struct range){code, code + 4096}))
      return 1;
  }
  return 0;
}

int remote_unmap_copies(struct tracee *threads, size_t count, const struct proc_maps *maps,
                        struct err *e)
{
  struct remote_copy copies[COPIES];
  size_t found = find_copies(threads->pid, maps, copies);
  int64_t result;

  for (size_t i = 0; i < found; i++) {
    int needed = is_returned_to(threads, count, maps, copies[i].base, e);

    if (needed < 0 || (needed == 0 && TRACEE_CALL(threads, e, &result, SYS_munmap, copies[i].base,
                                                  remote_size(copies[i].slots), 0, 0, 0, 0) < 0))
      return -1;
  }
  return 0;
}
