#include "restore/batch.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { DATA_ALIGNMENT = 16 }; /* BATCH_DATA_SIZE is a multiple */

int batch_run(struct batch *batch, struct err *e)
{
  size_t count = batch->count;
  const struct remote_call *last;
  int made;

  batch->count = 0;
  if (batch->data_size && tracee_write(batch->tracee, tracee_scratch(batch->tracee), batch->data,
                                       batch->data_size, e) < 0)
    return -1;
  batch->data_size = 0;
  made = remote_batch(batch->tracee, batch->calls, count, e);
  if (made <= 0)
    return made;
  last = &batch->calls[made - 1];
  if (last->result < 0 && last->result > -4096) {
    errno = (int)-last->result;
    return err_sys(e, "thread %d: %s(0x%" PRIx64 ", 0x%" PRIx64 ")", batch->tracee->tid,
                   batch->names[made - 1], last->arguments[0], last->arguments[1]);
  }
  return (size_t)made == count
             ? 0
             : err_set(e, "thread %d: a batch of system calls ended early", batch->tracee->tid);
}

int batch_call(struct batch *batch, const char *name, long number, const uint64_t arguments[6],
               struct err *e)
{
  struct remote_call *call = &batch->calls[batch->count];

  *call = (struct remote_call){.number = (uint64_t)number};
  memcpy(call->arguments, arguments, sizeof(call->arguments));
  batch->names[batch->count++] = name;
  return batch->count == REMOTE_BATCH_LIMIT ? batch_run(batch, e) : 0;
}

void *batch_room(struct batch *batch, size_t size, uint64_t *address, struct err *e)
{
  size_t room = (size + DATA_ALIGNMENT - 1) & ~(size_t)(DATA_ALIGNMENT - 1);
  void *bytes;

  if (size > sizeof(batch->data)) {
    err_set(e, "thread %d: %zu bytes are too many for a system call", batch->tracee->tid, size);
    return NULL;
  }
  if (room > sizeof(batch->data) - batch->data_size && batch_run(batch, e) < 0)
    return NULL;
  bytes = batch->data + batch->data_size;
  *address = tracee_scratch(batch->tracee) + batch->data_size;
  batch->data_size += room;
  return bytes;
}

int batch_data(struct batch *batch, const void *data, size_t size, uint64_t *address, struct err *e)
{
  void *bytes = batch_room(batch, size, address, e);

  if (!bytes)
    return -1;
  memcpy(bytes, data, size);
  return 0;
}
