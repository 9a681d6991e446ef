/* The Test Anything Protocol, as little of it as unit tests need. */
#ifndef CKPT_TESTS_TAP_H
#define CKPT_TESTS_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tap_run, tap_failed;

/* One test: prints "ok N - name" or "not ok N - name". Returns whether it passed. */
__attribute__((format(printf, 2, 3))) static inline bool ok(bool passed, const char *name, ...)
{
  va_list args;

  printf("%sok %d - ", passed ? "" : "not ", ++tap_run);
  va_start(args, name);
  vprintf(name, args);
  va_end(args);
  printf("\n");
  fflush(stdout);
  tap_failed += !passed;
  return passed;
}

/* The plan; returns the exit status. */
static inline int done_testing(void)
{
  printf("1..%d\n", tap_run);
  return tap_failed ? 1 : 0;
}

#endif
