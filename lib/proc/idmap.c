#include "base/cleanup.h"
#include "proc/proc.h"

#include <stdio.h>
#include <string.h>

/* To who is in the namespace himself the kernel shows ids as they are inside, but the map's
 * outside. */
static bool is_ours(pid_t pid)
{
  return proc_namespace_differs(pid, getpid(), "user", &(struct err){""}) == 0;
}

int proc_idmap_read(pid_t pid, const char *name, struct proc_idmap *map, struct err *e)
{
  AUTO_FREE char *text = NULL;
  int result = proc_text(pid, name, &text, NULL, e);
  char *rest = text;

  if (result != 0)
    return result;
  map->count = 0;
  if (is_ours(pid)) {
    map->ranges[map->count++] = (struct proc_idrange){0, 0, UINT32_MAX};
    return 0;
  }
  for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
    struct proc_idrange *range = &map->ranges[map->count];

    if (map->count == PROC_ID_RANGES)
      return err_set(e, "%s: more than %d ranges are not supported", name, PROC_ID_RANGES);
    if (sscanf(line, "%u %u %u", &range->inside, &range->outside, &range->count) != 3)
      return err_set(e, "%s: unexpected line \"%.40s\"", name, line);
    map->count++;
  }
  return 0;
}

uint32_t proc_id_inside(const struct proc_idmap *map, uint32_t outside)
{
  enum { OVERFLOW_ID = 65534 }; /* what the kernel itself shows for ids that are not mapped */

  for (size_t i = 0; i < map->count; i++) {
    const struct proc_idrange *range = &map->ranges[i];

    if (outside >= range->outside && outside - range->outside < range->count)
      return range->inside + (outside - range->outside);
  }
  return OVERFLOW_ID;
}

uint32_t proc_id_outside(const struct proc_idmap *map, uint32_t inside)
{
  for (size_t i = 0; i < map->count; i++) {
    const struct proc_idrange *range = &map->ranges[i];

    if (inside >= range->inside && inside - range->inside < range->count)
      return range->outside + (inside - range->inside);
  }
  return UINT32_MAX;
}

int proc_status_inside(pid_t pid, struct proc_status *status, struct err *e)
{
  struct proc_idmap map;
  int result = proc_idmap_read(pid, "uid_map", &map, e);

  for (size_t i = 0; i < 4 && result == 0; i++)
    status->uid[i] = proc_id_inside(&map, status->uid[i]);
  if (result == 0)
    result = proc_idmap_read(pid, "gid_map", &map, e);
  for (size_t i = 0; i < 4 && result == 0; i++)
    status->gid[i] = proc_id_inside(&map, status->gid[i]);
  for (size_t i = 0; i < status->group_count && result == 0; i++)
    status->groups[i] = proc_id_inside(&map, status->groups[i]);
  return result;
}
