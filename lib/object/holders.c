#include "object/holders.h"

#include "base/cleanup.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#define OTHERS "others" /* a key that is no object's */

static void object_key(char *key, size_t size, dev_t device, ino_t inode)
{
  snprintf(key, size, "%u:%u:%" PRIu64, major(device), minor(device), (uint64_t)inode);
}

/* dump->outsiders is of "device:inode" -> the outsider's pid << 1 | in_tree. */
static int add(json_t *table, const struct statx *found, bool in_tree, pid_t pid, struct err *e)
{
  char key[64];
  json_int_t value;

  object_key(key, sizeof(key), makedev(found->stx_dev_major, found->stx_dev_minor), found->stx_ino);
  value = json_integer_value(json_object_get(table, key));
  value = in_tree ? value | 1 : (json_int_t)pid << 1 | (value & 1);
  if (json_object_set_new(table, key, json_integer(value)) < 0)
    return err_set(e, "out of memory");
  return 0;
}

static bool is_looked_for(const struct statx *found)
{
  return S_ISSOCK(found->stx_mode) || S_ISFIFO(found->stx_mode) ||
         (S_ISREG(found->stx_mode) && found->stx_nlink == 0);
}

/* A process that ends meanwhile holds nothing. No file system is asked: it might not answer. */
static int add_process(const struct object_dump *dump, pid_t pid, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list fds = {0};
  struct err ignored;
  int in_tree = -1;

  if (proc_descriptors(pid, &fds, &ignored) != 0) {
    if (errno == EACCES && json_object_set_new(dump->outsiders, OTHERS, json_true()) < 0)
      return err_set(e, "out of memory");
    return 0;
  }
  for (size_t i = 0; i < fds.count; i++) {
    struct statx found;
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fds.items[i]);
    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
              STATX_TYPE | STATX_INO | STATX_NLINK, &found) < 0 ||
        !is_looked_for(&found))
      continue;
    if (in_tree < 0)
      in_tree = dump->in_tree(dump, pid);
    if (add(dump->outsiders, &found, in_tree, pid, e) < 0)
      return -1;
  }
  return 0;
}

static int look(const struct object_dump *dump, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list all = {0};
  pid_t self = getpid();

  json_object_clear(dump->outsiders);
  if (proc_all(&all, e) < 0)
    return -1;
  for (size_t i = 0; i < all.count; i++) {
    if (all.items[i] != self && add_process(dump, all.items[i], e) < 0)
      return -1;
  }
  return 0;
}

int object_holders(const struct object_dump *dump, dev_t device, ino_t inode,
                   struct holders *holders, struct err *e)
{
  char key[64];
  json_int_t value;

  object_key(key, sizeof(key), device, inode);
  if (!json_object_get(dump->outsiders, key) && look(dump, e) < 0)
    return -1;
  value = json_integer_value(json_object_get(dump->outsiders, key));
  *holders = (struct holders){
      .in_tree = value & 1,
      .outsider = (pid_t)(value >> 1),
      .others = json_object_get(dump->outsiders, OTHERS) != NULL,
  };
  return 0;
}
