/* What all sockets share: options, and the network namespace that they are made in. */
#ifndef CKPT_OBJECT_SOCKET_H
#define CKPT_OBJECT_SOCKET_H

#include "base/err.h"
#include "object/object.h"
#include "state/fields.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An option's value in the model. */
struct socket_option {
  int32_t level, name;
  int64_t value;
};
extern const struct field socket_option_fields[];

enum socket_option_kind {
  OPTION_INT,
  OPTION_BUFFER, /* SO_SNDBUF, SO_RCVBUF: the kernel shows twice what it was told (socket(7)) */
  OPTION_TIME,   /* struct timeval; microseconds */
  OPTION_LINGER, /* seconds, -1: off */
};

/* An option that a type of socket keeps. Those with `before_bind` decide whether bind succeeds. */
struct socket_known_option {
  int level, name;
  enum socket_option_kind kind;
  bool ipv6_only, before_bind;
};

/* The value of an option of one int; -1 when there is none. */
int socket_int_option(int fd, int level, int name);

/* SO_SNDBUF or SO_RCVBUF, for root also above the system's limit. -1 with errno. */
int socket_set_buffer(int fd, int name, int size);

/* The options of a table that the socket has, appended to a list. */
int socket_read_options(int fd, const struct socket_known_option *known, size_t known_count,
                        struct socket_option **options, size_t *count, struct err *e);
/* Sets those of the list that are in the table and differ. */
int socket_set_options(int fd, const struct socket_known_option *known, size_t known_count,
                       const struct socket_option *options, size_t count, bool before_bind,
                       struct err *e);

/* Calls `make` in the restored tree's network namespace; returns the descriptor that it made. */
int socket_make_there(const struct object_restore *restore,
                      int (*make)(const void *context, struct err *e), const void *context,
                      struct err *e);

#endif
