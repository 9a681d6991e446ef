/* A container by its id, its name or the beginning of its id, in the registries of all runtimes. */
#include "container/container.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "container/names.h"
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

/* What a container has of what was asked for: the better is behind the worse. */
enum match { MATCH_PREFIX, MATCH_NAME, MATCH_ID };

struct candidate {
  char *registry;
  char *id;
  enum match match;
};

struct search {
  const char *wanted;
  struct id_list named; /* ids that engines know by the wanted name */
  bool any_name;        /* also what is no container id itself, but a file that begins with one */
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
  id_list_free(&search->named);
}

/* -1: none */
static int match(const struct search *search, const char *id)
{
  if (strcmp(id, search->wanted) == 0)
    return MATCH_ID;
  if (id_list_has(&search->named, id))
    return MATCH_NAME;
  return strncmp(id, search->wanted, strlen(search->wanted)) == 0 ? MATCH_PREFIX : -1;
}

static int add(struct search *search, const char *registry, const char *id, struct err *e)
{
  struct candidate *candidate = list_append(&search->items, &search->count, sizeof(*candidate));

  if (!candidate)
    return err_sys(e, "containers");
  candidate->registry = strdup(registry);
  candidate->id = strdup(id);
  candidate->match = (enum match)match(search, id);
  return candidate->registry && candidate->id ? 0 : err_sys(e, "containers");
}

/* All that match in any way. A registry that is not there has none. */
static int search_registry(struct search *search, const char *registry, struct err *e)
{
  AUTO_CLOSEDIR DIR *directory = opendir(registry);
  struct dirent *entry;

  if (!directory)
    return errno == ENOENT || errno == ENOTDIR ? 0 : err_sys(e, "%s", registry);
  while ((entry = readdir(directory))) {
    struct err ignored;

    if (match(search, entry->d_name) >= 0 &&
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

static void list_candidates(const struct search *search, enum match best, struct err *e)
{
  err_set(e, "\"%s\" is ambiguous:", search->wanted);
  for (size_t i = 0; i < search->count; i++) {
    const struct candidate *one = &search->items[i];
    size_t used = strlen(e->text);

    if (one->match == best)
      snprintf(e->text + used, sizeof(e->text) - used, best == MATCH_ID ? " %s (%s)" : " %s",
               one->id, one->registry);
  }
}

/* The only one that matches best; NULL none, or several: then e lists them. */
static const struct candidate *choose(const struct search *search, struct err *e)
{
  const struct candidate *found = NULL;
  size_t count = 0;

  for (size_t i = 0; i < search->count; i++) {
    const struct candidate *one = &search->items[i];

    if (!found || one->match > found->match)
      count = 0;
    if (count == 0)
      found = one;
    count += one->match == found->match;
  }
  if (count > 1)
    list_candidates(search, found->match, e);
  return count == 1 ? found : NULL;
}

/* Nobody has it: an engine may know it all the same. */
static void explain_none(const struct search *search, struct err *e)
{
  if (search->named.count)
    err_set(e, "container %s (%.12s) is not running", search->wanted, search->named.items[0]);
  else if (e->text[0] == '\0')
    err_set(e, "there is no container \"%s\"", search->wanted);
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
  struct err unnamed = {""};
  const struct candidate *chosen;

  if (container_check_id(id, e) < 0)
    return -1;
  names_find(id, &search.named, &unnamed); /* an engine's damaged list is told if it is missed */
  if ((registry ? search_registry(&search, registry, e) : search_defaults(&search, e)) < 0)
    return -1;
  chosen = choose(&search, e);
  if (search.count == 0) {
    *e = unnamed;
    explain_none(&search, e);
    if (!registry)
      explain_sandbox(id, e);
  }
  if (!chosen)
    return -1;
  if (container_read(chosen->registry, chosen->id, found, e) < 0 || check_status(found, e) < 0) {
    container_free(found);
    return -1;
  }
  return 0;
}
