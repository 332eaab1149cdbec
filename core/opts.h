/* opts.h: what the files of the options share: a value, a table of them, a bounded text. */
#ifndef AL_OPTS_H
#define AL_OPTS_H
#include "core.h"
#include <stdarg.h>
#include <stdio.h>

typedef struct al_value {
  unsigned kind; /* one AL_T_ bit: BOOL, NUM, WORD, TEXT, LIST, NAMED, RECORD; integers are NUM */
  bool given;
  bool b;
  double num;
  char *word; /* owned; NAMED: the names, sorted, separated by spaces */
  double *list;
  int n_list;
  al_opts *record;
} al_value;

struct al_opts {
  int64_t refs;
  const al_arg *rows;
  const char *owner;
  void *read; /* what al_opts_read made of the values, or NULL */
  int n;
  al_value v[];
};

/* A bounded text that remembers when it is full. */
typedef struct al_text {
  char *buf;
  size_t n, at;
} al_text;

static inline __attribute__((format(printf, 2, 3))) void al_put(al_text *t, const char *fmt, ...) {
  if (t->at >= t->n) return;
  va_list ap;
  va_start(ap, fmt);
  const int k = vsnprintf(t->buf + t->at, t->n - t->at, fmt, ap);
  va_end(ap);
  if (k > 0) t->at += (size_t)k;
}
#endif
