/* Codecs, what is not worth compressing, and zero pages on their way through odd pipes. */
#include "codec/codec.h"
#include "codec/noise.h"
#include "codec/scan.h"
#include "tap.h"

#include <fcntl.h>
#include <lz4.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static uint8_t extent[EXTENT_SIZE];

static void make_random(size_t first, size_t count)
{
  static uint64_t seed = 88172645463325252u;

  for (size_t at = first * PAGE_SIZE_X86; at < (first + count) * PAGE_SIZE_X86; at += 8) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    memcpy(extent + at, &seed, 8);
  }
}

static void make_text(size_t first, size_t count)
{
  size_t end = (first + count) * PAGE_SIZE_X86;

  for (size_t at = first * PAGE_SIZE_X86, number = 0; at < end; number++) {
    char line[64];
    size_t length = (size_t)snprintf(line, sizeof(line), "{\"id\": %zu, \"name\": \"user%zu\"}\n",
                                     number * 7919, number % 97);

    length = length < end - at ? length : end - at;
    memcpy(extent + at, line, length);
    at += length;
  }
}

static bool is_noise(size_t pages)
{
  static uint64_t state[16384 / 8 + 64];

  if ((size_t)LZ4_sizeofState() > sizeof(state))
    abort();
  return noise_found(state, extent, pages * PAGE_SIZE_X86);
}

static void test_noise(void)
{
  make_random(0, EXTENT_PAGES);
  ok(is_noise(EXTENT_PAGES) && is_noise(7), "random memory is noise");
  memcpy(extent + EXTENT_SIZE / 2, extent, EXTENT_SIZE / 2);
  ok(!is_noise(EXTENT_PAGES), "the same random pages twice are not");
  make_random(0, EXTENT_PAGES);
  make_text(40, 4);
  ok(!is_noise(EXTENT_PAGES), "a few pages of text among random ones are found");
  make_random(0, EXTENT_PAGES);
  for (size_t i = 0; i < EXTENT_PAGES; i++)
    memset(extent + i * PAGE_SIZE_X86 + 1024, 0, PAGE_SIZE_X86 - 1024);
  ok(!is_noise(EXTENT_PAGES), "random heads of pages that are empty else are not");
  make_random(0, EXTENT_PAGES);
  for (size_t i = 0; i < EXTENT_SIZE; i++)
    extent[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[extent[i] % 64];
  ok(!is_noise(EXTENT_PAGES), "random letters are not noise: six bits of eight are");
  make_text(0, EXTENT_PAGES);
  ok(!is_noise(EXTENT_PAGES) && !is_noise(1), "text is not");
  memset(extent, 0, sizeof(extent));
  ok(!is_noise(EXTENT_PAGES), "zeros are not");
}

static void test_codec(const char *name, struct codec_context *context)
{
  static uint8_t packed[EXTENT_SIZE], back[EXTENT_SIZE];
  uint8_t codec = (uint8_t)codec_by_name(name);
  struct err e = {""};
  size_t length;

  make_text(0, EXTENT_PAGES);
  length = codec_compress(context, codec, extent, EXTENT_SIZE, packed);
  ok(length > 0 && length < EXTENT_SIZE / 2 &&
         codec_decompress(context, codec, packed, length, back, EXTENT_SIZE, &e) == 0 &&
         memcmp(back, extent, EXTENT_SIZE) == 0,
     "%s: text becomes shorter, and whole again %s", name, e.text);
  make_random(0, EXTENT_PAGES);
  ok(codec_compress(context, codec, extent, EXTENT_SIZE, packed) == 0, "%s: noise stays", name);
}

enum { FRAMES = 64 };

/* Frames without zeros, of zeros alone, mixed ones, in turn and of all sizes. */
static int make_stream(struct err *e)
{
  const struct stream_header header = {
      .version = STREAM_VERSION, .page_size = PAGE_SIZE_X86, .machine = 62};
  int fd = memfd_create("stream", MFD_CLOEXEC);
  struct stream_writer *writer = stream_writer_new(fd, &header, e);
  int result = writer ? 0 : -1;

  for (unsigned i = 0; i < FRAMES && result == 0; i++) {
    unsigned pages = i < FRAMES / 2 ? EXTENT_PAGES : 1 + i * 7 % EXTENT_PAGES;
    struct frame frame = {.type = FRAME_PAGES,
                          .flags = FRAME_MUST_UNDERSTAND,
                          .space = 1,
                          .address = (uint64_t)(i + 1) * EXTENT_SIZE,
                          .present = ~UINT64_C(0) >> (EXTENT_PAGES - pages),
                          .payload = extent};

    frame.stored = frame.present;
    frame.length = frame_raw_length(&frame);
    make_random(0, EXTENT_PAGES);
    if (i % 3 > 0)
      memset(extent + (i % 3 == 2 ? PAGE_SIZE_X86 : 0), 0, 20 * PAGE_SIZE_X86);
    if (i % 3 == 1)
      memset(extent, 0, EXTENT_SIZE);
    result = stream_write(writer, &frame, e);
  }
  if (result == 0 && stream_write_end(writer, e) < 0)
    result = -1;
  stream_writer_free(writer);
  return result < 0 || lseek(fd, 0, SEEK_SET) < 0 ? -1 : fd;
}

static int scan_from(int in, struct err *e)
{
  int out = memfd_create("scanned", MFD_CLOEXEC);
  const struct stage_options options = {.in_fd = in, .out_fd = out, .stats_fd = -1};

  return scan_run(&options, e) < 0 ? -1 : out;
}

struct feeder {
  const uint8_t *data;
  size_t size, piece;
  int pipe;
};

/* Each piece has a buffer of the pipe for itself, as write(2) would not make it. */
static void *feed(void *argument)
{
  const struct feeder *feeder = argument;

  for (size_t at = 0; at < feeder->size;) {
    size_t left = feeder->size - at;
    struct iovec part = {.iov_base = (void *)(feeder->data + at), /* NOLINT: only read */
                         .iov_len = left < feeder->piece ? left : feeder->piece};
    ssize_t n = vmsplice(feeder->pipe, &part, 1, 0);

    if (n <= 0)
      break;
    at += (size_t)n;
  }
  close(feeder->pipe);
  return NULL;
}

static bool same(int a, int b)
{
  struct stat one, other;
  void *first, *second;

  if (a < 0 || b < 0 || fstat(a, &one) < 0 || fstat(b, &other) < 0 || one.st_size != other.st_size)
    return false;
  first = mmap(NULL, (size_t)one.st_size, PROT_READ, MAP_PRIVATE, a, 0);
  second = mmap(NULL, (size_t)one.st_size, PROT_READ, MAP_PRIVATE, b, 0);
  return first != MAP_FAILED && second != MAP_FAILED &&
         memcmp(first, second, (size_t)one.st_size) == 0;
}

static void test_pieces(int stream, int expected, size_t piece)
{
  struct feeder feeder = {.size = (size_t)lseek(stream, 0, SEEK_END), .piece = piece};
  struct err e = {""};
  pthread_t thread;
  int ends[2];
  int scanned;

  feeder.data = mmap(NULL, feeder.size, PROT_READ, MAP_PRIVATE, stream, 0);
  if (feeder.data == MAP_FAILED || pipe(ends) < 0)
    abort();
  feeder.pipe = ends[1];
  if (pthread_create(&thread, NULL, feed, &feeder) != 0)
    abort();
  scanned = scan_from(ends[0], &e);
  ok(same(scanned, expected), "in pieces of %zu bytes: %s", piece, e.text);
  close(ends[0]);
  pthread_join(thread, NULL);
  close(scanned);
}

static void test_scan(void)
{
  struct err e = {""};
  int stream = make_stream(&e);
  int expected = stream < 0 ? -1 : scan_from(stream, &e);
  struct stat whole, less;

  ok(expected >= 0 && fstat(stream, &whole) == 0 && fstat(expected, &less) == 0 &&
         less.st_size < whole.st_size * 2 / 3,
     "zero pages are left out of a file: %s", e.text);
  test_pieces(stream, expected, EXTENT_SIZE);
  test_pieces(stream, expected, PAGE_SIZE_X86);
  test_pieces(stream, expected, 1000);
  test_pieces(stream, expected, 97); /* more than a pipe has buffers for */
  close(stream);
  close(expected);
}

static void test_odd_ends(void)
{
  char path[] = "/tmp/unit-codec-XXXXXX";
  struct err e = {""};
  int stream = make_stream(&e);
  int expected = scan_from(stream, &e);
  int append = mkstemp(path);
  const struct stage_options options = {.in_fd = stream, .out_fd = append, .stats_fd = -1};
  const uint8_t bad = 0x5a;

  unlink(path);
  ok(fcntl(append, F_SETFL, O_APPEND) == 0 && lseek(stream, 0, SEEK_SET) == 0 &&
         scan_run(&options, &e) == 0 && same(append, expected),
     "to a file that takes no splice: %s", e.text);
  /* In the third frame, which is mixed. */
  ok(pwrite(stream, &bad, 1, (off_t)(2.5 * EXTENT_SIZE)) == 1 && lseek(stream, 0, SEEK_SET) == 0 &&
         scan_from(stream, &e) < 0 && strstr(e.text, "checksum"),
     "damage in a payload that changes is found: %s", e.text);
  close(stream);
  close(expected);
  close(append);
}

int main(void)
{
  struct err e = {""};
  struct codec_context *context = codec_context_new(&e);

  if (!context)
    abort();
  test_noise();
  test_codec("flate-best-speed", context);
  test_codec("lz4", context);
  test_scan();
  test_odd_ends();
  codec_context_cleanup(&context);
  return done_testing();
}
