/* matmul.cu: batched products with strides by cuBLASLt (contract: ../matmul.h; how it computes
 * one: matmul_plans.cuh), and by a plain kernel where it takes none: strides without adjacent rows
 * or columns, sizes of 0. 2 M N K FLOPs; the floor is the library's. Split sums go through the
 * workspace, in a fixed order. */
#include "matmul_plans.cuh"
extern "C" {
#include "../matmul.h"
#include "../matmul_fold.h"
}

/* Bytes, a power of 2, that the address and every batch's are a multiple of. */
static int32_t alignment(const void *p, int64_t stride, int64_t size) {
  const uint64_t bits = (uint64_t)(uintptr_t)p | (uint64_t)(stride * size) | 256u;
  return (int32_t)(bits & (~bits + 1));
}

/* T: of a and b, what is multiplied and added in is what the CPU's plain product adds in; O: of c. */
template <class T, class O>
static __global__ void plain(int64_t m, int64_t n, int64_t k, const T *a, const T *b, O *c,
                             int64_t a_row, int64_t a_col, int64_t b_row, int64_t b_col,
                             int64_t c_row, int64_t batch, int64_t sa, int64_t sb, int64_t sc,
                             real_of<T> alpha, bool add) {
  typedef real_of<T> real;
  GRID_LOOP(u, batch * m * n) {
    const int64_t j = u % n, i = u / n % m, z = u / n / m;
    real sum = 0;
    for (int64_t l = 0; l < k; l++)
      sum += load(a, z * sa + i * a_row + l * a_col) * load(b, z * sb + l * b_row + j * b_col);
    const int64_t to = z * sc + i * c_row + j;
    store(c, to, (real)(alpha * sum + (add ? load(c, to) : 0)));
  }
}
template <class T, class O>
static __global__ void add_bias(int64_t m, int64_t n, int64_t c_row, int64_t batch, int64_t sc,
                                const T *bias, O *c) {
  GRID_LOOP(u, batch * m * n) {
    const int64_t j = u % n, to = u / n / m * sc + u / n % m * c_row + j;
    store(c, to, load(c, to) + load(bias, j));
  }
}

typedef struct operands { /* `batch` products at fixed distances */
  const char *a, *b;
  char *c;
  int64_t batch, sa, sb, sc;
  bool add, last; /* last: the bias follows */
} operands;

template <class T, class O>
static void run_plain(cudaStream_t s, const alk_matmul_task *t, const operands *x) {
  plain<T, O><<<blocks_for(x->batch * t->m * t->n, THREADS), THREADS, 0, s>>>(
      t->m, t->n, t->k, (const T *)x->a, (const T *)x->b, (O *)x->c, t->a_row, t->a_col, t->b_row,
      t->b_col, t->c_row, x->batch, x->sa, x->sb, x->sc, (real_of<T>)t->alpha, x->add);
}
template <class T, class O>
static void run_bias(cudaStream_t s, const alk_matmul_task *t, const operands *x) {
  add_bias<T, O><<<blocks_for(x->batch * t->m * t->n, THREADS), THREADS, 0, s>>>(
      t->m, t->n, t->c_row, x->batch, x->sc, (const T *)t->bias, (O *)x->c);
}
#define BY_TYPE(run, ...)                                                                          \
  (t->dtype == ALK_F64   ? run<double, double>(__VA_ARGS__)                                        \
   : t->dtype == ALK_F32 ? run<float, float>(__VA_ARGS__)                                          \
   : t->wide             ? run<bf16, float>(__VA_ARGS__)                                           \
                         : run<bf16, bf16>(__VA_ARGS__))

/* The product as the library sees it; false where it takes none. */
static bool shape_of(const alk_matmul_task *t, const operands *x, shape *s) {
  const int64_t size = size_of(t->dtype);
  bool ta = false, tb = false;
  memset(s, 0, sizeof *s);
  s->m = t->m, s->n = t->n, s->k = t->k, s->ldc = t->m == 1 ? t->n : t->c_row;
  s->batch = x->batch, s->sa = x->sa, s->sb = x->sb, s->sc = x->sc;
  s->dtype = t->dtype, s->wide = t->wide, s->add = x->add, s->bias = x->last && t->bias;
  if (t->k == 0 || s->ldc < t->n || x->batch >= INT32_MAX ||
      !alk_operand(t->m, t->k, t->a_row, t->a_col, &ta, &s->lda) ||
      !alk_operand(t->k, t->n, t->b_row, t->b_col, &tb, &s->ldb))
    return false;
  s->ta = ta, s->tb = tb;
  s->align_a = alignment(x->a, s->sa | s->lda, size);
  s->align_b = alignment(x->b, s->sb | s->ldb, size);
  s->align_c = alignment(x->c, s->sc | s->ldc, t->wide ? 4 : size);
  return true;
}

static alk_status products(cuda_queue *q, const alk_matmul_task *t, const operands *x) {
  shape s;
  const bool bias = x->last && t->bias;
  if (shape_of(t, x, &s)) {
    if (!blas_of(q)) return ALK_FAILED;
    plan *p = plan_of(q, &s, x->a, x->b, t->bias);
    if (p && !p->taken && bias) { /* without its bias, maybe */
      s.bias = 0;
      p = plan_of(q, &s, x->a, x->b, NULL);
    }
    if (!p) {
      snprintf(q->why, sizeof q->why, "out of memory (a plan of products)");
      q->failed = true;
      return ALK_FAILED;
    }
    if (p->taken) {
      const cublasStatus_t st = multiply(q, p, t->alpha, x->a, x->b, x->c, t->bias);
      if (st == CUBLAS_STATUS_SUCCESS) {
        if (bias && !s.bias) BY_TYPE(run_bias, q->stream, t, x);
        return launched();
      }
      snprintf(q->why, sizeof q->why, "cuBLASLt's status %d for (%lld,%lld) (%lld,%lld)", (int)st,
               (long long)t->m, (long long)t->k, (long long)t->k, (long long)t->n);
      q->failed = true;
      return ALK_FAILED;
    }
  }
  BY_TYPE(run_plain, q->stream, t, x);
  if (bias) BY_TYPE(run_bias, q->stream, t, x);
  return launched();
}

/* The last kept axis is the library's batch; the others and the summed ones are a loop. */
static alk_status matmul(const alk_place *at, const alk_matmul_task *task) {
  cuda_queue *q = queue_of(at);
  alk_matmul_task t = *task;
  if (t.m == 0 || t.n == 0) return ALK_OK;
  for (int i = 0; i < t.n_batch; i++)
    if (t.batch[i] == 0 && t.c_batch[i] != 0) return ALK_OK;
  alk_fold(&t);
  const int n_kept = alk_sort_axes(&t), inner = n_kept ? n_kept - 1 : -1;
  const int64_t size = size_of(t.dtype), size_c = t.wide ? 4 : size;
  operands x = {};
  x.batch = inner >= 0 ? t.batch[inner] : 1;
  if (inner >= 0) x.sa = t.a_batch[inner], x.sb = t.b_batch[inner], x.sc = t.c_batch[inner];
  int64_t outer = 1, summed = 1;
  for (int i = 0; i < n_kept - 1; i++) outer *= t.batch[i];
  for (int i = n_kept; i < t.n_batch; i++) summed *= t.batch[i];
  if (summed == 0) { /* a sum of nothing */
    t.k = 0;
    summed = 1;
    t.n_batch = n_kept;
  }
  for (int64_t o = 0; o < outer; o++) {
    int64_t a0 = 0, b0 = 0, c0 = 0, rest = o;
    for (int i = n_kept - 2; i >= 0; i--) {
      const int64_t x = rest % t.batch[i];
      rest /= t.batch[i];
      a0 += x * t.a_batch[i], b0 += x * t.b_batch[i], c0 += x * t.c_batch[i];
    }
    x.c = (char *)t.c + c0 * size_c;
    for (int64_t z = 0; z < summed; z++) {
      int64_t a1 = a0, b1 = b0;
      rest = z;
      for (int i = t.n_batch - 1; i >= n_kept; i--) {
        const int64_t x = rest % t.batch[i];
        rest /= t.batch[i];
        a1 += x * t.a_batch[i], b1 += x * t.b_batch[i];
      }
      x.a = (const char *)t.a + a1 * size, x.b = (const char *)t.b + b1 * size;
      x.add = t.add || z > 0, x.last = z == summed - 1;
      if (products(q, &t, &x) != ALK_OK) return ALK_FAILED;
    }
  }
  return launched();
}
CUDA_ANY(matmul, matmul)
