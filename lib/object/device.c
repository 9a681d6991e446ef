/* Character devices without state of their own: /dev/null and its like. */
#include "base/cleanup.h"
#include "object/object.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/sysmacros.h>

struct detail {
  char *path;
  uint32_t major, minor;
};

static const struct field fields[] = {
    F_STRING(struct detail, path),
    F_UNSIGNED(struct detail, major),
    F_UNSIGNED(struct detail, minor),
    F_END,
};

enum { MEM_MAJOR = 1 };

/* Documentation/admin-guide/devices.txt: null, zero, full, random, urandom. */
static bool is_stateless(unsigned major_number, unsigned minor_number)
{
  return major_number == MEM_MAJOR &&
         (minor_number == 3 || minor_number == 5 || (minor_number >= 7 && minor_number <= 9));
}

static bool matches(const struct object_source *source)
{
  return S_ISCHR(source->stat.st_mode) && source->link[0] == '/' &&
         is_stateless(major(source->stat.st_rdev), minor(source->stat.st_rdev)) &&
         object_path_leads_to(source);
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  struct detail detail = {
      .path = (char *)source->link,
      .major = major(source->stat.st_rdev),
      .minor = minor(source->stat.st_rdev),
  };

  (void)dump;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_CLOSE int place = -1;
  struct stat found;
  int fd;

  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  if (!detail.path || !is_stateless(detail.major, detail.minor))
    return err_set(e, "device %u:%u is not supported", detail.major, detail.minor);
  /* Opening alone is an act of some devices: not before it is known to be none of those. */
  place = object_open(restore, detail.path, O_PATH);
  if (place < 0 || fstat(place, &found) < 0)
    return err_sys(e, "%s", detail.path);
  if (!S_ISCHR(found.st_mode) || found.st_rdev != makedev(detail.major, detail.minor))
    return err_set(e, "%s: is no longer the device %u:%u", detail.path, detail.major, detail.minor);
  if (file->flags & O_PATH)
    return take_fd(&place);
  fd = object_reopen(place, (file->flags & (uint32_t) ~(O_CREAT | O_EXCL | O_TRUNC)) | O_NOCTTY, e);
  return fd < 0 ? err_prefix(e, "%s", detail.path) : fd;
}

static int check_restore(const struct object_restore *restore_, const struct file *file,
                         struct err *e)
{
  struct object_restore copy = *restore_;
  AUTO_CLOSE int fd = restore(&copy, file, e);

  return fd < 0 ? -1 : 0;
}

const struct object_type object_device = {
    .name = "device",
    .matches = matches,
    .dump = dump,
    .check_restore = check_restore,
    .restore = restore,
};
