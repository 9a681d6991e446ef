/* timerfd_create(2). Times are the remaining ones: the clock does not stop for us. */
#include "base/cleanup.h"
#include "object/object.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t) /* linux/timerfd.h */
#endif

struct detail {
  int32_t clock;
  uint32_t set_flags; /* TFD_TIMER_* of the last timerfd_settime */
  uint64_t ticks;     /* expirations that nobody has read yet */
  int64_t value_seconds, value_nanoseconds, interval_seconds, interval_nanoseconds;
};

static const struct field fields[] = {
    F_SIGNED(struct detail, clock),
    F_HEX(struct detail, set_flags),
    F_UNSIGNED(struct detail, ticks),
    F_SIGNED(struct detail, value_seconds),
    F_SIGNED(struct detail, value_nanoseconds),
    F_SIGNED(struct detail, interval_seconds),
    F_SIGNED(struct detail, interval_nanoseconds),
    F_END,
};

static bool matches(const struct object_source *source)
{
  return strcmp(source->link, "anon_inode:[timerfd]") == 0;
}

static bool read_pair(const char *fdinfo, const char *name, int64_t *seconds, int64_t *nanoseconds)
{
  const char *at = strstr(fdinfo, name);

  return at && sscanf(at + strlen(name), " (%" SCNd64 ", %" SCNd64 ")", seconds, nanoseconds) == 2;
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  struct detail detail = {0};
  uint64_t clock, flags;

  (void)dump;
  if (!source->fdinfo || !proc_field(source->fdinfo, "clockid", 10, &clock) ||
      !proc_field(source->fdinfo, "ticks", 10, &detail.ticks) ||
      !proc_field(source->fdinfo, "settime flags", 8, &flags) ||
      !read_pair(source->fdinfo, "it_value:", &detail.value_seconds, &detail.value_nanoseconds) ||
      !read_pair(source->fdinfo, "it_interval:", &detail.interval_seconds,
                 &detail.interval_nanoseconds))
    return err_set(e, "cannot be checkpointed: its times are not known");
  detail.clock = (int32_t)clock;
  detail.set_flags = (uint32_t)flags;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

/* An absolute timer shows the time that is left, too: it comes back as that point in time. */
static int set_time(int fd, const struct detail *detail)
{
  struct itimerspec time = {
      .it_value = {detail->value_seconds, detail->value_nanoseconds},
      .it_interval = {detail->interval_seconds, detail->interval_nanoseconds},
  };
  int flags = (int)detail->set_flags & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET);
  struct timespec now;

  if (flags & TFD_TIMER_ABSTIME && (time.it_value.tv_sec || time.it_value.tv_nsec)) {
    if (clock_gettime(detail->clock, &now) < 0)
      return -1;
    time.it_value.tv_sec += now.tv_sec;
    time.it_value.tv_nsec += now.tv_nsec;
    if (time.it_value.tv_nsec >= 1000000000) {
      time.it_value.tv_sec++;
      time.it_value.tv_nsec -= 1000000000;
    }
  }
  return timerfd_settime(fd, flags, &time, NULL);
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  struct detail detail = {0};
  AUTO_CLOSE int fd = -1;

  (void)restore;
  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  fd = timerfd_create(detail.clock, TFD_CLOEXEC | (file->flags & O_NONBLOCK ? TFD_NONBLOCK : 0));
  if (fd < 0 || set_time(fd, &detail) < 0)
    return err_sys(e, "timerfd");
  if (detail.ticks && ioctl(fd, TFD_IOC_SET_TICKS, &detail.ticks) < 0)
    return err_sys(e, "timerfd: ticks");
  return take_fd(&fd);
}

const struct object_type object_timerfd = {
    .name = "timerfd",
    .matches = matches,
    .dump = dump,
    .restore = restore,
};
