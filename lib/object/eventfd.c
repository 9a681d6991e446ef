/* eventfd(2): a counter. */
#include "base/cleanup.h"
#include "object/object.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

struct detail {
  uint64_t count;
  bool semaphore;
};

static const struct field fields[] = {
    F_UNSIGNED(struct detail, count),
    F_BOOL(struct detail, semaphore),
    F_END,
};

static bool matches(const struct object_source *source)
{
  return strcmp(source->link, "anon_inode:[eventfd]") == 0;
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  struct detail detail = {0};
  uint64_t semaphore = 0;

  (void)dump;
  if (!source->fdinfo || !proc_field(source->fdinfo, "eventfd-count", 16, &detail.count))
    return err_set(e, "cannot be checkpointed: its count is not known");
  proc_field(source->fdinfo, "eventfd-semaphore", 10, &semaphore);
  detail.semaphore = semaphore;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  struct detail detail = {0};
  AUTO_CLOSE int fd = -1;
  int flags = EFD_CLOEXEC | (file->flags & O_NONBLOCK ? EFD_NONBLOCK : 0);

  (void)restore;
  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  fd = eventfd(0, flags | (detail.semaphore ? EFD_SEMAPHORE : 0));
  if (fd < 0 || (detail.count && write(fd, &detail.count, sizeof(detail.count)) < 0))
    return err_sys(e, "eventfd");
  return take_fd(&fd);
}

const struct object_type object_eventfd = {
    .name = "eventfd",
    .matches = matches,
    .dump = dump,
    .restore = restore,
};
