#include "object/object.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

/* In the order of asking; object_unknown takes whatever is left, and refuses it. */
static const struct object_type *const types[] = {
    &object_stream,  &object_memfd,   &object_shmem,     &object_sysvshm, &object_mqueue,
    &object_regular, &object_deleted, &object_directory, &object_device,  &object_pipe,
    &object_fifo,    &object_eventfd, &object_epoll,     &object_timerfd, &object_signalfd,
    &object_inotify, &object_tcp,     &object_unix,      &object_unknown, &object_mount,
    &object_inode,
};

const struct object_type *object_type_of(const struct object_source *source)
{
  size_t i = 0;

  while (!types[i]->matches(source))
    i++;
  return types[i];
}

const struct object_type *object_type_by_name(const char *name)
{
  for (size_t i = 0; i < ARRAY_LEN(types); i++) {
    if (strcmp(types[i]->name, name) == 0)
      return types[i];
  }
  return NULL;
}

/* "pid 7 fd 3 (pipe)": the first that has it. */
static int with_holder(const struct tree *tree, const struct file *file, struct err *e)
{
  for (size_t i = 0; i < tree->process_count; i++) {
    const struct process *process = &tree->processes[i];

    for (size_t k = 0; k < process->descriptor_count; k++) {
      if (process->descriptors[k].file == file->id)
        return err_prefix(e, "pid %d fd %d (%s)", process->pid, process->descriptors[k].fd,
                          file->type);
    }
  }
  return err_prefix(e, "file %u (%s)", file->id, file->type);
}

int object_check_complete(const struct tree *tree, struct err *e)
{
  for (size_t i = 0; i < tree->file_count; i++) {
    const struct object_type *type = object_type_by_name(tree->files[i].type);

    if (type && type->complete && type->complete(tree, &tree->files[i], e) < 0)
      return with_holder(tree, &tree->files[i], e);
  }
  return 0;
}

void object_describe(const struct object_source *source, char *text, size_t size)
{
  const char *link = source->link;
  size_t length = strlen(link);

  /* "anon_inode:[io_uring]" is an io_uring. */
  if (strncmp(link, "anon_inode:[", 12) == 0)
    link += 12, length -= 13;
  else if (strncmp(link, "anon_inode:", 11) == 0)
    link += 11, length -= 11;
  if (source->fd >= 0)
    snprintf(text, size, "pid %d fd %d (%.*s)", source->pid, source->fd, (int)length, link);
  else
    snprintf(text, size, "pid %d (%.*s)", source->pid, (int)length, link);
}

int object_open_shown(const struct object_source *source, const char *path)
{
  struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};

  return (int)syscall(SYS_openat2, source->root, path, &how, sizeof(how));
}

bool object_path_leads_to(const struct object_source *source)
{
  AUTO_CLOSE int fd = object_open_shown(source, source->link);
  struct stat found;

  return fd >= 0 && fstat(fd, &found) == 0 && found.st_dev == source->stat.st_dev &&
         found.st_ino == source->stat.st_ino;
}

int object_open(const struct object_restore *restore, const char *path, uint32_t flags)
{
  struct open_how how = {
      .flags = (flags & (uint32_t) ~(O_CREAT | O_EXCL | O_TRUNC)) | O_CLOEXEC | O_NOCTTY,
      .resolve = RESOLVE_IN_ROOT,
  };

  if (flags & O_PATH)
    how.flags &= O_PATH | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW;
  return (int)syscall(SYS_openat2, restore->root_fd, path, &how, sizeof(how));
}

int object_shared_fd(const struct object_restore *restore, const char *key)
{
  const json_t *fd = json_object_get(restore->shared, key);

  return fd ? (int)json_integer_value(fd) : -1;
}

int object_share_fd(struct object_restore *restore, const char *key, int fd, struct err *e)
{
  if (json_object_set_new(restore->shared, key, json_integer(fd)) < 0)
    return err_set(e, "out of memory");
  return 0;
}

int object_reopen(int fd, uint32_t flags, struct err *e)
{
  char path[32];
  int opened;

  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  opened = open(path, ((int)flags & ~O_NOFOLLOW) | O_CLOEXEC); /* it is a link to follow */
  return opened < 0 ? err_sys(e, "reopen") : opened;
}
