/* Errors, whole reads and writes, command lines, scheduling. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/io.h"
#include "base/opt.h"
#include "base/policy.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Errors. */

static void test_errors(void)
{
  struct err e = {""};

  ok(err_set(&e, "fd %d", 7) == -1 && strcmp(e.text, "fd 7") == 0, "a cause");
  ok(err_prefix(&e, "pid %d", 12) == -1 && strcmp(e.text, "pid 12: fd 7") == 0, "with a prefix");
  errno = ENOSPC;
  ok(err_sys(&e, "%s", "pages.img") == -1 && errno == ENOSPC &&
         strcmp(e.text, "pages.img: No space left on device") == 0,
     "with the text of errno, which stays");
  ok(err_set(&e, "%s", "") == -1 && e.text[0] == '\0', "an empty one replaces it");
}

static void test_long_errors(void)
{
  char longer[3 * sizeof(struct err)];
  struct err e = {""};
  bool ended = true;

  memset(longer, 'x', sizeof(longer) - 1);
  longer[sizeof(longer) - 1] = '\0';
  err_set(&e, "%s", longer);
  ok(strlen(e.text) == sizeof(e.text) - 1, "a long cause is cut");
  err_prefix(&e, "start");
  ok(strlen(e.text) == sizeof(e.text) - 1 && strncmp(e.text, "start: xxx", 10) == 0,
     "a prefix before it stays whole");
  errno = EIO;
  err_sys(&e, "%s", longer);
  ok(strlen(e.text) == sizeof(e.text) - 1, "and so is one with errno");
  for (size_t length = sizeof(e.text) - 8; length < sizeof(e.text) + 8; length++) {
    err_set(&e, "inner");
    err_prefix(&e, "%.*s", (int)length, longer);
    ended = ended && memchr(e.text, '\0', sizeof(e.text)) && strlen(e.text) >= length - 10;
  }
  ok(ended, "a prefix of any length keeps its end");
}

/* Whole reads and writes. */

struct trickle {
  int fd;
  pthread_t reader; /* is sent signals between the pieces */
};

/* Waits until the first thread sleeps in the system call. */
static void wait_for_call(int number)
{
  char text[200] = "";

  do {
    AUTO_CLOSE int fd = open("/proc/thread-self/../../syscall", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (n < 0)
      return;
    text[n] = '\0';
    usleep(100);
  } while (text[0] == 'r' || atoi(text) != number); /* "running" */
}

static void *write_in_pieces(void *argument)
{
  const struct trickle *trickle = argument;

  for (int i = 0; i < 50; i++) {
    if (i == 0 || i == 25)
      wait_for_call(SYS_read);
    pthread_kill(trickle->reader, SIGUSR1);
    if (write(trickle->fd, "0123456789", 10) != 10)
      break;
  }
  close(trickle->fd);
  return NULL;
}

static void nothing(int number)
{
  (void)number;
}

static void test_trickle(void)
{
  struct sigaction action = {.sa_handler = nothing}; /* without SA_RESTART */
  struct trickle trickle = {-1, pthread_self()};
  char buffer[600];
  pthread_t thread;
  int pipe_fds[2];
  ssize_t got;

  sigaction(SIGUSR1, &action, NULL);
  if (pipe2(pipe_fds, O_CLOEXEC) < 0)
    return;
  trickle.fd = pipe_fds[1];
  pthread_create(&thread, NULL, write_in_pieces, &trickle);
  got = io_read(pipe_fds[0], buffer, 495);
  ok(got == 495 && buffer[494] == '4', "a read goes on over pieces and signals");
  got = io_read(pipe_fds[0], buffer, sizeof(buffer));
  ok(got == 5 && memcmp(buffer, "56789", 5) == 0, "a read ends with the file");
  ok(io_read(pipe_fds[0], buffer, sizeof(buffer)) == 0, "and again");
  pthread_join(thread, NULL);
  close(pipe_fds[0]);
}

struct drain {
  int fd;
  pthread_t writer;
  size_t got;
};

static void *read_in_pieces(void *argument)
{
  struct drain *drain = argument;
  char buffer[1000];
  ssize_t n;

  wait_for_call(SYS_write);
  pthread_kill(drain->writer, SIGUSR1);
  while ((n = read(drain->fd, buffer, sizeof(buffer))) > 0) {
    drain->got += (size_t)n;
    if (drain->got % 8000 == 0)
      pthread_kill(drain->writer, SIGUSR1);
  }
  return NULL;
}

static void test_whole_write(void)
{
  static char data[1000000];
  struct drain drain = {-1, pthread_self(), 0};
  pthread_t thread;
  int pipe_fds[2];
  int result;

  if (pipe2(pipe_fds, O_CLOEXEC) < 0)
    return;
  drain.fd = pipe_fds[0];
  pthread_create(&thread, NULL, read_in_pieces, &drain);
  result = io_write(pipe_fds[1], data, sizeof(data));
  close(pipe_fds[1]);
  pthread_join(thread, NULL);
  ok(result == 0 && drain.got == sizeof(data), "a write goes on until all is written");
  close(pipe_fds[0]);
  signal(SIGPIPE, SIG_IGN);
  errno = 0;
  ok(io_write(-1, data, 1) == -1 && errno == EBADF, "a write that fails");
  errno = 0;
  ok(io_read(-1, data, 1) == -1 && errno == EBADF, "a read that fails");
}

static void test_offsets(void)
{
  AUTO_CLOSE int fd = memfd_create("file", MFD_CLOEXEC);
  char buffer[8] = "";

  ok(io_pwrite(fd, "abc", 3, 5) == 0 && lseek(fd, 0, SEEK_CUR) == 0, "written at an offset");
  ok(io_pread(fd, buffer, sizeof(buffer), 4) == 4 && memcmp(buffer, "\0abc", 4) == 0,
     "read at an offset, to the end");
  ok(io_pread(fd, buffer, sizeof(buffer), 100) == 0, "read behind the end");
  errno = 0;
  ok(io_pread(fd, buffer, 1, -1) == -1 && errno == EINVAL, "read before the beginning");
}

static void test_read_file(void)
{
  char path[] = "/dev/shm/unit-base-XXXXXX";
  AUTO_CLOSE int fd = mkostemp(path, O_CLOEXEC);
  static char data[10000];
  static const size_t sizes[] = {0, 1, 4094, 4095, 4096, 4097, 8191, 8192, 10000};
  struct err e = {""};

  memset(data, 'd', sizeof(data));
  for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
    AUTO_FREE char *text = NULL;
    AUTO_FREE char *none = NULL;
    size_t size = 99;
    int result;

    if (ftruncate(fd, 0) < 0 || io_pwrite(fd, data, sizes[i], 0) < 0)
      ok(false, "%s", path);
    result = io_read_file(AT_FDCWD, path, sizes[i], &text, &size, &e);
    ok(result == 0 && size == sizes[i] && strlen(text) == size, "a file of %zu bytes", sizes[i]);
    if (sizes[i])
      ok(io_read_file(AT_FDCWD, path, sizes[i] - 1, &none, NULL, &e) < 0 && errno == EFBIG &&
             !none && strstr(e.text, path),
         "is too long for a limit of %zu: %s", sizes[i] - 1, e.text);
  }
  unlink(path);
}

static void test_other_files(void)
{
  AUTO_FREE char *text = NULL;
  AUTO_FREE char *formatted = NULL;
  AUTO_CLOSE int proc = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct err e = {""};

  ok(io_read_file(proc, "stat", 1 << 16, &text, NULL, &e) == 0 && atoi(text) == getpid(),
     "a file of /proc, relative to a directory");
  ok(io_read_file(AT_FDCWD, "/proc/self/no", 10, &text, NULL, &e) < 0 && errno == ENOENT &&
         strcmp(e.text, "/proc/self/no: No such file or directory") == 0,
     "%s", e.text);
  ok(io_read_file(AT_FDCWD, "/proc/self", 10, &text, NULL, &e) < 0 && errno == EISDIR, "%s",
     e.text);
  ok(io_write_file(AT_FDCWD, "/proc/self/comm", "renamed", &e) == 0, "a file of /proc is written");
  ok(io_write_file(AT_FDCWD, "/proc/self/no", "text", &e) < 0 &&
         strncmp(e.text, "/proc/self/no: ", 15) == 0,
     "%s", e.text);
  formatted = io_format(&e, "%s/%d", "a", 5);
  ok(formatted && strcmp(formatted, "a/5") == 0, "a formatted text");
}

/* Command lines: each is parsed in a child, which tells what became of it. */

struct parsed {
  const char *path, *stats;
  bool flag, other;
  uint64_t number;
  int fd;
  struct opt_list list;
};

/* What the child says on stdout: all values, then the operands. */
static void tell(const struct parsed *parsed, int argc, char **argv, int first)
{
  printf("%s %s %d %d %llu [", parsed->path ? parsed->path : "-",
         parsed->stats ? parsed->stats : "-", parsed->flag, parsed->other,
         (unsigned long long)parsed->number);
  for (size_t i = 0; i < parsed->list.count; i++)
    printf("%s%s", i ? "," : "", parsed->list.items[i]);
  printf("]");
  if (parsed->fd >= 0)
    printf(" fd %d", parsed->fd);
  for (int i = first; i < argc; i++)
    printf(" %s", argv[i]);
  fflush(stdout);
}

static _Noreturn void parse(bool stop, int argc, char **argv)
{
  struct parsed parsed = {.other = true, .number = 5, .fd = -1};
  const struct opt options[] = {
      {"image-path", OPT_STRING, &parsed.path, "DIR", "where"},
      {"n", OPT_STRING, &parsed.path, "DIR", "one letter"},
      {"stats", OPT_WORD, &parsed.stats, "json", "a line"},
      {"flag", OPT_BOOL, &parsed.flag, NULL, "on"},
      {"other", OPT_BOOL, &parsed.other, NULL, "off"},
      {"number", OPT_UINT, &parsed.number, "N", "how many"},
      {"fd", OPT_FD, &parsed.fd, "N", "where to"},
      {"stage", OPT_LIST, &parsed.list, "NAME=PROGRAM", "a program of one's own for a stage"},
      {NULL, OPT_BOOL, NULL, NULL, NULL},
  };
  const struct command command = {"[flags] ID", "Does it.", options, "built of brick\n", stop};

  tell(&parsed, argc, argv, opt_parse(&command, argc, argv));
  free(parsed.list.items);
  _exit(0);
}

struct outcome {
  int status;
  char out[2000], err[2000];
};

static void read_all(int fd, char *text, size_t room)
{
  ssize_t n = io_pread(fd, text, room - 1, 0);

  text[n < 0 ? 0 : n] = '\0';
}

/* `line`: arguments between single blanks; "''" is an empty one. */
static struct outcome run(bool stop, const char *line)
{
  AUTO_CLOSE int out = memfd_create("out", MFD_CLOEXEC);
  AUTO_CLOSE int err = memfd_create("err", MFD_CLOEXEC);
  AUTO_FREE char *copy = strdup(line);
  struct outcome outcome = {.status = -1};
  char *argv[32] = {(char *)"unit"};
  int argc = 1;
  pid_t pid;

  for (char *word = copy, *next; word && *word; word = next) {
    next = strchr(word, ' ');
    if (next)
      *next++ = '\0';
    argv[argc++] = strcmp(word, "''") == 0 ? (char *)"" : word;
  }
  pid = fork();
  if (pid == 0) {
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    parse(stop, argc, argv);
  }
  waitpid(pid, &outcome.status, 0);
  outcome.status = WIFEXITED(outcome.status) ? WEXITSTATUS(outcome.status) : 1000;
  read_all(out, outcome.out, sizeof(outcome.out));
  read_all(err, outcome.err, sizeof(outcome.err));
  return outcome;
}

static void expect(const char *line, const char *told)
{
  struct outcome outcome = run(false, line);

  if (!ok(outcome.status == 0 && strcmp(outcome.out, told) == 0, "taken: %s", line))
    printf("# %d: %s%s\n", outcome.status, outcome.out, outcome.err);
}

static void test_forms(void)
{
  expect("", "- - 0 1 5 []");
  expect("--image-path d", "d - 0 1 5 []");
  expect("--image-path=d", "d - 0 1 5 []");
  expect("-image-path d", "d - 0 1 5 []");
  expect("-image-path=d", "d - 0 1 5 []");
  expect("-n d", "d - 0 1 5 []");
  expect("--n v", "v - 0 1 5 []");
  expect("--n=v", "v - 0 1 5 []");
  expect("--n a --n b", "b - 0 1 5 []");
  expect("--n=a=b", "a=b - 0 1 5 []");
  expect("--n=", " - 0 1 5 []");
  expect("--n ''", " - 0 1 5 []");
  expect("--n --flag", "--flag - 0 1 5 []");
  expect("--n -- id", "-- - 0 1 5 [] id");
  expect("--stats id", "-  0 1 5 [] id");
  expect("--stats=json id", "- json 0 1 5 [] id");
  expect("--stage a=b --stage=c=d -stage e", "- - 0 1 5 [a=b,c=d,e]");
}

static void test_booleans(void)
{
  expect("--flag", "- - 1 1 5 []");
  expect("-flag", "- - 1 1 5 []");
  expect("--flag=true", "- - 1 1 5 []");
  expect("-flag=1", "- - 1 1 5 []");
  expect("--other=false", "- - 0 0 5 []");
  expect("--other=0 --flag", "- - 1 0 5 []");
  expect("--flag --flag=false", "- - 0 1 5 []");
  expect("--flag false", "- - 1 1 5 [] false");
}

static void test_numbers(void)
{
  expect("--number 0", "- - 0 1 0 []");
  expect("--number=18446744073709551615", "- - 0 1 18446744073709551615 []");
  expect("--number 007", "- - 0 1 7 []");
}

static void test_operands(void)
{
  struct outcome outcome;

  expect("a b c", "- - 0 1 5 [] a b c");
  expect("a --flag b --n c d", "c - 1 1 5 [] a b d");
  expect("a - b", "- - 0 1 5 [] a - b");
  expect("'' a", "- - 0 1 5 []  a");
  expect("--", "- - 0 1 5 []");
  expect("-- --flag", "- - 0 1 5 [] --flag");
  expect("a --flag -- --other=false --", "- - 1 1 5 [] a --other=false --");
  outcome = run(true, "--n c sh --flag -- -x");
  ok(outcome.status == 0 && strcmp(outcome.out, "c - 0 1 5 [] sh --flag -- -x") == 0,
     "a command line ends the options: %s", outcome.out);
  outcome = run(true, "--n c -- sh -- --flag");
  ok(outcome.status == 0 && strcmp(outcome.out, "c - 0 1 5 [] sh -- --flag") == 0,
     "and so does \"--\": %s", outcome.out);
}

static void refuse(const char *line, const char *why)
{
  struct outcome outcome = run(false, line);

  if (!ok(outcome.status == EXIT_USAGE && !*outcome.out && strstr(outcome.err, why) &&
              strstr(outcome.err, "\nusage: "),
          "refused: %s: %.*s", line, (int)strcspn(outcome.err, "\n"), outcome.err))
    printf("# %d: %s%s\n", outcome.status, outcome.out, outcome.err);
}

static void test_wrong_usage(void)
{
  refuse("--no", "unknown option --no");
  refuse("-no=1", "unknown option -no=1");
  refuse("--image", "unknown option --image");
  refuse("--image-paths d", "unknown option --image-paths");
  refuse("--=d", "unknown option --=d");
  refuse("---flag", "unknown option ---flag");
  refuse("-=", "unknown option -=");
  refuse("--help=yes", "unknown option --help=yes");
  refuse("--n", "--n needs a value");
  refuse("a --number", "--number needs a value");
  refuse("--flag=", "--flag: \"\" is neither true nor false");
  refuse("--flag=yes", "--flag: \"yes\" is neither true nor false");
  refuse("--flag=TRUE", "--flag: \"TRUE\" is neither true nor false");
}

static void test_wrong_numbers(void)
{
  static const char *const bad[] = {"''",
                                    "-1",
                                    "+1",
                                    "1x",
                                    "x",
                                    "0x10",
                                    "1.5",
                                    "1e3",
                                    "18446744073709551616",
                                    "99999999999999999999999999"};

  for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
    char line[100], why[100];

    snprintf(line, sizeof(line), "--number %s", bad[i]);
    snprintf(why, sizeof(why), "--number: \"%s\" is not a number",
             strcmp(bad[i], "''") == 0 ? "" : bad[i]);
    refuse(line, why);
  }
  refuse("--number=", "--number: \"\" is not a number");
}

static void test_descriptors(void)
{
  struct outcome outcome = run(false, "--fd 2 a");

  ok(outcome.status == 0 && strstr(outcome.out, "fd 2"), "an open descriptor: %s", outcome.out);
  refuse("--fd -1", "--fd: \"-1\" is not a number");
  refuse("--fd 999999", "--fd: 999999 is not an open descriptor");
  refuse("--fd 4294967297", "--fd: 4294967297 is not an open descriptor");
}

static void test_help(void)
{
  static const char *const lines[] = {"--help", "-help", "-h", "a --flag --help --no"};
  struct outcome outcome;

  for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
    outcome = run(false, lines[i]);
    ok(outcome.status == 0 && !*outcome.err && strncmp(outcome.out, "usage: ", 7) == 0 &&
           strstr(outcome.out, "Does it.") && strstr(outcome.out, "--image-path DIR ") &&
           strstr(outcome.out, "--stats[=json]") && strstr(outcome.out, "--version"),
       "%s", lines[i]);
  }
  outcome = run(false, "--version");
  ok(outcome.status == 0 && !*outcome.err && strstr(outcome.out, "\nbuilt of brick\n"),
     "--version: %.*s", (int)strcspn(outcome.out, "\n"), outcome.out);
}

/* Scheduling. */

/* Runs it in a process of the policy, and returns the policy that it has then. */
static int policy_after(int policy, void (*change)(void))
{
  const struct sched_param none = {0};
  pid_t child = fork();
  int status;

  if (child == 0) {
    if (sched_setscheduler(0, policy, &none) < 0)
      _exit(255);
    change();
    _exit(sched_getscheduler(0) & ~SCHED_RESET_ON_FORK);
  }
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                               : -1;
}

static void hurry_and_calm(void)
{
  struct policy before;

  policy_hurry(&before);
  policy_calm(&before);
}

static void hurry_for_a_while(void)
{
  const struct rlimit microseconds = {1000000, 1000000};
  struct policy before;

  setrlimit(RLIMIT_RTTIME, &microseconds);
  policy_hurry(&before);
}

static void test_policies(void)
{
  ok(policy_after(SCHED_OTHER, policy_batch) == SCHED_BATCH, "a stage takes its turn");
  ok(policy_after(SCHED_IDLE, policy_batch) == SCHED_IDLE, "unless it was told to be idle");
  ok(policy_after(SCHED_OTHER, hurry_and_calm) == SCHED_OTHER, "it hurries, and no longer");
  ok(policy_after(SCHED_BATCH, hurry_and_calm) == SCHED_BATCH, "as a batch process, too");
  ok(policy_after(SCHED_OTHER, hurry_for_a_while) == SCHED_OTHER,
     "not real-time where that is limited");
}

int main(void)
{
  test_errors();
  test_long_errors();
  test_trickle();
  test_whole_write();
  test_offsets();
  test_read_file();
  test_other_files();
  test_forms();
  test_booleans();
  test_numbers();
  test_operands();
  test_wrong_usage();
  test_wrong_numbers();
  test_descriptors();
  test_help();
  test_policies();
  return done_testing();
}
