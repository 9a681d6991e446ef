#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void err_record(struct err *e, const char *format, ...)
{
  va_list args;

  va_start(args, format);
  vsnprintf(e->text, sizeof(e->text), format, args);
  va_end(args);
}

void err_record_errno(struct err *e, const char *format, ...)
{
  int saved = errno;
  va_list args;
  size_t used;

  va_start(args, format);
  vsnprintf(e->text, sizeof(e->text), format, args);
  va_end(args);
  used = strlen(e->text);
  snprintf(e->text + used, sizeof(e->text) - used, ": %s", strerror(saved));
  errno = saved;
}

void err_record_prefix(struct err *e, const char *format, ...)
{
  struct err inner = *e;
  va_list args;
  size_t used;

  va_start(args, format);
  vsnprintf(e->text, sizeof(e->text), format, args);
  va_end(args);
  used = strlen(e->text);
  if (used < sizeof(e->text) - 2) {
    size_t room = sizeof(e->text) - used - 2;
    size_t keep = strnlen(inner.text, room - 1);

    memcpy(e->text + used, ": ", 2);
    memcpy(e->text + used + 2, inner.text, keep);
    e->text[used + 2 + keep] = '\0';
  }
}

void die(int status, const struct err *e)
{
  warn_user("%s", e->text);
  exit(status);
}

void warn_user(const char *format, ...)
{
  char text[4096];
  va_list args;

  va_start(args, format);
  vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  /* One write, so that the lines of several stages on one terminal do not mix. */
  fprintf(stderr, "%s: %s\n", program_invocation_short_name, text);
}
