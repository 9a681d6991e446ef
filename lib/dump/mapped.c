/*
 * Mapped files and memory, when /proc/PID/map_files may be read but not followed: that wants
 * CAP_CHECKPOINT_RESTORE in the initial user namespace (proc(5)).
 */
#include "base/cleanup.h"
#include "dump/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum {
  PAGE = 4096,
  WINDOW = TRACEE_SCRATCH_SIZE / 2, /* pages of one mincore(2): a byte each */
  HOLES_LIMIT = 16384,              /* pages that may be read though perhaps nobody made them */
};

/*
 * Some file systems (btrfs, overlayfs) show other numbers in maps than in stat(2). What we map
 * ourselves is shown by the same rule.
 */
static bool maps_alike(const char *path, const struct proc_map *map)
{
  AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  void *page = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
  CLEANUP(proc_maps_free) struct proc_maps ours = {0};
  bool same = false;

  if (page == MAP_FAILED)
    return false;
  if (proc_smaps_read(getpid(), &ours, &(struct err){""}) == 0) {
    for (size_t i = 0; i < ours.count; i++) {
      if (ours.maps[i].start == (uint64_t)page)
        same = ours.maps[i].device == map->device && ours.maps[i].inode == map->inode;
    }
  }
  munmap(page, PAGE);
  return same;
}

void mapped_stat(pid_t pid, const struct proc_map *map, const char *link, struct stat *found)
{
  char path[PATH_MAX + 64];

  snprintf(path, sizeof(path), "/proc/%d/root%s", pid, link);
  if (link[0] == '/' && stat(path, found) == 0 &&
      ((found->st_dev == map->device && found->st_ino == map->inode) ||
       (S_ISREG(found->st_mode) && maps_alike(path, map))))
    return;
  *found = (struct stat){.st_dev = map->device, .st_ino = map->inode, .st_mode = S_IFREG};
}

bool mapped_is_memory(pid_t pid, const struct proc_map *map)
{
  CLEANUP(proc_mounts_free) struct proc_mounts mounts = {0};
  bool memory = false;

  if (map->perms[3] != 's' || !capture_map_is_object(map) ||
      proc_mounts_read(pid, &mounts, &(struct err){""}) != 0)
    return false;
  for (size_t i = 0; i < mounts.count; i++)
    memory = memory ||
             (mounts.items[i].device == map->device && strcmp(mounts.items[i].type, "tmpfs") == 0);
  return memory;
}

static bool is_of(const struct mapped_part *part, dev_t device, ino_t inode)
{
  return part->device == device && part->inode == inode;
}

static bool is_known(const struct capture *capture, const struct mapped_part *new)
{
  for (size_t i = 0; i < capture->part_count; i++) {
    const struct mapped_part *part = &capture->parts[i];

    if (is_of(part, new->device, new->inode) && part->offset <= new->offset &&
        part->end >= new->end)
      return true;
  }
  return false;
}

static int add_page(struct mapped_part *part, uint64_t offset, struct err *e)
{
  struct page_run *last = part->run_count ? &part->runs[part->run_count - 1] : NULL;

  if (!last || last->end != offset) {
    last = list_append(&part->runs, &part->run_count, sizeof(*last));
    if (!last)
      return err_sys(e, "shared memory");
    last->start = offset;
  }
  last->end = offset + PAGE;
  return 0;
}

/*
 * Notes the pages that exist, or with `all` every page. Returns how many do not exist or, for all
 * that mincore(2) shows, stand in swap.
 */
static int64_t take_pages(struct mapped_part *part, struct tracee *leader, bool all, struct err *e)
{
  uint64_t area = tracee_scratch(leader);
  uint8_t present[WINDOW];
  int64_t missing = 0;

  part->run_count = 0;
  for (uint64_t at = part->offset; at < part->end; at += (uint64_t)WINDOW * PAGE) {
    uint64_t pages = (part->end - at) / PAGE < WINDOW ? (part->end - at) / PAGE : WINDOW;
    int64_t result;

    if (TRACEE_CALL(leader, e, &result, SYS_mincore, part->start + (at - part->offset),
                    pages * PAGE, area, 0, 0, 0) < 0 ||
        tracee_read(leader, area, present, pages, e) < 0)
      return -1;
    if (result < 0) {
      errno = (int)-result;
      return err_sys(e, "mincore");
    }
    for (uint64_t i = 0; i < pages; i++) {
      missing += !(present[i] & 1);
      if ((all || present[i] & 1) && add_page(part, at + i * PAGE, e) < 0)
        return -1;
    }
  }
  return missing;
}

static bool is_readable(const struct tracee *tracee, uint64_t address)
{
  uint8_t byte;

  return tracee_read(tracee, address, &byte, 1, &(struct err){""}) == 0;
}

/* Is there more of the object behind the mapping? Looks through a second one, a page longer. */
static int find_end(struct mapped_part *part, struct tracee *leader, struct err *e)
{
  uint64_t last_page = part->start + (part->end - part->offset) - PAGE;
  int64_t address, result;

  if (!is_readable(leader, last_page))
    return err_set(e, "cannot be checkpointed: the mapping is longer than the memory behind it, "
                      "which is not to be seen without privilege; checkpoint it as root");
  /* From a length of 0, mremap(2) maps the same shared pages once more. */
  if (TRACEE_CALL(leader, e, &address, SYS_mremap, last_page, 0, UINT64_C(2) * PAGE, MREMAP_MAYMOVE,
                  0, 0) < 0)
    return -1;
  if (address < 0) {
    errno = (int)-address;
    return err_sys(e, "mremap");
  }
  part->last = !is_readable(leader, (uint64_t)address + PAGE);
  return TRACEE_CALL(leader, e, &result, SYS_munmap, (uint64_t)address, UINT64_C(2) * PAGE, 0, 0, 0,
                     0);
}

static struct tracee *leader_of(const struct capture *capture, pid_t pid)
{
  size_t i = 0;

  while (capture->sources[i].pid != pid)
    i++;
  return &capture->sources[i].threads[0];
}

int mapped_take(struct capture *capture, pid_t pid, const struct proc_map *map, struct err *e)
{
  struct tracee *leader = leader_of(capture, pid);
  int64_t swapped = (int64_t)(map->swap_kib * 1024 / PAGE);
  struct mapped_part *part;
  struct mapped_part new = {
      .device = map->device,
      .inode = map->inode,
      .pid = pid,
      .start = map->start,
      .offset = map->offset,
      .end = map->offset + (map->end - map->start),
  };
  int64_t missing;

  if (is_known(capture, &new))
    return 0;
  part = list_append(&capture->parts, &capture->part_count, sizeof(*part));
  if (!part)
    return err_sys(e, "shared memory");
  *part = new;
  missing = take_pages(part, leader, false, e);
  if (missing < 0)
    return -1;
  if (swapped && missing > swapped + HOLES_LIMIT)
    return err_set(e, "cannot be checkpointed: shared memory is partly swapped out, and which part "
                      "is not to be seen without privilege; checkpoint it as root");
  if (swapped && take_pages(part, leader, true, e) < 0)
    return -1;
  return find_end(part, leader, e);
}

static int compare_parts(const void *a, const void *b)
{
  const struct mapped_part *x = a;
  const struct mapped_part *y = b;

  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* A descriptor of the same memory that some other process has: it knows better. */
static const struct file *opened(const struct capture *capture, uint32_t space)
{
  for (size_t i = 0; i < capture->tree.file_count; i++) {
    if (capture->tree.files[i].space == space && capture->known[i].local >= 0)
      return &capture->tree.files[i];
  }
  return NULL;
}

/*
 * The object's size, if its parts make a whole. Only what lies below the lowest of them may be
 * missing: no process can have it again, as mremap(2) makes a mapping longer at its end alone.
 */
static int sum_up(const struct capture *capture, const struct known_file *known, uint64_t *size,
                  struct err *e)
{
  bool first = true;
  bool last = false;

  *size = 0;
  for (size_t i = 0; i < capture->part_count; i++) {
    const struct mapped_part *part = &capture->parts[i];

    if (!is_of(part, known->device, known->inode) || (!first && part->offset > *size))
      continue;
    first = false;
    *size = part->end > *size ? part->end : *size;
    last = last || part->last;
  }
  if (last)
    return 0;
  return err_set(e,
                 "cannot be checkpointed: nobody has the whole of this shared memory mapped, and "
                 "the rest is not to be seen without privilege; checkpoint it as root");
}

/* What one process has open and another has only mapped must not become two. */
static int check_single(const struct capture *capture, size_t index, struct err *e)
{
  const struct known_file *known = &capture->known[index];

  for (size_t i = 0; i < capture->tree.file_count; i++) {
    if (capture->known[i].device == known->device && capture->known[i].inode == known->inode &&
        strcmp(capture->tree.files[i].type, capture->tree.files[index].type) != 0)
      return err_set(e, "cannot be checkpointed: it was deleted; one process has it open, another "
                        "only mapped, which root alone can tell apart; checkpoint it as root");
  }
  return 0;
}

int mapped_finish(struct capture *capture, struct err *e)
{
  if (capture->part_count)
    qsort(capture->parts, capture->part_count, sizeof(*capture->parts), compare_parts);
  for (size_t i = 0; i < capture->tree.file_count; i++) {
    struct file *file = &capture->tree.files[i];
    const struct file *other = file->space ? opened(capture, file->space) : NULL;

    if (other)
      file->size = other->size;
    else if (file->space && (check_single(capture, i, e) < 0 ||
                             sum_up(capture, &capture->known[i], &file->size, e) < 0))
      return err_prefix(e, "file %u (%s)", file->id, file->type);
  }
  return 0;
}

void mapped_free(struct capture *capture)
{
  for (size_t i = 0; i < capture->part_count; i++)
    free(capture->parts[i].runs);
  free(capture->parts);
}
