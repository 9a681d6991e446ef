#include "tracee/remote.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

/* Flags of asm/ucontext.h, which does not go together with <ucontext.h>. */
enum {
  UC_FP_XSTATE = 1,
  UC_SIGCONTEXT_SS = 2,
  UC_STRICT_RESTORE_SS = 4,
  XSTATE_OFFSET = 320,   /* in our frame; 64-byte aligned as XRSTOR wants it */
  XSTATE_IN_USE = 512,   /* XSTATE_BV, in the extended state: a bit for each component */
  XSTATE_LEAST = 576,    /* its legacy area and header */
  TILE_DATA_SIZE = 8192, /* of AMX */
  XSTATE_SOFTWARE = 464, /* bytes that the processor leaves to software, in the legacy area */
};

struct rt_sigframe {
  uint64_t restorer;
  ucontext_t context;
};
_Static_assert(offsetof(struct rt_sigframe, context.uc_sigmask) + 8 <= XSTATE_OFFSET, "frame");

struct fpx_software {
  uint32_t magic1;
  uint32_t extended_size;
  uint64_t features;
  uint32_t state_size;
  uint32_t padding[7];
};

static void fill_registers(greg_t *out, const struct user_regs_struct *in)
{
  out[REG_R8] = (greg_t)in->r8;
  out[REG_R9] = (greg_t)in->r9;
  out[REG_R10] = (greg_t)in->r10;
  out[REG_R11] = (greg_t)in->r11;
  out[REG_R12] = (greg_t)in->r12;
  out[REG_R13] = (greg_t)in->r13;
  out[REG_R14] = (greg_t)in->r14;
  out[REG_R15] = (greg_t)in->r15;
  out[REG_RDI] = (greg_t)in->rdi;
  out[REG_RSI] = (greg_t)in->rsi;
  out[REG_RBP] = (greg_t)in->rbp;
  out[REG_RBX] = (greg_t)in->rbx;
  out[REG_RDX] = (greg_t)in->rdx;
  out[REG_RAX] = (greg_t)in->rax;
  out[REG_RCX] = (greg_t)in->rcx;
  out[REG_RSP] = (greg_t)in->rsp;
  out[REG_RIP] = (greg_t)in->rip;
  out[REG_EFL] = (greg_t)in->eflags;
  out[REG_CSGSFS] = (greg_t)((in->cs & 0xffff) | (in->ss & 0xffff) << 48);
}

/*
 * Bytes of the extended state that the frame has. Tiles are only in use once a thread has asked for
 * them: what has room for them is not taken back from others (Documentation/arch/x86/xstate.rst).
 * It ends with the last component in use, then.
 */
static size_t state_size(const struct blob *xstate)
{
  size_t size = XSTATE_LEAST;
  uint64_t in_use;

  if (xstate->size <= TILE_DATA_SIZE)
    return xstate->size;
  memcpy(&in_use, xstate->data + XSTATE_IN_USE, sizeof(in_use));
  /* CPUID leaf 0xd, sub-leaf of a component: eax is its size, ebx where it begins. */
  for (in_use &= ~UINT64_C(3); in_use; in_use &= in_use - 1) {
    uint32_t eax = 0xd, ecx = (uint32_t)__builtin_ctzll(in_use), ebx;

    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx) : : "edx");
    size = ebx + eax > size ? ebx + eax : size;
  }
  return size < xstate->size ? size : xstate->size;
}

/* The extended state as the kernel would have put it there: NT_X86_XSTATE plus its markers. */
static int fill_xstate(const struct tracee *tracee, uint8_t *out, size_t size, struct err *e)
{
  const struct blob *xstate = &tracee->xstate;
  const uint32_t magic2 = FP_XSTATE_MAGIC2;
  struct fpx_software software = {
      .magic1 = FP_XSTATE_MAGIC1,
      .extended_size = (uint32_t)(size + sizeof(magic2)),
      .state_size = (uint32_t)size,
  };

  if (size < XSTATE_LEAST || size > SIGFRAME_SIZE - XSTATE_OFFSET - sizeof(magic2))
    return err_set(e, "thread %d: extended state of %zu bytes is not handled", tracee->tid,
                   xstate->size);
  memcpy(out, xstate->data, size);
  /* ptrace leaves the mask of enabled features (XCR0) at the start of the software bytes. */
  memcpy(&software.features, xstate->data + XSTATE_SOFTWARE, sizeof(software.features));
  memcpy(out + XSTATE_SOFTWARE, &software, sizeof(software));
  memcpy(out + size, &magic2, sizeof(magic2));
  return 0;
}

size_t sigframe_size(const struct tracee *tracee)
{
  return XSTATE_OFFSET + state_size(&tracee->xstate) + FP_XSTATE_MAGIC2_SIZE;
}

int sigframe_build(const struct tracee *tracee, uint64_t address, uint64_t restorer, void *frame,
                   struct err *e)
{
  struct rt_sigframe head = {.restorer = restorer};
  struct user_regs_struct regs = tracee->regs;
  size_t size = state_size(&tracee->xstate);

  memset(frame, 0, XSTATE_OFFSET);
  tracee_resolve_restart(&regs);
  fill_registers(head.context.uc_mcontext.gregs, &regs);
  head.context.uc_flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
  head.context.uc_mcontext.fpregs = (void *)(address + XSTATE_OFFSET); /* NOLINT: not ours */
  /* Flags that sigaltstack(2) refuses: rt_sigreturn then leaves the alternate stack alone. */
  head.context.uc_stack.ss_flags = ~0;
  memcpy(&head.context.uc_sigmask, &tracee->sigmask, sizeof(tracee->sigmask));
  memcpy(frame, &head, sizeof(head) < XSTATE_OFFSET ? sizeof(head) : XSTATE_OFFSET);
  if (fill_xstate(tracee, (uint8_t *)frame + XSTATE_OFFSET, size, e) < 0)
    return -1;
  return (int)(XSTATE_OFFSET + size + FP_XSTATE_MAGIC2_SIZE);
}

int tracee_xstate_features(uint64_t *features, uint32_t *size, struct err *e)
{
  uint32_t eax = 0xd;
  uint32_t ecx = 0;
  uint32_t low;
  uint32_t high;

  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  *features = (uint64_t)high << 32 | low;
  /* CPUID leaf 0xd: ebx is the size of the area for the features that are on. */
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(*size), "+c"(ecx) : : "edx");
  if (*size < 576)
    return err_set(e, "this processor has no extended state that can be saved");
  return 0;
}
