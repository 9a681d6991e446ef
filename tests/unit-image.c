/* The image directory: lib/image/FORMAT.md by hand, damage in every file, writers that die. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/io.h"
#include "image/ahead.h"
#include "image/cache.h"
#include "image/flight.h"
#include "image/image.h"
#include "image/staging.h"
#include "stream/crc32c.h"
#include "stream/stream.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, FILES = 3 };

static const char *const names[FILES] = {"checkpoint.img", "pages_meta.img", "pages.img"};
static const char *const temporaries[FILES] = {".checkpoint.img.tmp", ".pages_meta.img.tmp",
                                               ".pages.img.tmp"};

struct bytes {
  uint8_t *data;
  size_t size;
};

static void bytes_free(struct bytes *bytes)
{
  free(bytes->data);
}

#define AUTO_BYTES CLEANUP(bytes_free) struct bytes

/* Two directories to work in: on tmpfs and on the disk. */
static char memory_directory[] = "/dev/shm/unit-image-XXXXXX";
static char disk_directory[] = "/var/tmp/unit-image-XXXXXX";

/* "DIRECTORY/NAME", or the directory alone; good until the fourth call after. */
static const char *in(const char *directory, const char *name)
{
  static char paths[4][300];
  static unsigned next;
  char *path = paths[next++ % 4];

  snprintf(path, sizeof(paths[0]), "%s%s%s", directory, *name ? "/" : "", name);
  return path;
}

static struct bytes read_fd(int fd)
{
  struct stat stat;
  struct bytes bytes = {0};

  if (fd >= 0 && fstat(fd, &stat) == 0) {
    bytes.data = malloc((size_t)stat.st_size + 1);
    bytes.size = (size_t)io_pread(fd, bytes.data, (size_t)stat.st_size, 0);
  }
  return bytes;
}

static struct bytes read_path(const char *path)
{
  AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

  return read_fd(fd);
}

static void write_path(const char *path, const void *data, size_t size)
{
  AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

  if (fd < 0 || io_write(fd, data, size) < 0)
    ok(false, "%s: cannot be written", path);
}

static bool same_bytes(const struct bytes *a, const struct bytes *b)
{
  return a->data && b->data && a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

static size_t count_entries(const char *path)
{
  AUTO_CLOSEDIR DIR *dir = opendir(path);
  struct dirent *entry;
  size_t count = 0;

  while (dir && (entry = readdir(dir)))
    count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
  return count;
}

static bool is_there(const char *path)
{
  return access(path, F_OK) == 0;
}

static void remove_image(const char *directory)
{
  for (size_t i = 0; i < FILES; i++) {
    unlink(in(directory, names[i]));
    unlink(in(directory, temporaries[i]));
  }
  rmdir(directory);
}

/* Streams. */

static uint8_t noise[1 << 20];

static void make_noise(void)
{
  uint64_t state = 88172645463325252u;

  for (size_t i = 0; i < sizeof(noise); i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    noise[i] = (uint8_t)state;
  }
}

static void put(struct stream_writer *writer, struct frame frame)
{
  struct err e = {""};

  if (frame.type <= FRAME_END)
    frame.flags = FRAME_MUST_UNDERSTAND;
  if (!frame.payload)
    frame.payload = noise;
  if (stream_write(writer, &frame, &e) < 0)
    ok(false, "stream: %s", e.text);
}

static void put_pages(struct stream_writer *writer, unsigned pages, uint8_t codec, uint32_t length)
{
  uint64_t bits = pages == EXTENT_PAGES ? UINT64_MAX : (UINT64_C(1) << pages) - 1;

  put(writer, (struct frame){.type = FRAME_PAGES,
                             .space = 1,
                             .address = 0x7f0000000000,
                             .present = UINT64_MAX,
                             .stored = bits,
                             .codec = codec,
                             .length = length,
                             .payload = noise + pages});
}

/* A frame of every kind, compressed and not; `extents` of them whole. */
static struct bytes make_stream(uint8_t id, unsigned extents)
{
  AUTO_CLOSE int fd = memfd_create("stream", MFD_CLOEXEC);
  struct stream_header header = {1, PAGE, 62, {id}};
  struct err e = {""};
  struct stream_writer *writer = stream_writer_new(fd, &header, &e);

  put(writer, (struct frame){.type = FRAME_STATE, .length = 2, .payload = "{}"});
  put(writer, (struct frame){.type = 77, .length = 9, .payload = "any bytes"});
  put(writer, (struct frame){.type = FRAME_STATE, .length = 13, .payload = "{\"kind\":null}"});
  put(writer, (struct frame){.type = FRAME_INHERIT, .space = 1, .present = 5});
  put_pages(writer, 0, CODEC_NONE, 0);
  put_pages(writer, 1, CODEC_LZ4, 100);
  put_pages(writer, 2, CODEC_NONE, 2 * PAGE);
  put_pages(writer, 3, CODEC_FLATE, 3 * PAGE - 1);
  for (unsigned i = 0; i < extents; i++) {
    put_pages(writer, EXTENT_PAGES, CODEC_NONE, EXTENT_SIZE);
    put_pages(writer, EXTENT_PAGES, CODEC_LZ4, EXTENT_SIZE - 1 - i);
  }
  put(writer, (struct frame){.type = 78});
  put(writer, (struct frame){.type = 79, .length = extents ? 777777 : 7});
  stream_write_end(writer, &e);
  stream_writer_free(writer);
  return read_fd(fd);
}

static struct bytes small, large;

static int write_image(const char *directory, bool direct, const struct bytes *stream, size_t size,
                       struct err *e)
{
  AUTO_CLOSE int fd = memfd_create("input", MFD_CLOEXEC);
  struct image_options options = {.path = directory, .direct = direct, .stats_fd = -1};

  if (io_write(fd, stream->data, size) < 0 || lseek(fd, 0, SEEK_SET) < 0)
    return err_sys(e, "input");
  return image_write(&options, fd, e);
}

static bool writes(const char *directory, const struct bytes *stream)
{
  struct err e = {""};
  bool done = write_image(directory, false, stream, stream->size, &e) == 0;

  if (!done)
    printf("# %s\n", e.text);
  return done;
}

/* Round trips. */

static bool reads_back(const char *directory, enum image_cache cache, const struct bytes *stream)
{
  AUTO_CLOSE int fd = memfd_create("output", MFD_CLOEXEC);
  struct err e = {""};
  AUTO_BYTES back = {0};

  if (image_read(directory, cache, false, fd, -1, &e) < 0) {
    printf("# %s\n", e.text);
    return false;
  }
  back = read_fd(fd);
  return same_bytes(&back, stream);
}

struct drain {
  int fd;
  struct bytes got;
};

static void *drain_pipe(void *argument)
{
  struct drain *drain = argument;

  drain->got.data = malloc(large.size + 1);
  drain->got.size = (size_t)io_read(drain->fd, drain->got.data, large.size + 1);
  return NULL;
}

static bool splices_back(const char *directory, const struct bytes *stream)
{
  struct drain drain = {0};
  AUTO_BYTES back = {0};
  struct err e = {""};
  pthread_t thread;
  int pipe_fds[2];
  int result;

  if (pipe2(pipe_fds, O_CLOEXEC) < 0)
    return false;
  drain.fd = pipe_fds[0];
  pthread_create(&thread, NULL, drain_pipe, &drain);
  result = image_read(directory, IMAGE_CACHE_AUTO, true, pipe_fds[1], -1, &e);
  close(pipe_fds[1]);
  pthread_join(thread, NULL);
  close(pipe_fds[0]);
  back = drain.got;
  return result == 0 && same_bytes(&back, stream);
}

static bool modes_are_private(const char *directory)
{
  bool private = true;

  for (size_t i = 0; i < FILES; i++) {
    struct stat status;

    private =
        private && stat(in(directory, names[i]), &status) == 0 && (status.st_mode & 07777) == 0600;
  }
  return private;
}

static void test_round_trip(const char *parent, bool direct, const struct bytes *stream)
{
  const char *mode = direct ? "direct" : "cached";
  struct err e = {""};
  char directory[100];

  snprintf(directory, sizeof(directory), "%s/round", parent);
  ok(write_image(directory, direct, stream, stream->size, &e) == 0, "%s, %s: written %s", parent,
     mode, e.text);
  ok(count_entries(directory) == FILES && modes_are_private(directory),
     "%s, %s: three files of the owner's", parent, mode);
  ok(reads_back(directory, IMAGE_CACHE_AUTO, stream), "%s, %s: read back", parent, mode);
  ok(reads_back(directory, IMAGE_CACHE_DIRECT, stream), "%s, %s: read directly", parent, mode);
  ok(reads_back(directory, IMAGE_CACHE_BUFFERED, stream), "%s, %s: read cached", parent, mode);
  ok(splices_back(directory, stream), "%s, %s: read by splicing", parent, mode);
  remove_image(directory);
}

/* The three files by hand, from the document. */

static uint32_t get32(const uint8_t *at)
{
  uint32_t value;

  memcpy(&value, at, sizeof(value));
  return value;
}

static uint64_t get64(const uint8_t *at)
{
  uint64_t value;

  memcpy(&value, at, sizeof(value));
  return value;
}

struct layout {
  const struct bytes *stream, *meta, *pages;
  size_t record;
  uint64_t end; /* of the last payload in pages.img */
};

static bool all_zero(const uint8_t *data, size_t size)
{
  while (size && !*data)
    data++, size--;
  return size == 0;
}

static bool record_is_right(struct layout *layout, const uint8_t *frame)
{
  const uint8_t *record = layout->meta->data + layout->record;
  uint32_t length = get32(frame + 4);
  uint64_t offset = frame[40] == 0 ? (layout->end + 4095) / 4096 * 4096 : layout->end;

  if (layout->record + 64 > layout->meta->size || memcmp(record, frame, 48) != 0 ||
      get32(record + 56) != 0 || get32(record + 60) != crc32c(0, record, 60))
    return false;
  layout->record += 64;
  if (length == 0)
    return get64(record + 48) == 0;
  if (get64(record + 48) != offset || offset + length > layout->pages->size ||
      !all_zero(layout->pages->data + layout->end, offset - layout->end) ||
      memcmp(layout->pages->data + offset, frame + 48, length) != 0)
    return false;
  layout->end = offset + length;
  return true;
}

static void test_layout(void)
{
  char directory[100];
  AUTO_BYTES checkpoint = {0};
  AUTO_BYTES meta = {0};
  AUTO_BYTES pages = {0};
  struct layout layout = {&large, &meta, &pages, 64, 0};
  size_t at = 64;
  size_t state_end;
  bool right = true;

  snprintf(directory, sizeof(directory), "%s/layout", memory_directory);
  ok(writes(directory, &large), "an image to look at");
  checkpoint = read_path(in(directory, names[0]));
  meta = read_path(in(directory, names[1]));
  pages = read_path(in(directory, names[2]));
  while (large.data[at] != FRAME_INHERIT)
    at += 48 + get32(large.data + at + 4);
  state_end = at;
  for (; at < large.size - 96; at += 48 + get32(large.data + at + 4))
    right = right && record_is_right(&layout, large.data + at);
  ok(checkpoint.size == state_end + 96 && memcmp(checkpoint.data, large.data, state_end) == 0 &&
         memcmp(checkpoint.data + state_end, large.data + large.size - 96, 96) == 0,
     "checkpoint.img is the stream's beginning and its END");
  ok(meta.size >= 64 && memcmp(meta.data, "CKPTMETA", 8) == 0 &&
         memcmp(meta.data + 8, large.data + 8, 52) == 0 &&
         get32(meta.data + 60) == crc32c(0, meta.data, 60),
     "pages_meta.img has a header of its own");
  ok(right && layout.record == meta.size, "a record for every frame, in order");
  ok(layout.end == pages.size, "pages.img ends with the last payload");
  remove_image(directory);
}

/* Damage. */

static uint8_t room[EXTENT_SIZE];

static void *buffer(void *argument)
{
  (void)argument;
  return room;
}

static int count_frame(const struct frame *frame, void *argument, struct err *e)
{
  (void)frame;
  (void)e;
  ++*(unsigned *)argument;
  return 0;
}

static int walk(const char *directory, struct err *e)
{
  struct stream_header header;
  unsigned frames = 0;

  *e = (struct err){""};
  return image_walk(directory, &header, buffer, count_frame, &frames, e);
}

struct damage {
  const char *directory;
  size_t which;
  struct bytes whole;
  size_t tried, wrong;
};

/* Reads a file's new bytes: they must be refused by the file's name. */
static void expect_refusal(struct damage *damage, const char *what, size_t at)
{
  char named[40];
  struct err e;
  int result = walk(damage->directory, &e);

  snprintf(named, sizeof(named), "%s%s", damage->which == 2 ? "" : "/", names[damage->which]);
  damage->tried++;
  if (result == 0 || !strstr(e.text, named) || !strstr(e.text, damage->directory)) {
    damage->wrong++;
    printf("# %s, %s at %zu: %s\n", names[damage->which], what, at, result == 0 ? "taken" : e.text);
  }
}

static void report(struct damage *damage, const char *what)
{
  struct err e;

  write_path(in(damage->directory, names[damage->which]), damage->whole.data, damage->whole.size);
  ok(damage->tried > 0 && damage->wrong == 0 && walk(damage->directory, &e) == 0,
     "%s: refused %zu times: %s", names[damage->which], damage->tried, what);
  damage->tried = damage->wrong = 0;
}

static void test_flips(struct damage *damage)
{
  AUTO_CLOSE int fd = open(in(damage->directory, names[damage->which]), O_RDWR | O_CLOEXEC);
  size_t step = damage->which == 2 ? 41 : 1; /* pages.img is long and all alike */

  for (size_t i = 0; i < damage->whole.size; i += step) {
    uint8_t flipped = (uint8_t)(damage->whole.data[i] ^ 1 << i / step % 8);

    io_pwrite(fd, &flipped, 1, (off_t)i);
    expect_refusal(damage, "a flipped bit", i);
    io_pwrite(fd, &damage->whole.data[i], 1, (off_t)i);
  }
  report(damage, "a flipped bit");
}

static void test_truncation(struct damage *damage)
{
  const char *path = in(damage->directory, names[damage->which]);
  size_t step = damage->which == 2 ? 97 : 1;

  for (size_t i = 0; i < damage->whole.size; i += step) {
    size_t size = damage->whole.size - 1 - i;

    if (truncate(path, (off_t)size) == 0)
      expect_refusal(damage, "cut", size);
  }
  report(damage, "cut");
}

static void test_extra_bytes(struct damage *damage)
{
  static const size_t extra[] = {1, 48, 64, 96, 4096, 1 << 20};
  const char *path = in(damage->directory, names[damage->which]);
  AUTO_BYTES doubled = {malloc(2 * damage->whole.size), 2 * damage->whole.size};

  for (size_t i = 0; i < ARRAY_LEN(extra); i++) {
    if (truncate(path, (off_t)(damage->whole.size + extra[i])) == 0)
      expect_refusal(damage, "zeros behind", extra[i]);
  }
  memcpy(doubled.data, damage->whole.data, damage->whole.size);
  memcpy(doubled.data + damage->whole.size, damage->whole.data, damage->whole.size);
  write_path(path, doubled.data, doubled.size);
  expect_refusal(damage, "twice", doubled.size);
  report(damage, "extra bytes");
}

static void test_no_file(struct damage *damage)
{
  const char *path = in(damage->directory, names[damage->which]);
  struct err e;

  unlink(path);
  if (damage->which == 0)
    ok(walk(damage->directory, &e) < 0 && strstr(e.text, "holds no checkpoint"), "%s", e.text);
  else
    expect_refusal(damage, "missing", 0);
  mkdir(path, 0700);
  expect_refusal(damage, "a directory", 0);
  rmdir(path);
  write_path(path, "", 0);
  expect_refusal(damage, "empty", 0);
  report(damage, "missing, empty, a directory");
}

static void test_damage(void)
{
  char directory[100];

  snprintf(directory, sizeof(directory), "%s/damage", memory_directory);
  ok(writes(directory, &small), "an image to damage");
  for (size_t i = 0; i < FILES; i++) {
    struct damage damage = {directory, i, read_path(in(directory, names[i])), 0, 0};

    test_flips(&damage);
    test_truncation(&damage);
    test_extra_bytes(&damage);
    test_no_file(&damage);
    bytes_free(&damage.whole);
  }
  remove_image(directory);
}

/* Files of other images, each whole in itself. */
static void test_mixed(void)
{
  AUTO_BYTES other = make_stream(2, 0);
  AUTO_BYTES twin = make_stream(1, 1);
  char mine[100], theirs[100];
  struct err e;

  snprintf(mine, sizeof(mine), "%s/mine", memory_directory);
  snprintf(theirs, sizeof(theirs), "%s/theirs", memory_directory);
  ok(writes(mine, &small) && writes(theirs, &other), "two images");
  rename(in(theirs, names[1]), in(mine, names[1]));
  ok(walk(mine, &e) < 0 && strstr(e.text, "pages_meta.img: is of another image"), "%s", e.text);
  remove_image(theirs);
  ok(writes(theirs, &twin), "another image of the same id");
  rename(in(theirs, names[1]), in(mine, names[1]));
  rename(in(theirs, names[2]), in(mine, names[2]));
  ok(walk(mine, &e) < 0 && strstr(e.text, "do not belong together"), "%s", e.text);
  remove_image(mine);
  remove_image(theirs);
}

/* Without payloads pages.img is not read. */
static void test_walk_without_payloads(void)
{
  char directory[100];
  struct stream_header header;
  struct err e = {""};
  unsigned frames = 0;

  snprintf(directory, sizeof(directory), "%s/walk", memory_directory);
  ok(writes(directory, &small), "an image to walk");
  ok(image_walk(directory, &header, NULL, count_frame, &frames, &e) == 0 && frames == 10 &&
         header.image_id[0] == 1 && header.version == 1,
     "walked, %u frames %s", frames, e.text);
  remove_image(directory);
}

/* Writers that fail, are killed, or come to what is there already. */

static void test_existing(void)
{
  char directory[100];
  struct err e = {""};

  snprintf(directory, sizeof(directory), "%s/existing", memory_directory);
  ok(writes(directory, &small), "an image");
  ok(write_image(directory, false, &large, large.size, &e) < 0 &&
         strstr(e.text, "holds a checkpoint already"),
     "refused: %s", e.text);
  image_abandon(directory);
  ok(count_entries(directory) == FILES && reads_back(directory, IMAGE_CACHE_AUTO, &small),
     "it is as it was");
  write_path(in(directory, temporaries[0]), "", 0);
  image_abandon(directory);
  ok(reads_back(directory, IMAGE_CACHE_AUTO, &small), "leftovers beside it change nothing");
  remove_image(directory);
}

static void test_bad_streams(void)
{
  static const size_t cuts[] = {0, 63, 64, 100, 4096, 1 << 20, (5 << 20) + 1};
  char directory[100];

  snprintf(directory, sizeof(directory), "%s/bad", memory_directory);
  for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
    struct err e = {""};

    ok(write_image(directory, false, &large, cuts[i], &e) < 0 &&
           strstr(e.text, "the stream ends at offset") && !is_there(directory),
       "a stream of %zu bytes: %s", cuts[i], e.text);
  }
}

static void test_bad_places(void)
{
  char directory[100];
  struct err e = {""};

  snprintf(directory, sizeof(directory), "%s/no/where", memory_directory);
  ok(write_image(directory, false, &small, small.size, &e) < 0 && strstr(e.text, directory) &&
         strstr(e.text, strerror(ENOENT)),
     "%s", e.text);
  snprintf(directory, sizeof(directory), "%s/file", memory_directory);
  write_path(directory, "mine", 4);
  ok(write_image(directory, false, &small, small.size, &e) < 0 && strstr(e.text, directory) &&
         strstr(e.text, strerror(ENOTDIR)) && is_there(directory),
     "%s", e.text);
  image_abandon(directory);
  ok(is_there(directory), "the file is still there");
  unlink(directory);
}

/* What else is in a directory stays when a writer fails there. */
static void test_neighbours(void)
{
  char directory[100];
  struct err e = {""};

  snprintf(directory, sizeof(directory), "%s/shared", memory_directory);
  mkdir(directory, 0700);
  write_path(in(directory, "notes"), "mine", 4);
  ok(write_image(directory, false, &small, small.size - 1, &e) < 0 && count_entries(directory) == 1,
     "a failed writer removes its own files alone");
  symlink("notes", in(directory, temporaries[0]));
  symlink("notes", in(directory, temporaries[2]));
  ok(writes(directory, &small) && reads_back(directory, IMAGE_CACHE_AUTO, &small),
     "an image among others");
  {
    AUTO_BYTES notes = read_path(in(directory, "notes"));

    ok(notes.size == 4 && memcmp(notes.data, "mine", 4) == 0, "links are not followed");
  }
  unlink(in(directory, "notes"));
  remove_image(directory);
}

/* A file that cannot grow: as on a full disk, the write itself fails. */
static void test_no_space(bool direct)
{
  char directory[100];
  struct rlimit old, limit;
  struct err e = {""};
  int result;

  snprintf(directory, sizeof(directory), "%s/full", disk_directory);
  signal(SIGXFSZ, SIG_IGN);
  getrlimit(RLIMIT_FSIZE, &old);
  limit = old;
  limit.rlim_cur = 2 << 20;
  {
    AUTO_CLOSE int fd = memfd_create("input", MFD_CLOEXEC);
    struct image_options options = {.path = directory, .direct = direct, .stats_fd = -1};

    io_write(fd, large.data, large.size);
    lseek(fd, 0, SEEK_SET);
    setrlimit(RLIMIT_FSIZE, &limit);
    result = image_write(&options, fd, &e);
    setrlimit(RLIMIT_FSIZE, &old);
  }
  ok(result < 0 && strstr(e.text, "pages.img: ") && strstr(e.text, strerror(EFBIG)) &&
         !is_there(directory),
     "no room, %s: %s", direct ? "direct" : "cached", e.text);
}

/* A writer in a child, which has got half of the stream and waits for the rest. */
struct half {
  pid_t pid;
  int input;
};

static bool appears(const char *path)
{
  for (int i = 0; i < 6000 && !is_there(path); i++)
    usleep(10000);
  return is_there(path);
}

static struct half start_half(const char *directory)
{
  struct image_options options = {.path = directory, .stats_fd = -1};
  struct half half = {-1, -1};
  struct err e = {""};
  int pipe_fds[2];

  if (pipe2(pipe_fds, O_CLOEXEC) < 0)
    return half;
  half.pid = fork();
  if (half.pid == 0) {
    close(pipe_fds[1]);
    _exit(image_write(&options, pipe_fds[0], &e) == 0 ? 0 : 9);
  }
  close(pipe_fds[0]);
  half.input = pipe_fds[1];
  io_write(half.input, large.data, large.size / 2);
  return half;
}

/* How the child ended after the signal. */
static int end_half(const struct half *half, int number)
{
  int status = -1;

  kill(half->pid, number);
  waitpid(half->pid, &status, 0);
  close(half->input);
  return status;
}

static void test_unfinished(void)
{
  char directory[100];
  struct half half;
  struct err e;

  snprintf(directory, sizeof(directory), "%s/half", disk_directory);
  half = start_half(directory);
  ok(appears(in(directory, temporaries[2])), "a writer is at work");
  ok(walk(directory, &e) < 0 && strstr(e.text, "holds no checkpoint"), "no image yet: %s", e.text);
  ok(write_image(directory, false, &small, small.size, &e) < 0 &&
         strstr(e.text, "another checkpoint is being written there"),
     "a second writer is refused: %s", e.text);
  image_abandon(directory);
  ok(count_entries(directory) == FILES, "the files of a living writer stay");
  end_half(&half, SIGKILL);
  ok(walk(directory, &e) < 0 && count_entries(directory) == FILES, "killed: no image, but files");
  image_abandon(directory);
  ok(is_there(directory) && count_entries(directory) == 0, "they are removed");
  half = start_half(directory);
  appears(in(directory, temporaries[2]));
  end_half(&half, SIGKILL);
  ok(writes(directory, &small) && count_entries(directory) == FILES &&
         reads_back(directory, IMAGE_CACHE_AUTO, &small),
     "a writer takes the place of a killed one");
  remove_image(directory);
}

static void test_finished(void)
{
  char directory[100];
  struct half half;
  int status = -1;

  snprintf(directory, sizeof(directory), "%s/whole", disk_directory);
  half = start_half(directory);
  io_write(half.input, large.data + large.size / 2, large.size - large.size / 2);
  close(half.input);
  waitpid(half.pid, &status, 0);
  ok(status == 0 && reads_back(directory, IMAGE_CACHE_AUTO, &large), "through a pipe: an image");
  remove_image(directory);
}

static void test_signals(void)
{
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
  char directory[100];

  snprintf(directory, sizeof(directory), "%s/signal", disk_directory);
  for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
    struct half half = start_half(directory);
    int status;

    appears(in(directory, temporaries[2]));
    status = end_half(&half, signals[i]);
    ok(WIFSIGNALED(status) && WTERMSIG(status) == signals[i] && !is_there(directory),
       "ended by signal %d: the path is as it was", signals[i]);
  }
  mkdir(directory, 0700);
  {
    struct half half = start_half(directory);

    appears(in(directory, temporaries[2]));
    end_half(&half, SIGTERM);
    ok(is_there(directory) && count_entries(directory) == 0, "a directory that was there stays");
  }
  rmdir(directory);
}

/* Killed after `renamed` of the three renames: pages.img, pages_meta.img. */
static void make_half_renamed(const char *directory, size_t renamed)
{
  if (!writes(directory, &large))
    ok(false, "an image to take apart");
  for (size_t i = 0; i < FILES - renamed; i++)
    rename(in(directory, names[i]), in(directory, temporaries[i]));
}

static void test_between_renames(void)
{
  char directory[100];
  struct err e;

  snprintf(directory, sizeof(directory), "%s/renames", memory_directory);
  for (size_t renamed = 0; renamed < FILES; renamed++) {
    make_half_renamed(directory, renamed);
    ok(walk(directory, &e) < 0 && strstr(e.text, "holds no checkpoint"), "%zu renamed: %s", renamed,
       e.text);
    image_abandon(directory);
    ok(count_entries(directory) == 0, "%zu renamed: all is removed", renamed);
    make_half_renamed(directory, renamed);
    ok(writes(directory, &small) && count_entries(directory) == FILES &&
           reads_back(directory, IMAGE_CACHE_AUTO, &small),
       "%zu renamed: the next writer makes an image", renamed);
    remove_image(directory);
  }
}

/* Flights: writes, a sync that is to be alone among them, writes. */

enum { FLIGHT_PIECE = 1 << 20, LONE_SYNC = FLIGHT_WRITES / 2 };

/* Without a descriptor that is free there is no ring. */
static struct flight *new_flight(int fd, bool ring, struct err *e)
{
  struct rlimit before;
  struct flight *flight;

  getrlimit(RLIMIT_NOFILE, &before);
  if (!ring)
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){3, before.rlim_max});
  flight = flight_new(fd, e);
  setrlimit(RLIMIT_NOFILE, &before);
  return flight;
}

static bool starts_all(struct flight *flight, const uint8_t *bytes, struct err *e)
{
  for (unsigned tag = 0; tag < FLIGHT_LIMIT; tag++) {
    uint64_t at = (uint64_t)(tag - (tag > LONE_SYNC)) * FLIGHT_PIECE;

    if (tag == LONE_SYNC ? flight_sync(flight, tag, true, e) < 0
                         : flight_write(flight, tag, bytes + at, FLIGHT_PIECE, at, e) < 0)
      return false;
  }
  return true;
}

static bool ends_in_order(struct flight *flight, struct err *e)
{
  bool right = true;

  for (unsigned i = 0; i < FLIGHT_LIMIT; i++) {
    unsigned tag = 0;
    int64_t result = -1;

    right = flight_wait(flight, &tag, &result, e) == 0 && right;
    right = right && result == (tag == LONE_SYNC ? 0 : FLIGHT_PIECE);
    right = right && (i < LONE_SYNC) == (tag < LONE_SYNC) && (i > LONE_SYNC) == (tag > LONE_SYNC);
  }
  return right && !flight_has_ended(flight);
}

static void test_lone_sync(bool ring, bool direct)
{
  AUTO_BYTES bytes = {aligned_alloc(PAGE, (size_t)FLIGHT_WRITES * FLIGHT_PIECE),
                      (size_t)FLIGHT_WRITES * FLIGHT_PIECE};
  AUTO_BYTES written = {0};
  char path[100];
  struct err e = {""};
  struct flight *flight;
  bool right;
  int fd;

  for (size_t i = 0; i < bytes.size; i++)
    bytes.data[i] = (uint8_t)(i >> 12);
  snprintf(path, sizeof(path), "%s/flown", disk_directory);
  fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (direct)
    direct = fcntl(fd, F_SETFL, O_DIRECT) == 0;
  flight = new_flight(fd, ring, &e);
  right = flight != NULL;
  for (int round = 0; round < 3; round++)
    right = right && starts_all(flight, bytes.data, &e) && ends_in_order(flight, &e);
  flight_free(flight);
  fcntl(fd, F_SETFL, 0);
  written = read_fd(fd);
  ok(right && same_bytes(&written, &bytes), "%s, %s: a sync that is alone has its place %s",
     ring ? "a ring, or threads" : "threads", direct ? "directly" : "cached", e.text);
  close(fd);
  unlink(path);
}

/* Staging: a few buffers; or more than they hold, and than goes without two syncs. */

enum { STAGED = 14 << 20, STAGED_LONG = 300 << 20 };

static bool stage(struct staging *staging, uint8_t *model, size_t *size, size_t limit,
                  struct err *e)
{
  unsigned state = 12345;

  while (*size < limit - (1 << 20)) {
    size_t piece;

    state = state * 1103515245 + 12345;
    piece = state >> 8 & 1 ? (state >> 9) % (STAGING_PIECE + 1) : (state >> 9) % 5000;
    memcpy(staging_room(staging), noise + piece, piece);
    memcpy(model + *size, noise + piece, piece);
    if (staging_done(staging, piece, e) < 0)
      return false;
    *size += piece;
    if (state >> 16 & 1) {
      if (staging_align(staging, e) < 0)
        return false;
      *size = (*size + PAGE - 1) & ~(size_t)(PAGE - 1);
    }
    if (staging_offset(staging) != *size)
      return false;
  }
  return staging_finish(staging, e) == 0;
}

static void test_staging(int fd, bool direct, const char *name, size_t limit)
{
  AUTO_BYTES model = {calloc(1, limit), 0};
  AUTO_BYTES written = {0};
  struct err e = {""};
  struct staging *staging = staging_new(fd, direct, "a file", &e);
  bool done = staging && stage(staging, model.data, &model.size, limit, &e);

  staging_free(staging);
  fcntl(fd, F_SETFL, 0);
  written = read_fd(fd);
  ok(done && same_bytes(&written, &model), "staging, %s: %zu bytes %s", name, written.size, e.text);
}

/* A memory file has no O_DIRECT: one warning, and the bytes all the same. */
static void test_staging_fallback(void)
{
  AUTO_CLOSE int fd = memfd_create("staged", MFD_CLOEXEC);
  AUTO_CLOSE int said = memfd_create("stderr", MFD_CLOEXEC);
  AUTO_CLOSE int old = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  AUTO_BYTES text = {0};

  dup2(said, STDERR_FILENO);
  test_staging(fd, true, "a memory file, directly", STAGED);
  dup2(old, STDERR_FILENO);
  text = read_fd(said);
  text.data[text.size] = '\0';
  ok(strstr((char *)text.data, "a file: the file system does not write directly") &&
         strchr((char *)text.data, '\n') == (char *)text.data + text.size - 1,
     "it says so, once");
}

static void test_staging_files(const char *parent)
{
  char path[100];

  snprintf(path, sizeof(path), "%s/staged", parent);
  for (int direct = 0; direct < 2; direct++) {
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    test_staging(fd, direct, direct ? "directly" : "cached",
                 parent == disk_directory ? STAGED_LONG : STAGED);
    unlink(path);
  }
}

static void test_staging_error(void)
{
  AUTO_CLOSE int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  struct err e = {""};
  struct staging *staging = staging_new(fd, false, "some/pages.img", &e);

  memset(staging_room(staging), 1, 10);
  ok(staging_done(staging, 10, &e) == 0 && staging_finish(staging, &e) < 0 &&
         strstr(e.text, "some/pages.img: ") && strstr(e.text, strerror(EBADF)),
     "a write that fails: %s", e.text);
  staging_free(staging);
}

/* Reading ahead: a file of several windows, taken in pieces that cross them, with gaps. */

enum { AHEAD_SIZE = (21 << 20) + 12345 };

static uint8_t ahead_byte(size_t offset)
{
  return (uint8_t)(offset * 2654435761u >> 13);
}

static int make_ahead_file(const char *path)
{
  AUTO_FREE uint8_t *bytes = malloc(AHEAD_SIZE);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

  for (size_t i = 0; i < AHEAD_SIZE; i++)
    bytes[i] = ahead_byte(i);
  if (io_write(fd, bytes, AHEAD_SIZE) < 0 || fdatasync(fd) < 0)
    perror(path);
  return fd;
}

static bool reads_ahead(struct ahead *ahead, size_t offset, size_t size, struct err *e)
{
  AUTO_FREE uint8_t *bytes = malloc(size);

  if (ahead_read(ahead, offset, bytes, size, e) < 0)
    return false;
  for (size_t i = 0; i < size; i++) {
    if (bytes[i] != ahead_byte(offset + i))
      return false;
  }
  return true;
}

static void test_ahead(const char *parent)
{
  char path[100];
  struct err e = {""};
  struct ahead *ahead;
  size_t step = 1;
  bool whole = true;

  snprintf(path, sizeof(path), "%s/ahead", parent);
  {
    AUTO_CLOSE int fd = make_ahead_file(path);

    ahead = ahead_new(fd, AHEAD_SIZE, path, &e);
    for (size_t at = 0; at + step <= AHEAD_SIZE; at += step + step / 7, step = step * 3 % 700001)
      whole = whole && reads_ahead(ahead, at, step, &e);
    ok(whole && reads_ahead(ahead, AHEAD_SIZE - 1, 1, &e), "%s: read ahead in pieces %s", parent,
       e.text);
    ok(ahead_read(ahead, AHEAD_SIZE - 1, &(uint16_t){0}, 2, &e) < 0 && strstr(e.text, path),
       "%s: behind the end: %s", parent, e.text);
    ahead_free(ahead);
    ahead = ahead_new(fd, AHEAD_SIZE, path, &e);
    ok(reads_ahead(ahead, 19 << 20, 100000, &e), "%s: from far behind the begin on", parent);
    ahead_free(ahead);
    ahead_free(ahead_new(fd, AHEAD_SIZE, path, &e));
    ok(ftruncate(fd, 5 << 20) == 0, "%s: a file that became shorter", parent);
    ahead = ahead_new(fd, AHEAD_SIZE, path, &e);
    ok(!reads_ahead(ahead, 6 << 20, 10, &e) && strstr(e.text, "ends early"), "is told: %s", e.text);
    ahead_free(ahead);
  }
  unlink(path);
}

static void test_cache(void)
{
  char path[100];

  snprintf(path, sizeof(path), "%s/cache", disk_directory);
  {
    AUTO_CLOSE int fd = make_ahead_file(path);

    ok(cache_holds(fd, AHEAD_SIZE), "a file that was just written is in the page cache");
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ok(!cache_holds(fd, AHEAD_SIZE), "one that was dropped from it is not");
  }
  unlink(path);
}

static void run_all(void)
{
  const char *const parents[] = {memory_directory, disk_directory};

  for (size_t i = 0; i < ARRAY_LEN(parents); i++) {
    for (int direct = 0; direct < 2; direct++) {
      test_round_trip(parents[i], direct, &small);
      test_round_trip(parents[i], direct, &large);
    }
    test_staging_files(parents[i]);
    test_ahead(parents[i]);
  }
  test_cache();
  for (int way = 0; way < 4; way++)
    test_lone_sync(way & 1, way & 2);
  test_staging_fallback();
  test_staging_error();
  test_layout();
  test_damage();
  test_mixed();
  test_walk_without_payloads();
  test_existing();
  test_bad_streams();
  test_bad_places();
  test_neighbours();
  test_no_space(false);
  test_no_space(true);
  test_unfinished();
  test_finished();
  test_signals();
  test_between_renames();
}

int main(void)
{
  if (!mkdtemp(memory_directory) || !mkdtemp(disk_directory)) {
    perror("unit-image");
    return 1;
  }
  make_noise();
  small = make_stream(1, 0);
  large = make_stream(1, 12);
  run_all();
  bytes_free(&small);
  bytes_free(&large);
  ok(rmdir(memory_directory) == 0 && rmdir(disk_directory) == 0, "nothing is left behind");
  return done_testing();
}
