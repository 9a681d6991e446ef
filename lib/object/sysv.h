/*
 * What segments, semaphore sets and message queues of System V have in common (sysvipc(7)): an id,
 * a key, owners and a mode. Ids are claimed through /proc/sys/kernel/{shm,sem,msg}_next_id
 * (CONFIG_CHECKPOINT_RESTORE; ipc/util.c).
 */
#ifndef CKPT_OBJECT_SYSV_H
#define CKPT_OBJECT_SYSV_H

#include "base/err.h"
#include "state/fields.h"

#include <jansson.h>
#include <stdint.h>
#include <sys/ipc.h>
#include <sys/types.h>

/* In an image its owners are those of the container's user namespace; on the machine, ours. */
struct sysv_object {
  int32_t id;
  int32_t key; /* IPC_PRIVATE: none */
  uint32_t uid, gid, cuid, cgid;
  uint32_t mode; /* with SHM_DEST and SHM_LOCKED */
};
extern const struct field sysv_fields[];

/* From what IPC_STAT tells, as the user namespace of a process sees it. */
int sysv_to_image(pid_t pid, int id, const struct ipc_perm *perm, struct sysv_object *object,
                  struct err *e);

/* Owners as we name them, for an object that is to be made for the user namespace of a process. */
int sysv_from_image(pid_t pid, const struct sysv_object *image, struct sysv_object *object,
                    struct err *e);

/*
 * In a process that has entered the ipc namespace: makes an object with its id, as its creator,
 * open to everybody until its owner is set (IPC_SET). `make` is called with the key and flags for
 * shmget(2) and the like. kind: "shm", "sem", "msg".
 */
typedef int sysv_maker(key_t key, int flags, const void *context);
int sysv_make(const char *kind, const struct sysv_object *object, sysv_maker *make,
              const void *context, struct err *e);

/*
 * In the same: with kernel.shm_rmid_forced a segment ends with its last attachment, and with who
 * made it; then none can be kept.
 */
int sysv_check_rmid_forced(struct err *e);

/* The owner and mode that IPC_SET takes. */
void sysv_set_owner(const struct sysv_object *object, struct ipc_perm *perm);

#endif
