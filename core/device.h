/* device.h: what a device is, and how the core's files and the tests deal with it. */
#ifndef AL_DEVICE_H
#define AL_DEVICE_H
#include "op.h"

/* A check of control numbers whose answer nobody has read: what was asked, and where it stands. */
typedef struct al_ids_check {
  const char *op, *input, *besides;
  al_meta meta;
  int64_t hi, other;
} al_ids_check;
enum { AL_CHECKS = 64 };

enum { AL_BINS = 512, AL_POISONED = 128 };

/* What memory and kernels there are to a place. */
struct al_device {
  const char *name;
  alk_device kernels;
  bool host;             /* the host reads and writes its memory */
  bool counts;           /* its memory is counted and not there, and no kernel runs */
  const al_device *like; /* of such a one: where what it counts would be held, current before */
  al_mem mem;
  struct al_block *bins[AL_BINS];  /* freed blocks by size class */
  struct al_block *clean[AL_BINS]; /* those that hold NaN since then */
  int n_used;                      /* of these that do not hold NaN */
  int64_t limit, room;             /* of mem.live, 0: none; bytes there are in all, 0: not known */
  al_work work;
  void *queue;
  /* Where the host does not: memory, NULL where there is no more, and copies, which wait for what
   * was queued; `open` and `shut` are called around a kernel and may be NULL. */
  void *(*take)(al_device *d, int64_t bytes);
  void (*give)(al_device *d, void *data, int64_t bytes);
  void (*to_host)(al_device *d, void *to, const void *from, int64_t bytes);
  void (*from_host)(al_device *d, void *to, const void *from, int64_t bytes);
  void (*open)(al_device *d), (*shut)(al_device *d);
  /* May be NULL: n blocks, AL_POISONED at most, hold NaN from now on; kept memory goes back to the
   * system; what went wrong since it was asked last, or NULL, and whether the process can use the
   * device no more. */
  void (*poison)(al_device *d, int n, void *const *data, const int64_t *bytes);
  void (*trim)(al_device *d);
  const char *(*failure)(al_device *d, bool *dead);
  /* kernels/module.h; NULL: there is one way to compute a product. */
  bool (*plans_time)(al_device *d, bool on);
  char *(*plans_save)(al_device *d, char *why, size_t n);
  bool (*plans_load)(al_device *d, const char *text, char *why, size_t n);
  void (*close)(al_device *d); /* the context ends */
  al_ids_check checks[AL_CHECKS];
  int n_checks;
  void *notes;              /* of each check, where the host does not see: (AL_CHECKS,2) i32 */
  const char *first, *last; /* kernels that were queued since the host last waited, from .. to */
  char dead[256];           /* why nothing runs here any more, or "" */
};

/* Of the context: its own two, and what was offered. */
void al_device_init(al_ctx *c);
void al_device_end(al_ctx *c);
/* From now on new contexts have the device that `make` gives, NULL: none. */
void al_device_offer(al_device *(*make)(al_ctx *c));
/* Makes d current, where what is made lies from now on, and returns the one before; NULL changes
 * nothing. */
al_device *al_device_use(al_ctx *c, al_device *d);
/* Packed numbers of t's type, from the host and back; on a device that counts they are 0. */
void al_put_packed(al_tensor *t, const void *from);
void al_get_packed(const al_tensor *t, void *to);

/* Packed numbers of t as the host has them: t's own memory, or a copy of it that goes back to t
 * where al_stage_end is told so. `filled`: with what t holds. False with the error pending. */
typedef struct al_stage {
  al_tensor *t;
  void *bytes;
} al_stage;
bool al_stage_begin(al_stage *g, al_tensor *t, bool filled);
void al_stage_end(al_stage *g, bool back);

/* What went wrong on d becomes the context's error; `kernel` was queued last, NULL: whichever was. */
al_status al_device_settle(al_ctx *c, al_device *d, const char *kernel);

/* ids.c: tells what was noted on d. */
al_status al_ids_report(al_ctx *c, al_device *d);
#endif
