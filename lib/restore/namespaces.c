/* What the container had changed in its namespaces, into those of the new one. */
#include "namespace/namespace.h"

#include "base/cleanup.h"
#include "restore/rebuild.h"

#include <errno.h>

int rebuild_namespaces(struct rebuild *rebuild, struct err *e)
{
  return namespaces_restore(rebuild->processes[0].threads[0].pid, &rebuild->tree, e);
}

int rebuild_namespaces_end(struct rebuild *rebuild, struct err *e)
{
  size_t count = rebuild->tree.process_count;
  AUTO_FREE struct namespace_member *members = calloc(count, sizeof(*members));
  struct namespace_owner owner = {
      .init = rebuild->processes[0].threads[0].pid,
      .members = members,
      .tree = &rebuild->tree,
  };

  if (!members)
    return err_sys(e, "namespaces");
  for (size_t i = 0; i < count; i++) {
    struct rebuilt *which = &rebuild->processes[i];

    if (which->mm)
      members[owner.member_count++] =
          (struct namespace_member){which->process->pid, which->threads, which->thread_count};
  }
  return namespaces_complete(&owner, e);
}
