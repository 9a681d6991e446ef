/* CRC32C (Castagnoli, RFC 3720 appendix B.4), by the fastest means that build and CPU have. */
#ifndef CKPT_STREAM_CRC32C_H
#define CKPT_STREAM_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of `size` bytes, continuing from `crc` (0 to begin with). */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

#endif
