/* A container by its id, or the beginning of it, in the registries of all runtimes. */
#include "container/container.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "state/model.h"

#include <errno.h>
#include <glob.h>
#include <string.h>

/* Where runtimes and the engines above them keep containers by default: patterns of glob(7). */
static const char *const roots_of_root[] = {
    "/run/ckpt",
    "/run/runc",
    "/run/crun",
    "/run/docker/runtime-runc/moby",
    "/run/docker/runtime-crun/moby",
    "/run/containerd/runc/*",
};
static const char *const roots_of_user[] = {"ckpt", "runc", "crun"}; /* in $XDG_RUNTIME_DIR */

/* Runtimes whose containers are no Linux process trees. */
static const struct {
  const char *registry;
  const char *runtime;
  const char *remedy;
} sandboxes[] = {
    {"/run/runsc", "gVisor", "use `runsc checkpoint`"},
    {"/run/docker/runtime-runsc/moby", "gVisor", "use `runsc checkpoint`"},
    {"/run/containerd/runsc/*", "gVisor", "use `runsc checkpoint`"},
    {"/run/vc/sbs", "Kata Containers", "snapshot the virtual machine with its hypervisor"},
    {"/run/kata", "Kata Containers", "snapshot the virtual machine with its hypervisor"},
};

struct candidate {
  char *registry;
  char *id;
};

struct search {
  const char *wanted;
  bool any_name; /* also what is no container id itself, but a file that begins with one */
  struct candidate *items;
  size_t count;
};

static void search_free(struct search *search)
{
  for (size_t i = 0; i < search->count; i++) {
    free(search->items[i].registry);
    free(search->items[i].id);
  }
  free(search->items);
}

static bool begins(const char *name, const char *wanted)
{
  return strncmp(name, wanted, strlen(wanted)) == 0;
}

static int add(struct search *search, const char *registry, const char *id, struct err *e)
{
  struct candidate *candidate = list_append(&search->items, &search->count, sizeof(*candidate));

  if (!candidate)
    return err_sys(e, "containers");
  candidate->registry = strdup(registry);
  candidate->id = strdup(id);
  return candidate->registry && candidate->id ? 0 : err_sys(e, "containers");
}

/* All whose id begins as wanted. A registry that is not there has none. */
static int search_registry(struct search *search, const char *registry, struct err *e)
{
  AUTO_CLOSEDIR DIR *directory = opendir(registry);
  struct dirent *entry;

  if (!directory)
    return errno == ENOENT || errno == ENOTDIR ? 0 : err_sys(e, "%s", registry);
  while ((entry = readdir(directory))) {
    struct err ignored;

    if (begins(entry->d_name, search->wanted) &&
        (search->any_name || container_check_id(entry->d_name, &ignored) == 0) &&
        add(search, registry, entry->d_name, e) < 0)
      return -1;
  }
  return 0;
}

static int search_pattern(struct search *search, const char *pattern, struct err *e)
{
  glob_t found = {0};
  int result = 0;

  if (glob(pattern, GLOB_NOSORT, NULL, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc && result == 0; i++)
      result = search_registry(search, found.gl_pathv[i], e);
  }
  globfree(&found);
  return result;
}

static int search_defaults(struct search *search, struct err *e)
{
  const char *runtime = getenv("XDG_RUNTIME_DIR");

  for (size_t i = 0; i < ARRAY_LEN(roots_of_root); i++) {
    struct err denied = {""};

    /* Another user's registries are not ours to read. */
    if (search_pattern(search, roots_of_root[i], &denied) < 0 && geteuid() == 0) {
      *e = denied;
      return -1;
    }
  }
  for (size_t i = 0; i < ARRAY_LEN(roots_of_user) && runtime && runtime[0] == '/'; i++) {
    AUTO_FREE char *registry = io_format(e, "%s/%s", runtime, roots_of_user[i]);

    if (!registry || search_registry(search, registry, e) < 0)
      return -1;
  }
  return 0;
}

/* The exact id, else the only one with that prefix; NULL none, or several: then e lists them. */
static const struct candidate *choose(const struct search *search, struct err *e)
{
  size_t exact = 0;
  const struct candidate *found = search->count == 1 ? search->items : NULL;

  for (size_t i = 0; i < search->count; i++) {
    if (strcmp(search->items[i].id, search->wanted) == 0) {
      exact++;
      found = &search->items[i];
    }
  }
  if (search->count == 0)
    err_set(e, "there is no container \"%s\"", search->wanted);
  if (search->count == 0 || exact == 1 || (exact == 0 && search->count == 1))
    return found;
  err_set(e, "\"%s\" is ambiguous:", search->wanted);
  for (size_t i = 0; i < search->count; i++) {
    const struct candidate *one = &search->items[i];
    size_t used = strlen(e->text);

    if (exact == 0 || strcmp(one->id, search->wanted) == 0)
      snprintf(e->text + used, sizeof(e->text) - used, exact ? " %s (%s)" : " %s", one->id,
               one->registry);
  }
  return NULL;
}

/* One that is not found may be another kind of container, which has its own way. */
static void explain_sandbox(const char *id, struct err *e)
{
  for (size_t i = 0; i < ARRAY_LEN(sandboxes); i++) {
    struct search search = {.wanted = id, .any_name = true};

    if (search_pattern(&search, sandboxes[i].registry, &(struct err){""}) == 0 && search.count)
      err_set(e, "container %s runs under %s, not as processes of this kernel: %s", id,
              sandboxes[i].runtime, sandboxes[i].remedy);
    search_free(&search);
  }
}

static int check_status(const struct container *container, struct err *e)
{
  if (container->status == CONTAINER_STOPPED)
    return err_set(e, "container %s is stopped", container->id);
  if (container->status == CONTAINER_CREATED)
    return err_set(e, "container %s is created, but not started: there is nothing to save yet",
                   container->id);
  return 0;
}

int container_find(const char *registry, const char *id, struct container *found, struct err *e)
{
  CLEANUP(search_free) struct search search = {.wanted = id};
  const struct candidate *chosen;

  if (container_check_id(id, e) < 0)
    return -1;
  if ((registry ? search_registry(&search, registry, e) : search_defaults(&search, e)) < 0)
    return -1;
  chosen = choose(&search, e);
  if (!chosen) {
    if (search.count == 0 && !registry)
      explain_sandbox(id, e);
    return -1;
  }
  if (container_read(chosen->registry, chosen->id, found, e) < 0 || check_status(found, e) < 0) {
    container_free(found);
    return -1;
  }
  return 0;
}
