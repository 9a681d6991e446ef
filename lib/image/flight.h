/*
 * Writes to one file, several in flight at a time: through io_uring(7) where it is there and
 * allowed, by threads otherwise.
 */
#ifndef CKPT_IMAGE_FLIGHT_H
#define CKPT_IMAGE_FLIGHT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct flight;

/* One fdatasync(2) and as many writes. */
enum { FLIGHT_WRITES = 13, FLIGHT_LIMIT = FLIGHT_WRITES + 1 };

/* Does not own fd. Freeing waits for what is under way. */
struct flight *flight_new(int fd, struct err *e);
void flight_free(struct flight *flight);

/*
 * Start a pwrite(2), whose data must stay as it is, or an fdatasync(2). `tag` names it when it has
 * ended. At most FLIGHT_LIMIT may be under way. A sync that is `alone` begins when the writes
 * before it have ended and holds back those behind it: good for a disk that does nothing else while
 * it syncs, bad for a page cache.
 */
int flight_write(struct flight *flight, unsigned tag, const void *data, size_t size,
                 uint64_t offset, struct err *e);
int flight_sync(struct flight *flight, unsigned tag, bool alone, struct err *e);

/* Has one ended, so that flight_wait would not wait? */
bool flight_has_ended(struct flight *flight);

/* Waits for one that has ended: its tag, and bytes written or a negative errno. */
int flight_wait(struct flight *flight, unsigned *tag, int64_t *result, struct err *e);

#endif
