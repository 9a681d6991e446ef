/* Names and records that writer and reader of an image share. */
#ifndef CKPT_IMAGE_NAMES_H
#define CKPT_IMAGE_NAMES_H

enum image_file { IMAGE_PAGES, IMAGE_META, IMAGE_CHECKPOINT, IMAGE_FILES };

struct image_name {
  const char *final;
  const char *temporary;
};
/* In the order in which they get their names. */
extern const struct image_name image_names[IMAGE_FILES];

#define META_MAGIC "CKPTMETA"
enum { META_RECORD_SIZE = 64 };

#endif
