/*
 * Message queues of System V (msgop(2)). Messages are read by MSG_COPY, which leaves them where
 * they are. Times and the last sender and receiver begin anew.
 */
#include "base/cleanup.h"
#include "namespace/ipc.h"

#include <errno.h>
#include <string.h>
#include <sys/msg.h>

struct message {
  int64_t type;
  struct blob data;
};

struct queue {
  struct sysv_object object;
  uint64_t max_bytes;
  struct message *messages;
  size_t message_count;
};

static const struct field message_fields[] = {
    F_SIGNED(struct message, type),
    F_BLOB(struct message, data),
    F_END,
};

static const struct field queue_fields[] = {
    F_STRUCT(struct queue, object, sysv_fields),
    F_UNSIGNED(struct queue, max_bytes),
    F_LIST(struct queue, messages, message_count, message_fields),
    F_END,
};

static void queue_free(struct queue *queue)
{
  fields_free(queue_fields, queue);
}

/* As msgsnd(2) and msgrcv(2) take it. */
struct packet {
  long type;
  char data[];
};

static int add_message(struct queue *queue, const struct packet *packet, size_t size, struct err *e)
{
  struct message *message = list_append(&queue->messages, &queue->message_count, sizeof(*message));

  if (!message)
    return err_sys(e, "messages");
  message->type = packet->type;
  message->data.data = malloc(size + 1);
  if (!message->data.data)
    return err_sys(e, "messages");
  memcpy(message->data.data, packet->data, size);
  message->data.size = size;
  return 0;
}

static int read_messages(struct queue *queue, size_t bytes, struct err *e)
{
  AUTO_FREE struct packet *packet = malloc(sizeof(*packet) + bytes + 1);

  if (!packet)
    return err_sys(e, "messages");
  for (long i = 0;; i++) {
    ssize_t n = msgrcv(queue->object.id, packet, bytes + 1, i, MSG_COPY | IPC_NOWAIT);

    if (n < 0)
      return errno == ENOMSG ? 0 : err_sys(e, "messages");
    if (add_message(queue, packet, (size_t)n, e) < 0)
      return -1;
  }
}

static json_t *dump_queue(pid_t init, int id, const struct msqid_ds *stat, struct err *e)
{
  CLEANUP(queue_free) struct queue queue = {.max_bytes = stat->msg_qbytes};

  if (sysv_to_image(init, id, &stat->msg_perm, &queue.object, e) < 0 ||
      read_messages(&queue, stat->__msg_cbytes, e) < 0)
    return NULL;
  return fields_to_json(queue_fields, &queue, e);
}

json_t *queues_dump(pid_t init, struct err *e)
{
  json_t *list = json_array();
  struct msqid_ds stat;
  int highest = msgctl(0, MSG_INFO, &stat);

  if (!list)
    err_set(e, "out of memory");
  for (int i = 0; list && i <= highest; i++) {
    int id = msgctl(i, MSG_STAT, &stat);
    json_t *queue;

    if (id < 0)
      continue; /* no queue has this index */
    queue = dump_queue(init, id, &stat, e);
    if (!queue || json_array_append_new(list, queue) < 0) {
      err_prefix(e, "message queue %d", id);
      json_decref(list);
      return NULL;
    }
  }
  return list;
}

static int make_queue(key_t key, int flags, const void *context)
{
  (void)context;
  return msgget(key, flags);
}

static int set_queue(const struct sysv_object *owner, uint64_t bytes, struct err *e)
{
  struct msqid_ds stat = {.msg_qbytes = bytes};

  sysv_set_owner(owner, &stat.msg_perm);
  return msgctl(owner->id, IPC_SET, &stat) < 0 ? err_sys(e, "owner") : 0;
}

static int send_messages(const struct queue *queue, struct err *e)
{
  for (size_t i = 0; i < queue->message_count; i++) {
    const struct message *message = &queue->messages[i];
    AUTO_FREE struct packet *packet = malloc(sizeof(*packet) + message->data.size + 1);

    if (!packet)
      return err_sys(e, "messages");
    packet->type = (long)message->type;
    memcpy(packet->data, message->data.data, message->data.size);
    if (msgsnd(queue->object.id, packet, message->data.size, IPC_NOWAIT) < 0)
      return err_sys(e, "message %zu", i + 1);
  }
  return 0;
}

/* The limit may have been lowered when there was more in the queue already. */
static uint64_t room_for(const struct queue *queue)
{
  uint64_t bytes = queue->message_count;

  for (size_t i = 0; i < queue->message_count; i++)
    bytes += queue->messages[i].data.size;
  return bytes > queue->max_bytes ? bytes : queue->max_bytes;
}

static int restore_queue(pid_t init, const json_t *json, struct err *e)
{
  CLEANUP(queue_free) struct queue queue = {0};
  struct sysv_object owner;

  if (fields_from_json(queue_fields, &queue, json, e) < 0 ||
      sysv_from_image(init, &queue.object, &owner, e) < 0 ||
      sysv_make("msg", &owner, make_queue, NULL, e) < 0)
    return -1;
  if (set_queue(&owner, room_for(&queue), e) < 0 || send_messages(&queue, e) < 0 ||
      set_queue(&owner, queue.max_bytes, e) < 0)
    return err_prefix(e, "message queue %d", queue.object.id);
  return 0;
}

int queues_restore(pid_t init, const json_t *list, struct err *e)
{
  if (!json_is_array(list))
    return err_set(e, "queues: is not a list");
  for (size_t i = 0; i < json_array_size(list); i++) {
    if (restore_queue(init, json_array_get(list, i), e) < 0)
      return -1;
  }
  return 0;
}
