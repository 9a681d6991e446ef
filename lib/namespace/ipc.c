/*
 * ipc_namespaces(7): System V shared memory, semaphores, message queues, POSIX message queues, and
 * the settings of the namespace. Segments are files of the model (lib/object/sysvshm.c), here are
 * only those found that nobody has attached.
 */
#include "namespace/ipc.h"

#include "base/cleanup.h"
#include "namespace/settings.h"
#include "proc/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/shm.h>

static const char *const setting_paths[] = {
    "kernel/shmmax", "kernel/shmall",
    "kernel/shmmni", "kernel/shm_rmid_forced",
    "kernel/msgmax", "kernel/msgmnb",
    "kernel/msgmni", "kernel/sem",
    "fs/mqueue",     NULL,
};

struct detail {
  struct semaphore_set *sets;
  size_t set_count;
  json_t *queues;
  json_t *named_queues;
  json_t *settings;
};

static const struct field fields[] = {
    F_LIST(struct detail, sets, set_count, semaphore_set_fields),
    F_JSON(struct detail, queues),
    F_JSON(struct detail, named_queues),
    F_JSON(struct detail, settings),
    F_END,
};

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

/* Ids of all segments: appends them to a list. */
static int list_segments(void *argument, struct err *e)
{
  json_t *ids = argument;
  struct shmid_ds stat;
  int highest = shmctl(0, SHM_INFO, &stat);

  for (int i = 0; i <= highest; i++) {
    int id = shmctl(i, SHM_STAT, &stat);

    if (id >= 0 && json_array_append_new(ids, json_integer(id)) < 0)
      return err_set(e, "out of memory");
  }
  return json_array_size(ids) ? sysv_check_rmid_forced(e) : 0;
}

static int check_inside(void *argument, struct err *e)
{
  CLEANUP(json_decrefp) json_t *ids = json_array();
  json_t *obstacles = argument;
  struct err why = {""};

  if (list_segments(ids, &why) < 0) {
    err_prefix(&why, "cannot be checkpointed");
    if (json_array_append_new(
            obstacles, json_pack("{s:s, s:s}", "object", "ipc namespace", "reason", why.text)) < 0)
      return err_set(e, "out of memory");
  }
  return named_queues_check(obstacles, e);
}

static int check(pid_t init, json_t *obstacles, struct err *e)
{
  return inside(init, "ipc", check_inside, obstacles, e);
}

static json_t *prepare(pid_t init, struct err *e)
{
  return settings_dump(init, "ipc", setting_paths, e);
}

static bool is_known(const struct tree *tree, json_int_t id)
{
  for (size_t i = 0; i < tree->file_count; i++) {
    const struct file *file = &tree->files[i];

    if (strcmp(file->type, object_sysvshm.name) == 0 &&
        json_integer_value(json_object_get(file->detail, "id")) == id)
      return true;
  }
  return false;
}

struct opening {
  int id;
  int fd; /* of what was opened */
};

/* There is no way to its pages but to attach it, for a moment. */
static int open_segment(void *argument, struct err *e)
{
  struct opening *opening = argument;
  struct shmid_ds stat;

  if (shmctl(opening->id, IPC_STAT, &stat) < 0)
    return err_sys(e, "segment %d", opening->id);
  opening->fd = sysvshm_open(opening->id, stat.shm_segsz, O_RDONLY, e);
  return opening->fd < 0 ? -1 : 0;
}

static int add_opened(const struct namespace_owner *owner, int local, struct err *e)
{
  char path[32];
  char link[PATH_MAX];
  ssize_t length;
  struct object_source source = {
      .pid = owner->init, .fd = -1, .local = local, .root = -1, .link = link};

  snprintf(path, sizeof(path), "/proc/self/fd/%d", local);
  length = readlink(path, link, sizeof(link) - 1);
  if (length < 0 || fstat(local, &source.stat) < 0)
    return err_sys(e, "segment");
  link[length] = '\0';
  return owner->add_file(owner->context, &source, e);
}

static int add_segment(const struct namespace_owner *owner, int id, struct err *e)
{
  struct opening opening = {id, -1};
  int result;

  if (inside(owner->init, "ipc", open_segment, &opening, e) < 0)
    return -1;
  result = add_opened(owner, opening.fd, e);
  close(opening.fd);
  return result;
}

static int dump_segments(const struct namespace_owner *owner, struct err *e)
{
  CLEANUP(json_decrefp) json_t *ids = json_array();

  if (!ids)
    return err_set(e, "out of memory");
  if (inside(owner->init, "ipc", list_segments, ids, e) < 0)
    return -1;
  for (size_t i = 0; i < json_array_size(ids); i++) {
    json_int_t id = json_integer_value(json_array_get(ids, i));

    if (!is_known(owner->tree, id) && add_segment(owner, (int)id, e) < 0)
      return -1;
  }
  return 0;
}

/* For what is done in the namespace. */
struct visit {
  const struct namespace_owner *owner;
  pid_t init;
  struct detail *detail;
};

static int dump_inside(void *argument, struct err *e)
{
  const struct visit *visit = argument;
  struct detail *detail = visit->detail;

  if (semaphores_dump(visit->owner, &detail->sets, &detail->set_count, e) < 0)
    return -1;
  detail->queues = queues_dump(visit->init, e);
  detail->named_queues = detail->queues ? named_queues_dump(visit->init, e) : NULL;
  return detail->named_queues ? 0 : -1;
}

static json_t *dump(const struct namespace_owner *owner, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  struct visit visit = {owner, owner->init, &detail};

  detail.settings = json_incref(json_object_get(owner->prepared, "ipc"));
  if (dump_segments(owner, e) < 0 || inside(owner->init, "ipc", dump_inside, &visit, e) < 0)
    return NULL;
  for (size_t i = 0; i < detail.set_count; i++) {
    if (adjustments_dump(owner, &detail.sets[i], e) < 0)
      return NULL;
  }
  return fields_to_json(fields, &detail, e);
}

static int restore_inside(void *argument, struct err *e)
{
  const struct visit *visit = argument;
  const struct detail *detail = visit->detail;

  if (semaphores_restore(visit->init, detail->sets, detail->set_count, e) < 0 ||
      queues_restore(visit->init, detail->queues, e) < 0)
    return -1;
  return named_queues_restore(visit->init, detail->named_queues, e);
}

static int restore(pid_t init, const json_t *json, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  struct visit visit = {NULL, init, &detail};

  if (fields_from_json(fields, &detail, json, e) < 0 ||
      settings_restore(init, "ipc", setting_paths, detail.settings, e) < 0)
    return -1;
  return inside(init, "ipc", restore_inside, &visit, e);
}

static int complete_inside(void *argument, struct err *e)
{
  const struct visit *visit = argument;

  return semaphores_finish(visit->init, visit->detail->sets, visit->detail->set_count, e);
}

static int complete(const struct namespace_owner *owner, const json_t *json, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  struct visit visit = {owner, owner->init, &detail};

  if (fields_from_json(fields, &detail, json, e) < 0)
    return -1;
  for (size_t i = 0; i < detail.set_count; i++) {
    if (adjustments_restore(owner, &detail.sets[i], e) < 0)
      return -1;
  }
  return detail.set_count ? inside(owner->init, "ipc", complete_inside, &visit, e) : 0;
}

const struct namespace_type namespace_ipc = {
    .name = "ipc",
    .kind = "ipc",
    .check = check,
    .prepare = prepare,
    .dump = dump,
    .restore = restore,
    .complete = complete,
};
