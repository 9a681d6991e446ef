/* Seccomp filters of a stopped thread: seccomp(2), ptrace(2) PTRACE_SECCOMP_GET_FILTER. */
#ifndef CKPT_TRACEE_SECCOMP_H
#define CKPT_TRACEE_SECCOMP_H

#include "state/model.h"
#include "tracee/tracee.h"

/*
 * The filters in force, in the order in which they were installed. Wants CAP_SYS_ADMIN, and that
 * we are under no filter ourselves. The list and its programs are the caller's to free, also after
 * a failure (seccomp_filters_free).
 */
int tracee_filters(const struct tracee *tracee, struct seccomp_filter **filters, size_t *count,
                   struct err *e);
void seccomp_filters_free(struct seccomp_filter *filters, size_t count);

/* Are the first `count` filters of both lists the same, byte for byte? */
bool seccomp_filters_equal(const struct seccomp_filter *a, const struct seccomp_filter *b,
                           size_t count);

/*
 * May we suspend and read filters (PTRACE_O_SUSPEND_SECCOMP)? That wants CAP_SYS_ADMIN in the
 * initial user namespace; a child of ours is asked.
 */
bool seccomp_can_suspend(void);

/* Adds one by a remote call; filters of ours rest while the thread is traced. */
int tracee_add_filter(struct tracee *tracee, const struct seccomp_filter *filter, struct err *e);

#endif
