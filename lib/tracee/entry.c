/*
 * The first remote call of a process, before it has a trampoline page, goes through its vdso. So
 * that a thread survives the death of its tracer even there, the instructions behind the vdso's
 * `syscall` are followed on paper to their `ret`, which is made to return into the C library's
 * signal return (`mov $15, %eax; syscall`) with a signal frame at the low end of the stack.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "proc/pagemap.h"
#include "proc/proc.h"
#include "tracee/remote.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

enum {
  VDSO_LIMIT = 64 << 10,
  TEXT_LIMIT = 16 << 20, /* bytes of code that are searched at most */
  TEXT_WINDOW = 64 << 10,
  STACK_SEARCHED = 1 << 20, /* bytes of a stack, from its pointer on */
};

struct range {
  uint64_t start, end;
};

/* The mappings that matter here. */
struct layout {
  struct range vdso;
  struct range stack;
  struct range text[64]; /* executable, other than the vdso: the last ones, a ring */
  size_t text_count;     /* of all of them */
};

static void find_layout(const struct proc_maps *maps, struct layout *layout)
{
  memset(layout, 0, sizeof(*layout));
  for (size_t i = 0; i < maps->count; i++) {
    const struct proc_map *map = &maps->maps[i];
    const struct range range = {map->start, map->end};

    if (strcmp(map->name, "[vdso]") == 0)
      layout->vdso = range;
    else if (strcmp(map->name, "[stack]") == 0)
      layout->stack = range;
    else if (map->perms[0] == 'r' && map->perms[2] == 'x')
      layout->text[layout->text_count++ % ARRAY_LEN(layout->text)] = range;
  }
}

static int read_layout(pid_t pid, struct layout *layout, struct err *e)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};

  if (proc_maps_read(pid, &maps, e) != 0)
    return -1;
  find_layout(&maps, layout);
  return 0;
}

static ssize_t read_memory(pid_t pid, uint64_t address, void *buffer, size_t size)
{
  struct iovec local = {.iov_base = buffer, .iov_len = size};
  struct iovec remote = {.iov_base = (void *)address, .iov_len = size}; /* NOLINT */

  return process_vm_readv(pid, &local, 1, &remote, 1, 0);
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

bool entry_stack_leads_to(pid_t pid, const struct proc_maps *maps, uint64_t rsp, uint64_t start,
                          uint64_t end)
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
      if (words[i] >= start && words[i] < end)
        return true;
    }
  }
  return false;
}

/* A displacement of one byte. */
static int64_t sign_extended(uint8_t byte)
{
  return byte < 128 ? byte : (int64_t)byte - 256;
}

/*
 * Follows the code behind a `syscall` to its `ret` through the few instructions that function ends
 * are made of. Fills rsp and rbp so that the `ret` takes its address from `frame`. The offset of
 * the stack pointer at the `ret` is counted from where it starts: rsp, or rbp after a `leave` or
 * `lea -N(%rbp), %rsp`. In the latter case the stack stays the thread's own until there, for a
 * handler that may have to run if the tracer dies before the signals are blocked.
 */
static bool follow_epilogue(const uint8_t *code, size_t size, uint64_t frame, struct entry *entry)
{
  bool from_rbp = false;
  int64_t offset = 0;

  for (size_t i = 0; i + 4 < size;) {
    const uint8_t *c = code + i;

    if (offset < -SIGFRAME_ROOM_BELOW || offset > SIGFRAME_ROOM_BELOW)
      return false;
    if (c[0] == 0xc3) { /* ret */
      entry->rsp = from_rbp ? 0 : frame - (uint64_t)offset;
      entry->rbp = from_rbp ? frame - (uint64_t)offset : 0;
      return true;
    }
    if (c[0] == 0x48 && c[1] == 0x8d && c[2] == 0x65) { /* lea disp8(%rbp), %rsp */
      from_rbp = true;
      offset = sign_extended(c[3]);
      i += 4;
    } else if (c[0] == 0x48 && c[1] == 0x83 && c[2] == 0xc4) { /* add $imm8, %rsp */
      offset += sign_extended(c[3]);
      i += 4;
    } else if (c[0] == 0xc9) { /* leave: rsp = rbp, pop rbp */
      from_rbp = true;
      offset = 8;
      i += 1;
    } else if (c[0] >= 0x58 && c[0] <= 0x5f && c[0] != 0x5c) { /* pop */
      /* A popped rbp is of no use any more for a later lea; ends of functions have none. */
      offset += 8;
      i += 1;
    } else if (c[0] == 0x41 && c[1] >= 0x58 && c[1] <= 0x5f) { /* pop r8-r15 */
      offset += 8;
      i += 2;
    } else if (c[0] == 0x31 && c[1] >= 0xc0) { /* xor register, register: cleared scratch */
      i += 2;
    } else if (c[0] == 0x45 && c[1] == 0x31 && c[2] >= 0xc0) {
      i += 3;
    } else {
      return false;
    }
  }
  return false;
}

static const uint8_t with_rax[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
static const uint8_t with_eax[] = {0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05};

static bool is_restorer(pid_t pid, const struct layout *layout, uint64_t address)
{
  uint8_t code[sizeof(with_rax)];

  for (size_t i = 0; i < layout->text_count && i < ARRAY_LEN(layout->text); i++) {
    if (address >= layout->text[i].start && address < layout->text[i].end)
      return read_memory(pid, address, code, sizeof(code)) == sizeof(code) &&
             (memcmp(code, with_rax, sizeof(with_rax)) == 0 ||
              memcmp(code, with_eax, sizeof(with_eax)) == 0);
  }
  return false;
}

/*
 * The address of a `mov $15, %eax (or %rax); syscall` in the process's code, or 0. Related
 * processes have it at the same place: guess.
 */
static uint64_t find_restorer(pid_t pid, const struct layout *layout, uint64_t guess)
{
  AUTO_FREE uint8_t *window = NULL;
  size_t searched = 0;

  if (is_restorer(pid, layout, guess))
    return guess;
  window = malloc(TEXT_WINDOW);
  if (!window)
    return 0;
  /* From the end: libraries stand above the program, and the C library among the first loaded. */
  for (size_t i = layout->text_count; i > 0 && layout->text_count - i < ARRAY_LEN(layout->text);
       i--) {
    const struct range *text = &layout->text[(i - 1) % ARRAY_LEN(layout->text)];

    for (uint64_t at = text->start; at < text->end && searched < TEXT_LIMIT;) {
      size_t want = text->end - at < TEXT_WINDOW ? text->end - at : TEXT_WINDOW;
      ssize_t got = read_memory(pid, at, window, want);
      const uint8_t *hit;

      if (got < (ssize_t)sizeof(with_rax))
        break;
      hit = memmem(window, (size_t)got, with_rax, sizeof(with_rax));
      if (!hit)
        hit = memmem(window, (size_t)got, with_eax, sizeof(with_eax));
      if (hit)
        return at + (uint64_t)(hit - window);
      searched += (size_t)got;
      at += (uint64_t)got == text->end - at ? (uint64_t)got : (uint64_t)got - sizeof(with_rax);
    }
  }
  return 0;
}

/* No process's own: it marks pages that a tracer has borrowed. */
static const uint8_t borrowed_mark[16] = {0x8b, 0x1f, 0x5e, 0xc3, 'c',  'k',  'p',  't',
                                          0x9d, 0x07, 0xe4, 0x61, 0xb2, 0x38, 0xd5, 0x4a};

static bool has_mark(const uint8_t *bytes)
{
  return memcmp(bytes, borrowed_mark, sizeof(borrowed_mark)) == 0;
}

static bool is_in(const struct range *range, uint64_t address)
{
  return address >= range->start && address < range->end;
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
  const bool is_own = is_in(stack, rsp);

  memset(before, 0, size);
  if (stack->end < near.end)
    return false;
  if (!stack_end_is_touched(tracee->pid, stack, size))
    return true;
  if (is_in(&near, rsp) || read_memory(tracee->pid, stack->start, before, size) != (ssize_t)size ||
      entry_stack_leads_to(tracee->pid, maps, rsp, near.start, near.end) ||
      (!is_own && entry_stack_leads_to(tracee->pid, maps, near.end, near.start, near.end)))
    return false;
  if (has_mark(before)) {
    memset(before, 0, sizeof(borrowed_mark));
    return true;
  }
  return is_own || (before[0] == 0 && memcmp(before, before + 1, size - 1) == 0);
}

/*
 * Room for a signal frame at the low end of the stack: its address, or 0. The stack is the first
 * thread's, who stands if it is the tracee itself.
 */
static uint64_t find_frame(const struct tracee *tracee, const struct proc_maps *maps,
                           const struct range *stack, uint8_t **before, size_t *size)
{
  *size = SIGFRAME_ROOM_BELOW + sigframe_size(tracee);
  if (tracee->tid != tracee->pid || *size > REMOTE_FRAME_SIZE)
    return 0;
  *before = malloc(*size);
  if (*before && stack_end_is_free(tracee, maps, stack, *before, *size))
    return stack->start + SIGFRAME_ROOM_BELOW;
  return 0;
}

int entry_borrow(const struct tracee *tracee, const struct entry *entry, struct err *e)
{
  if (!entry->before)
    return 0;
  return tracee_write(tracee, entry->frame - SIGFRAME_ROOM_BELOW, borrowed_mark,
                      sizeof(borrowed_mark), e);
}

int entry_give_back(const struct tracee *tracee, const struct entry *entry, struct err *e)
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

void entry_free(struct entry *entry)
{
  free(entry->before);
  *entry = (struct entry){0};
}

bool entry_find_return(const struct tracee *tracee, const struct proc_maps *maps,
                       struct user_regs_struct *regs)
{
  uint8_t mark[sizeof(borrowed_mark)];
  struct range low, code;
  struct layout layout;
  uint64_t frame, restorer;

  find_layout(maps, &layout);
  frame = layout.stack.start + SIGFRAME_ROOM_BELOW;
  low = (struct range){layout.stack.start, frame + SIGFRAME_ROOM_BELOW + 17};
  if (!is_in(&low, regs->rsp) && !is_in(&low, regs->rbp))
    return false;
  if (read_memory(tracee->pid, layout.stack.start, mark, sizeof(mark)) != sizeof(mark) ||
      !has_mark(mark) ||
      read_memory(tracee->pid, frame, &restorer, sizeof(restorer)) != sizeof(restorer) ||
      !is_restorer(tracee->pid, &layout, restorer))
    return false;
  /* Whose stack has come down to an old mark by itself is somewhere else. */
  code = (struct range){restorer, restorer + sizeof(with_rax) + 1};
  if (!is_in(&layout.vdso, regs->rip) && !(is_in(&code, regs->rip) && is_in(&low, regs->rsp)))
    return false;
  regs->rip = restorer;
  regs->rsp = frame + 8;
  return true;
}

/* Reads the vdso. The caller frees *bytes. */
static int read_vdso(pid_t pid, const struct layout *layout, uint8_t **bytes, size_t *size,
                     struct err *e)
{
  AUTO_FREE uint8_t *vdso = malloc(VDSO_LIMIT);

  if (!vdso)
    return err_sys(e, "pid %d: vdso", pid);
  *size = layout->vdso.end - layout->vdso.start;
  if (*size == 0 || *size > VDSO_LIMIT ||
      read_memory(pid, layout->vdso.start, vdso, *size) != (ssize_t)*size)
    return err_set(e, "pid %d: has no vdso to make system calls from", pid);
  *bytes = TAKE_POINTER(vdso);
  return 0;
}

static int find_entry(pid_t pid, const struct layout *layout, uint64_t frame, uint64_t restorer,
                      struct entry *entry, struct err *e)
{
  AUTO_FREE uint8_t *vdso = NULL;
  size_t size;

  memset(entry, 0, sizeof(*entry));
  if (read_vdso(pid, layout, &vdso, &size, e) < 0)
    return -1;
  for (size_t i = 0; i + 2 < size; i++) {
    if (vdso[i] != 0x0f || vdso[i + 1] != 0x05)
      continue;
    entry->rip = layout->vdso.start + i;
    if (frame && follow_epilogue(vdso + i + 2, size - i - 2, frame, entry)) {
      entry->frame = frame;
      entry->restorer = restorer;
    }
    if (!frame || entry->frame)
      return 0;
  }
  if (entry->rip == 0)
    return err_set(e, "pid %d: its vdso has no system call instruction", pid);
  return 0;
}

/* How many slots the copy has that begins there, or 0: none does. */
static size_t slots_of(pid_t pid, const struct range *range, const void *code, size_t size)
{
  uint8_t bytes[4096];
  uint64_t slots;

  if (range->end - range->start < sizeof(bytes) ||
      read_memory(pid, range->start, bytes, sizeof(bytes)) != sizeof(bytes) ||
      memcmp(bytes, code, size) != 0)
    return 0;
  memcpy(&slots, bytes + size, sizeof(slots));
  return slots <= TRACEE_AT_ONCE ? slots : 0;
}

size_t entry_find_copies(pid_t pid, const struct proc_maps *maps, const void *code, size_t size,
                         struct remote_copy copies[], size_t room)
{
  struct layout layout;
  size_t found = 0;

  find_layout(maps, &layout);
  for (size_t i = 0; i < layout.text_count && i < ARRAY_LEN(layout.text); i++) {
    struct range range = layout.text[i];
    size_t slots;

    /* The kernel makes one mapping of two that touch, before they have scratch memory. */
    while (found < room && range.start < range.end &&
           (slots = slots_of(pid, &range, code, size)) > 0) {
      copies[found++] = (struct remote_copy){range.start, slots};
      range.start += remote_size(slots);
    }
  }
  return found;
}

int entry_find(const struct tracee *tracee, const struct proc_maps *maps, uint64_t *restorer,
               struct entry *entry, struct err *e)
{
  AUTO_FREE uint8_t *before = NULL;
  struct layout layout;
  uint64_t frame = 0;
  size_t size = 0;

  find_layout(maps, &layout);
  *restorer = find_restorer(tracee->pid, &layout, *restorer);
  if (*restorer)
    frame = find_frame(tracee, maps, &layout.stack, &before, &size);
  if (find_entry(tracee->pid, &layout, frame, *restorer, entry, e) < 0)
    return -1;
  if (entry->frame) {
    entry->before = TAKE_POINTER(before);
    entry->borrowed = size;
  }
  return 0;
}

int entry_find_plain(pid_t pid, struct entry *entry, struct err *e)
{
  struct layout layout;

  if (read_layout(pid, &layout, e) < 0)
    return -1;
  return find_entry(pid, &layout, 0, 0, entry, e);
}

int tracee_vdso_digest(pid_t pid, char **digest, struct err *e)
{
  AUTO_FREE uint8_t *vdso = NULL;
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a: it tells kernels apart, no more */
  struct layout layout;
  size_t size;

  pid = pid ? pid : getpid();
  if (read_layout(pid, &layout, e) < 0 || read_vdso(pid, &layout, &vdso, &size, e) < 0)
    return -1;
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ vdso[i]) * UINT64_C(0x100000001b3);
  *digest = io_format(e, "%zu-%016" PRIx64, size, hash);
  return *digest ? 0 : -1;
}
