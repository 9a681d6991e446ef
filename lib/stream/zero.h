/* Zero-filled pages. */
#ifndef CKPT_STREAM_ZERO_H
#define CKPT_STREAM_ZERO_H

#include <stdint.h>

/* Of the stored pages, which stand in the payload one after the other: those that are not zeros. */
uint64_t zero_kept(const void *payload, uint64_t stored);

#endif
