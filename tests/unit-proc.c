/* What /proc tells: names that try to mislead, zombies, mappings, pages. */
#include "base/cleanup.h"
#include "base/err.h"
#include "proc/pagemap.h"
#include "proc/proc.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

/* Children: each sets something up, says so, and waits until it is ended. */

struct child {
  pid_t pid;
  int said;
};

static struct child start(void (*set_up)(void))
{
  struct child child = {-1, -1};
  int pipe_fds[2];
  char byte = 0;

  if (pipe2(pipe_fds, O_CLOEXEC) < 0)
    return child;
  child.pid = fork();
  if (child.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (set_up)
      set_up();
    if (write(pipe_fds[1], "x", 1) != 1)
      _exit(1);
    for (;;)
      pause();
  }
  close(pipe_fds[1]);
  child.said = pipe_fds[0];
  if (read(child.said, &byte, 1) != 1)
    ok(false, "a child did not come up");
  return child;
}

static void end(const struct child *child)
{
  kill(child->pid, SIGKILL);
  waitpid(child->pid, NULL, 0);
  close(child->said);
}

/* A pid that was a process a moment ago. */
static pid_t gone_pid(void)
{
  struct child child = start(NULL);

  end(&child);
  return child.pid;
}

/* Names of threads. */

static void test_name(const char *name)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};
  struct proc_stat stat = {0};
  struct err e = {""};

  prctl(PR_SET_NAME, name);
  ok(proc_stat_read(getpid(), &stat, &e) == 0 && stat.state == 'R' && stat.ppid == getppid() &&
         stat.pgrp == getpgrp() && stat.session == getsid(0) && stat.start_time > 0 &&
         stat.exit_signal == SIGCHLD && stat.processor >= 0 && stat.start_stack > 0,
     "stat of %d bytes' name %s", (int)strlen(name), e.text);
  ok(proc_status_read(getpid(), &status, &e) == 0 && strcmp(status.name, name) == 0 &&
         status.tgid == getpid() && status.ppid == getppid(),
     "status of %d bytes' name %s", (int)strlen(name), e.text);
}

static void test_names(void)
{
  static const char *const names[] = {"plain",
                                      "a b",
                                      ") S 1 2 3",
                                      "(x) R (y)",
                                      "new\nline",
                                      "\nPPid:\t1\n",
                                      "a\\nb",
                                      "\\",
                                      "\\\\n\\012",
                                      "  before",
                                      "\ttab",
                                      "behind  ",
                                      "",
                                      " ",
                                      "\x01\x7f\x1b[m",
                                      "\xc3\xa4",
                                      "cut here \xc3",
                                      "fifteen letters",
                                      "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"};
  char old[16];

  prctl(PR_GET_NAME, old);
  for (size_t i = 0; i < ARRAY_LEN(names); i++)
    test_name(names[i]);
  prctl(PR_SET_NAME, old);
}

static void nothing(int number)
{
  (void)number;
}

static void set_credentials(void)
{
  static const gid_t groups[] = {0, 1, 77777, 4294967294u};
  struct sigaction action = {.sa_handler = nothing};

  umask(0127);
  sigaction(SIGUSR2, &action, NULL);
  sigaction(64, &action, NULL);
  signal(SIGHUP, SIG_IGN);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (geteuid() == 0 && (setgroups(ARRAY_LEN(groups), groups) < 0 || setresgid(1, 2, 3) < 0 ||
                         setresuid(4, 4294967294u, 6) < 0))
    _exit(1);
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* another user has none */
}

static void test_status(void)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};
  struct child child = start(set_credentials);
  struct err e = {""};

  ok(proc_status_read(child.pid, &status, &e) == 0 && status.umask == 0127 && status.threads == 1 &&
         status.no_new_privs == 1 && status.tracer == 0 && status.ppid == getpid(),
     "status of a process %s", e.text);
  ok(status.sig_caught >> (SIGUSR2 - 1) & 1 && status.sig_caught >> 63 &&
         !(status.sig_caught >> (SIGHUP - 1) & 1) && status.sig_ignored >> (SIGHUP - 1) & 1,
     "signals that are caught and ignored");
  if (geteuid() == 0) {
    ok(status.uid[0] == 4 && status.uid[1] == 4294967294u && status.uid[2] == 6 &&
           status.uid[3] == 4294967294u && status.gid[0] == 1 && status.gid[1] == 2 &&
           status.gid[2] == 3 && status.gid[3] == 2,
       "users and groups");
    ok(status.group_count == 4 && status.groups[0] == 0 && status.groups[1] == 1 &&
           status.groups[2] == 77777 && status.groups[3] == 4294967294u,
       "more groups");
  }
  ok(status.ns_depth >= 1 && status.ns_depth <= PROC_NAMESPACES && status.ns_pid[0] == child.pid &&
         status.ns_pgid[0] == getpgrp() && status.ns_sid[0] == getsid(0),
     "numbers in its namespaces");
  end(&child);
}

static void test_no_groups(void)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};
  struct err e = {""};

  if (geteuid() != 0 || setgroups(0, NULL) < 0)
    return;
  ok(proc_status_read(getpid(), &status, &e) == 0 && status.group_count == 0 && status.groups,
     "no groups at all");
}

static void test_zombie(void)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};
  struct proc_stat stat = {0};
  struct err e = {""};
  pid_t pid = fork();

  if (pid == 0)
    _exit(7);
  waitid(P_PID, (id_t)pid, NULL, WEXITED | WNOWAIT);
  ok(proc_stat_read(pid, &stat, &e) == 0 && stat.state == 'Z' && stat.exit_code == 7 << 8 &&
         stat.exiting,
     "stat of a zombie %s", e.text);
  ok(proc_status_read(pid, &status, &e) == 0 && status.umask == 0, "status of a zombie %s", e.text);
  waitpid(pid, NULL, 0);
}

static void test_gone(void)
{
  struct proc_status status;
  struct proc_stat stat;
  struct proc_maps maps;
  struct proc_list list;
  char target[PATH_MAX];
  AUTO_FREE char *text = NULL;
  struct err e = {""};
  pid_t pid = gone_pid();

  ok(proc_stat_read(pid, &stat, &e) == 1, "stat of one that is gone: %s", e.text);
  ok(proc_status_read(pid, &status, &e) == 1 && !status.groups, "status: %s", e.text);
  ok(proc_smaps_read(pid, &maps, &e) == 1 && maps.count == 0, "smaps: %s", e.text);
  ok(proc_threads(pid, &list, &e) == 1 && !list.items, "threads: %s", e.text);
  ok(proc_descriptors(pid, &list, &e) == 1 && !list.items, "descriptors: %s", e.text);
  ok(proc_link(pid, "exe", target, sizeof(target), &e) == 1, "a link: %s", e.text);
  ok(proc_text(pid, "stat", &text, NULL, &e) == 1 && !text, "a text: %s", e.text);
  ok(proc_namespace_differs(pid, getpid(), "pid", &e) == -1, "a namespace: %s", e.text);
}

/* Namespaces. */

static void test_namespace(void)
{
  CLEANUP(proc_status_free) struct proc_status status = {0};
  CLEANUP(proc_status_free) struct proc_status own = {0};
  struct err e = {""};
  struct child child;
  pid_t outer;
  int result;

  ok(proc_namespace_differs(getpid(), getpid(), "mnt", &e) == 0, "our own namespace");
  outer = fork();
  if (outer == 0) { /* a fork more: unshare is for ever */
    if (unshare(CLONE_NEWPID) < 0)
      _exit(77);
    child = start(NULL);
    result = proc_status_read(child.pid, &status, &e) == 0 &&
             proc_status_read(getpid(), &own, &e) == 0 && status.ns_depth == own.ns_depth + 1 &&
             status.ns_pid[0] == child.pid && status.ns_pid[status.ns_depth - 1] == 1 &&
             proc_namespace_differs(child.pid, getpid(), "pid", &e) == 1 &&
             proc_namespace_differs(child.pid, getpid(), "net", &e) == 0;
    end(&child);
    _exit(result ? 0 : 1);
  }
  waitpid(outer, &result, 0);
  if (WIFEXITED(result) && WEXITSTATUS(result) == 77)
    ok(true, "pid 1 of a namespace of its own # skip no permission");
  else
    ok(result == 0, "pid 1 of a namespace of its own");
}

/* Lists. */

static void set_descriptors(void)
{
  if (fcntl(STDIN_FILENO, F_DUPFD, 900) < 0 || fcntl(STDIN_FILENO, F_DUPFD, 99) < 0)
    _exit(1);
}

static bool ascends(const struct proc_list *list)
{
  for (size_t i = 1; i < list->count; i++) {
    if (list->items[i] <= list->items[i - 1])
      return false;
  }
  return true;
}

static bool holds(const struct proc_list *list, int32_t number)
{
  for (size_t i = 0; i < list->count; i++) {
    if (list->items[i] == number)
      return true;
  }
  return false;
}

static void test_descriptors(void)
{
  CLEANUP(proc_list_free) struct proc_list list = {0};
  struct child child = start(set_descriptors);
  char target[PATH_MAX];
  struct err e = {""};

  ok(proc_descriptors(child.pid, &list, &e) == 0 && ascends(&list) && list.count >= 3 &&
         list.items[0] == 0 && list.items[list.count - 1] >= 900,
     "descriptors in order, %zu %s", list.count, e.text);
  ok(proc_link(child.pid, "exe", target, sizeof(target), &e) == 0 && strstr(target, "unit-proc"),
     "a link");
  end(&child);
}

static void *wait_there(void *argument)
{
  pthread_barrier_wait(argument);
  pthread_barrier_wait(argument);
  return NULL;
}

static void test_threads(void)
{
  CLEANUP(proc_list_free) struct proc_list list = {0};
  CLEANUP(proc_list_free) struct proc_list before = {0};
  pthread_barrier_t barrier;
  pthread_t threads[5];
  struct err e = {""};

  proc_threads(getpid(), &before, &e); /* a sanitizer may have one of its own */
  pthread_barrier_init(&barrier, NULL, 6);
  for (size_t i = 0; i < ARRAY_LEN(threads); i++)
    pthread_create(&threads[i], NULL, wait_there, &barrier);
  pthread_barrier_wait(&barrier);
  ok(proc_threads(getpid(), &list, &e) == 0 && ascends(&list) && list.count == before.count + 5 &&
         holds(&list, getpid()),
     "threads in order, %zu %s", list.count, e.text);
  pthread_barrier_wait(&barrier);
  for (size_t i = 0; i < ARRAY_LEN(threads); i++)
    pthread_join(threads[i], NULL);
  pthread_barrier_destroy(&barrier);
}

static void have_child(void)
{
  start(NULL);
}

static void test_children(void)
{
  CLEANUP(proc_list_free) struct proc_list list = {0};
  CLEANUP(proc_list_free) struct proc_list below = {0};
  CLEANUP(proc_list_free) struct proc_list all = {0};
  struct child children[2] = {start(NULL), start(have_child)};
  struct err e = {""};

  ok(proc_children(getpid(), &list, &e) == 0 && list.count == 2 && ascends(&list) &&
         holds(&list, children[0].pid) && holds(&list, children[1].pid),
     "children, and none of theirs");
  ok(proc_children(children[1].pid, &below, &e) == 0 && below.count == 1, "its child");
  ok(proc_children(children[0].pid, &all, &e) == 0 && all.count == 0, "none");
  proc_list_free(&all);
  ok(proc_all(&all, &e) == 0 && ascends(&all) && holds(&all, getpid()) &&
         holds(&all, below.count ? below.items[0] : 0),
     "all processes");
  end(&children[0]);
  end(&children[1]);
}

/* Texts of lines. */

static void test_fields(void)
{
  static const char text[] = "pos:\t18446744073709551615\nflags:\t02100002\nmnt_id:\t15\n"
                             "empty:\t\nword:\tabc\nhex: 7fff\nmnt_id:\t16\nlast:1";
  uint64_t value = 0;

  ok(proc_field(text, "pos", 10, &value) && value == UINT64_MAX, "the first line");
  ok(proc_field(text, "flags", 8, &value) && value == 02100002, "octal");
  ok(proc_field(text, "hex", 16, &value) && value == 0x7fff, "hexadecimal");
  ok(proc_field(text, "mnt_id", 10, &value) && value == 15, "the first of two");
  ok(proc_field(text, "last", 10, &value) && value == 1, "the last line, without an end");
  ok(!proc_field(text, "flag", 10, &value), "a name's beginning is not the name");
  ok(!proc_field(text, "lags", 10, &value), "nor is its end");
  ok(!proc_field(text, "none", 10, &value), "no such line");
  ok(!proc_field(text, "word", 10, &value), "no number there");
  ok(!proc_field(text, "empty", 10, &value), "nothing there");
  ok(!proc_field("", "pos", 10, &value), "no lines");
}

/* Mappings. */

static struct proc_map *find_map(const struct proc_maps *maps, const void *address)
{
  for (size_t i = 0; i < maps->count; i++) {
    if (maps->maps[i].start == (uint64_t)address)
      return &maps->maps[i];
  }
  return NULL;
}

/* Maps the second page of a new file of that name; then the name may go. */
static void test_mapped_name(const char *directory, const char *name, bool deleted)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  char path[200], expected[220];
  struct stat stat = {0};
  struct err e = {""};
  const struct proc_map *map = NULL;
  void *address;
  int fd;

  snprintf(path, sizeof(path), "%s/%s", directory, name);
  snprintf(expected, sizeof(expected), "%s%s", path, deleted ? " (deleted)" : "");
  fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, 3 * PAGE) < 0 || fstat(fd, &stat) < 0)
    ok(false, "%s", path);
  address = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, PAGE);
  if (deleted)
    unlink(path);
  ok(proc_smaps_read(getpid(), &maps, &e) == 0 && (map = find_map(&maps, address)) &&
         map->end == map->start + 2 * PAGE && map->offset == PAGE && map->inode == stat.st_ino &&
         map->device == stat.st_dev && strcmp(map->perms, "r-xs") == 0 &&
         strcmp(map->name, expected) == 0,
     "a file with a name of %zu bytes is mapped%s %s", strlen(name), deleted ? ", deleted" : "",
     e.text);
  munmap(address, 2 * PAGE);
  close(fd);
  unlink(path);
}

static void test_mapped_names(void)
{
  static const char *const names[] = {"plain",          "a b",         "two\nlines", "\n",
                                      "x) (y",          "back\\slash", " lead",      "tail ",
                                      "gone (deleted)", "Size:  4 kB", "\xff\xfe",   "tab\there"};
  char directory[] = "/dev/shm/unit-proc-XXXXXX";

  if (!mkdtemp(directory))
    ok(false, "%s", directory);
  for (size_t i = 0; i < ARRAY_LEN(names); i++) {
    test_mapped_name(directory, names[i], false);
    test_mapped_name(directory, names[i], true);
  }
  ok(rmdir(directory) == 0, "nothing is left behind");
}

static void test_mapping_flags(void)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  char *plain = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char *advised = plain + PAGE; /* between two others: it is a mapping of its own */
  struct err e = {""};
  const struct proc_map *map = NULL;

  mprotect(advised, PAGE, PROT_READ | PROT_WRITE);
  madvise(advised, PAGE, MADV_DONTDUMP);
  madvise(advised, PAGE, MADV_DONTFORK);
  ok(proc_smaps_read(getpid(), &maps, &e) == 0 && (map = find_map(&maps, advised)) &&
         map->end == map->start + PAGE && strcmp(map->perms, "rw-p") == 0 && !*map->name &&
         map->inode == 0 && map->device == 0 && map->huge_kib == 0,
     "anonymous memory %s", e.text);
  ok(map && proc_map_has_flag(map, "dd") && proc_map_has_flag(map, "dc") &&
         proc_map_has_flag(map, "rd") && proc_map_has_flag(map, "wr") &&
         !proc_map_has_flag(map, "ex") && !proc_map_has_flag(map, "lo") &&
         !proc_map_has_flag(map, "d ") && !proc_map_has_flag(map, " d"),
     "what madvise said: %s", map ? map->flags : "");
  map = find_map(&maps, plain);
  ok(map && strcmp(map->perms, "---p") == 0 && !proc_map_has_flag(map, "rd"), "memory of no use");
  munmap(plain, 3 * PAGE);
}

static void test_all_mappings(void)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  struct err e = {""};
  bool stack = false;
  bool vdso = false;
  bool order = true;

  ok(proc_smaps_read(getpid(), &maps, &e) == 0, "our own mappings %s", e.text);
  for (size_t i = 0; i < maps.count; i++) {
    const struct proc_map *map = &maps.maps[i];

    stack = stack || (strcmp(map->name, "[stack]") == 0 && map->start < (uint64_t)&maps &&
                      map->end > (uint64_t)&maps);
    vdso = vdso || strcmp(map->name, "[vdso]") == 0;
    order = order && map->start < map->end && (i == 0 || map->start >= map[-1].end);
  }
  ok(stack && vdso, "the stack and the vdso are among them");
  ok(order, "they are in order");
}

static void test_memory_file(void)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  AUTO_CLOSE int fd = memfd_create("of mine", MFD_CLOEXEC);
  struct err e = {""};
  const struct proc_map *map = NULL;
  void *address;

  if (ftruncate(fd, PAGE) < 0)
    ok(false, "memory file");
  address = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  ok(proc_smaps_read(getpid(), &maps, &e) == 0 && (map = find_map(&maps, address)) &&
         strcmp(map->name, "/memfd:of mine (deleted)") == 0 && strcmp(map->perms, "rw-p") == 0,
     "a memory file is mapped");
  munmap(address, PAGE);
}

/* Pages. */

enum { AREA_PAGES = 6000 };

struct seen {
  char pages[AREA_PAGES]; /* 'p' present, 'z' the zero page, '.' neither */
  uint64_t start, last;
  size_t runs, limit;
  bool order;
};

static int see(void *context, const struct page_run *run, struct err *e)
{
  struct seen *seen = context;

  if (seen->limit && seen->runs == seen->limit)
    return err_set(e, "enough");
  seen->order = seen->order && run->start >= seen->last && run->end > run->start &&
                (run->end - seen->start) / PAGE <= AREA_PAGES;
  if (!seen->order)
    return err_set(e, "out of order");
  for (uint64_t at = run->start; at < run->end; at += PAGE)
    seen->pages[(at - seen->start) / PAGE] = run->zero ? 'z' : 'p';
  seen->last = run->end;
  seen->runs++;
  return 0;
}

static int scan(const char *area, size_t pages, bool own_only, struct seen *seen)
{
  struct err e = {""};
  AUTO_CLOSE int pagemap = pagemap_open(getpid(), &e);
  size_t limit = seen->limit;
  int result;

  *seen = (struct seen){.start = (uint64_t)area, .limit = limit, .order = true};
  memset(seen->pages, '.', sizeof(seen->pages));
  result = pagemap_scan(pagemap, seen->start, seen->start + pages * PAGE, own_only, see, seen, &e);
  if (result < 0 && !limit)
    printf("# %s\n", e.text);
  return result;
}

static char *new_area(void)
{
  char *area = mmap(NULL, (size_t)AREA_PAGES * PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  madvise(area, (size_t)AREA_PAGES * PAGE, MADV_NOHUGEPAGE);
  return area;
}

/* Single pages, runs, and gaps: what is written, what is only read. */
static char kind_of(size_t page)
{
  if (page < 3000)
    return page % 2 ? 'p' : '.';
  if (page < 4000)
    return page % 3 == 0 ? '.' : page % 3 == 1 ? 'p' : 'z';
  return page < 5000 ? 'p' : page < 5900 ? '.' : 'z';
}

static void touch(char *area)
{
  volatile char *bytes = area;

  for (size_t i = 0; i < AREA_PAGES; i++) {
    if (kind_of(i) == 'p')
      bytes[i * PAGE] = 1;
    else if (kind_of(i) == 'z')
      (void)bytes[i * PAGE];
  }
}

/* Compares with what was done; `zeros`: does the scan tell zero pages from others? */
static bool as_touched(const struct seen *seen, bool zeros)
{
  for (size_t i = 0; i < AREA_PAGES; i++) {
    char kind = kind_of(i);

    if (seen->pages[i] != (kind == 'z' && !zeros ? 'p' : kind)) {
      printf("# page %zu: '%c', not '%c'\n", i, seen->pages[i], kind);
      return false;
    }
  }
  return true;
}

static bool any_zero(const struct seen *seen)
{
  return memchr(seen->pages, 'z', sizeof(seen->pages));
}

static struct seen seen;

static void test_scan(const char *how, bool zeros)
{
  char *area = new_area();
  int result;

  ok(scan(area, AREA_PAGES, false, &seen) == 0 && seen.runs == 0, "%s: an untouched area", how);
  touch(area);
  result = scan(area, AREA_PAGES, false, &seen);
  ok(result == 0 && as_touched(&seen, zeros) && seen.runs > 2 * 512, "%s: %zu runs", how,
     seen.runs);
  ok(scan(area, AREA_PAGES, true, &seen) == 0 && as_touched(&seen, zeros),
     "%s: all of it the process's own", how);
  ok(scan(area, 0, false, &seen) == 0 && seen.runs == 0, "%s: an empty range", how);
  ok(scan(area + PAGE, 1, false, &seen) == 0 && seen.runs == 1, "%s: one page", how);
  seen.limit = 3;
  result = scan(area, AREA_PAGES, false, &seen);
  ok(result == -1 && seen.runs == 3, "%s: the visitor ends the scan", how);
  seen.limit = 0;
  munmap(area, (size_t)AREA_PAGES * PAGE);
}

static void test_own_pages(const char *how)
{
  enum { FILE_PAGES = 64 };
  AUTO_CLOSE int fd = memfd_create("pages", MFD_CLOEXEC);
  volatile char *area;
  bool own = true;
  bool all = true;

  if (ftruncate(fd, FILE_PAGES * PAGE) < 0)
    ok(false, "memory file");
  area = mmap(NULL, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  for (size_t i = 0; i < FILE_PAGES; i++) {
    if (i % 4 == 1)
      area[i * PAGE] = 1;
    else if (i % 4 == 2)
      (void)area[i * PAGE];
  }
  scan((const char *)area, FILE_PAGES, true, &seen);
  for (size_t i = 0; i < FILE_PAGES; i++)
    own = own && (seen.pages[i] == 'p') == (i % 4 == 1);
  scan((const char *)area, FILE_PAGES, false, &seen);
  for (size_t i = 0; i < FILE_PAGES; i++) /* the kernel may map neighbours, too */
    all = all && (seen.pages[i] == 'p' || (i % 4 != 1 && i % 4 != 2));
  ok(own, "%s: pages that are the process's own", how);
  ok(all, "%s: and the file's", how);
  munmap((void *)area, FILE_PAGES * PAGE);
}

/* From here on the kernel has no PAGEMAP_SCAN, as far as this process knows. */
static bool hide_scan(void)
{
  static const unsigned scan_ioctl = 0xc0606610; /* _IOWR('f', 16, 96 bytes) */
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, scan_ioctl, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {ARRAY_LEN(filter), filter};

  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void test_entries(void)
{
  AUTO_CLOSE int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  char *area = new_area();
  uint64_t entries[4] = {1, 1, 1, 1};
  struct err e = {""};

  area[PAGE] = 1;
  ok(pagemap_read(pagemap, (uint64_t)area, entries, 3, &e) == 0 && entries[0] == 0 &&
         entries[1] & PAGEMAP_PRESENT && !(entries[1] & PAGEMAP_FILE) && entries[2] == 0 &&
         entries[3] == 1,
     "entries of pages %s", e.text);
  entries[0] = entries[1] = 1;
  ok(pagemap_read(pagemap, UINT64_C(1) << 62, entries, 2, &e) == 0 && entries[0] == 0 &&
         entries[1] == 0,
     "nothing is behind the address space %s", e.text);
  ok(pagemap_read(-1, 0, entries, 1, &e) < 0 && strstr(e.text, "pagemap: "), "%s", e.text);
  munmap(area, (size_t)AREA_PAGES * PAGE);
}

/* In ranges of all kinds: with many pages and none, side by side and apart. */
static void test_first(void)
{
  enum { RANGES = 600 };
  AUTO_CLOSE int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  struct page_range ranges[RANGES];
  char *area = new_area();
  bool right = true;

  touch(area);
  for (size_t i = 0; i < RANGES; i++) {
    uint64_t start = (uint64_t)area + i * 10 * PAGE;

    /* The first of them has more pages than the kernel is asked for at once. */
    ranges[i] = (struct page_range){start, start + (i % 7 ? 10 : 3) * PAGE, 0};
  }
  ranges[1].end += 2000 * PAGE;
  memmove(ranges + 2, ranges + 202, (RANGES - 202) * sizeof(*ranges));
  ok(pagemap_first(pagemap, ranges, RANGES - 200) == 0, "first pages");
  for (size_t i = 0; i < RANGES - 200; i++) {
    uint64_t first = UINT64_MAX;

    for (uint64_t at = ranges[i].end; at > ranges[i].start; at -= PAGE) {
      if (kind_of((at - PAGE - (uint64_t)area) / PAGE) != '.')
        first = at - PAGE;
    }
    right = right && ranges[i].first == first;
  }
  ok(right, "of each range");
  ok(pagemap_first(pagemap, ranges, 0) == 0, "of no range");
  munmap(area, (size_t)AREA_PAGES * PAGE);
}

static void test_scan_of_gone(void)
{
  struct err e = {""};

  ok(pagemap_open(gone_pid(), &e) < 0 && strstr(e.text, "/pagemap: "), "%s", e.text);
}

static void test_pages(void)
{
  char *area = new_area();
  bool zeros;

  touch(area);
  zeros = scan(area, AREA_PAGES, false, &seen) == 0 && any_zero(&seen); /* Linux 6.7 */
  munmap(area, (size_t)AREA_PAGES * PAGE);
  test_scan("as the kernel can", zeros);
  test_own_pages("as the kernel can");
  if (zeros)
    test_first();
  test_entries();
  test_scan_of_gone();
  if (!ok(hide_scan(), "PAGEMAP_SCAN is hidden"))
    return;
  ok(pagemap_first(-1, &(struct page_range){PAGE, 2 * PAGE, 0}, 1) < 0, "first pages are not told");
  test_scan("by reading", false);
  test_own_pages("by reading");
}

int main(void)
{
  test_names();
  test_status();
  test_no_groups();
  test_zombie();
  test_gone();
  test_namespace();
  test_descriptors();
  test_threads();
  test_children();
  test_fields();
  test_mapped_names();
  test_mapping_flags();
  test_all_mappings();
  test_memory_file();
  test_pages(); /* last: it takes a system call away */
  return done_testing();
}
