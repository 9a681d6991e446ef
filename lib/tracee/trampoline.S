/*
 * The code of the trampoline page. Its entries:
 *   trampoline_call:  one system call. The tracer stops the thread at its exit; when nobody traces
 *                     any more, the thread carries on through rt_sigreturn(2) with the signal
 *                     frame that rbp points to, that is, with its own registers.
 *   trampoline_clone: the same for a clone whose child must never run: without a tracer it exits.
 *   trampoline_batch: rbx points to an array of {number, six arguments, result}, r12 counts them.
 *                     Stops by int3 at the end or behind the first call that failed. Only for
 *                     processes that die with their tracer.
 *   trampoline_ask:   the same array, whose calls are all made. At the end the thread sends itself
 *                     the signal r13, at which the tracer stops it; when nobody traces any more the
 *                     signal is ignored, and the thread carries on like one from trampoline_call.
 *                     r13 is 0 when there is none that it could send: it stops at every call.
 */
    /* The call that rbx points to; rbx and r12 move on, the flags say whether it was the last. */
    .macro call_next
    movq    (%rbx), %rax
    movq    8(%rbx), %rdi
    movq    16(%rbx), %rsi
    movq    24(%rbx), %rdx
    movq    32(%rbx), %r10
    movq    40(%rbx), %r8
    movq    48(%rbx), %r9
    syscall
    movq    %rax, 56(%rbx)
    addq    $64, %rbx
    decq    %r12
    .endm

    /*
     * Until here the stack is the thread's own: if its tracer died before the signals were blocked
     * there is a handler to run on it. The frame has no room for one.
     */
    .macro return
    movl    $15, %eax
    movq    %rbp, %rsp
    syscall
    ud2
    .endm

    .section .rodata
    .globl trampoline_start, trampoline_call, trampoline_return, trampoline_clone, trampoline_batch, trampoline_ask, trampoline_slots, trampoline_end
    .hidden trampoline_start, trampoline_call, trampoline_return, trampoline_clone, trampoline_batch, trampoline_ask, trampoline_slots, trampoline_end

trampoline_start:
trampoline_call:
    syscall
trampoline_return:
    return

    .balign 16
trampoline_clone:
    syscall
    testq   %rax, %rax
    jz      1f
    return
1:  movl    $231, %eax
    xorl    %edi, %edi
    syscall
    ud2

    .balign 16
trampoline_batch:
    call_next
    jz      1f
    cmpq    $-4096, %rax
    jbe     trampoline_batch
1:  int3

    .balign 16
trampoline_ask:
    call_next
    jnz     trampoline_ask
    movl    $186, %eax /* gettid */
    syscall
    movl    %r13d, %esi
    testl   %esi, %esi
    jz      1f
    movl    %eax, %edi
    movl    $200, %eax /* tkill */
    syscall
1:  return

    .balign 8
trampoline_slots: /* how many the mapping has; filled in where it is mapped */
    .quad   0
trampoline_end:

    .section .note.GNU-stack, "", @progbits
