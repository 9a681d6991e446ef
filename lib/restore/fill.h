/* What the files that fill memory share. */
#ifndef CKPT_RESTORE_FILL_H
#define CKPT_RESTORE_FILL_H

#include "restore/rebuild.h"
#include "stream/frame.h"

#include <sys/uio.h>

/* What goes where: piece by piece, of the same length on both sides. */
struct pieces {
  struct iovec local[EXTENT_PAGES], remote[EXTENT_PAGES];
  unsigned count;
};

/* The mapping that holds the address, or NULL. */
const struct vma *fill_vma(const struct mm *mm, uint64_t address);

/*
 * uffd.c: userfaultfd(2) of the process that is being filled, in our hands. It only makes things
 * faster: where it cannot be had, nothing is lost. One process has it at a time, from behind its
 * layout on until the next one's, or uffd_close.
 */
int uffd_open(struct rebuild *rebuild, struct rebuilt *which, struct err *e);
void uffd_close(struct rebuild *rebuild);
/* Fills what it can of the pieces, and leaves the others. */
void uffd_copy(const struct rebuild *rebuild, const struct rebuilt *which, struct pieces *pieces);

#endif
