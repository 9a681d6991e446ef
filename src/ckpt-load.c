#include "base/cleanup.h"
#include "base/err.h"
#include "base/opt.h"
#include "container/container.h"
#include "dump/dump.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct flags {
  const char *registry, *snapshot;
  uint64_t pid;
  bool check, json;
};

static int snapshot_by_name(const char *name)
{
  static const char *const names[] = {
      [SNAPSHOT_AUTO] = "auto", [SNAPSHOT_FORK] = "fork", [SNAPSHOT_STOP] = "stop"};

  for (size_t i = 0; i < ARRAY_LEN(names); i++) {
    if (strcmp(names[i], name) == 0)
      return (int)i;
  }
  return -1;
}

/* Names the tree: by its root's pid, or by the id of its container. */
static int find_root(const struct flags *flags, const char *id, struct dump_options *options,
                     struct container *container, struct err *e)
{
  if (flags->pid) {
    options->pid = (pid_t)flags->pid;
    return 0;
  }
  if (container_find(flags->registry, id, container, e) < 0)
    return -1;
  options->pid = container->pid;
  options->id = container->id;
  if (strcmp(container->runtime, "ckpt-run") != 0)
    options->runtime = container->runtime;
  options->bundle = container->bundle;
  return 0;
}

/* The exit status, or -1 with e set. */
static int run(const struct flags *flags, const struct dump_options *options, struct err *e)
{
  size_t obstacles = 0;

  if (!flags->check)
    return dump_run(options, STDOUT_FILENO, e);
  if (dump_check(options, stdout, flags->json, &obstacles, e) < 0)
    return -1;
  return obstacles ? EXIT_FAILED : EXIT_DONE;
}

int main(int argc, char **argv)
{
  struct dump_options options = {.commit_fd = -1, .stats_fd = -1};
  struct flags flags = {.snapshot = "auto"};
  const struct opt table[] = {
      {"pid", OPT_UINT, &flags.pid, "N", "the tree under process N instead of a container's"},
      {"root", OPT_STRING, &flags.registry, "DIR", "the registry of containers"},
      {"leave-running", OPT_BOOL, &options.leave_running, NULL, "let it run on when committed"},
      {"snapshot", OPT_STRING, &flags.snapshot, "HOW",
       "copy on write: auto, fork, or stop for none"},
      {"tcp-close", OPT_BOOL, &options.tcp_close, NULL, "TCP connections come back closed"},
      {"archive-rootfs-changes", OPT_BOOL, &options.archive_rootfs, NULL,
       "take along what a container has changed on its root file system"},
      {"check", OPT_BOOL, &flags.check, NULL, "list what stands against it; touch nothing"},
      {"json", OPT_BOOL, &flags.json, NULL, "with --check: as JSON"},
      {"commit-fd", OPT_FD, &options.commit_fd, "N", "a byte from descriptor N commits"},
      {"stats-fd", OPT_FD, &options.stats_fd, "N", "write a summary line to descriptor N"},
      {"splice", OPT_BOOL, &options.splice, NULL, "the stages behind are ours: share pages"},
      {0},
  };
  const struct command command = {
      .usage = "[options] ID | --pid N > STREAM",
      .summary = "Stops a process tree and writes its whole state as a checkpoint stream.",
      .options = table,
  };
  struct container container = {0};
  struct err e = {""};
  int first = opt_parse(&command, argc, argv);
  char name[32];
  const char *whom = name;
  int status;

  if (argc - first != (flags.pid ? 0 : 1))
    opt_usage(&command, flags.pid ? "takes no operand besides --pid" : "needs one container id");
  if (flags.pid > INT32_MAX)
    opt_usage(&command, "--pid: no such number");
  if (snapshot_by_name(flags.snapshot) < 0)
    opt_usage(&command, "--snapshot: \"%s\" is none of auto, fork and stop", flags.snapshot);
  options.snapshot = (enum snapshot_mode)snapshot_by_name(flags.snapshot);
  if (!flags.check && isatty(STDOUT_FILENO))
    opt_usage(&command, "the stream does not go to a terminal");
  if (flags.pid)
    snprintf(name, sizeof(name), "pid %d", (int)flags.pid);
  else
    whom = argv[first];
  if (find_root(&flags, argv[first], &options, &container, &e) < 0)
    die(EXIT_FAILED, &e);
  /* A reader that is gone is an error like any other: the tree must be let go first. */
  signal(SIGPIPE, SIG_IGN);
  status = run(&flags, &options, &e);
  if (status < 0) {
    if (!flags.pid || strncmp(e.text, name, strlen(name)) != 0)
      err_prefix(&e, "%s", whom);
    die(EXIT_FAILED, &e);
  }
  container_free(&container);
  return status;
}
