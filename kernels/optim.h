/* optim.h: parameter updates in place, over a list of packed arrays at once. */
#ifndef ALK_OPTIM_H
#define ALK_OPTIM_H
#include "kernel.h"

typedef struct alk_optim_step {
  double lr, clip;          /* clip: the largest norm that goes as it is, 0: any */
  double beta1, beta2, eps; /* AdamW */
  double momentum;          /* SGD */
} alk_optim_step;

/* One parameter of n elements. Threads share the list out in blocks of ALK_OPTIM_BLOCK elements,
 * none across two parameters: first = blocks before this one. */
enum { ALK_OPTIM_BLOCK = 8192 };
typedef struct alk_optim_task {
  int64_t n, first;
  void *p, *m, *v; /* v: AdamW only */
  const void *g;
  /* NULL, or bf16 (n): p rounded, which the model computes with, written in the same pass. Where it
   * holds anything else before, somebody wrote into it, and p starts from that number. */
  void *narrow;
  double decay;
} alk_optim_task;

/* *sum (f64) += the squares of all gradients; `parts` (f64) has room for the sum of each block,
 * which are added in order. */
ALK_KERNEL(optim_squares, int n_tasks, const alk_optim_task *tasks, void *parts, void *sum)
/* *norm = root of *sum, or NaN where *after is not finite (NULL: as if it were); *steps += 1 where
 * the norm is finite. All f64. */
ALK_ANY(optim_norm, const void *sum, const void *after, void *norm, void *steps)
/* Both do nothing where *norm is not finite; n = *steps is the number of this one. g' = g min(1,
 * clip / norm); c_i = 1 - b_i^n; m = b1 m + (1-b1) g'; v = b2 v + (1-b2) g'^2; p -= lr (m/c1 /
 * (sqrt(v/c2) + eps) + decay p) */
ALK_KERNEL(adamw, int n_tasks, const alk_optim_task *tasks, const alk_optim_step *s,
           const void *norm, const void *steps)
/* m = momentum m + g'; p -= lr (m + decay p) */
ALK_KERNEL(sgd, int n_tasks, const alk_optim_task *tasks, const alk_optim_step *s, const void *norm)
#endif
