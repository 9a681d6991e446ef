#include "base/err.h"
#include "base/opt.h"
#include "codec/codec.h"
#include "restore/restore.h"

#include <fcntl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
  struct restore_options options = {
      .streams = {-1, STDOUT_FILENO, STDERR_FILENO},
      .report_fd = -1,
      .stats_fd = -1,
  };
  const struct opt table[] = {
      {"id", OPT_STRING, &options.id, "NAME", "register the tree under NAME (default: as before)"},
      {"root", OPT_STRING, &options.registry, "DIR", "the registry, or the runtime's directory"},
      {"bundle", OPT_STRING, &options.bundle, "DIR", "restore into a new container of this bundle"},
      {"created", OPT_BOOL, &options.created, NULL,
       "restore into a container that waits to be started"},
      {"runtime", OPT_STRING, &options.runtime, "PROGRAM",
       "of that container (default: as before)"},
      {"console-socket", OPT_STRING, &options.console_socket, "SOCKET",
       "gets the master of its terminal"},
      {"paused", OPT_BOOL, &options.paused, NULL, "leave that container paused"},
      {"pid-file", OPT_STRING, &options.pid_file, "FILE", "write the root's pid to FILE"},
      {"tcp-close", OPT_BOOL, &options.tcp_close, NULL, "bring TCP connections back closed"},
      {"report-fd", OPT_FD, &options.report_fd, "N",
       "write {\"pid\":..,\"id\":..} to descriptor N"},
      {"stdin-fd", OPT_FD, &options.streams[0], "N", "its standard input (default: /dev/null)"},
      {"stderr-fd", OPT_FD, &options.streams[2], "N", "its standard error (default: ours)"},
      {"stats-fd", OPT_FD, &options.stats_fd, "N", "write a summary line to descriptor N"},
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
  if (options.streams[0] < 0)
    options.streams[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (restore_run(&options, STDIN_FILENO, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
