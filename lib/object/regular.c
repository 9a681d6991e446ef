/* Files and directories of a file system: reopened by their path. Their content is not ours. */
#include "base/cleanup.h"
#include "base/io.h"
#include "object/object.h"
#include "proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>

struct detail {
  char *path; /* from the tree's root */
  int64_t size;
  int32_t flock; /* LOCK_SH, LOCK_EX, or 0 */
};

static const struct field fields[] = {
    F_STRING(struct detail, path),
    F_SIGNED(struct detail, size),
    F_SIGNED(struct detail, flock),
    F_END,
};

static bool matches_regular(const struct object_source *source)
{
  return S_ISREG(source->stat.st_mode) && source->link[0] == '/' && object_path_leads_to(source);
}

static bool matches_directory(const struct object_source *source)
{
  return S_ISDIR(source->stat.st_mode) && source->link[0] == '/' && object_path_leads_to(source);
}

/* fdinfo shows the locks that belong to the description: "lock: 1: FLOCK  ADVISORY  WRITE ...". */
int object_find_flock(const struct object_source *source, int32_t *flock, struct err *e)
{
  const char *at = source->fdinfo ? strstr(source->fdinfo, "\nlock:") : NULL;

  *flock = 0;
  for (; at; at = strstr(at + 1, "\nlock:")) {
    const char *end = at + 1 + strcspn(at + 1, "\n");
    const char *kind = strstr(at, "FLOCK");

    if (kind && kind < end) {
      const char *write = strstr(at, "WRITE");

      *flock = write && write < end ? LOCK_EX : LOCK_SH;
    } else if ((kind = strstr(at, "POSIX")) == NULL || kind >= end) {
      return err_set(e, "cannot be checkpointed: it has a lease or an open-file-description lock; "
                        "release it");
    }
  }
  return 0;
}

/* A descriptor may have been opened by somebody who was allowed more than we. */
static int check_rights(const struct object_source *source, struct err *e)
{
  AUTO_CLOSE int fd = object_open_shown(source, source->link);
  uint64_t flags = O_RDONLY;
  char path[32];
  int wanted;

  if (source->fdinfo ? !proc_field(source->fdinfo, "flags", 8, &flags) || flags & O_PATH
                     : S_ISDIR(source->stat.st_mode))
    return 0; /* its content is not asked for */
  wanted = (flags & O_ACCMODE) == O_RDONLY   ? R_OK
           : (flags & O_ACCMODE) == O_WRONLY ? W_OK
                                             : R_OK | W_OK;
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  if (fd >= 0 && faccessat(AT_FDCWD, path, wanted, AT_EACCESS) == 0)
    return 0;
  return err_set(e,
                 "cannot be checkpointed: user %u may not open it again as it is open now (%s); "
                 "give that user the rights, or checkpoint it as root",
                 geteuid(), strerror(errno));
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  int32_t flock;

  (void)dump;
  return object_find_flock(source, &flock, e) < 0 ? -1 : check_rights(source, e);
}

static int dump(const struct object_dump *dump, const struct object_source *source,
                struct file *file, struct err *e)
{
  struct detail detail = {
      .path = (char *)source->link,
      .size = S_ISREG(source->stat.st_mode) ? source->stat.st_size : 0,
  };

  (void)dump;
  if (object_find_flock(source, &detail.flock, e) < 0)
    return -1;
  file->detail = fields_to_json(fields, &detail, e);
  return file->detail ? 0 : -1;
}

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static int open_it(const struct object_restore *restore, const struct file *file, uint32_t flags,
                   struct detail *detail, struct err *e)
{
  AUTO_CLOSE int fd = -1;
  struct stat found;

  if (fields_from_json(fields, detail, file->detail, e) < 0)
    return -1;
  if (!detail->path)
    return err_set(e, "path: is missing");
  fd = object_open(restore, detail->path, flags);
  if (fd < 0 || fstat(fd, &found) < 0)
    return err_sys(e, "%s", detail->path);
  if (strcmp(file->type, "regular") == 0 ? !S_ISREG(found.st_mode) : !S_ISDIR(found.st_mode))
    return err_set(e, "%s: is no longer a %s", detail->path, file->type);
  if (S_ISREG(found.st_mode) && found.st_size != detail->size)
    return err_set(e, "%s: is %" PRId64 " bytes long, was %" PRId64 " at the checkpoint",
                   detail->path, (int64_t)found.st_size, detail->size);
  return take_fd(&fd);
}

static int check_restore(const struct object_restore *restore, const struct file *file,
                         struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_CLOSE int fd = open_it(restore, file, O_PATH, &detail, e);

  return fd < 0 ? -1 : 0;
}

static int restore(struct object_restore *restore, const struct file *file, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};
  AUTO_CLOSE int fd = open_it(restore, file, file->flags, &detail, e);

  if (fd < 0)
    return -1;
  if (file->position && lseek(fd, file->position, SEEK_SET) < 0)
    return err_sys(e, "%s: position %" PRId64, detail.path, file->position);
  if (detail.flock && flock(fd, detail.flock | LOCK_NB) < 0)
    return err_sys(e, "%s: lock", detail.path);
  return take_fd(&fd);
}

const struct object_type object_regular = {
    .name = "regular",
    .matches = matches_regular,
    .check = check,
    .dump = dump,
    .check_restore = check_restore,
    .restore = restore,
};

const struct object_type object_directory = {
    .name = "directory",
    .matches = matches_directory,
    .check = check,
    .dump = dump,
    .check_restore = check_restore,
    .restore = restore,
};
