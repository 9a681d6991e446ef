#include "base/err.h"
#include "base/opt.h"
#include "codec/codec.h"
#include "restore/restore.h"

#include <fcntl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
  struct restore_options options = {0};
  uint64_t report_fd = UINT64_MAX;
  uint64_t stats_fd = UINT64_MAX;
  uint64_t stdin_fd = UINT64_MAX;
  uint64_t stderr_fd = STDERR_FILENO;
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
      {"report-fd", OPT_UINT, &report_fd, "N", "write {\"pid\":..,\"id\":..} to descriptor N"},
      {"stdin-fd", OPT_UINT, &stdin_fd, "N", "its standard input (default: /dev/null)"},
      {"stderr-fd", OPT_UINT, &stderr_fd, "N", "its standard error (default: ours)"},
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
  options.streams[0] =
      stdin_fd > INT32_MAX ? open("/dev/null", O_RDONLY | O_CLOEXEC) : (int)stdin_fd;
  options.streams[1] = STDOUT_FILENO;
  options.streams[2] = stderr_fd > INT32_MAX ? STDERR_FILENO : (int)stderr_fd;
  if (restore_run(&options, STDIN_FILENO, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
