/*
 * Attached segments of System V shared memory. Only shmat(2) makes a mapping that shmdt(2) takes
 * away again and that counts as an attachment: the process attaches the whole segment at a free
 * place, the parts that the image has of it move to theirs, the rest goes.
 */
#include "restore/batch.h"
#include "restore/rebuild.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

static const struct file *segment_of(const struct rebuild *rebuild, const struct vma *vma)
{
  const struct file *file = tree_file(&rebuild->tree, vma->file);

  return file && strcmp(file->type, object_sysvshm.name) == 0 ? file : NULL;
}

bool rebuild_is_segment(const struct rebuild *rebuild, const struct vma *vma)
{
  return segment_of(rebuild, vma) != NULL;
}

/* Parts of one attachment: they have the same file, and in it the places that they had. */
static bool is_same_attachment(const struct vma *a, const struct vma *b)
{
  return a->file == b->file && a->start - a->offset == b->start - b->offset;
}

static int place_part(struct batch *batch, const struct vma *vma, uint64_t stage, uint32_t prot,
                      struct err *e)
{
  uint64_t size = vma->end - vma->start;
  uint64_t from = stage + vma->offset;

  if (vma->prot != prot &&
      BATCH_CALL(batch, e, "mprotect", SYS_mprotect, from, size, vma->prot) < 0)
    return -1;
  if (BATCH_CALL(batch, e, "mremap", SYS_mremap, from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
                 vma->start) < 0)
    return -1;
  return layout_page_size(batch, vma, vma->start, vma->end, e);
}

static int attach(struct rebuild *rebuild, const struct mm *mm, struct batch *batch, size_t index,
                  uint64_t stage, uint64_t size, struct err *e)
{
  const struct vma *first = &mm->vmas[index];
  const struct file *file = segment_of(rebuild, first);
  bool writes = (file->flags & O_ACCMODE) != O_RDONLY;
  json_int_t id = json_integer_value(json_object_get(file->detail, "id"));

  if (BATCH_CALL(batch, e, "shmat", SYS_shmat, (uint64_t)id, stage, writes ? 0 : SHM_RDONLY) < 0)
    return -1;
  for (size_t i = index; i < mm->vma_count; i++) {
    const struct vma *vma = &mm->vmas[i];

    if (!is_same_attachment(vma, first))
      continue;
    if (vma->offset >= size || vma->end - vma->start > size - vma->offset)
      return err_set(e, "is longer than the segment");
    if (place_part(batch, vma, stage, writes ? PROT_READ | PROT_WRITE : PROT_READ, e) < 0)
      return -1;
  }
  return BATCH_CALL(batch, e, "munmap", SYS_munmap, stage, size);
}

int rebuild_segment(struct rebuild *rebuild, struct rebuilt *which, struct batch *batch,
                    size_t index, struct err *e)
{
  const struct vma *vma = &which->mm->vmas[index];
  const struct file *file = segment_of(rebuild, vma);
  uint64_t size = (file->size + 4095) & ~UINT64_C(4095);
  uint64_t stage;

  for (size_t i = 0; i < index; i++) {
    if (is_same_attachment(&which->mm->vmas[i], vma))
      return 0; /* it came with that one */
  }
  if (layout_free_range(rebuild, which->threads[0].pid, size, &stage, e) < 0 ||
      attach(rebuild, which->mm, batch, index, stage, size, e) < 0)
    return err_prefix(e, "segment at 0x%" PRIx64, vma->start);
  return 0;
}
