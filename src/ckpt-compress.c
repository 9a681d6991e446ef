#include "base/err.h"
#include "base/opt.h"
#include "codec/filter.h"

#include <unistd.h>

int main(int argc, char **argv)
{
  struct stage_options options = {
      .stage = "ckpt-compress",
      .in_fd = STDIN_FILENO,
      .out_fd = STDOUT_FILENO,
      .stats_fd = -1,
  };
  const char *algorithm = "flate-best-speed";
  uint8_t codec;
  const struct opt table[] = {
      {"algorithm", OPT_STRING, &algorithm, "NAME", "none, flate-best-speed (default) or lz4"},
      {"stats-fd", OPT_FD, &options.stats_fd, "N", "write a summary line to descriptor N"},
      {"splice", OPT_BOOL, &options.splice, NULL, "the stages behind are ours: share pages"},
      {0},
  };
  const struct command command = {
      .usage = "[options] < STREAM > STREAM",
      .summary = "Compresses the pages of a checkpoint stream on all processors.",
      .options = table,
      .version = codec_version_text(),
  };
  struct err e = {""};

  if (opt_parse(&command, argc, argv) != argc)
    opt_usage(&command, "takes no operands");
  if (codec_by_name(algorithm) < 0)
    opt_usage(&command, "invalid checkpoint compression type \"%s\"", algorithm);
  codec = (uint8_t)codec_by_name(algorithm);
  if (pool_run(&options, &filter_compress, &codec, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
