/*
 * What a container has from outside: the standard streams that its runtime handed to its processes
 * (a pipe of the engine's, a log file of the host's, a terminal). They come back as those of the
 * new container. A terminal's settings and foreground process group are the container's own doing.
 */
#include "base/cleanup.h"
#include "object/holders.h"
#include "object/object.h"
#include "proc/proc.h"
#include "tracee/tracee.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct detail {
  int32_t stream; /* 0, 1, 2 */
  bool terminal;
  bool reopened;        /* by way of /dev/tty: a description of its own */
  struct blob settings; /* struct termios2 */
  uint32_t rows, columns;
  int32_t foreground; /* its process group; 0: none of the tree's */
};

static const struct field fields[] = {
    F_SIGNED(struct detail, stream),     F_BOOL(struct detail, terminal),
    F_BOOL(struct detail, reopened),     F_BLOB(struct detail, settings),
    F_UNSIGNED(struct detail, rows),     F_UNSIGNED(struct detail, columns),
    F_SIGNED(struct detail, foreground), F_END,
};

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

bool object_is_dev_tty(const struct stat *stat)
{
  return S_ISCHR(stat->st_mode) && stat->st_rdev == makedev(5, 0);
}

/* Documentation/admin-guide/devices.txt: UNIX98 pseudo terminals, and whatever is one's own. */
static bool is_terminal(const struct stat *stat)
{
  return object_is_dev_tty(stat) ||
         (S_ISCHR(stat->st_mode) && major(stat->st_rdev) >= 136 && major(stat->st_rdev) <= 143);
}

bool object_is_foreign(const struct object_dump *dump, const struct object_source *source)
{
  struct holders holders;
  struct err ignored;

  if (dump->stream(dump, source, NULL) < 0)
    return false;
  if (is_terminal(&source->stat))
    return true;
  if (source->link[0] == '/')
    return !object_path_leads_to(source);
  return object_holders(dump, source->stat.st_dev, source->stat.st_ino, &holders, &ignored) == 0 &&
         holders.outsider;
}

static bool matches(const struct object_source *source)
{
  return source->foreign;
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  bool entered = false;

  dump->stream(dump, source, &entered);
  if (entered && is_terminal(&source->stat))
    return err_set(e, "cannot be checkpointed: it is the terminal of a process that entered the "
                      "container; end that process first");
  return 0;
}

static int read_terminal(const struct object_dump *dump, const struct object_source *source,
                         struct detail *detail, struct err *e)
{
  struct winsize size;
  struct proc_stat stat;

  detail->terminal = true;
  detail->reopened = object_is_dev_tty(&source->stat);
  detail->settings.size = sizeof(struct termios2);
  detail->settings.data = calloc(1, detail->settings.size);
  if (!detail->settings.data || ioctl(source->local, TCGETS2, detail->settings.data) < 0 ||
      ioctl(source->local, TIOCGWINSZ, &size) < 0)
    return err_sys(e, "terminal");
  detail->rows = size.ws_row;
  detail->columns = size.ws_col;
  if (proc_stat_read(source->pid, &stat, e) != 0)
    return -1;
  detail->foreground = stat.foreground > 0 ? dump->number(dump, stat.foreground) : 0;
  return 0;
}

static int dump_it(const struct object_dump *dump, const struct object_source *source,
                   struct file *file, struct err *e)
{
  CLEANUP(detail_free)
  struct detail detail = {.stream = dump->stream(dump, source, NULL)};

  if (is_terminal(&source->stat) && read_terminal(dump, source, &detail, e) < 0)
    return -1;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

/* Who holds the other end may have set a size by now: that is the true one. */
static int set_size(int fd, const struct detail *detail, struct err *e)
{
  struct winsize size;

  if (ioctl(fd, TIOCGWINSZ, &size) < 0)
    return err_sys(e, "terminal size");
  if (size.ws_row || size.ws_col)
    return 0;
  size.ws_row = (unsigned short)detail->rows;
  size.ws_col = (unsigned short)detail->columns;
  return ioctl(fd, TIOCSWINSZ, &size) < 0 ? err_sys(e, "terminal size") : 0;
}

static int set_terminal(int fd, const struct detail *detail, struct err *e)
{
  if (!isatty(fd))
    return err_set(e,
                   "the container had a terminal: give it one by --console-socket, with a bundle "
                   "that says so");
  if (detail->settings.size != sizeof(struct termios2))
    return err_set(e, "terminal settings of %zu bytes", detail->settings.size);
  if (ioctl(fd, TCSETS2, detail->settings.data) < 0)
    return err_sys(e, "terminal settings");
  return set_size(fd, detail, e);
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_CLOSE int fd = -1;
  int flags;

  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  if (detail.stream < 0 || detail.stream > 2 || restore->streams[detail.stream] < 0)
    return err_set(e, "standard stream %d: there is none", detail.stream);
  fd = detail.reopened ? object_reopen(restore->streams[detail.stream], O_RDWR | O_NOCTTY, e)
                       : fcntl(restore->streams[detail.stream], F_DUPFD_CLOEXEC, 3);
  if (fd < 0)
    return err_sys(e, "standard stream %d", detail.stream);
  if (detail.terminal && set_terminal(fd, &detail, e) < 0)
    return -1;
  flags = fcntl(fd, F_GETFL);
  if (file->flags & O_NONBLOCK && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return err_sys(e, "standard stream %d", detail.stream);
  return take_fd(&fd);
}

/* Asked for by a process of the terminal's session, with its signals held back (SIGTTOU). */
static int attach(struct object_restore *restore, const struct file *file, int fd,
                  struct tracee *tracee, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  int64_t result = 0;

  (void)restore;
  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  if (!tracee || detail.foreground <= 0)
    return 0;
  if (tracee_write(tracee, tracee_scratch(tracee), &detail.foreground, sizeof(detail.foreground),
                   e) < 0 ||
      TRACEE_CALL(tracee, e, &result, SYS_ioctl, (uint64_t)fd, TIOCSPGRP, tracee_scratch(tracee), 0,
                  0, 0) < 0)
    return -1;
  errno = (int)-result;
  return result < 0 ? err_sys(e, "foreground process group %d", detail.foreground) : 0;
}

const struct object_type object_stream = {
    .name = "stream",
    .matches = matches,
    .check = check,
    .dump = dump_it,
    .restore = restore,
    .attach = attach,
};
