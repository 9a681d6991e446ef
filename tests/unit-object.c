/* Kernel objects: what the kernel and an image say of UNIX sockets. */
#include "base/cleanup.h"
#include "base/err.h"
#include "object/inotify.h"
#include "object/object.h"
#include "object/unix.h"
#include "tap.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* An answer of sock_diag, built by hand. */
struct answer {
  union {
    struct nlmsghdr header;
    char bytes[256];
  };
};

static void add_attribute(struct answer *answer, unsigned short type, const void *data, size_t size)
{
  struct rtattr *attribute = (struct rtattr *)(answer->bytes + answer->header.nlmsg_len);

  attribute->rta_type = type;
  attribute->rta_len = (unsigned short)RTA_LENGTH(size);
  memcpy(RTA_DATA(attribute), data, size);
  answer->header.nlmsg_len += (uint32_t)RTA_SPACE(size);
}

static struct answer new_answer(uint8_t state)
{
  struct answer answer = {.bytes = {0}};
  struct unix_diag_msg *message = NLMSG_DATA(&answer.header);

  answer.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  answer.header.nlmsg_len = NLMSG_LENGTH(sizeof(*message));
  message->udiag_family = AF_UNIX;
  message->udiag_state = state;
  return answer;
}

static struct answer connected_answer(void)
{
  struct answer answer = new_answer(TCP_ESTABLISHED);
  struct unix_diag_rqlen queue = {.udiag_rqueue = 3, .udiag_wqueue = 4};
  struct unix_diag_vfs file = {.udiag_vfs_ino = 77, .udiag_vfs_dev = 254 << 20 | 3};

  add_attribute(&answer, UNIX_DIAG_PEER, &(uint32_t){4711}, sizeof(uint32_t));
  add_attribute(&answer, UNIX_DIAG_ICONS, "whatever", 8);
  add_attribute(&answer, UNIX_DIAG_RQLEN, &queue, sizeof(queue));
  add_attribute(&answer, UNIX_DIAG_VFS, &file, sizeof(file));
  add_attribute(&answer, UNIX_DIAG_SHUTDOWN, &(uint8_t){2}, 1);
  return answer;
}

static void test_answers(void)
{
  struct answer answer = connected_answer();
  struct unix_info info;
  struct err e = {""};
  bool all = true;

  ok(unix_diag_parse(&answer, answer.header.nlmsg_len, &info, &e) == 0 &&
         info.state == TCP_ESTABLISHED && info.connected && info.peer == 4711 &&
         info.waiting == 3 && info.backlog == 4 && info.shutdown == 2 && info.file_inode == 77 &&
         info.file_device == makedev(254, 3),
     "an answer with a peer, its queues and what was shut down");
  answer = new_answer(TCP_CLOSE);
  ok(unix_diag_parse(&answer, answer.header.nlmsg_len, &info, &e) == 0 && !info.connected &&
         info.peer == 0,
     "an answer without a peer");
  answer = connected_answer();
  for (size_t size = 0; size < answer.header.nlmsg_len; size++)
    all = all && unix_diag_parse(&answer, size, &info, &e) < 0;
  ok(all, "an answer that is cut short is refused wherever the cut is");
}

static void test_bad_answers(void)
{
  struct answer answer = new_answer(TCP_ESTABLISHED);
  struct unix_info info;
  struct err e = {""};
  struct nlmsgerr *error;

  add_attribute(&answer, UNIX_DIAG_PEER, "ab", 2);
  ok(unix_diag_parse(&answer, answer.header.nlmsg_len, &info, &e) < 0, "a peer of two bytes");
  answer = new_answer(TCP_ESTABLISHED);
  add_attribute(&answer, UNIX_DIAG_RQLEN, "abcd", 4);
  ok(unix_diag_parse(&answer, answer.header.nlmsg_len, &info, &e) < 0, "half a queue");
  answer = (struct answer){.bytes = {0}};
  answer.header.nlmsg_type = NLMSG_ERROR;
  answer.header.nlmsg_len = NLMSG_LENGTH(sizeof(*error));
  error = NLMSG_DATA(&answer.header);
  error->error = -ENOENT;
  ok(unix_diag_parse(&answer, answer.header.nlmsg_len, &info, &e) < 0 && errno == ENOENT,
     "an error instead of an answer");
}

/* The kernel's own answers. */
static void test_kernel(void)
{
  struct stat stats[2];
  struct unix_info info;
  struct err e = {""};
  int pair[2];

  if (!ok(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && fstat(pair[0], &stats[0]) == 0 &&
              fstat(pair[1], &stats[1]) == 0,
          "a socketpair"))
    return;
  ok(unix_diag(-1, stats[0].st_ino, &info, &e) == 0 && info.connected &&
         info.peer == stats[1].st_ino && info.shutdown == 0,
     "its ends know each other");
  close(pair[1]);
  ok(unix_diag(-1, stats[0].st_ino, &info, &e) == 0 && info.connected && info.peer == 0 &&
         info.shutdown == 3,
     "one is left when the other is closed");
  close(pair[0]);
  ok(unix_diag(-1, stats[0].st_ino, &info, &e) < 0, "none is left");
}

/* -- images -- */

static json_t *socket_file(struct err *e, uint64_t inode, uint64_t peer, int type)
{
  struct unix_detail detail = {
      .inode = inode, .type = type, .state = (char *)"connected", .peer = peer};

  return fields_to_json(unix_fields, &detail, e);
}

static bool is_complete(struct tree *tree, struct err *e)
{
  bool complete = object_check_complete(tree, e) == 0;

  for (size_t i = 0; i < tree->file_count; i++)
    json_decref(tree->files[i].detail);
  return complete;
}

static void test_images(void)
{
  struct err e = {""};
  struct file files[2] = {{.id = 1, .type = (char *)"unix"}, {.id = 2, .type = (char *)"unix"}};
  struct tree tree = {.files = files, .file_count = 2};

  files[0].detail = socket_file(&e, 7, 8, SOCK_STREAM);
  files[1].detail = socket_file(&e, 8, 7, SOCK_STREAM);
  ok(is_complete(&tree, &e), "an image with both ends");
  files[0].detail = socket_file(&e, 7, 8, SOCK_STREAM);
  files[1].detail = socket_file(&e, 9, 7, SOCK_STREAM);
  ok(!is_complete(&tree, &e), "an end whose peer is missing");
  files[0].detail = socket_file(&e, 7, 8, SOCK_STREAM);
  files[1].detail = socket_file(&e, 8, 0, SOCK_STREAM);
  ok(!is_complete(&tree, &e), "an end whose peer does not know it");
  files[0].detail = socket_file(&e, 7, 8, SOCK_STREAM);
  files[1].detail = socket_file(&e, 8, 7, SOCK_SEQPACKET);
  ok(!is_complete(&tree, &e), "ends of two types");
  files[0].detail = socket_file(&e, 7, 7, SOCK_STREAM);
  files[1].detail = socket_file(&e, 8, 0, SOCK_STREAM);
  ok(!is_complete(&tree, &e), "a stream that ends in itself");
  files[0].detail = socket_file(&e, 7, 0, 77);
  files[1].detail = socket_file(&e, 8, 0, SOCK_STREAM);
  ok(!is_complete(&tree, &e), "a type that does not exist");
  files[0].detail = socket_file(&e, 7, 0, SOCK_DGRAM);
  json_object_set_new(files[0].detail, "state", json_string("dozing"));
  files[1].detail = socket_file(&e, 8, 0, SOCK_STREAM);
  ok(!is_complete(&tree, &e), "a state that does not exist");
}

/* -- inotify -- */

static void test_watches(void)
{
  static const char text[] =
      "pos:\t0\nflags:\t00\nmnt_id:\t17\nino:\t1038\n"
      "inotify wd:1f ino:64005 sdev:fe00003 mask:80000fff ignored_mask:0 fhandle-bytes:8 "
      "fhandle-type:1 f_handle:05400600340fa697\n"
      "inotify wd:2 ino:1 sdev:15 mask:2 ignored_mask:0 \n";
  struct inotify_watch watch;
  struct err e = {""};
  const char *at = text;

  ok(inotify_next_watch(&at, &watch, &e) == 1 && watch.wd == 0x1f && watch.inode == 0x64005 &&
         watch.device == makedev(254, 3) && watch.mask == 0x80000fff &&
         watch.handle.handle_bytes == 8 && watch.handle.handle_type == 1 &&
         memcmp(watch.handle.f_handle, "\x05\x40\x06\x00\x34\x0f\xa6\x97", 8) == 0,
     "a watch and its handle");
  ok(inotify_next_watch(&at, &watch, &e) == 1 && watch.wd == 2 && watch.device == makedev(0, 21) &&
         watch.handle.handle_bytes == 0,
     "a watch without a handle");
  ok(inotify_next_watch(&at, &watch, &e) == 0, "no further watch");
}

static void test_bad_watches(void)
{
  static const char *const texts[] = {
      "inotify wd:",
      "inotify wd:0 ino:1 sdev:15 mask:2 ignored_mask:0 ",
      "inotify wd:ffffffff ino:1 sdev:15 mask:2 ignored_mask:0 ",
      "inotify wd:1 ino:1 sdev:15",
      "inotify wd:1 ino:1 sdev:15 mask:2 ignored_mask:0 fhandle-bytes:81 fhandle-type:1 "
      "f_handle:00",
      "inotify wd:1 ino:1 sdev:15 mask:2 ignored_mask:0 fhandle-bytes:ffffffff fhandle-type:1 "
      "f_handle:00",
      "inotify wd:1 ino:1 sdev:15 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 "
      "f_handle:0001",
      "inotify wd:1 ino:1 sdev:15 mask:2 ignored_mask:0 fhandle-bytes:2 fhandle-type:1 "
      "f_handle:zz",
  };

  for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
    struct inotify_watch watch;
    struct err e = {""};
    const char *at = texts[i];

    ok(inotify_next_watch(&at, &watch, &e) < 0, "a watch that is not one: %s", texts[i]);
  }
}

int main(void)
{
  test_watches();
  test_bad_watches();
  test_answers();
  test_bad_answers();
  test_kernel();
  test_images();
  return done_testing();
}
