/*
 * Making the processes. Those whose parents are in the tree are forked by these, in remote system
 * calls; the others are made in root.c.
 */
#include "restore/rebuild.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

int call(struct tracee *tracee, struct err *e, const char *what, int64_t *result, long number,
         uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t f, uint64_t g)
{
  int64_t value;

  if (TRACEE_CALL(tracee, e, &value, number, a, b, c, d, f, g) < 0)
    return -1;
  if (value < 0 && value > -4096) {
    errno = (int)-value;
    return err_sys(e, "thread %d: %s", tracee->tid, what);
  }
  if (result)
    *result = value;
  return 0;
}

struct rebuilt *rebuilt_by_pid(const struct rebuild *rebuild, int32_t pid)
{
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    if (rebuild->processes[i].process->pid == pid)
      return &rebuild->processes[i];
  }
  return NULL;
}

static bool is_zombie(const struct rebuilt *which)
{
  return strcmp(which->process->state, "zombie") == 0;
}

/*
 * A fork by `parent`: a process with the given pid in the tree's namespace. Fills the tracee of the
 * child, which is stopped and has the remote mapping, too.
 */
static int remote_fork(struct rebuild *rebuild, struct tracee *parent, int32_t pid, int exit_signal,
                       struct tracee *child, struct err *e)
{
  if (rebuild_clone(rebuild, parent, 0, exit_signal, pid, e) < 0)
    return -1;
  *child = (struct tracee){.tid = parent->event_tid, .pid = parent->event_tid};
  if (tracee_wait_stop(child, 0, e) != 0)
    return err_prefix(e, "pid %d: was not forked", pid);
  return remote_adopt(child, rebuild->trampoline, REMOTE_SIZE, e);
}

static int remote_setsid(struct rebuilt *which, struct err *e)
{
  return call(&which->threads[0], e, "setsid", NULL, SYS_setsid, 0, 0, 0, 0, 0, 0);
}

/* Is this child to be forked before its parent starts its own session? */
static bool is_early(const struct rebuilt *child)
{
  const struct process *parent = child->parent->process;

  return parent->sid == parent->pid && child->process->sid != parent->sid &&
         child->process->sid != child->process->pid && child->parent->parent &&
         child->process->sid == child->parent->parent->process->sid;
}

static int fork_child(struct rebuild *rebuild, struct rebuilt *child, struct tracee *from,
                      struct err *e)
{
  struct tracee leader = {0};

  if (remote_fork(rebuild, from, child->process->pid, child->process->exit_signal, &leader, e) < 0)
    return -1;
  if (rebuild_new_leader(child, leader.tid, e) < 0)
    return -1;
  child->threads[0] = leader;
  return 0;
}

/* Forks the children that stay in the session that the parent leaves, then makes its own. */
int rebuild_part(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  if (which->parted)
    return 0;
  for (size_t i = 1; i < rebuild->tree.process_count; i++) {
    struct rebuilt *child = &rebuild->processes[i];

    if (child->parent == which && !child->forked && is_early(child) &&
        fork_child(rebuild, child, &which->threads[0], e) < 0)
      return -1;
  }
  which->parted = true;
  if (which->parent && which->process->sid == which->process->pid)
    return remote_setsid(which, e);
  return 0;
}

/* A process of the wanted session that exists or can be made without `child`. */
static struct rebuilt *session_member(struct rebuild *rebuild, const struct rebuilt *child)
{
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    struct rebuilt *other = &rebuild->processes[i];

    if (other < child && !is_zombie(other) && other->process->sid == child->process->sid)
      return other;
  }
  return NULL;
}

int32_t rebuild_unused_pid(const struct rebuild *rebuild)
{
  int32_t highest = 1;

  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    const struct process *process = &rebuild->tree.processes[i];

    highest = process->pid > highest ? process->pid : highest;
    highest = process->pgid > highest ? process->pgid : highest;
    highest = process->sid > highest ? process->sid : highest;
    for (size_t k = 0; k < process->thread_count; k++)
      highest = process->threads[k].tid > highest ? process->threads[k].tid : highest;
  }
  return highest + 1;
}

/* Waits until a traced process is gone, as far as its tracer is concerned. */
static void wait_gone(pid_t pid)
{
  int status;

  while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
    ;
}

/* Ends a short-lived process and lets its parent reap it: it was cloned without exit signal. */
static int end_helper(struct tracee *parent, struct tracee *helper, struct err *e)
{
  kill(helper->tid, SIGKILL);
  wait_gone(helper->tid);
  remote_free(helper->remote);
  free(helper->xstate.data);
  return call(parent, e, "wait4", NULL, SYS_wait4, (uint64_t)-1, 0, WNOHANG | __WCLONE, 0, 0, 0);
}

/*
 * An orphan: its session is not its parent's, because its parent became init when its own died. It
 * is forked by a short-lived process of that session, whose death gives it to init again.
 */
static int fork_orphan(struct rebuild *rebuild, struct rebuilt *child, struct err *e)
{
  struct rebuilt *root = &rebuild->processes[0];
  struct rebuilt *anchor = session_member(rebuild, child);
  struct tracee *from;
  struct tracee helper = {0};

  if (child->parent != root || !rebuild->tree.checkpoint.own_pidns)
    return err_set(e, "pid %d: its session %d cannot be made", child->process->pid,
                   child->process->sid);
  if (anchor && (rebuild_spawn(rebuild, anchor, e) < 0 || rebuild_part(rebuild, anchor, e) < 0))
    return -1;
  from = anchor ? &anchor->threads[0] : &root->threads[0];
  if (remote_fork(rebuild, from, anchor ? rebuild_unused_pid(rebuild) : child->process->sid, 0,
                  &helper, e) < 0)
    return -1;
  if (!anchor && call(&helper, e, "setsid", NULL, SYS_setsid, 0, 0, 0, 0, 0, 0) < 0)
    return -1;
  if (fork_child(rebuild, child, &helper, e) < 0)
    return -1;
  return end_helper(from, &helper, e);
}

/* A process that executed another program than its parent's does so again. */
static int execute(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  struct tracee *tracee = &which->threads[0];
  AUTO_CLOSE int exe = rebuild_program(rebuild, which->mm, e);
  uint64_t area = tracee_scratch(tracee);
  const uint64_t arguments[4] = {area + 24, 0, 0, 0}; /* argv: one empty string; then that string */
  uint64_t saved = rebuild->trampoline;
  int number;

  if (exe < 0 || rebuild_send(rebuild, tracee, &exe, 1, &number, e) < 0 ||
      tracee_write(tracee, area, arguments, sizeof(arguments), e) < 0 ||
      call(tracee, e, "execveat", NULL, SYS_execveat, (uint64_t)number, area + 24, area, area + 8,
           AT_EMPTY_PATH, 0) < 0)
    return err_prefix(e, "pid %d: program", which->process->pid);
  remote_free(tracee->remote);
  tracee->remote = NULL;
  tracee->diverted = false;
  if (tracee_save(tracee, e) < 0 || remote_begin_at(tracee, saved, e) < 0)
    return err_prefix(e, "pid %d", which->process->pid);
  return 0;
}

/*
 * Does it run its program already? A child runs its parent's. A container's first process runs the
 * bundle's; it may have executed another one since, perhaps one that the image brings along.
 */
static int has_program(const struct rebuild *rebuild, const struct rebuilt *which, struct err *e)
{
  const struct rebuilt *parent = which->parent;
  AUTO_CLOSE int exe = -1;
  struct stat now, wanted;
  char path[64];

  if (parent)
    return parent->mm && parent->mm->exe == which->mm->exe;
  exe = rebuild_program(rebuild, which->mm, e);
  if (exe < 0)
    return -1;
  snprintf(path, sizeof(path), "/proc/%d/exe", which->threads[0].pid);
  if (stat(path, &now) < 0 || fstat(exe, &wanted) < 0)
    return err_sys(e, "%s", path);
  return now.st_dev == wanted.st_dev && now.st_ino == wanted.st_ino;
}

int rebuild_spawn(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  struct rebuilt *parent = which->parent;
  const struct process *process = which->process;
  int result;

  if (!which->forked && !parent)
    return rebuild_enter(rebuild, which, e);
  if (!which->forked) {
    /* A parent's pages are complete before its first child's come: they are there to inherit. */
    if (rebuild_spawn(rebuild, parent, e) < 0 || rebuild_layout(rebuild, parent, e) < 0 ||
        rebuild_part(rebuild, parent, e) < 0)
      return -1;
  }
  if (!which->forked) { /* it may have been among the early ones */
    if (process->sid == process->pid || process->sid == parent->process->sid)
      result = fork_child(rebuild, which, &parent->threads[0], e);
    else
      result = fork_orphan(rebuild, which, e);
    if (result < 0)
      return -1;
  }
  if (is_zombie(which) || which->executed || which->mm->parent) {
    which->executed = true;
    return 0;
  }
  which->executed = true;
  result = has_program(rebuild, which, e);
  return result == 0 ? execute(rebuild, which, e) : result < 0 ? -1 : 0;
}

static int join_group(struct rebuilt *which, struct err *e)
{
  int32_t pgid = which->process->pgid;

  return call(&which->threads[0], e, "setpgid", NULL, SYS_setpgid, 0, (uint64_t)pgid, 0, 0, 0, 0);
}

/* A group whose leader is dead: a short-lived process with its pid leads it until all have joined.
 */
static int make_orphaned_group(struct rebuild *rebuild, struct rebuilt *first, struct err *e)
{
  struct tracee *parent = &first->threads[0];
  struct tracee helper = {0};

  if (remote_fork(rebuild, parent, first->process->pgid, 0, &helper, e) < 0 ||
      call(&helper, e, "setpgid", NULL, SYS_setpgid, 0, 0, 0, 0, 0, 0) < 0)
    return -1;
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    struct rebuilt *which = &rebuild->processes[i];

    if (which->process->pgid == first->process->pgid &&
        which->process->sid == first->process->sid) {
      if (join_group(which, e) < 0)
        return -1;
      which->grouped = true;
    }
  }
  return end_helper(parent, &helper, e);
}

int rebuild_groups(struct rebuild *rebuild, struct err *e)
{
  const struct process *root = rebuild->processes[0].process;

  for (size_t i = 0; i < rebuild->tree.process_count; i++) { /* leaders */
    struct rebuilt *which = &rebuild->processes[i];
    const struct process *process = which->process;

    /*
     * A group from outside the tree is as the parent has it; setsid(2) made a group, too, in which
     * who is of a dead leader's session still is.
     */
    if (process->pgid == 0 || (process->pgid == root->pgid && root->pgid != root->pid) ||
        process->sid == process->pid ||
        (process->pgid == process->sid && !rebuilt_by_pid(rebuild, process->sid))) {
      which->grouped = true;
    } else if (process->pgid == process->pid) {
      if (join_group(which, e) < 0)
        return -1;
      which->grouped = true;
    }
  }
  for (size_t i = 0; i < rebuild->tree.process_count; i++) { /* members */
    struct rebuilt *which = &rebuild->processes[i];

    if (which->grouped)
      continue;
    if (rebuilt_by_pid(rebuild, which->process->pgid) ? join_group(which, e) < 0
                                                      : make_orphaned_group(rebuild, which, e) < 0)
      return -1;
  }
  return 0;
}

/* The process dies as it did: by exit status or by signal. Then it is its parent's to reap. */
int rebuild_zombies(struct rebuild *rebuild, struct err *e)
{
  for (size_t i = 1; i < rebuild->tree.process_count; i++) {
    struct rebuilt *which = &rebuild->processes[i];
    struct tracee *leader = which->threads;
    int code = which->process->exit_code;

    if (!is_zombie(which))
      continue;
    if (tracee_die(leader, code, e) < 0)
      return -1;
    which->thread_count = 0;
  }
  return 0;
}

/* Others may have to be reaped first: threads that nobody else knows. */
void rebuild_reap(pid_t pid)
{
  for (;;) {
    int status;
    pid_t got = waitpid(pid, &status, __WALL | WNOHANG);

    if (got == 0)
      got = waitpid(-1, &status, __WALL);
    if (got < 0 && errno != EINTR)
      return;
    if (got == pid && !WIFSTOPPED(status))
      return;
  }
}

void rebuild_kill(struct rebuild *rebuild)
{
  numbers_end(rebuild);
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    struct rebuilt *which = &rebuild->processes[i];

    if (which->forked && which->thread_count)
      kill(which->threads[0].pid, SIGKILL);
  }
  rebuild_pause(rebuild, false, &(struct err){""}); /* the frozen do not die */
  for (size_t i = rebuild->tree.process_count; i-- > 0;) {
    struct rebuilt *which = &rebuild->processes[i];

    for (size_t k = which->thread_count; which->forked && k-- > 0;)
      rebuild_reap(which->threads[k].tid);
  }
  guard_end(&rebuild->guard, false);
}
