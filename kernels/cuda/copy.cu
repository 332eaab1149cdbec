/* copy.cu: strided copies with conversion (contract: ../copy.h), 16 bytes at a time where both
 * sides lie so; packed copies of one type are the driver's own.
 *
 * Floor: 2 numbers read and written; what repeats is read once. Share of a packed copy's rate
 * (cuda.cuh), bf16 and f32: axes permuted (B,T,H,D) 1.0 and .82, back .24 and 1.08; a sum's
 * gradient spread over what was summed .12 and .21. */
#include "cuda.cuh"
extern "C" {
#include "../copy.h"
}

static int64_t dtype_size(alk_dtype t) { return t == ALK_F64 ? 8 : t == ALK_BF16 ? 2 : 4; }

__device__ static double read_as(const void *p, alk_dtype t, int64_t i) {
  switch (t) {
  case ALK_F64:
    return ((const double *)p)[i];
  case ALK_F32:
    return ((const float *)p)[i];
  case ALK_BF16:
    return __uint_as_float((uint32_t)((const uint16_t *)p)[i] << 16);
  default:
    return ((const int32_t *)p)[i];
  }
}
/* The same bits as on the CPU, NaNs too. */
__device__ static uint16_t bf16_bits(float f) {
  const uint32_t u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
__device__ static void write_as(void *p, alk_dtype t, int64_t i, double v) {
  switch (t) {
  case ALK_F64:
    ((double *)p)[i] = v;
    break;
  case ALK_F32:
    ((float *)p)[i] = (float)v;
    break;
  case ALK_BF16:
    ((uint16_t *)p)[i] = bf16_bits((float)v);
    break;
  default:
    ((int32_t *)p)[i] = v >= 2147483647.0    ? 2147483647
                        : v <= -2147483648.0 ? INT32_MIN
                        : v == v             ? (int32_t)v
                                             : 0;
  }
}

template <class T> static __global__ void move(walk<2> w, int64_t n, T *dst, const T *src) {
  GRID_LOOP(i, n) {
    int64_t at[2];
    w.offsets(i, at);
    dst[at[0]] = src[at[1]];
  }
}
static __global__ void convert(walk<2> w, int64_t n, void *dst, alk_dtype dt, const void *src,
                               alk_dtype st) {
  GRID_LOOP(i, n) {
    int64_t at[2];
    w.offsets(i, at);
    write_as(dst, dt, at[0], read_as(src, st, at[1]));
  }
}

/* Packed, four at a time: between f32 and bf16. */
static __global__ void narrow(int64_t n, uint16_t *dst, const float *src) {
  GRID_GROUPS(i, n, 4) {
    const group<const float, 4> v = groups<4>(src, i);
    group<uint16_t, 4> to;
    for (int k = 0; k < 4; k++) to.at[k] = bf16_bits(v.at[k]);
    groups<4>(dst, i) = to;
  }
}
static __global__ void widen(int64_t n, float *dst, const uint16_t *src) {
  GRID_GROUPS(i, n, 4) {
    const group<const uint16_t, 4> v = groups<4>(src, i);
    group<float, 4> to;
    for (int k = 0; k < 4; k++) to.at[k] = __uint_as_float((uint32_t)v.at[k] << 16);
    groups<4>(dst, i) = to;
  }
}

/* Makes w a walk over 16 bytes at a time, numbers of `size` bytes, where all that is walked lies
 * so. */
static bool by_groups(walk<2> *w, int64_t size, const alk_view *dst, const alk_view *src) {
  const int64_t W = 16 / size;
  const int last = w->nd - 1;
  bool fits = grouped(0, 0, dst->data, src->data) && last >= 0 && w->size[last] % W == 0;
  for (int k = 0; fits && k < 2; k++)
    for (int i = 0; i < w->nd; i++)
      fits = fits && (i == last ? w->stride[k][i] == 1 : w->stride[k][i] % W == 0);
  if (!fits) return false;
  w->size[last] /= W;
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < last; i++) w->stride[k][i] /= W;
  return true;
}

static alk_status copy(const alk_place *at, const alk_view *dst, const alk_view *src) {
  const int64_t n = alk_numel(dst), size = dtype_size(dst->dtype);
  if (n == 0) return ALK_OK;
  const alk_view *const both[2] = {dst, src};
  walk<2> w = merged(both);
  const cudaStream_t s = stream_of(at);
  const unsigned blocks = blocks_for(n, THREADS);
  const bool packed = w.nd == 0 || (w.nd == 1 && w.stride[0][0] == 1 && w.stride[1][0] == 1);
  const bool four = packed && grouped(n, 4, dst->data, src->data);
  if (four && dst->dtype == ALK_BF16 && src->dtype == ALK_F32)
    narrow<<<blocks_for(n, 4 * THREADS), THREADS, 0, s>>>(n, (uint16_t *)dst->data,
                                                          (const float *)src->data);
  else if (four && dst->dtype == ALK_F32 && src->dtype == ALK_BF16)
    widen<<<blocks_for(n, 4 * THREADS), THREADS, 0, s>>>(n, (float *)dst->data,
                                                         (const uint16_t *)src->data);
  else if (dst->dtype != src->dtype)
    convert<<<blocks, THREADS, 0, s>>>(w, n, dst->data, dst->dtype, src->data, src->dtype);
  else if (packed)
    cudaMemcpyAsync(dst->data, src->data, (size_t)(n * size), cudaMemcpyDeviceToDevice, s);
  else if (by_groups(&w, size, dst, src))
    move<uint4><<<blocks_for(n * size / 16, THREADS), THREADS, 0, s>>>(
        w, n * size / 16, (uint4 *)dst->data, (const uint4 *)src->data);
  else if (size == 8)
    move<uint64_t>
        <<<blocks, THREADS, 0, s>>>(w, n, (uint64_t *)dst->data, (const uint64_t *)src->data);
  else if (size == 4)
    move<uint32_t>
        <<<blocks, THREADS, 0, s>>>(w, n, (uint32_t *)dst->data, (const uint32_t *)src->data);
  else
    move<uint16_t>
        <<<blocks, THREADS, 0, s>>>(w, n, (uint16_t *)dst->data, (const uint16_t *)src->data);
  return launched();
}
CUDA_ANY(copy, copy)

template <class T, int W> static __global__ void sum_into(int64_t n, T *dst, const T *src) {
  GRID_GROUPS(i, n, W) {
    real_of<T> sum[W], more[W];
    load_all<W>(dst, i, sum);
    load_all<W>(src, i, more);
    for (int k = 0; k < W; k++) sum[k] += more[k];
    store_all<W>(dst, i, sum);
  }
}
template <class T> static void run_sum(cudaStream_t s, int64_t n, void *dst, const void *src) {
  const bool wide = grouped(n, sizeof(T), dst, src);
  auto run = wide ? sum_into<T, GROUP(T)> : sum_into<T, 1>;
  run<<<blocks_for(n, wide ? THREADS * GROUP(T) : THREADS), THREADS, 0, s>>>(n, (T *)dst,
                                                                             (const T *)src);
}
static alk_status add_into(const alk_place *at, int64_t n, void *dst, const void *src) {
  if (n == 0) return ALK_OK;
  if (at->dtype == ALK_F64) run_sum<double>(stream_of(at), n, dst, src);
  else if (at->dtype == ALK_F32) run_sum<float>(stream_of(at), n, dst, src);
  else run_sum<bf16>(stream_of(at), n, dst, src);
  return launched();
}
CUDA_ANY(add_into, add_into)

static __global__ void fill_with(int64_t n, void *dst, alk_dtype t, double value) {
  GRID_LOOP(i, n) write_as(dst, t, i, value);
}
static alk_status fill(const alk_place *at, int64_t n, void *dst, double value) {
  if (n == 0) return ALK_OK;
  if (value == 0) cudaMemsetAsync(dst, 0, (size_t)(n * dtype_size(at->dtype)), stream_of(at));
  else fill_with<<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(n, dst, at->dtype, value);
  return launched();
}
CUDA_ANY(fill, fill)
