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

/* Each returns -1, so that a function can end in `return err_set(e, ...)`. */

/* Records a cause. A text that is there already is replaced. */
int err_set(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same, followed by ": " and the text of errno (which it leaves as it was). */
int err_sys(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "<format>: " in front of the text: what the caller was doing. */
int err_prefix(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For main files only: prints "<program>: <text>" on stderr and exits. */
_Noreturn void die(int status, const struct err *e);

/* Prints "<program>: <text>" on stderr. */
void warn_user(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
