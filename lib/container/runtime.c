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

/* How a runtime's record looks: which file, and what its members are called. */
static const struct record {
  const char *runtime;
  const char *file;
  const char *pid;
  const char *start_time;
} records[] = {
    {"crun", "status", "pid", "process-start-time"},
    {"runc", "state.json", "init_process_pid", "init_process_start"},
    {"ckpt-run", "state.json", "pid", "startTime"},
};

void container_free(struct container *container)
{
  free(container->id);
  *container = (struct container){0};
}

int container_check_id(const char *id, struct err *e)
{
  size_t length = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-");

  if (length == 0 || id[length] || id[0] == '.' || length > NAME_MAX)
    return err_set(e, "\"%s\" is not a container id", id);
  return 0;
}

/* The pid may have been given to another process since. */
static bool is_running(pid_t pid, uint64_t start_time)
{
  struct proc_stat stat;
  struct err ignored;

  return pid > 0 && proc_stat_read(pid, &stat, &ignored) == 0 && stat.start_time == start_time &&
         stat.state != 'Z' && stat.state != 'X';
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

/* Is it this runtime's record? Then the container is filled from it. */
static bool take_record(const struct record *record, const json_t *state,
                        struct container *container)
{
  int64_t pid = number(state, record->pid);
  int64_t start_time = number(state, record->start_time);

  if (pid < 0 || pid > INT32_MAX || start_time < 0)
    return false;
  container->runtime = record->runtime;
  container->pid = (pid_t)pid;
  container->start_time = (uint64_t)start_time;
  return true;
}

/* 1: it has a record and that is understood; 0: it has none; -1. */
static int read_record(int entry, struct container *container, struct err *e)
{
  bool seen = false;

  for (size_t i = 0; i < ARRAY_LEN(records); i++) {
    AUTO_FREE char *text = NULL;
    json_t *state;
    bool taken;

    if (io_read_file(entry, records[i].file, RECORD_LIMIT, &text, NULL, e) < 0) {
      if (errno != ENOENT)
        return -1;
      continue;
    }
    seen = true;
    state = json_loads(text, 0, NULL);
    taken = take_record(&records[i], state, container);
    json_decref(state);
    if (taken)
      return 1;
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
