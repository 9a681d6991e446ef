/*
 * Somebody must have the snapshots reaped by the processes that they were forked from, also when we
 * are killed: a process of ours that waits for our end. While we copy it watches over the memory,
 * too, and stops the tree when that runs out.
 */
#ifndef CKPT_DUMP_KEEPER_H
#define CKPT_DUMP_KEEPER_H

#include "base/err.h"
#include "dump/capture.h"

#include <sys/types.h>

struct keeper {
  pid_t pid; /* 0: none */
  int pipe;
};

/* Starts it, before the tree is stopped. */
int keeper_start(struct keeper *keeper, struct capture *capture, struct err *e);

/* Tells it of a snapshot: a child of `pid`, which knows it by `number`. */
int keeper_note(const struct keeper *keeper, pid_t pid, pid_t snapshot, int32_t number,
                struct err *e);

/* Lets it do its work and waits until it has. The snapshots are dead by now. */
void keeper_finish(struct keeper *keeper);

#endif
