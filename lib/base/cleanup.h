/* Resources that are released when their variable leaves scope. */
#ifndef CKPT_BASE_CLEANUP_H
#define CKPT_BASE_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(function) __attribute__((cleanup(function)))
#define AUTO_FREE CLEANUP(cleanup_free)
#define AUTO_CLOSE CLEANUP(cleanup_close)
#define AUTO_CLOSEDIR CLEANUP(cleanup_closedir)
#define AUTO_FCLOSE CLEANUP(cleanup_fclose)

#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))

static inline void cleanup_free(void *pointer)
{
  free(*(void **)pointer);
}

/* Closes the descriptor unless it is negative; errno survives. */
static inline void cleanup_close(const int *fd)
{
  int saved = errno;

  if (*fd >= 0)
    close(*fd);
  errno = saved;
}

static inline void cleanup_closedir(DIR **dir)
{
  if (*dir)
    closedir(*dir);
}

static inline void cleanup_fclose(FILE **file)
{
  if (*file)
    fclose(*file);
}

/* Hands a resource out of its scope: returns it and leaves the empty value behind. */
static inline int take_fd(int *fd)
{
  int taken = *fd;

  *fd = -1;
  return taken;
}

#define TAKE_POINTER(pointer)               \
  (__extension__({                          \
    __typeof__(pointer) taken_ = (pointer); \
    (pointer) = NULL;                       \
    taken_;                                 \
  }))

#endif
