/* reach.cu: rows that a gradient reaches (contract: ../reach.h). A row ends at the first number
 * that decides, so what is read is a sector a row where all are reached. */
#include "rows.cuh"
extern "C" {
#include "../reach.h"
}

/* Offset of number `index` of the axes [from, to) of a view, the last the fastest. */
__device__ static int64_t offset_of(const alk_view &v, int from, int to, int64_t index) {
  int64_t at = 0;
  for (int a = to - 1; a >= from; a--) {
    at += index % v.size[a] * v.stride[a];
    index /= v.size[a];
  }
  return at;
}
static int64_t count(const alk_view *v, int from, int to) {
  int64_t n = 1;
  for (int a = from; a < to; a++) n *= v->size[a];
  return n;
}

/* Of a row, by a warp, to its first such number. */
template <class T>
__device__ static bool any_in_row(const T *p, const alk_view &v, int rows, int64_t each, int lane,
                                  bool not_finite) {
  for (int64_t at = 0; at < each; at += 32) {
    bool mine = false;
    if (at + lane < each) {
      const typename arithmetic<T>::type x = load(p, offset_of(v, rows, v.ndim, at + lane));
      mine = not_finite ? !(x - x == 0) : x != 0;
    }
    if (__any_sync(0xffffffffu, mine)) return true;
  }
  return false;
}

/* A warp takes 32 rows: each lane looks at the first number of one, the warp at the rest of those
 * that this does not decide. */
static const int HIDE_THREADS = 128;
#define EACH_32_ROWS(first, n)                                                                     \
  for (int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32 * 32; first < (n);    \
       first += (int64_t)gridDim.x * blockDim.x)

template <class T>
static __global__ void reach_rows(alk_view g, int rows, int64_t n, int64_t each, bool *mask) {
  const int lane = threadIdx.x & 31;
  EACH_32_ROWS(first, n) {
    const int64_t r = first + lane;
    const bool is = r < n, known = !is || mask[r];
    bool any = known;
    if (!known) any = each > 0 && load((const T *)g.data, offset_of(g, 0, rows, r)) != 0;
    for (unsigned left = each > 1 ? __ballot_sync(0xffffffffu, !any) : 0; left; left &= left - 1) {
      const int k = __ffs((int)left) - 1;
      const T *p = (const T *)g.data + offset_of(g, 0, rows, first + k);
      const bool found = any_in_row(p, g, rows, each, lane, false);
      if (lane == k) any = found;
    }
    if (!known) mask[r] = any;
  }
}
template <class T>
static alk_status reach(const alk_place *at, const alk_view *g, int rows, void *mask) {
  const int64_t n = count(g, 0, rows);
  if (n == 0) return ALK_OK;
  reach_rows<T><<<blocks_for(n, HIDE_THREADS), HIDE_THREADS, 0, stream_of(at)>>>(
      *g, rows, n, count(g, rows, g->ndim), (bool *)mask);
  return launched();
}
CUDA_TYPED_BF16(reach, reach)

template <class T>
static __global__ void dirty_rows(alk_view x, int rows, int64_t n, int64_t each, const bool *mask,
                                  int32_t *dirty) {
  const int lane = threadIdx.x & 31;
  EACH_32_ROWS(first, n) {
    const bool open = first + lane < n && !mask[first + lane];
    for (unsigned left = __ballot_sync(0xffffffffu, open); left; left &= left - 1) {
      const T *p = (const T *)x.data + offset_of(x, 0, rows, first + __ffs((int)left) - 1);
      if (any_in_row(p, x, rows, each, lane, true)) *dirty = 1; /* all write the same */
    }
  }
}
template <class T>
static alk_status reach_dirty(const alk_place *at, const alk_view *x, int rows, const void *mask,
                              void *dirty) {
  const int64_t n = count(x, 0, rows);
  if (n == 0) return ALK_OK;
  dirty_rows<T><<<blocks_for(n, HIDE_THREADS), HIDE_THREADS, 0, stream_of(at)>>>(
      *x, rows, n, count(x, rows, x->ndim), (const bool *)mask, (int32_t *)dirty);
  return launched();
}
CUDA_TYPED_BF16(reach_dirty, reach_dirty)

template <class T>
static __global__ void clean_rows(alk_view x, int64_t n, int64_t each, const bool *mask, T *y) {
  GRID_LOOP(i, n * each)
  y[i] = mask[i / each] ? ((const T *)x.data)[offset_of(x, 0, x.ndim, i)] : (T)0;
}
template <class T>
static alk_status reach_clean(const alk_place *at, const alk_view *x, int rows, const void *mask,
                              void *y) {
  const int64_t n = count(x, 0, rows), each = count(x, rows, x->ndim);
  if (n * each == 0) return ALK_OK;
  clean_rows<T><<<blocks_for(n * each, THREADS), THREADS, 0, stream_of(at)>>>(
      *x, n, each, (const bool *)mask, (T *)y);
  return launched();
}
CUDA_TYPED_BF16(reach_clean, reach_clean)

/* ---- rows hidden while a product runs --------------------------------------------------------- */

template <int size> struct whole_of { typedef uint64_t type; /* as many bits as a number */ };
template <> struct whole_of<4> { typedef uint32_t type; };
template <> struct whole_of<2> { typedef uint16_t type; };
/* What is not finite becomes a number, and that again what it was. */
template <class T> __device__ static void turn(T *p) {
  typedef typename whole_of<sizeof(T)>::type whole;
  *(whole *)(void *)p ^= (whole)((whole)1 << (8 * sizeof(T) - 2));
}

struct two {
  alk_reach_pair of[ALK_REACH_PAIRS];
};

template <class T> static __global__ void hide_rows(two pairs) {
  const alk_reach_pair &k = pairs.of[blockIdx.y];
  const alk_view &g = k.g, &x = k.x;
  int64_t n = 1, each = 1, each_x = 1;
  for (int a = 0; a < k.rows; a++) n *= x.size[a];
  for (int a = k.rows; a < g.ndim; a++) each *= g.size[a];
  for (int a = k.rows; a < x.ndim; a++) each_x *= x.size[a];
  const int lane = threadIdx.x & 31;
  for (int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32 * 32; first < n;
       first += (int64_t)gridDim.x * blockDim.x) {
    const int64_t r = first + lane;
    bool at_once = true;
    if (r < n) at_once = each > 0 && load((const T *)g.data, offset_of(g, 0, k.rows, r)) != 0;
    unsigned left = __ballot_sync(0xffffffffu, !at_once);
    if (r < n) ((bool *)k.hidden)[r] = false;
    __syncwarp();
    for (; left; left &= left - 1) {
      const int64_t row = first + __ffs((int)left) - 1;
      const T *from = (const T *)g.data + offset_of(g, 0, k.rows, row);
      if (any_in_row(from, g, k.rows, each, lane, false)) continue;
      T *p = (T *)x.data + offset_of(x, 0, k.rows, row);
      if (!any_in_row(p, x, k.rows, each_x, lane, true)) continue;
      uint32_t *turned = (uint32_t *)k.turned + row * ALK_REACH_WORDS(each_x);
      for (int64_t at = 0; at < each_x; at += 32) {
        T *q = p + offset_of(x, k.rows, x.ndim, at + lane < each_x ? at + lane : at);
        const real_of<T> v = load(q, 0);
        const bool mine = at + lane < each_x && !(v - v == 0);
        const unsigned all = __ballot_sync(0xffffffffu, mine);
        if (mine) turn(q);
        if (lane == 0) turned[at / 32] = all;
      }
      if (lane == 0) ((bool *)k.hidden)[row] = true;
    }
  }
}

template <class T> static __global__ void show_rows(two pairs) {
  const alk_reach_pair &k = pairs.of[blockIdx.y];
  const alk_view &x = k.x;
  int64_t n = 1, each = 1;
  for (int a = 0; a < k.rows; a++) n *= x.size[a];
  for (int a = k.rows; a < x.ndim; a++) each *= x.size[a];
  GRID_LOOP(r, n)
  if (((const bool *)k.hidden)[r]) {
    T *p = (T *)x.data + offset_of(x, 0, k.rows, r);
    const uint32_t *turned = (const uint32_t *)k.turned + r * ALK_REACH_WORDS(each);
    for (int64_t i = 0; i < each; i++)
      if (turned[i / 32] >> i % 32 & 1) turn(p + offset_of(x, k.rows, x.ndim, i));
  }
}

static dim3 blocks_of(int n, const alk_reach_pair *pairs, two *both) {
  int64_t most = 1;
  for (int i = 0; i < n; i++) {
    both->of[i] = pairs[i];
    const int64_t rows = count(&pairs[i].x, 0, pairs[i].rows);
    most = rows > most ? rows : most;
  }
  return dim3(blocks_for(most, HIDE_THREADS), (unsigned)n);
}
template <class T>
static alk_status reach_hide(const alk_place *at, int n, const alk_reach_pair *pairs) {
  two both = {};
  const dim3 blocks = blocks_of(n, pairs, &both);
  hide_rows<T><<<blocks, HIDE_THREADS, 0, stream_of(at)>>>(both);
  return launched();
}
CUDA_TYPED_BF16(reach_hide, reach_hide)
template <class T>
static alk_status reach_show(const alk_place *at, int n, const alk_reach_pair *pairs) {
  two both = {};
  const dim3 blocks = blocks_of(n, pairs, &both);
  show_rows<T><<<blocks, HIDE_THREADS, 0, stream_of(at)>>>(both);
  return launched();
}
CUDA_TYPED_BF16(reach_show, reach_show)
