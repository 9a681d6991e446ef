#include "namespace/namespace.h"

#include "base/cleanup.h"
#include "proc/proc.h"

#include <errno.h>
#include <string.h>

static const struct namespace_type *const types[] = {
    &namespace_uts,
    &namespace_net,
    &namespace_ipc,
    NULL,
};

int namespaces_check(pid_t init, namespace_filter *is_own, void *context, json_t *obstacles,
                     struct err *e)
{
  for (size_t i = 0; types[i]; i++) {
    if (types[i]->check && is_own(context, types[i]->kind) &&
        types[i]->check(init, obstacles, e) < 0)
      return -1;
  }
  return 0;
}

json_t *namespaces_prepare(pid_t init, namespace_filter *is_own, void *context, struct err *e)
{
  json_t *prepared = json_object();

  if (!prepared)
    err_set(e, "out of memory");
  for (size_t i = 0; prepared && types[i]; i++) {
    json_t *one;

    if (!types[i]->prepare || !is_own(context, types[i]->kind))
      continue;
    one = types[i]->prepare(init, e);
    if (!one || json_object_set_new(prepared, types[i]->name, one) < 0) {
      json_decref(prepared);
      return NULL;
    }
  }
  return prepared;
}

int namespaces_dump(const struct namespace_owner *owner, namespace_filter *is_own, void *context,
                    struct tree *tree, struct err *e)
{
  for (size_t i = 0; types[i]; i++) {
    struct namespace_state *state;

    if (!is_own(context, types[i]->kind))
      continue;
    state = list_append(&tree->namespaces, &tree->namespace_count, sizeof(*state));
    if (state)
      state->type = strdup(types[i]->name);
    if (!state || !state->type)
      return err_sys(e, "namespaces");
    state->detail = types[i]->dump(owner, e);
    if (!state->detail)
      return -1;
  }
  return 0;
}

static const struct namespace_type *type_of(const struct namespace_state *state, struct err *e)
{
  for (size_t i = 0; types[i]; i++) {
    if (strcmp(types[i]->name, state->type) == 0)
      return types[i];
  }
  err_set(e, "namespace %s: is of a type that is not known here", state->type);
  return NULL;
}

/* Never the machine's own hostname, loopback device, ... */
static int check_own(pid_t init, const struct namespace_type *type, struct err *e)
{
  int differs = proc_namespace_differs(init, getpid(), type->kind, e);

  if (differs < 0)
    return -1;
  return differs ? 0
                 : err_set(e,
                           "the image has the state of a %s namespace, but the new container has "
                           "none of its own; add one to its bundle",
                           type->kind);
}

int namespaces_restore(pid_t init, const struct tree *tree, struct err *e)
{
  for (size_t i = 0; i < tree->namespace_count; i++) {
    const struct namespace_type *type = type_of(&tree->namespaces[i], e);

    if (!type || check_own(init, type, e) < 0)
      return -1;
  }
  for (size_t i = 0; i < tree->namespace_count; i++) {
    const struct namespace_state *state = &tree->namespaces[i];

    if (type_of(state, e)->restore(init, state->detail, e) < 0)
      return err_prefix(e, "namespace %s", state->type);
  }
  return 0;
}

int namespaces_complete(const struct namespace_owner *owner, struct err *e)
{
  const struct tree *tree = owner->tree;

  for (size_t i = 0; i < tree->namespace_count; i++) {
    const struct namespace_state *state = &tree->namespaces[i];
    const struct namespace_type *type = type_of(state, e);

    if (!type)
      return -1;
    if (type->complete && type->complete(owner, state->detail, e) < 0)
      return err_prefix(e, "namespace %s", state->type);
  }
  return 0;
}
