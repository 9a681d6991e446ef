#include "base/cleanup.h"
#include "base/io.h"
#include "proc/proc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* The kernel writes space, tab, newline and backslash as \ and three octal digits. In place. */
static void decode_octal(char *text)
{
  char *to = text;

  for (const char *from = text; *from; to++) {
    unsigned value;

    if (from[0] == '\\' && sscanf(from + 1, "%3o", &value) == 1) {
      *to = (char)value;
      from += 4;
    } else {
      *to = *from++;
    }
  }
  *to = '\0';
}

static char *word(char **rest)
{
  char *found = strsep(rest, " ");

  if (found)
    decode_octal(found);
  return found;
}

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue" */
static int parse_mount(char *line, struct proc_mount *mount, struct err *e)
{
  char *rest = strstr(line, " - ");
  unsigned major_number, minor_number;
  const char *root, *point, *flags, *type, *source, *options;
  char *at;
  int used = 0;

  if (!rest || sscanf(line, "%u %u %u:%u %n", &mount->id, &mount->parent, &major_number,
                      &minor_number, &used) < 4)
    return err_set(e, "mountinfo: unexpected line \"%.60s\"", line);
  at = line + used;
  root = word(&at);
  point = word(&at);
  flags = word(&at);
  rest += 3;
  type = word(&rest);
  source = word(&rest);
  options = rest; /* its parts are decoded when they are parted */
  if (!root || !point || !flags || !type || !source || !options)
    return err_set(e, "mountinfo: unexpected line \"%.60s\"", line);
  mount->device = makedev(major_number, minor_number);
  mount->root = strdup(root);
  mount->point = strdup(point);
  mount->flags = strdup(flags);
  mount->type = strdup(type);
  mount->source = strdup(source);
  mount->options = strdup(options);
  return mount->root && mount->point && mount->flags && mount->type && mount->source &&
                 mount->options
             ? 0
             : err_sys(e, "mountinfo");
}

char *proc_mount_option(char **options)
{
  char *option = strsep(options, ",");

  if (option)
    decode_octal(option);
  return option;
}

int proc_mounts_read(pid_t pid, struct proc_mounts *mounts, struct err *e)
{
  AUTO_FREE char *text = NULL;
  char *rest;
  int result = proc_text(pid, "mountinfo", &text, NULL, e);

  if (result != 0)
    return result;
  rest = text;
  for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
    struct proc_mount *larger =
        reallocarray(mounts->items, mounts->count + 1, sizeof(*mounts->items));

    if (!larger)
      return err_sys(e, "mountinfo");
    mounts->items = larger;
    mounts->items[mounts->count] = (struct proc_mount){0};
    if (parse_mount(line, &mounts->items[mounts->count++], e) < 0)
      return -1;
  }
  return 0;
}

void proc_mounts_free(struct proc_mounts *mounts)
{
  for (size_t i = 0; i < mounts->count; i++) {
    free(mounts->items[i].root);
    free(mounts->items[i].point);
    free(mounts->items[i].flags);
    free(mounts->items[i].type);
    free(mounts->items[i].source);
    free(mounts->items[i].options);
  }
  free(mounts->items);
  *mounts = (struct proc_mounts){0};
}
