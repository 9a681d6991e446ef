/*
 * Remote system calls that are made with one stop for many: they are collected, and made when there
 * are enough or when it is asked for. Each must succeed. What was not asked for is not made.
 */
#ifndef CKPT_RESTORE_BATCH_H
#define CKPT_RESTORE_BATCH_H

#include "tracee/remote.h"

enum { BATCH_DATA_SIZE = TRACEE_SCRATCH_SIZE - REMOTE_BATCH_LIMIT * sizeof(struct remote_call) };

/* Starts as {.tracee = ...}. Nobody else uses the tracee's scratch memory before batch_run. */
struct batch {
  struct tracee *tracee;
  size_t count;
  struct remote_call calls[REMOTE_BATCH_LIMIT];
  const char *names[REMOTE_BATCH_LIMIT];
  size_t data_size;
  uint8_t data[BATCH_DATA_SIZE];
};

/* Adds a call; `name` is for messages and stays the caller's. */
int batch_call(struct batch *batch, const char *name, long number, const uint64_t arguments[6],
               struct err *e);
#define BATCH_CALL(batch, e, name, number, ...) \
  batch_call(batch, name, number, (const uint64_t[6]){__VA_ARGS__}, e)

/*
 * Room for bytes that the next call alone may point to, at most BATCH_DATA_SIZE; only once for a
 * call. Returns where they are to be put before batch_call; *address is where they will stand in
 * the tracee. NULL with e set on failure.
 */
void *batch_room(struct batch *batch, size_t size, uint64_t *address, struct err *e);
/* The same, with the bytes. */
int batch_data(struct batch *batch, const void *data, size_t size, uint64_t *address,
               struct err *e);

/* Makes what has been collected. */
int batch_run(struct batch *batch, struct err *e);

#endif
