/*
 * The first remote call of a process, before it has a trampoline page, goes through its vdso. So
 * that a thread survives the death of its tracer even there, the instructions behind the vdso's
 * `syscall` are followed on paper to their `ret`, which is made to return into the C library's
 * signal return (`mov $15, %eax; syscall`) with a signal frame at the low end of the stack.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "proc/proc.h"
#include "tracee/landmarks.h"
#include "tracee/remote.h"
#include "tracee/stack.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  VDSO_LIMIT = 64 << 10,
  TEXT_LIMIT = 16 << 20, /* bytes of code that are searched at most */
  TEXT_WINDOW = 64 << 10,
};

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

static bool is_restorer(pid_t pid, const struct landmarks *landmarks, uint64_t address)
{
  uint8_t code[sizeof(with_rax)];

  for (size_t i = 0; i < landmarks->text_count && i < ARRAY_LEN(landmarks->text); i++) {
    if (range_has(&landmarks->text[i], address))
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
static uint64_t find_restorer(pid_t pid, const struct landmarks *landmarks, uint64_t guess)
{
  AUTO_FREE uint8_t *window = NULL;
  size_t searched = 0;

  if (is_restorer(pid, landmarks, guess))
    return guess;
  window = malloc(TEXT_WINDOW);
  if (!window)
    return 0;
  /* From the end: libraries stand above the program, and the C library among the first loaded. */
  for (size_t i = landmarks->text_count;
       i > 0 && landmarks->text_count - i < ARRAY_LEN(landmarks->text); i--) {
    const struct range *text = &landmarks->text[(i - 1) % ARRAY_LEN(landmarks->text)];

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

void entry_free(struct entry *entry)
{
  free(entry->before);
  *entry = (struct entry){0};
}

bool entry_find_return(const struct tracee *tracee, const struct proc_maps *maps,
                       struct user_regs_struct *regs)
{
  struct range low, code;
  struct landmarks landmarks;
  uint64_t frame, restorer;

  landmarks_find(maps, &landmarks);
  frame = landmarks.stack.start + SIGFRAME_ROOM_BELOW;
  low = (struct range){landmarks.stack.start, frame + SIGFRAME_ROOM_BELOW + 17};
  if (!range_has(&low, regs->rsp) && !range_has(&low, regs->rbp))
    return false;
  if (!stack_has_mark(tracee->pid, &landmarks.stack) ||
      read_memory(tracee->pid, frame, &restorer, sizeof(restorer)) != sizeof(restorer) ||
      !is_restorer(tracee->pid, &landmarks, restorer))
    return false;
  /* Whose stack has come down to an old mark by itself is somewhere else. */
  code = (struct range){restorer, restorer + sizeof(with_rax) + 1};
  if (!range_has(&landmarks.vdso, regs->rip) &&
      !(range_has(&code, regs->rip) && range_has(&low, regs->rsp)))
    return false;
  regs->rip = restorer;
  regs->rsp = frame + 8;
  return true;
}

/* Reads the vdso. The caller frees *bytes. */
static int read_vdso(pid_t pid, const struct landmarks *landmarks, uint8_t **bytes, size_t *size,
                     struct err *e)
{
  AUTO_FREE uint8_t *vdso = malloc(VDSO_LIMIT);

  if (!vdso)
    return err_sys(e, "pid %d: vdso", pid);
  *size = landmarks->vdso.end - landmarks->vdso.start;
  if (*size == 0 || *size > VDSO_LIMIT ||
      read_memory(pid, landmarks->vdso.start, vdso, *size) != (ssize_t)*size)
    return err_set(e, "pid %d: has no vdso to make system calls from", pid);
  *bytes = TAKE_POINTER(vdso);
  return 0;
}

static int find_entry(pid_t pid, const struct landmarks *landmarks, uint64_t frame,
                      uint64_t restorer, struct entry *entry, struct err *e)
{
  AUTO_FREE uint8_t *vdso = NULL;
  size_t size;

  memset(entry, 0, sizeof(*entry));
  if (read_vdso(pid, landmarks, &vdso, &size, e) < 0)
    return -1;
  for (size_t i = 0; i + 2 < size; i++) {
    if (vdso[i] != 0x0f || vdso[i + 1] != 0x05)
      continue;
    entry->rip = landmarks->vdso.start + i;
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
  struct landmarks landmarks;
  size_t found = 0;

  landmarks_find(maps, &landmarks);
  for (size_t i = 0; i < landmarks.text_count && i < ARRAY_LEN(landmarks.text); i++) {
    struct range range = landmarks.text[i];
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
  struct landmarks landmarks;
  uint64_t frame = 0;
  size_t size = 0;

  landmarks_find(maps, &landmarks);
  *restorer = find_restorer(tracee->pid, &landmarks, *restorer);
  if (*restorer)
    frame = stack_find_frame(tracee, maps, &landmarks.stack, &before, &size);
  if (find_entry(tracee->pid, &landmarks, frame, *restorer, entry, e) < 0)
    return -1;
  if (entry->frame) {
    entry->before = TAKE_POINTER(before);
    entry->borrowed = size;
  }
  return 0;
}

int entry_find_plain(pid_t pid, struct entry *entry, struct err *e)
{
  struct landmarks landmarks;

  if (landmarks_read(pid, &landmarks, e) < 0)
    return -1;
  return find_entry(pid, &landmarks, 0, 0, entry, e);
}

int tracee_vdso_digest(pid_t pid, char **digest, struct err *e)
{
  AUTO_FREE uint8_t *vdso = NULL;
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a: it tells kernels apart, no more */
  struct landmarks landmarks;
  size_t size;

  pid = pid ? pid : getpid();
  if (landmarks_read(pid, &landmarks, e) < 0 || read_vdso(pid, &landmarks, &vdso, &size, e) < 0)
    return -1;
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ vdso[i]) * UINT64_C(0x100000001b3);
  *digest = io_format(e, "%zu-%016" PRIx64, size, hash);
  return *digest ? 0 : -1;
}
