/*
 * Regular files that have no name any more: deleted or replaced while they were open or mapped, or
 * made without one (O_TMPFILE). Their content comes along, as page frames of a space of its own;
 * they come back without a name, in the directory that they were in.
 */
#include "base/cleanup.h"
#include "object/holders.h"
#include "object/object.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/vfs.h>

struct detail {
  uint64_t device, inode; /* descriptions and mappings of the same file have the same */
  char *directory;        /* from the tree's root */
  uint32_t mode;
  uint32_t uid, gid; /* in the tree's user namespace */
  int64_t mtime_seconds;
  uint32_t mtime_nanoseconds;
  int32_t flock; /* LOCK_SH, LOCK_EX, or 0 */
};

static const struct field fields[] = {
    F_HEX(struct detail, device),           F_UNSIGNED(struct detail, inode),
    F_STRING(struct detail, directory),     F_UNSIGNED(struct detail, mode),
    F_UNSIGNED(struct detail, uid),         F_UNSIGNED(struct detail, gid),
    F_SIGNED(struct detail, mtime_seconds), F_UNSIGNED(struct detail, mtime_nanoseconds),
    F_SIGNED(struct detail, flock),         F_END,
};

static const char suffix[] = " (deleted)";

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static bool matches(const struct object_source *source)
{
  size_t length = strlen(source->link);

  return S_ISREG(source->stat.st_mode) && source->stat.st_nlink == 0 && source->link[0] == '/' &&
         length > strlen(suffix) && strcmp(source->link + length - strlen(suffix), suffix) == 0;
}

/* The directory that it was in, from the tree's root. */
static char *directory_of(const struct object_source *source)
{
  size_t length = (size_t)(strrchr(source->link, '/') - source->link);

  return length ? strndup(source->link, length) : strdup("/");
}

/* The program itself must be there before it can be executed, and its pages come later. */
static int check_program(const struct object_source *source, struct err *e)
{
  struct stat program;
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/exe", source->pid);
  if (stat(path, &program) == 0 && program.st_dev == source->stat.st_dev &&
      program.st_ino == source->stat.st_ino)
    return err_set(e, "cannot be checkpointed: it is the program, and was deleted or replaced; "
                      "restart it from its new file");
  return 0;
}

static int check_directory(const struct object_source *source, struct err *e)
{
  AUTO_FREE char *directory = directory_of(source);
  AUTO_CLOSE int fd = directory ? object_open_shown(source, directory) : -1;
  struct stat found;

  if (!directory)
    return err_sys(e, "deleted file");
  if (fd < 0 || fstat(fd, &found) < 0 || !S_ISDIR(found.st_mode))
    return err_set(e, "cannot be checkpointed: it was deleted together with its directory; make "
                      "that again, or the program reopen it");
  if (found.st_dev != source->stat.st_dev)
    return err_set(e,
                   "cannot be checkpointed: it was deleted, or never had a name, and %s is of "
                   "another file system; make the program reopen it",
                   directory);
  return 0;
}

static int check_kind(const struct object_source *source, struct err *e)
{
  struct statfs system;

  if (source->fd < 0 && source->stat.st_blksize == 0) /* all that is known stands in maps */
    return err_set(e,
                   "cannot be checkpointed: it was deleted, and user %u may not open what is only "
                   "mapped; checkpoint it as root",
                   geteuid());
  if (source->local >= 0 && fstatfs(source->local, &system) == 0 &&
      system.f_type == HUGETLBFS_MAGIC)
    return err_set(e, "cannot be checkpointed: memory of huge pages (hugetlb) is not supported");
  return 0;
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  struct holders holders;
  int32_t flock;

  if (check_program(source, e) < 0 || check_kind(source, e) < 0 || check_directory(source, e) < 0 ||
      object_find_flock(source, &flock, e) < 0 ||
      object_holders(dump, source->stat.st_dev, source->stat.st_ino, &holders, e) < 0)
    return -1;
  if (holders.outsider)
    return err_set(e,
                   "cannot be checkpointed: it was deleted, and pid %d outside the tree has it "
                   "open, too; make the program reopen it",
                   holders.outsider);
  return 0;
}

static int take_owner(const struct object_source *source, struct detail *detail, struct err *e)
{
  struct proc_idmap uids, gids;

  if (proc_idmap_read(source->pid, "uid_map", &uids, e) != 0 ||
      proc_idmap_read(source->pid, "gid_map", &gids, e) != 0)
    return err_set(e, "its user namespace cannot be read");
  detail->uid = proc_id_inside(&uids, source->stat.st_uid);
  detail->gid = proc_id_inside(&gids, source->stat.st_gid);
  return 0;
}

static int dump_deleted(const struct object_dump *dump, const struct object_source *source,
                        struct file *file, struct err *e)
{
  CLEANUP(detail_free)
  struct detail detail = {
      .device = source->stat.st_dev,
      .inode = source->stat.st_ino,
      .directory = directory_of(source),
      .mode = source->stat.st_mode & 07777,
      .mtime_seconds = source->stat.st_mtim.tv_sec,
      .mtime_nanoseconds = (uint32_t)source->stat.st_mtim.tv_nsec,
  };

  (void)dump;
  if (!detail.directory)
    return err_sys(e, "deleted file");
  if (source->local < 0)
    return err_set(e, "cannot be checkpointed: it was deleted, and cannot be opened any more");
  if (check_program(source, e) < 0 || check_kind(source, e) < 0 || check_directory(source, e) < 0 ||
      take_owner(source, &detail, e) < 0 || object_find_flock(source, &detail.flock, e) < 0)
    return -1;
  file->size = (uint64_t)source->stat.st_size;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

/* A plain tree is in our user namespace. */
static uint32_t outside(const struct proc_idmap *map, uint32_t id)
{
  return map->count ? proc_id_outside(map, id) : id;
}

/* Where a file system cannot make one without a name, it has one for a moment. */
static int create_unlinked(int directory, struct err *e)
{
  int fd = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  uint64_t number;
  char name[32];

  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
    return fd < 0 ? err_sys(e, "a file without a name") : fd;
  if (getrandom(&number, sizeof(number), 0) != sizeof(number))
    return err_sys(e, "random number");
  snprintf(name, sizeof(name), ".ckpt.%016" PRIx64, number);
  fd = openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0)
    return err_sys(e, "%s", name);
  unlinkat(directory, name, 0);
  return fd;
}

static int make_file(const struct object_restore *restore, const struct detail *detail,
                     uint64_t size, struct err *e)
{
  AUTO_CLOSE int directory = object_open(restore, detail->directory, O_PATH | O_DIRECTORY);
  AUTO_CLOSE int fd = -1;

  if (directory < 0)
    return err_sys(e, "%s", detail->directory);
  fd = create_unlinked(directory, e);
  if (fd < 0)
    return err_prefix(e, "%s", detail->directory);
  if (fchown(fd, outside(&restore->uids, detail->uid), outside(&restore->gids, detail->gid)) < 0 ||
      fchmod(fd, detail->mode & 07777) < 0 || ftruncate(fd, (off_t)size) < 0)
    return err_sys(e, "%s: a file of %" PRIu64 " bytes", detail->directory, size);
  return take_fd(&fd);
}

static int read_detail(const struct file *file, struct detail *detail, char key[64], struct err *e)
{
  if (fields_from_json(fields, detail, file->detail, e) < 0)
    return -1;
  if (!detail->directory || file->size > INT64_MAX || detail->mtime_nanoseconds > 999999999)
    return err_set(e, "a member is out of range");
  snprintf(key, 64, "deleted %" PRIx64 ":%" PRIu64, detail->device, detail->inode);
  return 0;
}

static int restore_deleted(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_CLOSE int fd = -1;
  char key[64];
  int shared;

  if (read_detail(file, &detail, key, e) < 0)
    return -1;
  shared = object_shared_fd(restore, key);
  if (shared < 0) {
    shared = make_file(restore, &detail, file->size, e);
    if (shared < 0 || object_share_fd(restore, key, shared, e) < 0)
      return -1;
  }
  fd = object_reopen(shared, file->flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC | O_TMPFILE), e);
  if (fd < 0)
    return -1;
  if (file->position && lseek(fd, file->position, SEEK_SET) < 0)
    return err_sys(e, "position %" PRId64, file->position);
  if (detail.flock && flock(fd, detail.flock | LOCK_NB) < 0)
    return err_sys(e, "lock");
  return take_fd(&fd);
}

static int check_restore(const struct object_restore *restore, const struct file *file,
                         struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_CLOSE int directory = -1;
  char key[64];

  if (read_detail(file, &detail, key, e) < 0)
    return -1;
  directory = object_open(restore, detail.directory, O_PATH | O_DIRECTORY);
  return directory < 0 ? err_sys(e, "%s", detail.directory) : 0;
}

/* Filling it has changed its time. */
static int attach(struct object_restore *restore, const struct file *file, int fd,
                  struct tracee *tracee, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}};
  char key[64];

  (void)fd;
  (void)tracee;
  if (read_detail(file, &detail, key, e) < 0)
    return -1;
  times[1] = (struct timespec){detail.mtime_seconds, detail.mtime_nanoseconds};
  return futimens(object_shared_fd(restore, key), times) < 0 ? err_sys(e, "time of change") : 0;
}

const struct object_type object_deleted = {
    .name = "deleted",
    .has_pages = true,
    .matches = matches,
    .check = check,
    .dump = dump_deleted,
    .check_restore = check_restore,
    .restore = restore_deleted,
    .attach = attach,
};
