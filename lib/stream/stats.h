/* The summary line that every stage writes at its end, when asked: one JSON object. */
#ifndef CKPT_STREAM_STATS_H
#define CKPT_STREAM_STATS_H

#include "base/err.h"

#include <jansson.h>
#include <stdint.h>
#include <time.h>

struct stats_clock {
  struct timespec start;
};

struct stats_clock stats_start(void);
double stats_seconds(const struct stats_clock *clock);

/*
 * {"stage":..,"seconds":..,"bytes_in":..,"bytes_out":..} and the members of `more` (an object that
 * this takes over; NULL for none) to fd. A negative fd is nobody who asked: nothing happens.
 */
int stats_write(int fd, const char *stage, const struct stats_clock *clock, uint64_t bytes_in,
                uint64_t bytes_out, json_t *more, struct err *e);

#endif
