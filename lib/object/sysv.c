#include "object/sysv.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/inside.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

const struct field sysv_fields[] = {
    F_SIGNED(struct sysv_object, id),     F_SIGNED(struct sysv_object, key),
    F_UNSIGNED(struct sysv_object, uid),  F_UNSIGNED(struct sysv_object, gid),
    F_UNSIGNED(struct sysv_object, cuid), F_UNSIGNED(struct sysv_object, cgid),
    F_HEX(struct sysv_object, mode),      F_END,
};

int sysv_to_image(pid_t pid, int id, const struct ipc_perm *perm, struct sysv_object *object,
                  struct err *e)
{
  struct proc_idmap uids, gids;

  if (proc_idmap_read(pid, "uid_map", &uids, e) != 0 ||
      proc_idmap_read(pid, "gid_map", &gids, e) != 0)
    return -1;
  *object = (struct sysv_object){
      .id = id,
      .key = perm->__key,
      .uid = proc_id_inside(&uids, perm->uid),
      .gid = proc_id_inside(&gids, perm->gid),
      .cuid = proc_id_inside(&uids, perm->cuid),
      .cgid = proc_id_inside(&gids, perm->cgid),
      .mode = perm->mode,
  };
  return 0;
}

int sysv_from_image(pid_t pid, const struct sysv_object *image, struct sysv_object *object,
                    struct err *e)
{
  struct proc_idmap uids, gids;

  if (proc_idmap_read(pid, "uid_map", &uids, e) != 0 ||
      proc_idmap_read(pid, "gid_map", &gids, e) != 0)
    return -1;
  *object = *image;
  object->uid = proc_id_outside(&uids, image->uid);
  object->cuid = proc_id_outside(&uids, image->cuid);
  object->gid = proc_id_outside(&gids, image->gid);
  object->cgid = proc_id_outside(&gids, image->cgid);
  if (object->uid == UINT32_MAX || object->cuid == UINT32_MAX || object->gid == UINT32_MAX ||
      object->cgid == UINT32_MAX)
    return err_set(e, "id %d: an owner of it is not mapped in the new container's user namespace",
                   image->id);
  return image->id >= 0 ? 0 : err_set(e, "id %d: is not one", image->id);
}

/* The next object of the kind gets this id, if it is free. */
static int claim(const char *kind, int32_t id, struct err *e)
{
  char path[64];
  char text[16];

  snprintf(path, sizeof(path), "/proc/sys/kernel/%s_next_id", kind);
  snprintf(text, sizeof(text), "%d", id);
  return io_write_file(AT_FDCWD, path, text, e);
}

int sysv_make(const char *kind, const struct sysv_object *object, sysv_maker *make,
              const void *context, struct err *e)
{
  struct identity before;
  int id = -1;
  int failed;

  if (claim(kind, object->id, e) < 0 || identity_take(&before, object->cuid, object->cgid, e) < 0)
    return -1;
  id = make(object->key, IPC_CREAT | (object->key == IPC_PRIVATE ? 0 : IPC_EXCL) | 0777, context);
  failed = errno;
  if (identity_return(&before, e) < 0)
    return -1;
  errno = failed;
  if (id < 0)
    return err_sys(e, "%s %d (key 0x%08x)", kind, object->id, (unsigned)object->key);
  if (id != object->id)
    return err_set(e, "%s %d: this id is in use", kind, object->id);
  return 0;
}

int sysv_check_rmid_forced(struct err *e)
{
  AUTO_FREE char *text = NULL;

  if (io_read_file(AT_FDCWD, "/proc/sys/kernel/shm_rmid_forced", 16, &text, NULL, e) < 0)
    return -1;
  if (text[0] != '0')
    return err_set(e, "its setting kernel.shm_rmid_forced would end segments that are not attached "
                      "at this moment; set it to 0");
  return 0;
}

void sysv_set_owner(const struct sysv_object *object, struct ipc_perm *perm)
{
  perm->uid = object->uid;
  perm->gid = object->gid;
  perm->mode = (__mode_t)(object->mode & 0777);
}
