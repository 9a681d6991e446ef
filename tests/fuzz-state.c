/* State objects, a line each: any text may be refused, and what is taken must be freed whole. */
#include "base/err.h"
#include "state/model.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct tree tree = {0};
  struct err e = {""};
  const char *text = (const char *)data;
  int result = 0;

  while (size && result == 0) {
    const char *end = memchr(text, '\n', size);
    size_t length = end ? (size_t)(end - text) : size;

    result = tree_add_json(&tree, text, length, &e);
    length += end != NULL;
    text += length;
    size -= length;
  }
  if (result == 0)
    tree_check(&tree, &e);
  tree_free(&tree);
  return 0;
}
