/*
 * Pipes, and those that have a name in a file system (fifo(7)). All descriptions of one pipe carry
 * its inode number; the first that is dumped has its content. A pipe that somebody outside the tree
 * holds, too, would come apart: refused.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "object/holders.h"
#include "object/object.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

struct detail {
  uint64_t device, inode;
  char *path;    /* named: from the tree's root; else NULL */
  uint32_t room; /* F_GETPIPE_SZ */
  bool has_data;
  struct blob data;
};

static const struct field fields[] = {
    F_HEX(struct detail, device),
    F_UNSIGNED(struct detail, inode),
    F_STRING(struct detail, path),
    F_UNSIGNED(struct detail, room),
    F_BOOL(struct detail, has_data),
    F_BLOB(struct detail, data),
    F_END,
};

enum { ROOM_LIMIT = 8 << 20 };

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static bool matches(const struct object_source *source)
{
  return S_ISFIFO(source->stat.st_mode) && strncmp(source->link, "pipe:[", 6) == 0;
}

static bool matches_named(const struct object_source *source)
{
  return S_ISFIFO(source->stat.st_mode) && source->link[0] == '/';
}

enum { READS = 1, WRITES = 2 };

static unsigned ends_of(const char *fdinfo)
{
  uint64_t flags = 0;

  if (!proc_field(fdinfo, "flags", 8, &flags))
    return 0;
  return (flags & O_ACCMODE) == O_RDONLY   ? READS
         : (flags & O_ACCMODE) == O_WRONLY ? WRITES
                                           : READS | WRITES;
}

/* Which ends of the pipe a process has. */
static unsigned ends_in(pid_t pid, const char *link)
{
  CLEANUP(proc_list_free) struct proc_list fds = {0};
  struct err ignored;
  unsigned ends = 0;

  if (proc_descriptors(pid, &fds, &ignored) != 0)
    return 0;
  for (size_t i = 0; i < fds.count; i++) {
    AUTO_FREE char *fdinfo = NULL;
    char target[PATH_MAX];
    char name[32];

    snprintf(name, sizeof(name), "fd/%d", fds.items[i]);
    if (proc_link(pid, name, target, sizeof(target), &ignored) != 0 || strcmp(target, link) != 0)
      continue;
    snprintf(name, sizeof(name), "fdinfo/%d", fds.items[i]);
    if (proc_text(pid, name, &fdinfo, NULL, &ignored) == 0)
      ends |= ends_of(fdinfo);
  }
  return ends;
}

static unsigned ends_in_tree(const struct object_dump *dump, const char *link)
{
  CLEANUP(proc_list_free) struct proc_list all = {0};
  struct err ignored;
  unsigned ends = 0;

  if (proc_all(&all, &ignored) < 0)
    return 0;
  for (size_t i = 0; i < all.count && ends != (READS | WRITES); i++) {
    if (dump->in_tree(dump, all.items[i]))
      ends |= ends_in(all.items[i], link);
  }
  return ends;
}

/* If the tree has not the other end, the pipe itself tells whether anybody has. */
static bool other_end_is_hidden(const struct object_dump *dump, const struct object_source *source)
{
  unsigned ends = ends_in_tree(dump, source->link);
  struct pollfd fd = {.fd = source->local, .events = POLLIN | POLLOUT};

  return ends != (READS | WRITES) && poll(&fd, 1, 0) >= 0 &&
         !(fd.revents & (ends == READS ? POLLHUP : POLLERR));
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  struct holders holders;

  if (source->fdinfo) {
    uint64_t flags = 0;

    if (proc_field(source->fdinfo, "flags", 8, &flags) && flags & O_DIRECT)
      return err_set(e, "cannot be checkpointed: pipes in packet mode are not supported");
  }
  if (object_holders(dump, source->stat.st_dev, source->stat.st_ino, &holders, e) < 0)
    return -1;
  if (holders.outsider)
    return err_set(e,
                   "cannot be checkpointed: pid %d outside the tree has the pipe open, too; "
                   "start the program with its input and output redirected to files",
                   holders.outsider);
  if (holders.others && other_end_is_hidden(dump, source))
    return err_set(e,
                   "cannot be checkpointed: another user's process outside the tree has its other "
                   "end; start the program with its input and output redirected to files");
  return 0;
}

static int check_named(const struct object_dump *dump, const struct object_source *source,
                       struct err *e)
{
  if (!object_path_leads_to(source))
    return err_set(e, "cannot be checkpointed: it was deleted or replaced; restore it at its path, "
                      "or make the program reopen it");
  return check(dump, source, e);
}

/* A descriptor to read from: this one, or one of our own. */
static int open_reader(const struct object_source *source, struct err *e)
{
  if (ends_of(source->fdinfo) & READS)
    return fcntl(source->local, F_DUPFD_CLOEXEC, 0);
  return object_reopen(source->local, O_RDONLY | O_NONBLOCK, e);
}

/*
 * Copies what is in the pipe without taking it out: tee(2) into a pipe of ours. 1: it cannot be
 * read by way of this description, the end for writing of another user's pipe; who has the other
 * end can read, if anybody.
 */
static int peek(const struct object_source *source, uint32_t room, struct blob *data, struct err *e)
{
  AUTO_CLOSE int reader = -1;
  AUTO_CLOSE int copy_reader = -1;
  AUTO_CLOSE int copy_writer = -1;
  struct err why = {""};
  int waiting = 0;
  int ends[2];

  if (ioctl(source->local, FIONREAD, &waiting) < 0)
    return err_sys(e, "pipe");
  if (waiting <= 0)
    return 0;
  reader = open_reader(source, &why);
  if (reader < 0 && errno == EACCES)
    return 1;
  if (reader < 0)
    return err_set(e, "%s", why.text);
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
    return err_sys(e, "pipe");
  copy_reader = ends[0];
  copy_writer = ends[1];
  if (fcntl(copy_writer, F_SETPIPE_SZ, (int)room) < 0 ||
      tee(reader, copy_writer, (size_t)waiting, SPLICE_F_NONBLOCK) != waiting)
    return err_set(e, "cannot be checkpointed: its %d bytes cannot be copied", waiting);
  data->data = malloc((size_t)waiting);
  if (!data->data)
    return err_sys(e, "pipe");
  data->size = (size_t)waiting;
  return io_read(copy_reader, data->data, data->size) == waiting ? 0 : err_sys(e, "pipe");
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  CLEANUP(detail_free)
  struct detail detail = {.device = source->stat.st_dev, .inode = source->stat.st_ino};
  int room = fcntl(source->local, F_GETPIPE_SZ);
  char key[64];

  if (room < 0 || room > ROOM_LIMIT)
    return err_set(e, "cannot be checkpointed: a pipe of %d bytes is too large", room);
  detail.room = (uint32_t)room;
  if (matches_named(source)) {
    if (check_named(dump, source, e) < 0)
      return -1;
    detail.path = strdup(source->link);
    if (!detail.path)
      return err_sys(e, "pipe");
  }
  snprintf(key, sizeof(key), "data of %" PRIx64 ":%" PRIu64, detail.device, detail.inode);
  if (!json_object_get(dump->shared, key)) {
    int result = peek(source, detail.room, &detail.data, e);

    if (result < 0)
      return -1;
    detail.has_data = result == 0;
    if (detail.has_data && json_object_set_new(dump->shared, key, json_true()) < 0)
      return err_set(e, "out of memory");
  }
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

/* Nobody else may have it open: what is in it would be mixed up. */
static int open_named(const struct object_restore *restore, const char *path, struct err *e)
{
  AUTO_CLOSE int fd = object_open(restore, path, O_RDWR | O_NONBLOCK);
  struct stat found;
  int waiting = 0;

  if (fd < 0 || fstat(fd, &found) < 0)
    return err_sys(e, "%s", path);
  if (!S_ISFIFO(found.st_mode))
    return err_set(e, "%s: is no longer a named pipe", path);
  if (ioctl(fd, FIONREAD, &waiting) < 0 || waiting > 0)
    return err_set(e, "%s: is in use; end the program that has it open", path);
  return take_fd(&fd);
}

static int new_pipe(struct err *e)
{
  int ends[2];
  int fd;

  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
    return err_sys(e, "pipe");
  fd = object_reopen(ends[1], O_RDWR | O_NONBLOCK, e);
  close(ends[0]);
  close(ends[1]);
  return fd;
}

/* The pipe itself, open for both; ours stays open until all descriptions of it are there. */
static int make_pipe(struct object_restore *restore, const char *key, const struct detail *detail,
                     struct err *e)
{
  int fd = detail->path ? open_named(restore, detail->path, e) : new_pipe(e);

  if (fd < 0 || object_share_fd(restore, key, fd, e) < 0)
    return -1;
  if (fcntl(fd, F_SETPIPE_SZ, (int)detail->room) < (int)detail->room)
    return err_sys(e, "pipe of %u bytes", detail->room);
  return fd;
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  char key[64];
  int both;

  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  if (detail.room == 0 || detail.room > ROOM_LIMIT || detail.data.size > detail.room)
    return err_set(e, "pipe of %u bytes", detail.room);
  snprintf(key, sizeof(key), "pipe %" PRIx64 ":%" PRIu64, detail.device, detail.inode);
  both = object_shared_fd(restore, key);
  if (both < 0)
    both = make_pipe(restore, key, &detail, e);
  if (both < 0)
    return -1;
  if (detail.data.size && io_write(both, detail.data.data, detail.data.size) < 0)
    return err_sys(e, "pipe: its %zu bytes", detail.data.size);
  return object_reopen(both, file->flags & (O_ACCMODE | O_NONBLOCK | O_ASYNC), e);
}

static int check_restore_named(const struct object_restore *restore, const struct file *file,
                               struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_CLOSE int fd = -1;
  struct stat found;

  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  if (!detail.path)
    return err_set(e, "path: is missing");
  fd = object_open(restore, detail.path, O_PATH);
  if (fd < 0 || fstat(fd, &found) < 0)
    return err_sys(e, "%s", detail.path);
  return S_ISFIFO(found.st_mode) ? 0 : err_set(e, "%s: is no longer a named pipe", detail.path);
}

const struct object_type object_pipe = {
    .name = "pipe",
    .matches = matches,
    .check = check,
    .dump = dump,
    .restore = restore,
};

const struct object_type object_fifo = {
    .name = "fifo",
    .matches = matches_named,
    .check = check_named,
    .dump = dump,
    .check_restore = check_restore_named,
    .restore = restore,
};
