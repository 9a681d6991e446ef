#include "codec/codec.h"

#include "base/cleanup.h"
#include "codec/noise.h"

#include <lz4.h>
#include <string.h>
#ifdef HAVE_ISAL
#include <isa-l/igzip_lib.h>
#endif
#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif
#include <zlib.h>

/* Who chooses lz4 wants speed: a sixth of it for a twentieth of the ratio. */
enum { LZ4_ACCELERATION = 2 };

struct codec_context {
  void *lz4;
#ifdef HAVE_ISAL
  struct isal_zstream igzip;
  uint8_t *level_buffer;
#endif
#ifdef HAVE_LIBDEFLATE
  struct libdeflate_compressor *compressor;
  struct libdeflate_decompressor *decompressor;
#endif
};

static const char *const names[] = {
    [CODEC_NONE] = "none",
    [CODEC_FLATE] = "flate-best-speed",
    [CODEC_LZ4] = "lz4",
};

int codec_by_name(const char *name)
{
  for (size_t i = 0; i < ARRAY_LEN(names); i++) {
    if (strcmp(names[i], name) == 0)
      return (int)i;
  }
  return -1;
}

struct codec_context *codec_context_new(struct err *e)
{
  struct codec_context *context = calloc(1, sizeof(*context));
  bool complete = context != NULL;

  if (complete) {
    context->lz4 = malloc((size_t)LZ4_sizeofState());
    complete = context->lz4 != NULL;
#ifdef HAVE_ISAL
    context->level_buffer = malloc(ISAL_DEF_LVL1_DEFAULT);
    complete = complete && context->level_buffer;
#endif
#ifdef HAVE_LIBDEFLATE
    context->compressor = libdeflate_alloc_compressor(1);
    context->decompressor = libdeflate_alloc_decompressor();
    complete = complete && context->compressor && context->decompressor;
#endif
  }
  if (!complete) {
    codec_context_cleanup(&context);
    err_set(e, "out of memory for codecs");
  }
  return context;
}

void codec_context_cleanup(struct codec_context **context)
{
  if (!*context)
    return;
  free((*context)->lz4);
#ifdef HAVE_ISAL
  free((*context)->level_buffer);
#endif
#ifdef HAVE_LIBDEFLATE
  libdeflate_free_compressor((*context)->compressor);
  libdeflate_free_decompressor((*context)->decompressor);
#endif
  free(*context);
  *context = NULL;
}

#if defined(HAVE_ISAL)
static size_t deflate_chunk(struct codec_context *context, const void *in, size_t size, void *out)
{
  struct isal_zstream *stream = &context->igzip;

  isal_deflate_stateless_init(stream);
  stream->level = 1;
  stream->level_buf = context->level_buffer;
  stream->level_buf_size = ISAL_DEF_LVL1_DEFAULT;
  stream->next_in = (uint8_t *)in;
  stream->avail_in = (uint32_t)size;
  stream->next_out = out;
  stream->avail_out = (uint32_t)size - 1;
  stream->end_of_stream = 1;
  stream->flush = NO_FLUSH;
  return isal_deflate_stateless(stream) == COMP_OK && stream->avail_in == 0 ? stream->total_out : 0;
}
#elif defined(HAVE_LIBDEFLATE)
static size_t deflate_chunk(struct codec_context *context, const void *in, size_t size, void *out)
{
  return libdeflate_deflate_compress(context->compressor, in, size, out, size - 1);
}
#else
static size_t deflate_chunk(struct codec_context *context, const void *in, size_t size, void *out)
{
  z_stream stream = {
      .next_in = (Bytef *)in, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)size - 1};
  size_t length = 0;

  (void)context;
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    return 0;
  if (deflate(&stream, Z_FINISH) == Z_STREAM_END)
    length = stream.total_out;
  deflateEnd(&stream);
  return length;
}
#endif

#ifdef HAVE_LIBDEFLATE
static bool inflate_chunk(struct codec_context *context, const void *in, size_t size, void *out,
                          size_t out_size)
{
  size_t used, made;

  return libdeflate_deflate_decompress_ex(context->decompressor, in, size, out, out_size, &used,
                                          &made) == LIBDEFLATE_SUCCESS &&
         used == size && made == out_size;
}
#else
static bool inflate_chunk(struct codec_context *context, const void *in, size_t size, void *out,
                          size_t out_size)
{
  z_stream stream = {
      .next_in = (Bytef *)in, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)out_size};
  bool whole;

  (void)context;
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
    return false;
  whole = inflate(&stream, Z_FINISH) == Z_STREAM_END && stream.total_out == out_size &&
          stream.avail_in == 0;
  inflateEnd(&stream);
  return whole;
}
#endif

size_t codec_compress(struct codec_context *context, uint8_t codec, const void *in, size_t size,
                      void *out)
{
  if (size < 2 || noise_found(context->lz4, in, size))
    return 0;
  if (codec == CODEC_FLATE)
    return deflate_chunk(context, in, size, out);
  if (codec == CODEC_LZ4) {
    int length = LZ4_compress_fast_extState(context->lz4, in, out, (int)size, (int)size - 1,
                                            LZ4_ACCELERATION);

    return length > 0 ? (size_t)length : 0;
  }
  return 0;
}

int codec_decompress(struct codec_context *context, uint8_t codec, const void *in, size_t size,
                     void *out, size_t out_size, struct err *e)
{
  bool whole = false;

  if (codec == CODEC_FLATE)
    whole = inflate_chunk(context, in, size, out, out_size);
  else if (codec == CODEC_LZ4)
    whole = LZ4_decompress_safe(in, out, (int)size, (int)out_size) == (int)out_size;
  return whole ? 0 : err_set(e, "a payload does not decompress to its %zu bytes", out_size);
}

const char *codec_version_text(void)
{
  return "deflate: "
#if defined(HAVE_ISAL)
         "ISA-L igzip level 1"
#elif defined(HAVE_LIBDEFLATE)
         "libdeflate level 1"
#else
         "zlib level 1"
#endif
         "; inflate: "
#ifdef HAVE_LIBDEFLATE
         "libdeflate"
#else
         "zlib"
#endif
         "; lz4: liblz4 " LZ4_VERSION_STRING "\n";
}
