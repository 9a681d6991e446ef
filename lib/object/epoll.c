/*
 * epoll(7). The kernel knows a target by its file and the number it had when it was added, so that
 * the process itself must add it, at that number.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "object/object.h"
#include "tracee/tracee.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

struct target {
  int32_t fd;
  uint32_t events;
  uint64_t data;
};

struct detail {
  struct target *targets;
  size_t target_count;
};

static const struct field target_fields[] = {
    F_SIGNED(struct target, fd),
    F_HEX(struct target, events),
    F_HEX(struct target, data),
    F_END,
};

static const struct field fields[] = {
    F_LIST(struct detail, targets, target_count, target_fields),
    F_END,
};

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static bool matches(const struct object_source *source)
{
  return strcmp(source->link, "anon_inode:[eventpoll]") == 0;
}

/* Is the target's number still the file that was added? Its inode tells. */
static int check_target(const struct object_source *source, int fd, uint64_t inode, struct err *e)
{
  char path[64];
  struct stat found;

  snprintf(path, sizeof(path), "/proc/%d/fd/%d", source->pid, fd);
  if (stat(path, &found) < 0 || found.st_ino != inode)
    return err_set(e,
                   "cannot be checkpointed: it watches something that was descriptor %d, which "
                   "has been closed or replaced since",
                   fd);
  return 0;
}

static int read_targets(const struct object_source *source, struct detail *detail, struct err *e)
{
  const char *at = source->fdinfo ? strstr(source->fdinfo, "\ntfd:") : NULL;

  for (; at; at = strstr(at + 1, "\ntfd:")) {
    struct target *target;
    uint64_t inode;
    int fd;
    uint32_t events;
    uint64_t data;

    if (sscanf(at, "\ntfd: %d events: %" SCNx32 " data: %" SCNx64 " pos:%*d ino:%" SCNx64, &fd,
               &events, &data, &inode) != 4)
      return err_set(e, "cannot be checkpointed: its targets are not known");
    if (check_target(source, fd, inode, e) < 0)
      return -1;
    target = list_append(&detail->targets, &detail->target_count, sizeof(*target));
    if (!target)
      return err_sys(e, "epoll");
    *target = (struct target){.fd = fd, .events = events, .data = data};
  }
  return 0;
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  (void)dump;
  return read_targets(source, &detail, e);
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  (void)dump;
  if (read_targets(source, &detail, e) < 0)
    return -1;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  int fd = epoll_create1(EPOLL_CLOEXEC);

  (void)restore;
  (void)file;
  return fd < 0 ? err_sys(e, "epoll") : fd;
}

static int attach(struct object_restore *restore, const struct file *file, int fd,
                  struct tracee *tracee, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  (void)restore;
  if (!tracee)
    return 0;
  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  for (size_t i = 0; i < detail.target_count; i++) {
    struct epoll_event event = {
        .events = detail.targets[i].events,
        .data.u64 = detail.targets[i].data,
    };
    uint64_t area = tracee_scratch(tracee);
    int64_t result;

    if (tracee_write(tracee, area, &event, sizeof(event), e) < 0 ||
        TRACEE_CALL(tracee, e, &result, SYS_epoll_ctl, (uint64_t)fd, EPOLL_CTL_ADD,
                    (uint64_t)detail.targets[i].fd, area, 0, 0) < 0)
      return -1;
    if (result < 0) {
      errno = (int)-result;
      return err_sys(e, "epoll: descriptor %d", detail.targets[i].fd);
    }
  }
  return 0;
}

const struct object_type object_epoll = {
    .name = "epoll",
    .matches = matches,
    .check = check,
    .dump = dump,
    .restore = restore,
    .attach = attach,
};
