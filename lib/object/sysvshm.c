/*
 * Segments of System V shared memory (shmget(2)) of a container's own ipc namespace. Their pages
 * are page frames of a space of their own, their attachments mappings; one that nobody has attached
 * is a file that nobody has open. Times and the last process (IPC_STAT) begin anew.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "object/object.h"
#include "object/sysv.h"
#include "proc/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define PREFIX "/SYSV"
#define DELETED " (deleted)"

/* Segments are files of the kernel's own tmpfs, as memfds are; elsewhere the name means nothing. */
static bool is_kernels_own(const struct stat *stat)
{
  AUTO_CLOSE int fd = memfd_create("", MFD_CLOEXEC);
  struct stat own;

  return fd >= 0 && fstat(fd, &own) == 0 && own.st_dev == stat->st_dev;
}

static bool matches(const struct object_source *source)
{
  size_t length = strlen(source->link);

  return S_ISREG(source->stat.st_mode) && strncmp(source->link, PREFIX, strlen(PREFIX)) == 0 &&
         length > strlen(DELETED) &&
         strcmp(source->link + length - strlen(DELETED), DELETED) == 0 &&
         is_kernels_own(&source->stat);
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  (void)source;
  if (dump->own_ipc)
    return 0;
  return err_set(e, "cannot be checkpointed: System V shared memory of an ipc namespace that "
                    "others use, too, is not supported; run it in a container of runc or crun");
}

struct segment {
  const struct object_source *source;
  struct sysv_object object;
};

static int stat_segment(void *argument, struct err *e)
{
  struct segment *segment = argument;
  int id = (int)segment->source->stat.st_ino; /* ipc/shm.c: shmid is the inode number */
  struct shmid_ds stat;

  if (shmctl(id, IPC_STAT, &stat) < 0)
    return err_sys(e, "segment %d", id);
  return sysv_to_image(segment->source->pid, id, &stat.shm_perm, &segment->object, e);
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  struct segment segment = {.source = source};

  if (check(dump, source, e) < 0 || inside(source->pid, "ipc", stat_segment, &segment, e) < 0)
    return -1;
  file->size = (uint64_t)source->stat.st_size;
  file->detail = fields_to_json(sysv_fields, &segment.object, e);
  return file->detail ? 0 : -1;
}

static int get_segment(key_t key, int flags, const void *context)
{
  const size_t *size = context;

  return shmget(key, *size, flags);
}

int sysvshm_open(int id, size_t size, int access, struct err *e)
{
  void *map = shmat(id, NULL, access == O_RDONLY ? SHM_RDONLY : 0);
  char path[96];
  int fd;

  if (map == (void *)-1) /* NOLINT: shmat(2) says so */
    return err_sys(e, "segment %d", id);
  snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)map,
           (unsigned long)map + (unsigned long)((size + 4095) & ~4095UL));
  fd = open(path, access | O_CLOEXEC);
  if (fd < 0)
    err_sys(e, "%s", path);
  shmdt(map);
  return fd;
}

struct making {
  struct sysv_object object; /* with owners as we name them */
  size_t size;
  int fd; /* of what was made */
};

static int make_segment(void *argument, struct err *e)
{
  struct making *making = argument;

  if (sysv_check_rmid_forced(e) < 0 ||
      sysv_make("shm", &making->object, get_segment, &making->size, e) < 0)
    return -1;
  making->fd = sysvshm_open(making->object.id, making->size, O_RDWR, e);
  return making->fd < 0 ? -1 : 0;
}

static int read_object(const struct object_restore *restore, const struct file *file,
                       struct sysv_object *object, struct err *e)
{
  struct sysv_object image = {0};

  if (fields_from_json(sysv_fields, &image, file->detail, e) < 0)
    return -1;
  return sysv_from_image(restore->init, &image, object, e);
}

static int check_restore(const struct object_restore *restore, const struct file *file,
                         struct err *e)
{
  struct sysv_object image = {0};

  (void)restore;
  if (fields_from_json(sysv_fields, &image, file->detail, e) < 0)
    return err_prefix(e, "file %u (segment)", file->id);
  if (file->size == 0 || file->size > SIZE_MAX - 4096 || file->space == 0)
    return err_set(e, "file %u (segment): without size or pages", file->id);
  return 0;
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  struct making making = {.size = file->size};
  char key[32];
  int shared;

  if (restore->init == 0)
    return err_set(e, "System V shared memory comes back into a container of runc or crun only");
  if (read_object(restore, file, &making.object, e) < 0)
    return -1;
  snprintf(key, sizeof(key), "sysvshm %d", making.object.id);
  shared = object_shared_fd(restore, key);
  if (shared < 0) {
    if (inside(restore->init, "ipc", make_segment, &making, e) < 0 ||
        object_share_fd(restore, key, making.fd, e) < 0)
      return -1;
    shared = making.fd;
  }
  return object_reopen(shared, file->flags & O_ACCMODE, e);
}

/* What had to wait until it was attached and filled: who may use it, and its end. */
static int finish_segment(void *argument, struct err *e)
{
  const struct sysv_object *object = argument;
  struct shmid_ds stat = {0};

  sysv_set_owner(object, &stat.shm_perm);
  if (shmctl(object->id, IPC_SET, &stat) < 0 ||
      (object->mode & SHM_LOCKED && shmctl(object->id, SHM_LOCK, NULL) < 0) ||
      (object->mode & SHM_DEST && shmctl(object->id, IPC_RMID, NULL) < 0))
    return err_sys(e, "segment %d", object->id);
  return 0;
}

static int attach(struct object_restore *restore, const struct file *file, int fd,
                  struct tracee *tracee, struct err *e)
{
  struct sysv_object object;

  (void)fd;
  (void)tracee;
  if (read_object(restore, file, &object, e) < 0)
    return -1;
  return inside(restore->init, "ipc", finish_segment, &object, e);
}

const struct object_type object_sysvshm = {
    .name = "sysvshm",
    .has_pages = true,
    .matches = matches,
    .check = check,
    .dump = dump,
    .check_restore = check_restore,
    .restore = restore,
    .attach = attach,
};
