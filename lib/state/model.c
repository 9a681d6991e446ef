#include "state/model.h"

#include "base/cleanup.h"

#include <string.h>
#include <sys/mman.h>

static const struct field checkpoint_fields[] = {
    F_STRING(struct checkpoint, id),
    F_STRING(struct checkpoint, kernel),
    F_SIGNED(struct checkpoint, root),
    F_STRING(struct checkpoint, runtime),
    F_BOOL(struct checkpoint, own_pidns),
    F_BOOL(struct checkpoint, own_userns),
    F_UNSIGNED(struct checkpoint, xstate_size),
    F_HEX(struct checkpoint, xstate_features),
    F_STRING(struct checkpoint, vdso_digest),
    F_END,
};

static const struct field vma_fields[] = {
    F_HEX(struct vma, start),      F_HEX(struct vma, end),       F_UNSIGNED(struct vma, prot),
    F_HEX(struct vma, flags),      F_UNSIGNED(struct vma, file), F_HEX(struct vma, offset),
    F_STRING(struct vma, special), F_STRING(struct vma, name),   F_HEX(struct vma, advice),
    F_BOOL(struct vma, huge),      F_UNSIGNED(struct vma, key),  F_END,
};

static const struct field mm_fields[] = {
    F_UNSIGNED(struct mm, id),
    F_UNSIGNED(struct mm, parent),
    F_UNSIGNED(struct mm, exe),
    F_HEX(struct mm, start_code),
    F_HEX(struct mm, end_code),
    F_HEX(struct mm, start_data),
    F_HEX(struct mm, end_data),
    F_HEX(struct mm, start_brk),
    F_HEX(struct mm, brk),
    F_HEX(struct mm, start_stack),
    F_HEX(struct mm, lock_future),
    F_HEX(struct mm, arg_start),
    F_HEX(struct mm, arg_end),
    F_HEX(struct mm, env_start),
    F_HEX(struct mm, env_end),
    F_BLOB(struct mm, auxv),
    F_LIST(struct mm, vmas, vma_count, vma_fields),
    F_END,
};

static const struct field file_fields[] = {
    F_UNSIGNED(struct file, id),    F_STRING(struct file, type),
    F_HEX(struct file, flags),      F_SIGNED(struct file, position),
    F_UNSIGNED(struct file, space), F_UNSIGNED(struct file, size),
    F_SIGNED(struct file, owner),   F_SIGNED(struct file, owner_signal),
    F_JSON(struct file, detail),    F_END,
};

static const struct field descriptor_fields[] = {
    F_SIGNED(struct descriptor, fd),
    F_UNSIGNED(struct descriptor, file),
    F_BOOL(struct descriptor, cloexec),
    F_END,
};

static const struct field sigaction_fields[] = {
    F_SIGNED(struct sigaction_state, signal), F_HEX(struct sigaction_state, handler),
    F_HEX(struct sigaction_state, flags),     F_HEX(struct sigaction_state, restorer),
    F_HEX(struct sigaction_state, mask),      F_END,
};

static const struct field pending_fields[] = {
    F_BLOB(struct pending_signal, siginfo),
    F_END,
};

static const struct field itimer_fields[] = {
    F_SIGNED(struct itimer_state, which),
    F_SIGNED(struct itimer_state, interval_seconds),
    F_SIGNED(struct itimer_state, interval_microseconds),
    F_SIGNED(struct itimer_state, value_seconds),
    F_SIGNED(struct itimer_state, value_microseconds),
    F_END,
};

static const struct field timer_fields[] = {
    F_SIGNED(struct posix_timer, id),
    F_SIGNED(struct posix_timer, clock),
    F_SIGNED(struct posix_timer, notify),
    F_SIGNED(struct posix_timer, signal),
    F_SIGNED(struct posix_timer, tid),
    F_HEX(struct posix_timer, value),
    F_SIGNED(struct posix_timer, interval_seconds),
    F_SIGNED(struct posix_timer, interval_nanoseconds),
    F_SIGNED(struct posix_timer, value_seconds),
    F_SIGNED(struct posix_timer, value_nanoseconds),
    F_SIGNED(struct posix_timer, overrun),
    F_END,
};

static const struct field rlimit_fields[] = {
    F_SIGNED(struct rlimit_state, resource),
    F_UNSIGNED(struct rlimit_state, soft),
    F_UNSIGNED(struct rlimit_state, hard),
    F_END,
};

static const struct field lock_fields[] = {
    F_SIGNED(struct posix_lock, fd),
    F_SIGNED(struct posix_lock, type),
    F_SIGNED(struct posix_lock, start),
    F_SIGNED(struct posix_lock, length),
    F_END,
};

static const struct field credentials_fields[] = {
    F_UNSIGNED(struct credentials, ruid),
    F_UNSIGNED(struct credentials, euid),
    F_UNSIGNED(struct credentials, suid),
    F_UNSIGNED(struct credentials, fsuid),
    F_UNSIGNED(struct credentials, rgid),
    F_UNSIGNED(struct credentials, egid),
    F_UNSIGNED(struct credentials, sgid),
    F_UNSIGNED(struct credentials, fsgid),
    F_NUMBERS(struct credentials, groups, group_count),
    F_HEX(struct credentials, inheritable),
    F_HEX(struct credentials, permitted),
    F_HEX(struct credentials, effective),
    F_HEX(struct credentials, bounding),
    F_HEX(struct credentials, ambient),
    F_HEX(struct credentials, securebits),
    F_BOOL(struct credentials, no_new_privs),
    F_END,
};

static const struct field registers_fields[] = {
    F_HEX(struct registers, r15),     F_HEX(struct registers, r14),
    F_HEX(struct registers, r13),     F_HEX(struct registers, r12),
    F_HEX(struct registers, rbp),     F_HEX(struct registers, rbx),
    F_HEX(struct registers, r11),     F_HEX(struct registers, r10),
    F_HEX(struct registers, r9),      F_HEX(struct registers, r8),
    F_HEX(struct registers, rax),     F_HEX(struct registers, rcx),
    F_HEX(struct registers, rdx),     F_HEX(struct registers, rsi),
    F_HEX(struct registers, rdi),     F_HEX(struct registers, orig_rax),
    F_HEX(struct registers, rip),     F_HEX(struct registers, cs),
    F_HEX(struct registers, eflags),  F_HEX(struct registers, rsp),
    F_HEX(struct registers, ss),      F_HEX(struct registers, fs_base),
    F_HEX(struct registers, gs_base), F_HEX(struct registers, ds),
    F_HEX(struct registers, es),      F_HEX(struct registers, fs),
    F_HEX(struct registers, gs),      F_END,
};

static const struct field thread_fields[] = {
    F_SIGNED(struct thread, tid),
    F_STRING(struct thread, name),
    F_STRUCT(struct thread, registers, registers_fields),
    F_BLOB(struct thread, xstate),
    F_HEX(struct thread, sigmask),
    F_HEX(struct thread, altstack_address),
    F_UNSIGNED(struct thread, altstack_size),
    F_SIGNED(struct thread, altstack_flags),
    F_HEX(struct thread, clear_child_tid),
    F_HEX(struct thread, robust_list),
    F_UNSIGNED(struct thread, robust_list_size),
    F_HEX(struct thread, rseq_address),
    F_UNSIGNED(struct thread, rseq_size),
    F_HEX(struct thread, rseq_signature),
    F_HEX(struct thread, rseq_flags),
    F_SIGNED(struct thread, policy),
    F_SIGNED(struct thread, priority),
    F_SIGNED(struct thread, nice),
    F_HEX(struct thread, sched_flags),
    F_UNSIGNED(struct thread, sched_runtime),
    F_UNSIGNED(struct thread, sched_deadline),
    F_UNSIGNED(struct thread, sched_period),
    F_BLOB(struct thread, affinity),
    F_SIGNED(struct thread, io_priority),
    F_SIGNED(struct thread, parent_death_signal),
    F_UNSIGNED(struct thread, timer_slack),
    F_LIST(struct thread, pending, pending_count, pending_fields),
    F_END,
};

static const struct field filter_fields[] = {
    F_BLOB(struct seccomp_filter, program),
    F_HEX(struct seccomp_filter, flags),
    F_END,
};

static const struct field process_fields[] = {
    F_SIGNED(struct process, pid),
    F_SIGNED(struct process, ppid),
    F_SIGNED(struct process, pgid),
    F_SIGNED(struct process, sid),
    F_STRING(struct process, state),
    F_SIGNED(struct process, exit_signal),
    F_SIGNED(struct process, exit_code),
    F_UNSIGNED(struct process, mm),
    F_UNSIGNED(struct process, cwd),
    F_UNSIGNED(struct process, root),
    F_UNSIGNED(struct process, umask),
    F_SIGNED(struct process, oom_score_adj),
    F_HEX(struct process, personality),
    F_HEX(struct process, coredump_filter),
    F_SIGNED(struct process, dumpable),
    F_BOOL(struct process, child_subreaper),
    F_BOOL(struct process, thp_disabled),
    F_HEX(struct process, membarrier),
    F_STRUCT(struct process, credentials, credentials_fields),
    F_LIST(struct process, descriptors, descriptor_count, descriptor_fields),
    F_LIST(struct process, locks, lock_count, lock_fields),
    F_LIST(struct process, sigactions, sigaction_count, sigaction_fields),
    F_LIST(struct process, pending, pending_count, pending_fields),
    F_LIST(struct process, itimers, itimer_count, itimer_fields),
    F_LIST(struct process, timers, timer_count, timer_fields),
    F_LIST(struct process, rlimits, rlimit_count, rlimit_fields),
    F_LIST(struct process, filters, filter_count, filter_fields),
    F_LIST(struct process, threads, thread_count, thread_fields),
    F_END,
};

static const struct field namespace_fields[] = {
    F_STRING(struct namespace_state, type),
    F_JSON(struct namespace_state, detail),
    F_END,
};

enum { KIND_CHECKPOINT, KIND_PROCESS, KIND_MM, KIND_FILE, KIND_NAMESPACE };

static const struct {
  const char *name;
  const struct field *fields;
  size_t size;
} kinds[] = {
    [KIND_CHECKPOINT] = {"checkpoint", checkpoint_fields, sizeof(struct checkpoint)},
    [KIND_PROCESS] = {"process", process_fields, sizeof(struct process)},
    [KIND_MM] = {"mm", mm_fields, sizeof(struct mm)},
    [KIND_FILE] = {"file", file_fields, sizeof(struct file)},
    [KIND_NAMESPACE] = {"namespace", namespace_fields, sizeof(struct namespace_state)},
};

static json_t *to_json(size_t kind, const void *from, struct err *e)
{
  json_t *members = fields_to_json(kinds[kind].fields, from, e);
  json_t *object = members ? json_object() : NULL;

  /* `kind` first: for people's eyes. */
  if (object && (json_object_set_new(object, "kind", json_string(kinds[kind].name)) < 0 ||
                 json_object_update(object, members) < 0)) {
    json_decref(object);
    object = NULL;
    err_set(e, "%s: out of memory", kinds[kind].name);
  }
  json_decref(members);
  return object;
}

json_t *checkpoint_to_json(const struct checkpoint *checkpoint, struct err *e)
{
  return to_json(KIND_CHECKPOINT, checkpoint, e);
}

json_t *process_to_json(const struct process *process, struct err *e)
{
  return to_json(KIND_PROCESS, process, e);
}

json_t *mm_to_json(const struct mm *mm, struct err *e)
{
  return to_json(KIND_MM, mm, e);
}

json_t *file_to_json(const struct file *file, struct err *e)
{
  return to_json(KIND_FILE, file, e);
}

json_t *namespace_to_json(const struct namespace_state *state, struct err *e)
{
  return to_json(KIND_NAMESPACE, state, e);
}

/* A zeroed element at the end of a list that grows by doubling. NULL when memory is out. */
void *list_append(void *list, size_t *count, size_t size)
{
  char **items = list;

  if ((*count & (*count - 1)) == 0) {
    char *larger = reallocarray(*items, *count ? *count * 2 : 1, size);

    if (!larger)
      return NULL;
    *items = larger;
  }
  return memset(*items + (*count)++ * size, 0, size);
}

static void *new_element(struct tree *tree, size_t kind, struct err *e)
{
  void *element = NULL;

  if (kind == KIND_CHECKPOINT) {
    if (tree->has_checkpoint)
      err_set(e, "stands twice in the stream");
    else
      element = &tree->checkpoint;
    tree->has_checkpoint = true;
    return element;
  }
  if (kind == KIND_PROCESS)
    element = list_append(&tree->processes, &tree->process_count, sizeof(*tree->processes));
  else if (kind == KIND_MM)
    element = list_append(&tree->mms, &tree->mm_count, sizeof(*tree->mms));
  else if (kind == KIND_FILE)
    element = list_append(&tree->files, &tree->file_count, sizeof(*tree->files));
  else
    element = list_append(&tree->namespaces, &tree->namespace_count, sizeof(*tree->namespaces));
  if (!element)
    err_sys(e, "tree");
  return element;
}

static int add_object(struct tree *tree, json_t *object, struct err *e)
{
  const char *name = json_string_value(json_object_get(object, "kind"));
  AUTO_FREE char *kind_name = name ? strdup(name) : NULL;

  if (!kind_name)
    return err_set(e, "state frame without a kind");
  json_object_del(object, "kind");
  for (size_t kind = 0; kind < ARRAY_LEN(kinds); kind++) {
    void *element;

    if (strcmp(kinds[kind].name, kind_name) != 0)
      continue;
    element = new_element(tree, kind, e);
    if (!element || fields_from_json(kinds[kind].fields, element, object, e) < 0)
      return err_prefix(e, "state frame of kind \"%s\"", kind_name);
    return 0;
  }
  return err_set(e, "state frame of the unknown kind \"%s\"", kind_name);
}

int tree_add_json(struct tree *tree, const char *text, size_t size, struct err *e)
{
  json_error_t error;
  json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
  int result;

  if (!object)
    return err_set(e, "state frame is not JSON: %s (line %d)", error.text, error.line);
  result = add_object(tree, object, e);
  json_decref(object);
  return result;
}

void tree_free(struct tree *tree)
{
  fields_free(checkpoint_fields, &tree->checkpoint);
  for (size_t i = 0; i < tree->process_count; i++)
    fields_free(process_fields, &tree->processes[i]);
  for (size_t i = 0; i < tree->mm_count; i++)
    fields_free(mm_fields, &tree->mms[i]);
  for (size_t i = 0; i < tree->file_count; i++)
    fields_free(file_fields, &tree->files[i]);
  for (size_t i = 0; i < tree->namespace_count; i++)
    fields_free(namespace_fields, &tree->namespaces[i]);
  free(tree->processes);
  free(tree->mms);
  free(tree->files);
  free(tree->namespaces);
  *tree = (struct tree){0};
}

bool vma_is_private(const struct vma *vma)
{
  return !vma->special && (vma->flags & MAP_TYPE) == MAP_PRIVATE;
}

bool vma_continues(const struct vma *child, const struct vma *parent)
{
  const uint32_t flags = ~(uint32_t)MAP_NORESERVE;
  const uint64_t advice = VMA_HUGEPAGE | VMA_NOHUGEPAGE | VMA_DROPPABLE;

  return vma_is_private(child) && vma_is_private(parent) && child->file == parent->file &&
         (child->flags & flags) == (parent->flags & flags) &&
         (child->advice & advice) == (parent->advice & advice) &&
         (child->file == 0 || child->offset - child->start == parent->offset - parent->start);
}

struct process *tree_process(const struct tree *tree, int32_t pid)
{
  for (size_t i = 0; i < tree->process_count; i++) {
    if (tree->processes[i].pid == pid)
      return &tree->processes[i];
  }
  return NULL;
}

struct mm *tree_mm(const struct tree *tree, uint32_t id)
{
  for (size_t i = 0; id && i < tree->mm_count; i++) {
    if (tree->mms[i].id == id)
      return &tree->mms[i];
  }
  return NULL;
}

/* They are numbered as they stand, as a rule. */
struct file *tree_file(const struct tree *tree, uint32_t id)
{
  if (id && id <= tree->file_count && tree->files[id - 1].id == id)
    return &tree->files[id - 1];
  for (size_t i = 0; id && i < tree->file_count; i++) {
    if (tree->files[i].id == id)
      return &tree->files[i];
  }
  return NULL;
}

struct namespace_state *tree_namespace(const struct tree *tree, const char *type)
{
  for (size_t i = 0; i < tree->namespace_count; i++) {
    if (tree->namespaces[i].type && strcmp(tree->namespaces[i].type, type) == 0)
      return &tree->namespaces[i];
  }
  return NULL;
}

static bool page_aligned(uint64_t address)
{
  return address % 4096 == 0;
}

static int check_mm(const struct tree *tree, const struct mm *mm, struct err *e)
{
  uint64_t end = 0;

  if (mm->id == 0 || tree_mm(tree, mm->id) != mm)
    return err_set(e, "space %u: id is not unique", mm->id);
  if (mm->parent && (!tree_mm(tree, mm->parent) || tree_mm(tree, mm->parent) >= mm))
    return err_set(e, "space %u: its parent %u does not precede it", mm->id, mm->parent);
  if (!tree_file(tree, mm->exe))
    return err_set(e, "space %u: its program, file %u, is not there", mm->id, mm->exe);
  for (size_t i = 0; i < mm->vma_count; i++) {
    const struct vma *vma = &mm->vmas[i];

    if (vma->start < end || vma->end <= vma->start || !page_aligned(vma->start) ||
        !page_aligned(vma->end) || !page_aligned(vma->offset))
      return err_set(e, "space %u: mapping at 0x%lx: its range is impossible", mm->id,
                     (unsigned long)vma->start);
    end = vma->end;
    if (vma->key >= 16) /* 4 bits of a page table entry */
      return err_set(e, "space %u: mapping at 0x%lx: key of protection %u is none", mm->id,
                     (unsigned long)vma->start, vma->key);
    if (vma->file && !tree_file(tree, vma->file))
      return err_set(e, "space %u: mapping at 0x%lx: file %u is not there", mm->id,
                     (unsigned long)vma->start, vma->file);
    if (!vma->file && !vma->special && (vma->flags & MAP_TYPE) != MAP_PRIVATE)
      return err_set(e, "space %u: mapping at 0x%lx: shared memory without a file", mm->id,
                     (unsigned long)vma->start);
  }
  return 0;
}

static int check_descriptors(const struct tree *tree, const struct process *process, struct err *e)
{
  for (size_t i = 0; i < process->descriptor_count; i++) {
    const struct descriptor *descriptor = &process->descriptors[i];

    if (descriptor->fd < 0 || !tree_file(tree, descriptor->file))
      return err_set(e, "fd %d: file %u is not there", descriptor->fd, descriptor->file);
  }
  return 0;
}

/* include/linux/threads.h: PID_MAX_LIMIT, what pid_max can be at most. */
static bool is_pid(int32_t number)
{
  return number > 0 && number <= 4 << 20;
}

/* 0: outside the tree's pid namespace. */
static bool is_pid_or_none(int32_t number)
{
  return number == 0 || is_pid(number);
}

static int check_numbers(const struct process *process, struct err *e)
{
  if (!is_pid(process->pid))
    return err_set(e, "its number is impossible");
  if (!is_pid_or_none(process->ppid) || !is_pid_or_none(process->pgid) ||
      !is_pid_or_none(process->sid))
    return err_set(e, "its parent %d, process group %d or session %d is impossible", process->ppid,
                   process->pgid, process->sid);
  return 0;
}

static int check_process(const struct tree *tree, size_t index, struct err *e)
{
  const struct process *process = &tree->processes[index];
  const struct process *parent = tree_process(tree, process->ppid);
  bool zombie = process->state && strcmp(process->state, "zombie") == 0;
  bool entered = process->ppid == 0 && tree->checkpoint.runtime;

  if (check_numbers(process, e) < 0)
    return -1;
  if (tree_process(tree, process->pid) != process)
    return err_set(e, "is not unique");
  if (index > 0 && !entered && (!parent || parent >= process))
    return err_set(e, "its parent %d does not precede it", process->ppid);
  if (!process->state ||
      (!zombie && strcmp(process->state, "running") != 0 && strcmp(process->state, "stopped") != 0))
    return err_set(e, "its state is not known");
  if (process->exit_signal < 0 || process->exit_signal > 64)
    return err_set(e, "its exit signal %d is not one", process->exit_signal);
  if (zombie)
    return parent ? 0 : err_set(e, "is a zombie without a parent");
  if (!tree_mm(tree, process->mm) || !tree_file(tree, process->cwd) ||
      (process->root && !tree_file(tree, process->root)))
    return err_set(e, "its memory, working directory or root is not there");
  if (process->thread_count == 0 || process->threads[0].tid != process->pid)
    return err_set(e, "its threads do not begin with its leader");
  for (size_t i = 0; i < process->thread_count; i++) {
    if (!process->threads[i].name || !is_pid(process->threads[i].tid) ||
        strlen(process->threads[i].name) > 15)
      return err_set(e, "thread %d: its name or number is impossible", process->threads[i].tid);
  }
  return check_descriptors(tree, process, e);
}

int tree_check(const struct tree *tree, struct err *e)
{
  if (!tree->checkpoint.kernel || !tree->checkpoint.vdso_digest)
    return err_set(e, "the stream has no state frame of kind \"checkpoint\"");
  for (size_t i = 0; i < tree->file_count; i++) {
    const struct file *file = &tree->files[i];

    if (file->id == 0 || tree_file(tree, file->id) != file || !file->type)
      return err_set(e, "file %u: id is not unique, or it has no type", file->id);
    if (file->space && tree_mm(tree, file->space))
      return err_set(e, "file %u: its space %u is a process's", file->id, file->space);
  }
  for (size_t i = 0; i < tree->namespace_count; i++) {
    const struct namespace_state *state = &tree->namespaces[i];

    if (!state->type || tree_namespace(tree, state->type) != state)
      return err_set(e, "namespace %s: has no type, or stands there twice",
                     state->type ? state->type : "without type");
  }
  for (size_t i = 0; i < tree->mm_count; i++) {
    if (check_mm(tree, &tree->mms[i], e) < 0)
      return -1;
  }
  for (size_t i = 0; i < tree->process_count; i++) {
    if (check_process(tree, i, e) < 0)
      return err_prefix(e, "pid %d", tree->processes[i].pid);
  }
  return 0;
}
