#include "base/err.h"
#include "base/opt.h"
#include "container/container.h"
#include "container/launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int list(const char *registry, struct err *e)
{
  struct container *containers;
  size_t count;

  if (container_list(registry, &containers, &count, e) < 0)
    return -1;
  for (size_t i = 0; i < count; i++) {
    bool runs = containers[i].status != CONTAINER_STOPPED;

    printf("%-24s %-8s %d\n", containers[i].id, runs ? "running" : "stopped",
           runs ? containers[i].pid : 0);
    container_free(&containers[i]);
  }
  free(containers);
  return fflush(stdout) == 0 ? EXIT_DONE : err_sys(e, "write");
}

int main(int argc, char **argv)
{
  struct launch launch = {0};
  const char *victim = NULL;
  bool show = false;
  bool force = false;
  const struct opt table[] = {
      {"id", OPT_STRING, &launch.id, "NAME", "the container's id"},
      {"root", OPT_STRING, &launch.registry, "DIR", "the registry (default /run/ckpt)"},
      {"detach", OPT_BOOL, &launch.detach, NULL, "return when the command has started"},
      {"list", OPT_BOOL, &show, NULL, "list the containers: id, status, pid"},
      {"delete", OPT_STRING, &victim, "NAME", "remove a stopped container"},
      {"force", OPT_BOOL, &force, NULL, "with --delete: end it first"},
      {0},
  };
  const struct command command = {
      .usage = "[--root DIR] --id NAME [--detach] -- COMMAND [ARG...] | --list | --delete NAME",
      .summary = "Runs a command in pid and mount namespaces of its own, under an id.",
      .options = table,
      .stop_at_operand = true,
  };
  struct err e = {""};
  int first = opt_parse(&command, argc, argv);
  int status;

  if (show || victim) {
    if (first != argc)
      opt_usage(&command, "takes no command with --list or --delete");
    status = show ? list(launch.registry, &e) : launch_delete(launch.registry, victim, force, &e);
  } else {
    if (!launch.id || first == argc)
      opt_usage(&command, "needs --id and a command");
    launch.command = &argv[first];
    status = launch_run(&launch, &e);
  }
  if (status < 0)
    die(EXIT_FAILED, &e);
  return status;
}
