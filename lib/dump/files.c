/* Files of the model: each open file description once, each mapped file once. */
#include "base/cleanup.h"
#include "dump/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>

/* Fills what /proc shows of it, and hands it to the visitor. */
static int visit_opened(struct capture *capture, pid_t pid, int fd, const char *name, int local,
                        const struct proc_map *map, source_visitor *visit, void *context,
                        struct err *e)
{
  AUTO_FREE char *fdinfo = NULL;
  char path[PATH_MAX];
  char link[PATH_MAX + 32];
  char object_name[96];
  pid_t shown = fd >= 0 ? getpid() : pid;
  struct object_source object = {
      .pid = pid, .fd = fd, .local = local, .root = capture->root, .link = link};

  /* A number may be given to another file meanwhile, our duplicate not. */
  if (fd >= 0)
    snprintf(object_name, sizeof(object_name), "fd/%d", local);
  else
    snprintf(object_name, sizeof(object_name), "%s", name);
  if (proc_link(shown, object_name, link, sizeof(link), e) != 0)
    return -1;
  snprintf(path, sizeof(path), "/proc/%d/%s", shown, object_name);
  if (local >= 0 ? fstat(local, &object.stat) < 0 : stat(path, &object.stat) < 0) {
    if (!map || errno != EPERM)
      return err_sys(e, "%s", path);
    mapped_stat(pid, map, link, &object.stat);
    if (mapped_is_memory(pid, map))
      snprintf(link, sizeof(link), "/memfd:%s", strrchr(map->name, '/') + 1);
  }
  if (fd >= 0) {
    snprintf(object_name, sizeof(object_name), "fdinfo/%d", fd);
    if (proc_text(pid, object_name, &fdinfo, NULL, e) != 0)
      return -1;
    object.fdinfo = fdinfo;
    object.foreign = object_is_foreign(&capture->objects, &object);
  }
  return visit(capture, &object, context, e);
}

int capture_visit(struct capture *capture, pid_t pid, int pidfd, int fd, const char *name,
                  source_visitor *visit, void *context, struct err *e)
{
  AUTO_CLOSE int local = -1;

  if (fd >= 0) {
    local = pidfd_getfd(pidfd, fd, 0);
    if (local < 0)
      return err_sys(e, "pid %d fd %d", pid, fd);
  }
  return visit_opened(capture, pid, fd, name, local, NULL, visit, context, e);
}

int capture_visit_mapping(struct capture *capture, pid_t pid, const struct proc_map *map, int local,
                          source_visitor *visit, void *context, struct err *e)
{
  char name[64];

  snprintf(name, sizeof(name), "map_files/%lx-%lx", (unsigned long)map->start,
           (unsigned long)map->end);
  return visit_opened(capture, pid, -1, name, local, map, visit, context, e);
}

/* Descriptions and mappings of the same memory share one space of pages. */
static uint32_t space_of(struct capture *capture, const struct object_source *object,
                         const struct object_type *type)
{
  for (size_t i = 0; i < capture->known_count; i++) {
    const struct known_file *known = &capture->known[i];

    if (known->device == object->stat.st_dev && known->inode == object->stat.st_ino &&
        capture->tree.files[i].space && strcmp(capture->tree.files[i].type, type->name) == 0)
      return capture->tree.files[i].space;
  }
  return ++capture->last_space;
}

static int read_owner(int local, struct file *file)
{
  struct f_owner_ex owner = {0};
  int signal = fcntl(local, F_GETSIG);

  if (fcntl(local, F_GETOWN_EX, &owner) < 0 || signal < 0)
    return 0; /* O_PATH */
  file->owner_signal = signal;
  file->owner = owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid;
  return owner.pid != 0;
}

/* Adds a file to the model. `keep`: the local descriptor stays open for comparisons and pages. */
static int add_file(struct capture *capture, const struct object_source *object, uint32_t flags,
                    bool is_mapping, uint32_t *id, struct err *e)
{
  const struct object_type *type = object_type_of(object);
  uint32_t space = type->has_pages ? space_of(capture, object, type) : 0;
  struct known_file *known =
      list_append(&capture->known, &capture->known_count, sizeof(*capture->known));
  struct file *file = list_append(&capture->tree.files, &capture->tree.file_count, sizeof(*file));
  uint64_t position = 0;

  if (!known || !file)
    return err_sys(e, "files");
  *known = (struct known_file){
      .device = object->stat.st_dev,
      .inode = object->stat.st_ino,
      .local = -1,
      .is_mapping = is_mapping,
      .flags = flags,
  };
  *id = file->id = (uint32_t)capture->tree.file_count;
  file->type = strdup(type->name);
  file->flags = flags;
  file->space = space;
  if (!file->type)
    return err_sys(e, "files");
  if (object->fdinfo && proc_field(object->fdinfo, "pos", 10, &position))
    file->position = (int64_t)position;
  if (object->fdinfo && read_owner(object->local, file)) {
    /* The kernel tells the owner by our numbers. */
    int32_t number = capture_number(capture, file->owner < 0 ? -file->owner : file->owner);

    file->owner = file->owner < 0 ? -number : number;
  }
  if (type->dump(&capture->objects, object, file, e) < 0)
    return -1;
  if (object->local >= 0 && (!is_mapping || space)) {
    known->local = fcntl(object->local, F_DUPFD_CLOEXEC, 0);
    if (known->local < 0)
      return err_sys(e, "too many open files");
  }
  return 0;
}

struct file *capture_new_file(struct capture *capture, const struct object_type *type,
                              struct err *e)
{
  struct known_file *known =
      list_append(&capture->known, &capture->known_count, sizeof(*capture->known));
  struct file *file = list_append(&capture->tree.files, &capture->tree.file_count, sizeof(*file));

  if (known)
    *known = (struct known_file){.local = -1, .is_mapping = true};
  if (file) {
    file->id = (uint32_t)capture->tree.file_count;
    file->type = strdup(type->name);
  }
  if (!known || !file || !file->type) {
    err_sys(e, "files");
    return NULL;
  }
  return file;
}

static int with_description(const struct object_source *object, struct err *e)
{
  char text[PATH_MAX + 64];

  object_describe(object, text, sizeof(text));
  return err_prefix(e, "%s", text);
}

/* Like kcmp(2): 0 they are the same, 1 the object is the lesser one, 2 the greater. By inode first.
 */
static long compare_descriptions(pid_t self, const struct object_source *object,
                                 const struct known_file *known)
{
  if (object->stat.st_ino != known->inode)
    return object->stat.st_ino < known->inode ? 1 : 2;
  if (object->stat.st_dev != known->device)
    return object->stat.st_dev < known->device ? 1 : 2;
  return syscall(SYS_kcmp, self, self, KCMP_FILE, object->local, known->local);
}

/*
 * The id of the open file description if it is known, or 0; *place is where it belongs among the
 * known ones, which are in order. kcmp(2) is between our own duplicates.
 */
static int find_description(const struct capture *capture, const struct object_source *object,
                            size_t *place, uint32_t *id, struct err *e)
{
  size_t low = 0, high = capture->description_count;
  pid_t self = getpid();

  *id = 0;
  while (low < high && *id == 0) {
    size_t middle = low + (high - low) / 2;
    uint32_t known = capture->descriptions[middle];
    long order = compare_descriptions(self, object, &capture->known[known - 1]);

    if (order < 0)
      return err_sys(e, "kcmp");
    if (order == 0)
      *id = known;
    else if (order == 1)
      high = middle;
    else
      low = middle + 1;
  }
  *place = low;
  return 0;
}

static int insert_description(struct capture *capture, size_t place, uint32_t id, struct err *e)
{
  uint32_t *added =
      list_append(&capture->descriptions, &capture->description_count, sizeof(*added));

  if (!added)
    return err_sys(e, "files");
  memmove(capture->descriptions + place + 1, capture->descriptions + place,
          (capture->description_count - 1 - place) * sizeof(*added));
  capture->descriptions[place] = id;
  return 0;
}

static int take_descriptor(struct capture *capture, const struct object_source *object,
                           struct descriptor *descriptor, struct err *e)
{
  uint64_t flags = 0;
  size_t place;

  if (!proc_field(object->fdinfo, "flags", 8, &flags))
    return err_set(e, "fdinfo without flags");
  descriptor->fd = object->fd;
  descriptor->cloexec = flags & O_CLOEXEC;
  flags &= ~(uint64_t)O_CLOEXEC;
  if (find_description(capture, object, &place, &descriptor->file, e) < 0)
    return -1;
  if (descriptor->file)
    return 0;
  if (add_file(capture, object, (uint32_t)flags, false, &descriptor->file, e) < 0)
    return with_description(object, e);
  return insert_description(capture, place, descriptor->file, e);
}

/* POSIX locks stand in the fdinfo of any descriptor of the file: "lock: 1: POSIX ADVISORY WRITE".
 */
static int add_locks(const struct object_source *object, struct process *process, struct err *e)
{
  for (const char *at = strstr(object->fdinfo, "\nlock:"); at; at = strstr(at + 1, "\nlock:")) {
    char kind[16], mode[16], type[16], end[32];
    long long start;
    struct posix_lock *lock;

    if (sscanf(at, "\nlock: %*d: %15s %15s %15s %*d %*x:%*x:%*u %lld %31s", kind, mode, type,
               &start, end) != 5 ||
        strcmp(kind, "POSIX") != 0)
      continue;
    lock = list_append(&process->locks, &process->lock_count, sizeof(*lock));
    if (!lock)
      return err_sys(e, "locks");
    *lock = (struct posix_lock){
        .fd = object->fd,
        .type = strcmp(type, "WRITE") == 0 ? F_WRLCK : F_RDLCK,
        .start = start,
        .length = strcmp(end, "EOF") == 0 ? 0 : strtoll(end, NULL, 10) - start + 1,
    };
  }
  return 0;
}

static int visit_descriptor(struct capture *capture, const struct object_source *object,
                            void *context, struct err *e)
{
  struct process *process = context;
  struct descriptor *descriptor =
      list_append(&process->descriptors, &process->descriptor_count, sizeof(*descriptor));

  if (!descriptor)
    return err_sys(e, "descriptors");
  return take_descriptor(capture, object, descriptor, e) < 0 ? -1 : add_locks(object, process, e);
}

int capture_descriptors(struct capture *capture, struct source *source, struct process *process,
                        struct err *e)
{
  AUTO_CLOSE int pidfd = pidfd_open(source->pid, 0);
  CLEANUP(proc_list_free) struct proc_list fds = {0};

  if (pidfd < 0)
    return err_sys(e, "pid %d", source->pid);
  if (proc_descriptors(source->pid, &fds, e) != 0)
    return -1;
  for (size_t i = 0; i < fds.count; i++) {
    if (capture_visit(capture, source->pid, pidfd, fds.items[i], NULL, visit_descriptor, process,
                      e) < 0)
      return -1;
  }
  return 0;
}

struct mapping_context {
  uint32_t flags;
  uint32_t id;
};

/*
 * What has no descriptor is one file for each inode and way of access. Segments and other memory
 * have inode numbers of their own on one device.
 */
static int visit_mapping(struct capture *capture, const struct object_source *object, void *context,
                         struct err *e)
{
  const struct object_type *type = object_type_of(object);
  struct mapping_context *mapping = context;

  for (size_t i = 0; i < capture->known_count; i++) {
    const struct known_file *known = &capture->known[i];

    if (known->is_mapping && known->device == object->stat.st_dev &&
        known->inode == object->stat.st_ino && known->flags == mapping->flags &&
        strcmp(capture->tree.files[i].type, type->name) == 0) {
      mapping->id = (uint32_t)i + 1;
      return 0;
    }
  }
  if (add_file(capture, object, mapping->flags, true, &mapping->id, e) < 0)
    return with_description(object, e);
  return 0;
}

int capture_object(struct capture *capture, const struct object_source *object, struct err *e)
{
  struct mapping_context mapping = {.flags = O_RDWR};

  return visit_mapping(capture, object, &mapping, e);
}

int capture_link(struct capture *capture, struct source *source, const char *name, uint32_t *id,
                 struct err *e)
{
  struct mapping_context mapping = {.flags = strcmp(name, "exe") == 0 ? O_RDONLY : O_PATH};

  if (capture_visit(capture, source->pid, -1, -1, name, visit_mapping, &mapping, e) < 0)
    return err_prefix(e, "%s", name);
  *id = mapping.id;
  return 0;
}

/* A segment that is attached for reading is one of its own: shmat(2) alone can make it so. */
static bool is_segment_name(const char *name)
{
  return strncmp(name, "/SYSV", 5) == 0;
}

static bool is_memory_name(const char *name)
{
  return strncmp(name, "/memfd:", 7) == 0 || strcmp(name, "/dev/zero (deleted)") == 0 ||
         strncmp(name, "[anon_shmem:", 12) == 0;
}

static int open_map_file(pid_t pid, const struct proc_map *map, uint32_t flags)
{
  char path[96];

  snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, (unsigned long)map->start,
           (unsigned long)map->end);
  return open(path, (int)flags | O_CLOEXEC);
}

/* The process may have a descriptor of what it maps. */
static int borrow_descriptor(pid_t pid, const struct proc_map *map)
{
  AUTO_CLOSE int pidfd = pidfd_open(pid, 0);
  CLEANUP(proc_list_free) struct proc_list fds = {0};
  int taken = -1;

  if (pidfd < 0 || proc_descriptors(pid, &fds, &(struct err){""}) != 0)
    return -1;
  for (size_t i = 0; i < fds.count && taken < 0; i++) {
    struct stat found;
    char path[48];

    snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fds.items[i]);
    if (stat(path, &found) == 0 && found.st_dev == map->device && found.st_ino == map->inode)
      taken = pidfd_getfd(pidfd, fds.items[i], 0);
  }
  return taken;
}

int capture_open_mapped(const struct capture *capture, pid_t pid, const struct proc_map *map,
                        uint32_t flags)
{
  int fd = open_map_file(pid, map, flags);

  for (size_t i = 0; i < capture->known_count && fd < 0; i++) {
    const struct known_file *known = &capture->known[i];

    if (known->local >= 0 && known->device == map->device && known->inode == map->inode)
      fd = fcntl(known->local, F_DUPFD_CLOEXEC, 0);
  }
  return fd < 0 ? borrow_descriptor(pid, map) : fd;
}

/* The mapping of a file without a name, as all memory is. */
bool capture_map_is_object(const struct proc_map *map)
{
  static const char suffix[] = " (deleted)";
  size_t length = strlen(map->name);

  return is_memory_name(map->name) || (map->name[0] == '/' && length > strlen(suffix) &&
                                       strcmp(map->name + length - strlen(suffix), suffix) == 0);
}

int capture_mapped(struct capture *capture, pid_t pid, const struct proc_map *map, uint32_t *id,
                   struct err *e)
{
  bool writes = map->perms[3] == 's' && proc_map_has_flag(map, "mw");
  bool memory = is_memory_name(map->name);
  struct mapping_context mapping = {.flags = writes || memory ? O_RDWR : O_RDONLY};
  bool segment = is_segment_name(map->name);
  AUTO_CLOSE int local =
      capture_map_is_object(map) ? capture_open_mapped(capture, pid, map, mapping.flags) : -1;

  if (segment && local < 0)
    return err_sys(e, "map_files");
  memory = memory || (local < 0 && mapped_is_memory(pid, map));
  if ((memory && local < 0 && mapped_take(capture, pid, map, e) < 0) ||
      capture_visit_mapping(capture, pid, map, local, visit_mapping, &mapping, e) < 0)
    return -1;
  *id = mapping.id;
  return 0;
}
