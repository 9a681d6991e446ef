#include "stream/zero.h"

#include "stream/frame.h"

#include <stddef.h>

enum { BLOCK_WORDS = 32 }; /* 256 bytes are looked at before the loop may end */

/* A loop that the compiler vectorises: no exit within a block. */
__attribute__((optimize("O3"), target_clones("avx2", "default"))) static bool is_zero_page(
    const uint64_t *words)
{
  for (size_t block = 0; block < PAGE_SIZE_X86 / sizeof(*words); block += BLOCK_WORDS) {
    uint64_t any = 0;

    for (size_t i = 0; i < BLOCK_WORDS; i++)
      any |= words[block + i];
    if (any)
      return false;
  }
  return true;
}

uint64_t zero_kept(const void *payload, uint64_t stored)
{
  const uint64_t *page = payload;
  uint64_t kept = 0;

  for (uint64_t bits = stored; bits; bits &= bits - 1, page += PAGE_SIZE_X86 / sizeof(*page)) {
    if (!is_zero_page(page))
      kept |= bits & -bits;
  }
  return kept;
}
