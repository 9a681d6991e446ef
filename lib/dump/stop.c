/* Stopping the tree, and letting it go. */
#include "base/cleanup.h"
#include "container/cgroup.h"
#include "dump/capture.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum {
  STOP_PATIENCE_MS = 3000, /* for a thread that sleeps uninterruptibly */
  VFORK_PATIENCE_MS = 3,
  TRIES = 60,
};

static uint64_t now_ms(void)
{
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Is the thread inside vfork(2), waiting for a child that uses its memory? */
static bool waits_for_vfork(pid_t pid, pid_t tid)
{
  AUTO_FREE char *text = NULL;
  char name[48];
  struct err ignored;

  snprintf(name, sizeof(name), "task/%d/syscall", tid);
  if (proc_text(pid, name, &text, NULL, &ignored) != 0)
    return false;
  /* vfork, or clone and clone3 with CLONE_VFORK: posix_spawn(3) */
  return strtol(text, NULL, 10) == SYS_vfork || strtol(text, NULL, 10) == SYS_clone ||
         strtol(text, NULL, 10) == SYS_clone3;
}

/* The leader, then by number. */
static int compare_threads(const void *one, const void *two)
{
  const struct tracee *a = one;
  const struct tracee *b = two;

  if ((a->tid == a->pid) != (b->tid == b->pid))
    return a->tid == a->pid ? -1 : 1;
  return a->tid < b->tid ? -1 : a->tid > b->tid;
}

static struct tracee *find_thread(const struct source *source, pid_t tid)
{
  const struct tracee key = {.pid = source->pid, .tid = tid};

  return source->thread_count ? bsearch(&key, source->threads, source->thread_count,
                                        sizeof(*source->threads), compare_threads)
                              : NULL;
}

/* Seizes threads of the process that are not yet: how many were new, or -1. */
static int seize_threads(struct source *source, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list threads = {0};
  struct tracee *larger;
  size_t count = source->thread_count;
  int found;
  int result = proc_threads(source->pid, &threads, e);

  if (result != 0)
    return result < 0 ? -1 : 0;
  larger = reallocarray(source->threads, count + threads.count + 1, sizeof(*larger)); /* never 0 */
  if (!larger)
    return err_sys(e, "pid %d: threads", source->pid);
  source->threads = larger;
  for (size_t i = 0; i < threads.count && result >= 0; i++) {
    if (find_thread(source, threads.items[i]))
      continue;
    result = tracee_seize(&source->threads[count], source->pid, threads.items[i], e);
    count += result == 0;
  }
  found = (int)(count - source->thread_count);
  source->thread_count = count;
  if (found)
    qsort(source->threads, count, sizeof(*source->threads), compare_threads);
  return result < 0 ? -1 : found;
}

/* Returns 0, or 1 when the process must be given time: it is in a vfork. */
static int wait_threads(struct source *source, struct err *e)
{
  for (size_t i = 0; i < source->thread_count; i++) {
    struct tracee *thread = &source->threads[i];
    uint64_t start = now_ms();
    int result;

    if (thread->stopped)
      continue;
    while ((result = tracee_wait_stop(thread, now_ms() + VFORK_PATIENCE_MS, e)) == 2) {
      if (waits_for_vfork(source->pid, thread->tid))
        return 1;
      if (now_ms() - start > STOP_PATIENCE_MS)
        return err_set(e,
                       "pid %d: thread %d: does not stop: it sleeps uninterruptibly in the kernel",
                       source->pid, thread->tid);
    }
    if (result < 0)
      return -1;
    if (result == 1) { /* it exited */
      memmove(thread, thread + 1, (source->thread_count - i - 1) * sizeof(*thread));
      source->thread_count--;
      i--;
    }
  }
  return 0;
}

/* The tree anew: those that are known keep their threads. 1 when there are others, 0, -1. */
static int find_again(struct capture *capture, struct err *e)
{
  struct capture again = {
      .options = capture->options, .obstacles = capture->obstacles, .cgroup = capture->cgroup};
  size_t known = 0;

  if (capture_find(&again, e) < 0) {
    capture_forget_sources(&again);
    return -1;
  }
  for (size_t i = 0; i < again.source_count; i++) {
    for (size_t k = 0; k < capture->source_count; k++) {
      struct source *old = &capture->sources[k];

      if (old->pid != again.sources[i].pid)
        continue;
      again.sources[i].threads = TAKE_POINTER(old->threads);
      again.sources[i].thread_count = old->thread_count;
      old->thread_count = 0;
      known++;
    }
  }
  capture_forget_sources(capture);
  capture->sources = again.sources;
  capture->source_count = again.source_count;
  capture->depth = again.depth;
  return known < again.source_count;
}

static int thaw_group(void *context, struct err *e)
{
  return cgroup_freeze(context, false, e);
}

static int freeze_group(void *context, struct err *e)
{
  return cgroup_freeze(context, true, e);
}

/*
 * A frozen thread reports no stop. All are seized and have their interrupt pending: thawed, none
 * executes an instruction of its own. If we are killed, it is frozen again all the same.
 */
static int thaw(struct capture *capture, struct err *e)
{
  const struct guarded what = {thaw_group, freeze_group, capture->cgroup};

  if (capture->thaw.pid || !capture->cgroup || !cgroup_is_frozen(capture->cgroup))
    return 0;
  return guard_start(&capture->thaw, &what, e);
}

/* Stopped threads can be frozen: let go, they stay where they are. */
static void freeze_again(struct capture *capture)
{
  guard_end(&capture->thaw, false);
}

/* One pass over the tree: 0 nothing was new, 1 something was, 2 a vfork needs time, -1. */
static int stop_pass(struct capture *capture, struct err *e)
{
  int found = 0;

  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];
    int result;

    if (source->zombie)
      continue;
    result = seize_threads(source, e);
    if (result < 0)
      return -1;
    found += result;
  }
  if (thaw(capture, e) < 0)
    return -1;
  for (size_t i = 0; i < capture->source_count; i++) {
    int result = wait_threads(&capture->sources[i], e);

    if (result < 0)
      return -1;
    if (result > 0)
      return 2;
  }
  return found > 0;
}

/* Lets go whoever is in a stop by now. Returns how many are not. */
static size_t let_go_stopped(struct source *source)
{
  size_t left = 0;

  for (size_t i = 0; i < source->thread_count; i++) {
    struct tracee *thread = &source->threads[i];
    struct err ignored;

    if (!thread->stopped && thread->seized)
      tracee_wait_stop(thread, now_ms(), &ignored);
    if (thread->stopped)
      tracee_detach(thread, &ignored);
    left += thread->seized;
  }
  return left;
}

/*
 * A thread can only be given up in a stop. One may come to it only when another runs again (a
 * parent in vfork(2), whose child stands), so nobody is waited for alone.
 */
static void let_go(struct capture *capture)
{
  uint64_t start = now_ms();
  size_t left;

  do {
    left = 0;
    for (size_t i = 0; i < capture->source_count; i++)
      left += let_go_stopped(&capture->sources[i]);
    if (left)
      nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
  } while (left && now_ms() - start < STOP_PATIENCE_MS);
  /* What still does not stop is let go by the kernel when we exit. */
  for (size_t i = 0; i < capture->source_count; i++)
    capture->sources[i].thread_count = 0;
}

/*
 * Who has memory in common with another, is in the group but not in the namespaces, or has lost its
 * first thread may be on its way: between vfork and exec, entering (`runc exec`), exiting. 1:
 * somebody is, who e names; 0; -1.
 */
static int somebody_is_on_the_way(const struct capture *capture, struct err *e)
{
  const struct source *pair[2];
  int shared;

  for (size_t i = 0; i < capture->source_count; i++) {
    const struct source *source = &capture->sources[i];

    if (source->zombie)
      continue;
    if (capture_same_namespaces(capture, source, e) < 0)
      return err_prefix(e, "pid %d", source->pid), 1;
    if (!find_thread(source, source->pid))
      return err_set(e, "pid %d: %s", source->pid, CAPTURE_HEADLESS), 1;
  }
  shared = capture_sharing(capture, KCMP_VM, pair, e);
  if (shared > 0)
    err_set(e, "pid %d: shares its memory with pid %d: cannot be checkpointed", pair[0]->pid,
            pair[1]->pid);
  return shared;
}

/*
 * A process that somebody made just before it stood may have made another one and ended while we
 * looked. Orphans go to the first thread of a process that stands: a second look there sees them.
 */
static int somebody_came(const struct capture *capture, struct err *e)
{
  for (size_t i = 0; i < capture->source_count; i++) {
    CLEANUP(proc_list_free) struct proc_list children = {0};
    pid_t pid = capture->sources[i].pid;

    if (!capture->sources[i].zombie && proc_thread_children(pid, pid, &children, e) < 0)
      return -1;
    for (size_t k = 0; k < children.count; k++) {
      if (!capture_knows(capture, children.items[k]))
        return 1;
    }
  }
  return 0;
}

/* Nobody new in a look at the whole tree since all stood that are known: 0. 1: try again later. */
static int try_stop(struct capture *capture, struct err *e)
{
  for (int others = 1;;) {
    int result = stop_pass(capture, e);

    if (result < 0)
      return -1;
    if (result == 2)
      return 1;
    if (result == 0 && others == 0 && (others = somebody_came(capture, e)) <= 0)
      return others < 0 ? -1 : somebody_is_on_the_way(capture, e);
    others = find_again(capture, e);
    if (others < 0)
      return -1;
  }
}

int capture_stop(struct capture *capture, struct err *e)
{
  clock_gettime(CLOCK_MONOTONIC, &capture->stopped);
  for (int i = 0; i < TRIES; i++) {
    int result = try_stop(capture, e);

    if (result == 0) {
      e->text[0] = '\0'; /* who was on the way has come */
      return 0;
    }
    freeze_again(capture);
    let_go(capture);
    if (result < 0)
      return -1;
    nanosleep(&(struct timespec){.tv_nsec = (i + 1) * 500000L}, NULL);
    clock_gettime(CLOCK_MONOTONIC, &capture->stopped);
    if (find_again(capture, e) < 0)
      return -1;
  }
  return e->text[0] ? -1
                    : err_set(e, "the tree does not come to rest: a process waits in vfork(2)");
}

int capture_end_remote(struct capture *capture, struct err *e)
{
  int result = 0;

  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];

    if (source->thread_count && tracee_end_remote(&source->threads[0], e) < 0)
      result = -1;
    for (size_t k = 1; k < source->thread_count; k++)
      source->threads[k].remote = NULL;
  }
  freeze_again(capture);
  return result;
}

int capture_resume(struct capture *capture, struct err *e)
{
  int result = capture_end_remote(capture, e);

  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];

    for (size_t k = 0; k < source->thread_count; k++) {
      if (tracee_detach(&source->threads[k], e) < 0)
        result = -1;
    }
    source->thread_count = 0;
  }
  return result;
}

/* Nobody runs again: each dies where it stands. The first of a pid namespace takes all along. */
void capture_kill(struct capture *capture)
{
  int status;

  for (size_t i = 0; i < capture->source_count; i++) {
    if (!capture->sources[i].zombie)
      kill(capture->sources[i].pid, SIGKILL);
  }
  if (capture->cgroup && cgroup_is_frozen(capture->cgroup))
    cgroup_freeze(capture->cgroup, false, &(struct err){""}); /* the frozen do not die */
  /* In whatever order they end: the last thread of a namespace's first process outlasts all. */
  while (waitpid(-1, &status, __WALL) > 0 || errno == EINTR)
    ;
  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];

    for (size_t k = 0; k < source->thread_count; k++)
      free(source->threads[k].xstate.data);
    source->thread_count = 0;
  }
}
