/* optim.cu: updates in place over a list of arrays (contract: ../optim.h). The list travels as
 * kernel arguments, LIST arrays a launch; a block takes ALK_OPTIM_BLOCK elements, 16 bytes of each
 * array at a time where they lie so.
 *
 * Floor, bytes a parameter in f32: squares 4, AdamW 28 and 4 more with a copy in bf16, SGD 20 and
 * 4. Share of a copy's rate (cuda.cuh): not measured; `./lab bench ops` has AdamW beside a long
 * copy. */
#include "functions.cuh"
extern "C" {
#include "../optim.h"
}

enum { LIST = 64 };
typedef struct list {
  int n;
  alk_optim_task task[LIST];
} list;

/* Launches kernel(list, first block, ..) for every part of the list. */
template <class F> static void each_part(int n_tasks, const alk_optim_task *tasks, F launch) {
  for (int from = 0; from < n_tasks; from += LIST) {
    list l;
    l.n = n_tasks - from < LIST ? n_tasks - from : LIST;
    for (int i = 0; i < l.n; i++) l.task[i] = tasks[from + i];
    const alk_optim_task *last = &l.task[l.n - 1];
    const int64_t blocks =
        last->first + (last->n + ALK_OPTIM_BLOCK - 1) / ALK_OPTIM_BLOCK - l.task[0].first;
    if (blocks) launch(l, (unsigned)blocks);
  }
}

/* The block's array, and the elements [from, to) of it. */
__device__ static const alk_optim_task *find(const list &l, int64_t b, int64_t *from, int64_t *to) {
  int lo = 0;
  for (int hi = l.n; hi - lo > 1;) {
    const int mid = (lo + hi) / 2;
    if (l.task[mid].first <= b) lo = mid;
    else hi = mid;
  }
  *from = (b - l.task[lo].first) * ALK_OPTIM_BLOCK;
  *to = *from + ALK_OPTIM_BLOCK < l.task[lo].n ? *from + ALK_OPTIM_BLOCK : l.task[lo].n;
  return &l.task[lo];
}

template <int n> struct width {
  enum { value = n };
};
/* The elements [from, to) of a block, each once: f(first, W) for groups of W = 16 bytes where
 * `grouped`, and f(i, 1). */
template <class T, class F>
__device__ static void each_group(int64_t from, int64_t to, bool grouped, F f) {
  const int W = 16 / sizeof(T);
  const int64_t whole = grouped ? from + (to - from) / W * W : from;
  for (int64_t i = from + (int64_t)threadIdx.x * W; i < whole; i += blockDim.x * W)
    f(i, width<16 / sizeof(T)>());
  for (int64_t i = whole + threadIdx.x; i < to; i += blockDim.x) f(i, width<1>());
}
__device__ static bool aligned(const void *p) { return ((uintptr_t)p & 15) == 0; }

template <class T> static __global__ void block_squares(list l, double *parts) {
  int64_t from, to;
  const int64_t b = l.task[0].first + blockIdx.x;
  const alk_optim_task *t = find(l, b, &from, &to);
  const T *g = (const T *)t->g;
  double s = 0;
  each_group<T>(from, to, aligned(g), [&](int64_t i, auto wide) {
    const int W = decltype(wide)::value;
    const group<const T, W> some = groups<W>(g, i);
    for (int k = 0; k < W; k++) s += (double)some.at[k] * (double)some.at[k];
  });
  s = block_sum(s);
  if (threadIdx.x == 0) parts[b] = s;
}
static __global__ void add_parts(int64_t n, const double *parts, double *sum) {
  double s = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) s += parts[i];
  s = block_sum(s);
  if (threadIdx.x == 0) *sum += s;
}
template <class T>
static alk_status squares(const alk_place *at, int n_tasks, const alk_optim_task *tasks,
                          void *parts, void *sum) {
  const cudaStream_t s = stream_of(at);
  int64_t n = 0;
  each_part(n_tasks, tasks, [&](const list &l, unsigned blocks) {
    block_squares<T><<<blocks, THREADS, 0, s>>>(l, (double *)parts);
    n += blocks;
  });
  if (n) add_parts<<<1, 1024, 0, s>>>(n, (const double *)parts, (double *)sum);
  return launched();
}
CUDA_TYPED(optim_squares, squares)

static __global__ void norm_of(const double *sum, const double *after, double *norm,
                               double *steps) {
  const double n = after && !isfinite(*after) ? (double)NAN : sqrt(*sum);
  *norm = n;
  if (isfinite(n)) *steps += 1;
}
static alk_status norm(const alk_place *at, const void *sum, const void *after, void *to,
                       void *steps) {
  norm_of<<<1, 1, 0, stream_of(at)>>>((const double *)sum, (const double *)after, (double *)to,
                                      (double *)steps);
  return launched();
}
CUDA_ANY(optim_norm, norm)

template <class T> __device__ static T clipped(const alk_optim_step &s, double norm) {
  return (T)(s.clip > 0 && norm > s.clip ? s.clip / norm : 1);
}

/* Updates the block's elements: step(p, g, m, v) of each, and the copy in bf16. */
template <class T, bool second, class F>
__device__ static void update(const alk_optim_task *t, int64_t from, int64_t to, F step) {
  const T *g = (const T *)t->g;
  T *p = (T *)t->p, *m = (T *)t->m, *v = (T *)t->v;
  bf16 *narrow = (bf16 *)t->narrow;
  const bool grouped = aligned(p) && aligned(g) && aligned(m) && aligned(v) && aligned(narrow);
  each_group<T>(from, to, grouped, [=](int64_t i, auto wide) {
    const int W = decltype(wide)::value;
    group<T, W> pi = groups<W>(p, i), mi = groups<W>(m, i), vi = {};
    group<bf16, W> ni;
    const group<const T, W> gi = groups<W>(g, i);
    if (second) vi = groups<W>(v, i);
    if (narrow) ni = groups<W>(narrow, i);
    for (int k = 0; k < W; k++) {
      if (narrow && ni.at[k].bits != bf16((float)pi.at[k]).bits) pi.at[k] = (T)(float)ni.at[k];
      step(pi.at[k], gi.at[k], mi.at[k], vi.at[k]);
      ni.at[k] = bf16((float)pi.at[k]);
    }
    groups<W>(p, i) = pi;
    groups<W>(m, i) = mi;
    if (second) groups<W>(v, i) = vi;
    if (narrow) groups<W>(narrow, i) = ni;
  });
}

template <class T>
static __global__ void adamw_blocks(list l, alk_optim_step s, const double *norm,
                                    const double *steps) {
  if (!isfinite(*norm)) return;
  __shared__ double correct[2];
  if (threadIdx.x < 2) correct[threadIdx.x] = 1 - pow(threadIdx.x ? s.beta2 : s.beta1, *steps);
  __syncthreads();
  int64_t from, to;
  const alk_optim_task *t = find(l, l.task[0].first + blockIdx.x, &from, &to);
  const T b1 = (T)s.beta1, b2 = (T)s.beta2, a1 = (T)(1 - s.beta1), a2 = (T)(1 - s.beta2);
  const T scale = clipped<T>(s, *norm), rate = (T)(s.lr / correct[0]), root = (T)(1 / correct[1]),
          eps = (T)s.eps, shrink = (T)(1 - s.lr * t->decay);
  update<T, true>(t, from, to, [=](T &p, T g, T &m, T &v) {
    const T d = scale * g;
    m = b1 * m + a1 * d;
    v = b2 * v + a2 * d * d;
    p = shrink * p - rate * m / (vsqrt(v * root) + eps);
  });
}
template <class T>
static alk_status adamw(const alk_place *at, int n_tasks, const alk_optim_task *tasks,
                        const alk_optim_step *s, const void *norm, const void *steps) {
  const cudaStream_t stream = stream_of(at);
  each_part(n_tasks, tasks, [&](const list &l, unsigned blocks) {
    adamw_blocks<T>
        <<<blocks, THREADS, 0, stream>>>(l, *s, (const double *)norm, (const double *)steps);
  });
  return launched();
}
CUDA_TYPED(adamw, adamw)

template <class T> static __global__ void sgd_blocks(list l, alk_optim_step s, const double *norm) {
  if (!isfinite(*norm)) return;
  int64_t from, to;
  const alk_optim_task *t = find(l, l.task[0].first + blockIdx.x, &from, &to);
  const T mu = (T)s.momentum, scale = clipped<T>(s, *norm), rate = (T)s.lr,
          shrink = (T)(1 - s.lr * t->decay);
  update<T, false>(t, from, to, [=](T &p, T g, T &m, T &) {
    m = mu * m + scale * g;
    p = shrink * p - rate * m;
  });
}
template <class T>
static alk_status sgd(const alk_place *at, int n_tasks, const alk_optim_task *tasks,
                      const alk_optim_step *s, const void *norm) {
  const cudaStream_t stream = stream_of(at);
  each_part(n_tasks, tasks, [&](const list &l, unsigned blocks) {
    sgd_blocks<T><<<blocks, THREADS, 0, stream>>>(l, *s, (const double *)norm);
  });
  return launched();
}
CUDA_TYPED(sgd, sgd)
