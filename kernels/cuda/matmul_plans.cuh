/* matmul_plans.cuh: cuBLASLt, opened by the first product, and how it computes each product: for
 * matmul.cu.
 *
 * A plan is the algorithm for types, sizes, strides and alignments of one product; two algorithms
 * round otherwise. It is made once a queue: the first that the library's heuristic gives, or,
 * while timing is on, the fastest of CANDIDATES. Plans go to a text and come back, so that
 * processes round alike: lines of named attributes under the card and the version of the library.
 * A text may be anybody's: each attribute has its range and the library checks the whole. f32 is
 * f32: TF32 is off. */
#ifndef ALK_CUDA_MATMUL_PLANS_CUH
#define ALK_CUDA_MATMUL_PLANS_CUH
#include "cuda.cuh"
#include "versions.cuh"
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- the library ----------------------------------------------------------------------------- */

#define CALLS(X)                                                                                   \
  X(cublasLtCreate)                                                                                \
  X(cublasLtDestroy)                                                                               \
  X(cublasLtGetVersion)                                                                            \
  X(cublasLtMatmul)                                                                                \
  X(cublasLtMatmulDescInit_internal)                                                               \
  X(cublasLtMatmulDescSetAttribute)                                                                \
  X(cublasLtMatrixLayoutInit_internal)                                                             \
  X(cublasLtMatrixLayoutSetAttribute)                                                              \
  X(cublasLtMatmulPreferenceInit_internal)                                                         \
  X(cublasLtMatmulPreferenceSetAttribute)                                                          \
  X(cublasLtMatmulAlgoGetHeuristic)                                                                \
  X(cublasLtMatmulAlgoInit)                                                                        \
  X(cublasLtMatmulAlgoConfigGetAttribute)                                                          \
  X(cublasLtMatmulAlgoConfigSetAttribute)                                                          \
  X(cublasLtMatmulAlgoCheck)
CALLS(LIBRARY_CALL)

static const char *library(void) {
  static char why[256];
  static bool tried;
  if (tried) return why[0] ? why : NULL;
  tried = true;
  char file[32];
  snprintf(file, sizeof file, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
  void *so = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!so) snprintf(why, sizeof why, "products need %s: %s", file, dlerror());
  CALLS(LIBRARY_TAKE)
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
 * its column-major C^T = B^T A^T. dtype: of A, B and the bias; wide: C is f32. NAME(least, most). */
#define SHAPE(X)                                                                                   \
  X(m, 1, MOST)                                                                                    \
  X(n, 1, MOST)                                                                                    \
  X(k, 1, MOST)                                                                                    \
  X(lda, 1, MOST)                                                                                  \
  X(ldb, 1, MOST)                                                                                  \
  X(ldc, 1, MOST)                                                                                  \
  X(batch, 1, INT32_MAX)                                                                           \
  X(sa, 0, MOST)                                                                                   \
  X(sb, 0, MOST) X(sc, 0, MOST) X(ta, 0, 1) X(tb, 0, 1) X(align_a, 1, 256) X(align_b, 1, 256)      \
      X(align_c, 1, 256) X(dtype, 0, ALK_BF16) X(wide, 0, 1) X(add, 0, 1) X(bias, 0, 1)
static const int64_t MOST = (int64_t)1 << 53;
typedef struct shape {
#define X(name, least, most) int64_t name;
  SHAPE(X)
#undef X
} shape;

/* The attributes of an algorithm besides its number. */
#define ALGORITHM(X)                                                                               \
  X(tile, TILE_ID, uint32_t)                                                                       \
  X(splitk, SPLITK_NUM, int32_t)                                                                   \
  X(reduction, REDUCTION_SCHEME, uint32_t)                                                         \
  X(swizzle, CTA_SWIZZLING, uint32_t)                                                              \
  X(custom, CUSTOM_OPTION, uint32_t)                                                               \
  X(stages, STAGES_ID, uint32_t)                                                                   \
  X(inner, INNER_SHAPE_ID, uint16_t)                                                               \
  X(cluster, CLUSTER_SHAPE_ID, uint16_t)

typedef struct plan {
  shape s;
  struct plan *next;
  cublasLtMatmulDescOpaque_t op;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  cublasLtMatmulAlgo_t algo;
  size_t workspace;
  bool taken; /* the library has an algorithm */
} plan;
enum { BUCKETS = 512, CHAIN = 16, CANDIDATES = 8, ROUNDS = 3, RUNS = 5 };
typedef struct blas {
  cublasLtHandle_t handle;
  plan *plans[BUCKETS]; /* by hash, the newest first: of more than CHAIN the oldest goes */
  bool timing;
} blas;

void cuda_blas_forget(cuda_queue *q) {
  blas *b = (blas *)q->blas;
  for (int i = 0; b && i < BUCKETS; i++) {
    for (plan *p = b->plans[i], *next; p; p = next) next = p->next, free(p);
    b->plans[i] = NULL;
  }
  if (b) b->timing = false;
}

void cuda_blas_end(cuda_queue *q) {
  blas *b = (blas *)q->blas;
  if (!b) return;
  cuda_blas_forget(q);
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
  if (!why && b && cudaMallocAsync(&q->workspace, WORKSPACE, q->stream) != cudaSuccess)
    why = "no memory for cuBLASLt's workspace";
  if (!why && b) return (blas *)(q->blas = b);
  free(b);
  snprintf(q->why, sizeof q->why, "%s", why ? why : "out of memory");
  q->failed = true;
  return NULL;
}

static cudaDataType_t type_of(int64_t t) {
  return t == ALK_F64 ? CUDA_R_64F : t == ALK_F32 ? CUDA_R_32F : CUDA_R_16BF;
}
static int64_t size_of(int64_t t) { return t == ALK_F64 ? 8 : t == ALK_F32 ? 4 : 2; }
static cudaDataType_t scale_of(const shape *s) {
  return s->dtype == ALK_F64 ? CUDA_R_64F : CUDA_R_32F;
}
static cublasComputeType_t compute_of(const shape *s) {
  return s->dtype == ALK_F64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
}
static cudaDataType_t result_of(const shape *s) { return s->wide ? CUDA_R_32F : type_of(s->dtype); }

static void make_layout(cublasLtMatrixLayoutOpaque_t *l, cudaDataType_t type, int64_t rows,
                        int64_t cols, int64_t ld, int64_t batch, int64_t stride) {
  cublasLtMatrixLayout_t p = l;
  const int32_t n = (int32_t)batch;
  p_cublasLtMatrixLayoutInit_internal(p, sizeof *l, type, (uint64_t)rows, (uint64_t)cols, ld);
  p_cublasLtMatrixLayoutSetAttribute(p, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n);
  p_cublasLtMatrixLayoutSetAttribute(p, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                     sizeof stride);
}
/* All of a plan but its algorithm. */
static void describe(plan *p, const shape *s) {
  memset(p, 0, sizeof *p);
  p->s = *s;
  const cudaDataType_t type = type_of(s->dtype);
  const cublasOperation_t ta = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N,
                          tb = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
  p_cublasLtMatmulDescInit_internal(&p->op, sizeof p->op, compute_of(s), scale_of(s));
  p_cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_TRANSA, &tb, sizeof tb);
  p_cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_TRANSB, &ta, sizeof ta);
  if (s->bias) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    p_cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                     sizeof epilogue);
    p_cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
                                     sizeof type);
  }
  /* the library's first operand is B^T (n,k), its second A^T (k,m) */
  make_layout(&p->b, type, s->tb ? s->k : s->n, s->tb ? s->n : s->k, s->ldb, s->batch, s->sb);
  make_layout(&p->a, type, s->ta ? s->m : s->k, s->ta ? s->k : s->m, s->lda, s->batch, s->sa);
  make_layout(&p->c, result_of(s), s->n, s->m, s->ldc, s->batch, s->sc);
}
static int candidates(blas *b, plan *p, int most, cublasLtMatmulHeuristicResult_t *found) {
  cublasLtMatmulPreferenceOpaque_t pref;
  p_cublasLtMatmulPreferenceInit_internal(&pref, sizeof pref);
  const size_t room = WORKSPACE;
  const uint32_t first = (uint32_t)p->s.align_b, second = (uint32_t)p->s.align_a,
                 out = (uint32_t)p->s.align_c;
#define PREFER(name, value)                                                                        \
  p_cublasLtMatmulPreferenceSetAttribute(&pref, CUBLASLT_MATMUL_PREF_##name, &value, sizeof value)
  PREFER(MAX_WORKSPACE_BYTES, room);
  PREFER(MIN_ALIGNMENT_A_BYTES, first);
  PREFER(MIN_ALIGNMENT_B_BYTES, second);
  PREFER(MIN_ALIGNMENT_C_BYTES, out);
  PREFER(MIN_ALIGNMENT_D_BYTES, out);
#undef PREFER
  int n = 0;
  if (p_cublasLtMatmulAlgoGetHeuristic(b->handle, &p->op, &p->b, &p->a, &p->c, &p->c, &pref, most,
                                       found, &n) != CUBLAS_STATUS_SUCCESS)
    return 0;
  int taken = 0;
  for (int i = 0; i < n; i++)
    if (found[i].state == CUBLAS_STATUS_SUCCESS && found[i].workspaceSize <= WORKSPACE)
      found[taken++] = found[i];
  return taken;
}

/* C (+)= alpha A B (+ bias) with the algorithm of p. */
static cublasStatus_t multiply(cuda_queue *q, plan *p, double alpha, const void *a, const void *b,
                               void *c, const void *bias) {
  const float alpha32 = (float)alpha, beta32 = (float)p->s.add;
  const double beta = (double)p->s.add;
  const bool f64 = p->s.dtype == ALK_F64;
  if (p->s.bias)
    p_cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
  return p_cublasLtMatmul(((blas *)q->blas)->handle, &p->op, f64 ? (const void *)&alpha : &alpha32,
                          b, &p->b, a, &p->a, f64 ? (const void *)&beta : &beta32, c, &p->c, c,
                          &p->c, &p->algo, q->workspace, p->workspace, q->stream);
}

/* Seconds of RUNS products, the least of ROUNDS; infinite where they fail. */
static double seconds(cuda_queue *q, plan *p, const void *a, const void *b, void *c,
                      const void *bias) {
  double best = INFINITY;
  for (int round = 0; round <= ROUNDS; round++) { /* the first warms up */
    struct timespec from, to;
    cudaStreamSynchronize(q->stream);
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < RUNS; i++)
      if (multiply(q, p, 1, a, b, c, bias) != CUBLAS_STATUS_SUCCESS) return INFINITY;
    cudaStreamSynchronize(q->stream);
    clock_gettime(CLOCK_MONOTONIC, &to);
    const double t = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    if (round > 0 && t < best) best = t;
  }
  return best;
}
/* Chooses the algorithm; what is timed writes into memory of its own. */
static void choose(cuda_queue *q, plan *p, const void *a, const void *b, const void *bias) {
  blas *lt = (blas *)q->blas;
  cublasLtMatmulHeuristicResult_t found[CANDIDATES];
  const int n = candidates(lt, p, lt->timing ? CANDIDATES : 1, found);
  const shape *s = &p->s;
  int best = 0;
  void *c = NULL;
  const int64_t bytes =
      ((s->batch - 1) * s->sc + (s->m - 1) * s->ldc + s->n) * (s->wide ? 4 : size_of(s->dtype));
  if (n > 1 && cudaMallocAsync(&c, (size_t)bytes, q->stream) == cudaSuccess) {
    double least = INFINITY;
    cudaMemsetAsync(c, 0, (size_t)bytes, q->stream);
    for (int i = 0; i < n; i++) {
      p->algo = found[i].algo, p->workspace = found[i].workspaceSize;
      const double t = seconds(q, p, a, b, c, bias);
      if (t < least) least = t, best = i;
    }
    cudaFreeAsync(c, q->stream);
  } else if (n > 1) {
    cudaGetLastError(); /* no memory to time in: the first */
  }
  p->taken = n > 0;
  if (p->taken) p->algo = found[best].algo, p->workspace = found[best].workspaceSize;
}

static plan **bucket_of(blas *b, const shape *s) {
  uint64_t h = 1469598103934665603u; /* FNV */
  for (size_t i = 0; i < sizeof *s; i++) h = (h ^ ((const unsigned char *)s)[i]) * 1099511628211u;
  return &b->plans[h % BUCKETS];
}
static plan *known(blas *b, const shape *s) {
  plan *p = *bucket_of(b, s);
  while (p && memcmp(&p->s, s, sizeof *s) != 0) p = p->next;
  return p;
}
static void keep(blas *b, plan *p) {
  plan **at = bucket_of(b, &p->s);
  p->next = *at, *at = p;
  for (int i = 0; i < CHAIN && *at; i++) at = &(*at)->next;
  free(*at);
  *at = NULL;
}
/* The plan of a product of these operands; NULL without memory. */
static plan *plan_of(cuda_queue *q, const shape *s, const void *a, const void *b,
                     const void *bias) {
  plan *p = known((blas *)q->blas, s);
  if (p || !(p = (plan *)malloc(sizeof *p))) return p;
  describe(p, s);
  choose(q, p, a, b, bias);
  keep((blas *)q->blas, p);
  return p;
}

/* ---- plans as text --------------------------------------------------------------------------- */

/* The lines that a text begins with. */
static void heading(cuda_queue *q, char *text, size_t n) {
  cudaDeviceProp card;
  if (cudaGetDeviceProperties(&card, q->card) != cudaSuccess) card.name[0] = 0;
  snprintf(text, n, "card %s, compute %d.%d\nlibrary cuBLASLt %zu\n", card.name, card.major,
           card.minor, p_cublasLtGetVersion());
}

typedef struct text {
  char *at;
  size_t n, room;
  bool failed;
} text;
static void add_text(text *t, const char *format, ...) {
  char line[64];
  va_list ap;
  va_start(ap, format);
  const size_t n = (size_t)vsnprintf(line, sizeof line, format, ap);
  va_end(ap);
  if (t->n + n >= t->room) {
    char *more = (char *)realloc(t->at, t->room += 4096);
    if (!more) t->failed = true;
    else t->at = more;
  }
  if (t->failed) return;
  memcpy(t->at + t->n, line, n + 1);
  t->n += n;
}
static void add_plan(text *t, const plan *p) {
  size_t got;
  int32_t id = 0;
  const char *word = "product";
#define X(name, least, most)                                                                       \
  add_text(t, "%s " #name "=%lld", word, (long long)p->s.name), word = "";
  SHAPE(X)
#undef X
  p_cublasLtMatmulAlgoConfigGetAttribute(&p->algo, CUBLASLT_ALGO_CONFIG_ID, &id, sizeof id, &got);
  add_text(t, " algorithm=%d", (int)id);
#define X(name, attribute, type)                                                                   \
  type name = 0;                                                                                   \
  p_cublasLtMatmulAlgoConfigGetAttribute(&p->algo, CUBLASLT_ALGO_CONFIG_##attribute, &name,        \
                                         sizeof name, &got);                                       \
  add_text(t, " " #name "=%lld", (long long)name);
  ALGORITHM(X)
#undef X
  add_text(t, "\n");
}
/* Sorted, so that the text follows from the set of plans. */
static int by_shape(const void *a, const void *b) {
  return memcmp(&(*(plan *const *)a)->s, &(*(plan *const *)b)->s, sizeof(shape));
}

/* All plans so far; free() it. NULL, with the reason: no library, no memory. */
char *cuda_plans_save(cuda_queue *q, char *why, size_t n_why) {
  blas *b = blas_of(q);
  if (!b) return snprintf(why, n_why, "%s", q->why), q->failed = false, (char *)NULL;
  plan **all = (plan **)malloc(sizeof *all * BUCKETS * CHAIN);
  int n = 0;
  for (int i = 0; all && i < BUCKETS; i++)
    for (plan *p = b->plans[i]; p; p = p->next)
      if (p->taken) all[n++] = p;
  if (all) qsort(all, (size_t)n, sizeof *all, by_shape);
  char head[400];
  text t = {};
  heading(q, head, sizeof head);
  for (const char *p = head; *p; p++) add_text(&t, "%c", *p);
  for (int i = 0; i < n; i++) add_plan(&t, all[i]);
  const bool whole = all && !t.failed;
  free(all);
  if (whole) return t.at;
  free(t.at);
  snprintf(why, n_why, "out of memory (plans of products)");
  return NULL;
}

#define SMALLEST(type) ((type)-1 > 0 ? 0 : INT32_MIN)
#define LARGEST(type) ((type)-1 > 0 ? (int64_t)(type)-1 : INT32_MAX)
/* " name=number" at *at, the number within its range. */
static bool read_number(const char **at, const char *name, int64_t least, int64_t most,
                        int64_t *value) {
  const size_t n = strlen(name);
  char *end;
  if (**at != ' ' || strncmp(*at + 1, name, n) != 0 || (*at)[n + 1] != '=') return false;
  const char *digits = *at + n + 2;
  const char first = digits[*digits == '-' && least < 0];
  if (first < '0' || first > '9') return false;
  *value = strtoll(digits, &end, 10);
  if (*value < least || *value > most) return false;
  *at = end;
  return true;
}
/* The plan of the line at *at, which goes on to the next; NULL with what is wrong. */
static plan *read_plan(blas *b, const char **at, const char **wrong) {
  shape s;
  int64_t id = 0, value;
  static const char word[] = "product";
  if (strncmp(*at, word, sizeof word - 1) != 0) return *wrong = word, (plan *)NULL;
  *at += sizeof word - 1;
#define X(name, least, most)                                                                       \
  if (!read_number(at, #name, least, most, &s.name)) return *wrong = #name, (plan *)NULL;
  SHAPE(X)
#undef X
  if (!read_number(at, "algorithm", 0, INT32_MAX, &id)) return *wrong = "algorithm", (plan *)NULL;
  plan *p = (plan *)malloc(sizeof *p);
  if (!p) return *wrong = "memory", p;
  describe(p, &s);
  const cudaDataType_t type = type_of(s.dtype), result = result_of(&s);
  *wrong = NULL;
  if (p_cublasLtMatmulAlgoInit(b->handle, compute_of(&s), scale_of(&s), type, type, result, result,
                               (int)id, &p->algo) != CUBLAS_STATUS_SUCCESS)
    *wrong = "algorithm";
#define X(name, attribute, type)                                                                   \
  if (!*wrong && !read_number(at, #name, SMALLEST(type), LARGEST(type), &value)) *wrong = #name;   \
  if (!*wrong) {                                                                                   \
    const type own = (type)value;                                                                  \
    if (p_cublasLtMatmulAlgoConfigSetAttribute(&p->algo, CUBLASLT_ALGO_CONFIG_##attribute, &own,   \
                                               sizeof own) != CUBLAS_STATUS_SUCCESS)               \
      *wrong = #name;                                                                              \
  }
  ALGORITHM(X)
#undef X
  if (!*wrong && *(*at)++ != '\n') *wrong = "end of the line";
  cublasLtMatmulHeuristicResult_t found = {};
  if (!*wrong && (p_cublasLtMatmulAlgoCheck(b->handle, &p->op, &p->b, &p->a, &p->c, &p->c, &p->algo,
                                            &found) != CUBLAS_STATUS_SUCCESS ||
                  found.workspaceSize > WORKSPACE))
    *wrong = "whole, which cuBLASLt does not take";
  p->workspace = found.workspaceSize, p->taken = true;
  if (!*wrong) return p;
  free(p);
  return NULL;
}
/* Takes the plans of such a text, of the same card and library, beside those there are; false with
 * the reason, and then none of them. */
bool cuda_plans_load(cuda_queue *q, const char *lines, char *why, size_t n_why) {
  blas *b = blas_of(q);
  if (!b) return snprintf(why, n_why, "%s", q->why), q->failed = false;
  char head[400];
  heading(q, head, sizeof head);
  const size_t n = strlen(head);
  if (strncmp(lines, head, n) != 0) {
    head[n - 1] = 0;
    *strchr(head, '\n') = ';';
    char got[80] = ""; /* a stranger's: nothing of it may steer a terminal */
    for (int i = 0; i < 79 && lines[i] && lines[i] != '\n'; i++)
      got[i] = lines[i] >= ' ' && lines[i] <= '~' ? lines[i] : '?';
    snprintf(why, n_why, "plans of products for '%s' needed, got them for '%s'", head, got);
    return false;
  }
  plan *list = NULL;
  const char *at = lines + n, *wrong = NULL;
  int line = 3;
  for (; *at && !wrong; line++) {
    plan *p = read_plan(b, &at, &wrong);
    if (p) p->next = list, list = p;
  }
  for (plan *p = list, *next; p; p = next) {
    next = p->next;
    if (!wrong && !known(b, &p->s)) keep(b, p);
    else free(p);
  }
  if (wrong) snprintf(why, n_why, "plans of products: line %d: %s", line - 1, wrong);
  return !wrong;
}
bool cuda_plans_time(cuda_queue *q, bool on) {
  blas *b = blas_of(q);
  if (b) b->timing = on;
  return b != NULL;
}
#endif
