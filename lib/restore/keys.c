/*
 * Keys of protection (pkeys(7)). The numbers that mappings had are taken before the first mapping
 * is made; what the kernel itself takes for memory that can only be executed is left to it.
 */
#include "restore/rebuild.h"

#include "restore/batch.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { KEYS = 16 };

static bool is_given(const struct vma *vma)
{
  return vma->key && vma->prot != PROT_EXEC;
}

static uint32_t wanted_keys(const struct mm *mm)
{
  uint32_t keys = 0;

  for (size_t i = 0; i < mm->vma_count; i++) {
    if (is_given(&mm->vmas[i]))
      keys |= UINT32_C(1) << mm->vmas[i].key;
  }
  return keys;
}

/*
 * The kernel gives the lowest that is free, so that at the end all up to the highest wanted one are
 * taken; a forked process may have had some of them before.
 */
int rebuild_keys(struct rebuilt *which, struct err *e)
{
  struct tracee *leader = &which->threads[0];
  uint32_t wanted = wanted_keys(which->mm);
  uint32_t got = 0;
  int64_t key = 0;

  while (wanted >> key > 1) {
    if (TRACEE_CALL(leader, e, &key, SYS_pkey_alloc, 0, 0, 0, 0, 0, 0) < 0)
      return -1;
    if (key == -ENOSPC)
      break;
    if (key < 0 || key >= KEYS)
      return err_set(e, "keys of protection: this processor or kernel has none");
    got |= UINT32_C(1) << key;
  }
  for (uint32_t extra = got & ~wanted; extra; extra &= extra - 1) {
    if (call(leader, e, "pkey_free", NULL, SYS_pkey_free, (uint64_t)__builtin_ctz(extra), 0, 0, 0,
             0, 0) < 0)
      return -1;
  }
  return 0;
}

int rebuild_key_of(struct batch *batch, const struct vma *vma, struct err *e)
{
  return is_given(vma) ? BATCH_CALL(batch, e, "pkey_mprotect", SYS_pkey_mprotect, vma->start,
                                    vma->end - vma->start, vma->prot, vma->key)
                       : 0;
}
