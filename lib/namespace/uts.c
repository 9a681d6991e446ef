/* uts_namespaces(7): the host's names. */
#include "base/cleanup.h"
#include "namespace/namespace.h"
#include "proc/inside.h"

#include <errno.h>
#include <string.h>
#include <sys/utsname.h>

struct detail {
  char *hostname;
  char *domainname;
};

static const struct field fields[] = {
    F_STRING(struct detail, hostname),
    F_STRING(struct detail, domainname),
    F_END,
};

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

static int read_names(void *argument, struct err *e)
{
  return uname(argument) < 0 ? err_sys(e, "names") : 0;
}

static json_t *dump(const struct namespace_owner *owner, struct err *e)
{
  struct utsname name;
  struct detail detail = {.hostname = name.nodename, .domainname = name.domainname};

  if (inside(owner->init, "uts", read_names, &name, e) < 0)
    return NULL;
  return fields_to_json(fields, &detail, e);
}

static int write_names(void *argument, struct err *e)
{
  const struct detail *detail = argument;
  struct utsname name;
  int result = 0;

  uname(&name);
  if (strcmp(name.nodename, detail->hostname) != 0)
    result = sethostname(detail->hostname, strlen(detail->hostname));
  if (result == 0 && strcmp(name.domainname, detail->domainname) != 0)
    result = setdomainname(detail->domainname, strlen(detail->domainname));
  return result < 0 ? err_sys(e, "name") : 0;
}

static int restore(pid_t init, const json_t *json, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  if (fields_from_json(fields, &detail, json, e) < 0)
    return -1;
  if (!detail.hostname || !detail.domainname)
    return err_set(e, "without a name");
  return inside(init, "uts", write_names, &detail, e);
}

const struct namespace_type namespace_uts = {
    .name = "uts",
    .kind = "uts",
    .dump = dump,
    .restore = restore,
};
