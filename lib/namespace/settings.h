/* Kernel settings (sysctl(8)) that each namespace has for itself. */
#ifndef CKPT_NAMESPACE_SETTINGS_H
#define CKPT_NAMESPACE_SETTINGS_H

#include "base/err.h"

#include <jansson.h>
#include <sys/types.h>

/*
 * The settings below /proc/sys that differ from those of a new namespace of the kind, as an object
 * of names and texts. `paths`: files and directories, ended by NULL; of a network device only the
 * loopback device's. Returns NULL with e set on failure.
 */
json_t *settings_dump(pid_t pid, const char *kind, const char *const paths[], struct err *e);

/*
 * Changes those that differ from `settings`. Others stay as the runtime has set them.
 */
int settings_restore(pid_t pid, const char *kind, const char *const paths[], const json_t *settings,
                     struct err *e);

#endif
