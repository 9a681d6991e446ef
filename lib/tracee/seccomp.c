#include "tracee/seccomp.h"

#include "base/cleanup.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
/* After the C library's, whose names it would replace. */
#include <linux/ptrace.h>

enum { FILTER_LIMIT = 4096 }; /* instructions: BPF_MAXINSNS */

/* One that asks another process what to do cannot come back: who listens is not to be seen. */
static bool notifies(const struct sock_filter *code, size_t count)
{
  for (size_t i = 0; i < count; i++) {
    if (code[i].code == (BPF_RET | BPF_K) &&
        (code[i].k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF)
      return true;
  }
  return false;
}

/* The filter with this index; the last installed is 0. 1: there is none. */
static int get_filter(pid_t tid, unsigned long index, struct seccomp_filter *filter, struct err *e)
{
  struct seccomp_metadata metadata = {.filter_off = index};
  long count = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)index, NULL); /* NOLINT */

  if (count < 0 && (errno == ENOENT || errno == EINVAL /* it is in no filter mode at all */))
    return 1;
  if (count < 0)
    return err_sys(e, "thread %d: seccomp filter", tid);
  if (count == 0 || count > FILTER_LIMIT)
    return err_set(e, "thread %d: seccomp filter of %ld instructions", tid, count);
  filter->program.size = (size_t)count * sizeof(struct sock_filter);
  filter->program.data = malloc(filter->program.size);
  if (!filter->program.data)
    return err_sys(e, "seccomp filter");
  if (ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)index, filter->program.data) != count ||
      ptrace(PTRACE_SECCOMP_GET_METADATA, tid, (void *)sizeof(metadata), &metadata) <
          0) /* NOLINT */
    return err_sys(e, "thread %d: seccomp filter", tid);
  filter->flags = (uint32_t)metadata.flags;
  if (notifies((const struct sock_filter *)filter->program.data, (size_t)count))
    return err_set(e,
                   "thread %d: its seccomp filter asks another process (SECCOMP_RET_USER_NOTIF): "
                   "cannot be checkpointed",
                   tid);
  return 0;
}

static void reverse(struct seccomp_filter *filters, size_t count)
{
  for (size_t i = 0; i < count / 2; i++) {
    struct seccomp_filter saved = filters[i];

    filters[i] = filters[count - 1 - i];
    filters[count - 1 - i] = saved;
  }
}

int tracee_filters(const struct tracee *tracee, struct seccomp_filter **filters, size_t *count,
                   struct err *e)
{
  for (;;) {
    struct seccomp_filter *filter = list_append(filters, count, sizeof(*filter));
    int result = filter ? get_filter(tracee->tid, *count - 1, filter, e) : err_sys(e, "filters");

    if (result < 0)
      return -1;
    if (result > 0)
      break;
  }
  --*count;
  reverse(*filters, *count);
  return 0;
}

void seccomp_filters_free(struct seccomp_filter *filters, size_t count)
{
  for (size_t i = 0; i < count; i++)
    free(filters[i].program.data);
  free(filters);
}

bool seccomp_filters_equal(const struct seccomp_filter *a, const struct seccomp_filter *b,
                           size_t count)
{
  for (size_t i = 0; i < count; i++) {
    if (a[i].program.size != b[i].program.size || a[i].flags != b[i].flags ||
        memcmp(a[i].program.data, b[i].program.data, a[i].program.size) != 0)
      return false;
  }
  return true;
}

bool seccomp_can_suspend(void)
{
  pid_t child = fork();
  bool can;

  if (child == 0) {
    for (;;)
      pause();
  }
  can = child > 0 && ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_SUSPEND_SECCOMP) == 0;
  if (child > 0) {
    kill(child, SIGKILL);
    waitpid(child, NULL, __WALL);
  }
  return can;
}

static int remote_call(struct tracee *tracee, const char *what, int64_t *result, long number,
                       const uint64_t arguments[6], struct err *e)
{
  if (tracee_syscall(tracee, number, arguments, result, e) < 0)
    return -1;
  if (*result < 0 && *result > -4096) {
    errno = (int)-*result;
    return err_sys(e, "thread %d: %s", tracee->tid, what);
  }
  return 0;
}

/* A program may be larger than the scratch memory: it gets a mapping for as long as it takes. */
int tracee_add_filter(struct tracee *tracee, const struct seccomp_filter *filter, struct err *e)
{
  size_t size = sizeof(struct sock_fprog) + filter->program.size;
  struct sock_fprog program = {
      .len = (unsigned short)(filter->program.size / sizeof(struct sock_filter))};
  struct err late = {""};
  int64_t area, ignored;
  int result = -1;

  if (filter->program.size == 0 || filter->program.size % sizeof(struct sock_filter) ||
      filter->program.size / sizeof(struct sock_filter) > FILTER_LIMIT)
    return err_set(e, "seccomp filter of %zu bytes", filter->program.size);
  if (remote_call(tracee, "mmap", &area, SYS_mmap,
                  (const uint64_t[6]){0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                      (uint64_t)-1, 0},
                  e) < 0)
    return -1;
  program.filter = (void *)((uint64_t)area + sizeof(program)); /* NOLINT */
  if (tracee_write(tracee, (uint64_t)area, &program, sizeof(program), e) == 0 &&
      tracee_write(tracee, (uint64_t)area + sizeof(program), filter->program.data,
                   filter->program.size, e) == 0)
    result =
        remote_call(tracee, "seccomp filter", &ignored, SYS_seccomp,
                    (const uint64_t[6]){SECCOMP_SET_MODE_FILTER, filter->flags, (uint64_t)area}, e);
  if (remote_call(tracee, "munmap", &ignored, SYS_munmap, (const uint64_t[6]){(uint64_t)area, size},
                  &late) < 0 &&
      result == 0) {
    *e = late;
    result = -1;
  }
  return result;
}
