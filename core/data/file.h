/* file.h: what the readers and writers of core/data/ share: a file that appears whole or not at
 * all, and a regular file read by offset. */
#ifndef AL_FILE_H
#define AL_FILE_H
#include "../attnlab.h"

/* An output that becomes `path` at commit. Between open and commit every failure, a full disk
 * included, leaves the old file as it was; abort (allowed at any time) removes the temporary. */
typedef struct al_out {
  const char *path;   /* as the caller named it, for messages; borrowed */
  char *target, *tmp; /* names in `at`: the file behind links, and its temporary beside it */
  al_at at;
  int fd; /* -1 when closed */
} al_out;
al_status al_out_open(al_ctx *c, al_out *o, const char *path);
al_status al_out_put(al_ctx *c, al_out *o, const void *data, size_t n);
/* n bytes over what was put at `offset`. */
al_status al_out_put_at(al_ctx *c, al_out *o, int64_t offset, const void *data, size_t n);
al_status al_out_commit(al_ctx *c, al_out *o); /* aborts on failure */
void al_out_abort(al_out *o);

/* An input opened for reading at offsets. `path` is for messages: a copy, without the border. */
typedef struct al_in {
  char *path;
  int fd;
  int64_t size;
} al_in;
al_status al_in_open(al_ctx *c, al_in *f,
                     const char *path); /* refuses what is not a regular file */
/* Exactly n bytes from `offset`; `what` names them in the message. */
al_status al_in_read(al_ctx *c, const al_in *f, int64_t offset, void *data, int64_t n,
                     const char *what);
/* Without a context, so in any thread: how many of n bytes there are, or -errno. */
int64_t al_in_part(const al_in *f, int64_t offset, void *data, int64_t n);
void al_in_close(al_in *f);
#endif
