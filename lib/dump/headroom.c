#include "dump/headroom.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "container/cgroup.h"
#include "proc/proc.h"
#include "state/model.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The files of one kind of hierarchy. A limit that is not there, or no number ("max"), is none. */
static const struct kind {
  const char *controller; /* "" for the unified hierarchy */
  const char *limit, *usage;
  const char *cache[2]; /* members of memory.stat that can be had back */
  bool counts_pids;
} kinds[] = {
    {"", "memory.max", "memory.current", {"inactive_file", "active_file"}, false},
    {"", "pids.max", "pids.current", {NULL}, true},
    {"memory",
     "memory.limit_in_bytes",
     "memory.usage_in_bytes",
     {"total_inactive_file", "total_active_file"},
     false},
    {"pids", "pids.max", "pids.current", {NULL}, true},
};

static bool read_number(const char *directory, const char *name, uint64_t *value)
{
  char path[2 * PATH_MAX];
  char text[32] = "";
  AUTO_CLOSE int fd = -1;
  char *end;

  snprintf(path, sizeof(path), "%s/%s", directory, name);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || io_read(fd, text, sizeof(text) - 1) <= 0)
    return false;
  *value = strtoull(text, &end, 10);
  return end != text;
}

/* Bytes of page cache in the group, which the kernel gives up before it kills. */
static uint64_t read_cache(const char *directory, const struct kind *kind)
{
  AUTO_FREE char *path = NULL;
  AUTO_FREE char *text = NULL;
  uint64_t sum = 0;
  struct err ignored;

  if (!kind->cache[0])
    return 0;
  path = io_format(&ignored, "%s/memory.stat", directory);
  if (!path || io_read_file(AT_FDCWD, path, 1 << 16, &text, NULL, &ignored) < 0)
    return 0;
  for (size_t i = 0; i < ARRAY_LEN(kind->cache); i++) {
    const char *at = strstr(text, kind->cache[i]);

    /* "inactive_file" is the end of "total_inactive_file", too: the whole word counts. */
    while (at && at != text && at[-1] != '\n')
      at = strstr(at + 1, kind->cache[i]);
    if (at)
      sum += strtoull(at + strlen(kind->cache[i]), NULL, 10);
  }
  return sum;
}

struct headroom_place {
  const struct kind *kind;
  char *directory;
};

static void count_place(const struct headroom_place *place, uint64_t *left)
{
  const struct kind *kind = place->kind;
  uint64_t limit, usage, room;

  if (!read_number(place->directory, kind->limit, &limit) ||
      !read_number(place->directory, kind->usage, &usage))
    return;
  room = limit > usage ? limit - usage : 0;
  if (room < UINT64_MAX / 2)
    room += read_cache(place->directory, kind);
  if (room < *left)
    *left = room;
}

static int add_place(struct headroom_places *places, const struct kind *kind, const char *directory,
                     struct err *e)
{
  struct headroom_place *place = list_append(&places->items, &places->count, sizeof(*place));

  if (place)
    *place = (struct headroom_place){kind, strdup(directory)};
  return place && place->directory ? 0 : err_sys(e, "control groups");
}

/* From the process's group up to the top of what is mounted. */
static int find_hierarchy(struct headroom_places *places, pid_t pid, const struct kind *kind,
                          struct err *e)
{
  AUTO_FREE char *directory = NULL;
  size_t top;

  if (cgroup_directory(pid, kind->controller, &directory, &top, e) < 0)
    return -1;
  for (char *slash = directory; slash && strlen(directory) >= top;) {
    if (add_place(places, kind, directory, e) < 0)
      return -1;
    slash = strrchr(directory, '/');
    if (slash)
      *slash = '\0';
  }
  return 0;
}

int headroom_find(pid_t pid, struct headroom_places *places, struct err *e)
{
  *places = (struct headroom_places){0};
  for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
    if (find_hierarchy(places, pid, &kinds[i], e) < 0) {
      headroom_forget(places);
      return -1;
    }
  }
  return 0;
}

int headroom_read(const struct headroom_places *places, struct headroom *headroom, struct err *e)
{
  AUTO_FREE char *memory = NULL;
  uint64_t available;

  *headroom = (struct headroom){UINT64_MAX, UINT64_MAX};
  if (io_read_file(AT_FDCWD, "/proc/meminfo", 1 << 16, &memory, NULL, e) < 0)
    return -1;
  if (proc_field(memory, "MemAvailable", 10, &available))
    headroom->memory = available * 1024;
  for (size_t i = 0; i < places->count; i++)
    count_place(&places->items[i],
                places->items[i].kind->counts_pids ? &headroom->pids : &headroom->memory);
  return 0;
}

void headroom_forget(struct headroom_places *places)
{
  for (size_t i = 0; i < places->count; i++)
    free(places->items[i].directory);
  free(places->items);
  *places = (struct headroom_places){0};
}
