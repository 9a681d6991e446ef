#include "codec/noise.h"

#include "stream/frame.h"

#include <lz4.h>
#include <string.h>

enum {
  PIECE = 64,
  PIECES = 4,      /* of each page */
  DISTANCE = 1088, /* of their begins: a page's head may be unlike its body */
  SAMPLE = EXTENT_PAGES * PIECES * PIECE,
  VALUES = 256,
  EARLY = 8, /* this part of the sample is looked at first */
  LANES = 4, /* equal bytes in a row do not wait for each other's counter */
};

/* The same pieces of each page: pages that are copies of each other are seen, too. */
static size_t take_sample(uint8_t sample[SAMPLE], const uint8_t *data, size_t size)
{
  size_t taken = 0;

  for (size_t page = 0; page + PAGE_SIZE_X86 <= size && taken < SAMPLE; page += PAGE_SIZE_X86) {
    for (size_t i = 0; i < PIECES; i++, taken += PIECE)
      memcpy(sample + taken, data + page + i * DISTANCE, PIECE);
  }
  return taken;
}

/*
 * Pearson's chi-squared test against equal frequencies: 255 degrees of freedom have a mean of 255
 * and a standard deviation of 22.6. Text in a page or two of 64 lifts it beyond four of those.
 */
static bool is_flat(const uint8_t *sample, size_t size)
{
  uint32_t counts[LANES][VALUES] = {0};
  uint64_t squares = 0;

  for (size_t i = 0; i < size; i += LANES) {
    for (size_t lane = 0; lane < LANES; lane++)
      counts[lane][sample[i + lane]]++;
  }
  for (size_t i = 0; i < VALUES; i++) {
    uint64_t count = (uint64_t)counts[0][i] + counts[1][i] + counts[2][i] + counts[3][i];

    squares += count * count;
  }
  /* sum((count - mean)^2) / mean, for a mean of size / VALUES */
  return squares * VALUES / size - size < 255 + 4 * 23;
}

static bool repeats(void *state, const uint8_t *sample, size_t size)
{
  char out[SAMPLE];

  return LZ4_compress_fast_extState(state, (const char *)sample, out, (int)size,
                                    (int)(size - size / 64), 1) > 0;
}

bool noise_found(void *state, const uint8_t *data, size_t size)
{
  uint8_t sample[SAMPLE];
  size_t taken = take_sample(sample, data, size);

  if (taken < EARLY)
    return false;
  /* Most that is not noise shows it at once. */
  return is_flat(sample, taken / EARLY) && is_flat(sample, taken) && !repeats(state, sample, taken);
}
