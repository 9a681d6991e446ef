#include "dump/fetch.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/pagemap.h"
#include "stream/crc32c.h"
#include "stream/wire.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* What pipes save they cost in a process of which less than this is asked for. */
enum { PIPE_FROM = 4 << 20 };

enum { FRAME_RUNS = EXTENT_PAGES / 2 }; /* that do not touch each other */
_Static_assert(FETCH_FRAMES *FRAME_RUNS <= TRACEE_SEND_PARTS, "all frames' runs can be asked for");

int fetch_open(struct fetch *fetch, struct source *source, bool of_snapshot, struct err *e)
{
  char path[64];

  *fetch = (struct fetch){.source = source, .of_snapshot = of_snapshot, .mem = -1, .pagemap = -1};
  for (size_t i = 0; i < TRACEE_PIPES; i++)
    fetch->pipes[i] = -1;
  fetch->peek = (struct peek){{-1, -1}};
  snprintf(path, sizeof(path), "/proc/%d/mem", of_snapshot ? source->snapshot.tid : source->pid);
  fetch->mem = open(path, O_RDONLY | O_CLOEXEC);
  if (fetch->mem < 0)
    return err_sys(e, "%s", path);
  fetch->pagemap = of_snapshot ? -1 : pagemap_open(source->pid, e);
  return of_snapshot || fetch->pagemap >= 0 ? 0 : -1;
}

void fetch_close(struct fetch *fetch)
{
  cleanup_close(&fetch->mem);
  cleanup_close(&fetch->pagemap);
  for (size_t i = 0; i < TRACEE_PIPES; i++) {
    /* The snapshot has them open, too, and they count as its user's: pipe(7). */
    if (fetch->pipes[i] >= 0)
      fcntl(fetch->pipes[i], F_SETPIPE_SZ, PAGE_SIZE_X86);
    cleanup_close(&fetch->pipes[i]);
  }
  peek_close(&fetch->peek);
}

int fetch_check(const struct fetch *fetch, struct err *e)
{
  siginfo_t info = {0};
  id_t tid = (id_t)fetch->source->snapshot.tid;

  if (!fetch->of_snapshot)
    return 0;
  if (waitid(P_PID, tid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0)
    return err_sys(e, "snapshot");
  return info.si_pid ? err_set(e, "snapshot: it has ended") : 0;
}

/* Runs of stored pages as iovecs of the process's memory. */
static unsigned to_iovecs(const struct frame *frame, struct iovec iov[FRAME_RUNS])
{
  uint64_t bits = frame->stored;
  unsigned count = 0;

  for (unsigned i = 0; i < EXTENT_PAGES; i++) {
    if (!(bits >> i & 1))
      continue;
    if (i > 0 && bits >> (i - 1) & 1) {
      iov[count - 1].iov_len += PAGE_SIZE_X86;
      continue;
    }
    iov[count++] = (struct iovec){
        .iov_base = (void *)(frame->address + (uint64_t)i * PAGE_SIZE_X86), /* NOLINT: not ours */
        .iov_len = PAGE_SIZE_X86,
    };
  }
  return count;
}

/* What was read is all of it: `wanted` bytes. */
static int check_read(ssize_t n, size_t wanted, struct err *e)
{
  if (n < 0)
    return err_sys(e, "memory");
  return (size_t)n == wanted ? 0 : err_set(e, "memory: the process, or its snapshot, has ended");
}

/* Takes out what is not to be had whole. */
static int drain(int pipe, size_t size, struct err *e)
{
  uint8_t buffer[PAGE_SIZE_X86];

  while (size) {
    size_t piece = size < sizeof(buffer) ? size : sizeof(buffer);

    if (check_read(io_read(pipe, buffer, piece), piece, e) < 0)
      return -1;
    size -= piece;
  }
  return 0;
}

/* Where the frames to come have their pipes. */
static unsigned next_half(const struct fetch *fetch)
{
  return FETCH_PIPES - fetch->first;
}

static void open_pipes(struct fetch *fetch)
{
  struct source *source = fetch->source;

  fetch->tried = true;
  fetch->sends =
      peek_open(&fetch->peek) && tracee_send_open(&source->snapshot, source->remote_base,
                                                  source->remote_size, fetch->pipes) == 0;
}

int fetch_ask(struct fetch *fetch, const struct frame *frames, size_t count, struct err *e)
{
  struct iovec parts[FETCH_FRAMES * FRAME_RUNS];
  size_t counts[TRACEE_PIPES] = {0}, part_count = 0;

  memset(fetch->asked, 0, sizeof(fetch->asked));
  for (size_t i = 0; i < count; i++) {
    size_t length = frame_raw_length(&frames[i]);

    fetch->asked[next_half(fetch) + i / FETCH_PIPE_FRAMES] += length;
    fetch->bytes += length;
  }
  if (fetch->of_snapshot && !fetch->tried && fetch->bytes >= PIPE_FROM)
    open_pipes(fetch);
  for (size_t i = 0; i < count && fetch->sends; i++) {
    unsigned runs = to_iovecs(&frames[i], parts + part_count);

    part_count += runs;
    counts[next_half(fetch) + i / FETCH_PIPE_FRAMES] += runs;
  }
  fetch->asking = part_count > 0;
  return fetch->asking ? tracee_send_start(&fetch->source->snapshot, parts, counts, e) : 0;
}

int fetch_turn(struct fetch *fetch, struct err *e)
{
  size_t sent[TRACEE_PIPES];
  unsigned first = next_half(fetch);

  fetch->first = first;
  if (!fetch->asking)
    return 0;
  fetch->asking = false;
  if (tracee_send_end(&fetch->source->snapshot, sent, e) < 0)
    return -1;
  for (size_t i = first; i < first + FETCH_PIPES; i++) {
    bool whole = sent[i] == fetch->asked[i];

    /* Some may not be read by the process itself. */
    if (!whole && drain(fetch->pipes[i], sent[i], e) < 0)
      return -1;
    fetch->in_pipe[i] = whole ? sent[i] : 0;
  }
  return 0;
}

/* At half the speed of process_vm_readv(2), but anything. */
static int read_mem(const struct fetch *fetch, const struct iovec *runs, unsigned count,
                    uint8_t *buffer, struct err *e)
{
  for (unsigned i = 0; i < count; i++) {
    ssize_t n = io_pread(fetch->mem, buffer, runs[i].iov_len, (off_t)(uintptr_t)runs[i].iov_base);

    if (check_read(n, runs[i].iov_len, e) < 0)
      return -1;
    buffer += n;
  }
  return 0;
}

/*
 * process_vm_readv(2) pins: the kernel first gives the process a copy of its own of each page that
 * it shares (gup_must_unshare in mm/gup.c). /proc/PID/mem does not pin. A snapshot's pages are all
 * shared.
 */
static bool is_shared(const struct fetch *fetch, const struct frame *frame)
{
  const uint64_t own = PAGEMAP_PRESENT | PAGEMAP_EXCLUSIVE;
  uint64_t entries[EXTENT_PAGES];
  bool shared = fetch->of_snapshot || pagemap_read(fetch->pagemap, frame->address, entries,
                                                   EXTENT_PAGES, &(struct err){""}) < 0;

  for (unsigned i = 0; i < EXTENT_PAGES && !shared; i++)
    shared = frame->stored >> i & 1 && (entries[i] & own) != own;
  return shared;
}

static size_t pipe_of(const struct fetch *fetch, size_t index)
{
  return fetch->first + index / FETCH_PIPE_FRAMES;
}

static int read_pipe(struct fetch *fetch, size_t which, uint8_t *buffer, size_t size, struct err *e)
{
  if (check_read(io_read(fetch->pipes[which], buffer, size), size, e) < 0)
    return -1;
  fetch->in_pipe[which] -= size;
  return 0;
}

int fetch_read(struct fetch *fetch, size_t index, const struct frame *frame, uint8_t *buffer,
               struct err *e)
{
  size_t size = frame_raw_length(frame);
  struct iovec local = {.iov_base = buffer, .iov_len = size};
  struct iovec remote[FRAME_RUNS];
  unsigned count = to_iovecs(frame, remote);

  if (fetch->in_pipe[pipe_of(fetch, index)])
    return read_pipe(fetch, pipe_of(fetch, index), buffer, size, e);
  if (!is_shared(fetch, frame) &&
      process_vm_readv(fetch->source->pid, &local, 1, remote, count, 0) == (ssize_t)size)
    return 0;
  return read_mem(fetch, remote, count, buffer, e);
}

bool fetch_peek(struct fetch *fetch, size_t index, const struct frame *frame, void *buffer)
{
  size_t which = pipe_of(fetch, index);

  return fetch->in_pipe[which] > 0 &&
         peek_at(&fetch->peek, fetch->pipes[which], buffer, frame->length);
}

int fetch_pass(struct fetch *fetch, size_t index, struct frame *frame, struct stream_writer *writer,
               struct err *e)
{
  size_t which = pipe_of(fetch, index);

  frame->payload_crc = crc32c(0, frame->payload, frame->length);
  fetch->in_pipe[which] -= frame->length;
  return stream_pass_from(writer, fetch->pipes[which], frame, e);
}
