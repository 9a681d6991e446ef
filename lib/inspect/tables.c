#include "base/cleanup.h"
#include "inspect/inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

struct size_text {
  char text[16];
};

/* "812K", "1.2M": three digits at most before the unit. */
static struct size_text size_text(uint64_t bytes)
{
  static const char units[] = "BKMGTPE";
  struct size_text size;
  double value = (double)bytes;
  size_t unit = 0;

  while (value >= 1000 && unit + 2 < sizeof(units)) {
    value /= 1024;
    unit++;
  }
  snprintf(size.text, sizeof(size.text), "%.*f%c", unit && value < 10 ? 1 : 0, value, units[unit]);
  return size;
}

static double percent(uint64_t part, uint64_t whole)
{
  return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void print_head(const struct inspection *inspection, FILE *out)
{
  const struct tree *tree = &inspection->tree;
  const struct checkpoint *checkpoint = &tree->checkpoint;
  const struct space_pages total = inspect_totals(inspection);
  size_t threads = 0;

  for (size_t i = 0; i < tree->process_count; i++)
    threads += tree->processes[i].thread_count;
  fprintf(out, "image ");
  for (size_t i = 0; i < sizeof(inspection->header.image_id); i++)
    fprintf(out, "%02x", inspection->header.image_id[i]);
  fprintf(out, ", format %u, Linux %s\n", inspection->header.version, checkpoint->kernel);
  if (checkpoint->id)
    fprintf(out, "container %s, ", checkpoint->id);
  fprintf(out, "root pid %d%s, %zu processes, %zu threads, %zu files\n", checkpoint->root,
          checkpoint->own_pidns ? " of its own pid namespace" : "", tree->process_count, threads,
          tree->file_count);
  fprintf(out, "memory %s, zero %.0f%%, compressed %.0f%%, stored %s, stream %s\n",
          size_text(total.present * PAGE_SIZE_X86).text,
          percent(total.present - total.stored, total.present),
          percent(total.compressed, total.stored), size_text(total.payload_bytes).text,
          size_text(inspection->bytes).text);
}

static void print_processes(const struct tree *tree, FILE *out)
{
  fprintf(out, "\n%7s %7s %7s %7s %-8s %7s %5s %6s %s\n", "PID", "PPID", "PGID", "SID", "STATE",
          "THREADS", "FDS", "SPACE", "NAME");
  for (size_t i = 0; i < tree->process_count; i++) {
    const struct process *process = &tree->processes[i];

    fprintf(out, "%7d %7d %7d %7d %-8s %7zu %5zu %6u %s\n", process->pid, process->ppid,
            process->pgid, process->sid, process->state, process->thread_count,
            process->descriptor_count, process->mm,
            process->thread_count ? process->threads[0].name : "-");
  }
}

static void print_spaces(const struct inspection *inspection, FILE *out)
{
  fprintf(out, "\n%6s %-18s %8s %9s %5s %10s %8s %6s\n", "SPACE", "OF", "PRESENT", "INHERITED",
          "ZERO", "COMPRESSED", "STORED", "RATIO");
  for (size_t i = 0; i < inspection->space_count; i++) {
    const struct space_pages *space = &inspection->spaces[i];
    const struct tree *tree = &inspection->tree;
    uint64_t present = space->present * PAGE_SIZE_X86;
    char of[32] = "-";

    for (size_t k = tree->process_count; k-- > 0;) {
      if (tree->processes[k].mm == space->space)
        snprintf(of, sizeof(of), "pid %d", tree->processes[k].pid);
    }
    for (size_t k = 0; k < tree->file_count; k++) {
      if (tree->files[k].space == space->space)
        snprintf(of, sizeof(of), "file %u", tree->files[k].id);
    }
    fprintf(out, "%6u %-18s %8s %9s %4.0f%% %9.0f%% %8s %6.2f\n", space->space, of,
            size_text(present).text, size_text(space->inherited * PAGE_SIZE_X86).text,
            percent(space->present - space->stored, space->present),
            percent(space->compressed, space->stored), size_text(space->payload_bytes).text,
            space->payload_bytes ? (double)present / (double)space->payload_bytes : 0);
  }
}

/* What a file is, in a few words: its path, or its details without their long ones. */
static void print_file(const struct file *file, FILE *out)
{
  const char *path = json_string_value(json_object_get(file->detail, "path"));
  const char *member;
  json_t *value;

  fprintf(out, "%s", file->type);
  if (path) {
    fprintf(out, " %s", path);
    return;
  }
  json_object_foreach(file->detail, member, value)
  {
    if (json_is_integer(value))
      fprintf(out, " %s %" JSON_INTEGER_FORMAT, member, json_integer_value(value));
    else if (json_is_true(value))
      fprintf(out, " %s", member);
    else if (json_is_string(value) && json_string_length(value) <= 64)
      fprintf(out, " %s %s", member, json_string_value(value));
  }
}

static void print_maps(const struct inspection *inspection, const struct space_pages *space,
                       FILE *out)
{
  const struct tree *tree = &inspection->tree;
  const struct mm *mm = tree_mm(tree, space->space);

  if (!mm)
    return;
  fprintf(out, "\nmaps of space %u:\n%-25s %-4s %8s %8s %5s %s\n", mm->id, "RANGE", "PERM", "SIZE",
          "PRESENT", "ZERO", "WHAT");
  for (size_t i = 0; i < mm->vma_count; i++) {
    const struct vma *vma = &mm->vmas[i];
    const struct file *file = vma->file ? tree_file(tree, vma->file) : NULL;

    fprintf(out, "%012" PRIx64 "-%012" PRIx64 " %c%c%c%c %8s %8s %4.0f%% ", vma->start, vma->end,
            vma->prot & PROT_READ ? 'r' : '-', vma->prot & PROT_WRITE ? 'w' : '-',
            vma->prot & PROT_EXEC ? 'x' : '-', vma->flags & MAP_SHARED ? 's' : 'p',
            size_text(vma->end - vma->start).text,
            size_text(space->vma_present[i] * PAGE_SIZE_X86).text,
            percent(space->vma_present[i] - space->vma_stored[i], space->vma_present[i]));
    if (file)
      print_file(file, out);
    else
      fprintf(out, "%s", vma->special ? vma->special : vma->name ? vma->name : "");
    fprintf(out, "\n");
  }
}

static void print_descriptors(const struct tree *tree, const struct process *process, FILE *out)
{
  static const char *const modes[] = {"r", "w", "rw", "?"};

  if (process->descriptor_count == 0)
    return;
  fprintf(out, "\ndescriptors of pid %d:\n%5s %-4s %6s %12s %s\n", process->pid, "FD", "MODE",
          "FILE", "POSITION", "WHAT");
  for (size_t i = 0; i < process->descriptor_count; i++) {
    const struct descriptor *descriptor = &process->descriptors[i];
    const struct file *file = tree_file(tree, descriptor->file);

    fprintf(out, "%5d %-4s %6u %12" PRId64 " ", descriptor->fd, modes[file->flags & O_ACCMODE],
            file->id, file->position);
    print_file(file, out);
    fprintf(out, "%s\n", descriptor->cloexec ? " (cloexec)" : "");
  }
}

/* A line for each value that is not empty: the way to it, and the value. */
static void print_values(const char *way, const json_t *value, FILE *out)
{
  const char *member;
  json_t *below;
  size_t index;

  json_object_foreach((json_t *)value, member, below)
  {
    char longer[256];

    snprintf(longer, sizeof(longer), "%s %s", way, member);
    print_values(longer, below, out);
  }
  json_array_foreach(value, index, below)
  {
    char longer[256];

    snprintf(longer, sizeof(longer), "%s %zu", way, index);
    print_values(longer, below, out);
  }
  if (json_is_integer(value))
    fprintf(out, "%s = %" JSON_INTEGER_FORMAT "\n", way, json_integer_value(value));
  else if (json_is_string(value))
    fprintf(out, "%s = %.*s%s\n", way, (int)strcspn(json_string_value(value), "\n"),
            json_string_value(value), strchr(json_string_value(value), '\n') ? " ..." : "");
}

/* JSON of an image may be nested as deep as its parser takes it: what we make is not. */
static void print_namespaces(const struct tree *tree, FILE *out)
{
  if (tree->namespace_count)
    fprintf(out, "\nnamespaces:\n");
  for (size_t i = 0; i < tree->namespace_count; i++)
    print_values(tree->namespaces[i].type, tree->namespaces[i].detail, out);
}

int inspect_print_tables(const struct inspection *inspection, FILE *out, struct err *e)
{
  const struct tree *tree = &inspection->tree;

  print_head(inspection, out);
  print_processes(tree, out);
  print_spaces(inspection, out);
  for (size_t i = 0; i < inspection->space_count; i++)
    print_maps(inspection, &inspection->spaces[i], out);
  for (size_t i = 0; i < tree->process_count; i++)
    print_descriptors(tree, &tree->processes[i], out);
  print_namespaces(tree, out);
  return fflush(out) == 0 && !ferror(out) ? 0 : err_sys(e, "write");
}
