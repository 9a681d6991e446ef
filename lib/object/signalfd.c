/* signalfd(2): a set of signals; whose they are is decided by who reads. */
#include "object/object.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

struct detail {
  uint64_t mask;
};

static const struct field fields[] = {
    F_HEX(struct detail, mask),
    F_END,
};

static bool matches(const struct object_source *source)
{
  return strcmp(source->link, "anon_inode:[signalfd]") == 0;
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  struct detail detail = {0};

  (void)dump;
  if (!source->fdinfo || !proc_field(source->fdinfo, "sigmask", 16, &detail.mask))
    return err_set(e, "cannot be checkpointed: its mask is not known");
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  struct detail detail = {0};
  int fd;

  (void)restore;
  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  fd = (int)syscall(SYS_signalfd4, -1, &detail.mask, sizeof(detail.mask),
                    SFD_CLOEXEC | (file->flags & O_NONBLOCK ? SFD_NONBLOCK : 0));
  return fd < 0 ? err_sys(e, "signalfd") : fd;
}

const struct object_type object_signalfd = {
    .name = "signalfd",
    .matches = matches,
    .dump = dump,
    .restore = restore,
};
