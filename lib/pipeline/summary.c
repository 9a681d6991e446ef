#include "pipeline/summary.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>

enum { SUMMARY_LIMIT = 65536 };

int summary_open(struct summary *summary, struct err *e)
{
  int ends[2];

  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  *summary = (struct summary){.reader = ends[0], .writer = ends[1]};
  return 0;
}

void summary_close(struct summary *summary)
{
  cleanup_close(&summary->reader);
  cleanup_close(&summary->writer);
}

static json_t *read_lines(struct summary *summary)
{
  char text[SUMMARY_LIMIT];
  json_t *stages = json_array();
  ssize_t n;

  close(take_fd(&summary->writer));
  n = io_read(summary->reader, text, sizeof(text) - 1);
  text[n > 0 ? n : 0] = '\0';
  for (char *line = strtok(text, "\n"); stages && line; line = strtok(NULL, "\n")) {
    json_t *stage = json_loads(line, 0, NULL);

    if (stage)
      json_array_append_new(stages, stage);
  }
  return stages;
}

static double number(const json_t *stages, const char *stage, const char *member)
{
  for (size_t i = 0; i < json_array_size(stages); i++) {
    const json_t *object = json_array_get(stages, i);
    const char *name = json_string_value(json_object_get(object, "stage"));

    if (name && strcmp(name, stage) == 0)
      return json_number_value(json_object_get(object, member));
  }
  return 0;
}

static void print_line(const json_t *stages, double seconds, FILE *out)
{
  double memory = number(stages, "ckpt-load", "memory_bytes");
  double image = number(stages, "ckpt-write-direct", "bytes_out");

  if (memory > 0)
    fprintf(out, "pause %.1f ms, memory %.1f MiB, image %.1f MiB (ratio %.2f), ",
            number(stages, "ckpt-load", "pause_seconds") * 1e3, memory / (1 << 20),
            image / (1 << 20), image > 0 ? memory / image : 0);
  fprintf(out, "%.3f s:", seconds);
  for (size_t i = 0; i < json_array_size(stages); i++) {
    const json_t *stage = json_array_get(stages, i);

    fprintf(out, " %s %.3f s", json_string_value(json_object_get(stage, "stage")),
            json_number_value(json_object_get(stage, "seconds")));
  }
  fprintf(out, "\n");
}

int summary_print(struct summary *summary, bool json, double seconds, FILE *out, struct err *e)
{
  json_t *stages = read_lines(summary);

  if (!stages)
    return err_set(e, "out of memory");
  if (json) {
    json_t *object = json_pack("{s:f, s:O}", "seconds", seconds, "stages", stages);

    json_dumpf(object, out, JSON_COMPACT);
    fprintf(out, "\n");
    json_decref(object);
  } else {
    print_line(stages, seconds, out);
  }
  json_decref(stages);
  return fflush(out) == 0 ? 0 : err_sys(e, "write");
}
