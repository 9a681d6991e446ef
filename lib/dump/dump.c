/* The order of capture. */
#include "dump/dump.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "dump/capture.h"
#include "stream/stats.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

/* While the tree still runs it may have forked since it was found: then a parent is in it. */
static bool in_tree(const struct object_dump *dump, pid_t pid)
{
  struct proc_stat stat;
  struct err ignored;

  while (capture_number(dump->context, pid) == 0) {
    if (proc_stat_read(pid, &stat, &ignored) != 0)
      return true; /* it is gone: it has nothing open any more */
    if (stat.ppid <= 1)
      return false;
    pid = stat.ppid;
  }
  return true;
}

static int capture_init(struct capture *capture, const struct dump_options *options, struct err *e)
{
  struct rlimit limit;

  *capture = (struct capture){
      .options = options,
      .obstacles = json_array(),
      .objects = {.tcp_close = options->tcp_close,
                  .in_tree = in_tree,
                  .context = capture,
                  .shared = json_object()},
  };
  if (!capture->obstacles || !capture->objects.shared)
    return err_set(e, "out of memory");
  /* One descriptor of ours for each description of the tree. */
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  return 0;
}

static void capture_free(struct capture *capture)
{
  capture_forget_sources(capture);
  for (size_t i = 0; i < capture->known_count; i++)
    cleanup_close(&capture->known[i].local);
  free(capture->known);
  tree_free(&capture->tree);
  json_decref(capture->obstacles);
  json_decref(capture->objects.shared);
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

static int write_state(const struct capture *capture, struct stream_writer *writer, struct err *e)
{
  const struct tree *tree = &capture->tree;

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
  return 0;
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

/* The stream, whole. The reader sees its end when out_fd is closed. */
static int write_stream(struct capture *capture, struct stream_writer *writer, int out_fd,
                        struct err *e)
{
  if (write_state(capture, writer, e) < 0 || capture_pages(capture, writer, e) < 0 ||
      stream_write_end(writer, e) < 0)
    return -1;
  return close(out_fd) < 0 ? err_sys(e, "write") : 0;
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

struct outcome {
  double pause;
  uint64_t stream_bytes;
};

/*
 * While something of ours is in the tree we do not let ourselves be ended. While pages are copied
 * there is nothing: then the kernel lets all run on as they were if we die.
 */
static void hold_signals(sigset_t *before)
{
  sigset_t set;

  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  sigprocmask(SIG_BLOCK, &set, before);
}

/* Stops the tree and asks it everything. */
static int take_state(struct capture *capture, struct err *e)
{
  sigset_t before;
  int result;

  hold_signals(&before);
  result = capture_stop(capture, e);
  if (result == 0) {
    struct err late = {""};

    result = capture_state(capture, e);
    if (capture_end_remote(capture, &late) < 0 && result == 0) {
      *e = late;
      result = -1;
    }
    if (result < 0)
      capture_resume(capture, &late);
  }
  sigprocmask(SIG_SETMASK, &before, NULL);
  return result;
}

/* From the stop to the tree's fate. */
static int take(struct capture *capture, int out_fd, struct outcome *outcome, struct err *e)
{
  const struct dump_options *options = capture->options;
  struct stream_writer *writer = open_writer(options, out_fd, e);
  int committed = -1;

  if (!writer)
    return -1;
  if (take_state(capture, e) < 0) {
    stream_writer_free(writer);
    return -1;
  }
  if (write_stream(capture, writer, out_fd, e) == 0)
    committed = wait_commit(options->commit_fd, e);
  if (committed == 1 && !options->leave_running) {
    capture_kill(capture);
  } else {
    struct err late = {""};

    if (capture_resume(capture, &late) < 0 && committed >= 0) {
      *e = late;
      committed = -1;
    }
  }
  outcome->pause = since(&capture->stopped);
  outcome->stream_bytes = stream_writer_totals(writer).bytes;
  stream_writer_free(writer);
  return committed < 0 ? -1 : 0;
}

int dump_run(const struct dump_options *options, int out_fd, struct err *e)
{
  CLEANUP(capture_free) struct capture capture;
  struct stats_clock clock = stats_start();
  struct outcome outcome = {0};

  if (capture_init(&capture, options, e) < 0 || capture_find(&capture, e) < 0 ||
      capture_check(&capture, e) < 0)
    return -1;
  if (json_array_size(capture.obstacles))
    return refuse(&capture, e);
  json_object_clear(capture.objects.shared);
  if (take(&capture, out_fd, &outcome, e) < 0)
    return -1;
  return stats_write(options->stats_fd, "ckpt-load", &clock, capture.memory_bytes,
                     outcome.stream_bytes,
                     json_pack("{s:f, s:I}", "pause_seconds", outcome.pause, "memory_bytes",
                               (json_int_t)capture.memory_bytes),
                     e);
}

int dump_check(const struct dump_options *options, FILE *out, bool json, size_t *count,
               struct err *e)
{
  CLEANUP(capture_free) struct capture capture;

  if (capture_init(&capture, options, e) < 0 || capture_find(&capture, e) < 0 ||
      capture_check(&capture, e) < 0)
    return -1;
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
