/*
 * Filling by UFFDIO_COPY, almost twice as fast as process_vm_writev(2) where memory comes in small
 * pages: each is allocated and copied in one go, without a fault (Documentation/admin-guide/mm/
 * userfaultfd.rst).
 */
#include "restore/fill.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { LEAST_SIZE = 1 << 20 }; /* of a mapping that is worth two more system calls */

/* It makes small pages: mappings that had huge ones get those by a fault. */
static bool is_worth_it(const struct rebuilt *which, const struct vma *vma)
{
  return vma_is_private(vma) && vma->file == 0 && !vma->huge && !(vma->advice & VMA_DROPPABLE) &&
         vma->end - vma->start >= LEAST_SIZE && !layout_inherits(which, vma->start, vma->end);
}

static bool some_worth_it(const struct rebuilt *which)
{
  for (size_t i = 0; i < which->mm->vma_count; i++) {
    if (is_worth_it(which, &which->mm->vmas[i]))
      return true;
  }
  return false;
}

static int get_descriptor(pid_t pid, int number)
{
  AUTO_CLOSE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

  return pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
}

static bool register_mappings(int fd, const struct rebuilt *which)
{
  struct uffdio_api api = {.api = UFFD_API};

  if (ioctl(fd, UFFDIO_API, &api) < 0)
    return false;
  for (size_t i = 0; i < which->mm->vma_count; i++) {
    const struct vma *vma = &which->mm->vmas[i];
    struct uffdio_register argument = {
        .range = {.start = vma->start, .len = vma->end - vma->start},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    /* One that cannot be registered is filled the other way. */
    if (is_worth_it(which, vma))
      ioctl(fd, UFFDIO_REGISTER, &argument);
  }
  return true;
}

int uffd_open(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  AUTO_CLOSE int fd = -1;
  int64_t number;

  uffd_close(rebuild);
  if (!some_worth_it(which))
    return 0;
  /*
   * Faults are not to be handled, only pages to be put in: so it needs no privilege, and a fault of
   * the kernel's (process_vm_writev) fails where it would otherwise wait.
   */
  if (TRACEE_CALL(&which->threads[0], e, &number, SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY,
                  0) < 0)
    return -1;
  if (number < 0)
    return 0;
  fd = get_descriptor(which->threads[0].pid, (int)number);
  if (call(&which->threads[0], e, "close", NULL, SYS_close, (uint64_t)number, 0, 0, 0, 0, 0) < 0)
    return -1;
  if (fd < 0 || !register_mappings(fd, which))
    return 0;
  rebuild->uffd = take_fd(&fd);
  rebuild->uffd_owner = which;
  return 0;
}

void uffd_close(struct rebuild *rebuild)
{
  if (rebuild->uffd_owner)
    close(rebuild->uffd);
  rebuild->uffd_owner = NULL;
}

/* A page that is there already: by a frame before. */
static size_t write_over(const struct rebuilt *which, uint64_t to, const void *from)
{
  struct iovec local = {(void *)from, PAGE_SIZE_X86}; /* NOLINT */
  struct iovec remote = {(void *)to, PAGE_SIZE_X86};  /* NOLINT */
  ssize_t n = process_vm_writev(which->threads[0].pid, &local, 1, &remote, 1, 0);

  return n > 0 ? (size_t)n : 0;
}

/* Bytes that are filled when it returns, from the start of the range on. */
static size_t copy_range(const struct rebuild *rebuild, uint64_t to, const uint8_t *from,
                         size_t size)
{
  size_t done = 0;

  while (done < size) {
    struct uffdio_copy argument = {
        .dst = to + done, .src = (uintptr_t)(from + done), .len = size - done};
    size_t step = size - done;

    if (ioctl(rebuild->uffd, UFFDIO_COPY, &argument) < 0) {
      step = argument.copy > 0 ? (size_t)argument.copy : 0;
      if (step == 0 && errno == EEXIST)
        step = write_over(rebuild->uffd_owner, to + done, from + done);
    }
    if (step == 0)
      break;
    done += step;
  }
  return done;
}

void uffd_copy(const struct rebuild *rebuild, const struct rebuilt *which, struct pieces *pieces)
{
  unsigned left = 0;

  if (rebuild->uffd_owner != which)
    return;
  for (unsigned i = 0; i < pieces->count; i++) {
    struct iovec *from = &pieces->local[i];
    struct iovec *to = &pieces->remote[i];
    uint64_t address = (uint64_t)to->iov_base;
    size_t done = 0;

    if (is_worth_it(which, fill_vma(which->mm, address)))
      done = copy_range(rebuild, address, from->iov_base, from->iov_len);
    if (done == from->iov_len)
      continue;
    pieces->local[left] = (struct iovec){(uint8_t *)from->iov_base + done, from->iov_len - done};
    pieces->remote[left++] = (struct iovec){(uint8_t *)to->iov_base + done, from->iov_len - done};
  }
  pieces->count = left;
}
