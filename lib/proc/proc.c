#include "proc/proc.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { TEXT_LIMIT = 16 << 20 };

static bool is_gone(void)
{
  return errno == ENOENT || errno == ESRCH;
}

int proc_text(pid_t pid, const char *name, char **text, size_t *size, struct err *e)
{
  char path[PATH_MAX];

  snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
  if (io_read_file(AT_FDCWD, path, TEXT_LIMIT, text, size, e) == 0)
    return 0;
  return is_gone() ? 1 : -1;
}

int proc_link(pid_t pid, const char *name, char *target, size_t room, struct err *e)
{
  char path[PATH_MAX];
  ssize_t n;

  snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
  n = readlink(path, target, room - 1);
  if (n < 0) {
    err_sys(e, "%s", path);
    return is_gone() ? 1 : -1;
  }
  target[n] = '\0';
  return 0;
}

int proc_stat_read(pid_t pid, struct proc_stat *stat, struct err *e)
{
  AUTO_FREE char *text = NULL;
  uint64_t fields[53] = {0}; /* numbered as in proc(5) */
  int result = proc_text(pid, "stat", &text, NULL, e);
  unsigned number = 3;
  char *at;

  if (result != 0)
    return result;
  /* The name may hold anything, parentheses and spaces too: the last one ends it. */
  at = strrchr(text, ')');
  if (!at || at[1] != ' ' || at[2] == '\0')
    return err_set(e, "/proc/%d/stat: unexpected text", pid);
  stat->state = at[2];
  for (at += 3; *at && number < 52;) {
    char *end;
    uint64_t value = strtoull(at, &end, 10); /* negative ones wrap, as they should */

    if (end == at)
      break;
    fields[++number] = value;
    at = end;
  }
  if (number < 52)
    return err_set(e, "/proc/%d/stat: has only %u fields", pid, number);
  stat->ppid = (int32_t)fields[4];
  stat->pgrp = (int32_t)fields[5];
  stat->session = (int32_t)fields[6];
  stat->tty = (int32_t)fields[7];
  stat->foreground = (int32_t)fields[8];
  stat->exiting = fields[9] & 4; /* PF_EXITING, include/linux/sched.h */
  stat->threads = (int32_t)fields[20];
  stat->start_time = fields[22];
  stat->start_code = fields[26];
  stat->end_code = fields[27];
  stat->start_stack = fields[28];
  stat->exit_signal = (int32_t)fields[38];
  stat->processor = (int32_t)fields[39];
  stat->start_data = fields[45];
  stat->end_data = fields[46];
  stat->start_brk = fields[47];
  stat->arg_start = fields[48];
  stat->arg_end = fields[49];
  stat->env_start = fields[50];
  stat->env_end = fields[51];
  stat->exit_code = (int32_t)fields[52];
  return 0;
}

bool proc_is_zombie(const struct proc_stat *stat)
{
  return (stat->state == 'Z' || stat->state == 'X') && stat->threads <= 1;
}

/* What stands behind "name:" and blanks at the start of a line; NULL when there is none. */
static const char *find_field(const char *text, const char *name)
{
  size_t length = strlen(name);

  for (const char *line = text; line; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, name, length) == 0 && line[length] == ':')
      return line + length + 1 + strspn(line + length + 1, " \t");
  }
  return NULL;
}

bool proc_field(const char *text, const char *name, int base, uint64_t *value)
{
  const char *at = find_field(text, name);
  char *end;

  if (!at)
    return false;
  *value = strtoull(at, &end, base);
  return end != at;
}

static size_t read_numbers(const char *text, const char *name, uint64_t *numbers, size_t room)
{
  const char *at = find_field(text, name);
  size_t count = 0;

  while (at && count < room && (*at == ' ' || *at == '\t' || (*at >= '0' && *at <= '9'))) {
    char *end;
    uint64_t value;

    at += strspn(at, " \t");
    value = strtoull(at, &end, 10);
    if (end == at)
      break;
    numbers[count++] = value;
    at = end;
  }
  return count;
}

static size_t read_i32(const char *text, const char *name, int32_t *out, size_t room)
{
  uint64_t numbers[PROC_NAMESPACES];
  size_t count = read_numbers(text, name, numbers, room < PROC_NAMESPACES ? room : PROC_NAMESPACES);

  for (size_t i = 0; i < count; i++)
    out[i] = (int32_t)numbers[i];
  return count;
}

static int read_groups(const char *text, struct proc_status *status, struct err *e)
{
  const char *line = find_field(text, "Groups");
  size_t room = line ? strcspn(line, "\n") / 2 + 1 : 1; /* each has a digit and a blank */
  AUTO_FREE uint64_t *numbers = calloc(room, sizeof(*numbers));

  if (!numbers)
    return err_sys(e, "groups");
  status->group_count = read_numbers(text, "Groups", numbers, room);
  status->groups = calloc(status->group_count + 1, sizeof(*status->groups));
  if (!status->groups)
    return err_sys(e, "groups");
  for (size_t i = 0; i < status->group_count; i++)
    status->groups[i] = (uint32_t)numbers[i];
  return 0;
}

/* The thread's name as it is: the kernel writes a newline as \n and a backslash as two. */
static bool read_name(const char *text, char *name, size_t room)
{
  const char *from = strncmp(text, "Name:\t", 6) == 0 ? text + 6 : NULL; /* blanks are the name's */
  size_t used = 0;

  for (; from && *from && *from != '\n' && used < room - 1; from++) {
    if (*from == '\\' && (from[1] == '\\' || from[1] == 'n'))
      name[used++] = *++from == 'n' ? '\n' : '\\';
    else
      name[used++] = *from;
  }
  name[used] = '\0';
  return from;
}

int proc_status_read(pid_t tid, struct proc_status *status, struct err *e)
{
  AUTO_FREE char *text = NULL;
  uint64_t tgid, ppid, tracer, umask, threads, seccomp = 0, no_new_privs = 0;
  uint64_t resident = 0, swapped = 0; /* zombies have none */
  int result = proc_text(tid, "status", &text, NULL, e);

  memset(status, 0, sizeof(*status));
  if (result != 0)
    return result;
  if (!read_name(text, status->name, sizeof(status->name)) ||
      !proc_field(text, "Tgid", 10, &tgid) || !proc_field(text, "PPid", 10, &ppid) ||
      !proc_field(text, "TracerPid", 10, &tracer) ||
      read_i32(text, "Uid", (int32_t *)status->uid, 4) != 4 ||
      read_i32(text, "Gid", (int32_t *)status->gid, 4) != 4 ||
      !proc_field(text, "Threads", 10, &threads) ||
      !proc_field(text, "CapInh", 16, &status->cap_inheritable) ||
      !proc_field(text, "CapPrm", 16, &status->cap_permitted) ||
      !proc_field(text, "CapEff", 16, &status->cap_effective) ||
      !proc_field(text, "CapBnd", 16, &status->cap_bounding) ||
      !proc_field(text, "CapAmb", 16, &status->cap_ambient) ||
      !proc_field(text, "SigIgn", 16, &status->sig_ignored) ||
      !proc_field(text, "SigCgt", 16, &status->sig_caught))
    return err_set(e, "/proc/%d/status: unexpected text", tid);
  if (!proc_field(text, "Umask", 8, &umask)) /* zombies have none */
    umask = 0;
  proc_field(text, "Seccomp", 10, &seccomp);
  proc_field(text, "NoNewPrivs", 10, &no_new_privs);
  proc_field(text, "RssAnon", 10, &resident);
  proc_field(text, "VmSwap", 10, &swapped);
  status->tgid = (int32_t)tgid;
  status->ppid = (int32_t)ppid;
  status->tracer = (int32_t)tracer;
  status->umask = (uint32_t)umask;
  status->threads = (uint32_t)threads;
  status->seccomp = (uint32_t)seccomp;
  status->no_new_privs = (uint32_t)no_new_privs;
  status->anonymous = resident * 1024;
  status->swapped = swapped * 1024;
  status->ns_depth = read_i32(text, "NSpid", status->ns_pid, PROC_NAMESPACES);
  read_i32(text, "NSpgid", status->ns_pgid, PROC_NAMESPACES);
  read_i32(text, "NSsid", status->ns_sid, PROC_NAMESPACES);
  return read_groups(text, status, e);
}

void proc_status_free(struct proc_status *status)
{
  free(status->groups);
  status->groups = NULL;
}

/* Directories of /proc whose entries are numbers. */
static int list_directory(const char *path, struct proc_list *list, struct err *e)
{
  AUTO_CLOSEDIR DIR *dir = opendir(path);
  struct dirent *entry;

  if (!dir) {
    err_sys(e, "%s", path);
    return is_gone() ? 1 : -1;
  }
  while ((entry = readdir(dir))) {
    char *end;
    long number = strtol(entry->d_name, &end, 10);
    int32_t *larger;

    if (*end || entry->d_name[0] < '0' || entry->d_name[0] > '9' || number > INT32_MAX)
      continue;
    /* Room doubles: it is a power of two whenever it is full. */
    if ((list->count & (list->count - 1)) == 0) {
      larger = reallocarray(list->items, list->count ? list->count * 2 : 1, sizeof(*larger));
      if (!larger)
        return err_sys(e, "%s", path);
      list->items = larger;
    }
    list->items[list->count++] = (int32_t)number;
  }
  return 0;
}

static int compare_numbers(const void *a, const void *b)
{
  const int32_t *x = a;
  const int32_t *y = b;

  return *x < *y ? -1 : *x > *y;
}

static int sorted_directory(const char *path, struct proc_list *list, struct err *e)
{
  int result;

  *list = (struct proc_list){0};
  result = list_directory(path, list, e);
  if (result == 0 && list->count)
    qsort(list->items, list->count, sizeof(*list->items), compare_numbers);
  if (result != 0)
    proc_list_free(list);
  return result;
}

int proc_threads(pid_t pid, struct proc_list *list, struct err *e)
{
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/task", pid);
  return sorted_directory(path, list, e);
}

int proc_descriptors(pid_t pid, struct proc_list *list, struct err *e)
{
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/fd", pid);
  return sorted_directory(path, list, e);
}

int proc_all(struct proc_list *list, struct err *e)
{
  return sorted_directory("/proc", list, e);
}

void proc_list_free(struct proc_list *list)
{
  free(list->items);
  *list = (struct proc_list){0};
}

/* A walk by parent instead of task/TID/children, which stops at the first child that exits. */
/* Without CONFIG_PROC_CHILDREN: by asking everybody for its parent. */
static int children_by_parent(pid_t pid, struct proc_list *list, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list all = {0};
  size_t kept = 0;
  int result = proc_all(&all, e);

  if (result != 0)
    return result;
  for (size_t i = 0; i < all.count; i++) {
    struct proc_stat stat;

    if (proc_stat_read(all.items[i], &stat, e) == 0 && stat.ppid == pid)
      all.items[kept++] = all.items[i];
  }
  list->items = TAKE_POINTER(all.items);
  list->count = kept;
  return 0;
}

static int add_numbers(struct proc_list *list, const char *text, struct err *e)
{
  char *end;

  for (long number = strtol(text, &end, 10); end != text; number = strtol(text, &end, 10)) {
    int32_t *larger = reallocarray(list->items, list->count + 1, sizeof(*larger));

    if (!larger)
      return err_sys(e, "children");
    list->items = larger;
    list->items[list->count++] = (int32_t)number;
    text = end;
  }
  return 0;
}

int proc_thread_children(pid_t pid, pid_t tid, struct proc_list *list, struct err *e)
{
  AUTO_FREE char *text = NULL;
  char name[48];
  int result;

  snprintf(name, sizeof(name), "task/%d/children", tid);
  result = proc_text(pid, name, &text, NULL, e);
  if (result == 0)
    return add_numbers(list, text, e);
  if (result == 1 && tid == pid && access("/proc/thread-self/children", F_OK) < 0)
    return children_by_parent(pid, list, e);
  return result;
}

int proc_children(pid_t pid, struct proc_list *list, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list threads = {0};
  int result = proc_threads(pid, &threads, e);

  *list = (struct proc_list){0};
  for (size_t i = 0; i < threads.count && result == 0; i++) {
    result = proc_thread_children(pid, threads.items[i], list, e);
    if (result == 1 && threads.items[i] != pid)
      result = 0; /* the thread is gone */
  }
  return result;
}

int proc_namespace_differs(pid_t pid, pid_t other, const char *kind, struct err *e)
{
  char path[2][64];
  struct stat stats[2];

  snprintf(path[0], sizeof(path[0]), "/proc/%d/ns/%s", pid, kind);
  snprintf(path[1], sizeof(path[1]), "/proc/%d/ns/%s", other, kind);
  for (int i = 0; i < 2; i++) {
    if (stat(path[i], &stats[i]) < 0)
      return err_sys(e, "%s", path[i]);
  }
  return stats[0].st_ino != stats[1].st_ino || stats[0].st_dev != stats[1].st_dev;
}
