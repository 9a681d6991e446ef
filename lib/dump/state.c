/* The model of the stopped tree, part by part. */
#include "base/cleanup.h"
#include "dump/capture.h"

#include <errno.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

static int take_checkpoint(struct capture *capture, struct err *e)
{
  struct checkpoint *checkpoint = &capture->tree.checkpoint;
  const struct source *root = &capture->sources[0];
  struct utsname name;

  uname(&name);
  checkpoint->kernel = strdup(name.release);
  checkpoint->id = capture->options->id ? strdup(capture->options->id) : NULL;
  checkpoint->root = root->status.ns_pid[capture->depth];
  checkpoint->own_pidns = capture->depth > 0 && checkpoint->root == 1;
  checkpoint->own_userns = capture->own_userns && !capture->options->runtime;
  checkpoint->runtime = capture->options->runtime ? strdup(capture->options->runtime) : NULL;
  if (!checkpoint->kernel || (capture->options->id && !checkpoint->id) ||
      (capture->options->runtime && !checkpoint->runtime))
    return err_sys(e, "checkpoint");
  if (capture->depth > 0 && !checkpoint->own_pidns)
    return err_set(e,
                   "pid %d: is in a pid namespace of which it is not the first process: "
                   "checkpoint the tree of that one",
                   root->pid);
  if (root->thread_count == 0)
    return err_set(e, "pid %d: it has ended", root->pid);
  if (tracee_xstate_features(&checkpoint->xstate_features, &checkpoint->xstate_size, e) < 0)
    return -1;
  checkpoint->xstate_size = (uint32_t)root->threads[0].xstate.size;
  return tracee_vdso_digest(root->pid, &checkpoint->vdso_digest, e);
}

/*
 * Threads of one process share these as a rule, handlers always (clone(2): CLONE_THREAD); a process
 * that shares them with another is odd.
 */
static const struct {
  int type;
  const char *name;
  bool threads_may_differ;
} resources[] = {
    {KCMP_FILES, "descriptor table", true},
    {KCMP_FS, "working directory", true},
    {KCMP_SIGHAND, "signal handlers", false},
};

static bool shares(pid_t one, pid_t two, int type)
{
  return syscall(SYS_kcmp, one, two, type, 0, 0) == 0;
}

static int check_threads(const struct source *source, struct err *e)
{
  for (size_t r = 0; r < ARRAY_LEN(resources); r++) {
    for (size_t i = 1; i < source->thread_count && resources[r].threads_may_differ; i++) {
      if (!shares(source->pid, source->threads[i].tid, resources[r].type))
        return err_set(e, "thread %d: has a %s of its own: cannot be checkpointed",
                       source->threads[i].tid, resources[r].name);
    }
  }
  return 0;
}

static int check_sharing(const struct capture *capture, struct err *e)
{
  const struct source *pair[2];

  for (size_t r = 0; r < ARRAY_LEN(resources); r++) {
    int shared = capture_sharing(capture, resources[r].type, pair, e);

    if (shared != 0)
      return shared < 0 ? -1
                        : err_set(e, "pid %d: shares its %s with pid %d: cannot be checkpointed",
                                  pair[0]->pid, resources[r].name, pair[1]->pid);
  }
  return 0;
}

/* A root of its own (chroot) is a file; the tree's common one is not spoken of. */
static int take_root(struct capture *capture, struct source *source, struct process *process,
                     struct err *e)
{
  char link[PATH_MAX];

  if (proc_link(source->pid, "root", link, sizeof(link), e) != 0)
    return -1;
  if (strcmp(link, "/") == 0)
    return 0;
  return capture_link(capture, source, "root", &process->root, e);
}

static int take_process(struct capture *capture, struct source *source, struct err *e)
{
  struct process *process =
      list_append(&capture->tree.processes, &capture->tree.process_count, sizeof(*process));
  struct mm *mm;

  if (!process)
    return err_sys(e, "processes");
  if (source->zombie)
    return capture_process(capture, source, process, e);
  mm = list_append(&capture->tree.mms, &capture->tree.mm_count, sizeof(*mm));
  if (!mm)
    return err_sys(e, "processes");
  mm->id = source->mm = ++capture->last_space;
  if (check_threads(source, e) < 0 || proc_maps_read(source->pid, &source->maps, e) != 0 ||
      tracee_heal(source->threads, source->thread_count, &source->maps, e) < 0 ||
      tracee_save(&source->threads[0], e) < 0 ||
      tracee_begin_remote_known(&source->threads[0], source->thread_count, &source->maps,
                                &capture->restorer, e) < 0)
    return -1;
  source->remote_base = tracee_remote_base(&source->threads[0]);
  source->remote_size = tracee_remote_size(&source->threads[0]);
  tracee_caught(&source->threads[0], source->status.sig_caught);
  tracee_share_remote(source->threads, source->thread_count);
  if (capture_process(capture, source, process, e) < 0 ||
      capture_descriptors(capture, source, process, e) < 0 ||
      capture_link(capture, source, "cwd", &process->cwd, e) < 0 ||
      capture_link(capture, source, "exe", &mm->exe, e) < 0 ||
      take_root(capture, source, process, e) < 0)
    return -1;
  return capture_space(capture, source, mm, e);
}

/*
 * A remote call is a wake-up there and back: five times as fast on the CPU where the process stands
 * as from another one that has gone to sleep.
 */
static void move_to_cpu_of(const struct source *source)
{
  cpu_set_t set;

  CPU_ZERO(&set);
  CPU_SET((size_t)source->stat.processor, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

int capture_state(struct capture *capture, struct err *e)
{
  cpu_set_t before;
  bool known = sched_getaffinity(0, sizeof(before), &before) == 0;
  int result = check_sharing(capture, e);

  for (size_t i = 0; i < capture->source_count && result == 0; i++) {
    if (known && !capture->sources[i].zombie)
      move_to_cpu_of(&capture->sources[i]);
    result = take_process(capture, &capture->sources[i], e);
    if (result < 0)
      err_prefix(e, "pid %d", capture->sources[i].pid);
  }
  if (known)
    sched_setaffinity(0, sizeof(before), &before);
  if (result == 0)
    result = mapped_finish(capture, e);
  if (result == 0)
    result = capture_mounts(capture, e);
  if (result == 0)
    result = capture_namespaces(capture, e);
  if (result == 0)
    result = object_check_complete(&capture->tree, e);
  return result < 0 ? -1 : take_checkpoint(capture, e);
}

static int write_object(struct stream_writer *writer, json_t *object, struct err *e)
{
  AUTO_FREE char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
  struct frame frame = {.type = FRAME_STATE, .flags = FRAME_MUST_UNDERSTAND, .payload = text};

  json_decref(object);
  if (!text)
    return e->text[0] ? -1 : err_set(e, "out of memory");
  if (strlen(text) > STATE_PAYLOAD_LIMIT)
    return err_set(e, "a state object of %zu bytes is too large", strlen(text));
  frame.length = (uint32_t)strlen(text);
  return stream_write(writer, &frame, e);
}

int capture_write_state(const struct capture *capture, struct stream_writer *writer, struct err *e)
{
  const struct tree *tree = &capture->tree;

  /* What no restore would take must not count as an image. */
  if (tree_check(tree, e) < 0)
    return err_prefix(e, "the captured state is inconsistent");
  if (write_object(writer, checkpoint_to_json(&tree->checkpoint, e), e) < 0)
    return -1;
  for (size_t i = 0; i < tree->process_count; i++) {
    if (write_object(writer, process_to_json(&tree->processes[i], e), e) < 0)
      return -1;
  }
  for (size_t i = 0; i < tree->mm_count; i++) {
    if (write_object(writer, mm_to_json(&tree->mms[i], e), e) < 0)
      return -1;
  }
  for (size_t i = 0; i < tree->file_count; i++) {
    if (write_object(writer, file_to_json(&tree->files[i], e), e) < 0)
      return -1;
  }
  for (size_t i = 0; i < tree->namespace_count; i++) {
    if (write_object(writer, namespace_to_json(&tree->namespaces[i], e), e) < 0)
      return -1;
  }
  return 0;
}
