/* Memory that no codec makes smaller: random, encrypted, or compressed already. */
#ifndef CKPT_CODEC_NOISE_H
#define CKPT_CODEC_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * By a sample of each page: are all bytes about equally frequent, and does nothing repeat itself?
 * In what is taken for noise at most a few percent could have been saved. `state` is a work area of
 * LZ4_sizeofState() bytes.
 */
bool noise_found(void *state, const uint8_t *data, size_t size);

#endif
