/* What would stop this restore, found before anything is made. */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "tracee/seccomp.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

int rebuild_check_files(struct rebuild *rebuild, struct err *e)
{
  for (size_t i = 0; i < rebuild->tree.file_count; i++) {
    const struct file *file = &rebuild->tree.files[i];
    const struct object_type *type = object_type_by_name(file->type);

    if (!type || (!type->restore && !type->create))
      return err_set(e, "file %u: a \"%s\" cannot be restored here", file->id, file->type);
    if (type->check_restore && type->check_restore(&rebuild->objects, file, e) < 0)
      return -1;
  }
  return 0;
}

static int check_pid(int32_t pid, struct err *e)
{
  if (kill(pid, 0) == 0 || errno != ESRCH)
    return err_set(e, "pid %d is in use; end that process or restore into a new pid namespace",
                   pid);
  return 0;
}

/* Whose tree it was decides who can restore it, and in what namespaces. */
static int check_user(const struct rebuild *rebuild, struct err *e)
{
  const struct tree *tree = &rebuild->tree;
  const struct credentials *owner = &tree->processes[0].credentials;
  uid_t user = geteuid();

  for (size_t i = 0; i < tree->process_count; i++) {
    if (tree->processes[i].filter_count && !seccomp_can_suspend())
      return err_set(e, "pid %d: was under a seccomp filter, which only root can restore",
                     tree->processes[i].pid);
  }
  if (tree->checkpoint.runtime)
    return 0;
  if (tree->checkpoint.own_userns && !tree->checkpoint.own_pidns)
    return err_set(e, "the tree was in a user namespace, but not in a pid namespace of its own");
  if (tree->checkpoint.own_userns && user == 0)
    return err_set(e,
                   "the tree was an ordinary user's, in a user namespace; restore it as that user "
                   "(user %u in it)",
                   owner->euid);
  if (tree->checkpoint.own_pidns && !tree->checkpoint.own_userns && user != 0)
    return err_set(e, "the tree was not in a user namespace, so that only root can restore it; an "
                      "ordinary user can restore what he has run with ckpt-run");
  return 0;
}

/* In a pid namespace that others use the old numbers must be free. */
static int check_pids(const struct rebuild *rebuild, struct err *e)
{
  if (rebuild->tree.checkpoint.own_pidns)
    return 0;
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    const struct process *process = &rebuild->tree.processes[i];

    if (check_pid(process->pid, e) < 0)
      return -1;
    for (size_t k = 0; k < process->thread_count; k++) {
      if (check_pid(process->threads[k].tid, e) < 0)
        return -1;
    }
  }
  return 0;
}

/* The control socket stands above every descriptor of the tree; the limit must allow it. */
static int choose_control_fd(struct rebuild *rebuild, struct err *e)
{
  size_t opened = 0; /* by us, all at once */
  struct rlimit limit;
  int highest = 2;

  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    const struct process *process = &rebuild->tree.processes[i];

    for (size_t k = 0; k < process->descriptor_count; k++)
      highest = process->descriptors[k].fd > highest ? process->descriptors[k].fd : highest;
  }
  for (size_t i = 0; i < rebuild->tree.file_count; i++) {
    const struct object_type *type = object_type_by_name(rebuild->tree.files[i].type);

    opened += !type || !type->create;
  }
  /* What is received before its place is known must fit below it, too. */
  rebuild->control_fd = highest + 1 < SEND_LIMIT ? SEND_LIMIT : highest + 1;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
    return err_sys(e, "limit of open files");
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if ((rlim_t)rebuild->control_fd + 1 >= limit.rlim_max || opened + 32 >= limit.rlim_max)
    return err_set(e, "the tree has more descriptors than our limit of open files, %" PRIu64,
                   (uint64_t)limit.rlim_max);
  return 0;
}

static int check_machine(const struct checkpoint *checkpoint, struct err *e)
{
  AUTO_FREE char *digest = NULL;
  uint64_t features = 0;
  uint32_t size = 0;

  if (tracee_vdso_digest(0, &digest, e) < 0)
    return -1;
  if (strcmp(digest, checkpoint->vdso_digest) != 0)
    return err_set(e, "the image is of another kernel (%s): its vdso differs from this one's",
                   checkpoint->kernel);
  if (tracee_xstate_features(&features, &size, e) < 0)
    return -1;
  if (checkpoint->xstate_features & ~features || checkpoint->xstate_size > size)
    return err_set(e,
                   "the image is of another processor: register sets 0x%" PRIx64
                   " were in use, this one has 0x%" PRIx64,
                   checkpoint->xstate_features, features);
  return 0;
}

/* A runtime's container comes back into one of a runtime, and nothing else does. */
static int check_place(const struct rebuild *rebuild, struct err *e)
{
  const struct checkpoint *checkpoint = &rebuild->tree.checkpoint;

  if (checkpoint->runtime && !rebuild_by_runtime(rebuild))
    return err_set(e, "the image is of a %s container: name the bundle for a new one with --bundle",
                   checkpoint->runtime);
  if (!checkpoint->runtime && rebuild_by_runtime(rebuild))
    return err_set(e, "the image is not of a runtime's container: restore it without --bundle or "
                      "--created");
  /* It is a program that we execute: what an image says is only believed of what is known. */
  if (checkpoint->runtime && !rebuild->options->runtime &&
      strcmp(checkpoint->runtime, "runc") != 0 && strcmp(checkpoint->runtime, "crun") != 0)
    return err_set(e, "the image's runtime is \"%s\": name one with --runtime",
                   checkpoint->runtime);
  if (checkpoint->runtime && !checkpoint->own_pidns)
    return err_set(e, "the container had no pid namespace of its own");
  return 0;
}

static bool can_be_had(const struct tree *tree, uint32_t id)
{
  const struct object_type *type = object_type_by_name(tree_file(tree, id)->type);

  return type && type->restore;
}

/* What stands in file systems only is nobody's descriptor, program or directory. */
static int check_process_types(const struct tree *tree, const struct process *process,
                               struct err *e)
{
  const struct mm *mm = tree_mm(tree, process->mm);

  if (!mm)
    return 0; /* a zombie */
  if (!can_be_had(tree, mm->exe) || !can_be_had(tree, process->cwd) ||
      (process->root && !can_be_had(tree, process->root)))
    return err_set(e, "its program, working directory or root is of a type that nobody can have");
  for (size_t i = 0; i < mm->vma_count; i++) {
    if (mm->vmas[i].file && !can_be_had(tree, mm->vmas[i].file))
      return err_set(e, "mapping at 0x%" PRIx64 ": file %u is of a type that nobody can have",
                     mm->vmas[i].start, mm->vmas[i].file);
  }
  for (size_t i = 0; i < process->descriptor_count; i++) {
    if (!can_be_had(tree, process->descriptors[i].file))
      return err_set(e, "fd %d: file %u is of a type that nobody can have",
                     process->descriptors[i].fd, process->descriptors[i].file);
  }
  return 0;
}

static int check_types(const struct tree *tree, struct err *e)
{
  for (size_t i = 0; i < tree->process_count; i++) {
    if (check_process_types(tree, &tree->processes[i], e) < 0)
      return err_prefix(e, "pid %d", tree->processes[i].pid);
  }
  for (size_t i = 0; i < tree->file_count; i++) {
    const struct file *file = &tree->files[i];
    const struct object_type *type = object_type_by_name(file->type);

    /* Filling a file of the host's would change that one. */
    if (file->space && (!type || (!type->has_pages && !type->open)))
      return err_set(e, "file %u: a \"%s\" has no pages", file->id, file->type);
  }
  return 0;
}

int rebuild_check(struct rebuild *rebuild, struct err *e)
{
  const struct tree *tree = &rebuild->tree;

  if (tree_check(tree, e) < 0 || check_types(tree, e) < 0)
    return -1;
  if (tree->process_count == 0 || tree->processes[0].pid != tree->checkpoint.root)
    return err_set(e, "the image does not begin with its root process");
  if (check_place(rebuild, e) < 0 || check_machine(&tree->checkpoint, e) < 0 ||
      check_user(rebuild, e) < 0 || check_pids(rebuild, e) < 0)
    return -1;
  return object_check_complete(tree, e) < 0 ? -1 : choose_control_fd(rebuild, e);
}
