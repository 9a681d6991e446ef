/*
 * The seccomp profile of a runtime's container. Runtimes compile it anew for each container, and
 * runc puts a profile's architectures in an order that depends on chance (libcontainer/seccomp/
 * patchbpf, a Go map): the same profile is not always the same instructions. What counts are the
 * instructions, so that we have containers made until one has those of the image.
 */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "tracee/seccomp.h"

#include <sys/ptrace.h>
#include <sys/wait.h>

enum { TRIES = 64 }; /* of orders, of which there are a few */

struct filter_list {
  struct seccomp_filter *items;
  size_t count;
};

static void list_free(struct filter_list *list)
{
  seccomp_filters_free(list->items, list->count);
}

/* The waiting init is stopped for a moment. */
static int read_filters(pid_t init, struct filter_list *list, struct err *e)
{
  struct tracee tracee = {.pid = init, .tid = init};
  int status;
  int result;

  if (ptrace(PTRACE_SEIZE, init, NULL, PTRACE_O_SUSPEND_SECCOMP) < 0 ||
      ptrace(PTRACE_INTERRUPT, init, NULL, NULL) < 0 || waitpid(init, &status, __WALL) < 0)
    return err_sys(e, "the container's init: cannot be traced");
  if (!WIFSTOPPED(status))
    return err_set(e, "the container's init: has ended before it was started");
  result = tracee_filters(&tracee, &list->items, &list->count, e);
  if (ptrace(PTRACE_DETACH, init, NULL, NULL) < 0 && result == 0)
    return err_sys(e, "the container's init");
  return result;
}

/* 1: the same profile in other instructions. A runtime may install it only at the start. */
static int is_reordered(const struct process *root, pid_t init, struct err *e)
{
  CLEANUP(list_free) struct filter_list now = {0};

  if (root->filter_count == 0)
    return 0;
  if (read_filters(init, &now, e) < 0)
    return -1;
  return now.count == 1 && now.items[0].program.size == root->filters[0].program.size &&
         !seccomp_filters_equal(now.items, root->filters, 1);
}

int rebuild_profile(const struct rebuild *rebuild, pid_t *init, struct err *e)
{
  int result = is_reordered(rebuild->processes[0].process, *init, e);

  for (int i = 0; i < TRIES && result > 0; i++) {
    if (oci_delete(&rebuild->oci, e) < 0 || oci_create(&rebuild->oci, init, e) < 0)
      return -1;
    result = is_reordered(rebuild->processes[0].process, *init, e);
  }
  return result < 0 ? -1 : 0;
}
