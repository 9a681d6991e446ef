/* Reading and writing a stream, a frame at a time, in bounded memory. Format: FORMAT.md. */
#ifndef CKPT_STREAM_STREAM_H
#define CKPT_STREAM_STREAM_H

#include "base/err.h"
#include "stream/frame.h"

#include <stddef.h>

struct stream_reader;
struct stream_writer;

/*
 * Starts reading at fd's position; verifies and decodes the stream's header. The reader does not
 * own fd. Returns NULL with the reason and offset in e.
 */
struct stream_reader *stream_reader_new(int fd, struct stream_header *header, struct err *e);
void stream_reader_free(struct stream_reader *reader);

/*
 * Reads and verifies the next frame. Its payload stays valid until the next call. Returns 1 for a
 * frame, 0 after END was read and its totals agree (nothing may follow it), -1 for an error, which
 * names the offset. An unknown type is returned like any other unless it must be understood.
 */
int stream_read(struct stream_reader *reader, struct frame *frame, struct err *e);

/*
 * The same in two steps, for a payload that goes to a place of its own: the header, then its
 * frame.length bytes, before anything else is read.
 */
int stream_next(struct stream_reader *reader, struct frame *frame, struct err *e);
int stream_payload(struct stream_reader *reader, struct frame *frame, void *buffer, struct err *e);
/* The latter into a buffer that grows as needed (malloc; {NULL, 0} to begin with). */
int stream_payload_into(struct stream_reader *reader, struct frame *frame, void **buffer,
                        size_t *room, struct err *e);

/*
 * The payload without a look at its checksum: whoever uses it checks it, in its own thread, and
 * what is only passed on keeps its checksum for the next reader.
 */
int stream_payload_unchecked(struct stream_reader *reader, struct frame *frame, void *buffer,
                             struct err *e);
int stream_check_payload(const struct frame *frame, struct err *e);

/*
 * Starts a stream on fd, which the writer does not own; writes the header. On a pipe the writer
 * enlarges the pipe and may vmsplice payloads that stand in its own slots.
 */
struct stream_writer *stream_writer_new(int fd, const struct stream_header *header, struct err *e);
void stream_writer_free(struct stream_writer *writer);

/*
 * All readers behind the pipe are ours, which read: payloads may be vmspliced. A stranger might
 * tee(2) the pages and hold them for longer than the ring of slots allows.
 */
void stream_writer_trust_reader(struct stream_writer *writer);

/*
 * A page-aligned buffer of EXTENT_SIZE bytes to make the next payload in. It belongs to the
 * writer; a payload that starts where it does may reach the pipe without a copy. It is valid until
 * the stream_write that uses it, and must not be touched after that.
 */
void *stream_slot(struct stream_writer *writer);

/*
 * The same for who has several in hand, at most STREAM_SLOTS: takes one; gives the one back that
 * was written from, for the same or another one. Like stream_write, not from two threads at once.
 */
enum { STREAM_SLOTS = 256 };
void *stream_slot_take(struct stream_writer *writer);
void *stream_slot_renew(struct stream_writer *writer, void *slot);

/* Writes one frame: computes the checksums and counts it. Returns 0, or -1 with e set. */
int stream_write(struct stream_writer *writer, const struct frame *frame, struct err *e);

/*
 * Takes the payload of the reader's current frame over unseen, if it can be by splice(2), and
 * writes the frame.
 */
int stream_pass(struct stream_writer *writer, struct stream_reader *reader,
                const struct frame *frame, struct err *e);

/* Writes END with the totals of what was written. Nothing can follow. */
int stream_write_end(struct stream_writer *writer, struct err *e);

/* Totals so far, for summary lines. */
struct stream_totals {
  uint64_t frames;        /* all but END */
  uint64_t state_frames;  /* FRAME_STATE */
  uint64_t present_pages; /* of FRAME_PAGES */
  uint64_t stored_pages;  /* of FRAME_PAGES */
  uint64_t payload_bytes; /* of all frames */
  uint64_t bytes;         /* everything, headers included */
};
struct stream_totals stream_reader_totals(const struct stream_reader *reader);
struct stream_totals stream_writer_totals(const struct stream_writer *writer);

#endif
