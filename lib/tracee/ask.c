/* Questions: remote calls that many threads make at the same time, each with one stop for all. */
#include "base/cleanup.h"
#include "tracee/remote.h"

#include <signal.h>
#include <sys/ptrace.h>

extern const uint8_t trampoline_ask[];

static uint64_t bit_of(int signal_number)
{
  return UINT64_C(1) << (signal_number - 1);
}

void tracee_caught(struct tracee *leader, uint64_t caught)
{
  leader->remote->ignored = (bit_of(SIGURG) | bit_of(SIGWINCH) | bit_of(SIGCHLD)) & ~caught;
}

/*
 * A signal by which the thread tells us that it is done. Without a tracer it is ignored, and it is
 * not blocked: then none waits, ours is no more than what anybody might have sent.
 */
static int telling_signal(const struct tracee *tracee)
{
  uint64_t usable = tracee->remote->ignored & ~tracee->sigmask;

  /* A filter could refuse the call that sends it, and the thread would run away. */
  return tracee->unfiltered && usable ? __builtin_ctzll(usable) + 1 : 0;
}

/* What no call returns. */
static const int64_t unanswered = INT64_MIN;

/* A thread on its way through its sheet. */
struct inquiry {
  struct tracee *tracee;
  struct remote_call *sheet;
  int signal_number; /* tells of the end; 0: it stops at every call */
  size_t stops;      /* until it is done; 0: it does not run */
};

static enum __ptrace_request request_of(const struct inquiry *inquiry)
{
  return inquiry->signal_number ? PTRACE_CONT : PTRACE_SYSCALL;
}

static int start(struct inquiry *inquiry, size_t size, size_t count, struct err *e)
{
  struct tracee *tracee = inquiry->tracee;
  uint64_t area = tracee_scratch(tracee);
  struct user_regs_struct regs;
  uint64_t blocked = ~UINT64_C(0);

  if (tracee->xstate.size == 0 && tracee_save(tracee, e) < 0)
    return -1;
  inquiry->sheet[count - 1].result = unanswered;
  if (tracee_write(tracee, area, inquiry->sheet, size, e) < 0)
    return -1;
  inquiry->signal_number = telling_signal(tracee);
  if (inquiry->signal_number)
    blocked &= ~bit_of(inquiry->signal_number);
  regs = remote_registers(tracee);
  regs.rip = tracee->remote->base + remote_offset(trampoline_ask);
  regs.rbx = area;
  regs.r12 = count;
  regs.r13 = (uint64_t)inquiry->signal_number;
  if (remote_divert(tracee, &regs, blocked, e) < 0 ||
      remote_run(tracee, request_of(inquiry), e) < 0)
    return -1;
  /* At entry and exit of each call, and of one more, before which the last result is stored. */
  inquiry->stops = inquiry->signal_number ? 1 : 2 * (count + 1);
  return 0;
}

/* Waits for its next stop, and lets it run on if it is not done. */
static int step(struct inquiry *inquiry, size_t size, size_t count, struct err *e)
{
  int wanted = inquiry->signal_number ? inquiry->signal_number : REMOTE_SYSCALL_STOP;
  size_t left = inquiry->stops - 1;

  inquiry->stops = 0;
  if (remote_wait(inquiry->tracee, request_of(inquiry), wanted, e) < 0)
    return -1;
  if (left == 0) {
    if (tracee_read(inquiry->tracee, tracee_scratch(inquiry->tracee), inquiry->sheet, size, e) < 0)
      return -1;
    if (inquiry->sheet[count - 1].result == unanswered)
      left = 1; /* somebody else has sent the signal, too */
  }
  if (left && remote_run(inquiry->tracee, request_of(inquiry), e) < 0)
    return -1;
  inquiry->stops = left;
  return 0;
}

int tracee_ask(struct tracee *tracee, void *sheet, size_t size, size_t count, struct err *e)
{
  struct inquiry inquiry = {.tracee = tracee, .sheet = sheet};
  int result = start(&inquiry, size, count, e);

  while (inquiry.stops && result == 0)
    result = step(&inquiry, size, count, e);
  return result;
}

/* Those that are on their way. */
struct round {
  const struct tracee_questions *questions;
  size_t slots; /* so many at once */
  struct inquiry ring[TRACEE_AT_ONCE];
};

/* Who stops at every call goes on meanwhile. */
static int finish(struct round *round, struct inquiry *inquiry, struct err *e)
{
  while (inquiry->stops) {
    for (size_t i = 0; i < round->slots; i++) {
      struct inquiry *other = &round->ring[i];

      if ((other == inquiry || other->stops > 1) &&
          step(other, round->questions->size, round->questions->count, e) < 0)
        return -1;
    }
  }
  return 0;
}

static int begin(struct round *round, struct tracee *threads, size_t index, void *sheet,
                 struct err *e)
{
  const struct tracee_questions *questions = round->questions;
  struct inquiry *inquiry = &round->ring[index % round->slots];

  *inquiry = (struct inquiry){.tracee = &threads[index], .sheet = sheet};
  if (questions->fill(questions->context, index, sheet, e) < 0)
    return -1;
  return start(inquiry, questions->size, questions->count, e);
}

static int end(struct round *round, size_t index, struct err *e)
{
  const struct tracee_questions *questions = round->questions;
  struct inquiry *inquiry = &round->ring[index % round->slots];

  if (finish(round, inquiry, e) < 0)
    return -1;
  return questions->take(questions->context, index, inquiry->sheet, e);
}

/* Something has failed: nobody runs when we return. */
static void stop_all(struct round *round)
{
  for (size_t i = 0; i < round->slots; i++) {
    while (round->ring[i].stops)
      finish(round, &round->ring[i], &(struct err){""});
  }
}

int tracee_ask_all(struct tracee *threads, size_t count, const struct tracee_questions *questions,
                   struct err *e)
{
  const size_t slots = threads->remote->slots;
  AUTO_FREE uint8_t *sheets = calloc(slots, questions->size);
  struct round round = {.questions = questions, .slots = slots};
  int result = 0;

  if (!sheets)
    return err_sys(e, "pid %d: threads", threads->pid);
  for (size_t i = 0; i < count + slots && result == 0; i++) {
    if (i >= slots && i - slots < count)
      result = end(&round, i - slots, e);
    if (i < count && result == 0)
      result = begin(&round, threads, i, sheets + i % slots * questions->size, e);
  }
  if (result < 0)
    stop_all(&round);
  return result;
}
