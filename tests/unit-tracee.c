/* Remote system calls: they work, and nothing that happens to the tracer harms the tracee. */
#include "base/cleanup.h"
#include "tap.h"
#include "tracee/remote.h"
#include "tracee/stack.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

extern const uint8_t trampoline_start[], trampoline_slots[];

/* What the target shares with us: it counts, and says when something is wrong. */
struct shared {
  volatile uint64_t count;
  volatile uint64_t wrong;
};

enum { THREADS = 3 * TRACEE_AT_ONCE / 2 };

/* For as many threads as there may be. */
static struct shared *new_shared(void)
{
  return mmap(NULL, THREADS * sizeof(struct shared), PROT_READ | PROT_WRITE,
              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

enum kind { SPINS, SLEEPS, HANDLES, HAS_BEEN_DEEP, KINDS };
static const char *const kinds[] = {"spins", "sleeps", "handles signals", "has used its stack"};

/* Needs as much of the stack as handlers do that print. */
static void handler(int number)
{
  volatile char text[6000];

  memset((char *)text, number, sizeof(text));
}

static void slow_handler(int number)
{
  handler(number);
  nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
}

/* Leaves something in every page of the stack that is mapped, and of some that were not. */
static __attribute__((noinline)) void go_deep(void)
{
  volatile char text[300000];

  for (size_t i = 0; i < sizeof(text); i += 8)
    text[i] = (char)(i / 8 | 1);
}

/* Keeps values in callee- and caller-saved and vector registers across a short sleep or none. */
static _Noreturn void target(struct shared *shared, enum kind kind)
{
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGUSR1, kind == HANDLES ? handler : SIG_IGN);
  signal(SIGUSR2, kind == HANDLES ? handler : SIG_IGN);
  signal(SIGTERM, kind == HANDLES ? slow_handler : SIG_IGN);
  if (kind == HAS_BEEN_DEEP)
    go_deep();
  for (uint64_t i = 1;; i++) {
    uint64_t a = i * 3, b = i * 5, c = i * 7;
    double d = (double)i;

    __asm__ volatile("movq %0, %%xmm9\n\t"
                     "mov $200, %%ecx\n"
                     "1: dec %%ecx\n\t"
                     "jnz 1b\n\t"
                     "movq %%xmm9, %0\n\t"
                     : "+r"(a), "+r"(b), "+r"(c), "+x"(d)
                     :
                     : "ecx", "xmm9", "cc");
    if (a != i * 3 || b != i * 5 || c != i * 7 || d != (double)i)
      shared->wrong++;
    if (kind == SLEEPS || (kind == HANDLES && i % 64 == 0)) {
      struct timespec pause = {.tv_nsec = 100000};

      if (nanosleep(&pause, NULL) < 0 && errno != EINTR)
        shared->wrong++;
    }
    shared->count++;
  }
}

static bool counts_on(struct shared *shared)
{
  uint64_t before = shared->count;

  for (int i = 0; i < 5000 && shared->count == before; i++)
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  return shared->count != before;
}

static pid_t start_target(struct shared *shared, enum kind kind)
{
  pid_t pid = fork();

  if (pid == 0)
    target(shared, kind);
  counts_on(shared);
  return pid;
}

/* A hundred questions; each has its own answer. */
static int ask(struct tracee *tracee, struct err *e)
{
  enum { QUESTIONS = 100 };
  uint64_t area = tracee_scratch(tracee);
  struct remote_call calls[QUESTIONS];

  for (uint64_t i = 0; i < QUESTIONS; i++)
    calls[i] = i % 3 == 0
                   ? (struct remote_call){.number = SYS_getpid}
                   : (struct remote_call){.number = SYS_lseek, .arguments = {1000 + i, area, i}};
  if (tracee_ask(tracee, calls, sizeof(calls), QUESTIONS, e) < 0)
    return -1;
  for (uint64_t i = 0; i < QUESTIONS; i++) {
    if (calls[i].result != (i % 3 == 0 ? tracee->pid : -EBADF))
      return err_set(e, "question %d: %ld", (int)i, (long)calls[i].result);
  }
  return 0;
}

/* It stands, and its process has its remote mapping. */
static int seize_and_begin(pid_t pid, struct tracee *tracee, struct err *e)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};

  return tracee_seize(tracee, pid, pid, e) != 0 || tracee_wait_stop(tracee, 0, e) != 0 ||
                 proc_maps_read(pid, &maps, e) != 0 || tracee_heal(tracee, 1, &maps, e) < 0 ||
                 tracee_begin_remote_known(tracee, 1, &maps, &(uint64_t){0}, e) < 0
             ? -1
             : 0;
}

static int seize_and_call(pid_t pid, unsigned calls, struct err *e)
{
  struct tracee tracee;
  int64_t result = 0;

  if (seize_and_begin(pid, &tracee, e) < 0)
    return -1;
  for (unsigned i = 0; i < calls; i++) {
    if (TRACEE_CALL(&tracee, e, &result, SYS_getpid, 0, 0, 0, 0, 0, 0) < 0)
      return -1;
    if (result != pid)
      return err_set(e, "getpid said %ld", (long)result);
    /* Of the signals that tell of the end one, the other or none may be used. */
    tracee_caught(&tracee, i % 3 == 0   ? ~UINT64_C(0)
                           : i % 3 == 1 ? 0
                                        : UINT64_C(1) << (SIGURG - 1));
    if (ask(&tracee, e) < 0)
      return -1;
  }
  if (tracee_end_remote(&tracee, e) < 0 || tracee_detach(&tracee, e) < 0)
    return -1;
  return 0;
}

/* Sends the target signals, most of which it ignores, over and over, and stops it for a while. */
static pid_t start_pest(pid_t target)
{
  pid_t pid = fork();

  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned i = 0;; i++) {
      const int signals[] = {SIGURG,  SIGWINCH, SIGUSR1, SIGCHLD,
                             SIGUSR2, SIGSTOP,  SIGCONT, SIGUSR1};

      kill(target, signals[i % ARRAY_LEN(signals)]);
      nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
  }
  return pid;
}

static void test_calls(enum kind kind)
{
  struct shared *shared = new_shared();
  pid_t pid = start_target(shared, kind);
  pid_t pest = start_pest(pid);
  struct err e = {""};
  int result = 0;

  for (int i = 0; i < 50 && result == 0; i++)
    result = seize_and_call(pid, 20, &e);
  ok(result == 0, "remote calls in a target that %s %s", kinds[kind], e.text);
  ok(counts_on(shared) && shared->wrong == 0, "it counts on, nothing wrong");
  kill(pest, SIGKILL);
  waitpid(pest, NULL, 0);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

static void test_heals(void)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  uint64_t restorer = 0;
  struct entry entry;
  struct err e = {""};

  struct shared *shared = new_shared();
  pid_t pid = start_target(shared, SLEEPS);
  const struct tracee tracee = {.pid = pid, .tid = pid};

  ok(proc_maps_read(pid, &maps, &e) == 0 && entry_find(&tracee, &maps, &restorer, &entry, &e) == 0,
     "entry found %s", e.text);
  ok(entry.frame != 0, "the first call heals itself, too");
  entry_free(&entry);
  for (int wrong = 0; wrong < 2; wrong++) {
    uint64_t guess = restorer + (uint64_t)wrong;

    ok(entry_find(&tracee, &maps, &guess, &entry, &e) == 0 && guess == restorer,
       "with a %s idea where, too %s", wrong ? "wrong" : "right", e.text);
    entry_free(&entry);
  }
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

enum { END = 4 * 4096 };
enum stack_end { UNTOUCHED, ZEROS, WRITTEN, STACK_ENDS };
static const char *const stack_ends[] = {"untouched", "zeros", "written"};

/* Its stack's low end, which /proc/PID/maps tells. */
static uint64_t find_stack_end(pid_t pid)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  struct err e = {""};

  if (proc_maps_read(pid, &maps, &e) == 0) {
    for (size_t i = 0; i < maps.count; i++) {
      if (strcmp(maps.maps[i].name, "[stack]") == 0)
        return maps.maps[i].start;
    }
  }
  return 0;
}

static bool access_end(pid_t pid, uint64_t at, uint8_t bytes[END], bool write)
{
  return remote_mem(pid, at, bytes, END, write, &(struct err){""}) == 0;
}

/* Is there room for a frame, with the stack's pointer there? */
static bool is_free(const struct tracee *tracee, const struct proc_maps *maps, uint64_t rsp)
{
  struct tracee other = *tracee;
  uint64_t restorer = 0;
  struct entry entry;
  bool found;

  other.regs.rsp = rsp;
  found = entry_find(&other, maps, &restorer, &entry, &(struct err){""}) == 0 && entry.frame;
  entry_free(&entry);
  return found;
}

/*
 * A tracer that is killed while it writes to the stack's end leaves a page of zeros without a mark;
 * a program that was ever deep in its stack leaves what it had there.
 */
static void test_stack_end(enum stack_end kind, pid_t pid, struct shared *shared)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  uint64_t at = find_stack_end(pid);
  uint8_t before[END], after[END];
  struct tracee tracee;
  struct err e = {""};

  memset(before, kind == WRITTEN ? 0x5a : 0, sizeof(before));
  ok(tracee_seize(&tracee, pid, pid, &e) == 0 && tracee_wait_stop(&tracee, 0, &e) == 0 && at &&
         (kind == UNTOUCHED || access_end(pid, at, before, true)) &&
         proc_maps_read(pid, &maps, &e) == 0 && tracee_save(&tracee, &e) == 0,
     "a process whose stack's end is %s %s", stack_ends[kind], e.text);
  ok(is_free(&tracee, &maps, tracee.regs.rsp), "there is room for a frame");
  ok(is_free(&tracee, &maps, (uint64_t)shared) == (kind != WRITTEN) &&
         is_free(&tracee, &maps, at + 20000) == (kind == UNTOUCHED) &&
         is_free(&tracee, &maps, 0) == (kind == UNTOUCHED),
     "unless something may still be needed there");
  ok(tracee_begin_remote_known(&tracee, 1, &maps, &(uint64_t){0}, &e) == 0 &&
         tracee.remote->boot.frame > at && tracee.remote->boot.frame < at + 4096 &&
         access_end(pid, at, after, false) && memcmp(before, after, END) == 0,
     "nothing stands there between two calls %s", e.text);
  ok(tracee_end_remote(&tracee, &e) == 0 && tracee_detach(&tracee, &e) == 0 &&
         access_end(pid, at, after, false) && memcmp(before, after, END) == 0,
     "nothing stays behind there %s", e.text);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

/* All start before we know where it is: our stack, which they have too, must not lead there. */
static void test_stack_ends(void)
{
  struct shared *shared[STACK_ENDS];
  pid_t pids[STACK_ENDS];

  for (enum stack_end kind = UNTOUCHED; kind < STACK_ENDS; kind++) {
    shared[kind] = new_shared();
    pids[kind] = start_target(shared[kind], SLEEPS);
  }
  for (enum stack_end kind = UNTOUCHED; kind < STACK_ENDS; kind++)
    test_stack_end(kind, pids[kind], shared[kind]);
}

/* On a processor with AMX the state has room for tiles, which a thread has to ask for. */
static void test_large_state(void)
{
  static uint8_t state[11008];
  static uint64_t frame[SIGFRAME_SIZE / 8 + 1];
  const uint32_t magic2 = FP_XSTATE_MAGIC2;
  const uint64_t x87_sse_avx = 7;
  struct tracee tracee = {.tid = 1, .pid = 1, .xstate = {.data = state, .size = sizeof(state)}};
  struct err e = {""};
  size_t size;

  memset(state, 0x5a, sizeof(state));
  memcpy(state + 512, &x87_sse_avx, sizeof(x87_sse_avx));
  size = sigframe_size(&tracee);
  ok(size >= 576 + 256 && size <= 320 + 576 + 256 + 4, "tiles that are not in use are left out");
  ok(sigframe_build(&tracee, 4096, 0, frame, &e) == (int)size &&
         memcmp((uint8_t *)frame + size - 4, &magic2, 4) == 0 &&
         memcmp((uint8_t *)frame + size - 4 - 256, state + 576, 256) == 0,
     "the rest is there %s", e.text);
  tracee.xstate.size = 2696;
  ok(sigframe_size(&tracee) == 320 + 2696 + 4, "a state without room for them is there in all");
}

/* Ends as if killed while the thread stands behind a call through the vdso. */
static _Noreturn void die_in_first_call(pid_t pid)
{
  struct tracee tracee;
  struct err e = {""};
  int64_t result;

  if (seize_and_begin(pid, &tracee, &e) == 0 && remote_restore(&tracee, &e) == 0) {
    tracee.remote->entry = tracee.remote->boot;
    if (TRACEE_CALL(&tracee, &e, &result, SYS_getpid, 0, 0, 0, 0, 0, 0) == 0 && result == pid)
      _exit(0);
  }
  fprintf(stderr, "# %s\n", e.text);
  _exit(1);
}

/* A thread that stands by job control does not carry on by itself: the next tracer sees to it. */
static void test_dying_in_first_call(void)
{
  struct shared *shared = new_shared();
  pid_t pid = start_target(shared, SLEEPS);
  struct tracee tracee;
  struct err e = {""};
  pid_t tracer;
  int status;

  kill(pid, SIGSTOP);
  tracer = fork();
  if (tracer == 0)
    die_in_first_call(pid);
  ok(waitpid(tracer, &status, 0) == tracer && status == 0, "a tracer dies in its first call");
  ok(tracee_seize(&tracee, pid, pid, &e) == 0 && tracee_wait_stop(&tracee, 0, &e) == 0 &&
         tracee_begin_remote(&tracee, &e) == 0 && tracee_end_remote(&tracee, &e) == 0 &&
         tracee_detach(&tracee, &e) == 0,
     "the next one comes while the process is stopped %s", e.text);
  kill(pid, SIGCONT);
  ok(counts_on(shared) && shared->wrong == 0 && waitpid(pid, &status, WNOHANG) == 0,
     "it counts on, nothing wrong");
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

/* What a killed tracer has left at a stack's end says nothing about a thread that comes there. */
static void test_old_frame(void)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  struct shared *shared = new_shared();
  pid_t pid = start_target(shared, SLEEPS);
  struct tracee tracee;
  struct err e = {""};
  const struct entry *boot;

  ok(seize_and_begin(pid, &tracee, &e) == 0 && proc_maps_read(pid, &maps, &e) == 0 &&
         stack_borrow(&tracee, &tracee.remote->boot, &e) == 0 &&
         tracee_write(&tracee, tracee.remote->boot.frame, &tracee.remote->boot.restorer, 8, &e) ==
             0,
     "a frame was left behind %s", e.text);
  boot = &tracee.remote->boot;
  {
    struct user_regs_struct in_vdso = {.rip = boot->rip + 2, .rsp = 1 << 20, .rbp = boot->rbp};
    struct user_regs_struct behind = {.rip = boot->restorer + 7, .rsp = boot->frame + 8};
    struct user_regs_struct elsewhere = {.rip = (uint64_t)test_old_frame, .rsp = boot->frame + 8};

    ok(entry_find_return(&tracee, &maps, &in_vdso) && in_vdso.rip == boot->restorer &&
           in_vdso.rsp == boot->frame + 8,
       "who stands behind the vdso's call returns through it");
    ok(entry_find_return(&tracee, &maps, &behind) && behind.rip == boot->restorer,
       "who is about to return, too");
    ok(!entry_find_return(&tracee, &maps, &elsewhere), "a function that is so deep does not");
  }
  ok(tracee_end_remote(&tracee, &e) == 0 && tracee_detach(&tracee, &e) == 0 && counts_on(shared),
     "it counts on %s", e.text);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

/* Kills tracers at random moments of their work; the target must not notice. */
static void test_dying_tracer(enum kind kind)
{
  struct shared *shared = new_shared();
  pid_t pid = start_target(shared, kind);
  pid_t pest = start_pest(pid);
  const char *harm = NULL;
  int status = 0;

  srand(1);
  for (int i = 0; i < 400 && !harm; i++) {
    pid_t tracer = fork();

    if (tracer == 0) {
      struct err e = {""};

      for (;;) {
        if (seize_and_call(pid, 5, &e) < 0) {
          fprintf(stderr, "# %s\n", e.text);
          _exit(1);
        }
      }
    }
    nanosleep(&(struct timespec){.tv_nsec = rand() % 2000000}, NULL);
    kill(tracer, SIGKILL);
    waitpid(tracer, NULL, 0);
    if (i % 2 == 0 && !counts_on(shared))
      harm = "stands";
    if (shared->wrong)
      harm = "counts wrong";
    if (waitpid(pid, &status, WNOHANG) != 0)
      harm = "is dead";
  }
  ok(!harm, "400 tracers killed, the target that %s counts on", kinds[kind]);
  if (harm)
    printf("# it %s, status 0x%x\n", harm, (unsigned)status);
  kill(pest, SIGKILL);
  waitpid(pest, NULL, 0);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

/* The tracer dies when the registers are ours already, and the signals are not blocked yet. */
static int die_between(pid_t pid, int signal_number, struct err *e)
{
  struct user_regs_struct regs;
  struct tracee tracee;

  if (seize_and_begin(pid, &tracee, e) < 0)
    return -1;
  regs = remote_registers(&tracee);
  regs.rax = SYS_getpid;
  kill(pid, signal_number);
  return remote_divert(&tracee, &regs, tracee.sigmask, e);
}

static bool has_copy(pid_t pid)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  struct remote_copy copy;
  struct err e = {""};

  return proc_maps_read(pid, &maps, &e) != 0 ||
         entry_find_copies(pid, &maps, trampoline_start, remote_offset(trampoline_slots), &copy, 1);
}

static void test_dying_between(int signal_number, const char *when)
{
  struct shared *shared = new_shared();
  pid_t pid = start_target(shared, HANDLES);
  struct err e = {""};
  pid_t tracer = fork();
  int status;

  if (tracer == 0) {
    if (die_between(pid, signal_number, &e) == 0)
      _exit(0);
    fprintf(stderr, "# %s\n", e.text);
    _exit(1);
  }
  ok(waitpid(tracer, &status, 0) == tracer && status == 0, "a tracer dies in between");
  nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
  ok(seize_and_call(pid, 1, &e) == 0, "the next one comes %s the handler %s", when, e.text);
  ok(counts_on(shared) && counts_on(shared) && shared->wrong == 0 &&
         waitpid(pid, &status, WNOHANG) == 0,
     "a signal that comes while the tracer dies is handled");
  ok(seize_and_call(pid, 1, &e) == 0 && counts_on(shared) && !has_copy(pid),
     "what it left is unmapped in the end %s", e.text);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

/* Two tracers were killed before they gave their mappings scratch memory: these touch. */
static void test_copies_that_touch(void)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};
  const uint64_t size = remote_size(1), slots = 1;
  uint8_t *base = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct remote_copy copies[3];
  struct err e = {""};
  size_t found = 0;

  for (int i = 0; i < 2; i++) {
    memcpy(base + i * size, trampoline_start, remote_offset(trampoline_slots));
    memcpy(base + i * size + remote_offset(trampoline_slots), &slots, sizeof(slots));
  }
  mprotect(base, 2 * size, PROT_READ | PROT_EXEC);
  if (proc_maps_read(getpid(), &maps, &e) == 0)
    found = entry_find_copies(getpid(), &maps, trampoline_start, remote_offset(trampoline_slots),
                              copies, ARRAY_LEN(copies));
  ok(found == 2 && copies[0].base == (uint64_t)base && copies[0].slots == 1 &&
         copies[1].base == (uint64_t)base + size && copies[1].slots == 1,
     "two copies that touch are two, and no larger than they are");
  munmap(base, 2 * size);
}

/* A snapshot keeps the memory of its instant while the target writes on, and leaves no trace. */
static void test_snapshot(void)
{
  struct shared *shared = new_shared();
  volatile uint64_t *private =
      mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int32_t number = 0;
  struct tracee tracee = {0}, snapshot = {0};
  struct err e = {""};
  uint64_t first = 0, second = 0, base = 0;
  pid_t pid = fork();
  bool made;

  if (pid == 0) {
    for (;;) {
      (*private)++;
      shared->count++;
      if (wait4(-1, NULL, WNOHANG, NULL) > 0)
        shared->wrong++;
    }
  }
  counts_on(shared);
  made = tracee_seize(&tracee, pid, pid, &e) == 0 && tracee_wait_stop(&tracee, 0, &e) == 0 &&
         tracee_begin_remote(&tracee, &e) == 0 && (base = tracee_remote_base(&tracee)) != 0 &&
         tracee_snapshot(&tracee, &snapshot, &number, &e) == 0 &&
         tracee_end_remote(&tracee, &e) == 0 && tracee_detach(&tracee, &e) == 0;
  ok(made, "snapshot %s", e.text);
  ok(counts_on(shared) && tracee_read(&snapshot, (uint64_t) private, &first, 8, &e) == 0 &&
         counts_on(shared) && tracee_read(&snapshot, (uint64_t) private, &second, 8, &e) == 0 &&
         first == second && first > 0,
     "the snapshot stands still while its process runs");
  {
    struct iovec parts[2] = {{(void *)private, 4096}, {(void *)shared, 4096}};
    struct iovec bad[2] = {{(void *)private, 4096}, {(void *)8, 4096}};
    uint64_t page[512] = {0};
    const size_t both[TRACEE_PIPES] = {1, [2] = 1}, one[TRACEE_PIPES] = {2};
    size_t sent[TRACEE_PIPES];
    int pipes[TRACEE_PIPES];

    memset(pipes, -1, sizeof(pipes));
    ok(tracee_send_open(&snapshot, base, REMOTE_SIZE, pipes) == 0 &&
           tracee_send_start(&snapshot, parts, both, &e) == 0 &&
           tracee_send_end(&snapshot, sent, &e) == 0 && sent[0] == 4096 && sent[1] == 0 &&
           sent[2] == 4096 && read(pipes[0], page, 4096) == 4096 && page[0] == first &&
           read(pipes[2], page, 4096) == 4096,
       "it sends its pages %s", e.text);
    ok(tracee_send_start(&snapshot, bad, one, &e) == 0 &&
           tracee_send_end(&snapshot, sent, &e) == 0 && sent[0] == 4096 &&
           read(pipes[0], page, 4096) == 4096 && page[0] == first &&
           tracee_send_start(&snapshot, (struct iovec[]){bad[1], bad[0]}, both, &e) == 0 &&
           tracee_send_end(&snapshot, sent, &e) == 0 && sent[0] == 0 && sent[2] == 0,
       "up to one that is not there %s", e.text);
    for (size_t i = 0; i < TRACEE_PIPES; i++)
      close(pipes[i]);
    ok(counts_on(shared), "its process runs on");
  }
  tracee_kill_snapshot(&snapshot);
  ok(tracee_seize(&tracee, pid, pid, &e) == 0 && tracee_wait_stop(&tracee, 0, &e) == 0 &&
         tracee_begin_remote(&tracee, &e) == 0 && tracee_reap(&tracee, number, &e) == 0 &&
         tracee_end_remote(&tracee, &e) == 0 && tracee_detach(&tracee, &e) == 0,
     "reaped %s", e.text);
  ok(counts_on(shared) && shared->wrong == 0, "its process never noticed");
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

static void *count_in_thread(void *shared)
{
  target(shared, SLEEPS);
}

/* Every other thread blocks all signals: none can tell that it has answered. */
static pid_t start_threads(struct shared *shared)
{
  pid_t pid = fork();

  if (pid)
    return pid;
  for (int i = 1; i < THREADS; i++) {
    pthread_t thread;
    sigset_t blocked;

    if (i % 2)
      sigfillset(&blocked);
    else
      sigemptyset(&blocked);
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    if (pthread_create(&thread, NULL, count_in_thread, &shared[i]) != 0)
      _exit(1);
  }
  target(shared, SLEEPS);
}

static bool all_count_on(struct shared *shared)
{
  for (int i = 0; i < THREADS; i++) {
    if (!counts_on(&shared[i]) || shared[i].wrong)
      return false;
  }
  return true;
}

struct thread_sheet {
  struct remote_call calls[2];
  uint32_t ids[3];
};

static int fill_ids(void *context, size_t index, void *sheet, struct err *e)
{
  const struct tracee *threads = context;
  uint64_t area = tracee_scratch(&threads[index]) + offsetof(struct thread_sheet, ids);

  (void)e;
  *(struct thread_sheet *)sheet = (struct thread_sheet){
      .calls = {{SYS_getresuid, {area, area + 4, area + 8}, 0}, {SYS_gettid, {0}, 0}},
      .ids = {1, 1, 1},
  };
  return 0;
}

static int take_ids(void *context, size_t index, const void *answered, struct err *e)
{
  const struct thread_sheet *sheet = answered;
  const struct tracee *threads = context;

  if (sheet->calls[0].result != 0 || sheet->calls[1].result != threads[index].tid ||
      sheet->ids[0] != getuid() || sheet->ids[2] != getuid())
    return err_set(e, "thread %zu: %ld", index, (long)sheet->calls[1].result);
  return 0;
}

/* Also when what is answered is not taken all run on. */
static int refuse_one(void *context, size_t index, const void *sheet, struct err *e)
{
  return index == TRACEE_AT_ONCE / 3 ? err_set(e, "refused") : take_ids(context, index, sheet, e);
}

static int stop_threads(pid_t pid, struct tracee *threads, size_t *count, struct err *e)
{
  CLEANUP(proc_list_free) struct proc_list list = {0};

  if (proc_threads(pid, &list, e) != 0 || list.count > THREADS || list.items[0] != pid)
    return -1;
  for (size_t i = 0; i < list.count; i++) {
    if (tracee_seize(&threads[i], pid, list.items[i], e) != 0 ||
        tracee_wait_stop(&threads[i], 0, e) != 0)
      return -1;
  }
  *count = list.count;
  return 0;
}

/* They stand, and their process has its remote mapping. */
static int begin_threads(pid_t pid, struct tracee *threads, size_t *count, struct err *e)
{
  CLEANUP(proc_maps_free) struct proc_maps maps = {0};

  if (stop_threads(pid, threads, count, e) < 0 || proc_maps_read(pid, &maps, e) != 0 ||
      tracee_heal(threads, *count, &maps, e) < 0 ||
      tracee_begin_remote_known(&threads[0], *count, &maps, &(uint64_t){0}, e) < 0)
    return -1;
  tracee_caught(&threads[0], 0);
  tracee_share_remote(threads, *count);
  return 0;
}

static int ask_threads(pid_t pid, struct err *e)
{
  struct tracee threads[THREADS];
  struct tracee_questions questions = {.size = sizeof(struct thread_sheet),
                                       .count = 2,
                                       .fill = fill_ids,
                                       .take = take_ids,
                                       .context = threads};
  size_t count;
  int result;

  if (begin_threads(pid, threads, &count, e) < 0)
    return -1;
  result = tracee_ask_all(threads, count, &questions, e);
  questions.take = refuse_one;
  if (tracee_ask_all(threads, count, &questions, &(struct err){""}) == 0 && result == 0)
    result = err_set(e, "nothing was refused");
  if (tracee_end_remote(&threads[0], e) < 0)
    result = -1;
  for (size_t i = 0; i < count; i++) {
    threads[i].remote = NULL;
    if (tracee_detach(&threads[i], e) < 0)
      result = -1;
  }
  return result;
}

/* A limit of address space that leaves room for `bytes` more. */
static bool limit_memory(pid_t pid, uint64_t bytes)
{
  struct rlimit limit = {.rlim_max = RLIM_INFINITY};
  AUTO_FREE char *text = NULL;
  struct err e;
  uint64_t kib;

  if (proc_text(pid, "status", &text, NULL, &e) != 0 || !proc_field(text, "VmSize", 10, &kib))
    return false;
  limit.rlim_cur = kib * 1024 + bytes;
  return prlimit(pid, RLIMIT_AS, &limit, NULL) == 0;
}

/* Killed while its first thread answers: the others, which are traced, are dead as well. */
static void test_dying_target(void)
{
  pid_t pid = start_threads(new_shared());
  struct timespec pause = {.tv_sec = 100};
  struct tracee threads[THREADS];
  struct err e = {""};
  int64_t result;
  size_t count;
  bool begun;
  pid_t killer;

  nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
  begun = begin_threads(pid, threads, &count, &e) == 0 && count > 1 &&
          tracee_write(&threads[0], tracee_scratch(&threads[0]), &pause, sizeof(pause), &e) == 0;
  ok(begun, "threads stand %s", e.text);
  killer = fork();
  if (killer == 0) {
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    kill(pid, SIGKILL);
    _exit(0);
  }
  alarm(60);
  ok(begun && TRACEE_CALL(&threads[0], &e, &result, SYS_nanosleep, tracee_scratch(&threads[0]), 0,
                          0, 0, 0, 0) < 0,
     "the death of a process is seen while its first thread answers");
  alarm(0);
  waitpid(killer, NULL, 0);
  for (size_t i = 1; i < count; i++)
    waitpid(threads[i].tid, NULL, __WALL);
  waitpid(pid, NULL, 0);
  tracee_forget(&threads[0]);
}

static void test_threads(void)
{
  struct shared *shared = new_shared();
  pid_t pid = start_threads(shared);
  bool alive = all_count_on(shared);
  pid_t pest = start_pest(pid);
  struct err e = {""};
  int result = 0;

  for (int i = 0; i < 50 && result == 0; i++)
    result = ask_threads(pid, &e);
  ok(alive && result == 0, "%d threads are asked at once %s", THREADS, e.text);
  ok(all_count_on(shared), "they count on");
  ok(limit_memory(pid, 64 << 10) && ask_threads(pid, &e) == 0 && all_count_on(shared),
     "with little room in its memory, too %s", e.text);
  limit_memory(pid, UINT64_C(1) << 40);
  for (int i = 0; i < 100 && alive; i++) {
    pid_t tracer = fork();

    if (tracer == 0) {
      while (ask_threads(pid, &e) == 0)
        ;
      fprintf(stderr, "# %s\n", e.text);
      _exit(1);
    }
    nanosleep(&(struct timespec){.tv_nsec = rand() % 10000000}, NULL);
    kill(tracer, SIGKILL);
    waitpid(tracer, NULL, 0);
    /* As a rule the next one comes before all have left the mapping of the one before. */
    alive = (i % 8 || all_count_on(shared)) && waitpid(pid, NULL, WNOHANG) == 0;
  }
  ok(alive, "a hundred tracers killed, they count on");
  kill(pest, SIGKILL);
  waitpid(pest, NULL, 0);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

int main(void)
{
  test_stack_ends(); /* first: see there */
  test_threads();
  test_dying_target();
  test_snapshot();
  for (enum kind kind = SPINS; kind < KINDS; kind++)
    test_calls(kind);
  test_heals();
  test_large_state();
  test_dying_in_first_call();
  test_old_frame();
  test_dying_between(SIGUSR1, "after");
  test_dying_between(SIGTERM, "during");
  for (enum kind kind = SPINS; kind < KINDS; kind++)
    test_dying_tracer(kind);
  test_copies_that_touch(); /* last: our stack, of which targets have a copy, leads to them */
  return done_testing();
}
