/* Who a thread is. Only what differs is changed, so that an equal set needs no privilege. */
#include "restore/rebuild.h"

#include "base/cleanup.h"
#include "proc/proc.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { CAPABILITIES = 64 };

static int prctl_call(struct tracee *tracee, const char *what, uint64_t option, uint64_t a,
                      uint64_t b, struct err *e)
{
  return call(tracee, e, what, NULL, SYS_prctl, option, a, b, 0, 0, 0);
}

static int set_groups(const struct credentials *wanted, const struct proc_status *now,
                      struct tracee *tracee, struct err *e)
{
  uint64_t area = tracee_scratch(tracee);
  size_t size = wanted->group_count * sizeof(*wanted->groups);

  if (wanted->group_count == now->group_count &&
      (size == 0 || memcmp(wanted->groups, now->groups, size) == 0))
    return 0;
  if (size > TRACEE_SCRATCH_SIZE / 2)
    return err_set(e, "%zu supplementary groups are too many", wanted->group_count);
  if (size && tracee_write(tracee, area, wanted->groups, size, e) < 0)
    return -1;
  return call(tracee, e, "setgroups", NULL, SYS_setgroups, wanted->group_count, area, 0, 0, 0, 0);
}

static int set_capabilities(const struct credentials *wanted, struct tracee *tracee, struct err *e)
{
  uint64_t area = tracee_scratch(tracee);
  struct {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
  } argument = {.header = {.version = _LINUX_CAPABILITY_VERSION_3}};

  for (unsigned i = 0; i < 2; i++) {
    argument.data[i].effective = (uint32_t)(wanted->effective >> (32 * i));
    argument.data[i].permitted = (uint32_t)(wanted->permitted >> (32 * i));
    argument.data[i].inheritable = (uint32_t)(wanted->inheritable >> (32 * i));
  }
  if (tracee_write(tracee, area, &argument, sizeof(argument), e) < 0 ||
      call(tracee, e, "capset", NULL, SYS_capset, area, area + offsetof(__typeof__(argument), data),
           0, 0, 0, 0) < 0)
    return -1;
  for (unsigned i = 0; i < CAPABILITIES; i++) {
    if (wanted->ambient >> i & 1 &&
        prctl_call(tracee, "ambient set", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, e) < 0)
      return -1;
  }
  return 0;
}

/* All that is permitted in effect, too. */
static int raise_effective(struct tracee *tracee, struct err *e)
{
  CLEANUP(proc_status_free) struct proc_status now = {0};
  struct credentials raised;

  if (proc_status_read(tracee->tid, &now, e) != 0)
    return err_prefix(e, "thread %d", tracee->tid);
  raised = (struct credentials){.effective = now.cap_permitted,
                                .permitted = now.cap_permitted,
                                .inheritable = now.cap_inheritable};
  return set_capabilities(&raised, tracee, e);
}

/*
 * capabilities(7): what is permitted outlasts the change of user with keep-caps, which asks for no
 * privilege, unlike the other secure bits. What is in effect does not.
 */
static int set_uids(const struct credentials *wanted, struct tracee *tracee, struct err *e)
{
  if (prctl_call(tracee, "keep capabilities", PR_SET_KEEPCAPS, 1, 0, e) < 0 ||
      call(tracee, e, "setresuid", NULL, SYS_setresuid, wanted->ruid, wanted->euid, wanted->suid, 0,
           0, 0) < 0)
    return -1;
  if (wanted->fsuid == wanted->euid)
    return 0; /* it went along */
  if (raise_effective(tracee, e) < 0)
    return -1;
  return call(tracee, e, "setfsuid", NULL, SYS_setfsuid, wanted->fsuid, 0, 0, 0, 0, 0);
}

static int set_ids(const struct credentials *wanted, const struct proc_status *now,
                   struct tracee *tracee, struct err *e)
{
  const uint32_t uids[4] = {wanted->ruid, wanted->euid, wanted->suid, wanted->fsuid};
  const uint32_t gids[4] = {wanted->rgid, wanted->egid, wanted->sgid, wanted->fsgid};

  if (set_groups(wanted, now, tracee, e) < 0)
    return -1;
  if (memcmp(gids, now->gid, sizeof(gids)) != 0 &&
      (call(tracee, e, "setresgid", NULL, SYS_setresgid, wanted->rgid, wanted->egid, wanted->sgid,
            0, 0, 0) < 0 ||
       call(tracee, e, "setfsgid", NULL, SYS_setfsgid, wanted->fsgid, 0, 0, 0, 0, 0) < 0))
    return -1;
  return memcmp(uids, now->uid, sizeof(uids)) == 0 ? 0 : set_uids(wanted, tracee, e);
}

static int drop_bounding(const struct credentials *wanted, const struct proc_status *now,
                         struct tracee *tracee, struct err *e)
{
  for (unsigned i = 0; i < CAPABILITIES; i++) {
    if ((now->cap_bounding & ~wanted->bounding) >> i & 1 &&
        prctl_call(tracee, "bounding set", PR_CAPBSET_DROP, i, 0, e) < 0)
      return -1;
  }
  if (wanted->bounding & ~now->cap_bounding)
    return err_set(e,
                   "thread %d: had capabilities in its bounding set that we lack (0x%llx); "
                   "restore with at least the privileges of the original",
                   tracee->tid, (unsigned long long)(wanted->bounding & ~now->cap_bounding));
  return 0;
}

static bool same_capabilities(const struct credentials *wanted, const struct proc_status *now)
{
  return wanted->effective == now->cap_effective && wanted->permitted == now->cap_permitted &&
         wanted->inheritable == now->cap_inheritable && wanted->ambient == now->cap_ambient;
}

/* keep-caps is one of them, and asks for nothing; the others want CAP_SETPCAP in effect. */
static int set_secure_bits(const struct credentials *wanted, struct tracee *tracee, struct err *e)
{
  bool keep = wanted->securebits & SECBIT_KEEP_CAPS;
  int64_t now;

  if (call(tracee, e, "secure bits", &now, SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0, 0) < 0)
    return -1;
  if (((now ^ wanted->securebits) & SECBIT_KEEP_CAPS) &&
      prctl_call(tracee, "keep capabilities", PR_SET_KEEPCAPS, keep, 0, e) < 0)
    return -1;
  if (((now ^ wanted->securebits) & ~(int64_t)SECBIT_KEEP_CAPS) == 0)
    return 0;
  if (raise_effective(tracee, e) < 0)
    return -1;
  return prctl_call(tracee, "secure bits", PR_SET_SECUREBITS, wanted->securebits, 0, e);
}

int rebuild_credentials(const struct credentials *wanted, struct tracee *tracee, struct err *e)
{
  CLEANUP(proc_status_free) struct proc_status now = {0};

  if (proc_status_read(tracee->tid, &now, e) != 0 || proc_status_inside(tracee->tid, &now, e) != 0)
    return err_prefix(e, "thread %d", tracee->tid);
  if (drop_bounding(wanted, &now, tracee, e) < 0 || set_ids(wanted, &now, tracee, e) < 0 ||
      set_secure_bits(wanted, tracee, e) < 0)
    return -1;
  proc_status_free(&now);
  now = (struct proc_status){0};
  if (proc_status_read(tracee->tid, &now, e) != 0)
    return err_prefix(e, "thread %d", tracee->tid);
  if (!same_capabilities(wanted, &now) && set_capabilities(wanted, tracee, e) < 0)
    return -1;
  if (wanted->no_new_privs)
    return prctl_call(tracee, "no_new_privs", PR_SET_NO_NEW_PRIVS, 1, 0, e);
  return 0;
}
