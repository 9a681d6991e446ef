/* The stream reader on any bytes: it may refuse, never crash or hang. */
#include "base/err.h"
#include "seal.h"
#include "stream/stream.h"

#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  int fd = memfd_create("input", 0);
  uint8_t *copy = malloc(size + 1);
  struct stream_header header;
  struct stream_reader *reader;
  struct frame frame;
  struct err e = {""};

  memcpy(copy, data, size);
  if (size && data[size - 1] & 1)
    seal_stream(copy, size);
  if (write(fd, copy, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET) < 0)
    __builtin_trap();
  reader = stream_reader_new(fd, &header, &e);
  while (reader && stream_read(reader, &frame, &e) > 0)
    ;
  stream_reader_free(reader);
  close(fd);
  free(copy);
  return 0;
}
