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

/* What a stage said, or NULL: a program of the user's says nothing. */
static const json_t *find_stage(const json_t *stages, const char *name)
{
  for (size_t i = 0; i < json_array_size(stages); i++) {
    const json_t *stage = json_array_get(stages, i);
    const char *found = json_string_value(json_object_get(stage, "stage"));

    if (found && strcmp(found, name) == 0)
      return stage;
  }
  return NULL;
}

static double number(const json_t *stages, const char *stage, const char *member)
{
  return json_number_value(json_object_get(find_stage(stages, stage), member));
}

static void print_line(const json_t *stages, const char *const *order, double seconds, FILE *out)
{
  bool dump = find_stage(stages, "ckpt-load") != NULL;
  double memory = dump ? number(stages, "ckpt-load", "memory_bytes")
                       : number(stages, "ckpt-rebuild", "bytes_out");
  double image = dump ? number(stages, "ckpt-write-direct", "bytes_out")
                      : number(stages, "ckpt-read-direct", "bytes_in");

  if (dump)
    fprintf(out, "pause %.1f ms, ", number(stages, "ckpt-load", "pause_seconds") * 1e3);
  fprintf(out, "memory %.1f MiB, image %.1f MiB (ratio %.2f), %.3f s:", memory / (1 << 20),
          image / (1 << 20), image > 0 ? memory / image : 0, seconds);
  for (; *order; order++) {
    if (find_stage(stages, *order))
      fprintf(out, " %s %.3f s", *order, number(stages, *order, "seconds"));
  }
  fprintf(out, "\n");
}

int summary_print(struct summary *summary, const char *const *order, bool json, double seconds,
                  FILE *out, struct err *e)
{
  json_t *stages = read_lines(summary);

  if (!stages)
    return err_set(e, "out of memory");
  if (json) {
    json_t *object = json_pack("{s:f, s:O}", "seconds", seconds, "stages", stages);

    json_dumpf(object, out, JSON_COMPACT | JSON_REAL_PRECISION(6));
    fprintf(out, "\n");
    json_decref(object);
  } else {
    print_line(stages, order, seconds, out);
  }
  json_decref(stages);
  return fflush(out) == 0 ? 0 : err_sys(e, "write");
}
