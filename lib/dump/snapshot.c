/* Copies on write: the tree runs on while its memory is read from them. */
#include "base/cleanup.h"
#include "dump/capture.h"
#include "dump/headroom.h"
#include "dump/keeper.h"
#include "proc/pagemap.h"

#include <inttypes.h>
#include <sched.h>
#include <string.h>

enum { SPARE_MEMORY = 64 << 20, SPARE_PIDS = 2 };

/*
 * A fork takes as long as copying a mebibyte or two, and somebody must stop the process once more
 * to have it reap the copy. All or none: what a child shares with its parent is seen in both or in
 * neither. What is in swap would be slow to come.
 */
static bool is_small(const struct capture *capture, const struct snapshot_need *need,
                     uint64_t swapped)
{
  const uint64_t each = 2 << 20, all = 16 << 20;

  return capture->options->snapshot == SNAPSHOT_AUTO && !swapped && need->bytes <= all &&
         need->bytes <= need->processes * each;
}

struct snapshot_need snapshot_need(const struct capture *capture)
{
  struct snapshot_need need = {0};
  uint64_t swapped = 0;

  for (size_t i = 0; i < capture->source_count; i++) {
    const struct source *source = &capture->sources[i];

    need.bytes += source->status.anonymous + source->status.swapped;
    swapped += source->status.swapped;
    need.processes += !source->zombie;
  }
  if (is_small(capture, &need, swapped))
    return (struct snapshot_need){.small = need.bytes};
  return need;
}

bool snapshot_fits(const struct capture *capture)
{
  const struct dump_options *options = capture->options;
  bool runs_on = options->leave_running || options->commit_fd < 0;
  struct snapshot_need need = snapshot_need(capture);
  uint64_t bytes = need.bytes + (need.bytes < SPARE_MEMORY ? need.bytes : SPARE_MEMORY);
  CLEANUP(headroom_forget) struct headroom_places places = {0};
  struct headroom headroom;
  struct err e = {""};

  if (!runs_on || options->snapshot != SNAPSHOT_AUTO)
    return runs_on && options->snapshot == SNAPSHOT_FORK;
  if (headroom_find(options->pid, &places, &e) < 0 || headroom_read(&places, &headroom, &e) < 0)
    return false;
  if (need.processes == 0 ||
      (headroom.memory >= bytes && headroom.pids >= need.processes + SPARE_PIDS))
    return true;
  if (headroom.memory < bytes)
    warn_user("the tree stands still while it is copied: a copy on write may need %" PRIu64
              " MiB; there is room for %" PRIu64,
              (bytes + (1 << 20) - 1) >> 20, headroom.memory >> 20);
  else
    warn_user("the tree stands still while it is copied: a copy on write needs %zu processes; "
              "there is room for %" PRIu64,
              need.processes + SPARE_PIDS, headroom.pids);
  return false;
}

/* The first page of each private mapping, as the process or its snapshot has it. */
static struct page_range *first_pages(const struct proc_maps *maps, pid_t pid, size_t *count)
{
  AUTO_FREE struct page_range *ranges = calloc(maps->count + 1, sizeof(*ranges));
  AUTO_CLOSE int pagemap = pagemap_open(pid, &(struct err){""});

  *count = 0;
  if (!ranges || pagemap < 0)
    return NULL;
  for (size_t i = 0; i < maps->count; i++) {
    const struct proc_map *map = &maps->maps[i];

    if (!capture_map_has_file(map) && !capture_special_name(map))
      ranges[(*count)++] = (struct page_range){.start = map->start, .end = map->end};
  }
  return pagemap_first(pagemap, ranges, *count) == 0 ? TAKE_POINTER(ranges) : NULL;
}

/* Has the process a page where its snapshot has none? (MADV_WIPEONFORK) */
static bool is_wiped(const struct source *source)
{
  size_t count;
  AUTO_FREE struct page_range *own = first_pages(&source->maps, source->pid, &count);
  AUTO_FREE struct page_range *copied = first_pages(&source->maps, source->snapshot.tid, &count);

  return !own || !copied || memcmp(own, copied, count * sizeof(*own)) != 0;
}

static bool has_memory_of(pid_t pid, uint64_t *mapped, uint64_t *locked)
{
  AUTO_FREE char *text = NULL;
  struct err ignored;

  return proc_text(pid, "status", &text, NULL, &ignored) == 0 &&
         proc_field(text, "VmSize", 10, mapped) && proc_field(text, "VmLck", 10, locked);
}

/*
 * What a fork does not take along (dup_mmap in kernel/fork.c): mappings marked MADV_DONTFORK, pages
 * of those marked MADV_WIPEONFORK, locks.
 */
static bool is_whole(const struct source *source)
{
  uint64_t mapped, copied, locked, ignored_locks;

  return has_memory_of(source->pid, &mapped, &locked) && !locked &&
         has_memory_of(source->snapshot.tid, &copied, &ignored_locks) && mapped == copied &&
         !is_wiped(source);
}

/* A stage like ours, whatever its process is: a real-time one's would be in that one's way. */
static void be_batch(const struct tracee *snapshot)
{
  const struct sched_param none = {0};

  sched_setscheduler(snapshot->tid, SCHED_BATCH, &none);
}

int snapshot_take(struct capture *capture, const struct keeper *keeper, struct err *e)
{
  capture->copied = snapshot_need(capture).processes == 0;
  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];
    int32_t number = 0;
    int result;

    if (source->zombie || capture->copied)
      continue;
    result = tracee_snapshot(&source->threads[0], &source->snapshot, &number, e);
    if (number && keeper_note(keeper, source->pid, source->snapshot.tid, number, e) < 0)
      result = -1;
    if (result < 0) {
      snapshot_drop(capture);
      return -1;
    }
    be_batch(&source->snapshot);
    source->whole = !source->mapped && is_whole(source);
  }
  return 0;
}

void snapshot_drop(struct capture *capture)
{
  for (size_t i = 0; i < capture->source_count; i++) {
    tracee_kill_snapshot(&capture->sources[i].snapshot);
    capture->sources[i].whole = false;
  }
  capture->copied = false;
}
