#include "tracee/tracee.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>

/* include/linux/errno.h: what an interrupted call leaves in rax for the kernel itself. */
enum {
  ERESTARTSYS = 512,
  ERESTARTNOINTR = 513,
  ERESTARTNOHAND = 514,
  ERESTART_RESTARTBLOCK = 516,
};

/* Does the call mean the same when it is made anew from its arguments, however late? */
static bool restarts_from_arguments(const struct user_regs_struct *regs)
{
  if (regs->orig_rax == SYS_futex) {
    uint64_t command = regs->rsi & FUTEX_CMD_MASK;

    /* FUTEX_WAIT's timeout is relative, the others' is a point in time; r10 is its address. */
    return command != FUTEX_WAIT || regs->r10 == 0;
  }
  return regs->orig_rax == SYS_poll && (int32_t)regs->rdx < 0;
}

void tracee_resolve_restart(struct user_regs_struct *regs)
{
  if ((int64_t)regs->orig_rax < 0)
    return;
  switch (-(int64_t)regs->rax) {
  case ERESTART_RESTARTBLOCK:
    if (!restarts_from_arguments(regs)) {
      regs->rax = (uint64_t)-EINTR;
      break;
    }
    /* fall through */
  case ERESTARTSYS:
  case ERESTARTNOINTR:
  case ERESTARTNOHAND:
    regs->rax = regs->orig_rax;
    regs->rip -= 2; /* the length of `syscall` */
    break;
  default:
    break;
  }
  regs->orig_rax = (uint64_t)-1;
}
