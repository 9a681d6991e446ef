/* The registry of ckpt-run: the ids that are ours to give. */
#include "container/container.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/proc.h"
#include "state/model.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

static int registry_path(const char *registry, char path[PATH_MAX], struct err *e)
{
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  int n;

  if (registry)
    n = snprintf(path, PATH_MAX, "%s", registry);
  else if (geteuid() == 0)
    n = snprintf(path, PATH_MAX, "/run/ckpt");
  else if (runtime && runtime[0] == '/')
    n = snprintf(path, PATH_MAX, "%s/ckpt", runtime);
  else
    return err_set(e, "XDG_RUNTIME_DIR is not set; name the registry with --root");
  return n < PATH_MAX ? 0 : err_set(e, "the registry's name is too long");
}

/* Opens <registry>/<id>. */
static int open_entry(const char *registry, const char *id, struct err *e)
{
  char path[PATH_MAX];
  AUTO_CLOSE int directory = -1;
  int entry;

  if (registry_path(registry, path, e) < 0)
    return -1;
  directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  entry = directory < 0 ? -1 : openat(directory, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (entry < 0)
    return err_sys(e, "container %s", id);
  return entry;
}

static int compare_containers(const void *a, const void *b)
{
  const struct container *x = a;
  const struct container *y = b;

  return strcmp(x->id, y->id);
}

int container_list(const char *registry, struct container **list, size_t *count, struct err *e)
{
  char path[PATH_MAX];
  AUTO_CLOSEDIR DIR *directory = NULL;
  struct dirent *entry;

  *list = NULL;
  *count = 0;
  if (registry_path(registry, path, e) < 0)
    return -1;
  directory = opendir(path);
  if (!directory)
    return errno == ENOENT ? 0 : err_sys(e, "%s", path);
  while ((entry = readdir(directory))) {
    struct container *container;
    struct err ignored;

    if (container_check_id(entry->d_name, &ignored) < 0)
      continue;
    container = list_append(list, count, sizeof(*container));
    if (!container)
      return err_sys(e, "%s", path);
    if (container_read(path, entry->d_name, container, e) < 0)
      return -1;
  }
  if (*count)
    qsort(*list, *count, sizeof(**list), compare_containers);
  return 0;
}

/* mkdir -p, but for the last component's permissions. */
static int make_registry(const char *path, struct err *e)
{
  char partial[PATH_MAX];

  for (size_t i = 1; path[i - 1]; i++) {
    if (path[i] != '/' && path[i] != '\0')
      continue;
    snprintf(partial, sizeof(partial), "%.*s", (int)i, path);
    if (mkdir(partial, 0755) < 0 && errno != EEXIST)
      return err_sys(e, "%s", partial);
  }
  return 0;
}

/* Makes the container's directory if need be, and locks it. */
static int lock_entry(const char *path, const char *id, struct err *e)
{
  for (;;) {
    AUTO_CLOSE int entry = -1;
    struct stat stat;

    if (mkdir(path, 0700) < 0 && errno != EEXIST)
      return err_sys(e, "%s", path);
    entry = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (entry < 0 && errno == ENOENT)
      continue; /* somebody gave it back just now */
    if (entry < 0)
      return err_sys(e, "%s", path);
    if (flock(entry, LOCK_EX | LOCK_NB) < 0)
      return errno == EWOULDBLOCK ? err_set(e, "container %s exists already", id)
                                  : err_sys(e, "%s", path);
    if (fstat(entry, &stat) == 0 && stat.st_nlink > 0)
      return take_fd(&entry);
  }
}

int container_reserve(const char *registry, const char *id, struct err *e)
{
  AUTO_CLOSE int entry = -1;
  struct container existing = {0};
  char path[PATH_MAX];
  char directory[PATH_MAX];
  size_t length;
  int result;

  if (container_check_id(id, e) < 0 || registry_path(registry, directory, e) < 0 ||
      make_registry(directory, e) < 0)
    return -1;
  strcpy(path, directory);
  length = strlen(path);
  if (snprintf(path + length, sizeof(path) - length, "/%s", id) >= (int)(sizeof(path) - length))
    return err_set(e, "%s: name is too long", id);
  entry = lock_entry(path, id, e);
  if (entry < 0)
    return -1;
  result = container_read(directory, id, &existing, e);
  if (result == 0 && existing.status != CONTAINER_STOPPED)
    result = err_set(e, "container %s exists already", id);
  container_free(&existing);
  return result < 0 ? -1 : take_fd(&entry);
}

static json_t *new_state(const char *id, pid_t pid, uint64_t start_time)
{
  char cwd[PATH_MAX];

  return json_pack("{s:s, s:s, s:s, s:i, s:s, s:I}", "ociVersion", "1.0.2", "id", id, "status",
                   "running", "pid", pid, "bundle", getcwd(cwd, sizeof(cwd)) ? cwd : "/",
                   "startTime", (json_int_t)start_time);
}

int container_register(const char *registry, const char *id, pid_t pid, struct err *e)
{
  AUTO_CLOSE int entry = open_entry(registry, id, e);
  AUTO_CLOSE int file = -1;
  struct proc_stat stat;
  json_t *state;
  int result;

  if (entry < 0)
    return -1;
  if (proc_stat_read(pid, &stat, e) != 0)
    return err_prefix(e, "container %s", id);
  file = openat(entry, "state.json.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0)
    return err_sys(e, "container %s: state.json", id);
  state = new_state(id, pid, stat.start_time);
  result = state ? json_dumpfd(state, file, JSON_INDENT(2)) : -1;
  json_decref(state);
  if (result < 0 || renameat(entry, "state.json.tmp", entry, "state.json") < 0)
    return err_sys(e, "container %s: state.json", id);
  return 0;
}

int container_forget(const char *registry, const char *id, struct err *e)
{
  struct container existing = {0};
  char path[PATH_MAX];
  AUTO_CLOSE int entry = -1;
  size_t length;
  bool running;
  int result;

  if (container_check_id(id, e) < 0 || registry_path(registry, path, e) < 0)
    return -1;
  entry = open_entry(registry, id, e);
  if (entry < 0)
    return -1;
  result = container_read(path, id, &existing, e);
  running = existing.status != CONTAINER_STOPPED;
  container_free(&existing);
  if (result == 0 && running)
    return 0; /* another one has taken the id over */
  unlinkat(entry, "state.json", 0);
  unlinkat(entry, "state.json.tmp", 0);
  length = strlen(path);
  snprintf(path + length, sizeof(path) - length, "/%s", id);
  return rmdir(path) < 0 ? err_sys(e, "%s", path) : 0;
}
