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

/* Ids of all segments. */
static json_t *list_segments(void *argument, int *fd, struct err *e)
{
  json_t *ids = json_array();
  struct shmid_ds stat;
  int highest = shmctl(0, SHM_INFO, &stat);

  (void)argument;
  (void)fd;
  if (!ids)
    err_set(e, "out of memory");
  for (int i = 0; ids && i <= highest; i++) {
    int id = shmctl(i, SHM_STAT, &stat);

    if (id >= 0)
      json_array_append_new(ids, json_integer(id));
  }
  if (json_array_size(ids) && sysv_check_rmid_forced(e) < 0) {
    json_decref(ids);
    return NULL;
  }
  return ids;
}

static json_t *check_inside(void *argument, int *fd, struct err *e)
{
  json_t *obstacles = json_array();
  struct err why = {""};
  json_t *ids = list_segments(argument, fd, &why);
  int result = 0;

  if (!ids) {
    err_prefix(&why, "cannot be checkpointed");
    result = json_array_append_new(
        obstacles, json_pack("{s:s, s:s}", "object", "ipc namespace", "reason", why.text));
  }
  json_decref(ids);
  if (result < 0)
    err_set(e, "out of memory");
  if (result < 0 || named_queues_check(obstacles, e) < 0) {
    json_decref(obstacles);
    return NULL;
  }
  return obstacles;
}

static int check(pid_t init, json_t *obstacles, struct err *e)
{
  json_t *found = inside_run(init, "ipc", check_inside, NULL, NULL, e);
  int result = found ? json_array_extend(obstacles, found) : -1;

  if (found && result < 0)
    err_set(e, "out of memory");
  json_decref(found);
  return result;
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

/* There is no way to its pages but to attach it: for a moment, and in a process of ours. */
static json_t *open_segment(void *argument, int *fd, struct err *e)
{
  const int *id = argument;
  struct shmid_ds stat;

  if (shmctl(*id, IPC_STAT, &stat) < 0)
    err_sys(e, "segment %d", *id);
  else
    *fd = sysvshm_open(*id, stat.shm_segsz, O_RDONLY, e);
  return *fd < 0 ? NULL : json_true();
}

static int add_segment(const struct namespace_owner *owner, int id, struct err *e)
{
  AUTO_CLOSE int local = -1;
  json_t *opened = inside_run(owner->init, "ipc", open_segment, &id, &local, e);
  char path[32];
  char link[PATH_MAX];
  ssize_t length;
  struct object_source source = {.pid = owner->init, .fd = -1, .link = link};

  json_decref(opened);
  if (!opened)
    return -1;
  snprintf(path, sizeof(path), "/proc/self/fd/%d", local);
  length = readlink(path, link, sizeof(link) - 1);
  if (length < 0 || fstat(local, &source.stat) < 0)
    return err_sys(e, "segment %d", id);
  link[length] = '\0';
  source.local = local;
  return owner->add_file(owner->context, &source, e);
}

static int dump_segments(const struct namespace_owner *owner, struct err *e)
{
  json_t *ids = inside_run(owner->init, "ipc", list_segments, NULL, NULL, e);
  int result = ids ? 0 : -1;

  for (size_t i = 0; result == 0 && i < json_array_size(ids); i++) {
    json_int_t id = json_integer_value(json_array_get(ids, i));

    if (!is_known(owner->tree, id))
      result = add_segment(owner, (int)id, e);
  }
  json_decref(ids);
  return result;
}

static json_t *dump_inside(void *argument, int *fd, struct err *e)
{
  const struct namespace_owner *owner = argument;
  json_t *sets = semaphores_dump(owner, e);
  json_t *queues = sets ? queues_dump(owner->init, e) : NULL;
  json_t *posix = queues ? named_queues_dump(owner->init, e) : NULL;
  json_t *detail = posix ? json_pack("{s:O, s:O, s:O, s:{}}", "sets", sets, "queues", queues,
                                     "named_queues", posix, "settings")
                         : NULL;

  (void)fd;
  if (posix && !detail)
    err_set(e, "out of memory");
  json_decref(sets);
  json_decref(queues);
  json_decref(posix);
  return detail;
}

static int complete_detail(const struct namespace_owner *owner, struct detail *detail,
                           struct err *e)
{
  for (size_t i = 0; i < detail->set_count; i++) {
    if (adjustments_dump(owner, &detail->sets[i], e) < 0)
      return -1;
  }
  json_decref(detail->settings);
  detail->settings = settings_dump(owner->init, "ipc", setting_paths, e);
  return detail->settings ? 0 : -1;
}

static json_t *dump(const struct namespace_owner *owner, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  json_t *inside;
  int result;

  if (dump_segments(owner, e) < 0)
    return NULL;
  inside = inside_run(owner->init, "ipc", dump_inside, (void *)owner, NULL, e);
  result = inside ? fields_from_json(fields, &detail, inside, e) : -1;
  json_decref(inside);
  if (result < 0 || complete_detail(owner, &detail, e) < 0)
    return NULL;
  return fields_to_json(fields, &detail, e);
}

struct inside {
  pid_t init;
  const struct detail *detail;
};

static json_t *restore_inside(void *argument, int *fd, struct err *e)
{
  const struct inside *inside = argument;
  const struct detail *detail = inside->detail;

  (void)fd;
  if (semaphores_restore(inside->init, detail->sets, detail->set_count, e) < 0 ||
      queues_restore(inside->init, detail->queues, e) < 0 ||
      named_queues_restore(inside->init, detail->named_queues, e) < 0)
    return NULL;
  return json_true();
}

static int restore(pid_t init, const json_t *json, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  struct inside inside = {init, &detail};

  if (fields_from_json(fields, &detail, json, e) < 0 ||
      settings_restore(init, "ipc", setting_paths, detail.settings, e) < 0)
    return -1;
  return inside_do(init, "ipc", restore_inside, &inside, e);
}

static json_t *complete_inside(void *argument, int *fd, struct err *e)
{
  const struct inside *inside = argument;
  const struct detail *detail = inside->detail;

  (void)fd;
  return semaphores_finish(inside->init, detail->sets, detail->set_count, e) < 0 ? NULL
                                                                                 : json_true();
}

static int complete(const struct namespace_owner *owner, const json_t *json, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  struct inside inside = {owner->init, &detail};

  if (fields_from_json(fields, &detail, json, e) < 0)
    return -1;
  for (size_t i = 0; i < detail.set_count; i++) {
    if (adjustments_restore(owner, &detail.sets[i], e) < 0)
      return -1;
  }
  return detail.set_count ? inside_do(owner->init, "ipc", complete_inside, &inside, e) : 0;
}

const struct namespace_type namespace_ipc = {
    .name = "ipc",
    .kind = "ipc",
    .check = check,
    .dump = dump,
    .restore = restore,
    .complete = complete,
};
