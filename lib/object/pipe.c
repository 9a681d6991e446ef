/*
 * Pipes. All descriptions of one pipe carry its inode number; the first that is dumped has its
 * content. A pipe that somebody outside the tree holds, too, would come apart: refused.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "object/holders.h"
#include "object/object.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

struct detail {
  uint64_t inode;
  uint32_t room; /* F_GETPIPE_SZ */
  bool has_data;
  struct blob data;
};

static const struct field fields[] = {
    F_UNSIGNED(struct detail, inode),
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
  return 0;
}

/* Copies what is in the pipe without taking it out: tee(2) into a pipe of ours. */
static int peek(int fd, uint32_t room, struct blob *data, struct err *e)
{
  AUTO_CLOSE int reader = object_reopen(fd, O_RDONLY | O_NONBLOCK, e);
  AUTO_CLOSE int copy_reader = -1;
  AUTO_CLOSE int copy_writer = -1;
  int waiting = 0;
  int ends[2];

  if (reader < 0)
    return -1;
  if (ioctl(reader, FIONREAD, &waiting) < 0)
    return err_sys(e, "pipe");
  if (waiting <= 0)
    return 0;
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
  CLEANUP(detail_free) struct detail detail = {.inode = source->stat.st_ino};
  int room = fcntl(source->local, F_GETPIPE_SZ);
  char key[32];

  if (room < 0 || room > ROOM_LIMIT)
    return err_set(e, "cannot be checkpointed: a pipe of %d bytes is too large", room);
  detail.room = (uint32_t)room;
  snprintf(key, sizeof(key), "data of %" PRIu64, detail.inode);
  if (!json_object_get(dump->shared, key)) {
    detail.has_data = true;
    if (json_object_set_new(dump->shared, key, json_true()) < 0 ||
        peek(source->local, detail.room, &detail.data, e) < 0)
      return -1;
  }
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

/* Both ends of a new pipe; ours stay open until all descriptions of it are there. */
static int make_pipe(struct object_restore *restore, const char *key, uint32_t room, struct err *e)
{
  int ends[2];

  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
    return err_sys(e, "pipe");
  if (object_share_fd(restore, key, ends[1], e) < 0)
    return -1;
  if (fcntl(ends[1], F_SETPIPE_SZ, (int)room) < (int)room)
    return err_sys(e, "pipe of %u bytes", room);
  return ends[1];
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  char key[32];
  int writer;

  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  if (detail.room == 0 || detail.room > ROOM_LIMIT || detail.data.size > detail.room)
    return err_set(e, "pipe of %u bytes", detail.room);
  snprintf(key, sizeof(key), "pipe %" PRIu64, detail.inode);
  writer = object_shared_fd(restore, key);
  if (writer < 0)
    writer = make_pipe(restore, key, detail.room, e);
  if (writer < 0)
    return -1;
  if (detail.data.size && io_write(writer, detail.data.data, detail.data.size) < 0)
    return err_sys(e, "pipe: its %zu bytes", detail.data.size);
  return object_reopen(writer, file->flags & (O_ACCMODE | O_NONBLOCK | O_ASYNC), e);
}

const struct object_type object_pipe = {
    .name = "pipe",
    .matches = matches,
    .check = check,
    .dump = dump,
    .restore = restore,
};
