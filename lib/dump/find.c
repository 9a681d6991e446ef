/* The tree: the root and all that descend from it. */
#include "base/cleanup.h"
#include "dump/capture.h"

#include <errno.h>
#include <string.h>

struct pair {
  pid_t pid, parent;
};

static int read_parents(struct pair **pairs, size_t *count, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list all = {0};

  if (proc_all(&all, e) != 0)
    return -1;
  *pairs = calloc(all.count + 1, sizeof(**pairs));
  if (!*pairs)
    return err_sys(e, "processes");
  for (size_t i = 0; i < all.count; i++) {
    struct proc_stat stat;
    int result = proc_stat_read(all.items[i], &stat, e);

    if (result < 0)
      return -1;
    if (result == 0)
      (*pairs)[(*count)++] = (struct pair){all.items[i], stat.ppid};
  }
  return 0;
}

/* Numbers of the tree's namespace: everybody must have one, and no deeper one. */
static int check_namespace(struct capture *capture, const struct source *source)
{
  struct err why = {""};

  if (source->status.ns_depth == capture->depth + 1)
    return 0;
  err_set(&why, "cannot be checkpointed: it is in another pid namespace than the tree's root");
  return capture_obstacle(capture, source->pid, "process", &why);
}

static int add_source(struct capture *capture, pid_t pid, ssize_t parent, struct err *e)
{
  struct source *source = &capture->sources[capture->source_count];
  int result;

  memset(source, 0, sizeof(*source));
  source->pid = pid;
  source->parent = parent < 0 ? NULL : &capture->sources[parent];
  result = proc_stat_read(pid, &source->stat, e);
  if (result == 0)
    result = proc_status_read(pid, &source->status, e);
  if (result != 0)
    return result;
  source->zombie = source->stat.state == 'Z' || source->stat.state == 'X';
  capture->source_count++;
  if (capture->source_count == 1)
    capture->depth = source->status.ns_depth - 1;
  return check_namespace(capture, source);
}

int capture_find(struct capture *capture, struct err *e)
{
  AUTO_FREE struct pair *pairs = NULL;
  size_t count = 0;
  int result;

  if (read_parents(&pairs, &count, e) < 0)
    return -1;
  capture->sources = calloc(count + 1, sizeof(*capture->sources));
  if (!capture->sources)
    return err_sys(e, "processes");
  result = add_source(capture, capture->options->pid, -1, e);
  if (result != 0)
    return result < 0 ? -1 : err_set(e, "pid %d: no such process", capture->options->pid);
  /* Breadth first: those that are found are asked for their children in turn. */
  for (size_t i = 0; i < capture->source_count; i++) {
    for (size_t k = 0; k < count; k++) {
      if (pairs[k].parent == capture->sources[i].pid &&
          add_source(capture, pairs[k].pid, (ssize_t)i, e) < 0)
        return -1;
    }
  }
  return 0;
}

void capture_forget_held(struct capture *capture)
{
  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];

    for (size_t k = 0; k < source->held_count; k++)
      free(source->held[k].payload);
    free(source->held);
    source->held = NULL;
    source->held_count = 0;
  }
}

void capture_forget_sources(struct capture *capture)
{
  capture_forget_held(capture);
  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];

    for (size_t k = 0; k < source->thread_count; k++)
      free(source->threads[k].xstate.data);
    free(source->threads);
    free(source->inherited);
    proc_status_free(&source->status);
  }
  free(capture->sources);
  capture->sources = NULL;
  capture->source_count = 0;
}

int32_t capture_number(const struct capture *capture, pid_t pid)
{
  for (size_t i = 0; i < capture->source_count; i++) {
    if (capture->sources[i].pid == pid)
      return capture->sources[i].status.ns_pid[capture->depth];
  }
  return 0;
}
