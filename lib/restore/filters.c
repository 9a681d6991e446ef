/*
 * Seccomp filters. What the container runtime has installed (or a parent, before it forked) is in
 * force already, but rests while we trace; the rest of the image's is added to it.
 */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "proc/proc.h"
#include "tracee/seccomp.h"

#include <linux/prctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/*
 * The bundle's profile is that of the new init, also where the runtime had compiled it to another
 * order of instructions for who entered later.
 */
static const struct seccomp_filter *wanted(const struct rebuild *rebuild,
                                           const struct process *process, size_t i)
{
  return i < rebuild->bounds.filter_count ? &rebuild->processes[0].process->filters[i]
                                          : &process->filters[i];
}

/* Are those that are there the first of the wanted ones? */
static bool begins_so(const struct rebuild *rebuild, const struct process *process,
                      const struct seccomp_filter *now, size_t count)
{
  const struct process *root = rebuild->processes[0].process;

  if (count > process->filter_count || rebuild->bounds.filter_count > process->filter_count ||
      rebuild->bounds.filter_count > root->filter_count)
    return false;
  for (size_t i = 0; i < count; i++) {
    if (!seccomp_filters_equal(wanted(rebuild, process, i), &now[i], 1))
      return false;
  }
  return true;
}

static int add_missing(const struct rebuild *rebuild, const struct process *process,
                       struct tracee *leader, const struct seccomp_filter *now, size_t count,
                       struct err *e)
{
  if (!begins_so(rebuild, process, now, count))
    return err_set(e, "the seccomp profile of the bundle is not the one at the checkpoint");
  /* Without this, or the capability that the process may not have, no filter is taken. */
  if (process->filter_count > count && process->credentials.no_new_privs &&
      call(leader, e, "no_new_privs", NULL, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0) < 0)
    return -1;
  for (size_t i = count; i < process->filter_count; i++) {
    if (tracee_add_filter(leader, wanted(rebuild, process, i), e) < 0)
      return -1;
  }
  return 0;
}

/* Is it under filters that others have made? Only who may read them can tell which. */
static int is_filtered(const struct tracee *leader, struct err *e)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};

  if (proc_status_read(leader->tid, &status, e) != 0)
    return err_prefix(e, "thread %d", leader->tid);
  return status.seccomp != 0;
}

/*
 * Runtimes compile a profile anew for each container, and runc puts its architectures in an order
 * that depends on chance (a map of Go's): the same profile is not always the same instructions.
 */
int rebuild_is_reordered(const struct rebuilt *root, size_t *count, struct err *e)
{
  const struct process *process = root->process;
  struct seccomp_filter *now = NULL;
  int result = is_filtered(&root->threads[0], e);

  *count = 0;
  if (result <= 0)
    return result;
  result = tracee_filters(&root->threads[0], &now, count, e);
  if (result == 0)
    result = *count == 1 && process->filter_count &&
             now[0].program.size == process->filters[0].program.size &&
             !seccomp_filters_equal(now, process->filters, 1);
  seccomp_filters_free(now, *count);
  return result;
}

int rebuild_filters(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  struct tracee *leader = &which->threads[0];
  struct seccomp_filter *now = NULL;
  size_t count = 0;
  int result = 0;

  if (which->process->filter_count == 0) {
    /* A plain tree's are those that we are under ourselves. */
    int filtered = rebuild->tree.checkpoint.runtime ? is_filtered(leader, e) : 0;

    if (filtered <= 0)
      return filtered;
  }
  result = tracee_filters(leader, &now, &count, e);
  if (result == 0)
    result = add_missing(rebuild, which->process, leader, now, count, e);
  seccomp_filters_free(now, count);
  return result;
}
