/*
 * The low end of the first thread's stack, where a tracer that is killed may leave a signal frame
 * for it: whether its bytes are free to be borrowed, and how the next tracer knows them.
 */
#include "tracee/stack.h"

#include "base/cleanup.h"
#include "proc/pagemap.h"

#include <stdlib.h>
#include <string.h>

enum { STACK_SEARCHED = 1 << 20 }; /* bytes of a stack, from its pointer on */

/* No process's own: it marks pages that a tracer has borrowed. */
static const uint8_t borrowed_mark[16] = {0x8b, 0x1f, 0x5e, 0xc3, 'c',  'k',  'p',  't',
                                          0x9d, 0x07, 0xe4, 0x61, 0xb2, 0x38, 0xd5, 0x4a};

static bool is_mark(const uint8_t *bytes)
{
  return memcmp(bytes, borrowed_mark, sizeof(borrowed_mark)) == 0;
}

bool stack_has_mark(pid_t pid, const struct range *stack)
{
  uint8_t bytes[sizeof(borrowed_mark)];

  return read_memory(pid, stack->start, bytes, sizeof(bytes)) == sizeof(bytes) && is_mark(bytes);
}

/* Where the mapping ends that the address is in. */
static uint64_t end_of_mapping(const struct proc_maps *maps, uint64_t address)
{
  for (size_t i = 0; i < maps->count; i++) {
    if (address >= maps->maps[i].start && address < maps->maps[i].end)
      return maps->maps[i].end;
  }
  return address;
}

bool stack_leads_to(pid_t pid, const struct proc_maps *maps, uint64_t rsp,
                    const struct range *range)
{
  uint64_t words[512];
  uint64_t at = rsp & ~(sizeof(words[0]) - 1);
  uint64_t stop = end_of_mapping(maps, rsp);

  if (stop == rsp)
    return true;
  if (stop > at + STACK_SEARCHED)
    stop = at + STACK_SEARCHED;
  for (; at < stop; at += sizeof(words)) {
    size_t size = stop - at < sizeof(words) ? stop - at : sizeof(words);

    if (read_memory(pid, at, words, size) != (ssize_t)size)
      return true;
    for (size_t i = 0; i < size / sizeof(words[0]); i++) {
      if (range_has(range, words[i]))
        return true;
    }
  }
  return false;
}

/* Are the pages at the low end of the stack there, or swapped out? What is unknown might be. */
static bool stack_end_is_touched(pid_t pid, const struct range *stack, size_t size)
{
  uint64_t entries[REMOTE_FRAME_SIZE / 4096];
  size_t count = (size + 4095) / 4096;
  struct err ignored;
  AUTO_CLOSE int pagemap = pagemap_open(pid, &ignored);
  bool touched = pagemap < 0 || pagemap_read(pagemap, stack->start, entries, count, &ignored) < 0;

  for (size_t i = 0; i < count && !touched; i++)
    touched = entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED);
  return touched;
}

/*
 * Can bytes at the low end of the stack be borrowed, and what is to stand there afterwards? Nobody
 * has touched their pages; or a tracer before us has borrowed them, or they are below the pointer
 * of this very stack, or zeros, and nothing above leads there: a handler that returns through the
 * frame, or one on an alternate stack above whom it has interrupted.
 */
static bool stack_end_is_free(const struct tracee *tracee, const struct proc_maps *maps,
                              const struct range *stack, uint8_t *before, size_t size)
{
  const struct range near = {stack->start, stack->start + UINT64_C(2) * REMOTE_FRAME_SIZE};
  const uint64_t rsp = tracee->regs.rsp;
  const bool is_own = range_has(stack, rsp);

  memset(before, 0, size);
  if (stack->end < near.end)
    return false;
  if (!stack_end_is_touched(tracee->pid, stack, size))
    return true;
  if (range_has(&near, rsp) ||
      read_memory(tracee->pid, stack->start, before, size) != (ssize_t)size ||
      stack_leads_to(tracee->pid, maps, rsp, &near) ||
      (!is_own && stack_leads_to(tracee->pid, maps, near.end, &near)))
    return false;
  if (is_mark(before)) {
    memset(before, 0, sizeof(borrowed_mark));
    return true;
  }
  return is_own || (before[0] == 0 && memcmp(before, before + 1, size - 1) == 0);
}

uint64_t stack_find_frame(const struct tracee *tracee, const struct proc_maps *maps,
                          const struct range *stack, uint8_t **before, size_t *size)
{
  *size = SIGFRAME_ROOM_BELOW + sigframe_size(tracee);
  /* The stack is the first thread's: another may not know whether that one stands. */
  if (tracee->tid != tracee->pid || *size > REMOTE_FRAME_SIZE)
    return 0;
  *before = malloc(*size);
  if (*before && stack_end_is_free(tracee, maps, stack, *before, *size))
    return stack->start + SIGFRAME_ROOM_BELOW;
  return 0;
}

int stack_borrow(const struct tracee *tracee, const struct entry *entry, struct err *e)
{
  if (!entry->before)
    return 0;
  return tracee_write(tracee, entry->frame - SIGFRAME_ROOM_BELOW, borrowed_mark,
                      sizeof(borrowed_mark), e);
}

int stack_give_back(const struct tracee *tracee, const struct entry *entry, struct err *e)
{
  const uint64_t start = entry->frame - SIGFRAME_ROOM_BELOW;
  const size_t mark = sizeof(borrowed_mark);

  if (!entry->before)
    return 0;
  /* The mark last: if we are killed before, what is left is known for what it is. */
  return tracee_write(tracee, start + mark, entry->before + mark, entry->borrowed - mark, e) < 0
             ? -1
             : tracee_write(tracee, start, entry->before, mark, e);
}
