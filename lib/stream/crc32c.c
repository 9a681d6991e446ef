#include "stream/crc32c.h"

#ifdef HAVE_ISAL
#include <isa-l/crc.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
  /* ISA-L takes and gives the register as it is, without the initial and final inversion. */
  return ~crc32_iscsi((unsigned char *)data, (int)size, ~crc);
}

#else
#include <string.h>

__attribute__((target("sse4.2"))) static uint32_t crc_by_instruction(uint32_t crc,
                                                                     const uint8_t *data,
                                                                     size_t size)
{
  uint64_t wide = crc;

  for (; size >= 8; size -= 8, data += 8) {
    uint64_t word;

    memcpy(&word, data, sizeof(word));
    wide = __builtin_ia32_crc32di(wide, word);
  }
  crc = (uint32_t)wide;
  for (; size; size--)
    crc = __builtin_ia32_crc32qi(crc, *data++);
  return crc;
}

static uint32_t crc_by_bit(uint32_t crc, const uint8_t *data, size_t size)
{
  for (; size; size--) {
    crc ^= *data++;
    for (int i = 0; i < 8; i++)
      crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
  return ~(__builtin_cpu_supports("sse4.2") ? crc_by_instruction(~crc, data, size)
                                            : crc_by_bit(~crc, data, size));
}
#endif
