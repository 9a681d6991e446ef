#include "container/oci.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { WORDS = 16, STATE_LIMIT = 1 << 20 };

/* A command line of the runtime on its way. */
struct words {
  const char *items[WORDS];
  size_t count;
};

static void add(struct words *words, const char *word)
{
  if (words->count + 1 < WORDS)
    words->items[words->count++] = word;
}

static struct words command(const struct oci *oci, const char *verb)
{
  struct words words = {0};

  add(&words, oci->program);
  add(&words, "--log-format");
  add(&words, "json");
  if (oci->root) {
    add(&words, "--root");
    add(&words, oci->root);
  }
  add(&words, verb);
  return words;
}

/* In the child: nothing of ours but where it says things. */
static _Noreturn void become(const struct words *words, int out, int messages)
{
  int null = open("/dev/null", O_RDONLY);
  sigset_t none;

  if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
      dup2(messages, STDERR_FILENO) < 0)
    _exit(EXIT_FAILED);
  close_range(3, ~0U, 0);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  execvp(words->items[0], (char *const *)words->items);
  dprintf(STDERR_FILENO, "%s", strerror(errno));
  _exit(EXIT_FAILED);
}

/* Files for what it says: a pipe would be held open by the container that it makes. */
static pid_t begin(const struct words *words, int out, int *messages, struct err *e)
{
  AUTO_CLOSE int file = memfd_create("messages", MFD_CLOEXEC);
  pid_t pid;

  if (file < 0)
    return err_sys(e, "%s", words->items[0]);
  pid = fork();
  if (pid < 0)
    return err_sys(e, "fork");
  if (pid == 0)
    become(words, out < 0 ? file : out, file);
  *messages = take_fd(&file);
  return pid;
}

/* The runtime's own words: its last line, as JSON if it logs before it dies, or as it is. */
static void take_message(int messages, char *text, size_t room)
{
  ssize_t n = io_pread(messages, text, room - 1, 0);
  const char *line;
  const char *message;
  json_t *logged;

  while (n > 0 && text[n - 1] == '\n')
    n--;
  text[n > 0 ? n : 0] = '\0';
  line = strrchr(text, '\n');
  logged = json_loads(line ? line + 1 : text, 0, NULL);
  message = json_string_value(json_object_get(logged, "msg"));
  if (message)
    snprintf(text, room, "%s", message);
  json_decref(logged);
}

/* How it went; in its own words where it has failed. */
static int judge(const struct oci *oci, const char *verb, int messages, int status, struct err *e)
{
  char text[sizeof(e->text) - 256];

  if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
    return 0;
  take_message(messages, text, sizeof(text));
  if (text[0])
    err_set(e, "%s %s: %s", oci->program, verb, text);
  else if (WIFSIGNALED(status))
    err_set(e, "%s %s: killed by signal %d", oci->program, verb, WTERMSIG(status));
  else
    err_set(e, "%s %s: exit status %d", oci->program, verb, WEXITSTATUS(status));
  return err_prefix(e, "container %s", oci->id);
}

static int run(const struct oci *oci, const char *verb, const struct words *words, int out,
               struct err *e)
{
  AUTO_CLOSE int messages = -1;
  pid_t pid = begin(words, out, &messages, e);
  int status;

  if (pid < 0)
    return -1;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR)
      return err_sys(e, "%s: wait", oci->program);
  }
  return judge(oci, verb, messages, status, e);
}

/* What `state` tells of the container (runtime.md, "State"). */
int oci_init(const struct oci *oci, pid_t *init, struct err *e)
{
  AUTO_CLOSE int out = memfd_create("state", MFD_CLOEXEC);
  struct words words = command(oci, "state");
  const char *status;
  json_t *state;
  json_int_t pid;
  int result = 0;

  add(&words, oci->id);
  if (out < 0)
    return err_sys(e, "%s state", oci->program);
  if (run(oci, "state", &words, out, e) < 0)
    return -1;
  lseek(out, 0, SEEK_SET);
  state = json_loadfd(out, 0, NULL);
  pid = json_integer_value(json_object_get(state, "pid"));
  status = json_string_value(json_object_get(state, "status"));
  if (status && strcmp(status, "created") != 0)
    result = err_set(e, "container %s is %s, and does not wait to be started", oci->id, status);
  else if (!status || pid <= 0 || pid > INT32_MAX)
    result = err_set(e, "%s state: tells no status or pid", oci->program);
  json_decref(state);
  *init = (pid_t)pid;
  return result;
}

int oci_create(const struct oci *oci, struct err *e)
{
  struct words words = command(oci, "create");
  pid_t init;

  if (oci->foreign)
    return oci_init(oci, &init, e);
  add(&words, "--bundle");
  add(&words, oci->bundle);
  if (oci->console_socket) {
    add(&words, "--console-socket");
    add(&words, oci->console_socket);
  }
  add(&words, oci->id);
  return run(oci, "create", &words, -1, e) < 0 ? err_prefix(e, "bundle %s", oci->bundle) : 0;
}

pid_t oci_start(const struct oci *oci, int *messages, struct err *e)
{
  struct words words = command(oci, "start");

  add(&words, oci->id);
  return begin(&words, -1, messages, e);
}

int oci_started(const struct oci *oci, int messages, int status, struct err *e)
{
  return judge(oci, "start", messages, status, e);
}

int oci_delete(const struct oci *oci, struct err *e)
{
  const char *verb = oci->foreign ? "kill" : "delete";
  struct words words = command(oci, verb);

  if (!oci->foreign)
    add(&words, "--force");
  add(&words, oci->id);
  if (oci->foreign)
    add(&words, "KILL");
  return run(oci, verb, &words, -1, e);
}
