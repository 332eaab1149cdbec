/* optim.h: parameter updates in place, over a list of packed arrays at once. */
#ifndef ALK_OPTIM_H
#define ALK_OPTIM_H
#include "kernel.h"

typedef struct alk_optim_step {
  double lr, scale;          /* scale multiplies the gradient (clipping) */
  double beta1, beta2, eps;  /* AdamW */
  double correct1, correct2; /* 1 - beta^step */
  double momentum;           /* SGD */
} alk_optim_step;

/* One parameter of n elements. Threads share the list out in blocks of ALK_OPTIM_BLOCK elements,
 * none across two parameters: first = blocks before this one. */
enum { ALK_OPTIM_BLOCK = 8192 };
typedef struct alk_optim_task {
  int64_t n, first;
  void *p, *m, *v; /* v: AdamW only */
  const void *g;
  double decay;
} alk_optim_task;

/* *sum += the squares of all gradients; `parts` has room for the sum of each block, which are added
 * in order. */
ALK_KERNEL(optim_squares, int n_tasks, const alk_optim_task *tasks, double *parts, double *sum)
/* g' = scale g; m = b1 m + (1-b1) g'; v = b2 v + (1-b2) g'^2; p -= lr (m/c1 / (sqrt(v/c2) + eps) +
 * decay p) */
ALK_KERNEL(adamw, int n_tasks, const alk_optim_task *tasks, const alk_optim_step *s)
/* m = momentum m + scale g; p -= lr (m + decay p) */
ALK_KERNEL(sgd, int n_tasks, const alk_optim_task *tasks, const alk_optim_step *s)
#endif
