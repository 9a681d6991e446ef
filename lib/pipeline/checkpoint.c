#include "base/cleanup.h"
#include "base/io.h"
#include "container/container.h"
#include "image/image.h"
#include "pipeline/orchestrate.h"
#include "pipeline/pipeline.h"
#include "pipeline/summary.h"
#include "stream/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char *const stage_names[] = {"ckpt-load", "ckpt-scan-zero", "ckpt-compress",
                                          "ckpt-write-direct", NULL};

/* Directories that we make, so that they can be taken away again. */
struct directories {
  char path[PATH_MAX];
  size_t made_from; /* the path up to here was there before; 0: all of it */
  bool made;
};

static int make_directories(struct directories *directories, const char *path, struct err *e)
{
  size_t length = strlen(path);

  if (length == 0 || length >= sizeof(directories->path)) {
    errno = length ? ENAMETOOLONG : ENOENT;
    return err_sys(e, "%s", path);
  }
  strcpy(directories->path, path);
  for (size_t i = 1; i <= length; i++) {
    char saved = directories->path[i];

    if (saved != '/' && saved != '\0')
      continue;
    directories->path[i] = '\0';
    if (mkdir(directories->path, 0755) == 0) {
      if (!directories->made)
        directories->made_from = i;
      directories->made = true;
    } else if (errno != EEXIST) {
      return err_sys(e, "%s", directories->path);
    }
    directories->path[i] = saved;
  }
  return 0;
}

/* Takes away what we made and nobody has filled. */
static void remove_directories(struct directories *directories)
{
  size_t length = strlen(directories->path);

  for (size_t i = length; directories->made && i >= directories->made_from; i--) {
    if (directories->path[i] != '/' && directories->path[i] != '\0')
      continue;
    directories->path[i] = '\0';
    if (rmdir(directories->path) < 0 && errno != ENOENT)
      return;
  }
}

static void add_load(struct pipeline *pipeline, const struct checkpoint_options *options,
                     const char *pid, int commit, int stats)
{
  struct stage *load = pipeline_add(pipeline, "ckpt-load", &options->swaps);

  if (options->registry) {
    stage_word(load, "--root");
    stage_word(load, options->registry);
  }
  if (options->tcp_close)
    stage_word(load, "--tcp-close");
  if (options->archive_rootfs)
    stage_word(load, "--archive-rootfs-changes");
  if (options->leave_running)
    stage_word(load, "--leave-running");
  if (options->snapshot) {
    stage_word(load, "--snapshot");
    stage_word(load, options->snapshot);
  }
  if (options->pid) {
    stage_word(load, "--pid");
    stage_word(load, pid);
  } else {
    stage_word(load, options->id);
  }
  stage_pass(load, "--commit-fd", commit);
  stage_pass(load, "--stats-fd", stats);
}

static void add_stages(struct pipeline *pipeline, const struct checkpoint_options *options,
                       const char *pid, int commit, int stats)
{
  struct stage *stage;

  add_load(pipeline, options, pid, commit, stats);
  if (options->exclude_zero)
    stage_pass(pipeline_add(pipeline, "ckpt-scan-zero", &options->swaps), "--stats-fd", stats);
  if (strcmp(options->compression, "none") != 0) {
    stage = pipeline_add(pipeline, "ckpt-compress", &options->swaps);
    stage_word(stage, "--algorithm");
    stage_word(stage, options->compression);
    stage_pass(stage, "--stats-fd", stats);
  }
  stage = pipeline_add(pipeline, "ckpt-write-direct", &options->swaps);
  stage_word(stage, "--image-path");
  stage_word(stage, options->image_path);
  if (options->direct)
    stage_word(stage, "--direct");
  stage_pass(stage, "--stats-fd", stats);
}

/* The image is safe: now the tree may go. A cancel comes too late from here on. */
static int commit_tree(struct pipeline *pipeline, int *commit, struct err *e)
{
  if (io_write(*commit, "", 1) < 0)
    return err_sys(e, "commit");
  cleanup_close(commit);
  *commit = -1;
  pipeline->canceled[0] = '\0';
  for (;;) {
    int result = pipeline_wait(pipeline, 0, e);

    if (result != 2)
      return result == 0 ? 0 : pipeline_cause(pipeline, e);
    pipeline->canceled[0] = '\0';
  }
}

static int run_pipeline(struct pipeline *pipeline, const struct checkpoint_options *options,
                        int commit_reader, int commit_writer, struct err *e)
{
  AUTO_CLOSE int commit = commit_writer;
  int result;

  signal(SIGPIPE, SIG_IGN);
  if (pipeline_start(pipeline, options->deadline, e) < 0)
    return -1;
  close(commit_reader);
  result = pipeline_wait(pipeline, 1, e);
  if (result == 0)
    return commit_tree(pipeline, &commit, e);
  /* Without the byte the tree runs on. */
  cleanup_close(&commit);
  commit = -1;
  pipeline_stop(pipeline);
  return pipeline_cause(pipeline, e);
}

static int checkpoint(const struct checkpoint_options *options, const char *pid, struct err *e)
{
  struct pipeline pipeline = {.signals = -1, .deadline = -1};
  struct summary summary = {-1, -1};
  struct directories directories = {0};
  struct stats_clock clock = stats_start();
  int commit[2];
  int result;

  if (make_directories(&directories, options->image_path, e) < 0)
    return err_prefix(e, "making directories at path provided");
  if (pipe2(commit, O_CLOEXEC) < 0 || (options->stats && summary_open(&summary, e) < 0))
    return err_sys(e, "pipe");
  add_stages(&pipeline, options, pid, commit[0], summary.writer);
  result = run_pipeline(&pipeline, options, commit[0], commit[1], e);
  if (result < 0) {
    image_abandon(options->image_path);
    remove_directories(&directories);
    err_prefix(e, "checkpoint failed");
  } else {
    pipeline_warnings(&pipeline);
  }
  if (result == 0 && options->stats)
    result = summary_print(&summary, stage_names, strcmp(options->stats, "json") == 0,
                           stats_seconds(&clock), stdout, e);
  summary_close(&summary);
  pipeline_close(&pipeline);
  return result;
}

/* ckpt-load itself lists what stands against it: its output and status are ours. */
static int check(const struct checkpoint_options *options, const char *pid, struct err *e)
{
  struct pipeline pipeline = {.signals = -1, .deadline = -1};
  struct stage *load;
  int result;

  add_load(&pipeline, options, pid, -1, -1);
  load = &pipeline.stages[0];
  stage_word(load, "--check");
  if (options->json)
    stage_word(load, "--json");
  if (pipeline_start(&pipeline, options->deadline, e) < 0)
    return -1;
  result = pipeline_wait(&pipeline, 0, e);
  if (result == 2)
    pipeline_stop(&pipeline);
  if (result != 0 && (load->message_length || !WIFEXITED(load->status)))
    result = pipeline_cause(&pipeline, e);
  pipeline_close(&pipeline);
  return result;
}

int orchestrate_checkpoint(const struct checkpoint_options *options, struct err *e)
{
  struct container container = {0};
  char pid[24];
  int result = -1;

  snprintf(pid, sizeof(pid), "%llu", (unsigned long long)options->pid);
  if (!options->pid) {
    if (container_find(options->registry, options->id, &container, e) < 0)
      return err_prefix(e, "loading container");
    container_free(&container);
  }
  if (pipeline_check_swaps(&options->swaps, stage_names, e) < 0)
    return -1;
  if (options->check)
    return check(options, pid, e);
  if (!options->image_path)
    return err_set(e, "image-path flag must be provided");
  if (options->print) {
    struct pipeline pipeline = {.signals = -1, .deadline = -1};

    add_stages(&pipeline, options, pid, -1, -1);
    pipeline_print(&pipeline, stdout);
    pipeline_close(&pipeline);
    return fflush(stdout) == 0 ? 0 : err_sys(e, "write");
  }
  result = checkpoint(options, pid, e);
  return result;
}
