/*
 * What a container changes in its namespaces comes back in new ones. The containers here are single
 * processes with new namespaces. Runs as root; elsewhere all is skipped.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "namespace/namespace.h"
#include "proc/inside.h"
#include "proc/proc.h"
#include "tap.h"

#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* A process in namespaces of its own, with what `prepare` makes there; then it waits. */
typedef int preparation(void);

static pid_t start(preparation *prepare)
{
  int pipe_fds[2];
  char byte = 0;
  pid_t pid;

  if (pipe2(pipe_fds, O_CLOEXEC) < 0)
    return -1;
  pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    byte = unshare(CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWIPC) == 0 && prepare() == 0;
    if (io_write(pipe_fds[1], &byte, 1) < 0)
      _exit(1);
    for (;;)
      pause();
  }
  close(pipe_fds[1]);
  if (io_read(pipe_fds[0], &byte, 1) != 1 || !byte) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    pid = -1;
  }
  close(pipe_fds[0]);
  return pid;
}

static void end(pid_t pid)
{
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
}

static int prepare_nothing(void)
{
  return 0;
}

static bool owns_all(void *context, const char *kind)
{
  (void)context;
  (void)kind;
  return true;
}

/* A stopped process that remote calls can be made in. */
static bool hold(struct tracee *tracee, pid_t pid, struct err *e)
{
  *tracee = (struct tracee){0};
  return tracee_seize(tracee, pid, pid, e) == 0 && tracee_wait_stop(tracee, 0, e) == 0 &&
         tracee_begin_remote(tracee, e) == 0;
}

static bool release(struct tracee *tracee, struct err *e)
{
  return tracee_end_remote(tracee, e) == 0 && tracee_detach(tracee, e) == 0;
}

enum { NUMBER = 7, SPACE = 100 }; /* the process's pid as the tree knows it */

static const struct object_dump object_dump = {.own_ipc = true};

/* As lib/dump does it: a file that nobody has open. Its pages are read from it at once. */
struct dumping {
  struct tree *tree;
  char *pages[8];
};

static int add_file(void *context, const struct object_source *object, struct err *e)
{
  struct dumping *dumping = context;
  struct tree *tree = dumping->tree;
  struct file *file = list_append(&tree->files, &tree->file_count, sizeof(*file));

  file->id = (uint32_t)tree->file_count;
  file->type = strdup(object_type_of(object)->name);
  file->space = SPACE + file->id;
  file->flags = O_RDWR;
  if (object_sysvshm.dump(&object_dump, object, file, e) < 0)
    return -1;
  dumping->pages[file->id] = calloc(1, file->size);
  return io_pread(object->local, dumping->pages[file->id], file->size, 0) == (ssize_t)file->size
             ? 0
             : err_set(e, "pages");
}

/* Takes everything of the process's namespaces. */
static bool take(pid_t pid, struct dumping *dumping, struct err *e)
{
  struct tracee tracee;
  struct namespace_member member = {NUMBER, &tracee, 1};
  struct namespace_owner owner = {
      .init = pid,
      .members = &member,
      .member_count = 1,
      .tree = dumping->tree,
      .add_file = add_file,
      .context = dumping,
  };
  CLEANUP(json_decrefp) json_t *prepared = namespaces_prepare(pid, owns_all, NULL, e);
  bool taken;

  owner.prepared = prepared;
  if (!prepared || !hold(&tracee, pid, e))
    return false;
  taken = namespaces_dump(&owner, owns_all, NULL, dumping->tree, e) == 0;
  return release(&tracee, &(struct err){""}) && taken;
}

static int restore_segments(pid_t pid, const struct dumping *dumping, struct err *e)
{
  const struct tree *tree = dumping->tree;
  struct object_restore restore = {.tree = tree, .init = pid, .shared = json_object()};
  int result = 0;

  for (size_t i = 0; i < tree->file_count && result == 0; i++) {
    const struct file *file = &tree->files[i];
    AUTO_CLOSE int fd = object_sysvshm.restore(&restore, file, e);

    result = fd < 0 ? -1 : io_pwrite(fd, dumping->pages[file->id], file->size, 0);
    if (result == 0)
      result = object_sysvshm.attach(&restore, file, -1, NULL, e);
  }
  json_decref(restore.shared);
  return result;
}

/* Puts it into those of another. */
static bool give(pid_t pid, const struct dumping *dumping, struct err *e)
{
  struct tracee tracee;
  struct namespace_member member = {NUMBER, &tracee, 1};
  struct namespace_owner owner = {
      .init = pid,
      .members = &member,
      .member_count = 1,
      .tree = dumping->tree,
  };
  bool given;

  if (namespaces_restore(pid, dumping->tree, e) < 0 || restore_segments(pid, dumping, e) < 0 ||
      !hold(&tracee, pid, e))
    return false;
  given = namespaces_complete(&owner, e) == 0;
  return release(&tracee, &(struct err){""}) && given;
}

static void forget(struct dumping *dumping)
{
  for (size_t i = 0; i < ARRAY_LEN(dumping->pages); i++)
    free(dumping->pages[i]);
  tree_free(dumping->tree);
}

static const json_t *detail_of(const struct dumping *dumping, const char *type)
{
  return tree_namespace(dumping->tree, type)->detail;
}

static bool same_details(const struct dumping *a, const struct dumping *b, const char *type)
{
  bool same = json_equal(detail_of(a, type), detail_of(b, type));

  if (!same) {
    AUTO_FREE char *one = json_dumps(detail_of(a, type), JSON_COMPACT);
    AUTO_FREE char *other = json_dumps(detail_of(b, type), JSON_COMPACT);

    printf("# %s\n# %s\n", one, other);
  }
  return same;
}

static bool same_segments(const struct dumping *a, const struct dumping *b)
{
  bool same = a->tree->file_count == b->tree->file_count;

  for (size_t i = 0; same && i < a->tree->file_count; i++) {
    const struct file *one = &a->tree->files[i];
    const struct file *other = &b->tree->files[i];

    same = one->size == other->size && json_equal(one->detail, other->detail) &&
           memcmp(a->pages[one->id], b->pages[other->id], one->size) == 0;
  }
  return same;
}

/* From one process's namespaces to another's, and what is there then is taken again. */
struct passage {
  pid_t from, to;
  struct tree first_tree, second_tree;
  struct dumping first, second;
};

static void leave(struct passage *passage)
{
  forget(&passage->first);
  forget(&passage->second);
  if (passage->from > 0)
    end(passage->from);
  if (passage->to > 0)
    end(passage->to);
}

static bool pass(struct passage *passage, preparation *prepare, const char *name)
{
  struct err e = {""};
  bool passed;

  *passage = (struct passage){.from = start(prepare), .to = start(prepare_nothing)};
  passage->first.tree = &passage->first_tree;
  passage->second.tree = &passage->second_tree;
  if (!ok(passage->from > 0 && passage->to > 0, "%s: there are two containers", name))
    return false;
  passed = take(passage->from, &passage->first, &e) && give(passage->to, &passage->first, &e) &&
           take(passage->to, &passage->second, &e);
  ok(passed, "%s: dumped, restored, dumped %s", name, e.text);
  return passed;
}

static int prepare_names(void)
{
  return sethostname("original\xff", 9) == 0 && setdomainname("in.test", 7) == 0 ? 0 : -1;
}

static void test_names(void)
{
  CLEANUP(leave) struct passage passage;

  if (!pass(&passage, prepare_names, "names"))
    return;
  ok(same_details(&passage.first, &passage.second, "uts"), "host and domain name are the same");
  ok(json_object_get(json_object_get(detail_of(&passage.second, "uts"), "hostname"), "base64"),
     "one that is not text, too");
}

static int write_setting(const char *name, const char *value)
{
  struct err e = {""};
  AUTO_FREE char *path = io_format(&e, "/proc/sys/%s", name);

  return io_write_file(AT_FDCWD, path, value, &e);
}

static int prepare_network(void)
{
  return write_setting("net/ipv4/ip_unprivileged_port_start", "80") ||
         write_setting("net/ipv4/ip_local_port_range", "20000\t20100") ||
         write_setting("net/ipv4/ping_group_range", "0\t2147483647") ||
         write_setting("net/ipv6/conf/all/forwarding", "1") ||
         write_setting("net/ipv4/conf/all/send_redirects", "0") ||
         write_setting("net/core/somaxconn", "99") ||
         write_setting("net/ipv4/tcp_syn_retries", "3") ||
         system("ip link set lo up mtu 1400 txqueuelen 77 alias 'the loop' &&"
                "ip address add 10.9.8.7/24 dev lo label lo:one &&"
                "ip address add 10.9.8.8/32 peer 10.9.8.9/32 dev lo scope link &&"
                "ip address add fd00::7/64 dev lo nodad && ip address del 127.0.0.1/8 dev lo");
}

/* "" for one that is as in any new namespace. */
static const char *setting(const struct dumping *dumping, const char *name)
{
  const json_t *settings = json_object_get(detail_of(dumping, "net"), "settings");
  const char *value = json_string_value(json_object_get(settings, name));

  return value ? value : "";
}

static void test_network(void)
{
  CLEANUP(leave) struct passage passage;
  const json_t *loopback;

  if (!pass(&passage, prepare_network, "network"))
    return;
  ok(same_details(&passage.first, &passage.second, "net"), "loopback and settings are the same");
  loopback = json_object_get(detail_of(&passage.second, "net"), "loopback");
  ok(json_integer_value(json_object_get(loopback, "mtu")) == 1400 &&
         json_array_size(json_object_get(loopback, "addresses")) == 4,
     "the device has its size of packets and four addresses");
  ok(strcmp(setting(&passage.second, "net/core/somaxconn"), "99") == 0 &&
         strcmp(setting(&passage.second, "net/ipv6/conf/all/forwarding"), "1") == 0 &&
         strcmp(setting(&passage.second, "net/ipv4/ip_local_port_range"), "20000\t20100") == 0,
     "what was changed is there");
  ok(!*setting(&passage.second, "net/ipv4/tcp_retries2"), "what was not changed is not spoken of");
}

static void test_quiet_network(void)
{
  CLEANUP(leave) struct passage passage;

  if (!pass(&passage, prepare_nothing, "untouched"))
    return;
  ok(same_details(&passage.first, &passage.second, "net") &&
         same_details(&passage.first, &passage.second, "ipc"),
     "a device that is down stays so");
  ok(json_object_size(json_object_get(detail_of(&passage.first, "net"), "settings")) == 0 &&
         json_object_size(json_object_get(detail_of(&passage.first, "ipc"), "settings")) == 0,
     "no setting differs");
}

union semaphore_argument {
  int value;
  unsigned short *values;
};

static int undo(int set, int semaphore, int change)
{
  struct sembuf operation = {(unsigned short)semaphore, (short)change, SEM_UNDO};

  return semop(set, &operation, 1);
}

/* Ids are not the first ones: some have come and gone. */
static int prepare_semaphores(void)
{
  unsigned short values[5] = {0, 1, 32767, 20000, 7};
  int gone = semget(IPC_PRIVATE, 1, 0600);
  int other = semget(IPC_PRIVATE, 1, 0600);
  int set;

  semctl(gone, 0, IPC_RMID);
  set = semget(0x5eafeed, 5, IPC_CREAT | 0640);
  semctl(other, 0, IPC_RMID);
  if (set <= 0 || semctl(set, 0, SETALL, (union semaphore_argument){.values = values}) < 0)
    return -1;
  /* Owed: 1, and the most that can be, either way. */
  return undo(set, 1, -1) || undo(set, 2, -32767) || undo(set, 3, 12767) || undo(set, 0, 20001) ||
         undo(set, 3, -30000);
}

static int read_semaphores(void *argument, struct err *e)
{
  int set = semget(0x5eafeed, 0, 0);

  return semctl(set, 0, GETALL, (union semaphore_argument){.values = argument}) < 0
             ? err_sys(e, "values")
             : 0;
}

static bool has_values(pid_t pid, const unsigned short expected[5])
{
  struct err e = {""};
  unsigned short values[5] = {0};
  bool same = inside(pid, "ipc", read_semaphores, values, &e) == 0 &&
              memcmp(values, expected, sizeof(values)) == 0;

  if (!same)
    printf("# %u %u %u %u %u %s\n", values[0], values[1], values[2], values[3], values[4], e.text);
  return same;
}

/* Another process in the namespace: with it the semaphores stay when the first one ends. */
static pid_t start_beside(pid_t pid)
{
  char path[64];
  AUTO_CLOSE int fd = -1;
  pid_t child;

  snprintf(path, sizeof(path), "/proc/%d/ns/ipc", pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  child = fd < 0 ? -1 : fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setns(fd, CLONE_NEWIPC);
    for (;;)
      pause();
  }
  return child;
}

static bool shares_ipc(pid_t a, pid_t b)
{
  struct err e = {""};

  for (int i = 0; i < 5000 && proc_namespace_differs(a, b, "ipc", &e) != 0; i++)
    usleep(1000);
  return proc_namespace_differs(a, b, "ipc", &e) == 0;
}

static void test_semaphores(void)
{
  CLEANUP(leave) struct passage passage;
  static const unsigned short owed[] = {20001, 0, 0, 2767, 7};
  static const unsigned short paid[] = {0, 1, 32767, 20000, 7};
  const json_t *set;
  pid_t beside;

  if (!pass(&passage, prepare_semaphores, "semaphores"))
    return;
  ok(same_details(&passage.first, &passage.second, "ipc"),
     "ids, keys, modes, values, last processes and adjustments are the same");
  set = json_array_get(json_object_get(detail_of(&passage.second, "ipc"), "sets"), 0);
  ok(json_array_size(json_object_get(set, "adjustments")) == 4, "four adjustments were found");
  ok(has_values(passage.from, owed), "asking has changed nothing");
  ok(has_values(passage.to, owed), "neither has restoring");
  beside = start_beside(passage.to);
  ok(shares_ipc(beside, passage.to), "somebody else enters");
  end(passage.to);
  passage.to = beside;
  ok(has_values(beside, paid), "what is owed is paid when the process ends");
}

struct packet {
  long type;
  char text[9000];
};

static int send_packet(int queue, long type, const char *text, size_t size)
{
  struct packet packet = {.type = type};

  memcpy(packet.text, text, size);
  return msgsnd(queue, &packet, size, IPC_NOWAIT);
}

/* A queue with messages of several kinds, one that is empty, and one with a limit below its fill.
 */
static int prepare_messages(void)
{
  static char large[8500];
  struct msqid_ds stat;
  int gone, queue, lowered;

  memset(large, 'l', sizeof(large));
  if (write_setting("kernel/msgmax", "9000") < 0)
    return -1;
  gone = msgget(IPC_PRIVATE, 0600);
  queue = msgget(0x1234, IPC_CREAT | 0622);
  lowered = msgget(IPC_PRIVATE, 0600);
  if (send_packet(queue, 5, "five", 4) < 0 || send_packet(queue, 1, "", 0) < 0 ||
      send_packet(queue, 5, "\0\1\377", 3) < 0 || send_packet(queue, 9, large, 8500) < 0 ||
      send_packet(lowered, 1, large, 8000) < 0 || msgctl(lowered, IPC_STAT, &stat) < 0)
    return -1;
  stat.msg_qbytes = 100;
  if (msgctl(lowered, IPC_SET, &stat) < 0 || msgctl(queue, IPC_STAT, &stat) < 0)
    return -1;
  stat.msg_perm.uid = 1000;
  stat.msg_perm.gid = 1001;
  return msgctl(queue, IPC_SET, &stat) < 0 || msgctl(gone, IPC_RMID, NULL) < 0 ||
         msgget(IPC_PRIVATE, 0600) < 0;
}

static void test_messages(void)
{
  CLEANUP(leave) struct passage passage;
  const json_t *queues;

  if (!pass(&passage, prepare_messages, "messages"))
    return;
  ok(same_details(&passage.first, &passage.second, "ipc"), "queues are the same");
  queues = json_object_get(detail_of(&passage.second, "ipc"), "queues");
  ok(json_array_size(queues) == 3 &&
         json_array_size(json_object_get(json_array_get(queues, 0), "messages")) == 4,
     "three queues, the first with four messages");
}

/* Nobody has them attached but the third, which is to end with that. */
static int prepare_segments(void)
{
  int gone = shmget(IPC_PRIVATE, 1, 0600);
  int filled = shmget(0xabcdef, 100001, IPC_CREAT | 0604);
  int empty = shmget(IPC_PRIVATE, 1 << 20, 0600);
  char *map = shmat(filled, NULL, 0);
  struct shmid_ds stat;

  if (gone < 0 || filled < 0 || empty < 0 || map == (void *)-1 ||
      shmctl(empty, IPC_STAT, &stat) < 0)
    return -1;
  map[0] = 'a';
  map[100000] = 'z';
  stat.shm_perm.uid = 1000;
  return shmdt(map) < 0 || shmctl(empty, IPC_SET, &stat) < 0 || shmctl(empty, SHM_LOCK, NULL) < 0 ||
         shmctl(gone, IPC_RMID, NULL) < 0 || shmget(IPC_PRIVATE, 4096, 0600) < 0;
}

static void test_segments(void)
{
  CLEANUP(leave) struct passage passage;

  if (!pass(&passage, prepare_segments, "segments"))
    return;
  ok(passage.first.tree->file_count == 3 && same_segments(&passage.first, &passage.second),
     "ids, keys, modes, owners, sizes and bytes of three segments are the same");
  for (size_t i = 0; i < passage.second.tree->file_count; i++) {
    const struct file *file = &passage.second.tree->files[i];

    if (file->size == 100001)
      ok(passage.second.pages[file->id][0] == 'a' && passage.second.pages[file->id][100000] == 'z',
         "the bytes are those that were written");
  }
}

static int prepare_posix(void)
{
  struct mq_attr attributes = {.mq_maxmsg = 3, .mq_msgsize = 100};
  int fd;

  umask(0);
  if (write_setting("fs/mqueue/msg_max", "20"))
    return -1;
  fd = mq_open("/small", O_RDWR | O_CREAT, 0642, &attributes);
  if (fd < 0 || fchown(fd, 1000, 1001) < 0)
    return -1;
  attributes.mq_maxmsg = 20;
  return mq_open("/larger than usual", O_RDWR | O_CREAT, 0600, &attributes) < 0;
}

static void test_posix(void)
{
  CLEANUP(leave) struct passage passage;

  if (!pass(&passage, prepare_posix, "named queues"))
    return;
  ok(same_details(&passage.first, &passage.second, "ipc") &&
         json_array_size(json_object_get(detail_of(&passage.second, "ipc"), "named_queues")) == 2,
     "two named queues with owners, modes and limits are the same");
}

static int prepare_full(void)
{
  int fd = mq_open("/full", O_RDWR | O_CREAT, 0600, NULL);

  return fd < 0 || mq_send(fd, "x", 1, 1) < 0;
}

static int prepare_forced(void)
{
  return write_setting("kernel/shm_rmid_forced", "1") || shmget(IPC_PRIVATE, 1, 0600) < 0;
}

/* Found while it runs, and again by a dump that comes too late for that. */
static void refuse_state(preparation *prepare, const char *object, const char *expected)
{
  CLEANUP(json_decrefp) json_t *obstacles = json_array();
  CLEANUP(tree_free) struct tree tree = {0};
  struct dumping dumping = {.tree = &tree};
  pid_t pid = start(prepare);
  struct err e = {""};
  const json_t *obstacle;

  ok(namespaces_check(pid, owns_all, NULL, obstacles, &e) == 0 && json_array_size(obstacles) == 1,
     "one obstacle %s", e.text);
  obstacle = json_array_get(obstacles, 0);
  ok(obstacle && strstr(json_string_value(json_object_get(obstacle, "object")), object) &&
         strstr(json_string_value(json_object_get(obstacle, "reason")), expected),
     "%s: %s", object, json_string_value(json_object_get(obstacle, "reason")));
  e = (struct err){""};
  ok(!take(pid, &dumping, &e) && strstr(e.text, expected), "the dump: %s", e.text);
  end(pid);
}

static void test_refusals(void)
{
  refuse_state(prepare_forced, "ipc namespace", "kernel.shm_rmid_forced");
  refuse_state(prepare_full, "message queue /full", "1 messages wait in it");
}

/* What an image may say is checked before it is done, and nothing is done to our own namespaces. */
static void refuse(pid_t pid, const char *type, const char *detail, const char *expected)
{
  CLEANUP(tree_free) struct tree tree = {0};
  struct namespace_state *state =
      list_append(&tree.namespaces, &tree.namespace_count, sizeof(*state));
  struct err e = {""};

  state->type = strdup(type);
  state->detail = json_loads(detail, 0, NULL);
  ok(state->detail && namespaces_restore(pid, &tree, &e) < 0 && strstr(e.text, expected),
     "%s refused: %s", type, e.text);
}

static void test_bad_details(void)
{
  static const char own[] = "{\"hostname\":\"must-not-be\",\"domainname\":\"\"}";
  static const char lo[] = "\"loopback\":{\"flags\":\"0x0\",\"mtu\":65536,\"queue_length\":1,"
                           "\"group\":0,\"alias\":null,\"addresses\":";
  AUTO_FREE char *sysctl = NULL;
  AUTO_FREE char *above = NULL;
  AUTO_FREE char *address = NULL;
  char hostname[65] = "";
  pid_t pid = start(prepare_nothing);

  if (asprintf(&sysctl, "{%s[]},\"settings\":{\"kernel/core_pattern\":\"x\"}}", lo) < 0 ||
      asprintf(&above, "{%s[]},\"settings\":{\"net/../kernel/core_pattern\":\"x\"}}", lo) < 0 ||
      asprintf(&address,
               "{%s[{\"family\":2,\"prefix\":8,\"scope\":0,\"local\":\"10.0.0.256\","
               "\"peer\":null,\"broadcast\":null,\"label\":null,\"flags\":\"0x0\","
               "\"preferred\":1,\"valid\":1}]},\"settings\":{}}",
               lo) < 0)
    return;
  refuse(getpid(), "uts", own, "none of its own");
  gethostname(hostname, sizeof(hostname));
  ok(strcmp(hostname, "must-not-be") != 0, "our own name is what it was");
  refuse(pid, "mars", "{}", "not known");
  refuse(pid, "uts", "{\"hostname\":null,\"domainname\":\"\"}", "without a name");
  refuse(pid, "net", sysctl, "none of this namespace");
  refuse(pid, "net", above, "none of this namespace");
  refuse(pid, "net", address, "\"10.0.0.256\" is none");
  refuse(pid, "ipc", "{\"sets\":[],\"queues\":7,\"named_queues\":[],\"settings\":{}}",
         "is not a list");
  end(pid);
}

static int die_there(void *argument, struct err *e)
{
  (void)argument;
  (void)e;
  abort();
}

static int fail_there(void *argument, struct err *e)
{
  return err_set(e, "%s", (const char *)argument);
}

static int look_around(void *argument, struct err *e)
{
  return gethostname(argument, 64) < 0 ? err_sys(e, "name") : 0;
}

static bool at_home(const char *name)
{
  char now[65] = "";

  return gethostname(now, sizeof(now)) == 0 && strcmp(now, name) == 0;
}

static void test_inside(void)
{
  pid_t pid = start(prepare_names);
  char home[65] = "", there[65] = "";
  struct identity before;
  struct err e = {""};

  gethostname(home, sizeof(home));
  ok(inside(pid, "uts", look_around, there, &e) == 0 && strcmp(there, "original\xff") == 0 &&
         at_home(home),
     "there, and home again %s", e.text);
  ok(inside(pid, "uts", fail_there, (char *)"on purpose", &e) < 0 && strstr(e.text, "on purpose") &&
         at_home(home),
     "home again after an error: %s", e.text);
  ok(inside(INT32_MAX, "uts", look_around, there, &e) < 0 && strstr(e.text, "No such"),
     "no process: %s", e.text);
  ok(inside_all(pid, fail_there, (char *)"in all", &e) < 0 && strstr(e.text, "in all"),
     "an error in all namespaces comes back: %s", e.text);
  ok(inside_all(pid, die_there, NULL, &e) < 0 && strstr(e.text, "died"), "so does a death: %s",
     e.text);
  end(pid);
  ok(identity_take(&before, 1000, 1001, &e) == 0 && geteuid() == 1000 && getegid() == 1001 &&
         identity_return(&before, &e) == 0 && geteuid() == 0 && getegid() == before.gid,
     "another user, and back %s", e.text);
}

int main(void)
{
  if (geteuid() != 0) {
    printf("1..0 # SKIP needs root\n");
    return 0;
  }
  test_names();
  test_network();
  test_quiet_network();
  test_semaphores();
  test_messages();
  test_segments();
  test_posix();
  test_refusals();
  test_bad_details();
  test_inside();
  return done_testing();
}
