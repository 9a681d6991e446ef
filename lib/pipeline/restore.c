#include "base/cleanup.h"
#include "base/io.h"
#include "container/container.h"
#include "container/launch.h"
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

static const char *const stage_names[] = {"ckpt-read-direct", "ckpt-decompress", "ckpt-rebuild",
                                          NULL};

static void add_stages(struct pipeline *pipeline, const struct restore_pipeline_options *options,
                       int report, int stats)
{
  struct stage *stage = pipeline_add(pipeline, "ckpt-read-direct", &options->swaps);

  stage_word(stage, "--image-path");
  stage_word(stage, options->image_path);
  if (options->direct)
    stage_word(stage, strcmp(options->direct, "false") == 0 ? "--direct=false" : "--direct");
  stage_pass(stage, "--stats-fd", stats);
  stage = pipeline_add(pipeline, "ckpt-decompress", &options->swaps);
  stage_pass(stage, "--stats-fd", stats);
  stage = pipeline_add(pipeline, "ckpt-rebuild", &options->swaps);
  if (options->registry) {
    stage_word(stage, "--root");
    stage_word(stage, options->registry);
  }
  if (options->id) {
    stage_word(stage, "--id");
    stage_word(stage, options->id);
  }
  if (options->pid_file) {
    stage_word(stage, "--pid-file");
    stage_word(stage, options->pid_file);
  }
  if (options->tcp_close)
    stage_word(stage, "--tcp-close");
  stage_pass(stage, "--report-fd", report);
  stage_pass(stage, "--stats-fd", stats);
}

/* Whom ckpt-rebuild has left to us: the root's pid, and the id to give back when it has ended. */
static int read_report(int fd, pid_t *pid, char **id, struct err *e)
{
  char text[1024];
  ssize_t n = io_read(fd, text, sizeof(text) - 1);
  const char *name;
  json_t *report;

  text[n > 0 ? n : 0] = '\0';
  report = json_loads(text, 0, NULL);
  *pid = (pid_t)json_integer_value(json_object_get(report, "pid"));
  name = json_string_value(json_object_get(report, "id"));
  *id = name ? strdup(name) : NULL;
  json_decref(report);
  return *pid > 0 ? 0 : err_set(e, "ckpt-rebuild did not say which process it has restored");
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
static int stay(const char *registry, int report, struct err *e)
{
  AUTO_FREE char *id = NULL;
  pid_t pid = 0;
  int status;

  if (read_report(report, &pid, &id, e) < 0)
    return err_prefix(e, "restore failed");
  status = launch_wait(pid, e);
  if (id)
    container_forget(registry, id, &(struct err){""});
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
    result = stay(options->registry, report[0], e);
  cleanup_close(&report[0]);
  cleanup_close(&report[1]);
  return result;
}
