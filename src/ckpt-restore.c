#include "base/err.h"
#include "base/opt.h"
#include "codec/codec.h"
#include "pipeline/orchestrate.h"

#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
  struct restore_pipeline_options options = {0};
  const struct opt table[] = {
      {"image-path", OPT_STRING, &options.image_path, "DIR", "directory of the image"},
      {"bundle", OPT_STRING, &options.bundle, "DIR", "restore into a new container of this bundle"},
      {"created", OPT_BOOL, &options.created, NULL,
       "restore into a container that waits to be started"},
      {"runtime", OPT_STRING, &options.runtime, "PROGRAM",
       "of that container (default: as before)"},
      {"console-socket", OPT_STRING, &options.console_socket, "SOCKET",
       "gets the master of its terminal"},
      {"paused", OPT_BOOL, &options.paused, NULL, "leave that container paused"},
      {"detach", OPT_BOOL, &options.detach, NULL, "return when the tree runs"},
      {"direct", OPT_WORD, &options.direct, "BOOL", "read past the page cache (default: by need)"},
      {"root", OPT_STRING, &options.registry, "DIR",
       "the registry, or the runtime's state directory"},
      {"pid-file", OPT_STRING, &options.pid_file, "FILE", "write the root's pid to FILE"},
      {"tcp-close", OPT_BOOL, &options.tcp_close, NULL, "TCP connections come back closed"},
      {"stage", OPT_LIST, &options.swaps, "NAME=PROGRAM", "a program of yours for one stage"},
      {"print-pipeline", OPT_BOOL, &options.print, NULL, "print the shell pipeline, do nothing"},
      {"deadline", OPT_UINT, &options.deadline, "SECONDS", "cancel when it takes longer"},
      {"stats", OPT_WORD, &options.stats, "json", "print a summary when the tree runs"},
      {0},
  };
  const struct command command = {
      .usage = "--image-path DIR [options] [CONTAINER-ID]",
      .summary = "Brings a process tree back from an image directory; without --detach it stays\n"
                 "until the root exits, and exits as that did.",
      .options = table,
      .version = codec_version_text(),
  };
  struct err e = {""};
  int first = opt_parse(&command, argc, argv);
  int status;

  if (argc - first > 1)
    opt_usage(&command, "takes one container id at most");
  options.id = argc > first ? argv[first] : NULL;
  if (options.bundle && options.created)
    opt_usage(&command, "--bundle makes a new container, --created takes one that is there");
  if (!options.bundle && !options.created && (options.runtime || options.paused))
    opt_usage(&command, "--runtime and --paused go with --bundle or --created");
  if (!options.bundle && options.console_socket)
    opt_usage(&command, "--console-socket goes with --bundle");
  if (options.created && !options.detach)
    opt_usage(&command, "--created goes with --detach: its maker waits for it");
  if (!options.image_path)
    opt_usage(&command, "image-path flag must be provided");
  if (options.direct && options.direct[0] && strcmp(options.direct, "true") != 0 &&
      strcmp(options.direct, "false") != 0)
    opt_usage(&command, "--direct: \"%s\" is neither true nor false", options.direct);
  if (options.stats && options.stats[0] && strcmp(options.stats, "json") != 0)
    opt_usage(&command, "--stats: \"%s\" is not json", options.stats);
  status = orchestrate_restore(&options, &e);
  free(options.swaps.items);
  if (status < 0)
    die(EXIT_FAILED, &e);
  return status;
}
