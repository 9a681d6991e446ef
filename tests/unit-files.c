/* What a container has changed in its file systems: bundles, mount tables, mounts, inodes. */
#include "base/cleanup.h"
#include "base/io.h"
#include "container/bundle.h"
#include "object/inode.h"
#include "object/mount.h"
#include "object/xattr.h"
#include "proc/proc.h"
#include "tap.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static char place[] = "/tmp/ckpt-unit-files-XXXXXX";

static void mount_tmpfs(const char *source, const char *point)
{
  if (mount(source, point, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=1m") < 0)
    ok(false, "a tmpfs cannot be mounted at %s", point);
}

/* Bundles */

static int read_config(const char *text, struct bundle *bundle, struct err *e)
{
  AUTO_FREE char *path = io_format(e, "%s/config.json", place);
  AUTO_FCLOSE FILE *file = fopen(path, "w");

  fputs(text, file);
  fflush(file);
  return bundle_read(place, bundle, e);
}

static const struct bundle_place *place_at(const struct bundle *bundle, const char *destination)
{
  for (size_t i = 0; i < bundle->count; i++) {
    if (strcmp(bundle->places[i].destination, destination) == 0)
      return &bundle->places[i];
  }
  return NULL;
}

static bool is(const char *text, const char *wanted)
{
  return text && strcmp(text, wanted) == 0;
}

static void test_bundle(void)
{
  static const char config[] =
      "{\"mounts\": ["
      "{\"destination\": \"/tmp\", \"type\": \"tmpfs\", \"options\": [\"ro\", \"nosuid\"]},"
      "{\"destination\": \"/sys/fs/cgroup\", \"type\": \"cgroup\"},"
      "{\"destination\": \"/rel\", \"type\": \"none\", \"source\": \"shm\", \"options\": "
      "[\"bind\"]},"
      "{\"destination\": \"/abs\", \"type\": \"bind\", \"source\": \"/srv\", \"options\": "
      "[\"rbind\"]},"
      "{\"destination\": \"/bare\"}],"
      "\"hooks\": {\"prestart\": []},"
      "\"linux\": {\"devices\": [{\"path\": \"/dev/fuse\"}, {}],"
      "\"maskedPaths\": [\"/proc/kcore\"], \"readonlyPaths\": [\"/proc/bus\"]}}";
  CLEANUP(bundle_free) struct bundle bundle = {0};
  struct err e = {""};
  const struct bundle_place *tmp, *cgroup, *relative, *absolute, *bare, *device, *masked, *bus;
  AUTO_FREE char *source = io_format(&e, "%s/shm", place);

  ok(read_config(config, &bundle, &e) == 0, "a bundle is read %s", e.text);
  tmp = place_at(&bundle, "/tmp");
  ok(tmp && is(tmp->type, "tmpfs") && tmp->asked && tmp->read_only && !tmp->recursive, "a tmpfs");
  cgroup = place_at(&bundle, "/sys/fs/cgroup");
  ok(cgroup && cgroup->recursive && !cgroup->read_only, "control groups");
  relative = place_at(&bundle, "/rel");
  ok(relative && is(relative->type, "bind") && is(relative->source, source) && !relative->recursive,
     "a bind of a place in the bundle");
  absolute = place_at(&bundle, "/abs");
  ok(absolute && is(absolute->source, "/srv") && absolute->recursive, "a recursive bind");
  bare = place_at(&bundle, "/bare");
  ok(bare && bare->type == NULL && bare->asked, "a mount without a type");
  device = place_at(&bundle, "/dev/fuse");
  ok(device && !device->asked && device->type == NULL, "a device");
  masked = place_at(&bundle, "/proc/kcore");
  bus = place_at(&bundle, "/proc/bus");
  ok(masked && masked->asked && bus && bus->asked, "paths that are covered");
  ok(place_at(&bundle, "/dev/console") && bundle.has_hooks, "a terminal; hooks");
}

static void test_bad_bundles(void)
{
  static const char *const configs[] = {"",
                                        "{",
                                        "[]",
                                        "null",
                                        "{\"mounts\": [{}]}",
                                        "{\"mounts\": [{\"destination\": 7}]}",
                                        "{\"linux\": {\"maskedPaths\": [1]}}"};

  for (size_t i = 0; i < ARRAY_LEN(configs); i++) {
    CLEANUP(bundle_free) struct bundle bundle = {0};
    struct err e = {""};

    ok(read_config(configs[i], &bundle, &e) < 0 && strstr(e.text, "/config.json: "),
       "a damaged bundle is refused: %s", e.text);
  }
}

/* Mounts */

static const struct proc_mount *mount_at(const struct proc_mounts *table, const char *point)
{
  for (size_t i = 0; i < table->count; i++) {
    if (strcmp(table->items[i].point, point) == 0)
      return &table->items[i];
  }
  return NULL;
}

static void test_table(void)
{
  CLEANUP(proc_mounts_free) struct proc_mounts table = {0};
  AUTO_FREE char *point = NULL;
  AUTO_CLOSE int root = open("/", O_PATH | O_DIRECTORY);
  const struct proc_mount *mount;
  struct err e = {""};
  char *rest;

  point = io_format(&e, "%s/a b\\c\nd", place);
  mkdir(point, 0755);
  ok(mount_id_at(root, point) == 0 && mount_id_at(root, "/no such path") < 0,
     "nothing is mounted where there is a directory, or nothing");
  mount_tmpfs("a source", point);
  ok(proc_mounts_read(getpid(), &table, &e) == 0, "the mount table is read %s", e.text);
  mount = mount_at(&table, point);
  ok(mount && is(mount->type, "tmpfs") && is(mount->source, "a source") && is(mount->root, "/"),
     "a mount point with blanks");
  ok(mount && strncmp(mount->flags, "rw,nosuid,noexec", 16) == 0, "flags of the mount");
  ok(mount && mount_id_at(root, point) == mount->id, "its id is that of the table");
  rest = mount ? strdup(mount->options) : NULL;
  {
    AUTO_FREE char *copy = rest;
    bool sized = false;

    for (const char *option = proc_mount_option(&rest); option; option = proc_mount_option(&rest))
      sized = sized || strcmp(option, "size=1024k") == 0;
    ok(copy && sized, "options of the file system");
  }
  umount2(point, MNT_DETACH);
}

static void test_option_decoding(void)
{
  char text[] = "rw,upperdir=/a\\054b\\040c,lowerdir=/x:/y,";
  char *rest = text;

  ok(is(proc_mount_option(&rest), "rw") && is(proc_mount_option(&rest), "upperdir=/a,b c") &&
         is(proc_mount_option(&rest), "lowerdir=/x:/y") && is(proc_mount_option(&rest), "") &&
         proc_mount_option(&rest) == NULL,
     "a comma in an option is not one between options");
}

static bool can_be_made(const char *type, const char *flags, const char *options)
{
  const struct mount_state state = {.point = (char *)"/x",
                                    .type = (char *)type,
                                    .flags = (char *)flags,
                                    .options = (char *)options};
  struct err e = {""};

  return mount_check(&state, &e) == 0;
}

static void test_mount_check(void)
{
  ok(can_be_made("tmpfs", "rw,relatime", "rw,size=3072k,mode=750,uid=7,inode64"), "a tmpfs");
  ok(can_be_made("proc", "ro,nosuid,nodev,noexec", "rw,hidepid=invisible"), "a proc");
  ok(!can_be_made("ext4", "rw", "rw"), "a file system on a disk cannot be made");
  ok(!can_be_made("tmpfs", "rw,idmapped", "rw"), "nor can what has another flag");
  ok(!can_be_made("tmpfs", "rw", "rw,mpol=bind:0"), "or an option");
  ok(!can_be_made("tmpfs", "rw", "rw,size"), "or one without its value");
  ok(!can_be_made("tmpfs", "rw", "rw,inode64=1"), "or with one");
  ok(!can_be_made("tmpfs", "rw", "rw,siz=1"), "or the beginning of its name");
  ok(!can_be_made(NULL, "rw", "rw") && !can_be_made("tmpfs", NULL, NULL), "or what says nothing");
}

/* Inodes */

static const struct proc_idmap map = {
    .ranges = {{0, 1000, 10}, {100, 5000, 1}, {4000000000u, 6000, 294967295u}}, .count = 3};

static void test_idmap(void)
{
  ok(proc_id_outside(&map, 0) == 1000 && proc_id_outside(&map, 9) == 1009 &&
         proc_id_outside(&map, 100) == 5000 && proc_id_outside(&map, 4000000001u) == 6001,
     "ids inside are known outside");
  ok(proc_id_outside(&map, 10) == UINT32_MAX && proc_id_outside(&map, 99) == UINT32_MAX &&
         proc_id_outside(&map, UINT32_MAX) == UINT32_MAX,
     "others are nobody's");
  ok(proc_id_inside(&map, 1009) == 9 && proc_id_inside(&map, 5000) == 100, "and back");
}

static void test_open(void)
{
  AUTO_FREE char *below = NULL;
  AUTO_CLOSE int root = open("/", O_PATH | O_DIRECTORY);
  AUTO_CLOSE int mount = inode_open_mount(root, place);
  AUTO_CLOSE int itself = inode_open(mount, "", O_PATH);
  AUTO_CLOSE int link = -1;
  struct stat stat;
  struct err e;

  ok(mount >= 0 && itself >= 0, "the root directory of a mount");
  mkdirat(mount, "below", 0755);
  mkdirat(mount, "below/dir", 0755);
  symlinkat("/etc", mount, "link");
  below = io_format(&e, "%s/below", place);
  link = inode_open(mount, "link", O_PATH);
  ok(link >= 0 && fstat(link, &stat) == 0 && S_ISLNK(stat.st_mode), "a symbolic link itself");
  ok(inode_open(mount, "link/passwd", O_PATH) < 0, "but not what is behind it");
  ok(inode_open(mount, "..", O_PATH) < 0 && inode_open(mount, "below/../../etc", O_PATH) < 0 &&
         inode_open(mount, "/etc", O_PATH) < 0,
     "nothing above it");
  mount_tmpfs("other", below);
  errno = 0;
  ok(inode_open(mount, "below", O_PATH) < 0 && errno == EXDEV, "nothing that is mounted in it");
  errno = 0;
  ok(inode_open(mount, "below/dir", O_PATH) < 0 && errno == EXDEV, "nor anything in that");
  umount2(below, MNT_DETACH);
}

static void test_read(void)
{
  AUTO_CLOSE int mount = open(place, O_PATH | O_DIRECTORY);
  AUTO_CLOSE int file = openat(mount, "file", O_RDWR | O_CREAT, 0644);
  AUTO_CLOSE int fd = inode_open(mount, "file", O_PATH);
  CLEANUP(inode_free) struct inode inode = {0};
  const struct timespec times[2] = {{1, 2}, {981173045, 123456789}};
  uint64_t size = 0;
  struct err e = {""};
  json_t *json;

  ok(ftruncate(file, 12345) == 0 && fchown(file, 1003, 5000) == 0 && fchmod(file, 06711) == 0 &&
         futimens(file, times) == 0 && fsetxattr(file, "trusted.a", "\0b", 2, 0) == 0,
     "a file");
  ok(inode_read(fd, &map, &map, &inode, &size, &e) == 0, "is read %s", e.text);
  ok(inode.mode == (S_IFREG | 06711) && inode.uid == 3 && inode.gid == 100 && size == 12345 &&
         inode.mtime_seconds == 981173045 && inode.mtime_nanoseconds == 123456789,
     "mode, owner as seen inside, size, time");
  ok(inode.xattr_count == 1 && is(inode.xattrs[0].name, "trusted.a") &&
         inode.xattrs[0].value.size == 2 && memcmp(inode.xattrs[0].value.data, "\0b", 2) == 0,
     "extended attributes");
  json = inode_to_json(&inode, &e);
  ok(json && json_integer_value(json_object_get(json, "uid")) == 3, "JSON %s", e.text);
  json_decref(json);
}

/* An access list with a user and a group, whose ids the kernel has at the outside. */
static void test_access_list(void)
{
  static const uint8_t outside[] = {
      2,  0, 0, 0, 1,    0,    7,    0,    0xff, 0xff, 0xff, 0xff, 2,    0,    5,    0,    0xea, 3,
      0,  0, 4, 0, 5,    0,    0xff, 0xff, 0xff, 0xff, 8,    0,    4,    0,    0x88, 0x13, 0,    0,
      16, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, 32,   0,    0,    0,    0xff, 0xff, 0xff, 0xff};
  AUTO_CLOSE int mount = open(place, O_PATH | O_DIRECTORY);
  AUTO_CLOSE int file = openat(mount, "listed", O_RDWR | O_CREAT, 0644);
  AUTO_CLOSE int fd = inode_open(mount, "listed", O_PATH);
  struct xattr *list = NULL;
  size_t count = 0;
  struct err e = {""};
  uint8_t found[sizeof(outside)];

  ok(fsetxattr(file, "system.posix_acl_access", outside, sizeof(outside), 0) == 0,
     "an access list");
  ok(xattr_read(fd, &map, &map, &list, &count, &e) == 0 && count == 1 &&
         list[0].value.size == sizeof(outside) && list[0].value.data[16] == 2 &&
         list[0].value.data[17] == 0 && list[0].value.data[32] == 100,
     "has the ids of the inside %s", e.text);
  fsetxattr(file, "user.surplus", "x", 1, 0);
  ok(count == 1 && xattr_write(fd, &map, &map, list, count, &e) == 0 &&
         fgetxattr(file, "system.posix_acl_access", found, sizeof(found)) == sizeof(found) &&
         memcmp(found, outside, sizeof(found)) == 0,
     "and again those of the outside %s", e.text);
  ok(fgetxattr(file, "user.surplus", found, 1) < 0, "what is not listed is gone");
  if (count)
    strcpy(list[0].name, "system.foreign");
  ok(xattr_write(fd, &map, &map, list, count, &e) < 0, "what is none of ours is refused: %s",
     e.text);
  for (size_t i = 0; i < count; i++)
    fields_free(xattr_fields, &list[i]);
  free(list);
}

int main(void)
{
  if (!mkdtemp(place) || unshare(CLONE_NEWNS) < 0 ||
      mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
    rmdir(place);
    printf("1..0 # skip mounts need root\n");
    return 0;
  }
  mount_tmpfs("unit", place);
  test_bundle();
  test_bad_bundles();
  test_table();
  test_option_decoding();
  test_mount_check();
  test_idmap();
  test_open();
  test_read();
  test_access_list();
  umount2(place, MNT_DETACH);
  rmdir(place);
  return done_testing();
}
