/*
 * Memory without a file system: memfd_create(2), and the shared anonymous mappings that the kernel
 * calls "/dev/zero (deleted)". Their pages are page frames of a space of their own.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "object/object.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct detail {
  uint64_t inode; /* descriptions and mappings of the same object have the same */
  char *name;
  uint32_t seals;
};

static const struct field fields[] = {
    F_UNSIGNED(struct detail, inode),
    F_STRING(struct detail, name),
    F_HEX(struct detail, seals),
    F_END,
};

#define MEMFD_PREFIX "/memfd:"
#define DELETED " (deleted)"
#define SHMEM_LINK "/dev/zero (deleted)"

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static bool matches_memfd(const struct object_source *source)
{
  return S_ISREG(source->stat.st_mode) &&
         strncmp(source->link, MEMFD_PREFIX, strlen(MEMFD_PREFIX)) == 0;
}

static bool matches_shmem(const struct object_source *source)
{
  return S_ISREG(source->stat.st_mode) && strcmp(source->link, SHMEM_LINK) == 0;
}

static int check_memfd(const struct object_dump *dump, const struct object_source *source,
                       struct err *e)
{
  (void)dump;
  if (source->stat.st_blksize > 4096)
    return err_set(e, "cannot be checkpointed: memory of huge pages (hugetlb) is not supported");
  return 0;
}

static int dump_memfd(const struct object_dump *dump, const struct object_source *source,
                      struct file *file, struct err *e)
{
  size_t length = strlen(source->link) - strlen(MEMFD_PREFIX);
  size_t suffix = strlen(DELETED);
  const char *name = source->link + strlen(MEMFD_PREFIX);
  struct detail detail = {.inode = source->stat.st_ino};
  int seals = fcntl(source->local, F_GET_SEALS);

  if (check_memfd(dump, source, e) < 0)
    return -1;
  if (length >= suffix && strcmp(name + length - suffix, DELETED) == 0)
    length -= suffix;
  detail.name = strndup(name, length);
  if (!detail.name)
    return err_sys(e, "memfd");
  detail.seals = seals < 0 ? F_SEAL_SEAL : (uint32_t)seals;
  file->size = (uint64_t)source->stat.st_size;
  file->detail = fields_to_json(fields, &detail, e);
  free(detail.name);
  return file->detail ? 0 : -1;
}

static int dump_shmem(const struct object_dump *dump, const struct object_source *source,
                      struct file *file, struct err *e)
{
  struct detail detail = {.inode = source->stat.st_ino};

  (void)dump;
  file->size = (uint64_t)source->stat.st_size;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

static int new_memfd(const struct file *file, const struct detail *detail, struct err *e)
{
  AUTO_CLOSE int fd =
      memfd_create(detail->name ? detail->name : "", MFD_CLOEXEC | MFD_ALLOW_SEALING);

  if (fd < 0 || ftruncate(fd, (off_t)file->size) < 0)
    return err_sys(e, "memory of %" PRIu64 " bytes", file->size);
  return take_fd(&fd);
}

/*
 * A shared anonymous mapping, and the descriptor behind it: another process that maps it sees what
 * the original would have seen in its maps. The mapping here only keeps it until we are done.
 */
static int new_shmem(const struct file *file, const struct detail *detail, struct err *e)
{
  char path[64];
  void *map;
  int cause;
  int fd;

  if (file->size == 0)
    return err_set(e, "shared memory without size");
  map = mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
             -1, 0);
  if (map == MAP_FAILED)
    return err_sys(e, "shared memory of %" PRIu64 " bytes", file->size);
  snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)map,
           (unsigned long)map + ((file->size + 4095) & ~UINT64_C(4095)));
  fd = open(path, O_RDWR | O_CLOEXEC);
  cause = errno;
  munmap(map, file->size);
  if (fd < 0 && cause == EPERM)
    return new_memfd(file, detail, e); /* an ordinary user's: the same but for its name in maps */
  errno = cause;
  return fd < 0 ? err_sys(e, "%s", path) : fd;
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  char key[32];
  int shared;

  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  snprintf(key, sizeof(key), "memory %" PRIu64, detail.inode);
  shared = object_shared_fd(restore, key);
  if (shared < 0) {
    shared = strcmp(file->type, "memfd") == 0 ? new_memfd(file, &detail, e)
                                              : new_shmem(file, &detail, e);
    if (shared < 0 || object_share_fd(restore, key, shared, e) < 0)
      return -1;
  }
  {
    AUTO_CLOSE int fd = object_reopen(shared, file->flags & (O_ACCMODE | O_APPEND | O_NONBLOCK), e);

    if (fd >= 0 && file->position && lseek(fd, file->position, SEEK_SET) < 0)
      return err_sys(e, "position %" PRId64, file->position);
    return take_fd(&fd);
  }
}

/* Seals come last: they would keep us from filling it. */
static int attach_memfd(struct object_restore *restore, const struct file *file, int fd,
                        struct tracee *tracee, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  char key[32];
  int shared;

  (void)fd;
  (void)tracee;
  if (fields_from_json(fields, &detail, file->detail, e) < 0)
    return -1;
  snprintf(key, sizeof(key), "memory %" PRIu64, detail.inode);
  shared = object_shared_fd(restore, key);
  if (detail.seals && fcntl(shared, F_GET_SEALS) != (int)detail.seals &&
      fcntl(shared, F_ADD_SEALS, (int)detail.seals) < 0)
    return err_sys(e, "seals");
  return 0;
}

const struct object_type object_memfd = {
    .name = "memfd",
    .has_pages = true,
    .matches = matches_memfd,
    .check = check_memfd,
    .dump = dump_memfd,
    .restore = restore,
    .attach = attach_memfd,
};

const struct object_type object_shmem = {
    .name = "shmem",
    .has_pages = true,
    .matches = matches_shmem,
    .dump = dump_shmem,
    .restore = restore,
};
