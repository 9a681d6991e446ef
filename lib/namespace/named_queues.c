/*
 * POSIX message queues (mq_overview(7)): names, owners, modes and limits. Their messages can only
 * be taken, not looked at: queues that hold some are refused. The file system of the namespace
 * shows them (mqueue in ipc/mqueue.c), mounted nowhere.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "namespace/ipc.h"
#include "object/mqueue.h"
#include "proc/inside.h"
#include "proc/proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

struct named_queue {
  char *name;
  uint32_t uid, gid, mode;
  uint64_t max_messages, message_size;
};

static const struct field fields[] = {
    F_STRING(struct named_queue, name),
    F_UNSIGNED(struct named_queue, uid),
    F_UNSIGNED(struct named_queue, gid),
    F_HEX(struct named_queue, mode),
    F_UNSIGNED(struct named_queue, max_messages),
    F_UNSIGNED(struct named_queue, message_size),
    F_END,
};

static void queue_free(struct named_queue *queue)
{
  fields_free(fields, queue);
}

/* Who may not mount where we are may do so in a mount namespace of the thread's own. */
static int open_system(void)
{
  int system = fsopen("mqueue", FSOPEN_CLOEXEC);

  if (system < 0 && errno == EPERM && unshare(CLONE_NEWNS) == 0)
    system = fsopen("mqueue", FSOPEN_CLOEXEC);
  return system;
}

/* The directory of all queues of the namespace that we are in. */
static int open_directory(struct err *e)
{
  AUTO_CLOSE int system = open_system();
  AUTO_CLOSE int mount = -1;
  int directory;

  if (system < 0 || fsconfig(system, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
    return err_sys(e, "POSIX message queues");
  mount = fsmount(system, FSMOUNT_CLOEXEC, 0);
  directory = mount < 0 ? -1 : openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return directory < 0 ? err_sys(e, "POSIX message queues") : directory;
}

/* Calls `visit` for each queue with its name and an open descriptor. */
typedef int queue_visitor(const char *name, int fd, void *context, struct err *e);

static int for_each_queue(queue_visitor *visit, void *context, struct err *e)
{
  int at = open_directory(e);
  AUTO_CLOSEDIR DIR *directory = at < 0 ? NULL : fdopendir(at);
  const struct dirent *entry;

  if (!directory)
    return at < 0 ? -1 : err_sys(e, "POSIX message queues");
  while (errno = 0, (entry = readdir(directory))) {
    AUTO_CLOSE int fd = -1;

    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
      continue;
    fd = openat(at, entry->d_name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
      return err_sys(e, "message queue /%s", entry->d_name);
    if (visit(entry->d_name, fd, context, e) < 0)
      return err_prefix(e, "message queue /%s", entry->d_name);
  }
  return errno ? err_sys(e, "POSIX message queues") : 0;
}

static int check_queue(const char *name, int fd, void *context, struct err *e)
{
  struct mqueue queue;
  struct err why = {""};
  AUTO_FREE char *object = NULL;

  if (mqueue_read(fd, &queue, e) < 0)
    return -1;
  if (mqueue_check(&queue, &why) == 0)
    return 0;
  object = io_format(e, "message queue /%s", name);
  if (!object || json_array_append_new(
                     context, json_pack("{s:s, s:s}", "object", object, "reason", why.text)) < 0)
    return err_set(e, "cannot be named in text");
  return 0;
}

int named_queues_check(json_t *obstacles, struct err *e)
{
  return for_each_queue(check_queue, obstacles, e);
}

struct listing {
  pid_t init;
  json_t *list;
};

static int describe(pid_t init, int fd, struct named_queue *queue, struct err *e)
{
  struct proc_idmap uids, gids;
  struct mqueue state;
  struct stat stat;

  if (mqueue_read(fd, &state, e) < 0 || mqueue_check(&state, e) < 0 ||
      proc_idmap_read(init, "uid_map", &uids, e) != 0 ||
      proc_idmap_read(init, "gid_map", &gids, e) != 0)
    return -1;
  if (fstat(fd, &stat) < 0)
    return err_sys(e, "owner");
  queue->uid = proc_id_inside(&uids, stat.st_uid);
  queue->gid = proc_id_inside(&gids, stat.st_gid);
  queue->mode = stat.st_mode & 07777;
  queue->max_messages = state.max_messages;
  queue->message_size = state.message_size;
  return 0;
}

static int dump_queue(const char *name, int fd, void *context, struct err *e)
{
  const struct listing *listing = context;
  struct named_queue queue = {.name = (char *)name};
  json_t *json;

  if (describe(listing->init, fd, &queue, e) < 0)
    return -1;
  json = fields_to_json(fields, &queue, e);
  if (!json || json_array_append_new(listing->list, json) < 0)
    return err_set(e, "out of memory");
  return 0;
}

json_t *named_queues_dump(pid_t init, struct err *e)
{
  struct listing listing = {init, json_array()};

  if (!listing.list)
    err_set(e, "out of memory");
  else if (for_each_queue(dump_queue, &listing, e) < 0) {
    json_decref(listing.list);
    return NULL;
  }
  return listing.list;
}

/* By its owner, who alone may be known to the file system of a user namespace. */
static int make_queue(const struct named_queue *queue, uint32_t uid, uint32_t gid, struct err *e)
{
  AUTO_FREE char *name = io_format(e, "/%s", queue->name);
  struct mq_attr attributes = {.mq_maxmsg = (long)queue->max_messages,
                               .mq_msgsize = (long)queue->message_size};
  struct identity before;
  int fd;
  int failed;

  if (!name || identity_take(&before, uid, gid, e) < 0)
    return -1;
  fd = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
  failed = errno;
  if (identity_return(&before, e) < 0)
    return -1;
  errno = failed;
  if (fd < 0 || fchmod(fd, queue->mode & 07777) < 0)
    err_sys(e, "message queue %s", name);
  else
    failed = 0;
  cleanup_close(&fd);
  return failed ? -1 : 0;
}

static int owner_outside(pid_t init, const struct named_queue *queue, uint32_t *uid, uint32_t *gid,
                         struct err *e)
{
  struct proc_idmap uids, gids;

  if (proc_idmap_read(init, "uid_map", &uids, e) != 0 ||
      proc_idmap_read(init, "gid_map", &gids, e) != 0)
    return -1;
  *uid = proc_id_outside(&uids, queue->uid);
  *gid = proc_id_outside(&gids, queue->gid);
  if (*uid == UINT32_MAX || *gid == UINT32_MAX)
    return err_set(e,
                   "message queue /%s: its owner is not mapped in the new container's user "
                   "namespace",
                   queue->name);
  return 0;
}

static int restore_queue(pid_t init, const json_t *json, struct err *e)
{
  CLEANUP(queue_free) struct named_queue queue = {0};
  uint32_t uid, gid;

  if (fields_from_json(fields, &queue, json, e) < 0)
    return -1;
  if (!queue.name || strchr(queue.name, '/') || queue.max_messages > INT32_MAX ||
      queue.message_size > INT32_MAX)
    return err_set(e, "a message queue without a name, or with impossible limits");
  if (owner_outside(init, &queue, &uid, &gid, e) < 0)
    return -1;
  return make_queue(&queue, uid, gid, e);
}

int named_queues_restore(pid_t init, const json_t *list, struct err *e)
{
  struct rlimit limit;

  if (!json_is_array(list))
    return err_set(e, "named_queues: is not a list");
  /* The limit is that of who makes them: ours. */
  if (getrlimit(RLIMIT_MSGQUEUE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_MSGQUEUE, &limit);
  }
  /* The directory lists the newest first. */
  for (size_t i = json_array_size(list); i-- > 0;) {
    if (restore_queue(init, json_array_get(list, i), e) < 0)
      return -1;
  }
  return 0;
}
