#include "proc/join.h"

#include "base/cleanup.h"
#include "proc/proc.h"

#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <sys/pidfd.h>

static const struct {
  int flag;
  const char *kind;
} namespaces[] = {
    {CLONE_NEWUSER, "user"},     {CLONE_NEWNS, "mnt"},  {CLONE_NEWPID, "pid"},
    {CLONE_NEWNET, "net"},       {CLONE_NEWIPC, "ipc"}, {CLONE_NEWUTS, "uts"},
    {CLONE_NEWCGROUP, "cgroup"},
};

/* Our own namespaces cannot all be entered again, and need not be. */
static int differing(pid_t pid, int kinds, int *flags, struct err *e)
{
  *flags = 0;
  for (size_t i = 0; i < ARRAY_LEN(namespaces); i++) {
    int result = kinds & namespaces[i].flag
                     ? proc_namespace_differs(pid, getpid(), namespaces[i].kind, e)
                     : 0;

    if (result < 0)
      return -1;
    *flags |= result ? namespaces[i].flag : 0;
  }
  return 0;
}

/*
 * Files in there are made by who is known there, and capabilities outlive an exec only in the root
 * of the namespace.
 */
static int become_root(struct err *e)
{
  if ((setgroups(0, NULL) < 0 && errno != EPERM) || setresgid(0, 0, 0) < 0 ||
      setresuid(0, 0, 0) < 0)
    return err_sys(e, "root of the user namespace");
  return 0;
}

int join_namespaces(pid_t pid, int kinds, struct err *e)
{
  AUTO_CLOSE int pidfd = pidfd_open(pid, 0);
  int flags;

  if (pidfd < 0)
    return err_sys(e, "pid %d", pid);
  if (differing(pid, kinds, &flags, e) < 0)
    return -1;
  if (flags && setns(pidfd, flags) < 0)
    return err_sys(e, "namespaces of pid %d", pid);
  return flags & CLONE_NEWUSER ? become_root(e) : 0;
}

int join_owner(pid_t pid, struct err *e)
{
  AUTO_CLOSE int pidfd = pidfd_open(pid, 0);
  int flags = 0;

  if (pidfd < 0)
    return err_sys(e, "pid %d", pid);
  if (geteuid() != 0 && differing(pid, CLONE_NEWUSER, &flags, e) < 0)
    return -1;
  return flags && setns(pidfd, flags) < 0 ? err_sys(e, "user namespace of pid %d", pid) : 0;
}
