/* oracle.h: the formula in double precision, one loop nest, nothing shared with the library but the
 * options it reads. What every variant of kernel_attention is held against. */
#ifndef TEST_ORACLE_H
#define TEST_ORACLE_H
#include "../attention/attn.h"
#include <check.h>

typedef struct oracle_in {
  const al_opts *o;
  int64_t B, T, S, H, Hkv, D, E, C;
  const double *q, *k, *v, *x; /* as attn.h lays them out */
  const int64_t *lengths;      /* NULL = full */
  bool causal;
  int64_t offset;
  const double *(*param)(void *user, const char *name); /* NULL when there is none of that name */
  void *user;
  double *frozen; /* (B,H,T) denominators: filled when fill, else used in place of stopped ones; or
                     NULL */
  bool fill;
} oracle_in;

/* y (B,T,H,E) */
void oracle_forward(const oracle_in *in, double *y);
Suite *suite_oracle(void);
#endif
