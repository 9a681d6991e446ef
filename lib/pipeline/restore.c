#include "base/cleanup.h"
#include "base/io.h"
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

static int read_report(int fd, pid_t *pid, struct err *e)
{
  char text[1024];
  ssize_t n = io_read(fd, text, sizeof(text) - 1);
  json_t *report;
  int number = 0;

  text[n > 0 ? n : 0] = '\0';
  report = json_loads(text, 0, NULL);
  if (!report || json_unpack(report, "{s:i}", "pid", &number) < 0 || number <= 0) {
    json_decref(report);
    return err_set(e, "ckpt-rebuild did not say which process it has restored");
  }
  json_decref(report);
  *pid = number;
  return 0;
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

int orchestrate_restore(const struct restore_pipeline_options *options, struct err *e)
{
  struct pipeline pipeline = {.signals = -1, .deadline = -1};
  struct summary summary = {-1, -1};
  struct stats_clock clock = stats_start();
  int report[2] = {-1, -1};
  pid_t pid = 0;
  int result;

  if (pipeline_check_swaps(&options->swaps, stage_names, e) < 0)
    return -1;
  if (options->print) {
    add_stages(&pipeline, options, -1, -1);
    pipeline_print(&pipeline, stdout);
    return fflush(stdout) == 0 ? 0 : err_sys(e, "write");
  }
  if (pipe2(report, O_CLOEXEC) < 0 || (options->stats && summary_open(&summary, e) < 0))
    return err_sys(e, "pipe");
  add_stages(&pipeline, options, report[1], summary.writer);
  result = run_pipeline(&pipeline, options, report, e);
  if (result == 0)
    result = options->detach ? 0 : read_report(report[0], &pid, e);
  if (result < 0)
    err_prefix(e, "restore failed");
  else
    pipeline_warnings(&pipeline);
  if (result == 0 && options->stats)
    result = summary_print(&summary, strcmp(options->stats, "json") == 0, stats_seconds(&clock),
                           stdout, e);
  summary_close(&summary);
  pipeline_close(&pipeline);
  cleanup_close(&report[0]);
  cleanup_close(&report[1]);
  return result == 0 && !options->detach ? launch_wait(pid, e) : result;
}
