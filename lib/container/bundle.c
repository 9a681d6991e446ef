#include "container/bundle.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "state/model.h"

#include <fcntl.h>
#include <jansson.h>
#include <string.h>

enum { CONFIG_LIMIT = 16 << 20 };

/*
 * Runtimes mount these by themselves, as the container needs them: a terminal, device nodes that a
 * user namespace cannot make, the socket of systemd's notifications.
 */
static const char *const by_themselves[] = {
    "/dev/console", "/dev/null",    "/dev/zero", "/dev/full",   "/dev/tty",
    "/dev/random",  "/dev/urandom", "/dev/ptmx", "/run/notify",
};

void bundle_free(struct bundle *bundle)
{
  for (size_t i = 0; i < bundle->count; i++) {
    free(bundle->places[i].destination);
    free(bundle->places[i].type);
    free(bundle->places[i].source);
  }
  free(bundle->places);
  *bundle = (struct bundle){0};
}

static struct bundle_place *add(struct bundle *bundle, const char *destination, struct err *e)
{
  struct bundle_place *place = list_append(&bundle->places, &bundle->count, sizeof(*place));

  if (place)
    place->destination = strdup(destination);
  if (!place || !place->destination) {
    err_sys(e, "mounts");
    return NULL;
  }
  return place;
}

static bool has_option(const json_t *mount, const char *name)
{
  const json_t *options = json_object_get(mount, "options");

  for (size_t i = 0; i < json_array_size(options); i++) {
    const char *option = json_string_value(json_array_get(options, i));

    if (option && strcmp(option, name) == 0)
      return true;
  }
  return false;
}

/* A bind is one by its options, whatever its type is called. */
static const char *type_of(const json_t *mount)
{
  return has_option(mount, "bind") || has_option(mount, "rbind")
             ? "bind"
             : json_string_value(json_object_get(mount, "type"));
}

/* A relative source is one of the bundle's. */
static int set_source(struct bundle_place *place, const char *directory, const char *source,
                      struct err *e)
{
  place->source = source[0] == '/' ? strdup(source) : io_format(e, "%s/%s", directory, source);
  return place->source ? 0 : err_sys(e, "mounts");
}

static int add_mount(struct bundle *bundle, const char *directory, const json_t *mount,
                     struct err *e)
{
  const char *destination = json_string_value(json_object_get(mount, "destination"));
  const char *source = json_string_value(json_object_get(mount, "source"));
  const char *type = type_of(mount);
  struct bundle_place *place;

  if (!destination)
    return err_set(e, "a mount without a destination");
  place = add(bundle, destination, e);
  if (!place)
    return -1;
  place->asked = true;
  place->read_only = has_option(mount, "ro");
  if (!type)
    return 0;
  place->recursive = has_option(mount, "rbind") || strncmp(type, "cgroup", 6) == 0;
  place->type = strdup(type);
  if (!place->type)
    return err_sys(e, "mounts");
  return strcmp(type, "bind") == 0 && source ? set_source(place, directory, source, e) : 0;
}

/* Lists of paths that are covered, or bound read-only to themselves. */
static int add_paths(struct bundle *bundle, const json_t *paths, struct err *e)
{
  for (size_t i = 0; i < json_array_size(paths); i++) {
    const char *path = json_string_value(json_array_get(paths, i));
    struct bundle_place *place = path ? add(bundle, path, e) : NULL;

    if (!path)
      return err_set(e, "a path that is none");
    if (!place)
      return -1;
    place->asked = true;
  }
  return 0;
}

static int add_devices(struct bundle *bundle, const json_t *devices, struct err *e)
{
  for (size_t i = 0; i < json_array_size(devices); i++) {
    const char *path = json_string_value(json_object_get(json_array_get(devices, i), "path"));

    if (path && !add(bundle, path, e))
      return -1;
  }
  for (size_t i = 0; i < ARRAY_LEN(by_themselves); i++) {
    if (!add(bundle, by_themselves[i], e))
      return -1;
  }
  return 0;
}

static int take(struct bundle *bundle, const char *directory, const json_t *config, struct err *e)
{
  const json_t *mounts = json_object_get(config, "mounts");
  const json_t *specific = json_object_get(config, "linux");

  for (size_t i = 0; i < json_array_size(mounts); i++) {
    if (add_mount(bundle, directory, json_array_get(mounts, i), e) < 0)
      return -1;
  }
  bundle->has_hooks = json_object_size(json_object_get(config, "hooks")) > 0;
  if (add_devices(bundle, json_object_get(specific, "devices"), e) < 0 ||
      add_paths(bundle, json_object_get(specific, "readonlyPaths"), e) < 0)
    return -1;
  return add_paths(bundle, json_object_get(specific, "maskedPaths"), e);
}

int bundle_read(const char *directory, struct bundle *bundle, struct err *e)
{
  AUTO_FREE char *path = io_format(e, "%s/config.json", directory);
  AUTO_FREE char *text = NULL;
  json_t *config;
  int result;

  if (!path || io_read_file(AT_FDCWD, path, CONFIG_LIMIT, &text, NULL, e) < 0)
    return -1;
  config = json_loads(text, 0, NULL);
  result = json_is_object(config) ? take(bundle, directory, config, e)
                                  : err_set(e, "is not a JSON object");
  json_decref(config);
  return result < 0 ? err_prefix(e, "%s", path) : 0;
}
