/* product.c: the plain blocked matrix product, one thread, any strides: f64, and f32 without
 * oneDNN.
 *
 * Blocks of B (KC x NC) and strips of A (MR x KC) are packed on the stack, zero-padded at the
 * edges; the inner loop keeps MR x 2 vectors of C in registers. Sums run over k in blocks of KC, in
 * order. Also the two bias kernels, which want the same element type and instruction set.
 */
#include "product.h"

typedef ALK_REAL real;

#if defined(__AVX512F__)
#define VEC_BYTES 64
#elif defined(__AVX__)
#define VEC_BYTES 32
#else
#define VEC_BYTES 16
#endif
typedef real vec __attribute__((vector_size(VEC_BYTES), aligned(sizeof(real)), may_alias));

enum {
  VL = VEC_BYTES / sizeof(real),
  MR = 6, /* 6 x 2 sums, 2 of B and 1 of A: 15 of the 16 registers of x86-64 */
  NR = 2 * VL,
  KC = 128,
  NC =
      128 / sizeof(real) * 4 /* a block of B is 64 KiB: half of the smallest L2, and fits a stack */
};

/* c[MR][NR] = a (KC strip, MR adjacent) x b (KC strip, NR adjacent) over k steps. */
static void tile(real c[MR][NR], const real *a, const real *b, int64_t k) {
  vec s[MR][2] = {{{0}}};
  for (int64_t p = 0; p < k; p++) {
    vec b0 = *(const vec *)(b + p * NR), b1 = *(const vec *)(b + p * NR + VL);
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++) {
      real x = a[p * MR + i];
      s[i][0] += x * b0;
      s[i][1] += x * b1;
    }
  }
  for (int i = 0; i < MR; i++) {
    *(vec *)&c[i][0] = s[i][0];
    *(vec *)&c[i][VL] = s[i][1];
  }
}

/* Panels of `width` rows (of A) or columns (of B): out[panel][p][lane], lanes past n are 0. */
static void pack(real *out, const real *x, int64_t n, int64_t k, int width, int64_t stride_n,
                 int64_t stride_k) {
  for (int64_t j = 0; j < n; j += width)
    for (int64_t p = 0; p < k; p++)
      for (int l = 0; l < width; l++) *out++ = j + l < n ? x[(j + l) * stride_n + p * stride_k] : 0;
}

void ALK_NAME(product)(const alk_matmul_task *t) {
  real strip_b[KC * NC], strip_a[KC * MR], c[MR][NR];
  const real *A = t->a, *B = t->b, alpha = (real)t->alpha;
  real *C = t->c;
  for (int64_t k0 = 0; k0 < t->k; k0 += KC) {
    int64_t nk = t->k - k0 < KC ? t->k - k0 : KC;
    bool first = k0 == 0 && !t->add;
    for (int64_t j0 = 0; j0 < t->n; j0 += NC) {
      int64_t nj = t->n - j0 < NC ? t->n - j0 : NC;
      pack(strip_b, B + k0 * t->b_row + j0 * t->b_col, nj, nk, NR, t->b_col, t->b_row);
      for (int64_t i0 = 0; i0 < t->m; i0 += MR) {
        int64_t ni = t->m - i0 < MR ? t->m - i0 : MR;
        pack(strip_a, A + i0 * t->a_row + k0 * t->a_col, ni, nk, MR, t->a_row, t->a_col);
        for (int64_t j = 0; j < nj; j += NR) {
          int64_t w = nj - j < NR ? nj - j : NR;
          tile(c, strip_a, strip_b + j * nk, nk);
          for (int64_t i = 0; i < ni; i++) {
            real *row = C + (i0 + i) * t->c_row + j0 + j;
            if (first)
              for (int64_t l = 0; l < w; l++) row[l] = alpha * c[i][l];
            else
              for (int64_t l = 0; l < w; l++) row[l] += alpha * c[i][l];
          }
        }
      }
    }
  }
}

void ALK_NAME(bias_add)(void *c, const void *bias, int64_t m, int64_t n, int64_t c_row) {
  const real *restrict b = bias;
  for (int64_t i = 0; i < m; i++) {
    real *restrict row = (real *)c + i * c_row;
    for (int64_t j = 0; j < n; j++) row[j] += b[j];
  }
}

alk_status ALK_NAME(bias_sum)(const alk_place *place, void *sum, const void *x, int64_t m,
                              int64_t n) {
  enum { W = 64, R = 64 }; /* two levels of R rows keep the f32 error near 1e-6 for 4096 rows */
#pragma omp parallel for num_threads(place->threads) schedule(static) if (m * n > 32768)
  for (int64_t j0 = 0; j0 < n; j0 += W) {
    int64_t w = n - j0 < W ? n - j0 : W;
    real total[W] = {0};
    for (int64_t i0 = 0; i0 < m; i0 += R) {
      real part[W] = {0};
      for (int64_t i = i0; i < m && i < i0 + R; i++) {
        const real *row = (const real *)x + i * n + j0;
        if (w == W)
          for (int j = 0; j < W; j++) part[j] += row[j];
        else
          for (int64_t j = 0; j < w; j++) part[j] += row[j];
      }
      for (int j = 0; j < W; j++) total[j] += part[j];
    }
    for (int64_t j = 0; j < w; j++) ((real *)sum)[j0 + j] = total[j];
  }
  return ALK_OK;
}
