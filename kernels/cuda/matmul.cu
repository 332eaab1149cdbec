/* matmul.cu: batched products with strides by cuBLASLt (contract: ../matmul.h), and by a plain kernel
 * where it takes none: strides without adjacent rows or columns, sizes of 0.
 *
 * The library is opened by the first product. f32 is f32: TF32 is off. The algorithm is the first that
 * the library's heuristic gives for types, sizes, strides and alignment, asked once a queue; split
 * sums go through the workspace, in a fixed order. */
#include "cuda.cuh"
#include "versions.cuh"
extern "C" {
#include "../matmul.h"
#include "../matmul_fold.h"
}
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the library ----------------------------------------------------------------------------- */

#define CALLS(X)                                                                                   \
  X(cublasLtGetVersion)                                                                            \
  X(cublasLtCreate)                                                                                \
  X(cublasLtDestroy)                                                                               \
  X(cublasLtMatmul)                                                                                \
  X(cublasLtMatmulDescInit_internal)                                                               \
  X(cublasLtMatmulDescSetAttribute)                                                                \
  X(cublasLtMatrixLayoutInit_internal)                                                             \
  X(cublasLtMatrixLayoutSetAttribute)                                                              \
  X(cublasLtMatmulPreferenceInit_internal)                                                         \
  X(cublasLtMatmulPreferenceSetAttribute)                                                          \
  X(cublasLtMatmulAlgoGetHeuristic)
#define X(name) static decltype(&name) p_##name;
CALLS(X)
#undef X

static const char *library(void) {
  static char why[256];
  static bool tried;
  if (tried) return why[0] ? why : NULL;
  tried = true;
  char name[32];
  snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
  void *so = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!so) snprintf(why, sizeof why, "products need %s: %s", name, dlerror());
#define X(call)                                                                                    \
  if (so && !(p_##call = (decltype(p_##call))dlsym(so, #call)))                                    \
    snprintf(why, sizeof why, "%s has no " #call, name);
  CALLS(X)
#undef X
  return why[0] ? why : NULL;
}

const char *cuda_blas_version(void) {
  static char text[280];
  const char *why = library();
  if (why) snprintf(text, sizeof text, ", %s", why);
  else snprintf(text, sizeof text, ", cuBLASLt %zu", p_cublasLtGetVersion());
  return text;
}

/* ---- plans ----------------------------------------------------------------------------------- */

/* One product, or `batch` of them at fixed distances, as the library sees it: row-major C (m,n) is
 * its column-major C^T = B^T A^T. All of it is compared bit by bit. */
typedef struct shape {
  int64_t m, n, k, lda, ldb, ldc, batch, sa, sb, sc;
  int32_t ta, tb, align_a, align_b, align_c, dtype, add, unused;
} shape;
typedef struct plan {
  shape s;
  cublasLtMatmulDesc_t op;
  cublasLtMatmulDescOpaque_t op_data;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  cublasLtMatmulAlgo_t algo;
  size_t workspace;
  bool taken; /* the library has an algorithm */
} plan;
enum { PLANS = 512 };
typedef struct blas {
  cublasLtHandle_t handle;
  plan *plans[PLANS]; /* by hash; a newer one of the same hash drops the older */
} blas;

void cuda_blas_end(cuda_queue *q) {
  blas *b = (blas *)q->blas;
  if (!b) return;
  for (int i = 0; i < PLANS; i++) free(b->plans[i]);
  if (b->handle) p_cublasLtDestroy(b->handle);
  if (q->workspace) cudaFreeAsync(q->workspace, q->stream);
  free(b);
}

static blas *blas_of(cuda_queue *q) {
  if (q->blas) return (blas *)q->blas;
  const char *why = library();
  blas *b = (blas *)calloc(1, sizeof *b);
  if (!why && b && p_cublasLtCreate(&b->handle) != CUBLAS_STATUS_SUCCESS)
    why = "cuBLASLt gives no handle";
  if (!why && cudaMallocAsync(&q->workspace, WORKSPACE, q->stream) != cudaSuccess)
    why = "no memory for cuBLASLt's workspace";
  if (!why && b) return (blas *)(q->blas = b);
  free(b);
  snprintf(q->why, sizeof q->why, "%s", why ? why : "out of memory");
  q->failed = true;
  return NULL;
}

static cudaDataType_t type_of(alk_dtype t) {
  return t == ALK_F64 ? CUDA_R_64F : t == ALK_F32 ? CUDA_R_32F : CUDA_R_16BF;
}
static int64_t size_of(alk_dtype t) { return t == ALK_F64 ? 8 : t == ALK_F32 ? 4 : 2; }

static void make_layout(cublasLtMatrixLayoutOpaque_t *l, cudaDataType_t type, int64_t rows,
                        int64_t cols, int64_t ld, int64_t batch, int64_t stride) {
  cublasLtMatrixLayout_t p = l;
  const int32_t n = (int32_t)batch;
  p_cublasLtMatrixLayoutInit_internal(p, sizeof *l, type, (uint64_t)rows, (uint64_t)cols, ld);
  p_cublasLtMatrixLayoutSetAttribute(p, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n);
  p_cublasLtMatrixLayoutSetAttribute(p, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                     sizeof stride);
}

static void make_plan(blas *b, plan *p, const shape *s) {
  memset(p, 0, sizeof *p);
  p->s = *s;
  const alk_dtype dtype = (alk_dtype)s->dtype;
  const cudaDataType_t type = type_of(dtype), scale = dtype == ALK_F64 ? CUDA_R_64F : CUDA_R_32F;
  const cublasComputeType_t compute = dtype == ALK_F64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  const cublasOperation_t ta = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N,
                          tb = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
  p->op = &p->op_data;
  p_cublasLtMatmulDescInit_internal(p->op, sizeof p->op_data, compute, scale);
  p_cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &tb, sizeof tb);
  p_cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &ta, sizeof ta);
  /* the library's first operand is B^T (n,k), its second A^T (k,m) */
  make_layout(&p->b, type, s->tb ? s->k : s->n, s->tb ? s->n : s->k, s->ldb, s->batch, s->sb);
  make_layout(&p->a, type, s->ta ? s->m : s->k, s->ta ? s->k : s->m, s->lda, s->batch, s->sa);
  make_layout(&p->c, type, s->n, s->m, s->ldc, s->batch, s->sc);
  cublasLtMatmulPreferenceOpaque_t pref_data;
  cublasLtMatmulPreference_t pref = &pref_data;
  p_cublasLtMatmulPreferenceInit_internal(pref, sizeof pref_data);
  const size_t room = WORKSPACE;
  const uint32_t first = (uint32_t)s->align_b, second = (uint32_t)s->align_a,
                 out = (uint32_t)s->align_c;
  p_cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
                                         sizeof room);
  p_cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &first,
                                         sizeof first);
  p_cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &second,
                                         sizeof second);
  p_cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &out,
                                         sizeof out);
  p_cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out,
                                         sizeof out);
  cublasLtMatmulHeuristicResult_t found;
  int n = 0;
  p->taken = p_cublasLtMatmulAlgoGetHeuristic(b->handle, p->op, &p->b, &p->a, &p->c, &p->c, pref, 1,
                                              &found, &n) == CUBLAS_STATUS_SUCCESS &&
             n == 1 && found.state == CUBLAS_STATUS_SUCCESS;
  p->algo = found.algo;
  p->workspace = found.workspaceSize;
}

static plan *plan_of(blas *b, const shape *s) {
  uint64_t h = 1469598103934665603u; /* FNV */
  for (size_t i = 0; i < sizeof *s; i++) h = (h ^ ((const unsigned char *)s)[i]) * 1099511628211u;
  plan **at = &b->plans[h % PLANS];
  if (*at && memcmp(&(*at)->s, s, sizeof *s) == 0) return *at;
  if (!*at) *at = (plan *)malloc(sizeof **at);
  if (*at) make_plan(b, *at, s);
  return *at;
}

/* ---- one product ----------------------------------------------------------------------------- */

/* Bytes, a power of 2, that the address and every batch's are a multiple of. */
static int32_t alignment(const void *p, int64_t stride, int64_t size) {
  const uint64_t bits = (uint64_t)(uintptr_t)p | (uint64_t)(stride * size) | 256u;
  return (int32_t)(bits & (~bits + 1));
}

/* T: what is multiplied and added in is what the CPU's plain product adds in. */
template <class T>
static __global__ void plain(int64_t m, int64_t n, int64_t k, const T *a, const T *b, T *c,
                             int64_t a_row, int64_t a_col, int64_t b_row, int64_t b_col,
                             int64_t c_row, int64_t batch, int64_t sa, int64_t sb, int64_t sc,
                             typename arithmetic<T>::type alpha, bool add) {
  typedef typename arithmetic<T>::type real;
  GRID_LOOP(u, batch * m * n) {
    const int64_t j = u % n, i = u / n % m, z = u / n / m;
    real sum = 0;
    for (int64_t l = 0; l < k; l++)
      sum += load(a, z * sa + i * a_row + l * a_col) * load(b, z * sb + l * b_row + j * b_col);
    const int64_t to = z * sc + i * c_row + j;
    store(c, to, (real)(alpha * sum + (add ? load(c, to) : 0)));
  }
}
template <class T>
static __global__ void add_bias(int64_t m, int64_t n, int64_t c_row, int64_t batch, int64_t sc,
                                const T *bias, T *c) {
  GRID_LOOP(u, batch * m * n) {
    const int64_t j = u % n, to = u / n / m * sc + u / n % m * c_row + j;
    store(c, to, load(c, to) + load(bias, j));
  }
}

template <class T>
static void run_plain(cudaStream_t s, const alk_matmul_task *t, const void *a, const void *b,
                      void *c, int64_t batch, int64_t sa, int64_t sb, int64_t sc, bool add) {
  typedef typename arithmetic<T>::type real;
  plain<T><<<blocks_for(batch * t->m * t->n, THREADS), THREADS, 0, s>>>(
      t->m, t->n, t->k, (const T *)a, (const T *)b, (T *)c, t->a_row, t->a_col, t->b_row, t->b_col,
      t->c_row, batch, sa, sb, sc, (real)t->alpha, add);
}

/* `batch` products at fixed distances. */
static alk_status products(cuda_queue *q, const alk_matmul_task *t, const void *a, const void *b,
                           void *c, int64_t batch, int64_t sa, int64_t sb, int64_t sc, bool add) {
  const int64_t size = size_of(t->dtype);
  shape s;
  memset(&s, 0, sizeof s);
  s.m = t->m, s.n = t->n, s.k = t->k, s.ldc = t->m == 1 ? t->n : t->c_row;
  s.batch = batch, s.sa = sa, s.sb = sb, s.sc = sc;
  s.dtype = t->dtype, s.add = add;
  bool ta = false, tb = false;
  const bool fits = t->k > 0 && s.ldc >= t->n && batch < INT32_MAX &&
                    alk_operand(t->m, t->k, t->a_row, t->a_col, &ta, &s.lda) &&
                    alk_operand(t->k, t->n, t->b_row, t->b_col, &tb, &s.ldb);
  s.ta = ta, s.tb = tb;
  plan *p = NULL;
  if (fits) {
    blas *lt = blas_of(q);
    if (!lt) return ALK_FAILED;
    s.align_a = alignment(a, sa | s.lda, size);
    s.align_b = alignment(b, sb | s.ldb, size);
    s.align_c = alignment(c, sc | s.ldc, size);
    p = plan_of(lt, &s);
    if (p && p->taken) {
      const double alpha64 = t->alpha, beta64 = add;
      const float alpha32 = (float)t->alpha, beta32 = add;
      const bool wide = t->dtype == ALK_F64;
      const cublasStatus_t st =
          p_cublasLtMatmul(lt->handle, p->op, wide ? (const void *)&alpha64 : &alpha32, b, &p->b, a,
                           &p->a, wide ? (const void *)&beta64 : &beta32, c, &p->c, c, &p->c,
                           &p->algo, q->workspace, p->workspace, q->stream);
      if (st == CUBLAS_STATUS_SUCCESS) return launched();
      snprintf(q->why, sizeof q->why, "cuBLASLt's status %d for (%lld,%lld) (%lld,%lld)", (int)st,
               (long long)t->m, (long long)t->k, (long long)t->k, (long long)t->n);
      q->failed = true;
      return ALK_FAILED;
    }
  }
  if (t->dtype == ALK_F64) run_plain<double>(q->stream, t, a, b, c, batch, sa, sb, sc, add);
  else if (t->dtype == ALK_F32) run_plain<float>(q->stream, t, a, b, c, batch, sa, sb, sc, add);
  else run_plain<bf16>(q->stream, t, a, b, c, batch, sa, sb, sc, add);
  return launched();
}

static void bias_too(cuda_queue *q, const alk_matmul_task *t, void *c, int64_t batch, int64_t sc) {
  const unsigned blocks = blocks_for(batch * t->m * t->n, THREADS);
  if (t->dtype == ALK_F64)
    add_bias<double><<<blocks, THREADS, 0, q->stream>>>(t->m, t->n, t->c_row, batch, sc,
                                                        (const double *)t->bias, (double *)c);
  else if (t->dtype == ALK_F32)
    add_bias<float><<<blocks, THREADS, 0, q->stream>>>(t->m, t->n, t->c_row, batch, sc,
                                                       (const float *)t->bias, (float *)c);
  else
    add_bias<bf16><<<blocks, THREADS, 0, q->stream>>>(t->m, t->n, t->c_row, batch, sc,
                                                      (const bf16 *)t->bias, (bf16 *)c);
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
  const int64_t size = size_of(t.dtype), batch = inner >= 0 ? t.batch[inner] : 1,
                sa = inner >= 0 ? t.a_batch[inner] : 0, sb = inner >= 0 ? t.b_batch[inner] : 0,
                sc = inner >= 0 ? t.c_batch[inner] : 0;
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
    char *c = (char *)t.c + c0 * size;
    for (int64_t z = 0; z < summed; z++) {
      int64_t a1 = a0, b1 = b0;
      rest = z;
      for (int i = t.n_batch - 1; i >= n_kept; i--) {
        const int64_t x = rest % t.batch[i];
        rest /= t.batch[i];
        a1 += x * t.a_batch[i], b1 += x * t.b_batch[i];
      }
      if (products(q, &t, (const char *)t.a + a1 * size, (const char *)t.b + b1 * size, c, batch,
                   sa, sb, sc, t.add || z > 0) != ALK_OK)
        return ALK_FAILED;
    }
    if (t.bias) bias_too(q, &t, c, batch, sc);
  }
  return launched();
}
CUDA_ANY(matmul, matmul)
