/* The records that container runtimes keep of their containers. */
#include "container/container.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

enum { RECORD_LIMIT = 4 << 20 };

static const char *crun_bundle(const json_t *state)
{
  return json_string_value(json_object_get(state, "bundle"));
}

/* One of the labels of libcontainer's configuration. */
static const char *runc_bundle(const json_t *state)
{
  const json_t *labels = json_object_get(json_object_get(state, "config"), "labels");

  for (size_t i = 0; i < json_array_size(labels); i++) {
    const char *label = json_string_value(json_array_get(labels, i));

    if (label && strncmp(label, "bundle=", 7) == 0)
      return label + 7;
  }
  return NULL;
}

/* How a runtime's record looks: which file, and what its members are called. */
static const struct record {
  const char *runtime;
  const char *file;
  const char *pid;
  const char *start_time;
  const char *(*bundle)(const json_t *state);
} records[] = {
    {"crun", "status", "pid", "process-start-time", crun_bundle},
    {"runc", "state.json", "init_process_pid", "init_process_start", runc_bundle},
    {"ckpt-run", "state.json", "pid", "startTime", NULL},
};

void container_free(struct container *container)
{
  free(container->bundle);
  free(container->id);
  *container = (struct container){0};
}

int container_check_id(const char *id, struct err *e)
{
  size_t length = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-");

  if (length == 0 || id[length] || id[0] == '.' || id[0] == '-' || length > NAME_MAX)
    return err_set(e, "\"%s\" is not a container id", id);
  return 0;
}

/* The pid may have been given to another process since. */
static bool is_running(pid_t pid, uint64_t start_time)
{
  struct proc_stat stat;
  struct err ignored;

  return pid > 0 && proc_stat_read(pid, &stat, &ignored) == 0 && stat.start_time == start_time &&
         !proc_is_zombie(&stat);
}

/* runc and crun have this FIFO for as long as a created container waits for its start. */
static bool waits_for_start(int entry)
{
  struct stat stat;

  return fstatat(entry, "exec.fifo", &stat, AT_SYMLINK_NOFOLLOW) == 0;
}

static int64_t number(const json_t *state, const char *name)
{
  const json_t *value = json_object_get(state, name);

  return json_is_integer(value) ? json_integer_value(value) : -1;
}

/* Is it this runtime's record? Then the container is filled from it. 1 yes, 0 no, -1. */
static int take_record(const struct record *record, const json_t *state,
                       struct container *container, struct err *e)
{
  const char *bundle = record->bundle ? record->bundle(state) : NULL;
  int64_t pid = number(state, record->pid);
  int64_t start_time = number(state, record->start_time);

  if (pid < 0 || pid > INT32_MAX || start_time < 0)
    return 0;
  container->runtime = record->runtime;
  container->pid = (pid_t)pid;
  container->start_time = (uint64_t)start_time;
  container->bundle = bundle ? strdup(bundle) : NULL;
  return bundle && !container->bundle ? err_sys(e, "bundle") : 1;
}

/* 1: it has a record and that is understood; 0: it has none; -1. */
static int read_record(int entry, struct container *container, struct err *e)
{
  bool seen = false;

  for (size_t i = 0; i < ARRAY_LEN(records); i++) {
    AUTO_FREE char *text = NULL;
    json_t *state;
    int taken;

    if (io_read_file(entry, records[i].file, RECORD_LIMIT, &text, NULL, e) < 0) {
      if (errno != ENOENT)
        return -1;
      continue;
    }
    seen = true;
    state = json_loads(text, 0, NULL);
    taken = take_record(&records[i], state, container, e);
    json_decref(state);
    if (taken != 0)
      return taken;
  }
  return seen ? err_set(e, "its state file is damaged") : 0;
}

int container_read(const char *directory, const char *id, struct container *container,
                   struct err *e)
{
  AUTO_FREE char *path = io_format(e, "%s/%s", directory, id);
  AUTO_CLOSE int entry = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  int result;

  if (entry < 0)
    return err_sys(e, "container %s", id);
  *container = (struct container){.id = strdup(id), .status = CONTAINER_STOPPED};
  if (!container->id)
    return err_sys(e, "container %s", id);
  result = read_record(entry, container, e);
  if (result < 0)
    return err_prefix(e, "container %s", id);
  if (result > 0 && is_running(container->pid, container->start_time))
    container->status = waits_for_start(entry) ? CONTAINER_CREATED : CONTAINER_RUNNING;
  return 0;
}
