/* source.h: kernel_attention written out (contract of attn_family.source), and what its two texts share.
 */
#ifndef ATTN_SOURCE_H
#define ATTN_SOURCE_H
#include "formula.h"
#include <stdio.h>
#include <stdlib.h>

bool formula_source(const al_opts *o, const attn_sizes *s, const char *kind, char *buf, size_t n);
void source_torch(FILE *out, const al_opts *o); /* source_torch.c */
void source_latex(FILE *out, const formula *f); /* source_latex.c */

#define PUT(...) fprintf(out, __VA_ARGS__)

/* The shortest text that reads back as v. */
static inline const char *source_number(double v, char buf[32]) {
  snprintf(buf, 32, "%.15g", v);
  if (strtod(buf, NULL) != v) snprintf(buf, 32, "%.17g", v);
  return buf;
}

/* s^order alone */
static inline bool source_plain_power(const weight_fn *p) {
  return p->terms == 1 && p->k[p->order] == 1 && !p->learned && (!p->factorial || p->order < 2);
}

/* Are these weights multiplied by the decay? */
static inline bool source_decays(const formula *f, bool denominator) {
  return f->decay != DECAY_none && !(denominator && f->own_decay);
}
#endif
