#include "base/cleanup.h"
#include "base/io.h"
#include "proc/proc.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* The kernel writes a newline in a name as \012. */
static char *decode_name(const char *name)
{
  char *decoded = strdup(name);
  char *to = decoded;

  for (const char *from = decoded; decoded && *from; to++) {
    if (strncmp(from, "\\012", 4) == 0) {
      *to = '\n';
      from += 4;
    } else {
      *to = *from++;
    }
  }
  if (decoded)
    *to = '\0';
  return decoded;
}

static int add_map(struct proc_maps *maps, const char *line, struct err *e)
{
  unsigned major, minor;
  struct proc_map map = {0};
  int name = 0;

  if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &map.start,
             &map.end, map.perms, &map.offset, &major, &minor, &map.inode, &name) < 7)
    return err_set(e, "smaps: unexpected line \"%.60s\"", line);
  map.device = makedev(major, minor);
  map.name = decode_name(name ? line + name : "");
  if (!map.name)
    return err_sys(e, "smaps");
  if ((maps->count & (maps->count - 1)) == 0) {
    struct proc_map *larger =
        reallocarray(maps->maps, maps->count ? maps->count * 2 : 1, sizeof(*larger));

    if (!larger) {
      free(map.name);
      return err_sys(e, "smaps");
    }
    maps->maps = larger;
  }
  maps->maps[maps->count++] = map;
  return 0;
}

/* A mapping's line begins with lower-case hexadecimal digits, its attributes with a capital. */
static int add_line(struct proc_maps *maps, char *line, struct err *e)
{
  struct proc_map *map = maps->count ? &maps->maps[maps->count - 1] : NULL;
  size_t length = strcspn(line, "\n");

  line[length] = '\0';
  if (line[0] < 'A' || line[0] > 'Z')
    return add_map(maps, line, e);
  if (!map)
    return err_set(e, "smaps: unexpected line \"%.60s\"", line);
  if (strncmp(line, "VmFlags: ", 9) == 0)
    snprintf(map->flags, sizeof(map->flags), "%s ", line + 9);
  else if (strncmp(line, "AnonHugePages:", 14) == 0)
    map->huge_kib = strtoull(line + 14, NULL, 10);
  else if (strncmp(line, "ProtectionKey:", 14) == 0)
    map->key = (uint32_t)strtoul(line + 14, NULL, 10);
  else if (strncmp(line, "Swap:", 5) == 0)
    map->swap_kib = strtoull(line + 5, NULL, 10);
  return 0;
}

static int read_lines(pid_t pid, const char *name, struct proc_maps *maps, struct err *e)
{
  char path[64];
  AUTO_FCLOSE FILE *file = NULL;
  AUTO_FREE char *line = NULL;
  size_t room = 0;

  *maps = (struct proc_maps){0};
  snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
  file = fopen(path, "re");
  if (!file) {
    err_sys(e, "%s", path);
    return errno == ENOENT || errno == ESRCH ? 1 : -1;
  }
  setvbuf(file, NULL, _IOFBF, 16 << 10); /* stdio would read a kibibyte at a time */
  while (getline(&line, &room, file) > 0) {
    if (add_line(maps, line, e) < 0) {
      proc_maps_free(maps);
      return err_prefix(e, "pid %d", pid);
    }
  }
  return 0;
}

int proc_smaps_read(pid_t pid, struct proc_maps *maps, struct err *e)
{
  return read_lines(pid, "smaps", maps, e);
}

int proc_maps_read(pid_t pid, struct proc_maps *maps, struct err *e)
{
  return read_lines(pid, "maps", maps, e);
}

void proc_maps_free(struct proc_maps *maps)
{
  for (size_t i = 0; i < maps->count; i++)
    free(maps->maps[i].name);
  free(maps->maps);
  *maps = (struct proc_maps){0};
}

bool proc_map_has_flag(const struct proc_map *map, const char *two_letters)
{
  for (const char *at = map->flags; (at = strstr(at, two_letters)); at++) {
    if ((at == map->flags || at[-1] == ' ') && at[2] == ' ')
      return true;
  }
  return false;
}
