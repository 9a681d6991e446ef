#include "tracee/signals.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>

enum { PEEK_SHARED = 1, PEEK_COUNT = 32 };

static int add_pending(struct pending_signal **pending, size_t *count, const siginfo_t *info,
                       struct err *e)
{
  struct pending_signal *added = list_append(pending, count, sizeof(*added));

  if (added)
    added->siginfo.data = malloc(sizeof(*info));
  if (!added || !added->siginfo.data)
    return err_sys(e, "pending signals");
  memcpy(added->siginfo.data, info, sizeof(*info));
  added->siginfo.size = sizeof(*info);
  return 0;
}

int tracee_pending(const struct tracee *tracee, bool shared, struct pending_signal **pending,
                   size_t *count, struct err *e)
{
  struct __ptrace_peeksiginfo_args arguments = {
      .flags = shared ? PEEK_SHARED : 0,
      .nr = PEEK_COUNT,
  };
  siginfo_t infos[PEEK_COUNT];
  long got;

  do {
    got = ptrace(PTRACE_PEEKSIGINFO, tracee->tid, &arguments, infos);
    if (got < 0)
      return err_sys(e, "pending signals");
    for (long i = 0; i < got; i++) {
      if (add_pending(pending, count, &infos[i], e) < 0)
        return -1;
    }
    arguments.off += (uint64_t)got;
  } while (got > 0);
  return 0;
}

int tracee_rseq(const struct tracee *tracee, uint64_t *address, uint32_t *size, uint32_t *signature,
                uint32_t *flags, struct err *e)
{
  struct __ptrace_rseq_configuration configuration = {0};

  if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tracee->tid, sizeof(configuration), &configuration) < 0)
    return err_sys(e, "restartable sequences");
  *address = configuration.rseq_abi_pointer;
  *size = configuration.rseq_abi_size;
  *signature = configuration.signature;
  *flags = configuration.flags;
  return 0;
}
