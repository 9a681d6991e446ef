#include "namespace/settings.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SYSCTL "/proc/sys/"

enum { VALUE_LIMIT = 1 << 20, DEPTH_LIMIT = 8 };

/* "net/ipv4/conf/eth0": the settings of a device are gone with it. */
static bool is_of_device(const char *path, const char *name)
{
  static const char *const parents[] = {"/conf", "/neigh"};
  size_t length = strlen(path);

  for (size_t i = 0; i < ARRAY_LEN(parents); i++) {
    size_t end = strlen(parents[i]);

    if (length > end && strcmp(path + length - end, parents[i]) == 0)
      return strcmp(name, "all") != 0 && strcmp(name, "default") != 0 && strcmp(name, "lo") != 0;
  }
  return false;
}

/* NULL for what cannot be read now: a secret that was never set. */
static char *read_value(const char *path)
{
  struct err ignored;
  char *text;
  size_t length;

  if (io_read_file(AT_FDCWD, path, VALUE_LIMIT, &text, &length, &ignored) < 0)
    return NULL;
  if (length && text[length - 1] == '\n')
    text[length - 1] = '\0';
  return text;
}

static int add_value(json_t *values, const char *path, struct err *e)
{
  AUTO_FREE char *value = read_value(path);

  if (value && json_object_set_new(values, path + strlen(SYSCTL), json_string(value)) < 0)
    return err_set(e, "%s: is no text", path);
  return 0;
}

static int add_below(json_t *values, const char *path, int depth, struct err *e);

static int add_directory(json_t *values, const char *path, int depth, struct err *e)
{
  AUTO_CLOSEDIR DIR *directory = opendir(path);
  const struct dirent *entry;

  if (!directory)
    return errno == ENOENT ? 0 : err_sys(e, "%s", path);
  while (errno = 0, (entry = readdir(directory))) {
    AUTO_FREE char *below = NULL;

    if (entry->d_name[0] == '.' || is_of_device(path, entry->d_name))
      continue;
    below = io_format(e, "%s/%s", path, entry->d_name);
    if (!below || add_below(values, below, depth + 1, e) < 0)
      return -1;
  }
  return errno ? err_sys(e, "%s", path) : 0;
}

static int add_below(json_t *values, const char *path, int depth, struct err *e)
{
  struct stat stat;

  if (lstat(path, &stat) < 0)
    return errno == ENOENT ? 0 : err_sys(e, "%s", path);
  if (S_ISDIR(stat.st_mode))
    return depth < DEPTH_LIMIT ? add_directory(values, path, depth, e) : 0;
  if ((stat.st_mode & (S_IRUSR | S_IWUSR)) != (S_IRUSR | S_IWUSR))
    return 0; /* not a setting: a state, or a switch */
  return add_value(values, path, e);
}

struct reading {
  const char *const *paths;
  json_t *values;
};

static int read_all(void *argument, struct err *e)
{
  const struct reading *reading = argument;

  for (size_t i = 0; reading->paths[i]; i++) {
    AUTO_FREE char *path = io_format(e, SYSCTL "%s", reading->paths[i]);

    if (!path || add_below(reading->values, path, 0, e) < 0)
      return -1;
  }
  return 0;
}

json_t *settings_dump(pid_t pid, const char *kind, const char *const paths[], struct err *e)
{
  CLEANUP(json_decrefp) json_t *values = json_object();
  CLEANUP(json_decrefp) json_t *fresh = json_object();
  struct reading theirs = {paths, values};
  struct reading usual = {paths, fresh};
  const char *name;
  void *next;
  json_t *value;

  if (!values || !fresh) {
    err_set(e, "out of memory");
    return NULL;
  }
  if (inside(pid, kind, read_all, &theirs, e) < 0 || inside(0, kind, read_all, &usual, e) < 0)
    return NULL;
  json_object_foreach_safe(values, next, name, value)
  {
    if (json_equal(value, json_object_get(fresh, name)))
      json_object_del(values, name);
  }
  return json_incref(values);
}

static bool has_prefix(const char *name, const char *path)
{
  size_t length = strlen(path);

  return strncmp(name, path, length) == 0 && (name[length] == '\0' || name[length] == '/');
}

/* The names come from an image: they must lead to settings of the namespace, and nowhere else. */
static int check_setting(const char *name, const json_t *value, const char *const paths[],
                         struct err *e)
{
  bool known = false;

  for (size_t i = 0; paths[i]; i++)
    known = known || has_prefix(name, paths[i]);
  if (!known || strstr(name, "..") || !json_is_string(value))
    return err_set(e, "setting \"%.200s\" is none of this namespace", name);
  return 0;
}

/* Setting one may reset another (ip_forward): again, until all are as they were. */
enum { ROUNDS = 3 };

static int write_round(const json_t *settings, bool last, size_t *changed, struct err *e)
{
  const char *name;
  json_t *value;

  *changed = 0;
  json_object_foreach((json_t *)settings, name, value)
  {
    AUTO_FREE char *path = io_format(e, SYSCTL "%s", name);
    AUTO_FREE char *now = path ? read_value(path) : NULL;

    if (!path)
      return -1;
    if (now && strcmp(now, json_string_value(value)) == 0)
      continue;
    if (last)
      return err_set(e, "setting %s is \"%s\" and does not become \"%s\"", name, now ? now : "",
                     json_string_value(value));
    if (io_write_file(AT_FDCWD, path, json_string_value(value), e) < 0)
      return err_prefix(e, "setting %s cannot be set to \"%s\"", name, json_string_value(value));
    ++*changed;
  }
  return 0;
}

static int write_all(void *argument, struct err *e)
{
  size_t changed = 1;

  for (int round = 0; round <= ROUNDS && changed; round++) {
    if (write_round(argument, round == ROUNDS, &changed, e) < 0)
      return -1;
  }
  return 0;
}

int settings_restore(pid_t pid, const char *kind, const char *const paths[], const json_t *settings,
                     struct err *e)
{
  const char *name;
  json_t *value;

  if (!json_is_object(settings))
    return err_set(e, "settings: is not an object");
  json_object_foreach((json_t *)settings, name, value)
  {
    if (check_setting(name, value, paths, e) < 0)
      return -1;
  }
  return json_object_size(settings) ? inside(pid, kind, write_all, (json_t *)settings, e) : 0;
}
