#include "dump/keeper.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "dump/headroom.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  WATCH_MS = 5,
  REAP_PATIENCE_MS = 2000,
  LOW_MEMORY = 48 << 20, /* bytes; what a hard writer may take between two looks, and more */
};

struct record {
  pid_t pid, snapshot;
  int32_t number;
};

struct watch {
  struct capture *capture;
  struct headroom_places places;
  uint64_t low; /* bytes of headroom at which the tree is stopped */
  bool holding; /* the whole tree is stopped by us */
  struct record *records;
  size_t count;
};

static uint64_t now_ms(void)
{
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Pages that the tree writes now are copied, at the cost of its memory: better that it waits. */
static void look_at_memory(struct watch *watch)
{
  struct headroom headroom;
  struct err e = {""};

  if (watch->holding || headroom_read(&watch->places, &headroom, &e) < 0 ||
      headroom.memory > watch->low)
    return;
  if (capture_stop(watch->capture, &e) < 0)
    return;
  watch->holding = true;
  warn_user("the tree's memory runs out: it stands still while the rest is copied");
}

/* Waits for what we are told until our parent is done, or dead. */
static void listen_to(struct watch *watch, int pipe)
{
  for (;;) {
    struct pollfd fd = {.fd = pipe, .events = POLLIN};
    int ready = poll(&fd, 1, watch->count && !watch->holding ? WATCH_MS : -1);
    struct record record;
    struct record *added;

    if (ready < 0 && errno != EINTR)
      return;
    if (ready == 0)
      look_at_memory(watch);
    if (ready <= 0)
      continue;
    if (io_read(pipe, &record, sizeof(record)) != sizeof(record))
      return;
    added = list_append(&watch->records, &watch->count, sizeof(*added));
    if (added)
      *added = record;
  }
}

/* 1: it is gone. */
static int stop_thread(pid_t pid, pid_t tid, struct tracee *tracee, struct err *e)
{
  int result = tracee_seize(tracee, pid, tid, e);

  if (result == 0)
    result = tracee_wait_stop(tracee, now_ms() + REAP_PATIENCE_MS, e);
  return result == 2 ? err_set(e, "pid %d: does not stop", pid) : result;
}

/* One thread of the process, the first if it lives, stopped; 1 when the process is gone. */
static int stop_one(pid_t pid, struct tracee *tracee, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list threads = {0};
  int result = stop_thread(pid, pid, tracee, e);

  if (result == 1 && proc_threads(pid, &threads, e) < 0)
    return -1;
  for (size_t i = 0; i < threads.count && result == 1; i++)
    result = stop_thread(pid, threads.items[i], tracee, e);
  return result;
}

/* The target's own wait for its child, made in its place. */
static int reap_by(struct tracee *tracee, int32_t number, struct err *e)
{
  struct err late = {""};
  int result;

  if (tracee_begin_remote(tracee, e) < 0)
    return -1;
  result = tracee_reap(tracee, number, e);
  return tracee_end_remote(tracee, result < 0 ? &late : e) < 0 ? -1 : result;
}

static int reap(struct watch *watch, const struct record *record, struct err *e)
{
  struct tracee tracee = {0};
  struct err late = {""};
  int result;

  if (watch->holding) {
    for (size_t i = 0; i < watch->capture->source_count; i++) {
      struct source *source = &watch->capture->sources[i];

      if (source->pid == record->pid && source->thread_count)
        return reap_by(&source->threads[0], record->number, e);
    }
    return 0;
  }
  result = stop_one(record->pid, &tracee, e);
  if (result == 0)
    result = reap_by(&tracee, record->number, e);
  tracee_detach(&tracee, &late);
  return result < 0 ? -1 : 0;
}

/* If our parent was killed the snapshot dies with it; then it takes a moment. */
static void wait_dead(const struct record *record)
{
  AUTO_CLOSE int pidfd = pidfd_open(record->snapshot, 0);
  struct pollfd fd = {.fd = pidfd, .events = POLLIN};

  if (pidfd >= 0)
    poll(&fd, 1, REAP_PATIENCE_MS);
}

static _Noreturn void keep(struct capture *capture, int pipe)
{
  uint64_t bytes = snapshot_need(capture).bytes;
  struct watch watch = {.capture = capture, .low = bytes < LOW_MEMORY ? bytes : LOW_MEMORY};
  struct err e = {""};
  bool failed = false;

  for (int i = 1; i < NSIG; i++)
    signal(i, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
  if (headroom_find(capture->options->pid, &watch.places, &e) < 0)
    warn_user("the tree's memory is not watched: %s", e.text);
  listen_to(&watch, pipe);
  for (size_t i = 0; i < watch.count; i++) {
    wait_dead(&watch.records[i]);
    if (reap(&watch, &watch.records[i], &e) < 0) {
      warn_user("a dead snapshot stays behind: %s", e.text);
      failed = true;
    }
  }
  if (watch.holding)
    capture_resume(capture, &e);
  _exit(failed);
}

int keeper_start(struct keeper *keeper, struct capture *capture, struct err *e)
{
  int ends[2];
  pid_t pid;

  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  pid = fork();
  if (pid == 0) {
    /* The stream's reader must see its end when we close it: it is not open here. */
    if (dup2(ends[0], 0) < 0 || dup2(2, 1) < 0)
      _exit(1);
    syscall(SYS_close_range, 3, ~0U, 0);
    keep(capture, 0);
  }
  close(ends[0]);
  if (pid < 0) {
    close(ends[1]);
    return err_sys(e, "fork");
  }
  *keeper = (struct keeper){pid, ends[1]};
  return 0;
}

int keeper_note(const struct keeper *keeper, pid_t pid, pid_t snapshot, int32_t number,
                struct err *e)
{
  const struct record record = {pid, snapshot, number};

  return io_write(keeper->pipe, &record, sizeof(record)) < 0 ? err_sys(e, "pipe") : 0;
}

void keeper_finish(struct keeper *keeper)
{
  if (keeper->pid == 0)
    return;
  close(keeper->pipe);
  while (waitpid(keeper->pid, NULL, 0) < 0 && errno == EINTR)
    ;
  keeper->pid = 0;
}
