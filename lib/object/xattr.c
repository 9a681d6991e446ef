#include "object/xattr.h"

#include "base/cleanup.h"
#include "state/model.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

const struct field xattr_fields[] = {
    F_STRING(struct xattr, name),
    F_BLOB(struct xattr, value),
    F_END,
};

static bool begins(const char *name, const char *prefix)
{
  return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool is_ours(const char *name)
{
  return begins(name, "user.") || begins(name, "trusted.") ||
         strcmp(name, "security.capability") == 0 || begins(name, "system.posix_acl_");
}

/* What a namespace's ids are called on its other side. */
typedef uint32_t translation(const struct proc_idmap *map, uint32_t id);

/* struct posix_acl_xattr_header, then entries; all little endian. */
static void translate_acl(struct blob *value, const struct proc_idmap *uids,
                          const struct proc_idmap *gids, translation *translate)
{
  struct posix_acl_xattr_entry entry;

  for (size_t at = sizeof(struct posix_acl_xattr_header); at + sizeof(entry) <= value->size;
       at += sizeof(entry)) {
    uint16_t tag;

    memcpy(&entry, value->data + at, sizeof(entry));
    tag = le16toh(entry.e_tag);
    if (tag != ACL_USER && tag != ACL_GROUP)
      continue;
    entry.e_id = htole32(translate(tag == ACL_USER ? uids : gids, le32toh(entry.e_id)));
    memcpy(value->data + at, &entry, sizeof(entry));
  }
}

/* struct vfs_ns_cap_data: whose root the capabilities are for. */
static void translate_capability(struct blob *value, const struct proc_idmap *uids,
                                 translation *translate)
{
  struct vfs_ns_cap_data data;

  if (value->size != sizeof(data))
    return;
  memcpy(&data, value->data, sizeof(data));
  data.rootid = htole32(translate(uids, le32toh(data.rootid)));
  memcpy(value->data, &data, sizeof(data));
}

static void translate_ids(const char *name, struct blob *value, const struct proc_idmap *uids,
                          const struct proc_idmap *gids, translation *translate)
{
  if (begins(name, "system.posix_acl_"))
    translate_acl(value, uids, gids, translate);
  else if (strcmp(name, "security.capability") == 0)
    translate_capability(value, uids, translate);
}

/* The names, each with its NUL: their length, 0 where there are none, -1. */
static ssize_t list_names(const char *path, char names[XATTR_LIST_MAX], struct err *e)
{
  ssize_t size = listxattr(path, names, XATTR_LIST_MAX);

  if (size < 0)
    return errno == ENOTSUP ? 0 : err_sys(e, "extended attributes");
  return size;
}

static int read_one(const char *path, const char *name, struct xattr *xattr, struct err *e)
{
  uint8_t buffer[XATTR_SIZE_MAX];
  ssize_t size = getxattr(path, name, buffer, sizeof(buffer));

  if (size < 0)
    return err_sys(e, "extended attribute %s", name);
  xattr->name = strdup(name);
  xattr->value.data = malloc((size_t)size + 1);
  if (!xattr->name || !xattr->value.data)
    return err_sys(e, "extended attribute %s", name);
  memcpy(xattr->value.data, buffer, (size_t)size);
  xattr->value.size = (size_t)size;
  return 0;
}

int xattr_read(int fd, const struct proc_idmap *uids, const struct proc_idmap *gids,
               struct xattr **list, size_t *count, struct err *e)
{
  char names[XATTR_LIST_MAX];
  char path[32];
  ssize_t size;

  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  size = list_names(path, names, e);
  for (const char *name = names; name < names + size; name += strlen(name) + 1) {
    struct xattr *xattr;

    if (!is_ours(name))
      continue;
    xattr = list_append(list, count, sizeof(*xattr));
    if (!xattr)
      return err_sys(e, "extended attributes");
    if (read_one(path, name, xattr, e) < 0)
      return -1;
    translate_ids(name, &xattr->value, uids, gids, proc_id_inside);
  }
  return size < 0 ? -1 : 0;
}

static bool is_listed(const char *name, const struct xattr *list, size_t count)
{
  for (size_t i = 0; i < count; i++) {
    if (list[i].name && strcmp(list[i].name, name) == 0)
      return true;
  }
  return false;
}

static int write_one(const char *path, const struct proc_idmap *uids, const struct proc_idmap *gids,
                     const struct xattr *xattr, struct err *e)
{
  struct blob value = {.data = malloc(xattr->value.size + 1), .size = xattr->value.size};
  int result;

  if (!value.data)
    return err_sys(e, "extended attribute %s", xattr->name);
  memcpy(value.data, xattr->value.data, value.size);
  translate_ids(xattr->name, &value, uids, gids, proc_id_outside);
  result = setxattr(path, xattr->name, value.data, value.size, 0);
  free(value.data);
  return result < 0 ? err_sys(e, "extended attribute %s", xattr->name) : 0;
}

int xattr_write(int fd, const struct proc_idmap *uids, const struct proc_idmap *gids,
                const struct xattr *list, size_t count, struct err *e)
{
  char names[XATTR_LIST_MAX];
  char path[32];
  ssize_t size;

  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  size = list_names(path, names, e);
  for (const char *name = names; name < names + size; name += strlen(name) + 1) {
    if (is_ours(name) && !is_listed(name, list, count) && removexattr(path, name) < 0)
      return err_sys(e, "extended attribute %s", name);
  }
  for (size_t i = 0; i < count; i++) {
    if (!list[i].name || !is_ours(list[i].name))
      return err_set(e, "extended attribute %s: is not one that is restored",
                     list[i].name ? list[i].name : "without a name");
    if (write_one(path, uids, gids, &list[i], e) < 0)
      return -1;
  }
  return size < 0 ? -1 : 0;
}
