/* The low end of the first thread's stack: room for a signal frame, borrowed and given back. */
#ifndef CKPT_TRACEE_STACK_H
#define CKPT_TRACEE_STACK_H

#include "tracee/landmarks.h"
#include "tracee/remote.h"

/*
 * Does a word of the stack, from its pointer on (1 MiB at most), lead into the range? Then a
 * handler may have interrupted its thread there, and returns to it. What cannot be read might.
 */
bool stack_leads_to(pid_t pid, const struct proc_maps *maps, uint64_t rsp,
                    const struct range *range);

/* Do the stack's lowest bytes bear the mark of a tracer that has borrowed them? */
bool stack_has_mark(pid_t pid, const struct range *stack);

/*
 * Bytes at the low end of the stack that its process does not use: where a signal frame can stand
 * in them, or 0. There are *size, from SIGFRAME_ROOM_BELOW below the frame on; *before is what they
 * are to be given back with, the caller's to free, also with 0 (NULL before the call).
 */
uint64_t stack_find_frame(const struct tracee *tracee, const struct proc_maps *maps,
                          const struct range *stack, uint8_t **before, size_t *size);

/*
 * Marks the bytes that the entry borrows, by which the next tracer tells them, before anything else
 * is written there; and gives them back as they were, without a mark, when the thread stands
 * somewhere else. An entry that borrows none has nothing done.
 */
int stack_borrow(const struct tracee *tracee, const struct entry *entry, struct err *e);
int stack_give_back(const struct tracee *tracee, const struct entry *entry, struct err *e);

#endif
