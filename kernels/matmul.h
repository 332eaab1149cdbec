/* matmul.h: batched matrix product with strides, C = alpha A B (+ C) (+ bias).
 *
 * A (M,K), B (K,N), C (M,N); each batch axis has one stride an operand. f32 goes to oneDNN where
 * the build has it, everything else to a plain blocked product (product.c).
 */
#ifndef ALK_MATMUL_H
#define ALK_MATMUL_H
#include "kernel.h"

/* Strides count elements. An operand's batch stride of 0 repeats it; a batch stride of 0 in C sums
 * the products of that axis, in order. The columns of C are adjacent. */
typedef struct alk_matmul_task {
  alk_dtype dtype; /* of a, b, c and bias: ALK_F32 or ALK_F64; on a device ALK_BF16, too */
  bool wide;       /* with ALK_BF16: c is f32 */
  int64_t m, n, k;
  const void *a, *b;
  void *c;
  int64_t a_row, a_col, b_row, b_col, c_row;
  int n_batch; /* at most ALK_MAX_DIMS */
  int64_t batch[ALK_MAX_DIMS], a_batch[ALK_MAX_DIMS], b_batch[ALK_MAX_DIMS], c_batch[ALK_MAX_DIMS];
  double alpha;
  bool add;         /* C += instead of C = */
  const void *bias; /* (N), added to every row of C once; or NULL */
} alk_matmul_task;

/* Any strides and sizes are computed right, sizes of 0 included. Batch axes are folded into M, N or
 * K where the strides allow, so a 2-D b makes one product of all rows. Threads: over the batch,
 * else over the rows or columns; inside a parallel region it runs on the calling thread. The order
 * of summation depends on sizes, strides and the number of threads only. */
ALK_ANY(matmul, const alk_matmul_task *t)

/* True when a rows x cols operand with these strides goes to the fast product as it is; a copy with
 * adjacent columns is otherwise cheaper. */
bool alk_matmul_direct(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride);

/* "oneDNN 2.6.3", ".., at most avx2" or "plain blocked product". */
const char *alk_matmul_version(void);

/* oneDNN shall use no more than this set; where it does not take that, as once it has run, products
 * are plain from now on. */
void alk_matmul_limit(alk_isa isa);

/* sum[j] = sum (kernel.h) over the m rows of x (m,n), contiguous; threads over columns. */
ALK_KERNEL(bias_sum, void *sum, const void *x, int64_t m, int64_t n)
#endif
