#include "base/cleanup.h"
#include "base/err.h"
#include "base/opt.h"
#include "inspect/inspect.h"

#include <stdio.h>

static int show(const struct inspection *inspection, bool json, bool verify, struct err *e)
{
  if (json)
    return inspect_print_json(inspection, stdout, e);
  return verify ? 0 : inspect_print_tables(inspection, stdout, e);
}

int main(int argc, char **argv)
{
  bool json = false;
  bool verify = false;
  const struct opt table[] = {
      {"json", OPT_BOOL, &json, NULL, "print the whole state as JSON"},
      {"verify", OPT_BOOL, &verify, NULL, "check every checksum, payload and total; print nothing"},
      {0},
  };
  const struct command command = {
      .usage = "[options] IMAGE-DIR|-",
      .summary = "Shows what a checkpoint image, or a stream on standard input, holds.",
      .options = table,
      .version = codec_version_text(),
  };
  CLEANUP(inspect_free) struct inspection inspection = {0};
  int first = opt_parse(&command, argc, argv);
  struct err e = {""};

  if (argc - first != 1)
    opt_usage(&command, "takes one image directory, or - for a stream");
  if (inspect_read(&inspection, argv[first], verify, &e) < 0 ||
      show(&inspection, json, verify, &e) < 0)
    die(EXIT_FAILED, &e);
  return EXIT_DONE;
}
