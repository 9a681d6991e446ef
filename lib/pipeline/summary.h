/* The summary lines of the stages, gathered over one pipe. */
#ifndef CKPT_PIPELINE_SUMMARY_H
#define CKPT_PIPELINE_SUMMARY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

struct summary {
  int reader, writer; /* -1: nobody asked */
};

int summary_open(struct summary *summary, struct err *e);
void summary_close(struct summary *summary);

/* After all stages have ended: one line for people, or one JSON object {"stages":[...]}. */
int summary_print(struct summary *summary, const char *const *order, bool json, double seconds,
                  FILE *out, struct err *e);

#endif
