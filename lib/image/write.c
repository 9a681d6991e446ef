#include "base/cleanup.h"
#include "base/io.h"
#include "base/policy.h"
#include "image/image.h"
#include "image/names.h"
#include "image/staging.h"
#include "stream/crc32c.h"
#include "stream/stats.h"
#include "stream/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

const struct image_name image_names[IMAGE_FILES] = {
    [IMAGE_PAGES] = {"pages.img", ".pages.img.tmp"},
    [IMAGE_META] = {"pages_meta.img", ".pages_meta.img.tmp"},
    [IMAGE_CHECKPOINT] = {"checkpoint.img", ".checkpoint.img.tmp"},
};

struct image_writer {
  const struct image_options *options;
  int directory;
  bool made_directory;
  FILE *meta, *checkpoint;
  int pages;
  char *pages_path; /* for messages */
  struct staging *staging;
  struct wire_count count;
  /* Who is at work: the program, or the thread that tidies up after a signal. */
  pthread_mutex_t lock;
  pthread_t tidier;
  bool created; /* the temporary files are ours */
  bool committed;
};

static int open_directory(struct image_writer *writer, struct err *e)
{
  const char *path = writer->options->path;

  writer->made_directory = mkdir(path, 0755) == 0;
  if (!writer->made_directory && errno != EEXIST)
    return err_sys(e, "%s", path);
  writer->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (writer->directory < 0)
    return err_sys(e, "%s", path);
  if (faccessat(writer->directory, image_names[IMAGE_CHECKPOINT].final, F_OK,
                AT_SYMLINK_NOFOLLOW) == 0) {
    errno = EEXIST;
    return err_sys(e, "%s: holds a checkpoint already", path);
  }
  return 0;
}

/* Does a living writer hold the lock of this temporary file? */
static bool is_locked(int directory)
{
  AUTO_CLOSE int fd =
      openat(directory, image_names[IMAGE_CHECKPOINT].temporary, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

  return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static void remove_temporaries(int directory)
{
  for (size_t i = 0; i < IMAGE_FILES; i++)
    unlinkat(directory, image_names[i].temporary, 0);
}

static int create(struct image_writer *writer, enum image_file which, struct err *e)
{
  int fd = openat(writer->directory, image_names[which].temporary,
                  O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

  if (fd < 0)
    return err_sys(e, "%s/%s", writer->options->path, image_names[which].final);
  return fd;
}

static int create_files(struct image_writer *writer, struct err *e)
{
  int fd;

  if (is_locked(writer->directory))
    return err_set(e, "%s: another checkpoint is being written there", writer->options->path);
  remove_temporaries(writer->directory); /* of a writer that was killed */
  writer->created = true;
  fd = create(writer, IMAGE_CHECKPOINT, e);
  if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
    return fd < 0 ? -1 : err_sys(e, "%s: lock", writer->options->path);
  writer->checkpoint = fdopen(fd, "w");
  fd = create(writer, IMAGE_META, e);
  if (fd < 0)
    return -1;
  writer->meta = fdopen(fd, "w");
  writer->pages = create(writer, IMAGE_PAGES, e);
  if (writer->pages < 0)
    return -1;
  if (!writer->checkpoint || !writer->meta)
    return err_sys(e, "%s", writer->options->path);
  writer->staging = staging_new(writer->pages, writer->options->direct, writer->pages_path, e);
  return writer->staging ? 0 : -1;
}

/* The path as it was found. */
static void abandon(struct image_writer *writer)
{
  if (writer->created)
    remove_temporaries(writer->directory);
  if (writer->made_directory)
    rmdir(writer->options->path);
}

/* Ends the program tidily on a signal, unless the image has become one. */
static void *wait_for_signal(void *argument)
{
  struct image_writer *writer = argument;
  sigset_t set;
  int signal_number;

  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  if (sigwait(&set, &signal_number) != 0)
    return NULL;
  pthread_mutex_lock(&writer->lock);
  if (!writer->committed) {
    abandon(writer);
    signal(signal_number, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    raise(signal_number);
  }
  pthread_mutex_unlock(&writer->lock);
  return NULL;
}

static int catch_signals(struct image_writer *writer, struct err *e)
{
  sigset_t set;

  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  if (pthread_create(&writer->tidier, NULL, wait_for_signal, writer) != 0)
    return err_set(e, "cannot start a thread");
  return 0;
}

/*
 * Ends the thread once it has nothing to tidy up. The signals stay blocked: what is committed is
 * not to be reported as killed.
 */
static void forget_signals(struct image_writer *writer)
{
  pthread_kill(writer->tidier, SIGHUP); /* any of those that it waits for */
  pthread_join(writer->tidier, NULL);
}

static int put_header(struct image_writer *writer, const struct stream_header *header,
                      struct err *e)
{
  uint8_t bytes[STREAM_HEADER_SIZE];

  wire_put_header(header, bytes);
  fwrite(bytes, sizeof(bytes), 1, writer->checkpoint);
  memcpy(bytes, META_MAGIC, 8);
  put32(bytes + 60, crc32c(0, bytes, 60));
  fwrite(bytes, sizeof(bytes), 1, writer->meta);
  return ferror(writer->checkpoint) || ferror(writer->meta)
             ? err_sys(e, "%s", writer->options->path)
             : 0;
}

/* A frame before the first page frame: as it is. */
static int put_state(struct image_writer *writer, struct stream_reader *reader, struct frame *frame,
                     const uint8_t header[FRAME_HEADER_SIZE], struct err *e)
{
  AUTO_FREE void *payload = malloc((size_t)frame->length + 1);

  if (!payload)
    return err_sys(e, "state of %u bytes", frame->length);
  if (stream_payload(reader, frame, payload, e) < 0)
    return -1;
  if (fwrite(header, FRAME_HEADER_SIZE, 1, writer->checkpoint) != 1 ||
      (frame->length && fwrite(payload, frame->length, 1, writer->checkpoint) != 1))
    return err_sys(e, "%s/checkpoint.img", writer->options->path);
  return 0;
}

/* A payload that is longer than an extent (of an unknown type) goes piece by piece. */
static int put_long_payload(struct image_writer *writer, struct stream_reader *reader,
                            struct frame *frame, struct err *e)
{
  AUTO_FREE uint8_t *payload = malloc(frame->length);

  if (!payload)
    return err_sys(e, "payload of %u bytes", frame->length);
  if (stream_payload(reader, frame, payload, e) < 0)
    return -1;
  for (size_t done = 0; done < frame->length;) {
    size_t piece = frame->length - done < STAGING_PIECE ? frame->length - done : STAGING_PIECE;

    memcpy(staging_room(writer->staging), payload + done, piece);
    if (staging_done(writer->staging, piece, e) < 0)
      return -1;
    done += piece;
  }
  return 0;
}

static int put_pages(struct image_writer *writer, struct stream_reader *reader, struct frame *frame,
                     const uint8_t header[FRAME_HEADER_SIZE], struct err *e)
{
  uint8_t record[META_RECORD_SIZE] = {0};

  if (frame->length && frame->codec == CODEC_NONE && staging_align(writer->staging, e) < 0)
    return -1;
  memcpy(record, header, FRAME_HEADER_SIZE);
  put64(record + 48, frame->length ? staging_offset(writer->staging) : 0);
  put32(record + 60, crc32c(0, record, 60));
  if (fwrite(record, sizeof(record), 1, writer->meta) != 1)
    return err_sys(e, "%s/pages_meta.img", writer->options->path);
  if (frame->length > STAGING_PIECE)
    return put_long_payload(writer, reader, frame, e);
  if (stream_payload(reader, frame, staging_room(writer->staging), e) < 0)
    return -1;
  return staging_done(writer->staging, frame->length, e);
}

static int put_end(struct image_writer *writer, struct err *e)
{
  uint8_t bytes[FRAME_HEADER_SIZE + END_PAYLOAD_SIZE];
  struct frame end = {
      .type = FRAME_END,
      .flags = FRAME_MUST_UNDERSTAND,
      .length = END_PAYLOAD_SIZE,
  };

  wire_put_end(&writer->count, bytes + FRAME_HEADER_SIZE);
  end.payload_crc = crc32c(0, bytes + FRAME_HEADER_SIZE, END_PAYLOAD_SIZE);
  wire_put_frame(&end, bytes);
  if (fwrite(bytes, sizeof(bytes), 1, writer->checkpoint) != 1)
    return err_sys(e, "%s/checkpoint.img", writer->options->path);
  return 0;
}

static int copy_stream(struct image_writer *writer, struct stream_reader *reader, struct err *e)
{
  struct frame frame;
  int result;

  while ((result = stream_next(reader, &frame, e)) == 1) {
    uint8_t header[FRAME_HEADER_SIZE];

    wire_count(&writer->count, &frame, wire_put_frame(&frame, header));
    if (writer->count.pages_seen ? put_pages(writer, reader, &frame, header, e) < 0
                                 : put_state(writer, reader, &frame, header, e) < 0)
      return -1;
  }
  if (result < 0 || put_end(writer, e) < 0)
    return -1;
  return staging_finish(writer->staging, e);
}

static int sync_files(struct image_writer *writer, struct err *e)
{
  const char *path = writer->options->path;

  if (fdatasync(writer->pages) < 0)
    return err_sys(e, "%s/pages.img", path);
  if (fflush(writer->meta) != 0 || fsync(fileno(writer->meta)) < 0)
    return err_sys(e, "%s/pages_meta.img", path);
  if (fflush(writer->checkpoint) != 0 || fsync(fileno(writer->checkpoint)) < 0)
    return err_sys(e, "%s/checkpoint.img", path);
  return 0;
}

/* checkpoint.img gets its name last: before that there is no image, after it there is one. */
static int commit(struct image_writer *writer, struct err *e)
{
  for (size_t i = 0; i < IMAGE_FILES; i++) {
    unsigned flags = i == IMAGE_CHECKPOINT ? RENAME_NOREPLACE : 0;

    if (renameat2(writer->directory, image_names[i].temporary, writer->directory,
                  image_names[i].final, flags) < 0)
      return err_sys(e, "%s/%s", writer->options->path, image_names[i].final);
  }
  writer->committed = true;
  return fsync(writer->directory) < 0 ? err_sys(e, "%s", writer->options->path) : 0;
}

static int write_image(struct image_writer *writer, int in_fd, struct stream_totals *totals,
                       struct err *e)
{
  struct stream_header header;
  struct stream_reader *reader = NULL;
  int result = -1;

  if (open_directory(writer, e) < 0 || create_files(writer, e) < 0)
    return -1;
  reader = stream_reader_new(in_fd, &header, e);
  if (reader && put_header(writer, &header, e) == 0 && copy_stream(writer, reader, e) == 0 &&
      sync_files(writer, e) == 0) {
    pthread_mutex_lock(&writer->lock);
    result = commit(writer, e);
    pthread_mutex_unlock(&writer->lock);
  }
  if (reader)
    *totals = stream_reader_totals(reader);
  stream_reader_free(reader);
  return result;
}

int image_write(const struct image_options *options, int in_fd, struct err *e)
{
  struct image_writer writer = {
      .options = options,
      .directory = -1,
      .pages = -1,
      .pages_path = io_format(e, "%s/pages.img", options->path),
      .lock = PTHREAD_MUTEX_INITIALIZER,
  };
  struct stats_clock clock = stats_start();
  struct stream_totals totals = {0};
  bool catching;
  int result = -1;

  policy_batch();
  catching = writer.pages_path && catch_signals(&writer, e) == 0;
  if (catching)
    result = write_image(&writer, in_fd, &totals, e);
  /* From here on the thread finds nothing to do that would not have been done. */
  pthread_mutex_lock(&writer.lock);
  staging_free(writer.staging);
  if (result < 0 && !writer.committed)
    abandon(&writer);
  writer.committed = true;
  pthread_mutex_unlock(&writer.lock);
  if (catching)
    forget_signals(&writer);
  if (writer.checkpoint)
    fclose(writer.checkpoint);
  if (writer.meta)
    fclose(writer.meta);
  cleanup_close(&writer.pages);
  cleanup_close(&writer.directory);
  free(writer.pages_path);
  if (result == 0)
    result = stats_write(options->stats_fd, "ckpt-write-direct", &clock, totals.bytes,
                         totals.payload_bytes, NULL, e);
  return result;
}

void image_abandon(const char *path)
{
  AUTO_CLOSE int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

  if (directory < 0 || is_locked(directory) ||
      faccessat(directory, image_names[IMAGE_CHECKPOINT].final, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
      faccessat(directory, image_names[IMAGE_CHECKPOINT].temporary, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
    return;
  /* Killed between the renames: what has its name already belongs to the same attempt. */
  for (size_t i = 0; i < IMAGE_CHECKPOINT; i++) {
    if (faccessat(directory, image_names[i].temporary, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
      unlinkat(directory, image_names[i].final, 0);
  }
  remove_temporaries(directory);
}
