/* Command lines: --name value, --name=value, -name value; booleans also --name=true|false. */
#ifndef CKPT_BASE_OPT_H
#define CKPT_BASE_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum opt_kind {
  OPT_STRING, /* const char **: the last one given */
  OPT_BOOL,   /* bool * */
  OPT_UINT,   /* uint64_t *: decimal */
  OPT_FD,     /* int *: the number of an open descriptor */
  OPT_WORD,   /* const char **: the value is optional and only --name=value gives it; "" without */
  OPT_LIST,   /* struct opt_list *: each time one more */
};

struct opt_list {
  const char **items;
  size_t count;
};

struct opt {
  const char *name; /* without dashes; a table ends with a NULL name */
  enum opt_kind kind;
  void *value;
  const char *argument; /* shown in --help: "DIR" */
  const char *help;
};

struct command {
  const char *usage;   /* what follows the program's name on the usage line */
  const char *summary; /* one or two lines */
  const struct opt *options;
  const char *version;  /* extra lines for --version, or NULL */
  bool stop_at_operand; /* the first operand ends the options (a command line follows) */
};

/*
 * Parses argv. --help (-h) and --version print on stdout and exit 0; wrong usage is reported on
 * stderr and exits with EXIT_USAGE. Operands are moved to the end of argv; returns the index of
 * the first one.
 */
int opt_parse(const struct command *command, int argc, char **argv);

/* Prints "<program>: <format>", the usage line, and exits with EXIT_USAGE. */
_Noreturn void opt_usage(const struct command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
