/* What an image or a stream holds: gathered in one pass, shown as tables or as JSON. */
#ifndef CKPT_INSPECT_INSPECT_H
#define CKPT_INSPECT_INSPECT_H

#include "base/err.h"
#include "codec/codec.h"
#include "state/model.h"
#include "stream/stream.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Pages of one address space or memory object. */
struct space_pages {
  uint32_t space;
  uint64_t present;          /* pages that the image knows, inherited ones aside */
  uint64_t inherited;        /* pages that are the parent space's */
  uint64_t stored;           /* pages in payloads: the others of present are zero-filled */
  uint64_t compressed;       /* stored pages in compressed payloads */
  uint64_t payload_bytes;    /* of all payloads */
  uint64_t compressed_bytes; /* of compressed ones */
  /* Of each VMA (address spaces only), in the order of the mm's list. */
  uint64_t *vma_present, *vma_stored;
};

struct inspection {
  struct stream_header header;
  struct tree tree;
  json_t *objects; /* every state frame's, as it stands */
  struct space_pages *spaces;
  size_t space_count;
  uint64_t frames, bytes; /* END and headers included */
  bool verify;
  struct codec_context *codecs; /* when verifying */
  uint8_t *scratch;             /* EXTENT_SIZE bytes, the same */
};

/*
 * Reads an image directory, or, with the path "-", a stream on standard input. verify: also what
 * is in the payloads of an image; a stream is always read whole, and its checksums with it.
 * Returns 0, -1 with e set. inspect_free in either case.
 */
int inspect_read(struct inspection *inspection, const char *path, bool verify, struct err *e);
void inspect_free(struct inspection *inspection);

/* The totals of all spaces; its lists are NULL. */
struct space_pages inspect_totals(const struct inspection *inspection);

/* Returns 0, -1 with e set. */
int inspect_print_tables(const struct inspection *inspection, FILE *out, struct err *e);
int inspect_print_json(const struct inspection *inspection, FILE *out, struct err *e);

#endif
