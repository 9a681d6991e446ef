#include "proc/inside.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/join.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static const struct {
  const char *kind;
  int flag;
} kinds[] = {{"ipc", CLONE_NEWIPC}, {"net", CLONE_NEWNET}, {"uts", CLONE_NEWUTS}};

static int flag_of(const char *kind)
{
  size_t i = 0;

  while (i + 1 < ARRAY_LEN(kinds) && strcmp(kinds[i].kind, kind) != 0)
    i++;
  return kinds[i].flag;
}

static int enter(pid_t pid, const char *kind, struct err *e)
{
  AUTO_CLOSE int fd = -1;
  char path[64];

  if (pid == 0)
    return unshare(flag_of(kind)) == 0 ? 0 : err_sys(e, "a new %s namespace", kind);
  snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, kind);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, flag_of(kind)) < 0)
    return err_sys(e, "%s", path);
  return 0;
}

struct visit {
  pid_t pid;
  const char *kind;
  inside_function *function;
  void *argument;
  struct err *e;
  int result;
};

static void *run_visit(void *argument)
{
  struct visit *visit = argument;

  visit->result = enter(visit->pid, visit->kind, visit->e);
  if (visit->result < 0)
    return NULL;
  visit->result = visit->function(visit->argument, visit->e);
  if (visit->result < 0 && visit->pid)
    err_prefix(visit->e, "%s namespace of pid %d", visit->kind, visit->pid);
  return NULL;
}

/* There may be no way back, for who has entered a user namespace. A thread need not come back. */
int inside(pid_t pid, const char *kind, inside_function *function, void *argument, struct err *e)
{
  struct visit visit = {pid, kind, function, argument, e, -1};
  pthread_t thread;

  errno = pthread_create(&thread, NULL, run_visit, &visit);
  if (errno)
    return err_sys(e, "thread");
  pthread_join(thread, NULL);
  return visit.result;
}

/* Of the pid namespace is only a child: it goes on, and the one before ends with it. */
static int join_all(pid_t pid, struct err *e)
{
  pid_t child;

  if (join_namespaces(pid,
                      CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                          CLONE_NEWUTS,
                      e) < 0)
    return -1;
  child = fork();
  if (child < 0)
    return err_sys(e, "fork");
  if (child == 0)
    return 0;
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
    ;
  _exit(EXIT_DONE);
}

/* In the child: a byte says that it went well; a text, why it did not. */
static _Noreturn void run_inside(int writer, pid_t pid, inside_function *function, void *argument)
{
  struct err why = {""};
  int result = join_all(pid, &why);

  if (result == 0)
    result = function(argument, &why);
  io_write(writer, result < 0 ? why.text : "", result < 0 ? strlen(why.text) : 1);
  _exit(EXIT_DONE);
}

int inside_all(pid_t pid, inside_function *function, void *argument, struct err *e)
{
  AUTO_CLOSE int reader = -1;
  AUTO_CLOSE int writer = -1;
  struct err why = {""};
  int ends[2];
  pid_t child;
  ssize_t n;

  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  reader = ends[0];
  writer = ends[1];
  child = fork();
  if (child == 0)
    run_inside(writer, pid, function, argument);
  if (child < 0)
    return err_sys(e, "fork");
  close(take_fd(&writer));
  n = io_read(reader, why.text, sizeof(why.text) - 1);
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
    ;
  if (n == 1 && why.text[0] == '\0')
    return 0;
  return err_set(e, "namespaces of pid %d: %s", pid,
                 n > 0 ? why.text : "the process that entered them died");
}

/* The C library would do it for all threads. */
static int set_effective(uid_t uid, gid_t gid)
{
  return syscall(SYS_setresgid, -1, gid, -1) < 0 || syscall(SYS_setresuid, -1, uid, -1) < 0 ? -1
                                                                                            : 0;
}

int identity_take(struct identity *before, uid_t uid, gid_t gid, struct err *e)
{
  *before = (struct identity){geteuid(), getegid(), prctl(PR_GET_DUMPABLE)};
  if (set_effective(uid, gid) < 0)
    return err_sys(e, "user %u, group %u", uid, gid);
  return 0;
}

int identity_return(const struct identity *before, struct err *e)
{
  /* The user first: another one may not choose its group. */
  if (syscall(SYS_setresuid, -1, before->uid, -1) < 0 ||
      syscall(SYS_setresgid, -1, before->gid, -1) < 0 ||
      prctl(PR_SET_DUMPABLE, before->dumpable) < 0)
    return err_sys(e, "back from another user");
  return 0;
}
