/* Namespaces that are the container's own: nobody but the tree is in them. */
#include "namespace/namespace.h"

#include "base/cleanup.h"
#include "dump/capture.h"

#include <errno.h>
#include <string.h>

/* Is somebody in it who is not of the tree? Of a pod's namespaces nothing is one container's. */
static int has_strangers(const struct capture *capture, const struct proc_list *all,
                         const char *kind)
{
  pid_t init = capture->options->pid;
  struct err ignored;

  for (size_t i = 0; i < all->count; i++) {
    if (proc_namespace_differs(all->items[i], init, kind, &ignored) == 0 &&
        !capture->objects.in_tree(&capture->objects, all->items[i]))
      return true;
  }
  return false;
}

static bool owns_namespace(void *context, const char *kind)
{
  const struct capture *capture = context;

  for (size_t i = 0; i < capture->own_namespace_count; i++) {
    if (strcmp(capture->own_namespaces[i], kind) == 0)
      return true;
  }
  return false;
}

int capture_find_namespaces(struct capture *capture, struct err *e)
{
  static const char *const kinds[] = {"uts", "net", "ipc"};
  CLEANUP(proc_list_free) struct proc_list all = {0};

  if (!capture->options->runtime)
    return 0;
  if (proc_all(&all, e) < 0)
    return -1;
  for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
    int differs = proc_namespace_differs(capture->options->pid, getpid(), kinds[i], e);

    if (differs < 0)
      return -1;
    if (differs && !has_strangers(capture, &all, kinds[i]))
      capture->own_namespaces[capture->own_namespace_count++] = kinds[i];
  }
  capture->objects.own_ipc = owns_namespace(capture, "ipc");
  return 0;
}

int capture_check_namespaces(struct capture *capture, struct err *e)
{
  CLEANUP(json_decrefp) json_t *found = json_array();
  pid_t init = capture->options->pid;
  json_t *obstacle;
  size_t i;

  if (!found)
    return err_set(e, "out of memory");
  capture->prepared = namespaces_prepare(init, owns_namespace, capture, e);
  if (!capture->prepared || namespaces_check(init, owns_namespace, capture, found, e) < 0)
    return -1;
  json_array_foreach(found, i, obstacle)
  {
    const char *object = json_string_value(json_object_get(obstacle, "object"));
    struct err why = {""};

    err_set(&why, "%s", json_string_value(json_object_get(obstacle, "reason")));
    if (capture_obstacle(capture, init, object, &why) < 0)
      return err_set(e, "out of memory");
  }
  return 0;
}

static int add_file(void *context, const struct object_source *object, struct err *e)
{
  return capture_object(context, object, e);
}

int capture_namespaces(struct capture *capture, struct err *e)
{
  AUTO_FREE struct namespace_member *members = calloc(capture->source_count, sizeof(*members));
  struct namespace_owner owner = {
      .init = capture->options->pid,
      .members = members,
      .tree = &capture->tree,
      .prepared = capture->prepared,
      .add_file = add_file,
      .context = capture,
  };

  if (capture->own_namespace_count == 0)
    return 0;
  if (!members)
    return err_sys(e, "namespaces");
  for (size_t i = 0; i < capture->source_count; i++) {
    const struct source *source = &capture->sources[i];

    if (!source->zombie)
      members[owner.member_count++] = (struct namespace_member){
          source->status.ns_pid[capture->depth], source->threads, source->thread_count};
  }
  return namespaces_dump(&owner, owns_namespace, capture, &capture->tree, e);
}
