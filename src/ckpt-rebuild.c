#include "base/err.h"
#include "base/opt.h"
#include "codec/codec.h"
#include "restore/restore.h"

#include <unistd.h>

int main(int argc, char **argv)
{
  struct restore_options options = {0};
  uint64_t report_fd = UINT64_MAX;
  uint64_t stats_fd = UINT64_MAX;
  const struct opt table[] = {
      {"id", OPT_STRING, &options.id, "NAME", "register the tree under NAME (default: as before)"},
      {"root", OPT_STRING, &options.registry, "DIR", "the registry of containers"},
      {"pid-file", OPT_STRING, &options.pid_file, "FILE", "write the root's pid to FILE"},
      {"tcp-close", OPT_BOOL, &options.tcp_close, NULL, "bring TCP connections back closed"},
      {"report-fd", OPT_UINT, &report_fd, "N", "write {\"pid\":..,\"id\":..} to descriptor N"},
      {"stats-fd", OPT_UINT, &stats_fd, "N", "write a summary line to descriptor N"},
      {0},
  };
  const struct command command = {
      .usage = "[options] < STREAM",
      .summary =
          "Rebuilds a process tree from a checkpoint stream on standard input and lets it run.",
      .options = table,
      .version = codec_version_text(),
  };
  struct err e = {""};

  if (opt_parse(&command, argc, argv) != argc)
    opt_usage(&command, "takes no operands");
  options.report_fd = report_fd > INT32_MAX ? -1 : (int)report_fd;
  options.stats_fd = stats_fd > INT32_MAX ? -1 : (int)stats_fd;
  if (restore_run(&options, STDIN_FILENO, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
