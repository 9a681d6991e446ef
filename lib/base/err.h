/* One error, carried upward by value of its text and reported once, at the top. */
#ifndef CKPT_BASE_ERR_H
#define CKPT_BASE_ERR_H

enum {
  EXIT_DONE = 0,
  EXIT_FAILED = 1,
  EXIT_USAGE = 2,
};

/* The text of what went wrong. Starts empty; the first cause is the one that is kept. */
struct err {
  char text[2048];
};

/*
 * Each is -1, so that a function can end in `return err_set(e, ...)`, and macros, so that
 * compilers and analyzers know it:
 *
 * err_set(e, format, ...): records a cause. A text that is there already is replaced.
 * err_sys(e, format, ...): the same, followed by ": " and the text of errno (which stays).
 * err_prefix(e, format, ...): puts "<format>: " in front of the text: what the caller was doing.
 */
#define err_set(...) (err_record(__VA_ARGS__), err_failure())
#define err_sys(...) (err_record_errno(__VA_ARGS__), err_failure())
#define err_prefix(...) (err_record_prefix(__VA_ARGS__), err_failure())

void err_record(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
void err_record_errno(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
void err_record_prefix(struct err *e, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static inline int err_failure(void)
{
  return -1;
}

/* For main files only: prints "<program>: <text>" on stderr and exits. */
_Noreturn void die(int status, const struct err *e);

/* Prints "<program>: <text>" on stderr. */
void warn_user(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
