/* The order of capture. */
#include "dump/dump.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/policy.h"
#include "container/cgroup.h"
#include "dump/capture.h"
#include "dump/keeper.h"
#include "proc/join.h"
#include "stream/stats.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <time.h>

/* While the tree still runs it may have forked since it was found: then a parent is in it. */
static bool in_tree(const struct object_dump *dump, pid_t pid)
{
  struct proc_stat stat;
  struct err ignored;

  while (!capture_knows(dump->context, pid)) {
    if (proc_stat_read(pid, &stat, &ignored) != 0)
      return true; /* it is gone: it has nothing open any more */
    if (stat.ppid <= 1)
      return false;
    pid = stat.ppid;
  }
  return true;
}

/* The process's own terminal is known by its number only (new_encode_dev in the kernel). */
static bool is_its_terminal(const struct object_source *source, const struct stat *stream)
{
  struct proc_stat stat;
  struct err ignored;
  unsigned tty;

  if (!object_is_dev_tty(&source->stat) || proc_stat_read(source->pid, &stat, &ignored) != 0)
    return false;
  tty = (unsigned)stat.tty;
  return S_ISCHR(stream->st_mode) &&
         stream->st_rdev == makedev(tty >> 8 & 0xfff, (tty & 0xff) | (tty >> 12 & 0xfff00));
}

/* Those of the root and of who entered a container later: their parents are outside. */
static int stream_of(const struct object_dump *dump, const struct object_source *wanted,
                     bool *entered)
{
  const struct capture *capture = dump->context;

  for (size_t i = 0; i < capture->source_count && capture->options->runtime; i++) {
    if (capture->sources[i].parent)
      continue;
    for (int fd = 0; fd < 3; fd++) {
      char path[48];
      struct stat found;

      snprintf(path, sizeof(path), "/proc/%d/fd/%d", capture->sources[i].pid, fd);
      if (stat(path, &found) < 0 ||
          ((found.st_dev != wanted->stat.st_dev || found.st_ino != wanted->stat.st_ino) &&
           !is_its_terminal(wanted, &found)))
        continue;
      if (entered)
        *entered = i > 0;
      return fd;
    }
  }
  return -1;
}

static int32_t number_of(const struct object_dump *dump, pid_t pid)
{
  return capture_number(dump->context, pid);
}

/*
 * What the kernel shows as a path counts from the root of the mount namespace: that is the root
 * process's as a rule. A plain tree's that has another one (chroot) is in ours, or a copy of it.
 */
static int open_root(struct capture *capture, struct err *e)
{
  const struct dump_options *options = capture->options;
  char link[PATH_MAX];
  char path[64];
  bool changed;

  if (proc_link(options->pid, "root", link, sizeof(link), e) != 0)
    return options->runtime ? err_prefix(e, "root directory")
                            : 0; /* it will be told what is wrong */
  changed = strcmp(link, "/") != 0;
  if (changed && options->runtime)
    return err_set(e,
                   "pid %d: the container's init has changed its root directory (chroot): cannot "
                   "be checkpointed",
                   options->pid);
  snprintf(path, sizeof(path), "/proc/%d/root", options->pid);
  capture->root = open(changed ? "/" : path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return capture->root < 0 && options->runtime ? err_sys(e, "%s", path) : 0;
}

static int capture_init(struct capture *capture, const struct dump_options *options, struct err *e)
{
  struct rlimit limit;

  *capture = (struct capture){
      .options = options,
      .root = -1,
      .obstacles = json_array(),
      .objects = {.tcp_close = options->tcp_close,
                  .in_tree = in_tree,
                  .stream = stream_of,
                  .number = number_of,
                  .context = capture,
                  .outsiders = json_object(),
                  .shared = json_object()},
  };
  if (!capture->obstacles || !capture->objects.outsiders || !capture->objects.shared)
    return err_set(e, "out of memory");
  /* One descriptor of ours for each description of the tree. */
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  if (options->runtime && join_owner(options->pid, e) < 0)
    return -1;
  if (proc_idmap_read(options->pid, "uid_map", &capture->uids, e) != 0 ||
      proc_idmap_read(options->pid, "gid_map", &capture->gids, e) != 0)
    return err_set(e, "pid %d: no such process", options->pid);
  if (open_root(capture, e) < 0)
    return -1;
  return options->runtime ? cgroup_find(options->pid, &capture->cgroup, e) : 0;
}

static void capture_free(struct capture *capture)
{
  capture_forget_sources(capture);
  for (size_t i = 0; i < capture->known_count; i++)
    cleanup_close(&capture->known[i].local);
  free(capture->known);
  free(capture->descriptions);
  cleanup_close(&capture->root);
  mapped_free(capture);
  free(capture->cgroup);
  tree_free(&capture->tree);
  json_decref(capture->obstacles);
  json_decref(capture->objects.outsiders);
  json_decref(capture->objects.shared);
  json_decref(capture->prepared);
}

/* All obstacles in one error: the first as the message, the others below it. */
static int refuse(const struct capture *capture, struct err *e)
{
  size_t used = 0;

  for (size_t i = 0; i < json_array_size(capture->obstacles); i++) {
    const json_t *obstacle = json_array_get(capture->obstacles, i);
    int n = snprintf(e->text + used, sizeof(e->text) - used, "%spid %d %s: %s", i ? "\n  " : "",
                     (int)json_integer_value(json_object_get(obstacle, "pid")),
                     json_string_value(json_object_get(obstacle, "object")),
                     json_string_value(json_object_get(obstacle, "reason")));

    if (n < 0 || (size_t)n >= sizeof(e->text) - used)
      break;
    used += (size_t)n;
  }
  return -1;
}

static struct stream_writer *open_writer(const struct dump_options *options, int out_fd,
                                         struct err *e)
{
  struct stream_header header = {
      .version = STREAM_VERSION,
      .page_size = PAGE_SIZE_X86,
      .machine = EM_X86_64,
  };
  struct stream_writer *writer;

  if (getrandom(header.image_id, sizeof(header.image_id), 0) != sizeof(header.image_id)) {
    err_sys(e, "image id");
    return NULL;
  }
  writer = stream_writer_new(out_fd, &header, e);
  if (writer && options->splice)
    stream_writer_trust_reader(writer);
  return writer;
}

/* Is the image safe? 1 yes; 0 nobody was to say; -1 no. */
static int wait_commit(int commit_fd, struct err *e)
{
  char byte;

  if (commit_fd < 0)
    return 0;
  if (io_read(commit_fd, &byte, 1) != 1)
    return err_set(e, "the checkpoint was not committed; the tree runs on");
  return 1;
}

static double since(const struct timespec *start)
{
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/*
 * While something of ours is in the tree we do not let ourselves be ended. While pages are copied
 * there is nothing: then the kernel lets all run on as they were if we die.
 */
static void hold_signals(sigset_t *before)
{
  sigset_t set;

  sigfillset(&set);
  sigprocmask(SIG_BLOCK, &set, before);
}

/* The tree as it was captured, on its way. */
struct taking {
  struct capture *capture;
  struct stream_writer *writer;
  struct keeper keeper; /* when there are to be snapshots */
  struct policy before; /* we hurried */
  double pause;
};

/* While it stands: copies on write, and what they lack. Without them, 1: it stands for longer. */
static int take_snapshots(struct taking *taking, struct err *e)
{
  struct capture *capture = taking->capture;
  struct err why = {""};
  int result;

  if (taking->keeper.pid == 0 || capture->thaw.pid)
    return 1; /* one that is to be frozen again loses nothing; its copies would be frozen, too */
  if (snapshot_take(capture, &taking->keeper, &why) == 0) {
    if (capture_memory(capture, false, e) < 0 ||
        (capture->copied && capture_inherited(capture, e) < 0))
      return -1;
    result = capture_hold(capture, taking->writer, e);
    if (result <= 0)
      return result;
    err_set(&why, "more memory than we hold is marked as not to be forked");
  }
  if (capture->options->snapshot == SNAPSHOT_FORK)
    return err_set(e, "%s", why.text);
  warn_user("the tree stands still while it is copied: %s", why.text);
  snapshot_drop(capture);
  capture_forget_held(capture);
  capture->memory_bytes = 0;
  return 1;
}

/* Stops the tree and asks it everything. 0 with snapshots, 1 without. */
static int take_state(struct taking *taking, struct err *e)
{
  struct capture *capture = taking->capture;
  struct err late = {""};
  sigset_t before;
  int result;

  hold_signals(&before);
  result = capture_stop(capture, e);
  if (result == 0) {
    result = capture_state(capture, e);
    if (result == 0)
      result = take_snapshots(taking, e);
    if (result == 1 && capture_memory(capture, false, e) < 0)
      result = -1;
    if (capture_end_remote(capture, &late) < 0 && result >= 0) {
      *e = late;
      result = -1;
    }
    if (result < 0)
      capture_resume(capture, &late);
  }
  sigprocmask(SIG_SETMASK, &before, NULL);
  return result;
}

static int resume(struct taking *taking, struct err *e)
{
  int result = capture_resume(taking->capture, e);

  taking->pause = since(&taking->capture->stopped);
  return result;
}

static bool has_objects(const struct tree *tree)
{
  for (size_t i = 0; i < tree->file_count; i++) {
    if (tree->files[i].space)
      return true;
  }
  return false;
}

/*
 * The stream, whole; its reader sees its end when out_fd is closed. With snapshots the tree runs on
 * as soon as what is shared is written: of that there is no copy.
 */
static int write_stream(struct taking *taking, bool snapshots, int out_fd, struct err *e)
{
  struct capture *capture = taking->capture;
  bool early = snapshots && !has_objects(&capture->tree);

  if (early && resume(taking, e) < 0)
    return -1;
  policy_calm(&taking->before);
  policy_batch();
  if (capture_memory(capture, true, e) < 0 ||
      (!capture->copied && capture_inherited(capture, e) < 0))
    return -1;
  if (capture_write_state(capture, taking->writer, e) < 0 ||
      capture_objects(capture, taking->writer, e) < 0)
    return -1;
  if (snapshots && !early && resume(taking, e) < 0)
    return -1;
  if (capture_pages(capture, taking->writer, e) < 0 || stream_write_end(taking->writer, e) < 0)
    return -1;
  return close(out_fd) < 0 ? err_sys(e, "write") : 0;
}

/*
 * Memory that the kernel has yet to find is slow to come: what a tree of this size needs while it
 * stands we have touched before, and keep.
 */
static void warm_memory(const struct taking *taking)
{
  enum { PROCESS_BYTES = 64 << 10, THREAD_BYTES = 8 << 10 };
  const struct capture *capture = taking->capture;
  size_t size = PROCESS_BYTES; /* of what is the tree's */
  void *memory;

  for (size_t i = 0; i < capture->source_count; i++)
    size += PROCESS_BYTES + capture->sources[i].status.threads * (size_t)THREAD_BYTES;
  if (taking->keeper.pid)
    size += snapshot_need(capture).small;
  mallopt(M_MMAP_THRESHOLD, INT_MAX);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  memory = malloc(size);
  if (memory)
    explicit_bzero(memory, size);
  free(memory);
}

/* From the stop to the tree's fate. */
static int take(struct taking *taking, int out_fd, struct err *e)
{
  const struct dump_options *options = taking->capture->options;
  struct err late = {""};
  int committed = -1;
  int result;

  warm_memory(taking);
  policy_hurry(&taking->before);
  result = take_state(taking, e);

  if (result < 0) {
    snapshot_drop(taking->capture);
    keeper_finish(&taking->keeper);
    return -1;
  }
  if (write_stream(taking, result == 0, out_fd, e) == 0)
    committed = 0;
  snapshot_drop(taking->capture);
  keeper_finish(&taking->keeper);
  if (committed == 0)
    committed = wait_commit(options->commit_fd, e);
  if (committed == 1 && !options->leave_running) {
    capture_kill(taking->capture);
    taking->pause = since(&taking->capture->stopped);
  } else if (taking->pause == 0 && resume(taking, &late) < 0 && committed >= 0) {
    *e = late;
    committed = -1;
  }
  return committed < 0 ? -1 : 0;
}

static int report(const struct taking *taking, const struct stats_clock *clock, uint64_t bytes,
                  struct err *e)
{
  uint64_t memory = taking->capture->memory_bytes;

  return stats_write(
      taking->capture->options->stats_fd, "ckpt-load", clock, memory, bytes,
      json_pack("{s:f, s:I}", "pause_seconds", taking->pause, "memory_bytes", (json_int_t)memory),
      e);
}

/* Whatever failed, it did so because there was nothing left to look at. */
static int explain(const struct dump_options *options, struct err *e)
{
  char program[PATH_MAX];

  /* Memory, and with it the program, is the first that a process loses on its way out. */
  if (proc_link(options->pid, "exe", program, sizeof(program), &(struct err){""}) != 1)
    return -1;
  if (options->runtime)
    return err_prefix(e, "the container has ended");
  return options->id ? err_prefix(e, "its first process has ended") : -1;
}

int dump_run(const struct dump_options *options, int out_fd, struct err *e)
{
  CLEANUP(capture_free) struct capture capture;
  struct stats_clock clock = stats_start();
  struct taking taking = {.capture = &capture};
  struct stream_totals totals;
  int result;

  if (capture_init(&capture, options, e) < 0 || capture_find(&capture, e) < 0 ||
      capture_check(&capture, e) < 0)
    return explain(options, e);
  if (json_array_size(capture.obstacles))
    return refuse(&capture, e);
  json_object_clear(capture.objects.shared);
  taking.writer = open_writer(options, out_fd, e);
  if (!taking.writer)
    return -1;
  if (snapshot_fits(&capture) && keeper_start(&taking.keeper, &capture, e) < 0)
    result = -1;
  else
    result = take(&taking, out_fd, e);
  totals = stream_writer_totals(taking.writer);
  stream_writer_free(taking.writer);
  return result < 0 ? explain(options, e) : report(&taking, &clock, totals.bytes, e);
}

int dump_check(const struct dump_options *options, FILE *out, bool json, size_t *count,
               struct err *e)
{
  CLEANUP(capture_free) struct capture capture;

  if (capture_init(&capture, options, e) < 0 || capture_find(&capture, e) < 0 ||
      capture_check(&capture, e) < 0)
    return explain(options, e);
  *count = json_array_size(capture.obstacles);
  if (json) {
    json_dumpf(capture.obstacles, out, JSON_INDENT(2));
    fprintf(out, "\n");
  }
  for (size_t i = 0; !json && i < *count; i++) {
    const json_t *obstacle = json_array_get(capture.obstacles, i);

    fprintf(out, "pid %d %s: %s\n", (int)json_integer_value(json_object_get(obstacle, "pid")),
            json_string_value(json_object_get(obstacle, "object")),
            json_string_value(json_object_get(obstacle, "reason")));
  }
  return fflush(out) == 0 ? 0 : err_sys(e, "write");
}
