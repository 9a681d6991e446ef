/* Open file descriptions: made here, handed to the processes over the control socket. */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "container/container.h"
#include "restore/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Of the container that is there: ours, or what its runtime has recorded. NULL: unknown. */
static int find_bundle(struct rebuild *rebuild, struct err *e)
{
  CLEANUP(container_free) struct container container = {0};
  const char *bundle = rebuild->options->bundle;
  AUTO_FREE char *path = NULL;
  json_t *kept;

  if (!bundle &&
      container_find(rebuild->options->registry, rebuild->id, &container, &(struct err){""}) == 0)
    bundle = container.bundle;
  path = bundle ? realpath(bundle, NULL) : NULL;
  if (!path)
    return 0;
  kept = json_string_nocheck(path);
  if (json_object_set_new(rebuild->objects.shared, "bundle", kept) < 0)
    return err_set(e, "out of memory");
  rebuild->objects.bundle = json_string_value(kept);
  return 0;
}

int rebuild_create(struct rebuild *rebuild, struct err *e)
{
  struct object_restore *objects = &rebuild->objects;

  if (find_bundle(rebuild, e) < 0)
    return -1;
  for (size_t i = 0; i < rebuild->tree.file_count; i++) {
    const struct file *file = &rebuild->tree.files[i];
    const struct object_type *type = object_type_by_name(file->type);

    if (type && type->create && type->create(objects, file, e) < 0)
      return -1;
  }
  return 0;
}

int rebuild_files(struct rebuild *rebuild, struct err *e)
{
  struct object_restore *objects = &rebuild->objects;

  for (size_t i = 0; i < rebuild->tree.file_count; i++) {
    const struct file *file = &rebuild->tree.files[i];
    const struct object_type *type = object_type_by_name(file->type);

    if (type->create)
      continue; /* done, and nobody's */
    objects->local[i] = type->restore(objects, file, e);
    if (objects->local[i] < 0)
      return err_prefix(e, "file %u (%s)", file->id, file->type);
  }
  return 0;
}

/* One message with descriptors into the control socket: the receiver is a remote recvmsg. */
static int send_message(int socket, const int *fds, size_t count, struct err *e)
{
  union {
    char buffer[CMSG_SPACE(SEND_LIMIT * sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  struct iovec byte = {.iov_base = (char[1]){0}, .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &byte,
      .msg_iovlen = 1,
      .msg_control = control.buffer,
      .msg_controllen = CMSG_SPACE(count * sizeof(int)),
  };
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);

  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != 1)
    return err_sys(e, "control socket");
  return 0;
}

/* What stands in the tracee's scratch memory for its recvmsg. */
struct remote_message {
  struct msghdr header;
  struct iovec iov;
  char byte[8];
  char control[CMSG_SPACE(SEND_LIMIT * sizeof(int))];
};

int rebuild_send(struct rebuild *rebuild, struct tracee *tracee, const int *fds, size_t count,
                 int *numbers, struct err *e)
{
  struct batch batch = {.tracee = tracee};
  struct remote_message message;
  struct cmsghdr *header = (struct cmsghdr *)message.control;
  uint64_t address;
  struct remote_message *room = batch_room(&batch, sizeof(message), &address, e);

  if (!room)
    return -1;
  *room = (struct remote_message){
      .header = {.msg_iov = (void *)(address + offsetof(struct remote_message, iov)), /* NOLINT */
                 .msg_iovlen = 1,
                 .msg_control =
                     (void *)(address + offsetof(struct remote_message, control)), /* NOLINT */
                 .msg_controllen = sizeof(message.control)},
      .iov = {.iov_base = (void *)(address + offsetof(struct remote_message, byte)), /* NOLINT */
              .iov_len = 1},
  };
  if (send_message(rebuild->control[0], fds, count, e) < 0 ||
      BATCH_CALL(&batch, e, "recvmsg", SYS_recvmsg, (uint64_t)rebuild->control_fd, address,
                 MSG_CMSG_CLOEXEC) < 0 ||
      batch_run(&batch, e) < 0 || tracee_read(tracee, address, &message, sizeof(message), e) < 0)
    return -1;
  if (message.header.msg_controllen < CMSG_LEN(count * sizeof(int)) ||
      message.header.msg_flags & MSG_CTRUNC || header->cmsg_len != CMSG_LEN(count * sizeof(int)))
    return err_set(e, "pid %d: cannot take %zu descriptors: its limit of open files is too low",
                   tracee->pid, count);
  memcpy(numbers, CMSG_DATA(header), count * sizeof(int));
  return 0;
}

static int compare_descriptors(const void *a, const void *b)
{
  const struct descriptor *x = a;
  const struct descriptor *y = b;

  return x->fd < y->fd ? -1 : x->fd > y->fd;
}

static int place(struct batch *batch, int from, const struct descriptor *to, struct err *e)
{
  if (from == to->fd)
    return BATCH_CALL(batch, e, "fcntl", SYS_fcntl, (uint64_t)from, F_SETFD,
                      to->cloexec ? FD_CLOEXEC : 0);
  if (BATCH_CALL(batch, e, "dup3", SYS_dup3, (uint64_t)from, (uint64_t)to->fd,
                 to->cloexec ? O_CLOEXEC : 0) < 0)
    return -1;
  return BATCH_CALL(batch, e, "close", SYS_close, (uint64_t)from);
}

/*
 * Received descriptors get the lowest free numbers. Sent in the order of their final numbers, none
 * lands above its own; so within a message the last is placed first and nothing is in the way.
 */
static int install(struct rebuild *rebuild, struct tracee *tracee,
                   const struct descriptor *descriptors, size_t count, struct err *e)
{
  struct batch batch = {.tracee = tracee};

  for (size_t done = 0; done < count;) {
    size_t sent = count - done < SEND_LIMIT ? count - done : SEND_LIMIT;
    int fds[SEND_LIMIT], numbers[SEND_LIMIT];

    for (size_t i = 0; i < sent; i++) {
      const struct file *file = tree_file(&rebuild->tree, descriptors[done + i].file);

      fds[i] = rebuild->objects.local[file - rebuild->tree.files];
    }
    if (rebuild_send(rebuild, tracee, fds, sent, numbers, e) < 0)
      return -1;
    for (size_t i = sent; i-- > 0;) {
      if (place(&batch, numbers[i], &descriptors[done + i], e) < 0)
        return -1;
    }
    if (batch_run(&batch, e) < 0)
      return -1;
    done += sent;
  }
  return 0;
}

/* fchdir to a directory of ours; as_root also makes it the process's root. */
static int enter(struct rebuild *rebuild, struct tracee *tracee, uint32_t file_id, bool as_root,
                 struct err *e)
{
  const struct file *file = tree_file(&rebuild->tree, file_id);
  struct batch batch = {.tracee = tracee};
  uint64_t here;
  int number;

  if (rebuild_send(rebuild, tracee, &rebuild->objects.local[file - rebuild->tree.files], 1, &number,
                   e) < 0 ||
      BATCH_CALL(&batch, e, "fchdir", SYS_fchdir, (uint64_t)number) < 0)
    return -1;
  if (as_root && (batch_data(&batch, ".", 2, &here, e) < 0 ||
                  BATCH_CALL(&batch, e, "chroot", SYS_chroot, here) < 0))
    return -1;
  if (BATCH_CALL(&batch, e, "close", SYS_close, (uint64_t)number) < 0)
    return -1;
  return batch_run(&batch, e);
}

int rebuild_descriptors(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  const struct process *process = which->process;
  struct tracee *tracee = &which->threads[0];
  AUTO_FREE struct descriptor *sorted = malloc((process->descriptor_count + 1) * sizeof(*sorted));

  if (!sorted)
    return err_sys(e, "descriptors");
  if (process->descriptor_count)
    memcpy(sorted, process->descriptors, process->descriptor_count * sizeof(*sorted));
  qsort(sorted, process->descriptor_count, sizeof(*sorted), compare_descriptors);
  /* Whatever came with the fork goes, but for the control socket, which has the highest number. */
  if (call(tracee, e, "close_range", NULL, SYS_close_range, 0, (uint64_t)rebuild->control_fd - 1, 0,
           0, 0, 0) < 0 ||
      (process->root && enter(rebuild, tracee, process->root, true, e) < 0) ||
      enter(rebuild, tracee, process->cwd, false, e) < 0 ||
      install(rebuild, tracee, sorted, process->descriptor_count, e) < 0)
    return -1;
  return call(tracee, e, "close_range", NULL, SYS_close_range, (uint64_t)rebuild->control_fd,
              UINT32_MAX, 0, 0, 0, 0);
}

/* The first process that has the file, and its number there. */
static struct rebuilt *holder(const struct rebuild *rebuild, uint32_t file, int *fd)
{
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    const struct process *process = rebuild->processes[i].process;

    for (size_t k = 0; k < process->descriptor_count; k++) {
      if (process->descriptors[k].file == file) {
        *fd = process->descriptors[k].fd;
        return &rebuild->processes[i];
      }
    }
  }
  return NULL;
}

static int set_owner(const struct file *file, struct tracee *tracee, int fd, struct err *e)
{
  if (file->owner && call(tracee, e, "owner", NULL, SYS_fcntl, (uint64_t)fd, F_SETOWN,
                          (uint64_t)file->owner, 0, 0, 0) < 0)
    return -1;
  if (file->owner_signal && call(tracee, e, "owner's signal", NULL, SYS_fcntl, (uint64_t)fd,
                                 F_SETSIG, (uint64_t)file->owner_signal, 0, 0, 0) < 0)
    return -1;
  return 0;
}

static int attach_description(struct rebuild *rebuild, const struct file *file,
                              const struct object_type *type, struct err *e)
{
  int fd = -1;
  struct rebuilt *which = holder(rebuild, file->id, &fd);
  struct tracee *leader = which ? &which->threads[0] : NULL;

  if ((leader && set_owner(file, leader, fd, e) < 0) ||
      (type->attach && type->attach(&rebuild->objects, file, fd, leader, e) < 0))
    return err_prefix(e, "pid %d fd %d (%s)", which ? which->process->pid : 0, fd, file->type);
  return 0;
}

/*
 * What stands in file systems gets its final state when all else has been done to it (a socket was
 * bound), and the last first: what is in a directory or mount before that one.
 */
int rebuild_attach(struct rebuild *rebuild, struct err *e)
{
  const struct tree *tree = &rebuild->tree;

  for (size_t i = 0; i < tree->file_count; i++) {
    const struct object_type *type = object_type_by_name(tree->files[i].type);

    if (!type->create && attach_description(rebuild, &tree->files[i], type, e) < 0)
      return -1;
  }
  for (size_t i = tree->file_count; i-- > 0;) {
    const struct object_type *type = object_type_by_name(tree->files[i].type);

    if (type->create && type->attach(&rebuild->objects, &tree->files[i], -1, NULL, e) < 0)
      return -1;
  }
  return 0;
}
