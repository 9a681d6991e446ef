#include "tracee/landmarks.h"

#include "base/cleanup.h"

#include <string.h>
#include <sys/uio.h>

bool range_has(const struct range *range, uint64_t address)
{
  return address >= range->start && address < range->end;
}

void landmarks_find(const struct proc_maps *maps, struct landmarks *landmarks)
{
  memset(landmarks, 0, sizeof(*landmarks));
  for (size_t i = 0; i < maps->count; i++) {
    const struct proc_map *map = &maps->maps[i];
    const struct range range = {map->start, map->end};

    if (strcmp(map->name, "[vdso]") == 0)
      landmarks->vdso = range;
    else if (strcmp(map->name, "[stack]") == 0)
      landmarks->stack = range;
    else if (map->perms[0] == 'r' && map->perms[2] == 'x')
      landmarks->text[landmarks->text_count++ % ARRAY_LEN(landmarks->text)] = range;
  }
}

int landmarks_read(pid_t pid, struct landmarks *landmarks, struct err *e)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};

  if (proc_maps_read(pid, &maps, e) != 0)
    return -1;
  landmarks_find(&maps, landmarks);
  return 0;
}

ssize_t read_memory(pid_t pid, uint64_t address, void *buffer, size_t size)
{
  struct iovec local = {.iov_base = buffer, .iov_len = size};
  struct iovec remote = {.iov_base = (void *)address, .iov_len = size}; /* NOLINT */

  return process_vm_readv(pid, &local, 1, &remote, 1, 0);
}
