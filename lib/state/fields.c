#include "state/fields.h"

#include "base/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define EXACT_IN_DOUBLE (INT64_C(1) << 53) /* what JSON readers with doubles keep exact */

static uint64_t load_number(const void *from, size_t size, bool is_signed)
{
  uint64_t value = 0;
  unsigned shift = 64 - (unsigned)size * 8;

  memcpy(&value, from, size); /* little-endian */
  return is_signed ? (uint64_t)((int64_t)(value << shift) >> shift) : value;
}

/* Stores a value that was checked to fit; false when it does not. */
static bool store_number(void *to, size_t size, bool is_signed, uint64_t value)
{
  memcpy(to, &value, size);
  return load_number(to, size, is_signed) == value;
}

static json_t *number_to_json(uint64_t value, bool is_signed)
{
  char text[32];
  int64_t exact = (int64_t)value;

  if ((is_signed || exact >= 0) && exact <= EXACT_IN_DOUBLE && exact >= -EXACT_IN_DOUBLE)
    return json_integer(exact);
  if (is_signed)
    snprintf(text, sizeof(text), "%" PRId64, exact);
  else
    snprintf(text, sizeof(text), "%" PRIu64, value);
  return json_string(text);
}

/* An integer, or a string with one: decimal, or hexadecimal behind 0x. */
static bool number_from_json(const json_t *json, bool is_signed, uint64_t *value)
{
  const char *text = json_string_value(json);
  const char *digits;
  bool negative;
  char *end;

  if (json_is_integer(json)) {
    *value = (uint64_t)json_integer_value(json);
    return is_signed || json_integer_value(json) >= 0;
  }
  if (!text)
    return false;
  negative = text[0] == '-';
  digits = text + negative;
  if (digits[0] < '0' || digits[0] > '9' || (negative && !is_signed))
    return false;
  errno = 0;
  *value = strtoull(digits, &end, digits[1] == 'x' ? 16 : 10);
  if (errno || *end)
    return false;
  if (is_signed && *value > (uint64_t)INT64_MAX + negative)
    return false;
  if (negative)
    *value = -*value;
  return true;
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t size, struct err *e)
{
  const uint8_t *in = data;
  char *text = malloc((size + 2) / 3 * 4 + 1);
  char *out = text;

  if (!text) {
    err_sys(e, "base64");
    return NULL;
  }
  for (size_t i = 0; i < size; i += 3) {
    size_t left = size - i;
    uint32_t bits = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                    (left > 2 ? in[i + 2] : 0);

    *out++ = base64_digits[bits >> 18];
    *out++ = base64_digits[bits >> 12 & 63];
    *out++ = left > 1 ? base64_digits[bits >> 6 & 63] : '=';
    *out++ = left > 2 ? base64_digits[bits & 63] : '=';
  }
  *out = '\0';
  return text;
}

int base64_decode(const char *text, struct blob *blob, struct err *e)
{
  size_t length = strlen(text);
  size_t padding = 0;
  uint8_t *data;

  if (length % 4)
    return err_set(e, "base64 text of %zu characters", length);
  while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
    padding++;
  data = malloc(length / 4 * 3 + 1);
  if (!data)
    return err_sys(e, "base64");
  for (size_t i = 0, k = 0; i < length; i += 4) {
    uint32_t bits = 0;

    for (size_t j = 0; j < 4; j++) {
      bool pad = i + j >= length - padding;
      const char *digit = pad ? base64_digits : strchr(base64_digits, text[i + j]);

      if (!digit || *digit == '\0') {
        free(data);
        return err_set(e, "base64 text has a foreign character at %zu", i + j);
      }
      bits = bits << 6 | (uint32_t)(digit - base64_digits);
    }
    data[k++] = (uint8_t)(bits >> 16);
    data[k++] = (uint8_t)(bits >> 8);
    data[k++] = (uint8_t)bits;
  }
  *blob = (struct blob){.data = data, .size = length / 4 * 3 - padding};
  return 0;
}

static json_t *blob_to_json(const struct blob *blob, struct err *e)
{
  AUTO_FREE char *text = base64_encode(blob->data, blob->size, e);

  return text ? json_string(text) : NULL;
}

/* A name of the kernel's may hold any bytes, JSON only UTF-8: {"base64": "..."} where it is not. */
static json_t *string_to_json(const char *string, struct err *e)
{
  AUTO_FREE char *encoded = NULL;
  json_t *plain;

  if (!string)
    return json_null();
  plain = json_string(string);
  if (plain)
    return plain;
  encoded = base64_encode(string, strlen(string), e);
  return encoded ? json_pack("{s:s}", "base64", encoded) : NULL;
}

static json_t *list_to_json(const struct field *field, const char *member, size_t count,
                            struct err *e)
{
  const char *item = *(const char *const *)member;
  json_t *array = json_array();

  for (size_t i = 0; array && i < count; i++, item += field->size) {
    json_t *value = field->kind == FIELD_NUMBERS
                        ? number_to_json(load_number(item, field->size, false), false)
                        : fields_to_json(field->fields, item, e);

    if (!value || json_array_append_new(array, value) < 0) {
      json_decref(array);
      return NULL;
    }
  }
  return array;
}

static json_t *field_to_json(const struct field *field, const char *base, struct err *e)
{
  const char *member = base + field->offset;
  char text[32];

  switch (field->kind) {
  case FIELD_SIGNED:
  case FIELD_UNSIGNED:
    return number_to_json(load_number(member, field->size, field->kind == FIELD_SIGNED),
                          field->kind == FIELD_SIGNED);
  case FIELD_HEX:
    snprintf(text, sizeof(text), "0x%" PRIx64, load_number(member, field->size, false));
    return json_string(text);
  case FIELD_BOOL:
    return json_boolean(*(const bool *)member);
  case FIELD_STRING:
    return string_to_json(*(const char *const *)member, e);
  case FIELD_BLOB:
    return blob_to_json((const struct blob *)member, e);
  case FIELD_STRUCT:
    return fields_to_json(field->fields, member, e);
  case FIELD_LIST:
  case FIELD_NUMBERS:
    return list_to_json(field, member, *(const size_t *)(base + field->count_offset), e);
  case FIELD_JSON:
    return *(json_t *const *)member ? json_incref(*(json_t *const *)member) : json_null();
  }
  return NULL;
}

json_t *fields_to_json(const struct field *fields, const void *from, struct err *e)
{
  json_t *object = json_object();

  for (const struct field *field = fields; object && field->name; field++) {
    json_t *value = field_to_json(field, from, e);

    if (!value || json_object_set_new(object, field->name, value) < 0) {
      json_decref(object);
      err_set(e, "%s: cannot be put into JSON", field->name);
      return NULL;
    }
  }
  return object;
}

static int list_from_json(const struct field *field, char *base, const json_t *json, struct err *e)
{
  size_t count = json_array_size(json);
  size_t *stored = (size_t *)(base + field->count_offset);
  char *items;

  if (!json_is_array(json))
    return err_set(e, "is not a list");
  if (count == 0)
    return 0;
  items = calloc(count, field->size);
  if (!items)
    return err_sys(e, "list of %zu", count);
  *(char **)(base + field->offset) = items;
  for (size_t i = 0; i < count; i++) {
    const json_t *item = json_array_get(json, i);
    uint64_t number;

    *stored = i + 1; /* also for a half-filled one, so that it is freed */
    if (field->kind == FIELD_LIST) {
      if (fields_from_json(field->fields, items + i * field->size, item, e) < 0)
        return err_prefix(e, "%zu", i);
    } else if (!number_from_json(item, false, &number) ||
               !store_number(items + i * field->size, field->size, false, number)) {
      return err_set(e, "%zu: is not a number in range", i);
    }
  }
  return 0;
}

static int bytes_from_json(char **to, const char *encoded, struct err *e)
{
  struct blob blob;

  if (base64_decode(encoded, &blob, e) < 0)
    return -1;
  blob.data[blob.size] = '\0'; /* base64_decode leaves room for it */
  *to = (char *)blob.data;
  return strlen(*to) == blob.size ? 0 : err_set(e, "is not a string");
}

static int string_from_json(char **to, const json_t *json, struct err *e)
{
  const char *encoded = json_string_value(json_object_get(json, "base64"));

  if (json_is_null(json))
    return 0;
  if (encoded && json_object_size(json) == 1)
    return bytes_from_json(to, encoded, e);
  if (!json_is_string(json) || strlen(json_string_value(json)) != json_string_length(json))
    return err_set(e, "is not a string");
  *to = strdup(json_string_value(json));
  return *to ? 0 : err_sys(e, "string");
}

static int field_from_json(const struct field *field, char *base, const json_t *json, struct err *e)
{
  bool is_signed = field->kind == FIELD_SIGNED;
  char *member = base + field->offset;
  uint64_t number;

  switch (field->kind) {
  case FIELD_SIGNED:
  case FIELD_UNSIGNED:
  case FIELD_HEX:
    if (!number_from_json(json, is_signed, &number) ||
        !store_number(member, field->size, is_signed, number))
      return err_set(e, "is not a number in range");
    return 0;
  case FIELD_BOOL:
    if (!json_is_boolean(json))
      return err_set(e, "is neither true nor false");
    *(bool *)member = json_is_true(json);
    return 0;
  case FIELD_STRING:
    return string_from_json((char **)member, json, e);
  case FIELD_BLOB:
    if (!json_is_string(json))
      return err_set(e, "is not a string");
    return base64_decode(json_string_value(json), (struct blob *)member, e);
  case FIELD_STRUCT:
    return fields_from_json(field->fields, member, json, e);
  case FIELD_LIST:
  case FIELD_NUMBERS:
    return list_from_json(field, base, json, e);
  case FIELD_JSON:
    *(json_t **)member = json_deep_copy(json);
    return *(json_t **)member ? 0 : err_set(e, "out of memory");
  }
  return 0;
}

int fields_from_json(const struct field *fields, void *to, const json_t *object, struct err *e)
{
  size_t known = 0;

  if (!json_is_object(object))
    return err_set(e, "is not an object");
  for (const struct field *field = fields; field->name; field++) {
    const json_t *value = json_object_get(object, field->name);

    if (!value)
      return err_set(e, "%s: is missing", field->name);
    if (field_from_json(field, to, value, e) < 0)
      return err_prefix(e, "%s", field->name);
    known++;
  }
  if (known != json_object_size(object)) {
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)object, name, value)
    {
      const struct field *field = fields;

      while (field->name && strcmp(field->name, name) != 0)
        field++;
      if (!field->name)
        return err_set(e, "%s: is not known", name);
    }
  }
  return 0;
}

void fields_free(const struct field *fields, void *of)
{
  for (const struct field *field = fields; field->name; field++) {
    char *member = (char *)of + field->offset;

    if (field->kind == FIELD_STRING)
      free(*(char **)member);
    else if (field->kind == FIELD_BLOB)
      free(((struct blob *)member)->data);
    else if (field->kind == FIELD_STRUCT)
      fields_free(field->fields, member);
    else if (field->kind == FIELD_JSON)
      json_decref(*(json_t **)member);
    if (field->kind != FIELD_LIST && field->kind != FIELD_NUMBERS)
      continue;
    for (size_t i = 0;
         field->kind == FIELD_LIST && i < *(const size_t *)((char *)of + field->count_offset); i++)
      fields_free(field->fields, *(char **)member + i * field->size);
    free(*(char **)member);
  }
}
