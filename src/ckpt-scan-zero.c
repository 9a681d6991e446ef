#include "base/err.h"
#include "base/opt.h"
#include "codec/codec.h"
#include "codec/scan.h"

#include <unistd.h>

int main(int argc, char **argv)
{
  struct stage_options options = {
      .stage = "ckpt-scan-zero",
      .in_fd = STDIN_FILENO,
      .out_fd = STDOUT_FILENO,
      .stats_fd = -1,
  };
  const struct opt table[] = {
      {"stats-fd", OPT_FD, &options.stats_fd, "N", "write a summary line to descriptor N"},
      {"splice", OPT_BOOL, &options.splice, NULL, "the stages behind are ours: share pages"},
      {0},
  };
  const struct command command = {
      .usage = "[options] < STREAM > STREAM",
      .summary = "Takes zero-filled pages out of a checkpoint stream and keeps a record of them.",
      .options = table,
      .version = codec_version_text(),
  };
  struct err e = {""};

  if (opt_parse(&command, argc, argv) != argc)
    opt_usage(&command, "takes no operands");
  if (scan_run(&options, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
