/* module.h: what a module, a shared object with the kernels and the memory of a device, gives the
 * program that opens it. */
#ifndef ALK_MODULE_H
#define ALK_MODULE_H
#include "table.h"

/* A queue is one card's: kernels get it as their place's `queue`, and what is put into it is done
 * in order. Texts are cut at n bytes. */
typedef struct alk_module {
  const alk_table *table;
  /* How many cards can be used; else 0, and `why` says what is missing. */
  int (*cards)(char *why, size_t n);
  /* What card i is, with its driver and libraries, in one line. */
  void (*describe)(int i, char *text, size_t n);
  int64_t (*memory)(int i); /* bytes of card i in all */
  void *(*open)(int card, char *why, size_t n);
  void (*close)(void *queue);
  void (*use)(void *queue); /* the calling thread's next calls go to its card */
  void *(*take)(void *queue, int64_t bytes);
  void (*give)(void *queue, void *data);
  void (*poison)(void *queue, int n, void *const *data,
                 const int64_t *bytes); /* n blocks, with NaN */
  /* to_host waits for what was queued; from_host returns when `from` was read. */
  void (*to_host)(void *queue, void *to, const void *from, int64_t bytes);
  void (*from_host)(void *queue, void *to, const void *from, int64_t bytes);
  /* Memory that was given back and is kept goes to the system. */
  void (*trim)(void *queue);
  /* NULL, or what went wrong since it was asked last; *dead: the process can use the card no more. */
  const char *(*failure)(void *queue, bool *dead);
  /* How products are computed, which decides how they round: one plan a shape. As long as timing
   * is on, a new shape's is the fastest of several. All plans so far as text, free() it, or NULL;
   * plans from such a text, beside those there are, all or, where it is of another card or library
   * or its lines are not sound, none. Both say why not. */
  bool (*plans_time)(void *queue, bool on);
  char *(*plans_save)(void *queue, char *why, size_t n);
  bool (*plans_load)(void *queue, const char *text, char *why, size_t n);
} alk_module;

/* The one export of a module, alk_cuda_module: *build is the build it is of, which has to be the
 * program's (ALK_BUILD_ID) before anything else is read. */
typedef const alk_module *(*alk_module_fn)(const char **build);
#define ALK_MODULE_EXPORT "alk_cuda_module"
#define ALK_MODULE_FILE "attnlab_cuda.so"
#endif
