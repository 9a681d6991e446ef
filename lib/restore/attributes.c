/* What the kernel keeps for a process besides memory, descriptors, signals and threads. */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/proc.h"
#include "restore/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* The addresses that /proc/PID/stat, cmdline and environ show, and brk(2) starts from. */
static int set_mm(const struct mm *mm, struct batch *batch, struct err *e)
{
  uint64_t area;
  struct prctl_mm_map *map = batch_room(batch, sizeof(*map) + mm->auxv.size, &area, e);

  if (!map)
    return -1;
  *map = (struct prctl_mm_map){
      .start_code = mm->start_code,
      .end_code = mm->end_code,
      .start_data = mm->start_data,
      .end_data = mm->end_data,
      .start_brk = mm->start_brk,
      .brk = mm->brk,
      .start_stack = mm->start_stack,
      .arg_start = mm->arg_start,
      .arg_end = mm->arg_end,
      .env_start = mm->env_start,
      .env_end = mm->env_end,
      .auxv = (void *)(area + sizeof(*map)), /* NOLINT: an address of the tracee */
      .auxv_size = (uint32_t)mm->auxv.size,
      .exe_fd = (uint32_t)-1,
  };
  if (mm->auxv.size)
    memcpy(map + 1, mm->auxv.data, mm->auxv.size);
  return BATCH_CALL(batch, e, "memory map", SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, area,
                    sizeof(*map));
}

static int set_rlimits(const struct process *process, struct batch *batch, struct err *e)
{
  for (size_t i = 0; i < process->rlimit_count; i++) {
    const struct rlimit_state *state = &process->rlimits[i];
    struct rlimit limit = {.rlim_cur = state->soft, .rlim_max = state->hard};
    uint64_t area;

    if (batch_data(batch, &limit, sizeof(limit), &area, e) < 0 ||
        BATCH_CALL(batch, e, "limit", SYS_prlimit64, 0, (uint64_t)state->resource, area) < 0)
      return -1;
  }
  return 0;
}

static int write_proc(pid_t pid, const char *name, const char *text, struct err *e)
{
  char path[64];

  snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
  return io_write_file(AT_FDCWD, path, text, e);
}

/* Only what differs is changed: an ordinary user may not make the score smaller. */
static int set_oom_score(const struct process *process, pid_t pid, struct err *e)
{
  AUTO_FREE char *now = NULL;
  char text[32];

  snprintf(text, sizeof(text), "%d\n", process->oom_score_adj);
  if (proc_text(pid, "oom_score_adj", &now, NULL, e) != 0)
    return -1;
  return strcmp(now, text) == 0 ? 0 : write_proc(pid, "oom_score_adj", text, e);
}

static int set_proc_files(const struct process *process, pid_t pid, struct err *e)
{
  char text[32];

  if (set_oom_score(process, pid, e) < 0)
    return -1;
  snprintf(text, sizeof(text), "0x%" PRIx64, process->coredump_filter);
  return write_proc(pid, "coredump_filter", text, e);
}

/* Registrations of membarrier(2): the command that registers each bit is the bit itself. */
static int register_membarriers(const struct process *process, struct batch *batch, struct err *e)
{
  for (uint32_t bits = process->membarrier; bits; bits &= bits - 1) {
    if (BATCH_CALL(batch, e, "membarrier", SYS_membarrier, bits & -bits) < 0)
      return -1;
  }
  return 0;
}

static int set_posix_locks(const struct process *process, struct batch *batch, struct err *e)
{
  for (size_t i = 0; i < process->lock_count; i++) {
    const struct posix_lock *lock = &process->locks[i];
    struct flock argument = {
        .l_type = (short)lock->type,
        .l_whence = SEEK_SET,
        .l_start = lock->start,
        .l_len = lock->length,
    };
    uint64_t area;

    if (batch_data(batch, &argument, sizeof(argument), &area, e) < 0 ||
        BATCH_CALL(batch, e, "lock of fd", SYS_fcntl, (uint64_t)lock->fd, F_SETLK, area) < 0)
      return -1;
  }
  return 0;
}

int rebuild_attributes(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  const struct process *process = which->process;
  struct batch batch = {.tracee = &which->threads[0]};

  (void)rebuild;
  if (set_proc_files(process, which->threads[0].pid, e) < 0 || set_mm(which->mm, &batch, e) < 0 ||
      BATCH_CALL(&batch, e, "umask", SYS_umask, process->umask) < 0 ||
      BATCH_CALL(&batch, e, "personality", SYS_personality, process->personality) < 0 ||
      set_posix_locks(process, &batch, e) < 0 || register_membarriers(process, &batch, e) < 0)
    return -1;
  if (process->child_subreaper &&
      BATCH_CALL(&batch, e, "subreaper", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1) < 0)
    return -1;
  if (process->thp_disabled &&
      BATCH_CALL(&batch, e, "huge pages", SYS_prctl, PR_SET_THP_DISABLE, 1) < 0)
    return -1;
  return set_rlimits(process, &batch, e) < 0 ? -1 : batch_run(&batch, e);
}

int rebuild_dumpable(struct rebuilt *which, struct err *e)
{
  /* 2 (root only) cannot be asked for; the change of credentials has brought it. */
  if (which->process->dumpable > 1)
    return 0;
  return call(&which->threads[0], e, "dumpable", NULL, SYS_prctl, PR_SET_DUMPABLE,
              (uint64_t)which->process->dumpable, 0, 0, 0, 0);
}
