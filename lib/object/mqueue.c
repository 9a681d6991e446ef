/*
 * Descriptors of POSIX message queues (mq_overview(7)) of a container's own ipc namespace. The
 * queues themselves are of that namespace (lib/namespace/named_queues.c) and there before this.
 */
#include "object/mqueue.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "object/object.h"
#include "proc/inside.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mqueue.h>
#include <string.h>
#include <sys/vfs.h>

#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202 /* include/uapi/linux/magic.h has it from Linux 6.x on */
#endif

int mqueue_read(int fd, struct mqueue *queue, struct err *e)
{
  struct mq_attr attributes;
  char text[128];
  ssize_t n = io_pread(fd, text, sizeof(text) - 1, 0);

  if (n < 0 || mq_getattr(fd, &attributes) < 0)
    return err_sys(e, "message queue");
  text[n] = '\0';
  *queue = (struct mqueue){
      .max_messages = (uint64_t)attributes.mq_maxmsg,
      .message_size = (uint64_t)attributes.mq_msgsize,
      .messages = (uint64_t)attributes.mq_curmsgs,
  };
  /* "QSIZE:0 NOTIFY:0 SIGNO:0 NOTIFY_PID:0": a pid of ours. */
  if (strstr(text, "NOTIFY_PID:"))
    queue->notify = strtoull(strstr(text, "NOTIFY_PID:") + strlen("NOTIFY_PID:"), NULL, 10);
  return 0;
}

int mqueue_check(const struct mqueue *queue, struct err *e)
{
  if (queue->messages)
    return err_set(e,
                   "cannot be checkpointed: %" PRIu64
                   " messages wait in it, which the kernel shows "
                   "only to who takes them out; let them be received first",
                   queue->messages);
  if (queue->notify)
    return err_set(e,
                   "cannot be checkpointed: pid %" PRIu64 " has asked to be told of its next "
                   "message (mq_notify), which the kernel does not show in full",
                   queue->notify);
  return 0;
}

struct detail {
  char *name;
};

static const struct field fields[] = {
    F_STRING(struct detail, name),
    F_END,
};

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static bool matches(const struct object_source *source)
{
  struct statfs system;

  return S_ISREG(source->stat.st_mode) && source->local >= 0 &&
         fstatfs(source->local, &system) == 0 && system.f_type == MQUEUE_MAGIC;
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  if (!dump->own_ipc)
    return err_set(e, "cannot be checkpointed: a message queue of an ipc namespace that others "
                      "use, too, is not supported; run it in a container of runc or crun");
  if (source->stat.st_nlink == 0)
    return err_set(e, "cannot be checkpointed: a message queue without a name (mq_unlink) is not "
                      "supported; close it");
  return 0;
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  const char *slash = strrchr(source->link, '/');
  struct detail detail = {.name = slash ? (char *)slash + 1 : NULL};

  if (check(dump, source, e) < 0)
    return -1;
  if (!detail.name)
    return err_set(e, "cannot be checkpointed: a message queue without a name");
  file->position = 0;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

struct opening {
  char *name; /* with a slash before it */
  int flags;
  int fd; /* of what was opened */
};

static int open_queue(void *argument, struct err *e)
{
  struct opening *opening = argument;

  opening->fd = mq_open(opening->name, opening->flags);
  return opening->fd < 0 ? err_sys(e, "message queue %s", opening->name) : 0;
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_FREE char *name = NULL;
  struct opening opening = {.flags = (int)(file->flags & (O_ACCMODE | O_NONBLOCK))};

  if (restore->init == 0)
    return err_set(e, "message queues come back into a container of runc or crun only");
  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  if (!detail.name || strchr(detail.name, '/'))
    return err_set(e, "a message queue without a name");
  name = opening.name = io_format(e, "/%s", detail.name);
  if (!name)
    return -1;
  return inside(restore->init, "ipc", open_queue, &opening, e) < 0 ? -1 : opening.fd;
}

const struct object_type object_mqueue = {
    .name = "mqueue",
    .matches = matches,
    .check = check,
    .dump = dump,
    .restore = restore,
};
