/* The stream library against bytes laid out by hand from lib/stream/FORMAT.md. */
#include "base/err.h"
#include "base/io.h"
#include "stream/stream.h"
#include "stream/wire.h"
#include "tap.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A stream in the making: everything here is from the document, nothing from the library. */
struct bytes {
  uint8_t data[1 << 16];
  size_t size;
};

/* Bit by bit, as slow as it is plain. */
static uint32_t plain_crc(uint32_t crc, const uint8_t *data, size_t size)
{
  crc = ~crc;
  for (size_t i = 0; i < size; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++)
      crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

static void put(struct bytes *bytes, uint64_t value, size_t size)
{
  for (size_t i = 0; i < size; i++)
    bytes->data[bytes->size++] = (uint8_t)(i < 8 ? value >> (8 * i) : 0);
}

static void put_at(struct bytes *bytes, size_t at, uint64_t value, size_t size)
{
  size_t end = bytes->size;

  bytes->size = at;
  put(bytes, value, size);
  bytes->size = end;
}

static void seal(struct bytes *bytes, size_t start, size_t size)
{
  put_at(bytes, start + size - 4, plain_crc(0, bytes->data + start, size - 4), 4);
}

static void put_header(struct bytes *bytes, uint32_t version)
{
  size_t start = bytes->size;

  for (const char *c = "CKPTSTRM"; *c; c++)
    put(bytes, (uint8_t)*c, 1);
  put(bytes, version, 4);
  put(bytes, 64, 4);
  put(bytes, 4096, 4);
  put(bytes, 62, 4);
  for (unsigned i = 0; i < 16; i++)
    put(bytes, 0xa0 + i, 1);
  put(bytes, 0, 20 - 16);
  put(bytes, 0, 16);
  put(bytes, 0, 4);
  seal(bytes, start, 64);
}

struct hand_frame {
  uint16_t type, flags;
  uint32_t length, space;
  uint64_t address, present, stored;
  uint8_t codec;
  const void *payload;
};

static void put_frame(struct bytes *bytes, const struct hand_frame *frame)
{
  size_t start = bytes->size;

  put(bytes, frame->type, 2);
  put(bytes, frame->flags, 2);
  put(bytes, frame->length, 4);
  put(bytes, frame->payload ? plain_crc(0, frame->payload, frame->length) : 0, 4);
  put(bytes, frame->space, 4);
  put(bytes, frame->address, 8);
  put(bytes, frame->present, 8);
  put(bytes, frame->stored, 8);
  put(bytes, frame->codec, 1);
  put(bytes, 0, 3);
  put(bytes, 0, 4);
  seal(bytes, start, 48);
  if (frame->payload) {
    memcpy(bytes->data + bytes->size, frame->payload, frame->length);
    bytes->size += frame->length;
  }
}

/* END over all that stands there, read back from the bytes themselves. */
static void put_end(struct bytes *bytes)
{
  uint64_t totals[5] = {0}; /* frames, STATE, present, stored, payload bytes */
  uint32_t chain = 0;
  uint8_t payload[48] = {0};

  for (size_t at = 64; at < bytes->size;) {
    const uint8_t *header = bytes->data + at;
    uint64_t present, stored;
    uint32_t length;

    memcpy(&length, header + 4, 4);
    memcpy(&present, header + 24, 8);
    memcpy(&stored, header + 32, 8);
    totals[0]++;
    totals[1] += header[0] == 1;
    totals[2] += header[0] == 2 ? (uint64_t)__builtin_popcountll(present) : 0;
    totals[3] += header[0] == 2 ? (uint64_t)__builtin_popcountll(stored) : 0;
    totals[4] += length;
    chain = plain_crc(chain, header + 44, 4);
    at += 48 + length;
  }
  memcpy(payload, totals, 40);
  memcpy(payload + 40, &chain, 4);
  put_frame(bytes, &(struct hand_frame){.type = 4, .flags = 1, .length = 48, .payload = payload});
}

static uint8_t two_pages[8192];

static const struct hand_frame state = {
    .type = 1, .flags = 1, .length = 17, .payload = "{\"kind\":\"tested\"}"};
static const struct hand_frame pages = {.type = 2,
                                        .flags = 1,
                                        .length = 8192,
                                        .space = 3,
                                        .address = 0x7f0000001000,
                                        .present = 0x8000000000000007,
                                        .stored = 0x8000000000000001,
                                        .payload = two_pages};
static const struct hand_frame inherit = {
    .type = 3, .flags = 1, .space = 3, .address = 0x40000, .present = 0xff00};
static const struct hand_frame optional = {
    .type = 900, .flags = 0, .length = 5, .payload = "extra"};

static void make_whole(struct bytes *bytes)
{
  bytes->size = 0;
  put_header(bytes, 1);
  put_frame(bytes, &state);
  put_frame(bytes, &optional);
  put_frame(bytes, &inherit);
  put_frame(bytes, &pages);
  put_end(bytes);
}

static int memory_file(const struct bytes *bytes)
{
  int fd = memfd_create("stream", 0);

  if (fd < 0 || write(fd, bytes->data, bytes->size) != (ssize_t)bytes->size ||
      lseek(fd, 0, SEEK_SET) < 0)
    abort();
  return fd;
}

/* Reads it all: the number of frames before END, or -1 with the error. */
static int read_all(const struct bytes *bytes, struct err *e)
{
  int fd = memory_file(bytes);
  struct stream_header header;
  struct stream_reader *reader = stream_reader_new(fd, &header, e);
  struct frame frame;
  int count = 0;
  int result = reader ? 0 : -1;

  while (reader && (result = stream_read(reader, &frame, e)) > 0)
    count++;
  stream_reader_free(reader);
  close(fd);
  return result < 0 ? -1 : count;
}

static bool refused(const struct bytes *bytes, const char *text)
{
  struct err e = {""};
  bool is = read_all(bytes, &e) < 0 && strstr(e.text, text) != NULL;

  if (!is)
    printf("# \"%s\" instead of \"%s\"\n", e.text, text);
  return is;
}

static void test_reading(void)
{
  static struct bytes bytes;
  struct err e = {""};
  struct stream_header header;
  struct frame frame;
  int fd;
  struct stream_reader *reader;

  make_whole(&bytes);
  ok(read_all(&bytes, &e) == 4, "a stream laid out by hand is read: %s", e.text);
  fd = memory_file(&bytes);
  reader = stream_reader_new(fd, &header, &e);
  ok(header.version == 1 && header.page_size == 4096 && header.machine == 62 &&
         header.image_id[15] == 0xaf,
     "its header is decoded");
  ok(stream_read(reader, &frame, &e) == 1 && frame.type == 1 && frame.length == 17 &&
         memcmp(frame.payload, state.payload, 17) == 0,
     "STATE is decoded");
  ok(stream_read(reader, &frame, &e) == 1 && frame.type == 900 && frame.length == 5,
     "a type that is not known but may be passed on is");
  ok(stream_read(reader, &frame, &e) == 1 && frame.type == 3 && frame.space == 3 &&
         frame.address == 0x40000 && frame.present == 0xff00,
     "INHERIT is decoded");
  ok(stream_read(reader, &frame, &e) == 1 && frame.type == 2 && frame.address == pages.address &&
         frame.present == pages.present && frame.stored == pages.stored && frame.length == 8192 &&
         memcmp(frame.payload, two_pages, 8192) == 0,
     "PAGES is decoded");
  ok(stream_read(reader, &frame, &e) == 0, "END ends it");
  stream_reader_free(reader);
  close(fd);
}

static int write_by_library(int fd, const struct stream_header *header, struct err *e)
{
  const struct hand_frame *frames[] = {&state, &optional, &inherit, &pages};
  struct stream_writer *writer = stream_writer_new(fd, header, e);
  int result = writer ? 0 : -1;

  for (size_t i = 0; i < 4 && result == 0; i++) {
    const struct hand_frame *hand = frames[i];
    struct frame frame = {.type = hand->type,
                          .flags = hand->flags,
                          .length = hand->length,
                          .space = hand->space,
                          .address = hand->address,
                          .present = hand->present,
                          .stored = hand->stored,
                          .codec = hand->codec,
                          .payload = hand->payload};

    result = stream_write(writer, &frame, e);
  }
  if (result == 0)
    result = stream_write_end(writer, e);
  stream_writer_free(writer);
  return result;
}

static void test_writing(void)
{
  static struct bytes bytes, written;
  struct stream_header header = {.version = 1, .page_size = 4096, .machine = 62};
  struct err e = {""};
  int fd = memfd_create("written", 0);

  make_whole(&bytes);
  for (unsigned i = 0; i < 16; i++)
    header.image_id[i] = (uint8_t)(0xa0 + i);
  ok(write_by_library(fd, &header, &e) == 0, "the library writes: %s", e.text);
  written.size = (size_t)pread(fd, written.data, sizeof(written.data), 0);
  ok(written.size == bytes.size && memcmp(written.data, bytes.data, bytes.size) == 0,
     "byte for byte what the document says");
  close(fd);
}

static void test_damage(void)
{
  static struct bytes whole, damaged;
  size_t missed = 0, unplaced = 0;
  struct err e;

  make_whole(&whole);
  for (size_t size = 0; size < whole.size; size++) {
    damaged = whole;
    damaged.size = size;
    e.text[0] = '\0';
    missed += read_all(&damaged, &e) >= 0;
    unplaced += strstr(e.text, "offset") == NULL;
  }
  ok(missed == 0, "a stream cut at any of its %zu bytes is refused (%zu are not)", whole.size,
     missed);
  ok(unplaced == 0, "each time with the offset (%zu without)", unplaced);
  missed = unplaced = 0;
  for (size_t bit = 0; bit < whole.size * 8; bit += 1 + (bit / 8 > 300 ? 6 : 0)) {
    damaged = whole;
    damaged.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    e.text[0] = '\0';
    missed += read_all(&damaged, &e) >= 0;
    unplaced += strstr(e.text, "offset") == NULL;
  }
  ok(missed == 0, "a stream with a flipped bit in any byte is refused (%zu are not)", missed);
  ok(unplaced == 0, "each time with the offset (%zu without)", unplaced);
  damaged = whole;
  damaged.data[damaged.size++] = 0;
  ok(refused(&damaged, "bytes after END"), "bytes after END");
}

/* A stream of one frame that is wrong in one way, with right checksums. */
static void test_frame(const char *name, const char *text, const struct hand_frame *frame)
{
  static struct bytes bytes;

  bytes.size = 0;
  put_header(&bytes, 1);
  put_frame(&bytes, frame);
  put_end(&bytes);
  ok(refused(&bytes, text) && refused(&bytes, "offset 64"), "%s", name);
}

static void test_frames(void)
{
  static uint8_t payload[48];
  struct hand_frame frame = pages;

  test_frame("an unknown type that must be understood", "must be understood",
             &(struct hand_frame){.type = 77, .flags = 1});
  test_frame("reserved flags", "reserved", &(struct hand_frame){.type = 77, .flags = 2});
  test_frame("a payload of 4 GiB", "longer than",
             &(struct hand_frame){.type = 77, .length = UINT32_MAX});
  test_frame("a state object of 16 MiB and a byte", "longer than",
             &(struct hand_frame){.type = 1, .flags = 1, .length = (16 << 20) + 1});
  test_frame("an address in a STATE frame", "are set in a frame",
             &(struct hand_frame){.type = 1, .flags = 1, .address = 4096});
  test_frame(
      "INHERIT with a payload", "INHERIT with a payload",
      &(struct hand_frame){.type = 3, .flags = 1, .length = 48, .present = 1, .payload = payload});
  test_frame("an END of another length", "END of",
             &(struct hand_frame){.type = 4, .flags = 1, .length = 47, .payload = payload});
  frame.stored = 0x10;
  test_frame("stored pages that are not present", "does not describe", &frame);
  frame = pages;
  frame.address++;
  test_frame("an address within a page", "is impossible", &frame);
  frame.address = UINT64_MAX - 4095;
  test_frame("an address at the end of the world", "is impossible", &frame);
  frame = pages;
  frame.codec = 3;
  test_frame("a codec that is not known", "codec 3", &frame);
  frame = pages;
  frame.length -= 1;
  test_frame("a payload that is a byte short", "does not fit", &frame);
  frame.codec = 1;
  frame.length = 8192;
  test_frame("a compressed payload as long as its pages", "does not fit", &frame);
}

static void test_order(void)
{
  static struct bytes bytes;

  bytes.size = 0;
  put_header(&bytes, 2);
  put_end(&bytes);
  ok(refused(&bytes, "offset 8: version 2"), "a version from the future");
  bytes.size = 0;
  put_header(&bytes, 1);
  put_frame(&bytes, &pages);
  put_frame(&bytes, &state);
  put_end(&bytes);
  ok(refused(&bytes, "STATE frame behind page frames"), "STATE behind PAGES");
  bytes.size = 0;
  put_header(&bytes, 1);
  put_frame(&bytes, &state);
  put_end(&bytes);
  put_at(&bytes, bytes.size - 48, 2, 8); /* frames */
  put_at(&bytes, bytes.size - 48 - 40, plain_crc(0, bytes.data + bytes.size - 48, 48), 4);
  seal(&bytes, bytes.size - 96, 48);
  ok(refused(&bytes, "totals do not match"), "END that counts one frame too many");
  bytes.size = 0;
  ok(refused(&bytes, "offset 0"), "nothing at all");
}

/* Payloads of every size through a pipe whose reader is late: spliced pages must not be reused. */
enum { SPLICED = 3000 };

static uint64_t pattern(unsigned frame, unsigned word)
{
  return frame * 0x9e3779b97f4a7c15u + word;
}

static void *write_spliced(void *argument)
{
  struct stream_header header = {.version = 1, .page_size = 4096, .machine = 62};
  struct err e = {""};
  int fd = *(int *)argument;
  struct stream_writer *writer = stream_writer_new(fd, &header, &e);

  stream_writer_trust_reader(writer);
  for (unsigned i = 0; i < SPLICED; i++) {
    unsigned count = i % 7 == 0 ? 64 : 1 + i % 40;
    uint64_t *words = stream_slot(writer);
    struct frame frame = {.type = FRAME_PAGES,
                          .flags = FRAME_MUST_UNDERSTAND | FRAME_NO_ZEROS,
                          .space = 1,
                          .address = (uint64_t)i << 18,
                          .present = count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1,
                          .length = count * 4096,
                          .payload = words};

    frame.stored = frame.present;
    for (unsigned k = 0; k < count * 512; k++)
      words[k] = pattern(i, k);
    if (stream_write(writer, &frame, &e) < 0)
      break;
  }
  stream_write_end(writer, &e);
  stream_writer_free(writer);
  close(fd);
  return NULL;
}

static void test_splice(void)
{
  struct stream_header header;
  struct stream_reader *reader;
  struct frame frame;
  struct err e = {""};
  pthread_t thread;
  int ends[2];
  int result = -1;
  unsigned count = 0;
  bool whole = true;

  if (pipe(ends) < 0 || pthread_create(&thread, NULL, write_spliced, &ends[1]) != 0)
    abort();
  reader = stream_reader_new(ends[0], &header, &e);
  while (reader && (result = stream_read(reader, &frame, &e)) > 0) {
    const uint64_t *words = frame.payload;

    if (count % 50 == 0)
      usleep(2000); /* let the pipe fill up */
    for (unsigned k = 0; k < frame.length / 8; k++)
      whole = whole && words[k] == pattern(count, k);
    count++;
  }
  ok(result == 0 && whole && count == SPLICED, "spliced payloads of all sizes arrive whole: %s",
     e.text);
  stream_reader_free(reader);
  close(ends[0]);
  pthread_join(thread, NULL);
}

/* A filter behind us that takes most frames out, and passes others to a pipe that nobody reads. */
enum { THINNED = 80, KEPT_EACH = 20 };

static void *write_thinned(void *argument)
{
  struct stream_header header = {.version = 1, .page_size = 4096, .machine = 62};
  struct err e = {""};
  struct stream_writer *writer = stream_writer_new(*(int *)argument, &header, &e);

  stream_writer_trust_reader(writer);
  for (unsigned i = 0; i < THINNED; i++) {
    uint64_t *words = stream_slot(writer);
    bool kept = i % KEPT_EACH == 0;
    struct frame frame = {.type = FRAME_PAGES,
                          .flags = FRAME_MUST_UNDERSTAND | (kept ? FRAME_NO_ZEROS : 0),
                          .space = 1,
                          .address = (uint64_t)i << 18,
                          .present = UINT64_MAX,
                          .stored = UINT64_MAX,
                          .length = EXTENT_SIZE,
                          .payload = words};

    for (unsigned k = 0; k < EXTENT_SIZE / 8; k++)
      words[k] = kept ? pattern(i, k) : 0;
    if (stream_write(writer, &frame, &e) < 0)
      break;
  }
  stream_write_end(writer, &e);
  stream_writer_free(writer);
  close(*(int *)argument);
  return NULL;
}

/* Its frames come one by one: those to be kept go to the pipe as they are. */
static int thin(struct stream_reader *reader, int kept, struct err *e)
{
  uint8_t buffer[EXTENT_SIZE];
  struct frame frame;
  int result;

  while ((result = stream_next(reader, &frame, e)) == 1) {
    size_t left = frame.flags & FRAME_NO_ZEROS ? frame.length : 0;
    int fd = stream_hand_over(reader, (uint32_t)left);

    if (!left && stream_payload_unchecked(reader, &frame, buffer, e) < 0)
      return -1;
    while (left) {
      ssize_t n = splice(fd, NULL, kept, NULL, left, 0);

      if (n <= 0)
        return -1;
      left -= (size_t)n;
    }
  }
  return result;
}

static void test_thinned(void)
{
  static uint64_t words[EXTENT_SIZE / 8];
  struct stream_header header;
  struct err e = {""};
  pthread_t thread;
  int ends[2], kept[2];
  struct stream_reader *reader;
  bool whole;

  if (pipe(ends) < 0 || pipe(kept) < 0 || fcntl(kept[1], F_SETPIPE_SZ, 1 << 20) < 0 ||
      pthread_create(&thread, NULL, write_thinned, &ends[1]) != 0)
    abort();
  reader = stream_reader_new(ends[0], &header, &e);
  whole = reader && thin(reader, kept[1], &e) == 0;
  for (unsigned i = 0; i < THINNED && whole; i += KEPT_EACH) {
    whole = io_read(kept[0], words, sizeof(words)) == sizeof(words);
    for (unsigned k = 0; k < EXTENT_SIZE / 8; k++)
      whole = whole && words[k] == pattern(i, k);
  }
  ok(whole, "pages stay whole in a pipe, however many behind them are taken out: %s", e.text);
  stream_reader_free(reader);
  close(ends[0]);
  close(kept[0]);
  close(kept[1]);
  pthread_join(thread, NULL);
}

int main(void)
{
  for (size_t i = 0; i < sizeof(two_pages); i++)
    two_pages[i] = (uint8_t)(i * 7 + i / 256);
  test_reading();
  test_writing();
  test_damage();
  test_frames();
  test_order();
  test_splice();
  test_thinned();
  return done_testing();
}
