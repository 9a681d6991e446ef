#include "base/cleanup.h"
#include "base/io.h"
#include "container/container.h"
#include "container/launch.h"
#include "container/oci.h"
#include "pipeline/orchestrate.h"
#include "pipeline/pipeline.h"
#include "pipeline/summary.h"
#include "stream/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static const char *const stage_names[] = {"ckpt-read-direct", "ckpt-decompress", "ckpt-rebuild",
                                          NULL};

/* A flag and its value, if it has one. */
static void add_value(struct stage *stage, const char *flag, const char *value)
{
  if (!value)
    return;
  stage_word(stage, flag);
  stage_word(stage, value);
}

static void add_rebuild(struct pipeline *pipeline, const struct restore_pipeline_options *options,
                        int report, int stats)
{
  struct stage *stage = pipeline_add(pipeline, "ckpt-rebuild", &options->swaps);

  add_value(stage, "--root", options->registry);
  add_value(stage, "--bundle", options->bundle);
  add_value(stage, "--runtime", options->runtime);
  add_value(stage, "--console-socket", options->console_socket);
  add_value(stage, "--id", options->id);
  add_value(stage, "--pid-file", options->pid_file);
  if (options->created)
    stage_word(stage, "--created");
  if (options->paused)
    stage_word(stage, "--paused");
  if (options->tcp_close)
    stage_word(stage, "--tcp-close");
  stage_pass(stage, "--report-fd", report);
  stage_pass(stage, "--stats-fd", stats);
  if (options->bundle) { /* its own are the stream and what we read for messages */
    stage_pass(stage, "--stdin-fd", STDIN_FILENO);
    stage_pass(stage, "--stderr-fd", STDERR_FILENO);
  }
}

static void add_stages(struct pipeline *pipeline, const struct restore_pipeline_options *options,
                       int report, int stats)
{
  struct stage *stage = pipeline_add(pipeline, "ckpt-read-direct", &options->swaps);

  add_value(stage, "--image-path", options->image_path);
  if (options->direct)
    stage_word(stage, strcmp(options->direct, "false") == 0 ? "--direct=false" : "--direct");
  stage_pass(stage, "--stats-fd", stats);
  /* ckpt-rebuild decompresses on all processors, too, and what it does so is in its cache. */
  if (pipeline_swapped(&options->swaps, "ckpt-decompress"))
    stage_pass(pipeline_add(pipeline, "ckpt-decompress", &options->swaps), "--stats-fd", stats);
  add_rebuild(pipeline, options, report, stats);
}

/* What ckpt-rebuild has left to us. */
struct restored {
  pid_t pid;     /* the root */
  char *id;      /* to be given back when it has ended; NULL: none */
  char *runtime; /* whose container it is; NULL: ours */
};

static void restored_free(struct restored *restored)
{
  free(restored->id);
  free(restored->runtime);
}

static char *copy_string(const json_t *object, const char *name)
{
  const char *text = json_string_value(json_object_get(object, name));

  return text ? strdup(text) : NULL;
}

static int read_report(int fd, struct restored *restored, struct err *e)
{
  json_t *report = json_loadfd(fd, 0, NULL);

  *restored = (struct restored){
      .pid = (pid_t)json_integer_value(json_object_get(report, "pid")),
      .id = copy_string(report, "id"),
      .runtime = copy_string(report, "runtime"),
  };
  json_decref(report);
  return restored->pid > 0 ? 0
                           : err_set(e, "ckpt-rebuild did not say which process it has restored");
}

static void give_back(const struct restore_pipeline_options *options,
                      const struct restored *restored)
{
  const struct oci oci = {
      .program = restored->runtime, .root = options->registry, .id = restored->id};
  struct err ignored;

  if (restored->runtime)
    oci_delete(&oci, &ignored);
  else if (restored->id)
    container_forget(options->registry, restored->id, &ignored);
}

static int run_pipeline(struct pipeline *pipeline, const struct restore_pipeline_options *options,
                        int report[2], struct err *e)
{
  signal(SIGPIPE, SIG_IGN);
  /* The restored root, when ckpt-rebuild has left it, is our child. */
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
    return err_sys(e, "subreaper");
  if (pipeline_start(pipeline, options->deadline, e) < 0)
    return -1;
  close(report[1]);
  report[1] = -1;
  if (pipeline_wait(pipeline, 0, e) == 0)
    return 0;
  pipeline_stop(pipeline);
  return pipeline_cause(pipeline, e);
}

/* In the foreground: the restored root's status is ours. */
static int stay(const struct restore_pipeline_options *options, int report, struct err *e)
{
  CLEANUP(restored_free) struct restored restored = {0};
  int status;

  if (read_report(report, &restored, e) < 0)
    return err_prefix(e, "restore failed");
  status = launch_wait(restored.pid, e);
  give_back(options, &restored);
  return status;
}

int orchestrate_restore(const struct restore_pipeline_options *options, struct err *e)
{
  struct pipeline pipeline = {.signals = -1, .deadline = -1};
  struct summary summary = {-1, -1};
  struct stats_clock clock = stats_start();
  int report[2] = {-1, -1};
  int result;

  if (pipeline_check_swaps(&options->swaps, stage_names, e) < 0)
    return -1;
  if (options->print) {
    add_stages(&pipeline, options, -1, -1);
    pipeline_print(&pipeline, stdout);
    pipeline_close(&pipeline);
    return fflush(stdout) == 0 ? 0 : err_sys(e, "write");
  }
  if (pipe2(report, O_CLOEXEC) < 0 || (options->stats && summary_open(&summary, e) < 0))
    return err_sys(e, "pipe");
  add_stages(&pipeline, options, report[1], summary.writer);
  result = run_pipeline(&pipeline, options, report, e);
  if (result < 0)
    err_prefix(e, "restore failed");
  else
    pipeline_warnings(&pipeline);
  if (result == 0 && options->stats)
    result = summary_print(&summary, stage_names, strcmp(options->stats, "json") == 0,
                           stats_seconds(&clock), stdout, e);
  summary_close(&summary);
  pipeline_close(&pipeline);
  if (result == 0 && !options->detach)
    result = stay(options, report[0], e);
  cleanup_close(&report[0]);
  cleanup_close(&report[1]);
  return result;
}
