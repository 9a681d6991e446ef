#include "container/names.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "state/model.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <jansson.h>
#include <string.h>

enum { NAMES_LIMIT = 64 << 20 };

/*
 * Where an engine has its lists (patterns of glob(7), below a directory if it is a variable's), and
 * what their members are called. A list is one container, or an array of them; a container has one
 * name, or an array of them.
 */
static const struct source {
  const char *variable, *pattern;
  const char *id, *name;
} sources[] = {
    /* podman: containers/storage, whatever its driver */
    {NULL, "/var/lib/containers/storage/*-containers/containers.json", "id", "names"},
    {NULL, "/run/containers/storage/*-containers/volatile-containers.json", "id", "names"},
    {"HOME", "/.local/share/containers/storage/*-containers/containers.json", "id", "names"},
    {"XDG_RUNTIME_DIR", "/containers/*-containers/volatile-containers.json", "id", "names"},
    {NULL, "/var/lib/docker/containers/*/config.v2.json", "ID", "Name"},
};

void id_list_free(struct id_list *ids)
{
  for (size_t i = 0; i < ids->count; i++)
    free(ids->items[i]);
  free(ids->items);
}

bool id_list_has(const struct id_list *ids, const char *id)
{
  for (size_t i = 0; i < ids->count; i++) {
    if (strcmp(ids->items[i], id) == 0)
      return true;
  }
  return false;
}

/* Docker writes a slash in front. */
static bool is_name(const json_t *value, const char *name)
{
  const char *text = json_string_value(value);

  return text && strcmp(text + (text[0] == '/'), name) == 0;
}

static bool has_name(const json_t *value, const char *name)
{
  size_t i;
  const json_t *one;

  json_array_foreach(value, i, one)
  {
    if (is_name(one, name))
      return true;
  }
  return is_name(value, name);
}

static int take_container(const struct source *source, const json_t *container, const char *name,
                          struct id_list *ids, struct err *e)
{
  const char *id = json_string_value(json_object_get(container, source->id));
  char **added;

  if (!id || !has_name(json_object_get(container, source->name), name) || id_list_has(ids, id))
    return 0;
  added = list_append(&ids->items, &ids->count, sizeof(*added));
  if (!added || !(*added = strdup(id)))
    return err_sys(e, "containers");
  return 0;
}

static int take_all(const struct source *source, const json_t *list, const char *name,
                    struct id_list *ids, struct err *e)
{
  size_t i;
  const json_t *container;

  json_array_foreach(list, i, container)
  {
    if (take_container(source, container, name, ids, e) < 0)
      return -1;
  }
  return take_container(source, list, name, ids, e);
}

static int read_list(const struct source *source, const char *path, const char *name,
                     struct id_list *ids, struct err *e)
{
  AUTO_FREE char *text = NULL;
  json_t *list;
  int result;

  if (io_read_file(AT_FDCWD, path, NAMES_LIMIT, &text, NULL, e) < 0)
    return errno == ENOENT || errno == EACCES ? 0 : -1;
  list = json_loads(text, 0, NULL);
  result = list ? take_all(source, list, name, ids, e) : err_set(e, "%s: is damaged", path);
  json_decref(list);
  return result;
}

static int read_source(const struct source *source, const char *name, struct id_list *ids,
                       struct err *e)
{
  const char *directory = source->variable ? getenv(source->variable) : "";
  AUTO_FREE char *pattern = NULL;
  glob_t found = {0};
  int result = 0;

  if (!directory)
    return 0;
  pattern = io_format(e, "%s%s", directory, source->pattern);
  if (!pattern)
    return -1;
  if (glob(pattern, GLOB_NOSORT, NULL, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc && result == 0; i++)
      result = read_list(source, found.gl_pathv[i], name, ids, e);
  }
  globfree(&found);
  return result;
}

int names_find(const char *name, struct id_list *ids, struct err *e)
{
  for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
    if (read_source(&sources[i], name, ids, e) < 0)
      return -1;
  }
  return 0;
}
