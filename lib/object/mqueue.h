/* POSIX message queues (mq_overview(7)): what lib/object and lib/namespace both ask of one. */
#ifndef CKPT_OBJECT_MQUEUE_H
#define CKPT_OBJECT_MQUEUE_H

#include "base/err.h"

#include <stdint.h>

struct mqueue {
  uint64_t max_messages, message_size, messages; /* mq_getattr(3) */
  uint64_t notify;                               /* who is to be told (mq_notify(3)); 0: nobody */
};

/* Of an open queue. */
int mqueue_read(int fd, struct mqueue *queue, struct err *e);

/* Messages cannot be looked at, only taken, and a notification is a process's secret. */
int mqueue_check(const struct mqueue *queue, struct err *e);

#endif
