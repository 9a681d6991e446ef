#include "stream/stats.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <string.h>

struct stats_clock stats_start(void)
{
  struct stats_clock clock;

  clock_gettime(CLOCK_MONOTONIC, &clock.start);
  return clock;
}

double stats_seconds(const struct stats_clock *clock)
{
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - clock->start.tv_sec) +
         (double)(now.tv_nsec - clock->start.tv_nsec) / 1e9;
}

int stats_write(int fd, const char *stage, const struct stats_clock *clock, uint64_t bytes_in,
                uint64_t bytes_out, json_t *more, struct err *e)
{
  AUTO_FREE char *text = NULL;
  AUTO_FREE char *line = NULL;
  json_t *object;

  if (fd < 0) {
    json_decref(more);
    return 0;
  }
  object = json_pack("{s:s, s:f, s:I, s:I}", "stage", stage, "seconds", stats_seconds(clock),
                     "bytes_in", (json_int_t)bytes_in, "bytes_out", (json_int_t)bytes_out);
  if (object && more)
    json_object_update(object, more);
  json_decref(more);
  text = object ? json_dumps(object, JSON_COMPACT) : NULL;
  json_decref(object);
  if (!text)
    return err_set(e, "statistics: out of memory");
  line = io_format(e, "%s\n", text);
  if (!line)
    return -1;
  return io_write(fd, line, strlen(line)) < 0 ? err_sys(e, "statistics") : 0;
}
