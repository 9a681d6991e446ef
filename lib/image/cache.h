/* What the page cache holds of a file. */
#ifndef CKPT_IMAGE_CACHE_H
#define CKPT_IMAGE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

/* Does it hold at least half of the file? Without an answer from the kernel: no. */
bool cache_holds(int fd, uint64_t size);

#endif
