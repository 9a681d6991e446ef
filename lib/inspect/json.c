#include "inspect/inspect.h"

#include <errno.h>

static json_t *space_json(const struct space_pages *space)
{
  return json_pack(
      "{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "space", (json_int_t)space->space, "present_pages",
      (json_int_t)space->present, "inherited_pages", (json_int_t)space->inherited, "stored_pages",
      (json_int_t)space->stored, "compressed_pages", (json_int_t)space->compressed, "payload_bytes",
      (json_int_t)space->payload_bytes, "compressed_bytes", (json_int_t)space->compressed_bytes);
}

static json_t *spaces_json(const struct inspection *inspection)
{
  json_t *spaces = json_array();

  for (size_t i = 0; i < inspection->space_count; i++)
    json_array_append_new(spaces, space_json(&inspection->spaces[i]));
  return spaces;
}

static json_t *header_json(const struct stream_header *header)
{
  char id[2 * sizeof(header->image_id) + 1];

  for (size_t i = 0; i < sizeof(header->image_id); i++)
    snprintf(id + 2 * i, 3, "%02x", header->image_id[i]);
  return json_pack("{s:i, s:i, s:i, s:s}", "version", (int)header->version, "page_size",
                   (int)header->page_size, "machine", (int)header->machine, "image_id", id);
}

int inspect_print_json(const struct inspection *inspection, FILE *out, struct err *e)
{
  json_t *report =
      json_pack("{s:o, s:I, s:I, s:O, s:o}", "header", header_json(&inspection->header), "frames",
                (json_int_t)inspection->frames, "bytes", (json_int_t)inspection->bytes, "state",
                inspection->objects, "spaces", spaces_json(inspection));
  int result = report ? json_dumpf(report, out, JSON_INDENT(2)) : -1;

  json_decref(report);
  if (result < 0 || fprintf(out, "\n") < 0 || fflush(out) != 0)
    return err_sys(e, "write");
  return 0;
}
