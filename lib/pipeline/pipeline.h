/* Stages joined by pipes, without a shell; who failed first, and why. */
#ifndef CKPT_PIPELINE_PIPELINE_H
#define CKPT_PIPELINE_PIPELINE_H

#include "base/err.h"
#include "base/opt.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum {
  STAGES_LIMIT = 5,
  STAGE_WORDS = 24, /* arguments of a stage, its name and NULL included */
  STAGE_PASSED = 4, /* descriptors that it gets besides the standard ones */
  STAGE_MESSAGE = 4096,
};

struct stage {
  const char *name;               /* "ckpt-load" */
  char *program;                  /* what runs: of ours, or the user's own */
  bool foreign;                   /* the user's own: no private flags */
  const char *words[STAGE_WORDS]; /* argv as a person would type it */
  size_t word_count;
  /* Private flags: words that name a descriptor, which the stage gets from 3 on. */
  const char *passed_flag[STAGE_PASSED];
  int passed[STAGE_PASSED];
  size_t passed_count;
  bool splice; /* --splice: all who read behind it are ours, too */
  /* While it runs and after: */
  pid_t pid;
  int pidfd, errors;
  bool ended;
  int status;     /* of wait(2) */
  unsigned order; /* in which they ended */
  char message[STAGE_MESSAGE];
  size_t message_length;
};

struct pipeline {
  struct stage stages[STAGES_LIMIT];
  size_t count;
  int signals;  /* signalfd for SIGINT, SIGTERM, SIGHUP */
  int deadline; /* timerfd, or -1 */
  uint64_t deadline_seconds;
  unsigned ended;
  char canceled[64]; /* why, when it was */
};

/* Adds a stage. swaps: the user's NAME=PROGRAM pairs, of which the last for this name counts. */
struct stage *pipeline_add(struct pipeline *pipeline, const char *name,
                           const struct opt_list *swaps);
void stage_word(struct stage *stage, const char *word);
void stage_pass(struct stage *stage, const char *flag, int fd);

/* The user's program for a stage, or NULL. */
const char *pipeline_swapped(const struct opt_list *swaps, const char *name);

/* Are the pairs well-formed, and their names among the known ones? */
int pipeline_check_swaps(const struct opt_list *swaps, const char *const *known, struct err *e);

/* The equivalent shell pipeline, quoted so that it can be pasted. */
void pipeline_print(const struct pipeline *pipeline, FILE *out);

/* Starts all stages. deadline_seconds 0: none. On failure none is left. */
int pipeline_start(struct pipeline *pipeline, uint64_t deadline_seconds, struct err *e);

/*
 * Waits until stages from..count-1 have ended well. Returns 0; 1 when some stage has failed; 2 when
 * it was canceled by a signal or the deadline.
 */
int pipeline_wait(struct pipeline *pipeline, size_t from, struct err *e);

/* Ends what still runs: asks first, and forces all but the first stage after two seconds. */
void pipeline_stop(struct pipeline *pipeline);

/* The first cause, in e: not what followed from it. Returns -1. */
int pipeline_cause(const struct pipeline *pipeline, struct err *e);

/* Passes on what stages that ended well had to say. */
void pipeline_warnings(const struct pipeline *pipeline);

void pipeline_close(struct pipeline *pipeline);

#endif
