#include "restore/restore.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "container/cgroup.h"
#include "container/container.h"
#include "restore/rebuild.h"
#include "stream/stats.h"
#include "stream/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>

static void rebuild_free(struct rebuild *rebuild)
{
  for (size_t i = 0; rebuild->processes && i < rebuild->tree.process_count; i++) {
    struct rebuilt *which = &rebuild->processes[i];

    if (which->thread_count)
      tracee_forget(&which->threads[0]);
    for (size_t k = 1; k < which->thread_count; k++)
      free(which->threads[k].xstate.data);
    free(which->threads);
    free(rebuild->processes[i].inherited);
  }
  free(rebuild->processes);
  for (size_t i = 0; rebuild->objects.local && i < rebuild->tree.file_count; i++)
    cleanup_close(&rebuild->objects.local[i]);
  free(rebuild->objects.local);
  json_decref(rebuild->objects.shared);
  cleanup_close(&rebuild->objects.root_fd);
  cleanup_close(&rebuild->objects.net_fd);
  for (size_t i = 0; i < ARRAY_LEN(rebuild->objects.streams); i++)
    cleanup_close(&rebuild->objects.streams[i]);
  cleanup_close(&rebuild->control[0]);
  cleanup_close(&rebuild->control[1]);
  cleanup_close(&rebuild->reserved);
  tree_free(&rebuild->tree);
}

/* The state frames are complete: what follows from them. */
static int prepare(struct rebuild *rebuild, struct err *e)
{
  struct tree *tree = &rebuild->tree;

  rebuild->processes = calloc(tree->process_count + 1, sizeof(*rebuild->processes));
  rebuild->objects.local = calloc(tree->file_count + 1, sizeof(int));
  rebuild->objects.shared = json_object();
  if (!rebuild->processes || !rebuild->objects.local || !rebuild->objects.shared)
    return err_sys(e, "tree");
  for (size_t i = 0; i < tree->file_count; i++)
    rebuild->objects.local[i] = -1;
  for (size_t i = 0; i < tree->process_count; i++)
    rebuild->processes[i].process = &tree->processes[i];
  for (size_t i = 0; i < tree->process_count; i++) {
    rebuild->processes[i].mm = tree_mm(tree, tree->processes[i].mm);
    rebuild->processes[i].parent = i ? rebuilt_by_pid(rebuild, tree->processes[i].ppid) : NULL;
  }
  rebuild->objects.root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (rebuild->objects.root_fd < 0)
    return err_sys(e, "/");
  return 0;
}

/* A runtime's container is registered by that one. */
static int reserve_id(struct rebuild *rebuild, struct err *e)
{
  const struct restore_options *options = rebuild->options;

  rebuild->id = options->id ? options->id : rebuild->tree.checkpoint.id;
  rebuild->oci = (struct oci){
      .program = options->runtime ? options->runtime : rebuild->tree.checkpoint.runtime,
      .root = options->registry,
      .id = rebuild->id,
      .bundle = options->bundle,
      .foreign = options->created,
      .console_socket = options->console_socket,
  };
  if (rebuild_by_runtime(rebuild))
    return rebuild->id ? container_check_id(rebuild->id, e)
                       : err_set(e, "the image has no container id: name the new container");
  if (!rebuild->id)
    return 0;
  rebuild->reserved = container_reserve(rebuild->options->registry, rebuild->id, e);
  return rebuild->reserved < 0 ? -1 : 0;
}

/* From state to a stopped root process; the rest follows its pages. */
static int begin(struct rebuild *rebuild, struct err *e)
{
  if (prepare(rebuild, e) < 0 || rebuild_check(rebuild, e) < 0 || reserve_id(rebuild, e) < 0)
    return -1;
  /* A container's root directory is there when the container is. */
  if (!rebuild_by_runtime(rebuild) && rebuild_check_files(rebuild, e) < 0)
    return -1;
  if (rebuild_root(rebuild, e) < 0)
    return -1;
  if (rebuild->created && (rebuild_create(rebuild, e) < 0 || rebuild_check_files(rebuild, e) < 0))
    return -1;
  return rebuild_namespaces(rebuild, e) < 0 ? -1 : rebuild_files(rebuild, e);
}

/* All frames of state, then those of pages, which other threads take. */
static int read_stream(struct rebuild *rebuild, struct stream_reader *reader, struct err *e)
{
  AUTO_FREE void *buffer = NULL;
  size_t room = 0;
  struct frame frame;
  int result;

  while ((result = stream_next(reader, &frame, e)) == 1) {
    if (frame.type == FRAME_PAGES || frame.type == FRAME_INHERIT)
      break;
    if (stream_payload_into(reader, &frame, &buffer, &room, e) < 0)
      return -1;
    /* Others are not for us, and need not be understood. */
    if (frame.type == FRAME_STATE &&
        tree_add_json(&rebuild->tree, frame.payload, frame.length, e) < 0)
      return -1;
  }
  if (result < 0 || begin(rebuild, e) < 0)
    return -1;
  return result == 1 ? rebuild_feed(rebuild, reader, &frame, e) : 0;
}

typedef int rebuild_step(struct rebuild *rebuild, struct rebuilt *which, struct err *e);

static int existing(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  return which->mm ? rebuild_layout(rebuild, which, e) : rebuild_spawn(rebuild, which, e);
}

static int parted(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  return rebuild_part(rebuild, which, e);
}

static int signals(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  (void)rebuild;
  return rebuild_signals(which, e);
}

static int timers(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  (void)rebuild;
  return rebuild_timers(which, e);
}

static int thread_states(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  (void)rebuild;
  for (size_t i = 0; i < which->process->thread_count; i++) {
    if (rebuild_thread_state(which, i, e) < 0)
      return -1;
  }
  return rebuild_dumpable(which, e);
}

static int finish(struct rebuild *rebuild, struct rebuilt *which, struct err *e)
{
  (void)rebuild;
  return rebuild_finish(which, e);
}

/* One step for every process; zombies have nothing but their existence. */
static int for_each(struct rebuild *rebuild, bool zombies, rebuild_step *step, struct err *e)
{
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    struct rebuilt *which = &rebuild->processes[i];

    if (!which->mm && !zombies)
      continue;
    if (step(rebuild, which, e) < 0)
      return err_prefix(e, "pid %d", which->process->pid);
  }
  return 0;
}

/* All pages are there and the stream was whole: everything else, up to the last register. */
static int complete(struct rebuild *rebuild, struct err *e)
{
  if (for_each(rebuild, true, existing, e) < 0 || for_each(rebuild, true, parted, e) < 0 ||
      rebuild_groups(rebuild, e) < 0 || rebuild_zombies(rebuild, e) < 0 ||
      for_each(rebuild, false, rebuild_filters, e) < 0 ||
      for_each(rebuild, false, rebuild_threads, e) < 0 ||
      for_each(rebuild, false, rebuild_seal, e) < 0 ||
      for_each(rebuild, false, rebuild_descriptors, e) < 0 || rebuild_attach(rebuild, e) < 0 ||
      rebuild_namespaces_end(rebuild, e) < 0 ||
      for_each(rebuild, false, rebuild_attributes, e) < 0 ||
      for_each(rebuild, false, thread_states, e) < 0 || for_each(rebuild, false, signals, e) < 0 ||
      for_each(rebuild, false, timers, e) < 0)
    return -1;
  return for_each(rebuild, false, finish, e);
}

static int write_report(const struct rebuild *rebuild, pid_t pid, struct err *e)
{
  const struct restore_options *options = rebuild->options;
  json_t *report;
  int result = 0;

  if (options->pid_file) {
    AUTO_CLOSE int fd = open(options->pid_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (fd < 0 || dprintf(fd, "%d", pid) < 0)
      return err_sys(e, "%s", options->pid_file);
  }
  if (options->report_fd < 0)
    return 0;
  report = json_pack("{s:i, s:s?, s:s?}", "pid", pid, "id", rebuild->id, "runtime",
                     rebuild->created ? rebuild->oci.program : NULL);
  result = report ? json_dumpfd(report, options->report_fd, 0) : -1;
  json_decref(report);
  return result < 0 || io_write(options->report_fd, "\n", 1) < 0 ? err_sys(e, "report") : 0;
}

/* Lets all run. Whoever was stopped by job control gets its stop first. */
static int release(struct rebuild *rebuild, struct err *e)
{
  for (size_t i = 0; i < rebuild->tree.process_count; i++) {
    struct rebuilt *which = &rebuild->processes[i];

    if (strcmp(which->process->state, "stopped") == 0)
      kill(which->threads[0].pid, SIGSTOP);
  }
  for (size_t i = rebuild->tree.process_count; i-- > 0;) {
    struct rebuilt *which = &rebuild->processes[i];

    for (size_t k = which->thread_count; k-- > 0;) {
      if (tracee_detach(&which->threads[k], e) < 0)
        return -1;
    }
  }
  return 0;
}

/* All stand in a stop of ours: let go, they stay where they are. */
int rebuild_pause(struct rebuild *rebuild, bool frozen, struct err *e)
{
  AUTO_FREE char *cgroup = NULL;

  if (rebuild->frozen == frozen)
    return 0;
  if (cgroup_find(rebuild->processes[0].threads[0].pid, &cgroup, e) < 0)
    return -1;
  if (!cgroup)
    return err_set(e, "the container is in no control group of its own: cannot be paused");
  rebuild->frozen = frozen;
  return cgroup_freeze(cgroup, frozen, e);
}

static int run(struct rebuild *rebuild, struct stream_reader *reader, struct err *e)
{
  pid_t root;

  if (read_stream(rebuild, reader, e) < 0 || complete(rebuild, e) < 0)
    return -1;
  root = rebuild->processes[0].threads[0].pid;
  if (rebuild->id && !rebuild->created &&
      container_register(rebuild->options->registry, rebuild->id, root, e) < 0)
    return -1;
  numbers_end(rebuild);
  if (rebuild->options->paused && rebuild_pause(rebuild, true, e) < 0)
    return -1;
  if (write_report(rebuild, root, e) < 0)
    return -1;
  rebuild_give_streams(rebuild);
  if (release(rebuild, e) < 0)
    return -1;
  guard_end(&rebuild->guard, true);
  return 0;
}

int restore_run(const struct restore_options *options, int in_fd, struct err *e)
{
  CLEANUP(rebuild_free)
  struct rebuild rebuild = {
      .options = options,
      .control = {-1, -1},
      .reserved = -1,
      .numbers = {.socket = -1},
      .objects = {.root_fd = -1,
                  .net_fd = -1,
                  .streams = {-1, -1, -1},
                  .tcp_close = options->tcp_close},
  };
  struct stats_clock clock = stats_start();
  struct stream_header header;
  struct stream_reader *reader = stream_reader_new(in_fd, &header, e);
  int result;

  if (!reader)
    return -1;
  rebuild.objects.tree = &rebuild.tree;
  result = run(&rebuild, reader, e);
  if (result < 0 && rebuild.processes)
    rebuild_kill(&rebuild);
  if (result < 0 && rebuild.reserved >= 0)
    container_forget(options->registry, rebuild.id, &(struct err){""});
  if (result == 0 && options->stats_fd >= 0)
    result = stats_write(options->stats_fd, "ckpt-rebuild", &clock,
                         stream_reader_totals(reader).bytes, rebuild.page_bytes, NULL, e);
  stream_reader_free(reader);
  return result;
}
