/* optim.h: parameter updates over packed arrays, in place. */
#ifndef ALK_OPTIM_H
#define ALK_OPTIM_H
#include "kernel.h"

typedef struct alk_optim_step {
  double lr, scale, decay;     /* scale multiplies the gradient (clipping) */
  double beta1, beta2, eps;    /* AdamW */
  double correct1, correct2;   /* 1 - beta^step */
  double momentum;             /* SGD */
} alk_optim_step;

/* Sum of squares, in double, partial sums in fixed blocks. */
ALK_KERNEL(sum_squares, double, (int64_t n, const void *x))
/* g' = scale g; m = b1 m + (1-b1) g'; v = b2 v + (1-b2) g'^2; p -= lr (m/c1 / (sqrt(v/c2) + eps) + decay p) */
ALK_KERNEL(adamw, void, (int64_t n, const alk_optim_step *s, void *p, const void *g, void *m, void *v))
/* m = momentum m + scale g; p -= lr (m + decay p) */
ALK_KERNEL(sgd, void, (int64_t n, const alk_optim_step *s, void *p, const void *g, void *m))
#endif
