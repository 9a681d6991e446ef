#include "base/opt.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef CKPT_VERSION
#define CKPT_VERSION "unknown"
#endif

void opt_usage(const struct command *command, const char *format, ...)
{
  char text[1024];
  va_list args;

  va_start(args, format);
  vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  warn_user("%s", text);
  fprintf(stderr, "usage: %s %s\n", program_invocation_short_name, command->usage);
  exit(EXIT_USAGE);
}

static _Noreturn void print_help(const struct command *command)
{
  printf("usage: %s %s\n%s\n\n", program_invocation_short_name, command->usage, command->summary);
  for (const struct opt *o = command->options; o->name; o++) {
    char left[64];

    snprintf(left, sizeof(left), "--%s%s%s", o->name,
             o->kind == OPT_WORD ? "[="
             : o->argument       ? " "
                                 : "",
             o->argument ? o->argument : "");
    printf("  %s%-*s %s\n", left, (int)(30 - strlen(left)), o->kind == OPT_WORD ? "]" : "",
           o->help);
  }
  printf("  %-30s %s\n  %-30s %s\n", "--help", "show this", "--version", "show the version");
  exit(fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED);
}

static _Noreturn void print_version(const struct command *command)
{
  printf("%s %s\n%s", program_invocation_short_name, CKPT_VERSION,
         command->version ? command->version : "");
  exit(fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED);
}

static const struct opt *find_option(const struct command *command, const char *name, size_t length)
{
  for (const struct opt *o = command->options; o->name; o++) {
    if (strlen(o->name) == length && memcmp(o->name, name, length) == 0)
      return o;
  }
  return NULL;
}

static void set_bool(const struct command *command, const struct opt *o, const char *value)
{
  if (!value || strcmp(value, "true") == 0 || strcmp(value, "1") == 0)
    *(bool *)o->value = true;
  else if (strcmp(value, "false") == 0 || strcmp(value, "0") == 0)
    *(bool *)o->value = false;
  else
    opt_usage(command, "--%s: \"%s\" is neither true nor false", o->name, value);
}

static uint64_t number_of(const struct command *command, const struct opt *o, const char *value)
{
  char *end;
  unsigned long long number;

  errno = 0;
  number = strtoull(value, &end, 10);
  if (errno || *end || value[0] < '0' || value[0] > '9')
    opt_usage(command, "--%s: \"%s\" is not a number", o->name, value);
  return number;
}

static void set_fd(const struct command *command, const struct opt *o, const char *value)
{
  uint64_t number = number_of(command, o, value);

  if (number > INT_MAX || fcntl((int)number, F_GETFD) < 0)
    opt_usage(command, "--%s: %s is not an open descriptor", o->name, value);
  *(int *)o->value = (int)number;
}

static void add_to_list(const struct command *command, const struct opt *o, const char *value)
{
  struct opt_list *list = o->value;
  const char **items = reallocarray(list->items, list->count + 1, sizeof(*items));

  if (!items)
    opt_usage(command, "--%s: out of memory", o->name);
  items[list->count++] = value;
  list->items = items;
}

static void set_option(const struct command *command, const struct opt *o, const char *value)
{
  switch (o->kind) {
  case OPT_BOOL:
    set_bool(command, o, value);
    break;
  case OPT_WORD:
    *(const char **)o->value = value ? value : "";
    break;
  case OPT_STRING:
    *(const char **)o->value = value;
    break;
  case OPT_UINT:
    *(uint64_t *)o->value = number_of(command, o, value);
    break;
  case OPT_FD:
    set_fd(command, o, value);
    break;
  case OPT_LIST:
    add_to_list(command, o, value);
    break;
  }
}

/* Takes argv[i] and, where it needs one, its value from argv[i + 1]. Returns how many it took. */
static int take_option(const struct command *command, int argc, char **argv, int i)
{
  const char *name = argv[i] + (argv[i][1] == '-' ? 2 : 1);
  const char *equals = strchr(name, '=');
  size_t length = equals ? (size_t)(equals - name) : strlen(name);
  const struct opt *o = find_option(command, name, length);

  if (!equals && (strcmp(name, "help") == 0 || strcmp(argv[i], "-h") == 0))
    print_help(command);
  if (!equals && strcmp(name, "version") == 0)
    print_version(command);
  if (!o)
    opt_usage(command, "unknown option %s", argv[i]);
  if (equals || o->kind == OPT_BOOL || o->kind == OPT_WORD) {
    set_option(command, o, equals ? equals + 1 : NULL);
    return 1;
  }
  if (i + 1 >= argc)
    opt_usage(command, "--%s needs a value", o->name);
  set_option(command, o, argv[i + 1]);
  return 2;
}

/* Moves argv[from] .. argv[from + count - 1] in front of argv[to]; to <= from. */
static void move_arguments(char **argv, int to, int from, int count)
{
  for (int k = 0; k < count; k++) {
    char *moved = argv[from + k];

    memmove(&argv[to + k + 1], &argv[to + k], (size_t)(from - to) * sizeof(*argv));
    argv[to + k] = moved;
  }
}

int opt_parse(const struct command *command, int argc, char **argv)
{
  int operands = 1; /* index of the first operand seen so far: argv[operands .. i) are operands */

  for (int i = 1; i < argc;) {
    int taken;

    if (strcmp(argv[i], "--") == 0) {
      move_arguments(argv, operands, i, 1);
      return operands + 1;
    }
    if (argv[i][0] != '-' || argv[i][1] == '\0') {
      if (command->stop_at_operand)
        return i;
      i++;
      continue;
    }
    taken = take_option(command, argc, argv, i);
    move_arguments(argv, operands, i, taken);
    operands += taken;
    i += taken;
  }
  return operands;
}
