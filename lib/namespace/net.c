/*
 * network_namespaces(7): the settings of the namespace, and the loopback device, which everybody
 * has and no runtime makes. All other devices are the runtime's or its network plug-in's.
 * rtnetlink(7); include/uapi/linux/{if_link,if_addr}.h.
 */
#include "base/cleanup.h"
#include "namespace/namespace.h"
#include "namespace/settings.h"
#include "proc/inside.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static const char *const setting_paths[] = {"net", NULL};

/* An address of the loopback device. */
struct address {
  uint32_t family; /* AF_INET, AF_INET6 */
  uint32_t prefix, scope;
  char *local, *peer, *broadcast, *label; /* NULL: none */
  uint32_t flags;                         /* ADDRESS_FLAGS of IFA_F_* */
  uint32_t preferred, valid;              /* seconds; UINT32_MAX: for ever */
};

enum {
  ADDRESS_FLAGS = IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_NOPREFIXROUTE |
                  IFA_F_MCAUTOJOIN,
  LINK_FLAGS = IFF_UP | IFF_PROMISC | IFF_ALLMULTI,
  LABEL_LENGTH = 64,
  ALIAS_LENGTH = 256,
};

struct loopback {
  uint32_t flags; /* LINK_FLAGS of IFF_* */
  uint32_t mtu, queue_length, group;
  char *alias;
  struct address *addresses;
  size_t address_count;
};

struct detail {
  struct loopback loopback;
  json_t *settings;
};

static const struct field address_fields[] = {
    F_UNSIGNED(struct address, family),
    F_UNSIGNED(struct address, prefix),
    F_UNSIGNED(struct address, scope),
    F_STRING(struct address, local),
    F_STRING(struct address, peer),
    F_STRING(struct address, broadcast),
    F_STRING(struct address, label),
    F_HEX(struct address, flags),
    F_UNSIGNED(struct address, preferred),
    F_UNSIGNED(struct address, valid),
    F_END,
};

static const struct field loopback_fields[] = {
    F_HEX(struct loopback, flags),
    F_UNSIGNED(struct loopback, mtu),
    F_UNSIGNED(struct loopback, queue_length),
    F_UNSIGNED(struct loopback, group),
    F_STRING(struct loopback, alias),
    F_LIST(struct loopback, addresses, address_count, address_fields),
    F_END,
};

static const struct field fields[] = {
    F_STRUCT(struct detail, loopback, loopback_fields),
    F_JSON(struct detail, settings),
    F_END,
};

static void loopback_free(struct loopback *loopback)
{
  fields_free(loopback_fields, loopback);
}

static void detail_free(struct detail *detail)
{
  fields_free(fields, detail);
}

/* A conversation with the kernel: one request, then all that it answers. */
struct request {
  struct nlmsghdr header;
  union {
    struct ifinfomsg link;
    struct ifaddrmsg address;
  };
  char attributes[512];
};

typedef int message_visitor(const struct nlmsghdr *message, void *context, struct err *e);

static struct request new_request(uint16_t type, uint16_t flags, size_t size)
{
  return (struct request){
      .header = {.nlmsg_len = (uint32_t)NLMSG_LENGTH(size),
                 .nlmsg_type = type,
                 .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)},
  };
}

/* Attributes of ours are few and short: there is room for all. */
static void add_attribute(struct request *request, unsigned short type, const void *data,
                          size_t size)
{
  struct rtattr *attribute =
      (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));

  attribute->rta_type = type;
  attribute->rta_len = (unsigned short)RTA_LENGTH(size);
  memcpy(RTA_DATA(attribute), data, size);
  request->header.nlmsg_len =
      (uint32_t)(NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len));
}

/* 1: more is to come; 0: that was all. */
static int take_answer(const struct nlmsghdr *message, message_visitor *visit, void *context,
                       struct err *e)
{
  const struct nlmsgerr *error = NLMSG_DATA(message);

  if (message->nlmsg_type == NLMSG_DONE)
    return 0;
  if (message->nlmsg_type == NLMSG_ERROR) {
    if (message->nlmsg_len < NLMSG_LENGTH(sizeof(*error)))
      return err_set(e, "netlink: short answer");
    errno = -error->error;
    return error->error == 0 ? 0 : err_sys(e, "netlink");
  }
  if (visit && visit(message, context, e) < 0)
    return -1;
  return 1;
}

static int converse(int socket, const struct request *request, message_visitor *visit,
                    void *context, struct err *e)
{
  AUTO_FREE char *buffer = malloc(65536);
  int more = 1;

  if (!buffer || send(socket, request, request->header.nlmsg_len, 0) < 0)
    return err_sys(e, "netlink");
  while (more == 1) {
    ssize_t received = recv(socket, buffer, 65536, 0);
    int left = (int)received;

    if (received < 0)
      return err_sys(e, "netlink");
    for (const struct nlmsghdr *message = (void *)buffer; more == 1 && NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left))
      more = take_answer(message, visit, context, e);
  }
  return more;
}

static int open_netlink(struct err *e)
{
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

  return fd < 0 ? err_sys(e, "netlink") : fd;
}

/* Attributes of a message, by type. */
enum { ATTRIBUTES = 64 };

static void sort_attributes(const struct rtattr *attribute, int size,
                            const struct rtattr *sorted[ATTRIBUTES])
{
  memset(sorted, 0, ATTRIBUTES * sizeof(sorted[0]));
  for (; RTA_OK(attribute, size); attribute = RTA_NEXT(attribute, size)) {
    if ((attribute->rta_type & NLA_TYPE_MASK) < ATTRIBUTES)
      sorted[attribute->rta_type & NLA_TYPE_MASK] = attribute;
  }
}

static uint32_t number_of(const struct rtattr *attribute, uint32_t otherwise)
{
  uint32_t number;

  if (!attribute || RTA_PAYLOAD(attribute) < sizeof(number))
    return otherwise;
  memcpy(&number, RTA_DATA(attribute), sizeof(number));
  return number;
}

/* NULL without one, and when memory is out, which json_dumps will see next. */
static char *text_of(const struct rtattr *attribute)
{
  return attribute ? strndup(RTA_DATA(attribute), RTA_PAYLOAD(attribute)) : NULL;
}

static char *address_text(const struct rtattr *attribute, int family)
{
  char text[INET6_ADDRSTRLEN];
  size_t size = family == AF_INET ? 4 : 16;

  if (!attribute || RTA_PAYLOAD(attribute) != size ||
      !inet_ntop(family, RTA_DATA(attribute), text, sizeof(text)))
    return NULL;
  return strdup(text);
}

static int visit_link(const struct nlmsghdr *message, void *context, struct err *e)
{
  struct loopback *loopback = context;
  const struct ifinfomsg *link = NLMSG_DATA(message);
  const struct rtattr *attributes[ATTRIBUTES];

  if (message->nlmsg_type != RTM_NEWLINK || message->nlmsg_len < NLMSG_LENGTH(sizeof(*link)))
    return err_set(e, "netlink: unexpected answer");
  sort_attributes(IFLA_RTA(link), (int)IFLA_PAYLOAD(message), attributes);
  loopback->flags = link->ifi_flags & LINK_FLAGS;
  loopback->mtu = number_of(attributes[IFLA_MTU], 0);
  loopback->queue_length = number_of(attributes[IFLA_TXQLEN], 0);
  loopback->group = number_of(attributes[IFLA_GROUP], 0);
  loopback->alias = text_of(attributes[IFLA_IFALIAS]);
  return 0;
}

static int add_address(struct loopback *loopback, const struct ifaddrmsg *header,
                       const struct rtattr *attributes[ATTRIBUTES], struct err *e)
{
  struct address *address =
      list_append(&loopback->addresses, &loopback->address_count, sizeof(*address));
  const struct rtattr *lifetimes = attributes[IFA_CACHEINFO];
  const struct rtattr *local = attributes[IFA_LOCAL];
  struct ifa_cacheinfo times = {.ifa_prefered = UINT32_MAX, .ifa_valid = UINT32_MAX};

  if (!address)
    return err_sys(e, "addresses");
  if (lifetimes && RTA_PAYLOAD(lifetimes) >= sizeof(times))
    memcpy(&times, RTA_DATA(lifetimes), sizeof(times));
  address->family = header->ifa_family;
  address->prefix = header->ifa_prefixlen;
  address->scope = header->ifa_scope;
  /* IFA_ADDRESS is the peer's, and the same as the local one where there is none. */
  address->local = address_text(local ? local : attributes[IFA_ADDRESS], header->ifa_family);
  if (local)
    address->peer = address_text(attributes[IFA_ADDRESS], header->ifa_family);
  address->broadcast = address_text(attributes[IFA_BROADCAST], header->ifa_family);
  address->label = text_of(attributes[IFA_LABEL]);
  address->flags = number_of(attributes[IFA_FLAGS], header->ifa_flags) & ADDRESS_FLAGS;
  address->preferred = times.ifa_prefered;
  address->valid = times.ifa_valid;
  return address->local ? 0 : err_set(e, "netlink: an address without bytes");
}

static int visit_address(const struct nlmsghdr *message, void *context, struct err *e)
{
  const struct ifaddrmsg *header = NLMSG_DATA(message);
  const struct rtattr *attributes[ATTRIBUTES];

  if (message->nlmsg_type != RTM_NEWADDR || message->nlmsg_len < NLMSG_LENGTH(sizeof(*header)))
    return err_set(e, "netlink: unexpected answer");
  if (header->ifa_index != if_nametoindex("lo") ||
      (header->ifa_family != AF_INET && header->ifa_family != AF_INET6))
    return 0;
  sort_attributes(IFA_RTA(header), (int)IFA_PAYLOAD(message), attributes);
  return add_address(context, header, attributes, e);
}

static int read_loopback(int socket, struct loopback *loopback, struct err *e)
{
  struct request link = new_request(RTM_GETLINK, NLM_F_ACK, sizeof(struct ifinfomsg));
  struct request addresses = new_request(RTM_GETADDR, NLM_F_DUMP, sizeof(struct ifaddrmsg));

  link.link.ifi_index = (int)if_nametoindex("lo");
  if (link.link.ifi_index == 0)
    return err_sys(e, "lo");
  return converse(socket, &link, visit_link, loopback, e) < 0 ||
                 converse(socket, &addresses, visit_address, loopback, e) < 0
             ? -1
             : 0;
}

static int dump_loopback(void *argument, struct err *e)
{
  AUTO_CLOSE int socket = open_netlink(e);

  return socket < 0 ? -1 : read_loopback(socket, argument, e);
}

static json_t *prepare(pid_t init, struct err *e)
{
  return settings_dump(init, "net", setting_paths, e);
}

static json_t *dump(const struct namespace_owner *owner, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  detail.settings = json_incref(json_object_get(owner->prepared, "net"));
  if (inside(owner->init, "net", dump_loopback, &detail.loopback, e) < 0)
    return NULL;
  return fields_to_json(fields, &detail, e);
}

static bool same_text(const char *a, const char *b)
{
  return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Brings the device into its state; with that addresses come and go. */
static int change_link(int socket, const struct loopback *wanted, const struct loopback *now,
                       struct err *e)
{
  struct request request = new_request(RTM_NEWLINK, NLM_F_ACK, sizeof(struct ifinfomsg));
  const char *alias = wanted->alias ? wanted->alias : "";

  request.link.ifi_index = (int)if_nametoindex("lo");
  request.link.ifi_flags = wanted->flags & LINK_FLAGS;
  request.link.ifi_change = (wanted->flags ^ now->flags) & LINK_FLAGS;
  if (wanted->mtu != now->mtu)
    add_attribute(&request, IFLA_MTU, &wanted->mtu, sizeof(wanted->mtu));
  if (wanted->queue_length != now->queue_length)
    add_attribute(&request, IFLA_TXQLEN, &wanted->queue_length, sizeof(wanted->queue_length));
  if (wanted->group != now->group)
    add_attribute(&request, IFLA_GROUP, &wanted->group, sizeof(wanted->group));
  if (!same_text(wanted->alias, now->alias))
    add_attribute(&request, IFLA_IFALIAS, alias, strlen(alias));
  return converse(socket, &request, NULL, NULL, e);
}

static int add_address_bytes(struct request *request, unsigned short type, int family,
                             const char *text, struct err *e)
{
  uint8_t bytes[16];

  if (!text)
    return 0;
  if (inet_pton(family, text, bytes) != 1)
    return err_set(e, "address \"%.60s\" is none", text);
  add_attribute(request, type, bytes, family == AF_INET ? 4 : 16);
  return 0;
}

static int change_address(int socket, uint16_t type, const struct address *address, struct err *e)
{
  uint16_t flags = type == RTM_NEWADDR ? NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL : NLM_F_ACK;
  struct request request = new_request(type, flags, sizeof(struct ifaddrmsg));
  struct ifa_cacheinfo times = {.ifa_prefered = address->preferred, .ifa_valid = address->valid};
  int family = (int)address->family;

  request.address = (struct ifaddrmsg){
      .ifa_family = (uint8_t)address->family,
      .ifa_prefixlen = (uint8_t)address->prefix,
      .ifa_scope = (uint8_t)address->scope,
      .ifa_index = if_nametoindex("lo"),
  };
  if (add_address_bytes(&request, IFA_LOCAL, family, address->local, e) < 0 ||
      add_address_bytes(&request, IFA_ADDRESS, family,
                        address->peer ? address->peer : address->local, e) < 0)
    return -1;
  if (type == RTM_NEWADDR) {
    if (add_address_bytes(&request, IFA_BROADCAST, family, address->broadcast, e) < 0)
      return -1;
    if (address->label)
      add_attribute(&request, IFA_LABEL, address->label, strlen(address->label) + 1);
    add_attribute(&request, IFA_FLAGS, &address->flags, sizeof(address->flags));
    add_attribute(&request, IFA_CACHEINFO, &times, sizeof(times));
  }
  if (converse(socket, &request, NULL, NULL, e) < 0)
    return err_prefix(e, "address %s/%u of lo", address->local, address->prefix);
  return 0;
}

static bool same_address(const struct address *a, const struct address *b)
{
  return a->family == b->family && a->prefix == b->prefix && a->scope == b->scope &&
         a->flags == b->flags && a->preferred == b->preferred && a->valid == b->valid &&
         same_text(a->local, b->local) && same_text(a->peer, b->peer) &&
         same_text(a->broadcast, b->broadcast) && same_text(a->label, b->label);
}

static bool has_address(const struct loopback *loopback, const struct address *address)
{
  for (size_t i = 0; i < loopback->address_count; i++) {
    if (same_address(&loopback->addresses[i], address))
      return true;
  }
  return false;
}

/* Takes away what is too much. With one address others may go: the first that is left is next. */
static int remove_strangers(int socket, const struct loopback *wanted, struct err *e)
{
  enum { MANY = 65536 };

  for (int round = 0; round < MANY; round++) {
    CLEANUP(loopback_free) struct loopback now = {0};
    size_t i = 0;

    if (read_loopback(socket, &now, e) < 0)
      return -1;
    while (i < now.address_count && has_address(wanted, &now.addresses[i]))
      i++;
    if (i == now.address_count)
      return 0;
    if (change_address(socket, RTM_DELADDR, &now.addresses[i], e) < 0)
      return -1;
  }
  return err_set(e, "lo: its addresses cannot be taken away");
}

static int add_missing(int socket, const struct loopback *wanted, struct err *e)
{
  CLEANUP(loopback_free) struct loopback now = {0};

  if (read_loopback(socket, &now, e) < 0)
    return -1;
  for (size_t i = 0; i < wanted->address_count; i++) {
    if (!has_address(&now, &wanted->addresses[i]) &&
        change_address(socket, RTM_NEWADDR, &wanted->addresses[i], e) < 0)
      return -1;
  }
  return 0;
}

static int restore_link(void *argument, struct err *e)
{
  CLEANUP(loopback_free) struct loopback now = {0};
  AUTO_CLOSE int socket = open_netlink(e);

  if (socket < 0 || read_loopback(socket, &now, e) < 0)
    return -1;
  return change_link(socket, argument, &now, e);
}

static int restore_addresses(void *argument, struct err *e)
{
  AUTO_CLOSE int socket = open_netlink(e);

  if (socket < 0 || remove_strangers(socket, argument, e) < 0)
    return -1;
  return add_missing(socket, argument, e);
}

static int check_loopback(const struct loopback *loopback, struct err *e)
{
  if (loopback->alias && strlen(loopback->alias) >= ALIAS_LENGTH)
    return err_set(e, "lo: its alias is too long");
  for (size_t i = 0; i < loopback->address_count; i++) {
    const struct address *address = &loopback->addresses[i];
    uint32_t bits = address->family == AF_INET ? 32 : 128;

    if ((address->family != AF_INET && address->family != AF_INET6) || address->prefix > bits ||
        address->scope > UINT8_MAX || !address->local ||
        (address->label && strlen(address->label) >= LABEL_LENGTH))
      return err_set(e, "lo: its address %zu is impossible", i + 1);
  }
  return 0;
}

static int restore(pid_t init, const json_t *json, struct err *e)
{
  CLEANUP(detail_free) struct detail detail = {0};

  if (fields_from_json(fields, &detail, json, e) < 0 || check_loopback(&detail.loopback, e) < 0)
    return -1;
  /* The device's state resets settings of it, and these decide whether it has IPv6 addresses. */
  if (inside(init, "net", restore_link, &detail.loopback, e) < 0 ||
      settings_restore(init, "net", setting_paths, detail.settings, e) < 0)
    return -1;
  return inside(init, "net", restore_addresses, &detail.loopback, e);
}

const struct namespace_type namespace_net = {
    .name = "net",
    .kind = "net",
    .prepare = prepare,
    .dump = dump,
    .restore = restore,
};
