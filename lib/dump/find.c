/* The tree: the root and all that descend from it. */
#include "base/cleanup.h"
#include "container/cgroup.h"
#include "dump/capture.h"

#include <errno.h>
#include <string.h>

static int add_source(struct capture *capture, pid_t pid, struct err *e)
{
  struct source *source;
  struct source added = {.pid = pid};
  int result = proc_stat_read(pid, &added.stat, e);

  if (result == 0)
    result = proc_status_read(pid, &added.status, e);
  if (result != 0)
    return result;
  source = list_append(&capture->sources, &capture->source_count, sizeof(*source));
  if (!source)
    return err_sys(e, "processes");
  *source = added;
  source->zombie = proc_is_zombie(&source->stat);
  if (capture->source_count == 1)
    capture->depth = source->status.ns_depth - 1;
  return 0;
}

/* The list moves while it grows: parents are put in when it is whole. */
static void link_parents(struct capture *capture)
{
  for (size_t i = 1; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];

    for (size_t k = 0; k < i; k++) {
      if (capture->sources[k].pid == source->stat.ppid)
        source->parent = &capture->sources[k];
    }
  }
}

bool capture_knows(const struct capture *capture, pid_t pid)
{
  for (size_t i = 0; i < capture->source_count; i++) {
    if (capture->sources[i].pid == pid)
      return true;
  }
  return false;
}

static int add_children(struct capture *capture, pid_t pid, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list children = {0};
  int result = proc_children(pid, &children, e);

  for (size_t i = 0; i < children.count && result >= 0; i++) {
    /* One whose parent ends meanwhile is seen under both. */
    if (!capture_knows(capture, children.items[i]))
      result = add_source(capture, children.items[i], e);
  }
  return result < 0 ? -1 : 0;
}

/* Breadth first: those that are found are asked for their children in turn. */
static int add_descendants(struct capture *capture, size_t first, struct err *e)
{
  for (size_t i = first; i < capture->source_count; i++) {
    if (add_children(capture, capture->sources[i].pid, e) < 0)
      return -1;
  }
  return 0;
}

static bool is_member(const struct proc_list *members, pid_t pid)
{
  for (size_t i = 0; i < members->count; i++) {
    if (members->items[i] == pid)
      return true;
  }
  return false;
}

/* An ordinary user's container may have no control group: all are in its pid namespace. */
static int namespace_members(pid_t init, struct proc_list *members, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list all = {0};
  struct err ignored;

  if (proc_all(&all, e) < 0)
    return -1;
  for (size_t i = 0; i < all.count; i++) {
    int32_t *member;

    if (proc_namespace_differs(all.items[i], init, "pid", &ignored) != 0)
      continue;
    member = list_append(&members->items, &members->count, sizeof(*member));
    if (!member)
      return err_sys(e, "processes");
    *member = all.items[i];
  }
  return 0;
}

/* Who entered the container (`runc exec`): its parent is outside. */
static int add_entered(struct capture *capture, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list members = {0};

  if (!capture->options->runtime)
    return 0;
  if (capture->cgroup ? cgroup_members(capture->cgroup, &members, e) < 0
                      : namespace_members(capture->options->pid, &members, e) < 0)
    return -1;
  for (size_t i = 0; i < members.count; i++) {
    struct proc_stat stat;
    size_t first = capture->source_count;

    if (capture_knows(capture, members.items[i]) ||
        proc_stat_read(members.items[i], &stat, e) != 0 || is_member(&members, stat.ppid))
      continue;
    if (add_source(capture, members.items[i], e) < 0 || add_descendants(capture, first, e) < 0)
      return -1;
  }
  return 0;
}

int capture_find(struct capture *capture, struct err *e)
{
  int result = add_source(capture, capture->options->pid, e);

  if (result != 0)
    return result < 0 ? -1 : err_set(e, "pid %d: no such process", capture->options->pid);
  if (add_descendants(capture, 0, e) < 0 || add_entered(capture, e) < 0)
    return -1;
  link_parents(capture);
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
    proc_maps_free(&source->maps);
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
