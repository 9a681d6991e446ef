/* Structs to JSON and back by one table a struct, so that both directions cannot disagree. */
#ifndef CKPT_STATE_FIELDS_H
#define CKPT_STATE_FIELDS_H

#include "base/err.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes owned by the struct they are in; base64 in JSON. */
struct blob {
  uint8_t *data;
  size_t size;
};

enum field_kind {
  FIELD_SIGNED,   /* any integer type; a JSON integer */
  FIELD_UNSIGNED, /* the same; above 2^53 a decimal string, which every reader takes too */
  FIELD_HEX,      /* an address or a bit set; a string "0x7f00..." */
  FIELD_BOOL,
  FIELD_STRING,  /* char *, NULL is null; {"base64": "..."} when it is not UTF-8 */
  FIELD_BLOB,    /* struct blob */
  FIELD_STRUCT,  /* in place, with a table of its own */
  FIELD_LIST,    /* pointer and size_t count, of structs with a table */
  FIELD_NUMBERS, /* pointer and size_t count, of uint32_t */
  FIELD_JSON,    /* json_t * */
};

struct field {
  const char *name; /* NULL ends a table */
  enum field_kind kind;
  size_t offset;
  size_t size;         /* of the member; of one element for lists */
  size_t count_offset; /* lists: where the count is */
  const struct field *fields;
};

#define FIELD_MEMBER(type, member) offsetof(type, member), sizeof(((type *)0)->member)
#define F_SIGNED(t, m)                            \
  {                                               \
#m, FIELD_SIGNED, FIELD_MEMBER(t, m), 0, NULL \
  }
#define F_UNSIGNED(t, m)                            \
  {                                                 \
#m, FIELD_UNSIGNED, FIELD_MEMBER(t, m), 0, NULL \
  }
#define F_HEX(t, m)                            \
  {                                            \
#m, FIELD_HEX, FIELD_MEMBER(t, m), 0, NULL \
  }
#define F_BOOL(t, m)                            \
  {                                             \
#m, FIELD_BOOL, FIELD_MEMBER(t, m), 0, NULL \
  }
#define F_STRING(t, m)                            \
  {                                               \
#m, FIELD_STRING, FIELD_MEMBER(t, m), 0, NULL \
  }
#define F_BLOB(t, m)                            \
  {                                             \
#m, FIELD_BLOB, FIELD_MEMBER(t, m), 0, NULL \
  }
#define F_STRUCT(t, m, table)                      \
  {                                                \
#m, FIELD_STRUCT, FIELD_MEMBER(t, m), 0, table \
  }
#define F_LIST(t, m, count, table)                                                  \
  {                                                                                 \
#m, FIELD_LIST, offsetof(t, m), sizeof(*((t *)0)->m), offsetof(t, count), table \
  }
#define F_NUMBERS(t, m, count)                                                        \
  {                                                                                   \
#m, FIELD_NUMBERS, offsetof(t, m), sizeof(*((t *)0)->m), offsetof(t, count), NULL \
  }
#define F_JSON(t, m)                            \
  {                                             \
#m, FIELD_JSON, FIELD_MEMBER(t, m), 0, NULL \
  }
#define F_END                         \
  {                                   \
    NULL, FIELD_SIGNED, 0, 0, 0, NULL \
  }

/* A new object with a member for each field, in table order; NULL with e set on failure. */
json_t *fields_to_json(const struct field *fields, const void *from, struct err *e);

/*
 * Fills a zeroed struct. Each member must be there, of its type and in the range of its C type;
 * members that the table does not know are an error too. On failure e names the member and what
 * was filled is still the caller's to fields_free.
 */
int fields_from_json(const struct field *fields, void *to, const json_t *object, struct err *e);

/* Frees what the fields own (not the struct itself). */
void fields_free(const struct field *fields, void *of);

/*
 * Bytes to base64 and back (RFC 4648 section 4, padded). Results are the caller's to free; behind a
 * blob's last byte there is room for one more.
 */
char *base64_encode(const void *data, size_t size, struct err *e);
int base64_decode(const char *text, struct blob *blob, struct err *e);

#endif
