/* Whatever no other type knows: refused, with the way out where there is one. */
#include "base/cleanup.h"
#include "object/object.h"

#include <string.h>

static const struct {
  const char *link; /* how the link begins */
  const char *remedy;
} remedies[] = {
    {"socket:[", "this kind of socket is not supported; close it before the checkpoint"},
    {"anon_inode:[io_uring]", "rings are shared with the kernel; run the program without io_uring"},
    {"anon_inode:[pidfd]", "process descriptors are not supported yet; close it"},
    {"anon_inode:[userfaultfd]", "a process that handles its own page faults cannot be copied"},
    {"/dev/pts/", "terminals are not supported; start it with its input and output redirected"},
    {"/dev/tty", "terminals are not supported; start it with its input and output redirected"},
    {"/dev/console", "terminals are not supported; start it with its input and output redirected"},
};

static bool matches(const struct object_source *source)
{
  (void)source;
  return true;
}

static int check(const struct object_dump *dump, const struct object_source *source, struct err *e)
{
  (void)dump;
  if (S_ISREG(source->stat.st_mode) || S_ISDIR(source->stat.st_mode))
    return err_set(e, "cannot be checkpointed: it was deleted or replaced; "
                      "restore it at its path, or make the program reopen it");
  for (size_t i = 0; i < ARRAY_LEN(remedies); i++) {
    if (strncmp(source->link, remedies[i].link, strlen(remedies[i].link)) == 0)
      return err_set(e, "cannot be checkpointed: %s", remedies[i].remedy);
  }
  return err_set(e, "cannot be checkpointed: this kind of descriptor is not supported; close it "
                    "before the checkpoint");
}

static int dump_nothing(const struct object_dump *dump, const struct object_source *source,
                        struct file *file, struct err *e)
{
  (void)file;
  return check(dump, source, e);
}

const struct object_type object_unknown = {
    .name = "unknown",
    .matches = matches,
    .check = check,
    .dump = dump_nothing,
};
