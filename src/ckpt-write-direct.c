#include "base/err.h"
#include "base/opt.h"
#include "image/image.h"

#include <signal.h>
#include <unistd.h>

int main(int argc, char **argv)
{
  struct image_options options = {.stats_fd = -1};
  const struct opt table[] = {
      {"image-path", OPT_STRING, &options.path, "DIR", "the directory of the new image"},
      {"direct", OPT_BOOL, &options.direct, NULL, "write past the page cache (O_DIRECT)"},
      {"stats-fd", OPT_FD, &options.stats_fd, "N", "write a summary line to descriptor N"},
      {0},
  };
  const struct command command = {
      .usage = "--image-path DIR [options] < STREAM",
      .summary = "Writes a checkpoint stream to an image directory; done means that it is on disk.",
      .options = table,
  };
  struct err e = {""};

  if (opt_parse(&command, argc, argv) != argc)
    opt_usage(&command, "takes no operands");
  if (!options.path)
    opt_usage(&command, "image-path flag must be provided");
  /* A file that may not grow is an error like any other. */
  signal(SIGXFSZ, SIG_IGN);
  if (image_write(&options, STDIN_FILENO, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
