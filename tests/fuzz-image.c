/* An image directory of any bytes: three files out of one input, whose first bytes say how long. */
#include "base/err.h"
#include "image/image.h"
#include "seal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char directory[] = "/dev/shm/fuzz-image-XXXXXX";
static uint8_t buffer[EXTENT_SIZE];

static void *room(void *argument)
{
  (void)argument;
  return buffer;
}

static int visit(const struct frame *frame, void *argument, struct err *e)
{
  (void)argument;
  (void)e;
  return frame->payload && frame->length ? 0 * ((const uint8_t *)frame->payload)[0] : 0;
}

static void put(const char *name, const uint8_t *data, size_t size,
                void (*sealer)(uint8_t *, size_t))
{
  uint8_t *copy = malloc(size + 1);
  char path[128];
  int fd;

  memcpy(copy, data, size);
  if (sealer)
    sealer(copy, size);
  snprintf(path, sizeof(path), "%s/%s", directory, name);
  fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (fd < 0 || write(fd, copy, size) != (ssize_t)size)
    __builtin_trap();
  close(fd);
  free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static const char *const names[] = {"checkpoint.img", "pages_meta.img"};
  struct stream_header header;
  struct err e = {""};

  if (strchr(directory, 'X') && !mkdtemp(directory))
    __builtin_trap();
  for (size_t i = 0; i < 2; i++) {
    size_t length = size >= 2 ? (size_t)(data[0] | data[1] << 8) : 0;

    data += size >= 2 ? 2 : 0;
    size -= size >= 2 ? 2 : 0;
    length = length < size ? length : size;
    put(names[i], data, length, i == 0 ? seal_stream : seal_index);
    data += length;
    size -= length;
  }
  put("pages.img", data, size, NULL);
  image_walk(directory, &header, room, visit, NULL, &e);
  return 0;
}
