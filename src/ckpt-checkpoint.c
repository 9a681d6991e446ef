#include "base/err.h"
#include "base/opt.h"
#include "codec/codec.h"
#include "pipeline/orchestrate.h"

#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
  struct checkpoint_options options = {.compression = "flate-best-speed"};
  const char *ignored = NULL;
  const struct opt table[] = {
      {"image-path", OPT_STRING, &options.image_path, "DIR", "directory of the new image"},
      {"leave-running", OPT_BOOL, &options.leave_running, NULL, "let the container run on"},
      {"snapshot", OPT_STRING, &options.snapshot, "HOW",
       "with --leave-running: auto, fork or stop"},
      {"compression", OPT_STRING, &options.compression, "TYPE", "none, flate-best-speed or lz4"},
      {"exclude-committed-zero-pages", OPT_BOOL, &options.exclude_zero, NULL,
       "leave zero-filled pages out"},
      {"direct", OPT_BOOL, &options.direct, NULL, "write past the page cache (O_DIRECT)"},
      {"work-path", OPT_STRING, &ignored, "DIR", "ignored"},
      {"root", OPT_STRING, &options.registry, "DIR", "the registry of containers"},
      {"pid", OPT_UINT, &options.pid, "N", "the tree under process N instead of a container"},
      {"tcp-close", OPT_BOOL, &options.tcp_close, NULL, "TCP connections come back closed"},
      {"archive-rootfs-changes", OPT_BOOL, &options.archive_rootfs, NULL,
       "take along what a container has changed on its root file system"},
      {"stage", OPT_LIST, &options.swaps, "NAME=PROGRAM", "a program of yours for one stage"},
      {"print-pipeline", OPT_BOOL, &options.print, NULL, "print the shell pipeline, do nothing"},
      {"check", OPT_BOOL, &options.check, NULL, "list what stands against it, do nothing"},
      {"json", OPT_BOOL, &options.json, NULL, "with --check: as JSON"},
      {"deadline", OPT_UINT, &options.deadline, "SECONDS", "cancel when it takes longer"},
      {"stats", OPT_WORD, &options.stats, "json", "print a summary at the end"},
      {0},
  };
  const struct command command = {
      .usage = "--image-path DIR [options] CONTAINER-ID | --pid N",
      .summary = "Saves a running container, or a process tree, to an image directory.",
      .options = table,
      .version = codec_version_text(),
  };
  struct err e = {""};
  int first = opt_parse(&command, argc, argv);
  int status;

  if (argc - first != (options.pid ? 0 : 1))
    opt_usage(&command, options.pid ? "takes no container id besides --pid"
                                    : "needs exactly one container id");
  options.id = options.pid ? NULL : argv[first];
  if (codec_by_name(options.compression) < 0)
    opt_usage(&command, "invalid checkpoint compression type \"%s\"", options.compression);
  if (options.stats && options.stats[0] && strcmp(options.stats, "json") != 0)
    opt_usage(&command, "--stats: \"%s\" is not json", options.stats);
  status = orchestrate_checkpoint(&options, &e);
  free(options.swaps.items);
  if (status < 0)
    die(EXIT_FAILED, &e);
  return status;
}
