/* The model to JSON and back, and what a reader must refuse. */
#include "base/cleanup.h"
#include "base/err.h"
#include "state/fields.h"
#include "state/model.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Numbers: every width, both signs. */

struct numbers {
  int8_t i8;
  int16_t i16;
  int32_t i32;
  int64_t i64;
  uint8_t u8;
  uint16_t u16;
  uint32_t u32;
  uint64_t u64;
  uint32_t h32;
  uint64_t h64;
};

static const struct field number_fields[] = {
    F_SIGNED(struct numbers, i8),
    F_SIGNED(struct numbers, i16),
    F_SIGNED(struct numbers, i32),
    F_SIGNED(struct numbers, i64),
    F_UNSIGNED(struct numbers, u8),
    F_UNSIGNED(struct numbers, u16),
    F_UNSIGNED(struct numbers, u32),
    F_UNSIGNED(struct numbers, u64),
    F_HEX(struct numbers, h32),
    F_HEX(struct numbers, h64),
    F_END,
};

static const struct numbers smallest = {INT8_MIN, INT16_MIN, INT32_MIN, INT64_MIN, .h64 = 0};
static const struct numbers largest = {
    INT8_MAX,   INT16_MAX,  INT32_MAX,  INT64_MAX,  UINT8_MAX,
    UINT16_MAX, UINT32_MAX, UINT64_MAX, UINT32_MAX, UINT64_MAX,
};

static bool numbers_return(const struct numbers *numbers)
{
  struct numbers back = {0};
  struct err e = {""};
  json_t *json = fields_to_json(number_fields, numbers, &e);
  bool same = json && fields_from_json(number_fields, &back, json, &e) == 0;

  same = same && memcmp(&back, numbers, sizeof(back)) == 0;
  json_decref(json);
  return same;
}

static void test_limits(void)
{
  static const char text[] = "{\"i8\":-128,\"i16\":-32768,\"i32\":-2147483648,"
                             "\"i64\":\"-9223372036854775808\",\"u8\":255,\"u16\":65535,"
                             "\"u32\":4294967295,\"u64\":\"18446744073709551615\","
                             "\"h32\":\"0xffffffff\",\"h64\":\"0xffffffffffffffff\"}";
  struct numbers mixed = largest;
  struct err e = {""};
  json_t *json;
  AUTO_FREE char *dumped = NULL;

  ok(numbers_return(&smallest), "the smallest number of every width comes back");
  ok(numbers_return(&largest), "the largest number of every width comes back");
  mixed.i8 = smallest.i8;
  mixed.i16 = smallest.i16;
  mixed.i32 = smallest.i32;
  mixed.i64 = smallest.i64;
  json = fields_to_json(number_fields, &mixed, &e);
  dumped = json_dumps(json, JSON_COMPACT);
  ok(dumped && strcmp(dumped, text) == 0, "numbers above 2^53 are strings, bit sets hexadecimal");
  json_decref(json);
}

/* Sets one member of a good object to a JSON text; does the reader take it? */
static bool takes(const char *name, const char *text, struct numbers *back, struct err *e)
{
  struct numbers zero = {0};
  json_t *json = fields_to_json(number_fields, &zero, e);
  bool taken;

  json_object_set_new(json, name, json_loads(text, JSON_DECODE_ANY, NULL));
  *back = zero;
  *e = (struct err){""};
  taken = fields_from_json(number_fields, back, json, e) == 0;
  json_decref(json);
  return taken;
}

static void test_out_of_range(void)
{
  static const char *const bad[][2] = {
      {"i8", "128"},
      {"i8", "-129"},
      {"i16", "32768"},
      {"i32", "2147483648"},
      {"i32", "\"4294967295\""},
      {"i32", "\"0x80000000\""},
      {"i64", "\"9223372036854775808\""},
      {"i64", "\"-9223372036854775809\""},
      {"u8", "256"},
      {"u8", "-1"},
      {"u16", "65536"},
      {"u32", "4294967296"},
      {"u32", "-1"},
      {"u64", "\"18446744073709551616\""},
      {"u64", "-1"},
      {"u64", "\"-1\""},
      {"h32", "\"0x100000000\""},
      {"h64", "\"0x10000000000000000\""},
      {"h64", "\"0x\""},
      {"h64", "\"0xg\""},
      {"h64", "\"\""},
      {"h64", "\" 1\""},
      {"h64", "\"+1\""},
      {"i64", "\"-\""},
      {"i64", "\"--1\""},
      {"i64", "\"- 1\""},
      {"u64", "\"1 \""},
      {"u64", "1.0"},
      {"u64", "null"},
      {"u64", "true"},
      {"u64", "[1]"},
  };

  for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
    struct numbers back;
    struct err e = {""};
    bool taken = takes(bad[i][0], bad[i][1], &back, &e);

    ok(!taken && strncmp(e.text, bad[i][0], strlen(bad[i][0])) == 0 &&
           strstr(e.text, ": is not a number in range"),
       "%s does not take %s: %s", bad[i][0], bad[i][1], e.text);
  }
}

static void test_number_forms(void)
{
  struct numbers back;
  struct err e = {""};

  ok(takes("u64", "\"0xfFfFfFfFfFfFfFfF\"", &back, &e) && back.u64 == UINT64_MAX,
     "a number may be written in hexadecimal");
  ok(takes("h64", "17", &back, &e) && back.h64 == 17, "a bit set may be written as a number");
  ok(takes("i32", "\"-2147483648\"", &back, &e) && back.i32 == INT32_MIN,
     "a small number may be written as a string");
  ok(takes("i64", "\"-0\"", &back, &e) && back.i64 == 0, "minus nothing is nothing");
}

/* Bytes. */

static bool encodes(const char *plain, const char *encoded)
{
  struct err e = {""};
  struct blob blob = {0};
  AUTO_FREE char *text = base64_encode(plain, strlen(plain), &e);
  bool same = text && strcmp(text, encoded) == 0 && base64_decode(encoded, &blob, &e) == 0 &&
              blob.size == strlen(plain) && memcmp(blob.data, plain, blob.size) == 0;

  free(blob.data);
  return same;
}

static void test_base64(void)
{
  /* RFC 4648 section 10 */
  static const char *const vectors[][2] = {
      {"", ""},
      {"f", "Zg=="},
      {"fo", "Zm8="},
      {"foo", "Zm9v"},
      {"foob", "Zm9vYg=="},
      {"fooba", "Zm9vYmE="},
      {"foobar", "Zm9vYmFy"},
  };
  static const char *const bad[] = {
      "A", "AB", "ABC", "A===", "====", "AB=C", "AB\nC", "AB-_", "Zg==Zg==", "=AAA"};
  struct err e = {""};

  for (size_t i = 0; i < ARRAY_LEN(vectors); i++)
    ok(encodes(vectors[i][0], vectors[i][1]), "base64 of \"%s\"", vectors[i][0]);
  for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
    struct blob blob = {0};

    ok(base64_decode(bad[i], &blob, &e) < 0 && !blob.data, "refused as base64: %s", e.text);
  }
}

static void test_all_bytes(void)
{
  uint8_t bytes[256];
  struct err e = {""};
  bool same = true;

  for (size_t i = 0; i < sizeof(bytes); i++)
    bytes[i] = (uint8_t)(i * 167);
  for (size_t size = 0; size <= sizeof(bytes); size++) {
    AUTO_FREE char *text = base64_encode(bytes, size, &e);
    struct blob blob = {0};

    same = same && text && base64_decode(text, &blob, &e) == 0 && blob.size == size &&
           memcmp(blob.data, bytes, size) == 0;
    free(blob.data);
  }
  ok(same, "bytes of every length and value come back");
}

/*
 * Whole trees. A record's plain members are filled with one byte: 0xff is the largest unsigned
 * number and -1, 0x7f and 0x80 are at the two ends of the signed ones. Pointers, lists and truth
 * values follow by hand.
 */

#define FILL(record, byte) memset((record), (byte), sizeof(*(record)))
#define LIST(list, count) ((list) = NULL, (count) = 0)

/* Strings that JSON has to escape, and one that it cannot have. */
static char *some_string(unsigned which)
{
  static const char *const strings[] = {"", "/tmp/a b\n\"\\\x01\x7f", "\xc3\xa4\xf0\x9f\x90\xa7",
                                        "cut \xc3", "\xff\xfe latin"};

  return strdup(strings[which % ARRAY_LEN(strings)]);
}

static struct blob some_blob(size_t size, int byte)
{
  struct blob blob = {malloc(size + 1), size};

  memset(blob.data, byte, size);
  return blob;
}

static void add_pending(struct pending_signal **list, size_t *count, int byte)
{
  struct pending_signal *pending = list_append(list, count, sizeof(**list));

  pending->siginfo = some_blob(128, byte);
}

#define ADD_PLAIN(list, count, byte)                                                   \
  do {                                                                                 \
    for (int n_ = 0; n_ < 3; n_++)                                                     \
      FILL((__typeof__(list))list_append(&(list), &(count), sizeof(*(list))), (byte)); \
  } while (0)

static void fill_thread(struct thread *thread, int byte)
{
  FILL(thread, byte);
  thread->name = some_string(3);
  thread->xstate = some_blob(2696, byte);
  thread->affinity = some_blob(0, 0);
  LIST(thread->pending, thread->pending_count);
  add_pending(&thread->pending, &thread->pending_count, byte);
  add_pending(&thread->pending, &thread->pending_count, ~byte);
}

static void fill_lists(struct process *process, int byte)
{
  struct credentials *credentials = &process->credentials;

  LIST(credentials->groups, credentials->group_count);
  ADD_PLAIN(credentials->groups, credentials->group_count, byte);
  LIST(process->descriptors, process->descriptor_count);
  ADD_PLAIN(process->descriptors, process->descriptor_count, byte);
  for (size_t i = 0; i < process->descriptor_count; i++)
    memset(&process->descriptors[i].cloexec, i & 1, sizeof(bool));
  LIST(process->locks, process->lock_count);
  ADD_PLAIN(process->locks, process->lock_count, byte);
  LIST(process->sigactions, process->sigaction_count);
  ADD_PLAIN(process->sigactions, process->sigaction_count, byte);
  LIST(process->pending, process->pending_count);
  add_pending(&process->pending, &process->pending_count, byte);
  LIST(process->itimers, process->itimer_count);
  ADD_PLAIN(process->itimers, process->itimer_count, byte);
  LIST(process->timers, process->timer_count);
  ADD_PLAIN(process->timers, process->timer_count, byte);
  LIST(process->rlimits, process->rlimit_count);
  ADD_PLAIN(process->rlimits, process->rlimit_count, byte);
  LIST(process->filters, process->filter_count);
  for (size_t i = 0; i < 2; i++) {
    struct seccomp_filter *filter =
        list_append(&process->filters, &process->filter_count, sizeof(*filter));

    filter->program = some_blob(8 * (i + 1), byte);
    filter->flags = (uint32_t)byte;
  }
}

static void fill_process(struct process *process, int byte)
{
  FILL(process, byte);
  process->state = some_string(1);
  process->child_subreaper = byte & 1;
  process->thp_disabled = !(byte & 1);
  process->credentials.no_new_privs = byte & 1;
  fill_lists(process, byte);
  LIST(process->threads, process->thread_count);
  for (int i = 0; i < 3; i++)
    fill_thread(list_append(&process->threads, &process->thread_count, sizeof(struct thread)),
                byte);
}

static void fill_mm(struct mm *mm, int byte)
{
  FILL(mm, byte);
  mm->auxv = some_blob(336, byte);
  LIST(mm->vmas, mm->vma_count);
  for (unsigned i = 0; i < 5; i++) {
    struct vma *vma = list_append(&mm->vmas, &mm->vma_count, sizeof(*vma));

    FILL(vma, byte);
    vma->huge = i & 1;
    vma->name = i == 0 ? NULL : some_string(i);
    vma->special = i == 1 ? NULL : some_string(i + 1);
  }
}

static void fill_file(struct file *file, int byte)
{
  FILL(file, byte);
  file->type = some_string(2);
  file->detail =
      byte == 0 ? json_null() : json_pack("{s:[i,f,b,n],s:{}}", "list", -1, 0.5, 1, "empty");
}

static void fill_namespace(struct namespace_state *state, int byte)
{
  state->type = some_string(2);
  state->detail = byte == 0 ? json_null() : json_pack("{s:s,s:[i]}", "hostname", "h", "list", byte);
}

static void fill_tree(struct tree *tree, int byte)
{
  FILL(&tree->checkpoint, byte);
  tree->checkpoint.own_pidns = byte & 1;
  tree->checkpoint.own_userns = byte & 1;
  tree->checkpoint.id = some_string(4);
  tree->checkpoint.runtime = byte ? some_string(1) : NULL;
  tree->checkpoint.kernel = some_string(0);
  tree->checkpoint.vdso_digest = some_string(2);
  for (int i = 0; i < 2; i++) {
    fill_process(list_append(&tree->processes, &tree->process_count, sizeof(struct process)), byte);
    fill_mm(list_append(&tree->mms, &tree->mm_count, sizeof(struct mm)), byte);
    fill_file(list_append(&tree->files, &tree->file_count, sizeof(struct file)), byte);
    fill_namespace(
        list_append(&tree->namespaces, &tree->namespace_count, sizeof(struct namespace_state)),
        byte);
  }
}

static bool same_string(const char *a, const char *b)
{
  return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_blob(const struct blob *a, const struct blob *b)
{
  return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

/* Two records byte for byte, but for what the compiler put between their members. */
#define SAME_PLAIN(a, b)               \
  (__extension__({                     \
    __typeof__(a) a_ = (a), b_ = (b);  \
    __builtin_clear_padding(&a_);      \
    __builtin_clear_padding(&b_);      \
    memcmp(&a_, &b_, sizeof(a_)) == 0; \
  }))

#define SAME_LIST(a, b, list, count)                    \
  (__extension__({                                      \
    bool same_ = (a)->count == (b)->count;              \
    for (size_t i_ = 0; same_ && i_ < (a)->count; i_++) \
      same_ = SAME_PLAIN((a)->list[i_], (b)->list[i_]); \
    same_;                                              \
  }))

static bool same_pending(const struct pending_signal *a, size_t a_count,
                         const struct pending_signal *b, size_t b_count)
{
  bool same = a_count == b_count;

  for (size_t i = 0; same && i < a_count; i++)
    same = same_blob(&a[i].siginfo, &b[i].siginfo);
  return same;
}

static bool same_thread(const struct thread *a, const struct thread *b)
{
  struct thread plain_a = *a;
  struct thread plain_b = *b;

  plain_a.name = plain_b.name = NULL;
  plain_a.xstate = plain_b.xstate = (struct blob){NULL, 0};
  plain_a.affinity = plain_b.affinity = (struct blob){NULL, 0};
  plain_a.pending = plain_b.pending = NULL;
  return same_string(a->name, b->name) && same_blob(&a->xstate, &b->xstate) &&
         same_blob(&a->affinity, &b->affinity) &&
         same_pending(a->pending, a->pending_count, b->pending, b->pending_count) &&
         SAME_PLAIN(plain_a, plain_b);
}

static bool same_filters(const struct process *a, const struct process *b)
{
  bool same = a->filter_count == b->filter_count;

  for (size_t i = 0; same && i < a->filter_count; i++)
    same = same_blob(&a->filters[i].program, &b->filters[i].program) &&
           a->filters[i].flags == b->filters[i].flags;
  return same;
}

static void drop_pointers(struct process *process)
{
  process->state = NULL;
  process->credentials.groups = NULL;
  process->descriptors = NULL;
  process->locks = NULL;
  process->sigactions = NULL;
  process->pending = NULL;
  process->itimers = NULL;
  process->timers = NULL;
  process->rlimits = NULL;
  process->filters = NULL;
  process->threads = NULL;
}

static bool same_process(const struct process *a, const struct process *b)
{
  struct process plain_a = *a;
  struct process plain_b = *b;
  bool same = same_string(a->state, b->state) && a->thread_count == b->thread_count &&
              SAME_LIST(&a->credentials, &b->credentials, groups, group_count) &&
              SAME_LIST(a, b, descriptors, descriptor_count) &&
              SAME_LIST(a, b, locks, lock_count) && SAME_LIST(a, b, sigactions, sigaction_count) &&
              SAME_LIST(a, b, itimers, itimer_count) && SAME_LIST(a, b, timers, timer_count) &&
              SAME_LIST(a, b, rlimits, rlimit_count) &&
              same_pending(a->pending, a->pending_count, b->pending, b->pending_count) &&
              same_filters(a, b);

  for (size_t i = 0; same && i < a->thread_count; i++)
    same = same_thread(&a->threads[i], &b->threads[i]);
  drop_pointers(&plain_a);
  drop_pointers(&plain_b);
  return same && SAME_PLAIN(plain_a, plain_b);
}

static bool same_vma(const struct vma *a, const struct vma *b)
{
  struct vma plain_a = *a;
  struct vma plain_b = *b;

  plain_a.name = plain_b.name = plain_a.special = plain_b.special = NULL;
  return same_string(a->name, b->name) && same_string(a->special, b->special) &&
         SAME_PLAIN(plain_a, plain_b);
}

static bool same_mm(const struct mm *a, const struct mm *b)
{
  struct mm plain_a = *a;
  struct mm plain_b = *b;
  bool same = a->vma_count == b->vma_count && same_blob(&a->auxv, &b->auxv);

  for (size_t i = 0; same && i < a->vma_count; i++)
    same = same_vma(&a->vmas[i], &b->vmas[i]);
  plain_a.auxv = plain_b.auxv = (struct blob){NULL, 0};
  plain_a.vmas = plain_b.vmas = NULL;
  return same && SAME_PLAIN(plain_a, plain_b);
}

static bool same_file(const struct file *a, const struct file *b)
{
  struct file plain_a = *a;
  struct file plain_b = *b;

  plain_a.type = plain_b.type = NULL;
  plain_a.detail = plain_b.detail = NULL;
  return same_string(a->type, b->type) && json_equal(a->detail, b->detail) &&
         SAME_PLAIN(plain_a, plain_b);
}

static bool same_namespace(const struct namespace_state *a, const struct namespace_state *b)
{
  return same_string(a->type, b->type) && json_equal(a->detail, b->detail);
}

static bool same_checkpoint(const struct checkpoint *a, const struct checkpoint *b)
{
  struct checkpoint plain_a = *a;
  struct checkpoint plain_b = *b;

  plain_a.id = plain_b.id = plain_a.kernel = plain_b.kernel = NULL;
  plain_a.vdso_digest = plain_b.vdso_digest = NULL;
  plain_a.runtime = plain_b.runtime = NULL;
  return same_string(a->id, b->id) && same_string(a->runtime, b->runtime) &&
         same_string(a->kernel, b->kernel) && same_string(a->vdso_digest, b->vdso_digest) &&
         SAME_PLAIN(plain_a, plain_b);
}

/* What the writer makes of a record, and the reader of its text. Takes the object over. */
static bool add(struct tree *tree, json_t *object, struct err *e)
{
  AUTO_FREE char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
  bool added = text && tree_add_json(tree, text, strlen(text), e) == 0;

  json_decref(object);
  return added;
}

static bool add_all(struct tree *to, const struct tree *from, struct err *e)
{
  bool added = add(to, checkpoint_to_json(&from->checkpoint, e), e);

  for (size_t i = 0; added && i < from->process_count; i++)
    added = add(to, process_to_json(&from->processes[i], e), e);
  for (size_t i = 0; added && i < from->mm_count; i++)
    added = add(to, mm_to_json(&from->mms[i], e), e);
  for (size_t i = 0; added && i < from->file_count; i++)
    added = add(to, file_to_json(&from->files[i], e), e);
  for (size_t i = 0; added && i < from->namespace_count; i++)
    added = add(to, namespace_to_json(&from->namespaces[i], e), e);
  return added;
}

static void test_tree(int byte)
{
  CLEANUP(tree_free) struct tree tree = {0};
  CLEANUP(tree_free) struct tree back = {0};
  struct err e = {""};

  fill_tree(&tree, byte);
  if (!ok(add_all(&back, &tree, &e), "records of bytes 0x%02x are read %s", byte, e.text))
    return;
  ok(same_checkpoint(&back.checkpoint, &tree.checkpoint), "0x%02x: checkpoint", byte);
  ok(back.process_count == 2 && same_process(&back.processes[0], &tree.processes[0]) &&
         same_process(&back.processes[1], &tree.processes[1]),
     "0x%02x: process", byte);
  ok(back.mm_count == 2 && same_mm(&back.mms[0], &tree.mms[0]) &&
         same_mm(&back.mms[1], &tree.mms[1]),
     "0x%02x: mm", byte);
  ok(back.file_count == 2 && same_file(&back.files[0], &tree.files[0]) &&
         same_file(&back.files[1], &tree.files[1]),
     "0x%02x: file", byte);
  ok(back.namespace_count == 2 && same_namespace(&back.namespaces[0], &tree.namespaces[0]) &&
         same_namespace(&back.namespaces[1], &tree.namespaces[1]),
     "0x%02x: namespace", byte);
}

/*
 * Damage: each member of a good record in turn, at every depth, is taken away, or becomes what no
 * reader may take for it. The error must tell the record and the way to the member.
 */

struct damage {
  const char *what;
  const char *value; /* JSON text; NULL takes the member away */
  const char *kind;
  json_t *record;
  size_t tried, wrong;
};

static bool is_number(const json_t *value)
{
  const char *text = json_string_value(value);

  return json_is_integer(value) ||
         (text && (strncmp(text, "0x", 2) == 0 || strspn(text, "-0123456789") == strlen(text)) &&
          *text);
}

static void expect_refusal(struct damage *damage, const char *path)
{
  CLEANUP(tree_free) struct tree tree = {0};
  struct err e = {""};
  char expected[300];
  bool taken = add(&tree, json_deep_copy(damage->record), &e);

  snprintf(expected, sizeof(expected), "state frame of kind \"%s\": %s: ", damage->kind, path);
  damage->tried++;
  if (taken || strncmp(e.text, expected, strlen(expected)) != 0) {
    damage->wrong++;
    printf("# %s, %s: %s\n", path, damage->what, taken ? "taken" : e.text);
  }
}

static void damage_member(struct damage *damage, json_t *object, const char *name, const char *path)
{
  json_t *kept = json_incref(json_object_get(object, name));

  if (damage->value)
    json_object_set_new(object, name, json_loads(damage->value, JSON_DECODE_ANY, NULL));
  else
    json_object_del(object, name);
  expect_refusal(damage, path);
  json_object_set_new(object, name, kept);
}

static void damage_each(struct damage *damage, json_t *object, const char *above,
                        bool (*applies)(const json_t *))
{
  /* The names are copied: the object changes under the loop. */
  CLEANUP(json_decrefp) json_t *names = json_copy(object);
  const char *name;
  json_t *value;

  json_object_foreach(names, name, value)
  {
    char path[200];

    if (strcmp(name, "kind") == 0 || strcmp(name, "detail") == 0)
      continue;
    snprintf(path, sizeof(path), "%s%s", above, name);
    if (!applies || applies(value))
      damage_member(damage, object, name, path);
    snprintf(path, sizeof(path), "%s%s: ", above, name);
    if (json_is_object(value) && !json_object_get(value, "base64"))
      damage_each(damage, value, path, applies);
    for (size_t i = 0; i < json_array_size(value); i++) {
      snprintf(path, sizeof(path), "%s%s: %zu: ", above, name, i);
      if (json_is_object(json_array_get(value, i)))
        damage_each(damage, json_array_get(value, i), path, applies);
    }
  }
}

static void unknown_each(struct damage *damage, json_t *object, const char *above)
{
  const char *name;
  json_t *value;
  char path[200];

  snprintf(path, sizeof(path), "%smember of tomorrow", above);
  json_object_set_new(object, "member of tomorrow", json_true());
  expect_refusal(damage, path);
  json_object_del(object, "member of tomorrow");
  json_object_foreach(object, name, value)
  {
    if (strcmp(name, "detail") == 0)
      continue;
    snprintf(path, sizeof(path), "%s%s: ", above, name);
    if (json_is_object(value) && !json_object_get(value, "base64"))
      unknown_each(damage, value, path);
    for (size_t i = 0; i < json_array_size(value); i++) {
      snprintf(path, sizeof(path), "%s%s: %zu: ", above, name, i);
      if (json_is_object(json_array_get(value, i)))
        unknown_each(damage, json_array_get(value, i), path);
    }
  }
}

static void report(const struct damage *damage, size_t least)
{
  ok(damage->wrong == 0 && damage->tried >= least, "%s: %zu times refused: %s", damage->kind,
     damage->tried, damage->what);
}

static void test_damage(json_t *record, size_t members)
{
  const char *kind = json_string_value(json_object_get(record, "kind"));
  struct damage missing = {"a member is missing", NULL, kind, record, 0, 0};
  struct damage real = {"a member is 1.5", "1.5", kind, record, 0, 0};
  struct damage list = {"a member is a list of 1.5", "[1.5]", kind, record, 0, 0};
  struct damage object = {"a member is another object", "{\"no\":1}", kind, record, 0, 0};
  struct damage absurd = {"a number is absurd", "\"0x10000000000000000\"", kind, record, 0, 0};
  struct damage unknown = {"a member is not known", NULL, kind, record, 0, 0};

  damage_each(&missing, record, "", NULL);
  damage_each(&real, record, "", NULL);
  damage_each(&object, record, "", NULL);
  damage_each(&list, record, "", NULL);
  damage_each(&absurd, record, "", is_number);
  unknown_each(&unknown, record, "");
  report(&missing, members);
  report(&real, members);
  report(&list, members);
  report(&object, members);
  report(&absurd, members > 1); /* a namespace has no numbers of its own */
  report(&unknown, 1);
  json_decref(record);
}

static void test_damaged_records(void)
{
  CLEANUP(tree_free) struct tree tree = {0};
  struct err e = {""};

  fill_tree(&tree, 0x11);
  test_damage(checkpoint_to_json(&tree.checkpoint, &e), 7);
  test_damage(process_to_json(&tree.processes[0], &e), 200);
  test_damage(mm_to_json(&tree.mms[0], &e), 60);
  test_damage(file_to_json(&tree.files[0], &e), 8);
  test_damage(namespace_to_json(&tree.namespaces[0], &e), 1);
}

/* Whole texts that are no record. */

static void refuse_text(const char *text, size_t size, const char *expected, const char *name)
{
  CLEANUP(tree_free) struct tree tree = {0};
  struct err e = {""};

  ok(tree_add_json(&tree, text, size, &e) < 0 && strstr(e.text, expected), "%s: %.120s", name,
     e.text);
}

static void test_texts(void)
{
  static const char *const bad[][2] = {
      {"", "is not JSON"},
      {"{", "is not JSON"},
      {"{}{}", "is not JSON"},
      {"{\"kind\":\"mm\",\"kind\":\"mm\"}", "is not JSON: duplicate"},
      {"{\"kind\":\"mm\\u0000\"}", "is not JSON"},
      {"{\"kind\":\"\xff\"}", "is not JSON"},
      {"[]", "without a kind"},
      {"{}", "without a kind"},
      {"{\"kind\":1}", "without a kind"},
      {"{\"kind\":\"\"}", "unknown kind \"\""},
      {"{\"kind\":\"mms\"}", "unknown kind \"mms\""},
      {"{\"kind\":\"MM\"}", "unknown kind \"MM\""},
  };

  for (size_t i = 0; i < ARRAY_LEN(bad); i++)
    refuse_text(bad[i][0], strlen(bad[i][0]), bad[i][1], "refused");
}

/* A record whose member is the same text over and over. */
static void refuse_repeated(const char *start, const char *piece, size_t times, const char *end,
                            const char *expected, const char *name)
{
  size_t size = strlen(start) + times * strlen(piece) + strlen(end);
  AUTO_FREE char *text = malloc(size + 1);
  char *at = stpcpy(text, start);

  for (size_t i = 0; i < times; i++)
    at = stpcpy(at, piece);
  strcpy(at, end);
  refuse_text(text, size, expected, name);
}

static void test_absurd_sizes(void)
{
  static const char mm[] =
      "{\"kind\":\"mm\",\"id\":1,\"parent\":0,\"exe\":1,\"start_code\":0,\"end_code\":0,"
      "\"start_data\":0,\"end_data\":0,\"start_brk\":0,\"brk\":0,\"start_stack\":0,\"lock_future\":"
      "0,"
      "\"arg_start\":0,\"arg_end\":0,\"env_start\":0,\"env_end\":0,\"auxv\":";
  AUTO_FREE char *maps = NULL;
  AUTO_FREE char *blob = NULL;

  if (asprintf(&maps, "%s\"\",\"vmas\":[", mm) < 0 || asprintf(&blob, "%s\"", mm) < 0)
    return;
  refuse_repeated(maps, "{},", 1000000, "{}]}", "kind \"mm\": vmas: 0: start: is missing",
                  "a million mappings of nothing");
  refuse_repeated(maps, "0,", 1000000, "0]}", "kind \"mm\": vmas: 0: is not an object",
                  "a million numbers for mappings");
  refuse_repeated(blob, "AAAA", 1000000, "A\",\"vmas\":[]}", "kind \"mm\": auxv: base64 text of",
                  "four million characters and one");
  refuse_repeated(blob, "AAAA", 1000000, "\"}", "kind \"mm\": vmas: is missing",
                  "a long auxiliary vector without mappings");
  refuse_repeated("{\"kind\":\"file\",\"detail\":", "[", 1000000, "", "is not JSON",
                  "a million lists within each other");
  refuse_repeated("{\"kind\":\"", "a", 1000000, "\"}", "unknown kind \"aaaa", "a long kind");
}

static void test_strings(void)
{
  static const char *const bad[] = {"{\"base64\":\"Zg\"}", "{\"base64\":\"AAAA\"}",
                                    "{\"base64\":\"Zm9v\",\"more\":1}", "{\"base64\":1}"};
  static const struct field fields[] = {F_STRING(struct checkpoint, id), F_END};

  for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
    struct checkpoint checkpoint = {0};
    struct err e = {""};
    json_t *json = json_pack("{s:o}", "id", json_loads(bad[i], 0, NULL));

    ok(fields_from_json(fields, &checkpoint, json, &e) < 0 && strncmp(e.text, "id: ", 4) == 0,
       "no string: %s: %s", bad[i], e.text);
    fields_free(fields, &checkpoint);
    json_decref(json);
  }
}

static void test_checkpoint_twice(void)
{
  CLEANUP(tree_free) struct tree tree = {0};
  struct checkpoint checkpoint = {.id = "named"};
  struct err e = {""};

  ok(add(&tree, checkpoint_to_json(&checkpoint, &e), &e), "a checkpoint without a kernel");
  ok(!add(&tree, checkpoint_to_json(&checkpoint, &e), &e) && strstr(e.text, "stands twice"),
     "a second one is refused: %s", e.text);
}

/* What only the whole tree tells. */

enum { PAGE = 4096 };

static void sample_process(struct tree *tree, int32_t pid, int32_t ppid, const char *state)
{
  struct process *process =
      list_append(&tree->processes, &tree->process_count, sizeof(struct process));
  struct thread *thread =
      list_append(&process->threads, &process->thread_count, sizeof(struct thread));
  struct descriptor *descriptor =
      list_append(&process->descriptors, &process->descriptor_count, sizeof(*descriptor));

  process->pid = pid;
  process->ppid = ppid;
  process->state = strdup(state);
  process->exit_signal = 17;
  process->mm = 1;
  process->cwd = 2;
  thread->tid = pid;
  thread->name = strdup("fifteen letters");
  descriptor->file = 2;
}

static void sample_mm(struct tree *tree, uint32_t id, uint32_t parent)
{
  struct mm *mm = list_append(&tree->mms, &tree->mm_count, sizeof(struct mm));

  mm->id = id;
  mm->parent = parent;
  mm->exe = 1;
  for (uint64_t i = 1; i <= 2; i++) {
    struct vma *vma = list_append(&mm->vmas, &mm->vma_count, sizeof(struct vma));

    vma->start = i * PAGE;
    vma->end = (i + 1) * PAGE;
    vma->flags = MAP_PRIVATE;
  }
}

static void sample_tree(struct tree *tree)
{
  *tree = (struct tree){0};
  tree->checkpoint.kernel = strdup("6.1.0");
  tree->checkpoint.vdso_digest = strdup("");
  sample_process(tree, 1, 0, "running");
  sample_process(tree, 2, 1, "stopped");
  sample_process(tree, 3, 2, "zombie");
  sample_mm(tree, 1, 0);
  sample_mm(tree, 2, 1);
  for (uint32_t id = 1; id <= 2; id++) {
    struct file *file = list_append(&tree->files, &tree->file_count, sizeof(struct file));

    file->id = id;
    file->type = strdup("regular");
  }
  for (int i = 0; i < 2; i++) {
    struct namespace_state *state =
        list_append(&tree->namespaces, &tree->namespace_count, sizeof(struct namespace_state));

    state->type = strdup(i ? "ipc" : "uts");
  }
}

static void refuse_tree(struct tree *tree, const char *expected)
{
  struct err e = {""};

  ok(tree_check(tree, &e) < 0 && strncmp(e.text, expected, strlen(expected)) == 0, "refused: %s",
     *e.text ? e.text : expected);
  tree_free(tree);
  sample_tree(tree);
}

static void replace(char **string, const char *text)
{
  free(*string);
  *string = text ? strdup(text) : NULL;
}

static void test_check_spaces(struct tree *tree)
{
  tree->mms[1].id = 1;
  refuse_tree(tree, "space 1: id is not unique");
  tree->mms[1].id = 0;
  refuse_tree(tree, "space 0: id is not unique");
  tree->mms[0].parent = 2;
  refuse_tree(tree, "space 1: its parent 2 does not precede it");
  tree->mms[1].parent = 2;
  refuse_tree(tree, "space 2: its parent 2 does not precede it");
  tree->mms[1].parent = 9;
  refuse_tree(tree, "space 2: its parent 9 does not precede it");
  tree->mms[1].exe = 0;
  refuse_tree(tree, "space 2: its program, file 0, is not there");
}

static void test_check_mappings(struct tree *tree)
{
  struct vma *vma = &tree->mms[0].vmas[1];

  vma->start -= PAGE;
  refuse_tree(tree, "space 1: mapping at 0x1000: its range is impossible");
  vma = &tree->mms[0].vmas[1];
  vma->end = vma->start;
  refuse_tree(tree, "space 1: mapping at 0x2000: its range is impossible");
  tree->mms[0].vmas[1].end = 0;
  refuse_tree(tree, "space 1: mapping at 0x2000: its range is impossible");
  tree->mms[0].vmas[1].end += 1;
  refuse_tree(tree, "space 1: mapping at 0x2000: its range is impossible");
  tree->mms[0].vmas[1].start += 1;
  refuse_tree(tree, "space 1: mapping at 0x2001: its range is impossible");
  tree->mms[0].vmas[1].offset = 1;
  refuse_tree(tree, "space 1: mapping at 0x2000: its range is impossible");
  tree->mms[0].vmas[1].file = 7;
  refuse_tree(tree, "space 1: mapping at 0x2000: file 7 is not there");
  tree->mms[0].vmas[1].flags = MAP_SHARED;
  refuse_tree(tree, "space 1: mapping at 0x2000: shared memory without a file");
}

static void test_check_processes(struct tree *tree)
{
  tree->processes[1].pid = 1;
  refuse_tree(tree, "pid 1: is not unique");
  tree->processes[1].pid = -2;
  refuse_tree(tree, "pid -2: its number is impossible");
  tree->processes[1].pid = (4 << 20) + 1;
  refuse_tree(tree, "pid 4194305: its number is impossible");
  tree->processes[1].ppid = -1;
  refuse_tree(tree, "pid 2: its parent -1, process group 0 or session 0 is impossible");
  tree->processes[1].pgid = INT32_MIN;
  refuse_tree(tree, "pid 2: its parent 1, process group -2147483648 or session 0 is impossible");
  tree->processes[2].sid = INT32_MAX;
  refuse_tree(tree, "pid 3: its parent 2, process group 0 or session 2147483647 is impossible");
  tree->processes[1].pgid = tree->processes[1].sid = 4 << 20;
  ok(tree_check(tree, &(struct err){""}) == 0, "the highest number that can be");
  tree->processes[1].pgid = tree->processes[1].sid = 0;
  tree->processes[1].ppid = 3;
  refuse_tree(tree, "pid 2: its parent 3 does not precede it");
  tree->processes[1].ppid = 77;
  refuse_tree(tree, "pid 2: its parent 77 does not precede it");
  replace(&tree->processes[1].state, "asleep");
  refuse_tree(tree, "pid 2: its state is not known");
  replace(&tree->processes[1].state, NULL);
  refuse_tree(tree, "pid 2: its state is not known");
  tree->processes[1].exit_signal = 65;
  refuse_tree(tree, "pid 2: its exit signal 65 is not one");
  replace(&tree->processes[0].state, "zombie");
  refuse_tree(tree, "pid 1: is a zombie without a parent");
  tree->processes[1].mm = 3;
  refuse_tree(tree, "pid 2: its memory, working directory or root is not there");
  tree->processes[1].cwd = 0;
  refuse_tree(tree, "pid 2: its memory, working directory or root is not there");
  tree->processes[1].root = 9;
  refuse_tree(tree, "pid 2: its memory, working directory or root is not there");
}

static void test_check_threads(struct tree *tree)
{
  tree->processes[1].threads[0].tid = 5;
  refuse_tree(tree, "pid 2: its threads do not begin with its leader");
  replace(&tree->processes[1].threads[0].name, "sixteen letters.");
  refuse_tree(tree, "pid 2: thread 2: its name or number is impossible");
  replace(&tree->processes[1].threads[0].name, NULL);
  refuse_tree(tree, "pid 2: thread 2: its name or number is impossible");
  sample_process(tree, 4, 1, "running");
  tree->processes[3].threads = reallocarray(tree->processes[3].threads, 2, sizeof(struct thread));
  tree->processes[3].threads[1] = (struct thread){.tid = (4 << 20) + 1, .name = strdup("")};
  tree->processes[3].thread_count = 2;
  refuse_tree(tree, "pid 4: thread 4194305: its name or number is impossible");
  tree->processes[1].descriptors[0].fd = -1;
  refuse_tree(tree, "pid 2: fd -1: file 2 is not there");
  tree->processes[1].descriptors[0].file = 3;
  refuse_tree(tree, "pid 2: fd 0: file 3 is not there");
}

static void test_check(void)
{
  CLEANUP(tree_free) struct tree tree;
  struct err e = {""};

  sample_tree(&tree);
  ok(tree_check(&tree, &e) == 0, "a tree in order %s", e.text);
  replace(&tree.checkpoint.kernel, NULL);
  refuse_tree(&tree, "the stream has no state frame of kind \"checkpoint\"");
  tree.files[1].id = 1;
  refuse_tree(&tree, "file 1: id is not unique, or it has no type");
  replace(&tree.files[1].type, NULL);
  refuse_tree(&tree, "file 2: id is not unique, or it has no type");
  tree.files[1].space = 2;
  refuse_tree(&tree, "file 2: its space 2 is a process's");
  replace(&tree.namespaces[1].type, "uts");
  refuse_tree(&tree, "namespace uts: has no type, or stands there twice");
  replace(&tree.namespaces[0].type, NULL);
  refuse_tree(&tree, "namespace without type: has no type, or stands there twice");
  test_check_spaces(&tree);
  test_check_mappings(&tree);
  test_check_processes(&tree);
  test_check_threads(&tree);
}

static void test_continues(void)
{
  const struct vma parent = {.start = 0x10000, .end = 0x20000, .flags = MAP_PRIVATE, .file = 1};
  struct vma child = parent;

  ok(vma_continues(&child, &parent), "the same mapping goes on");
  child.start = 0x11000;
  child.offset = 0x1000;
  child.flags |= MAP_NORESERVE;
  ok(vma_continues(&child, &parent), "a later part of it goes on");
  child.offset = 0;
  ok(!vma_continues(&child, &parent), "another place of the file does not");
  child = parent;
  child.file = 2;
  ok(!vma_continues(&child, &parent), "another file does not");
  child = parent;
  child.flags = MAP_SHARED;
  ok(!vma_continues(&child, &parent), "shared memory does not");
  child = parent;
  child.advice = VMA_HUGEPAGE;
  ok(!vma_continues(&child, &parent), "other huge pages do not");
  child = parent;
  child.special = (char *)"vdso";
  ok(!vma_continues(&child, &parent), "the kernel's own does not");
}

int main(void)
{
  static const int bytes[] = {0x00, 0xff, 0x7f, 0x80, 0x55};

  test_limits();
  test_out_of_range();
  test_number_forms();
  test_base64();
  test_all_bytes();
  for (size_t i = 0; i < ARRAY_LEN(bytes); i++)
    test_tree(bytes[i]);
  test_damaged_records();
  test_texts();
  test_absurd_sizes();
  test_strings();
  test_checkpoint_twice();
  test_check();
  test_continues();
  return done_testing();
}
