/* UNIX sockets: what dump, queue, diag and restore of them share. */
#ifndef CKPT_OBJECT_UNIX_H
#define CKPT_OBJECT_UNIX_H

#include "base/err.h"
#include "object/object.h"
#include "object/socket.h"
#include "state/fields.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What waits in a queue: of a stream all of it, of the others one message each. */
struct unix_message {
  struct blob data;
  struct blob from; /* address of its sender; datagrams only */
};

/* Addresses are bytes of sun_path as in unix(7): an abstract one begins with 0; empty: none. */
struct unix_detail {
  uint64_t inode; /* of the socket: by it others speak of it as their peer */
  int32_t type;   /* SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM */
  char *state;    /* "unconnected", "listening", "connected" */
  struct blob address;
  bool has_file;     /* its address still leads to its socket file: that one is made anew */
  char *root;        /* of the process, if it is not the tree's (chroot) */
  char *directory;   /* where a relative address was bound, from the tree's root */
  uint32_t mode;     /* of the file, */
  uint32_t uid, gid; /* in the tree's user namespace */
  int32_t backlog;   /* listening */
  uint64_t peer;     /* connected: inode of the other end; 0: that end is closed */
  bool reset;        /* closed with data unread: the next call fails with ECONNRESET */
  uint32_t shutdown; /* bit 0: receives no more, bit 1: sends no more */
  uint32_t peer_uid, peer_gid; /* SO_PEERCRED; UINT32_MAX: none */
  struct socket_option *options;
  size_t option_count;
  struct unix_message *messages;
  size_t message_count;
};
extern const struct field unix_fields[];
void unix_detail_free(struct unix_detail *detail);

/* Connections, not messages: SOCK_STREAM, SOCK_SEQPACKET. */
bool unix_is_stream(const struct unix_detail *detail);

/* unix(7), sock_diag(7): what the kernel tells of one socket. */
struct unix_info {
  uint8_t state; /* TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN */
  bool connected;
  uint32_t peer;     /* inode of the other end; 0: it is closed, or not accepted yet */
  uint32_t waiting;  /* listening: connections that wait to be accepted */
  uint32_t backlog;  /* listening */
  uint8_t shutdown;  /* bit 0: receives no more, bit 1: sends no more */
  dev_t file_device; /* bound to a path: of its file */
  uint32_t file_inode;
};

/* Asks in the socket's own network namespace; net: a descriptor of it, or -1: it is ours. */
int unix_diag(int net, ino_t inode, struct unix_info *info, struct err *e);
/* One reply of NETLINK_SOCK_DIAG. */
int unix_diag_parse(const void *reply, size_t size, struct unix_info *info, struct err *e);

/* Copies what is in the receive queue without taking it out. The owner must stand still. */
int unix_read_queue(int fd, const struct unix_info *info, struct unix_detail *detail,
                    struct err *e);

/* unix_name.c: addresses and the places where they are bound. */
int unix_address(int fd, struct blob *address, struct err *e);
/* Finds the file of a bound socket: has_file, root, directory, mode, uid, gid. */
int unix_find_file(const struct object_source *source, const struct unix_info *info,
                   struct unix_detail *detail, struct err *e);
bool unix_is_abstract(const struct blob *address);
/* Ids as we see them into those of the process's user namespace. */
int unix_ids_inside(pid_t pid, uint32_t *uid, uint32_t *gid, struct err *e);

/* What is done with one socket and one address. */
struct unix_naming {
  int fd;
  const struct blob *address;
  const struct unix_detail *detail;   /* of the file that is made */
  const struct unix_message *message; /* that is sent */
};
typedef int unix_call(const void *naming, struct err *e);

/* unix_place.c: without a file; with its file, which replaces what is there. */
int unix_bind_nowhere(struct object_restore *restore, int fd, const struct blob *address,
                      struct err *e);
int unix_bind(struct object_restore *restore, int fd, const struct unix_detail *detail,
              struct err *e);
/* Calls with the root and the working directory in which the socket has its address. */
int unix_at(struct object_restore *restore, const struct unix_detail *whose, unix_call *function,
            const void *context, struct err *e);
int unix_do_connect(const void *naming, struct err *e);
int unix_do_send(const void *naming, struct err *e);
/* Is the directory there, and is at most a socket in it that nobody has? By a datagram socket. */
int unix_do_probe(const void *naming, struct err *e);

/* unix_restore.c */
int unix_complete(const struct tree *tree, const struct file *file, struct err *e);
int unix_check_restore(const struct object_restore *restore, const struct file *file,
                       struct err *e);
int unix_restore(struct object_restore *restore, const struct file *file, struct err *e);
int unix_attach(struct object_restore *restore, const struct file *file, int fd,
                struct tracee *tracee, struct err *e);

/* Options that UNIX sockets keep. */
extern const struct socket_known_option unix_options[];
extern const size_t unix_option_count;

#endif
