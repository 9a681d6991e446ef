/* The mappings of a process. */
#include "base/cleanup.h"
#include "dump/capture.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static const char *const special_names[] = {"vdso", "vvar", "vvar_vclock", "vsyscall"};

/* "[vdso]" is "vdso"; NULL for what is not the kernel's own. */
const char *capture_special_name(const struct proc_map *map)
{
  for (size_t i = 0; i < ARRAY_LEN(special_names); i++) {
    size_t length = strlen(special_names[i]);

    if (map->name[0] == '[' && strncmp(map->name + 1, special_names[i], length) == 0 &&
        strcmp(map->name + 1 + length, "]") == 0)
      return special_names[i];
  }
  return NULL;
}

bool capture_map_has_file(const struct proc_map *map)
{
  /* The number of a segment of System V shared memory may be 0. */
  return map->inode != 0 || map->name[0] == '/';
}

/* VmFlags (proc(5), Documentation/filesystems/proc.rst) of what cannot come back. */
static const struct {
  const char *flag;
  const char *reason;
} obstacles[] = {
    {"ht", "memory of huge pages (hugetlb) is not supported; use transparent huge pages"},
    {"pf", "memory of a device is not supported; close the device"},
    {"io", "memory of a device is not supported; close the device"},
    {"um", "its page faults are handled by a program (userfaultfd)"},
    {"uw", "its page faults are handled by a program (userfaultfd)"},
    {"ss", "shadow stacks are not supported; run the program without them"},
    {"sl", "sealed memory is not supported"},
    {"gu", "guard regions (MADV_GUARD_INSTALL) are not supported yet"},
};

int capture_map_check(const struct proc_map *map, struct err *e)
{
  if (capture_special_name(map))
    return 0;
  for (size_t i = 0; i < ARRAY_LEN(obstacles); i++) {
    if (proc_map_has_flag(map, obstacles[i].flag))
      return err_set(e, "cannot be checkpointed: %s", obstacles[i].reason);
  }
  if (strncmp(map->name, "/[aio]", 6) == 0)
    return err_set(e, "cannot be checkpointed: asynchronous I/O contexts (io_setup) are not "
                      "supported; run the program without them");
  if (strncmp(map->name, "anon_inode:", 11) == 0 || strncmp(map->name, "socket:", 7) == 0)
    return err_set(e, "cannot be checkpointed: memory shared with the kernel is not supported");
  return 0;
}

static const struct {
  const char *flag;
  uint64_t advice;
} advice_flags[] = {
    {"dc", VMA_DONTFORK},   {"wf", VMA_WIPEONFORK},  {"dd", VMA_DONTDUMP},  {"hg", VMA_HUGEPAGE},
    {"nh", VMA_NOHUGEPAGE}, {"sr", VMA_SEQUENTIAL},  {"rr", VMA_RANDOM},    {"mg", VMA_MERGEABLE},
    {"lo", VMA_LOCKED},     {"lf", VMA_LOCKONFAULT}, {"dp", VMA_DROPPABLE},
};

static uint64_t advice_of(const struct proc_map *map)
{
  uint64_t advice = 0;

  for (size_t i = 0; i < ARRAY_LEN(advice_flags); i++) {
    if (proc_map_has_flag(map, advice_flags[i].flag))
      advice |= advice_flags[i].advice;
  }
  return advice;
}

/* "[anon:NAME]" was named by prctl(PR_SET_VMA). */
static int take_name(const struct proc_map *map, struct vma *vma, struct err *e)
{
  size_t length = strlen(map->name);

  if (strncmp(map->name, "[anon:", 6) != 0 || map->name[length - 1] != ']')
    return 0;
  vma->name = strndup(map->name + 6, length - 7);
  return vma->name ? 0 : err_sys(e, "mapping");
}

/* Parts of one file side by side, as the loader maps them. */
static bool is_more_of(const struct proc_map *map, const struct proc_map *before)
{
  return map->start == before->end && map->perms[3] == 'p' && before->perms[3] == 'p' &&
         map->device == before->device && map->inode == before->inode &&
         strcmp(map->name, before->name) == 0 && !capture_map_is_object(map);
}

/* The file of the mapping may be that of the one before it, if there is one. */
static int to_vma(struct capture *capture, pid_t pid, const struct proc_map *map,
                  const struct proc_map *before, struct vma *vma, struct err *e)
{
  const char *special = capture_special_name(map);

  vma->start = map->start;
  vma->end = map->end;
  vma->prot = (map->perms[0] == 'r' ? PROT_READ : 0u) | (map->perms[1] == 'w' ? PROT_WRITE : 0u) |
              (map->perms[2] == 'x' ? PROT_EXEC : 0u);
  vma->flags = map->perms[3] == 's' ? MAP_SHARED : MAP_PRIVATE;
  vma->huge = map->huge_kib > 0;
  vma->key = map->key;
  if (special) {
    vma->special = strdup(special);
    return vma->special ? 0 : err_sys(e, "mapping");
  }
  if (capture_map_check(map, e) < 0)
    return -1;
  if (proc_map_has_flag(map, "gd"))
    vma->flags |= MAP_GROWSDOWN;
  if (proc_map_has_flag(map, "nr"))
    vma->flags |= MAP_NORESERVE;
  vma->advice = advice_of(map);
  if (take_name(map, vma, e) < 0)
    return -1;
  if (!capture_map_has_file(map)) {
    vma->flags |= MAP_ANONYMOUS;
    return 0;
  }
  vma->offset = map->offset;
  if (before && is_more_of(map, before)) {
    vma->file = vma[-1].file;
    return 0;
  }
  return capture_mapped(capture, pid, map, &vma->file, e);
}

static int take_addresses(struct source *source, struct mm *mm, struct err *e)
{
  const struct proc_stat *stat = &source->stat;
  char *auxv;

  mm->start_code = stat->start_code;
  mm->end_code = stat->end_code;
  mm->start_data = stat->start_data;
  mm->end_data = stat->end_data;
  mm->start_brk = stat->start_brk;
  mm->start_stack = stat->start_stack;
  mm->arg_start = stat->arg_start;
  mm->arg_end = stat->arg_end;
  mm->env_start = stat->env_start;
  mm->env_end = stat->env_end;
  mm->brk = source->brk;
  if (proc_text(source->pid, "auxv", &auxv, &mm->auxv.size, e) != 0)
    return -1;
  mm->auxv.data = (uint8_t *)auxv;
  return 0;
}

/* As the process has them, or its snapshot: `pid`. */
static int take_mappings(struct capture *capture, const struct source *source, pid_t pid,
                         struct err *e)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  struct mm *mm = tree_mm(&capture->tree, source->mm);
  const uint64_t ours = source->remote_base;
  const uint64_t end = ours + source->remote_size;

  if (proc_smaps_read(pid, &maps, e) != 0)
    return -1;
  for (size_t i = 0; i < maps.count; i++) {
    struct proc_map *map = &maps.maps[i];
    struct vma *vma;

    /* The kernel may have made one of ours and a neighbour of the same kind. */
    if (map->start < ours && map->end > ours)
      map->end = ours;
    if (map->start < end && map->end > end && map->start >= ours)
      map->start = end;
    if (map->start >= ours && map->end <= end) {
      /* The trampoline page is not the target's, but shows what it does with new mappings. */
      mm->lock_future = advice_of(map) & (VMA_LOCKED | VMA_LOCKONFAULT);
      continue;
    }
    vma = list_append(&mm->vmas, &mm->vma_count, sizeof(*vma));
    if (!vma)
      return err_sys(e, "mappings");
    if (to_vma(capture, pid, map, i ? map - 1 : NULL, vma, e) < 0)
      return err_prefix(e, "mapping at 0x%" PRIx64 " (%s)", map->start, map->name);
  }
  return 0;
}

static bool has_object(const struct proc_maps *maps)
{
  for (size_t i = 0; i < maps->count; i++) {
    if (capture_map_is_object(&maps->maps[i]))
      return true;
  }
  return false;
}

int capture_space(struct capture *capture, struct source *source, struct mm *mm, struct err *e)
{
  if (take_addresses(source, mm, e) < 0)
    return -1;
  source->mapped = has_object(&source->maps);
  return source->mapped ? take_mappings(capture, source, source->pid, e) : 0;
}

int capture_memory(struct capture *capture, bool with_snapshots, struct err *e)
{
  for (size_t i = 0; i < capture->source_count; i++) {
    struct source *source = &capture->sources[i];
    pid_t pid = source->whole ? source->snapshot.tid : source->pid;

    if (source->zombie || source->mapped || (source->whole && !with_snapshots))
      continue;
    if (take_mappings(capture, source, pid, e) < 0)
      return err_prefix(e, "pid %d", source->pid);
    source->mapped = true;
  }
  return 0;
}
