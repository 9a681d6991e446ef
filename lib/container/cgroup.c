#include "container/cgroup.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { FREEZE_TRIES = 1000 }; /* of a millisecond */

/* One line of /proc/PID/cgroup: "6:freezer:/web", or "0::/web" for v2. */
struct membership {
  const char *controllers; /* "" for v2 */
  const char *path;
};

static bool parse_membership(char *line, struct membership *membership)
{
  char *controllers = strchr(line, ':');
  char *path = controllers ? strchr(controllers + 1, ':') : NULL;

  if (!path)
    return false;
  *path = '\0';
  *membership = (struct membership){controllers + 1, path + 1};
  return true;
}

/* Is the word in a list with commas? */
static bool has_word(const char *list, const char *word)
{
  size_t length = strlen(word);

  for (const char *at = list; at; at = strchr(at, ',')) {
    at += *at == ',';
    if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == '\0'))
      return true;
  }
  return false;
}

/* Is this the hierarchy? `controllers` as /proc/PID/cgroup has them: the first tells v1's apart. */
static bool is_hierarchy(const struct proc_mount *mount, const char *controllers)
{
  char first[64];

  if (*controllers == '\0')
    return strcmp(mount->type, "cgroup2") == 0;
  snprintf(first, sizeof(first), "%.*s", (int)strcspn(controllers, ","), controllers);
  return strcmp(mount->type, "cgroup") == 0 && has_word(mount->options, first);
}

/*
 * The directory of a group, and how much of its path is that of the mount; NULL with errno 0 when
 * its hierarchy is not mounted here.
 */
static char *directory_of(const struct membership *membership, const struct proc_mounts *mounts,
                          size_t *top, struct err *e)
{
  for (size_t i = 0; i < mounts->count; i++) {
    const struct proc_mount *mount = &mounts->items[i];
    size_t length = strcmp(mount->root, "/") == 0 ? 0 : strlen(mount->root);

    /* A part of the hierarchy may be all that is mounted. */
    if (is_hierarchy(mount, membership->controllers) &&
        strncmp(membership->path, mount->root, length) == 0) {
      const char *below = membership->path + length;

      *top = strlen(mount->point);
      return io_format(e, "%s%s", mount->point, strcmp(below, "/") == 0 ? "" : below);
    }
  }
  errno = 0;
  return NULL;
}

/* Whether the group is ours, too, or that of everybody: then it tells nothing apart. */
static bool is_common(const char *own, const char *line)
{
  const char *at = strstr(own, line);
  size_t length = strlen(line);

  return strcmp(line + length - 2, ":/") == 0 ||
         (at && (at == own || at[-1] == '\n') && at[length] == '\n');
}

/* Which hierarchy tells most: runtimes give every container a group in these. */
static int rank(const char *controllers)
{
  static const char *const known[] = {"", "pids", "devices", "freezer"};
  int best = -1;

  for (size_t i = 0; i < ARRAY_LEN(known); i++) {
    if (has_word(controllers, known[i]) && (known[i][0] || controllers[0] == '\0'))
      best = (int)i;
  }
  return best;
}

int cgroup_find(pid_t pid, char **path, struct err *e)
{
  CLEANUP(proc_mounts_free) struct proc_mounts mounts = {0};
  AUTO_FREE char *theirs = NULL;
  AUTO_FREE char *own = NULL;
  int best = -1;
  char *rest;

  *path = NULL;
  if (proc_text(pid, "cgroup", &theirs, NULL, e) != 0 ||
      proc_text(getpid(), "cgroup", &own, NULL, e) != 0 ||
      proc_mounts_read(getpid(), &mounts, e) != 0)
    return -1;
  rest = theirs;
  for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
    struct membership membership;
    char *directory;
    size_t top;

    if (is_common(own, line) || !parse_membership(line, &membership) ||
        rank(membership.controllers) <= best)
      continue;
    directory = directory_of(&membership, &mounts, &top, e);
    if (!directory && errno)
      return -1;
    if (!directory)
      continue;
    best = rank(membership.controllers);
    free(*path);
    *path = directory;
  }
  return 0;
}

int cgroup_directory(pid_t pid, const char *controller, char **path, size_t *top, struct err *e)
{
  CLEANUP(proc_mounts_free) struct proc_mounts mounts = {0};
  AUTO_FREE char *theirs = NULL;
  char *rest;

  *path = NULL;
  if (proc_text(pid, "cgroup", &theirs, NULL, e) != 0 ||
      proc_mounts_read(getpid(), &mounts, e) != 0)
    return -1;
  rest = theirs;
  for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
    struct membership membership;

    if (!parse_membership(line, &membership) ||
        !(*controller ? has_word(membership.controllers, controller) : !*membership.controllers))
      continue;
    *path = directory_of(&membership, &mounts, top, e);
    return *path || errno == 0 ? 0 : -1;
  }
  return 0;
}

static int add_members(const char *path, struct proc_list *members, struct err *e)
{
  AUTO_FREE char *text = NULL;
  char *rest;

  if (io_read_file(AT_FDCWD, path, 16 << 20, &text, NULL, e) < 0)
    return errno == ENOENT || errno == ENODEV ? 0 : -1;
  rest = text;
  for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
    int32_t *larger = reallocarray(members->items, members->count + 1, sizeof(*larger));

    if (!larger)
      return err_sys(e, "%s", path);
    members->items = larger;
    members->items[members->count++] = (int32_t)strtol(line, NULL, 10);
  }
  return 0;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the groups are nested */
int cgroup_members(const char *path, struct proc_list *members, struct err *e)
{
  AUTO_FREE char *file = io_format(e, "%s/cgroup.procs", path);
  AUTO_CLOSEDIR DIR *directory = NULL;
  struct dirent *entry;

  if (!file || add_members(file, members, e) < 0)
    return -1;
  directory = opendir(path);
  if (!directory)
    return errno == ENOENT ? 0 : err_sys(e, "%s", path);
  while ((entry = readdir(directory))) {
    AUTO_FREE char *below = NULL;

    if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
      continue;
    below = io_format(e, "%s/%s", path, entry->d_name);
    if (!below || cgroup_members(below, members, e) < 0)
      return -1;
  }
  return 0;
}

/* How each version is asked and told. */
static const struct {
  const char *control, *freeze, *thaw;
  const char *events, *frozen;
} freezers[] = {
    {"freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN"},
    {"cgroup.freeze", "1", "0", "cgroup.events", "frozen 1"},
};

/* The text of a control file; NULL when the group has none. */
static char *read_control(const char *path, const char *name)
{
  struct err ignored;
  AUTO_FREE char *file = io_format(&ignored, "%s/%s", path, name);
  char *text = NULL;

  if (!file || io_read_file(AT_FDCWD, file, 4096, &text, NULL, &ignored) < 0)
    return NULL;
  return text;
}

/* The number in the first of these files that there is; 0 when there is none. */
static bool says_yes(const char *path, const char *const names[2])
{
  for (size_t i = 0; i < 2; i++) {
    AUTO_FREE char *text = read_control(path, names[i]);

    if (text)
      return text[0] == '1';
  }
  return false;
}

bool cgroup_is_frozen(const char *path)
{
  static const char *const names[2] = {"freezer.self_freezing", "cgroup.freeze"};

  return says_yes(path, names);
}

bool cgroup_is_frozen_above(const char *path)
{
  static const char *const names[2] = {"freezer.parent_freezing", ""};
  AUTO_FREE char *events = read_control(path, "cgroup.events");

  if (events)
    return strstr(events, "frozen 1") && !cgroup_is_frozen(path);
  return says_yes(path, names);
}

int cgroup_freeze(const char *path, bool frozen, struct err *e)
{
  for (size_t i = 0; i < ARRAY_LEN(freezers); i++) {
    AUTO_FREE char *text = read_control(path, freezers[i].control);
    AUTO_FREE char *file = text ? io_format(e, "%s/%s", path, freezers[i].control) : NULL;

    if (!file)
      continue;
    if (io_write_file(AT_FDCWD, file, frozen ? freezers[i].freeze : freezers[i].thaw, e) < 0)
      return -1;
    for (int k = 0; frozen && k < FREEZE_TRIES; k++) {
      AUTO_FREE char *now = read_control(path, freezers[i].events);

      if (now && strstr(now, freezers[i].frozen))
        return 0;
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return frozen ? err_set(e, "%s: does not freeze", path) : 0;
  }
  return err_set(e, "%s: cannot be frozen", path);
}

/* Is it one of the lines of the text? */
static bool has_line(const char *text, const char *line)
{
  size_t length = strlen(line);

  for (const char *at = text; (at = strstr(at, line)); at++) {
    if ((at == text || at[-1] == '\n') && (at[length] == '\n' || at[length] == '\0'))
      return true;
  }
  return false;
}

int cgroup_join(pid_t pid, pid_t other, struct err *e)
{
  CLEANUP(proc_mounts_free) struct proc_mounts mounts = {0};
  AUTO_FREE char *theirs = NULL;
  AUTO_FREE char *ours = NULL;
  char number[16];
  char *rest;

  if (proc_text(other, "cgroup", &theirs, NULL, e) != 0 ||
      proc_text(pid, "cgroup", &ours, NULL, e) != 0 || proc_mounts_read(getpid(), &mounts, e) != 0)
    return -1;
  snprintf(number, sizeof(number), "%d", pid);
  rest = theirs;
  for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
    struct membership membership;
    AUTO_FREE char *directory = NULL;
    AUTO_FREE char *file = NULL;
    size_t top;

    if (has_line(ours, line) || !parse_membership(line, &membership))
      continue;
    directory = directory_of(&membership, &mounts, &top, e);
    if (!directory && errno == 0)
      continue; /* not mounted */
    file = directory ? io_format(e, "%s/cgroup.procs", directory) : NULL;
    if (!file || io_write_file(AT_FDCWD, file, number, e) < 0)
      return -1;
  }
  return 0;
}
