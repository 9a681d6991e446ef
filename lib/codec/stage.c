#include "codec/stage.h"

#include "base/cleanup.h"
#include "base/policy.h"
#include "stream/stats.h"

static void reader_cleanup(struct stream_reader **reader)
{
  stream_reader_free(*reader);
}

static void writer_cleanup(struct stream_writer **writer)
{
  stream_writer_free(*writer);
}

int stage_run(const struct stage_options *options, stage_work *work, void *context, struct err *e)
{
  struct stats_clock clock = stats_start();
  struct stream_header header;
  CLEANUP(reader_cleanup)
  struct stream_reader *reader = stream_reader_new(options->in_fd, &header, e);
  CLEANUP(writer_cleanup)
  struct stream_writer *writer = reader ? stream_writer_new(options->out_fd, &header, e) : NULL;

  if (!reader || !writer)
    return -1;
  policy_batch();
  if (options->splice)
    stream_writer_trust_reader(writer);
  if (work(context, reader, writer, e) < 0)
    return -1;
  return stats_write(options->stats_fd, options->stage, &clock, stream_reader_totals(reader).bytes,
                     stream_writer_totals(writer).bytes, NULL, e);
}
