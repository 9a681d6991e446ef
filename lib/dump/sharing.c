/* Processes that share what only the threads of one process should. */
#include "base/cleanup.h"
#include "dump/capture.h"

#include <errno.h>
#include <sys/syscall.h>

/* kcmp(2) knows an order: sorted, those that share stand side by side. */
static int compare(const void *one, const void *two, void *type)
{
  pid_t first = (*(const struct source *const *)one)->pid;
  pid_t second = (*(const struct source *const *)two)->pid;
  long order = syscall(SYS_kcmp, first, second, *(const int *)type, 0, 0);

  if (order < 0) /* nobody can tell: they do not share */
    return first < second ? -1 : 1;
  return order == 0 ? 0 : order == 1 ? -1 : 1;
}

int capture_sharing(const struct capture *capture, int type, const struct source *pair[2],
                    struct err *e)
{
  AUTO_FREE const struct source **sorted = calloc(capture->source_count + 1, sizeof(*sorted));
  size_t count = 0;

  if (!sorted)
    return err_sys(e, "processes");
  for (size_t i = 0; i < capture->source_count; i++) {
    if (!capture->sources[i].zombie)
      sorted[count++] = &capture->sources[i];
  }
  qsort_r(sorted, count, sizeof(*sorted), compare, &type);
  for (size_t i = 1; i < count; i++) {
    if (compare(&sorted[i - 1], &sorted[i], &type) != 0)
      continue;
    pair[0] = sorted[i];
    pair[1] = sorted[i - 1];
    return 1;
  }
  return 0;
}
