/* sdpa.cu: exp attention in bf16 by cuDNN's graph API (sdpa.cuh), the library opened by the first
 * call.
 *
 * The graphs are the chains of products, pointwise ops and reductions that the library's fused
 * engines know: forward Q K^T, scale, causal mask, maximum, exp, sum, division, P V; backward the
 * same logits less lse, and the four products of the gradient. Engines that sum in an order of
 * their own are left out, so two runs are bit-equal. A plan is made once for a shape and takes
 * tens of milliseconds.
 *
 * Causal: forward 2 B H T^2 D FLOPs, backward 2.5 times that; bytes of q, k, v, y, and of their
 * gradients. At B=32 H=16 T=1024 D=64 the products are 86 and 215 us at 800 TFLOP/s, the bytes 89
 * and 179 us at 3.0 TB/s. */
#include "sdpa.cuh"
#include "versions.cuh"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if !__has_include(<cudnn.h>) && !defined(NO_CUDNN)
#define NO_CUDNN
#endif
#ifndef NO_CUDNN
#include <cudnn.h>
#endif

/* What of a call cuDNN does not take, NULL: nothing. */
static const char *refuses(const alk_attn_spec *a, const void *b, const void *sums) {
  const alk_visible *g = &a->g;
  const alk_weight_spec *w = &a->weight;
  if (w->f != ALK_WEIGHT_EXP) return "weights other than exp";
  if (w->program) return "an expression";
  if (w->round || w->softcap > 0 || w->clamp < INFINITY) return "limits on the logits";
  if (w->Hd || sums) return "decay";
  if (b) return "a scale of the values";
  if (a->map != ALK_MAP_identity) return "a feature map";
  if (a->dropout > 0) return "dropout by our keys";
  if (a->stat == ALK_STAT_sum ? !a->normalise : a->stat != ALK_STAT_none)
    return "a denominator that is not divided by at once";
  if (g->lengths) return "lengths";
  if (g->H != g->Hkv) return "grouped heads";
  if (g->causal && (g->T != g->S || g->offset != 0 || g->window)) return "a window or an offset";
  if (g->B < 1 || g->T < 1 || g->S < 1 || g->B * g->H > 65535) return "that many heads";
  if (g->T < 64 || g->S < 64) return "fewer than 64 tokens";
  if (a->D % 8 || a->E % 8 || a->D > 128 || a->E > 128)
    return "heads that are not a multiple of 8 channels, at most 128";
  return NULL;
}

#ifdef NO_CUDNN
struct plan;
static const char *missing(cuda_queue *) { return "this build had no header of it"; }
static plan *plan_for(cuda_queue *, const alk_attn_spec *, bool) { return NULL; }
int64_t cuda_sdpa_bytes(cuda_queue *, const alk_attn_spec *, bool) { return 0; }
alk_status cuda_sdpa_fwd(cuda_queue *, const alk_attn_spec *, const void *, const void *,
                         const void *, void *, void *, void *, void *) {
  return ALK_FAILED;
}
alk_status cuda_sdpa_bwd(cuda_queue *, const alk_attn_spec *, const alk_attn_grad *, void *) {
  return ALK_FAILED;
}
void cuda_sdpa_end(cuda_queue *) {}
const char *cuda_dnn_version(void) { return ", no cuDNN: built without its header"; }
#else

/* ---- the library ----------------------------------------------------------------------------- */

#define CALLS(X)                                                                                   \
  X(cudnnGetVersion)                                                                               \
  X(cudnnCreate)                                                                                   \
  X(cudnnDestroy)                                                                                  \
  X(cudnnSetStream)                                                                                \
  X(cudnnGetErrorString)                                                                           \
  X(cudnnBackendCreateDescriptor)                                                                  \
  X(cudnnBackendDestroyDescriptor)                                                                 \
  X(cudnnBackendSetAttribute)                                                                      \
  X(cudnnBackendGetAttribute)                                                                      \
  X(cudnnBackendFinalize)                                                                          \
  X(cudnnBackendExecute)
CALLS(LIBRARY_CALL)

enum { OLDEST = 90600, BROKEN_FROM = 91000, BROKEN_TO = 91001 }; /* versions */

static const char *library(void) {
  static char why[256];
  static bool tried;
  if (tried) return why[0] ? why : NULL;
  tried = true;
  char file[32];
  snprintf(file, sizeof file, "libcudnn.so.%d", CUDNN_MAJOR);
  void *so = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!so) snprintf(why, sizeof why, "%s", dlerror());
  CALLS(LIBRARY_TAKE)
  const size_t version = why[0] ? 0 : p_cudnnGetVersion();
  if (!why[0] && version < OLDEST)
    snprintf(why, sizeof why, "cuDNN %zu: 9.6 or later needed", version);
  if (!why[0] && version >= BROKEN_FROM && version <= BROKEN_TO)
    snprintf(why, sizeof why, "cuDNN %zu: its attention is broken in 9.10.0 and 9.10.1", version);
  return why[0] ? why : NULL;
}

const char *cuda_dnn_version(void) {
  static char text[300];
  const char *why = library();
  if (why) snprintf(text, sizeof text, ", no cuDNN: %s", why);
  else snprintf(text, sizeof text, ", cuDNN %zu", p_cudnnGetVersion());
  return text;
}

/* ---- a graph ---------------------------------------------------------------------------------- */

enum { MOST = 96, MOST_OPS = 32 };
/* Descriptors of one graph; the first failure stays, and what follows it does nothing. */
typedef struct graph {
  cudnnBackendDescriptor_t all[MOST], ops[MOST_OPS];
  int n, n_ops;
  int64_t next; /* names of tensors that nobody gives memory */
  cudnnStatus_t status;
  int line;
} graph;
typedef cudnnBackendDescriptor_t desc;

static void check(graph *g, cudnnStatus_t s, int line) {
  if (g->status == CUDNN_STATUS_SUCCESS && s != CUDNN_STATUS_SUCCESS) g->status = s, g->line = line;
}
#define DO(call)                                                                                   \
  do {                                                                                             \
    if (g->status == CUDNN_STATUS_SUCCESS) check(g, (call), __LINE__);                             \
  } while (0)

static desc make(graph *g, cudnnBackendDescriptorType_t type) {
  desc d = NULL;
  if (g->n == MOST) check(g, CUDNN_STATUS_INTERNAL_ERROR, __LINE__);
  DO(p_cudnnBackendCreateDescriptor(type, &d));
  if (d) g->all[g->n++] = d;
  return d;
}
static void set(graph *g, desc d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *value) {
  DO(p_cudnnBackendSetAttribute(d, name, type, n, value));
}
static void set_desc(graph *g, desc d, cudnnBackendAttributeName_t name, desc value) {
  set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}
static void finish(graph *g, desc d) { DO(p_cudnnBackendFinalize(d)); }

/* Tensors that have memory go by these names. */
enum {
  ID_Q = 1,
  ID_K,
  ID_V,
  ID_O,
  ID_LSE,
  ID_SCALE,
  ID_NEVER,
  ID_ONE,
  ID_DO,
  ID_DELTA,
  ID_DQ,
  ID_DK,
  ID_DV,
  ID_FREE
};

typedef struct dims {
  int64_t size[4], stride[4];
} dims;
static desc tensor(graph *g, int64_t id, cudnnDataType_t type, dims d, bool by_value = false) {
  const bool is_virtual = id == 0;
  const int64_t name = is_virtual ? g->next++ : id, align = 16;
  desc t = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  set(g, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name);
  set(g, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  set(g, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, d.size);
  set(g, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, d.stride);
  set(g, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
  set(g, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
  if (by_value) set(g, t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
  finish(g, t);
  return t;
}
static void add_op(graph *g, desc op) {
  finish(g, op);
  if (g->n_ops == MOST_OPS) check(g, CUDNN_STATUS_INTERNAL_ERROR, __LINE__);
  else g->ops[g->n_ops++] = op;
}
static void product(graph *g, desc a, desc b, desc c) {
  const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
  desc how = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  set(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
  finish(g, how);
  desc op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
  set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
  set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
  set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
  add_op(g, op);
}
/* y = mode(x, b, t); b and t may be NULL. */
static desc point(graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t computed, desc x, desc b,
                  desc t, desc y, int64_t axis = -1) {
  desc how = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &computed);
  if (axis >= 0) set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
  finish(g, how);
  desc op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  if (b) set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
  if (t) set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
  set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  add_op(g, op);
  return y;
}
static desc reduced(graph *g, cudnnReduceTensorOp_t by, desc x, desc y) {
  const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
  desc how = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &by);
  set(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
  finish(g, how);
  desc op = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
  set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
  set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
  add_op(g, op);
  return y;
}
static desc reshaped(graph *g, desc x, desc y) {
  desc op = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
  set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
  add_op(g, op);
  return y;
}

/* ---- the two graphs --------------------------------------------------------------------------- */

static const cudnnDataType_t F32 = CUDNN_DATA_FLOAT, BF16 = CUDNN_DATA_BFLOAT16,
                             I32 = CUDNN_DATA_INT32, BOOL = CUDNN_DATA_BOOLEAN;

/* What a graph depends on; compared bit by bit. */
typedef struct shape {
  int64_t B, T, S, H, D, E;
  int32_t causal, backward;
} shape;

/* (B,n,H,c) in memory as (B,H,n,c), or with its last two turned. */
static dims heads(const shape *s, int64_t n, int64_t c) {
  return {{s->B, s->H, n, c}, {n * s->H * c, c, s->H * c, 1}};
}
static dims turned(dims d) {
  return {{d.size[0], d.size[1], d.size[3], d.size[2]},
          {d.stride[0], d.stride[1], d.stride[3], d.stride[2]}};
}
static dims packed(const shape *s, int64_t a, int64_t b) {
  return {{s->B, s->H, a, b}, {s->H * a * b, a * b, b, 1}};
}
static const dims ONE = {{1, 1, 1, 1}, {1, 1, 1, 1}};

/* scale Q K^T, and of a causal one what lies above the diagonal lowered out of sight. */
static desc masked(graph *g, const shape *s, desc x) {
  if (!s->causal) return x;
  const dims all = packed(s, s->T, s->S);
  desc row = point(g, CUDNN_POINTWISE_GEN_INDEX, F32, x, NULL, NULL, tensor(g, 0, I32, all), 2);
  desc col = point(g, CUDNN_POINTWISE_GEN_INDEX, F32, x, NULL, NULL, tensor(g, 0, I32, all), 3);
  desc seen = point(g, CUDNN_POINTWISE_CMP_GE, BOOL, row, col, NULL, tensor(g, 0, BOOL, all));
  return point(g, CUDNN_POINTWISE_BINARY_SELECT, F32, x, tensor(g, ID_NEVER, F32, ONE, true), seen,
               tensor(g, 0, F32, all));
}
static desc logits(graph *g, const shape *s, desc q, desc k_turned, desc scale) {
  const dims all = packed(s, s->T, s->S);
  desc x = tensor(g, 0, F32, all);
  product(g, q, k_turned, x);
  return point(g, CUDNN_POINTWISE_MUL, F32, x, scale, NULL, tensor(g, 0, F32, all));
}

static void forward_graph(graph *g, const shape *s) {
  const dims all = packed(s, s->T, s->S), row = packed(s, s->T, 1);
  desc q = tensor(g, ID_Q, BF16, heads(s, s->T, s->D)),
       k = tensor(g, ID_K, BF16, turned(heads(s, s->S, s->D))),
       v = tensor(g, ID_V, BF16, heads(s, s->S, s->E)),
       o = tensor(g, ID_O, BF16, heads(s, s->T, s->E)), lse = tensor(g, ID_LSE, F32, row);
  desc x = masked(g, s, logits(g, s, q, k, tensor(g, ID_SCALE, F32, ONE, true)));
  desc top = reduced(g, CUDNN_REDUCE_TENSOR_MAX, x, tensor(g, 0, F32, row));
  desc less = point(g, CUDNN_POINTWISE_SUB, F32, x, top, NULL, tensor(g, 0, F32, all));
  desc e = point(g, CUDNN_POINTWISE_EXP, F32, less, NULL, NULL, tensor(g, 0, F32, all));
  desc sum = reduced(g, CUDNN_REDUCE_TENSOR_ADD, e, tensor(g, 0, F32, row));
  desc log = point(g, CUDNN_POINTWISE_LOG, F32, sum, NULL, NULL, tensor(g, 0, F32, row));
  point(g, CUDNN_POINTWISE_ADD, F32, top, log, NULL, lse);
  desc p = point(g, CUDNN_POINTWISE_DIV, F32, e, sum, NULL, tensor(g, 0, BF16, all));
  product(g, p, v, o);
}

static void backward_graph(graph *g, const shape *s) {
  const dims all = packed(s, s->T, s->S), row = packed(s, s->T, 1),
             across = {{s->B, s->H, s->S, s->T}, {s->H * s->T * s->S, s->T * s->S, 1, s->S}};
  desc q = tensor(g, ID_Q, BF16, heads(s, s->T, s->D)),
       k = tensor(g, ID_K, BF16, turned(heads(s, s->S, s->D))),
       v = tensor(g, ID_V, BF16, turned(heads(s, s->S, s->E))),
       o = tensor(g, ID_O, BF16, heads(s, s->T, s->E)), lse = tensor(g, ID_LSE, F32, row),
       dout = tensor(g, ID_DO, BF16, heads(s, s->T, s->E)),
       scale = tensor(g, ID_SCALE, F32, ONE, true), one = tensor(g, ID_ONE, F32, ONE, true);
  /* delta_i = dO_i . O_i */
  desc both =
      point(g, CUDNN_POINTWISE_MUL, F32, dout, o, NULL, tensor(g, 0, F32, packed(s, s->T, s->E)));
  desc dot = reduced(g, CUDNN_REDUCE_TENSOR_ADD, both, tensor(g, 0, F32, row));
  desc delta = point(g, CUDNN_POINTWISE_MUL, F32, dot, one, NULL, tensor(g, ID_DELTA, F32, row));
  /* p, and dV = P^T dO */
  desc x = point(g, CUDNN_POINTWISE_SUB, F32, logits(g, s, q, k, scale), lse, NULL,
                 tensor(g, 0, F32, all));
  desc p = point(g, CUDNN_POINTWISE_EXP, F32, masked(g, s, x), NULL, NULL, tensor(g, 0, F32, all));
  product(g, reshaped(g, p, tensor(g, 0, BF16, across)), dout,
          tensor(g, ID_DV, BF16, heads(s, s->S, s->E)));
  /* ds = scale p (dP - delta), and dK = dS^T Q, dQ = dS K */
  desc dp = tensor(g, 0, F32, all);
  product(g, dout, v, dp);
  desc less = point(g, CUDNN_POINTWISE_SUB, F32, dp, delta, NULL, tensor(g, 0, F32, all));
  desc by = point(g, CUDNN_POINTWISE_MUL, F32, less, p, NULL, tensor(g, 0, F32, all));
  desc ds = point(g, CUDNN_POINTWISE_MUL, F32, by, scale, NULL, tensor(g, 0, F32, all));
  product(g, reshaped(g, ds, tensor(g, 0, BF16, across)), q,
          tensor(g, ID_DK, BF16, heads(s, s->S, s->D)));
  desc k_back = reshaped(g, k, tensor(g, 0, BF16, heads(s, s->S, s->D)));
  product(g, ds, k_back, tensor(g, ID_DQ, BF16, heads(s, s->T, s->D)));
}

/* ---- plans ------------------------------------------------------------------------------------ */

typedef struct plan {
  struct plan *next;
  shape s;
  desc plan; /* NULL where the library has no engine, as `why` says */
  int64_t workspace;
  char why[200];
} plan;
typedef struct state {
  cudnnHandle_t handle;
  plan *plans;
} state;

static alk_status fail(cuda_queue *q, const char *why) {
  snprintf(q->why, sizeof q->why, "cuDNN: %.240s", why);
  q->failed = true;
  return ALK_FAILED;
}

static state *state_of(cuda_queue *q) {
  if (q->sdpa) return (state *)q->sdpa;
  const char *why = library();
  state *s = (state *)calloc(1, sizeof *s);
  cudnnStatus_t st = CUDNN_STATUS_SUCCESS;
  if (!why && s) st = p_cudnnCreate(&s->handle);
  if (!why && s && st == CUDNN_STATUS_SUCCESS) st = p_cudnnSetStream(s->handle, q->stream);
  if (!why && s && st == CUDNN_STATUS_SUCCESS) return (state *)(q->sdpa = s);
  fail(q, why ? why : s ? p_cudnnGetErrorString(st) : "out of memory");
  free(s);
  return NULL;
}

static const char *missing(cuda_queue *q) {
  const char *why = library();
  if (why || q->sdpa) return why;
  if (state_of(q)) return NULL;
  q->failed = false; /* the caller says so, or does without */
  return q->why;
}

void cuda_sdpa_end(cuda_queue *q) {
  state *s = (state *)q->sdpa;
  if (!s) return;
  for (plan *p = s->plans, *next; p; p = next) {
    next = p->next;
    if (p->plan) p_cudnnBackendDestroyDescriptor(p->plan);
    free(p);
  }
  p_cudnnDestroy(s->handle);
  free(s);
  q->sdpa = NULL;
}

/* Whether the engine of a configuration adds in the same order each time. */
static bool orderly(desc config) {
  desc engine = NULL;
  cudnnBackendNumericalNote_t notes[32];
  int64_t n = 0;
  bool ok = p_cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) ==
            CUDNN_STATUS_SUCCESS;
  ok = ok && p_cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n,
                                        &engine) == CUDNN_STATUS_SUCCESS;
  ok = ok &&
       p_cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                  CUDNN_TYPE_NUMERICAL_NOTE, 32, &n, notes) == CUDNN_STATUS_SUCCESS;
  for (int64_t i = 0; ok && i < n; i++) ok = notes[i] != CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
  if (engine) p_cudnnBackendDestroyDescriptor(engine);
  return ok;
}

/* The first of the library's own ranking that is orderly and can be built. */
static void choose(state *st, plan *p, graph *g) {
  enum { TRIED = 16 };
  desc graph_desc = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(g, graph_desc, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops,
      g->ops);
  set(g, graph_desc, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &st->handle);
  finish(g, graph_desc);
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  desc heur = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set_desc(g, heur, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph_desc);
  set(g, heur, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  finish(g, heur);
  desc configs[TRIED] = {};
  int64_t n = 0;
  for (int i = 0; i < TRIED; i++) configs[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  DO(p_cudnnBackendGetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                TRIED, &n, configs));
  if (g->status != CUDNN_STATUS_SUCCESS) {
    snprintf(p->why, sizeof p->why, "%s (line %d)", p_cudnnGetErrorString(g->status), g->line);
    return;
  }
  for (int64_t i = 0; i < n && i < TRIED && !p->plan; i++) {
    if (!orderly(configs[i])) continue;
    desc d = NULL;
    int64_t got = 0;
    bool ok = p_cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &d) ==
              CUDNN_STATUS_SUCCESS;
    ok = ok && p_cudnnBackendSetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                          &st->handle) == CUDNN_STATUS_SUCCESS;
    ok = ok && p_cudnnBackendSetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                          &configs[i]) == CUDNN_STATUS_SUCCESS;
    ok = ok && p_cudnnBackendFinalize(d) == CUDNN_STATUS_SUCCESS;
    ok = ok &&
         p_cudnnBackendGetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                    1, &got, &p->workspace) == CUDNN_STATUS_SUCCESS;
    if (ok) p->plan = d;
    else if (d) p_cudnnBackendDestroyDescriptor(d);
  }
  if (!p->plan)
    snprintf(p->why, sizeof p->why, "none of %lld engines sums in a fixed order and can be built",
             (long long)n);
}

static plan *plan_for(cuda_queue *q, const alk_attn_spec *a, bool backward) {
  state *st = state_of(q);
  if (!st) return NULL;
  shape s;
  memset(&s, 0, sizeof s);
  s.B = a->g.B, s.T = a->g.T, s.S = a->g.S, s.H = a->g.H, s.D = a->D, s.E = a->E;
  s.causal = a->g.causal, s.backward = backward;
  plan *p = st->plans;
  while (p && memcmp(&p->s, &s, sizeof s) != 0) p = p->next;
  if (!p) {
    p = (plan *)calloc(1, sizeof *p);
    graph *g = (graph *)calloc(1, sizeof *g);
    if (!p || !g) {
      free(p), free(g);
      return fail(q, "out of memory"), (plan *)NULL;
    }
    p->s = s, p->next = st->plans, st->plans = p;
    g->next = ID_FREE;
    if (backward) backward_graph(g, &s);
    else forward_graph(g, &s);
    choose(st, p, g);
    for (int i = g->n - 1; i >= 0; i--) p_cudnnBackendDestroyDescriptor(g->all[i]);
    free(g);
  }
  if (p->plan) return p;
  fail(q, p->why);
  return NULL;
}

/* What hides a logit, as the library's own frontend has it. */
static float hidden(void) {
  return p_cudnnGetVersion() < BROKEN_FROM ? -3.402823466e38f : -INFINITY;
}

static int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }
static int64_t delta_bytes(const alk_attn_spec *a) {
  return rounded(a->g.B * a->g.H * a->g.T * (int64_t)sizeof(float));
}

int64_t cuda_sdpa_bytes(cuda_queue *q, const alk_attn_spec *a, bool backward) {
  const plan *p = plan_for(q, a, backward);
  return p ? rounded(p->workspace) + (backward ? delta_bytes(a) : 0) : 0;
}

/* ---- runs ------------------------------------------------------------------------------------- */

static alk_status execute(cuda_queue *q, plan *p, int n, const int64_t *ids, void **data,
                          void *workspace) {
  state *st = (state *)q->sdpa;
  graph room = {}, *g = &room;
  desc pack = make(g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  set(g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids);
  set(g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, data);
  set(g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  finish(g, pack);
  DO(p_cudnnBackendExecute(st->handle, p->plan, pack));
  if (pack) p_cudnnBackendDestroyDescriptor(pack);
  return g->status == CUDNN_STATUS_SUCCESS ? launched() : fail(q, p_cudnnGetErrorString(g->status));
}

static __global__ void set_ones(int64_t n, float *W) { GRID_LOOP(i, n) W[i] = 1; }

alk_status cuda_sdpa_fwd(cuda_queue *q, const alk_attn_spec *a, const void *qs, const void *k,
                         const void *v, void *y, void *W, void *m, void *scratch) {
  plan *p = plan_for(q, a, false);
  if (!p) return ALK_FAILED;
  const int64_t rows = a->g.B * a->g.H * a->g.T;
  if (a->stat == ALK_STAT_sum)
    set_ones<<<blocks_for(rows, THREADS), THREADS, 0, q->stream>>>(rows, (float *)W);
  else cudaMemsetAsync(W, 0, (size_t)rows * sizeof(float), q->stream);
  float scale = (float)a->scale, never = hidden();
  const int64_t ids[] = {ID_Q, ID_K, ID_V, ID_O, ID_LSE, ID_SCALE, ID_NEVER};
  void *data[] = {(void *)qs, (void *)k, (void *)v, y, m, &scale, &never};
  return execute(q, p, a->g.causal ? 7 : 6, ids, data, scratch);
}

alk_status cuda_sdpa_bwd(cuda_queue *q, const alk_attn_spec *a, const alk_attn_grad *t,
                         void *scratch) {
  plan *p = plan_for(q, a, true);
  if (!p) return ALK_FAILED;
  float scale = (float)a->scale, one = 1, never = hidden();
  const int64_t ids[] = {ID_Q,  ID_K,  ID_V,  ID_O,     ID_LSE, ID_DO,   ID_DELTA,
                         ID_DQ, ID_DK, ID_DV, ID_SCALE, ID_ONE, ID_NEVER};
  void *data[] = {(void *)t->q,  (void *)t->k, (void *)t->v, (void *)t->y, (void *)t->m,
                  (void *)t->dy, scratch,      t->dq,        t->dk,        t->dv,
                  &scale,        &one,         &never};
  return execute(q, p, a->g.causal ? 13 : 12, ids, data, (char *)scratch + delta_bytes(a));
}
#endif

sdpa_answer cuda_sdpa_takes(cuda_queue *q, const alk_attn_spec *a, bool is_bf16, const void *b,
                            const void *sums, bool backward) {
  if (a->library == ALK_LIBRARY_NONE) return SDPA_LEAVES;
  const char *why = is_bf16 ? refuses(a, b, sums) : "numbers of f32 and f64", *absent = NULL;
  if (!why) absent = missing(q);
  if (!why && !absent && plan_for(q, a, backward)) return SDPA_TAKES;
  q->failed = a->library == ALK_LIBRARY_CUDNN;
  if (!q->failed) return SDPA_LEAVES;
  char text[sizeof q->why];
  if (why || absent) {
    snprintf(text, sizeof text, why ? "cuDNN does not take %s" : "no cuDNN: %s",
             why ? why : absent);
    memcpy(q->why, text, sizeof text);
  }
  return SDPA_FAILS;
}
