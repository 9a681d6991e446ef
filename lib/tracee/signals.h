/* What ptrace(2) tells of a stopped thread besides its registers. */
#ifndef CKPT_TRACEE_SIGNALS_H
#define CKPT_TRACEE_SIGNALS_H

#include "state/model.h"
#include "tracee/tracee.h"

/*
 * Pending signals, of the whole process (shared) or of the thread: a list that the caller owns
 * (PTRACE_PEEKSIGINFO).
 */
int tracee_pending(const struct tracee *tracee, bool shared, struct pending_signal **pending,
                   size_t *count, struct err *e);

/* The registration of rseq(2); address 0: none (PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13). */
int tracee_rseq(const struct tracee *tracee, uint64_t *address, uint32_t *size, uint32_t *signature,
                uint32_t *flags, struct err *e);

#endif
