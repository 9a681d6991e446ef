#include "base/err.h"
#include "base/opt.h"
#include "image/image.h"

#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
  const char *path = NULL;
  const char *direct = NULL;
  enum image_cache cache = IMAGE_CACHE_AUTO;
  int stats_fd = -1;
  bool splice = false;
  const struct opt table[] = {
      {"image-path", OPT_STRING, &path, "DIR", "the directory of the image"},
      {"direct", OPT_WORD, &direct, "BOOL",
       "read past the page cache (default: by what is cached)"},
      {"stats-fd", OPT_FD, &stats_fd, "N", "write a summary line to descriptor N"},
      {"splice", OPT_BOOL, &splice, NULL, "the stages behind are ours: share pages"},
      {0},
  };
  const struct command command = {
      .usage = "--image-path DIR [options] > STREAM",
      .summary = "Reads an image directory as the checkpoint stream that it was written from.",
      .options = table,
  };
  struct err e = {""};

  if (opt_parse(&command, argc, argv) != argc)
    opt_usage(&command, "takes no operands");
  if (!path)
    opt_usage(&command, "image-path flag must be provided");
  if (direct && strcmp(direct, "false") == 0)
    cache = IMAGE_CACHE_BUFFERED;
  else if (direct && (direct[0] == '\0' || strcmp(direct, "true") == 0))
    cache = IMAGE_CACHE_DIRECT;
  else if (direct)
    opt_usage(&command, "--direct: \"%s\" is neither true nor false", direct);
  if (image_read(path, cache, splice, STDOUT_FILENO, stats_fd, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
