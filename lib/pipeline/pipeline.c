#include "pipeline/pipeline.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>

enum { PIPE_ROOM = 1 << 20, PATIENCE_MS = 2000, GRACE_MS = 300, CLEANING_MS = 15000, REAP_MS = 10 };

/* Stages that are ours stand beside our own executable; else the PATH is asked. */
static char *find_program(const char *name)
{
  char path[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
  char *slash;

  if (n <= 0)
    return strdup(name);
  path[n] = '\0';
  slash = strrchr(path, '/');
  if (!slash || (size_t)(slash - path) + strlen(name) + 2 > sizeof(path))
    return strdup(name);
  strcpy(slash + 1, name);
  return strdup(access(path, X_OK) == 0 ? path : name);
}

const char *pipeline_swapped(const struct opt_list *swaps, const char *name)
{
  const char *program = NULL;

  for (size_t i = 0; i < swaps->count; i++) {
    size_t length = strcspn(swaps->items[i], "=");

    if (strlen(name) == length && strncmp(swaps->items[i], name, length) == 0)
      program = swaps->items[i] + length + 1;
  }
  return program;
}

int pipeline_check_swaps(const struct opt_list *swaps, const char *const *known, struct err *e)
{
  for (size_t i = 0; i < swaps->count; i++) {
    size_t length = strcspn(swaps->items[i], "=");
    const char *const *name = known;

    while (*name && (strlen(*name) != length || strncmp(*name, swaps->items[i], length) != 0))
      name++;
    if (!*name || swaps->items[i][length] != '=' || !swaps->items[i][length + 1])
      return err_set(e, "--stage %s: is not NAME=PROGRAM with the name of a stage",
                     swaps->items[i]);
  }
  return 0;
}

struct stage *pipeline_add(struct pipeline *pipeline, const char *name,
                           const struct opt_list *swaps)
{
  struct stage *stage = &pipeline->stages[pipeline->count++];
  const char *program = pipeline_swapped(swaps, name);

  *stage = (struct stage){.name = name, .pidfd = -1, .errors = -1, .foreign = program != NULL};
  stage->program = program ? strdup(program) : find_program(name);
  stage_word(stage, program ? program : name);
  return stage;
}

void stage_word(struct stage *stage, const char *word)
{
  if (stage->word_count + 1 < STAGE_WORDS)
    stage->words[stage->word_count++] = word;
}

void stage_pass(struct stage *stage, const char *flag, int fd)
{
  if (stage->foreign || fd < 0 || stage->passed_count == STAGE_PASSED)
    return;
  stage->passed_flag[stage->passed_count] = flag;
  stage->passed[stage->passed_count++] = fd;
}

static void print_quoted(const char *word, FILE *out)
{
  const char *safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";

  if (*word && strspn(word, safe) == strlen(word)) {
    fputs(word, out);
    return;
  }
  fputc('\'', out);
  for (; *word; word++) {
    if (*word == '\'')
      fputs("'\\''", out);
    else
      fputc(*word, out);
  }
  fputc('\'', out);
}

void pipeline_print(const struct pipeline *pipeline, FILE *out)
{
  for (size_t i = 0; i < pipeline->count; i++) {
    const struct stage *stage = &pipeline->stages[i];

    fputs(i ? " | " : "", out);
    for (size_t k = 0; k < stage->word_count; k++) {
      fputs(k ? " " : "", out);
      print_quoted(stage->words[k], out);
    }
  }
  fputc('\n', out);
}

/* In the child: standard streams, the passed descriptors from 3 on, and nothing else. */
static int arrange(const struct stage *stage, int in, int out, int errors)
{
  int fds[3 + STAGE_PASSED] = {in, out, errors};
  int count = 3;

  for (size_t i = 0; i < stage->passed_count; i++)
    fds[count++] = stage->passed[i];
  /* Out of the way first: source and target numbers overlap. */
  for (int i = 0; i < count; i++) {
    fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 64);
    if (fds[i] < 0)
      return -1;
  }
  for (int i = 0; i < count; i++) {
    if (dup2(fds[i], i) < 0)
      return -1;
  }
  return (int)syscall(SYS_close_range, (unsigned)count, ~0U, 0);
}

static _Noreturn void become(const struct stage *stage, int in, int out, int errors)
{
  static char numbers[STAGE_PASSED][4];
  const char *words[STAGE_WORDS + 2 * STAGE_PASSED + 2];
  size_t count = 0;
  sigset_t none;

  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (arrange(stage, in, out, errors) < 0)
    _exit(EXIT_FAILED);
  words[count++] = stage->words[0];
  for (size_t i = 0; i < stage->passed_count; i++) {
    snprintf(numbers[i], sizeof(numbers[i]), "%zu", i + 3);
    words[count++] = stage->passed_flag[i];
    words[count++] = numbers[i];
  }
  if (stage->splice && !stage->foreign)
    words[count++] = "--splice";
  for (size_t i = 1; i < stage->word_count; i++)
    words[count++] = stage->words[i];
  words[count] = NULL;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  execvp(stage->program, (char *const *)words);
  dprintf(STDERR_FILENO, "%s: %s", stage->program, strerror(errno));
  _exit(EXIT_FAILED);
}

static int start_stage(struct stage *stage, int in, int out, struct err *e)
{
  AUTO_CLOSE int theirs = -1;
  int ends[2];

  if (pipe2(ends, O_CLOEXEC) < 0)
    return err_sys(e, "pipe");
  stage->errors = ends[0];
  theirs = ends[1];
  fcntl(stage->errors, F_SETFL, O_NONBLOCK);
  stage->pid = fork(); /* not vfork(2): who cannot be started must not keep us from canceling */
  if (stage->pid < 0)
    return err_sys(e, "fork");
  if (stage->pid == 0)
    become(stage, in, out, theirs);
  stage->pidfd = pidfd_open(stage->pid, 0);
  return stage->pidfd < 0 ? err_sys(e, "%s", stage->name) : 0;
}

static int watch(struct pipeline *pipeline, uint64_t deadline_seconds, struct err *e)
{
  sigset_t set;

  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  sigprocmask(SIG_BLOCK, &set, NULL);
  pipeline->signals = signalfd(-1, &set, SFD_CLOEXEC);
  pipeline->deadline = -1;
  pipeline->deadline_seconds = deadline_seconds;
  if (pipeline->signals < 0)
    return err_sys(e, "signals");
  if (deadline_seconds) {
    struct itimerspec at = {.it_value.tv_sec = (time_t)deadline_seconds};

    pipeline->deadline = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    if (pipeline->deadline < 0 || timerfd_settime(pipeline->deadline, 0, &at, NULL) < 0)
      return err_sys(e, "deadline");
  }
  return 0;
}

/*
 * A filter splices what it does not change: pages may come to everybody further down, who must all
 * be ours. The last stage of ours has no pipe behind it.
 */
static void allow_splices(struct pipeline *pipeline)
{
  bool ours = true;

  for (size_t i = pipeline->count; i-- > 0;) {
    pipeline->stages[i].splice = ours && i + 1 < pipeline->count;
    ours = ours && !pipeline->stages[i].foreign;
  }
}

static int start_all(struct pipeline *pipeline, struct err *e)
{
  AUTO_CLOSE int in = open("/dev/null", O_RDONLY | O_CLOEXEC);

  for (size_t i = 0; i < pipeline->count; i++) {
    AUTO_CLOSE int out = -1;
    int next = -1;

    if (i + 1 < pipeline->count) {
      int ends[2];

      if (pipe2(ends, O_CLOEXEC) < 0)
        return err_sys(e, "pipe");
      next = ends[0];
      out = ends[1];
      fcntl(out, F_SETPIPE_SZ, PIPE_ROOM);
    } else {
      out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    }
    if (start_stage(&pipeline->stages[i], in, out, e) < 0) {
      cleanup_close(&next);
      return -1;
    }
    cleanup_close(&in);
    in = next;
  }
  return 0;
}

int pipeline_start(struct pipeline *pipeline, uint64_t deadline_seconds, struct err *e)
{
  if (watch(pipeline, deadline_seconds, e) < 0)
    return -1;
  allow_splices(pipeline);
  if (start_all(pipeline, e) < 0) {
    pipeline_stop(pipeline);
    return -1;
  }
  return 0;
}

/* Keeps what fits; the rest is read and dropped, so that nobody blocks. */
static void read_errors(struct stage *stage)
{
  char buffer[1024];
  ssize_t n;

  while ((n = read(stage->errors, buffer, sizeof(buffer))) > 0) {
    size_t room = sizeof(stage->message) - 1 - stage->message_length;
    size_t kept = (size_t)n < room ? (size_t)n : room;

    memcpy(stage->message + stage->message_length, buffer, kept);
    stage->message_length += kept;
  }
  if (n == 0)
    close(take_fd(&stage->errors));
}

static void reap(struct pipeline *pipeline, struct stage *stage)
{
  if (waitpid(stage->pid, &stage->status, 0) != stage->pid)
    return;
  stage->ended = true;
  stage->order = pipeline->ended++;
  read_errors(stage);
}

static bool has_failed(const struct stage *stage)
{
  return stage->ended && stage->status != 0;
}

static void note_cancel(struct pipeline *pipeline, bool by_signal)
{
  struct signalfd_siginfo info;

  if (!by_signal)
    snprintf(pipeline->canceled, sizeof(pipeline->canceled), "deadline of %" PRIu64 " s passed",
             pipeline->deadline_seconds);
  else if (read(pipeline->signals, &info, sizeof(info)) == sizeof(info))
    snprintf(pipeline->canceled, sizeof(pipeline->canceled), "canceled by SIG%s",
             sigabbrev_np((int)info.ssi_signo));
}

/* One turn of waiting. Returns false when timeout_ms passed without an event. */
static bool turn(struct pipeline *pipeline, int timeout_ms)
{
  struct pollfd fds[2 * STAGES_LIMIT + 2];
  size_t count = 2 * pipeline->count;
  int events;

  for (size_t i = 0; i < pipeline->count; i++) {
    const struct stage *stage = &pipeline->stages[i];

    fds[2 * i] = (struct pollfd){.fd = stage->errors, .events = POLLIN};
    fds[2 * i + 1] = (struct pollfd){.fd = stage->ended ? -1 : stage->pidfd, .events = POLLIN};
  }
  /* One cancel is enough. */
  fds[count] =
      (struct pollfd){.fd = pipeline->canceled[0] ? -1 : pipeline->signals, .events = POLLIN};
  fds[count + 1] =
      (struct pollfd){.fd = pipeline->canceled[0] ? -1 : pipeline->deadline, .events = POLLIN};
  do {
    events = poll(fds, count + 2, timeout_ms);
  } while (events < 0 && errno == EINTR);
  for (size_t i = 0; i < pipeline->count; i++) {
    if (fds[2 * i].revents)
      read_errors(&pipeline->stages[i]);
    if (fds[2 * i + 1].revents)
      reap(pipeline, &pipeline->stages[i]);
  }
  if (fds[count].revents || fds[count + 1].revents)
    note_cancel(pipeline, fds[count].revents != 0);
  return events > 0;
}

int pipeline_wait(struct pipeline *pipeline, size_t from, struct err *e)
{
  (void)e;
  for (;;) {
    bool all = true;

    for (size_t i = 0; i < pipeline->count; i++) {
      if (has_failed(&pipeline->stages[i]))
        return 1;
      all = all && (i < from || pipeline->stages[i].ended);
    }
    if (all)
      return 0;
    if (pipeline->canceled[0])
      return 2;
    turn(pipeline, -1);
  }
}

static bool all_ended(const struct pipeline *pipeline)
{
  for (size_t i = 0; i < pipeline->count; i++) {
    if (pipeline->stages[i].pid > 0 && !pipeline->stages[i].ended)
      return false;
  }
  return true;
}

static void signal_all(struct pipeline *pipeline, size_t from, int signal_number)
{
  for (size_t i = from; i < pipeline->count; i++) {
    struct stage *stage = &pipeline->stages[i];

    if (stage->pid > 0 && !stage->ended)
      kill(stage->pid, signal_number);
  }
}

static uint64_t now_ms(void)
{
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void wait_for_end(struct pipeline *pipeline, uint64_t patience_ms)
{
  uint64_t until = now_ms() + patience_ms;

  while (!all_ended(pipeline) && now_ms() < until)
    turn(pipeline, (int)(until - now_ms()));
}

/*
 * Who still has a stage's messages open after its end is cleaning up behind it. It may wait for
 * processes that became our children when the stage died.
 */
static void wait_for_silence(struct pipeline *pipeline, uint64_t patience_ms)
{
  uint64_t until = now_ms() + patience_ms;

  for (;;) {
    bool silent = true;

    while (waitpid(-1, NULL, WNOHANG) > 0)
      ;

    for (size_t i = 0; i < pipeline->count; i++)
      silent = silent && pipeline->stages[i].errors < 0;
    if (silent || now_ms() >= until)
      return;
    turn(pipeline, REAP_MS);
  }
}

/* A message that tells of somebody else's failure. */
static bool is_consequence(const struct stage *stage)
{
  return (WIFSIGNALED(stage->status) && WTERMSIG(stage->status) == SIGPIPE) ||
         strstr(stage->message, "Broken pipe") != NULL ||
         strstr(stage->message, "without END") != NULL;
}

void pipeline_stop(struct pipeline *pipeline)
{
  bool known = pipeline->canceled[0] != '\0';

  for (size_t i = 0; i < pipeline->count; i++)
    known = known || (has_failed(&pipeline->stages[i]) && !is_consequence(&pipeline->stages[i]));
  /* Only consequences so far: the cause is about to show itself. */
  if (!known)
    wait_for_end(pipeline, GRACE_MS);
  signal_all(pipeline, 0, SIGTERM);
  wait_for_end(pipeline, PATIENCE_MS);
  signal_all(pipeline, 1, SIGKILL);
  wait_for_end(pipeline, PATIENCE_MS);
  signal_all(pipeline, 0, SIGKILL);
  while (!all_ended(pipeline))
    turn(pipeline, -1);
  wait_for_silence(pipeline, CLEANING_MS);
}

static int describe(const struct stage *stage, struct err *e)
{
  size_t length = stage->message_length;

  if (WIFSIGNALED(stage->status))
    return err_set(e, "%s: killed by signal %d (%s)", stage->name, WTERMSIG(stage->status),
                   strsignal(WTERMSIG(stage->status)));
  while (length && stage->message[length - 1] == '\n')
    length--;
  if (length)
    return err_set(e, "%.*s", (int)length, stage->message);
  return err_set(e, "%s: exit status %d", stage->name, WEXITSTATUS(stage->status));
}

int pipeline_cause(const struct pipeline *pipeline, struct err *e)
{
  const struct stage *cause = NULL;

  if (pipeline->canceled[0])
    return err_set(e, "%s", pipeline->canceled);
  for (size_t i = 0; i < pipeline->count; i++) {
    const struct stage *stage = &pipeline->stages[i];

    if (!has_failed(stage))
      continue;
    if (!cause || is_consequence(cause) > is_consequence(stage) ||
        (is_consequence(cause) == is_consequence(stage) && stage->order < cause->order))
      cause = stage;
  }
  return cause ? describe(cause, e) : err_set(e, "a stage could not be started");
}

void pipeline_warnings(const struct pipeline *pipeline)
{
  for (size_t i = 0; i < pipeline->count; i++)
    fwrite(pipeline->stages[i].message, pipeline->stages[i].message_length, 1, stderr);
}

void pipeline_close(struct pipeline *pipeline)
{
  for (size_t i = 0; i < pipeline->count; i++) {
    cleanup_close(&pipeline->stages[i].pidfd);
    cleanup_close(&pipeline->stages[i].errors);
    free(pipeline->stages[i].program);
  }
  cleanup_close(&pipeline->signals);
  cleanup_close(&pipeline->deadline);
}
