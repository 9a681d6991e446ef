#include "base/err.h"
#include "base/opt.h"
#include "codec/filter.h"

#include <unistd.h>

int main(int argc, char **argv)
{
  struct stage_options options = {
      .stage = "ckpt-decompress",
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
      .summary = "Decompresses the pages of a checkpoint stream.",
      .options = table,
      .version = codec_version_text(),
  };
  struct err e = {""};

  if (opt_parse(&command, argc, argv) != argc)
    opt_usage(&command, "takes no operands");
  if (pool_run(&options, &filter_decompress, NULL, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
