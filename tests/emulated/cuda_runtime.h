/* cuda_runtime.h: of the CUDA runtime what plain kernels and their host functions call, for machines
 * without a card. The build (CMakeLists.txt, emulated_module) hands every .cu, with its launches
 * turned into calls (launches.sed), to a C++ compiler that finds this header in the place of CUDA's;
 * the kernels then run on the CPU, block after block, the threads of a block as fibers of one thread
 * (emulated.cpp).
 *
 * What it sees: sums, orders, indices, barriers that not all threads reach, reads before a barrier
 * (threads of a block run one after the other from barrier to barrier, every second block from the
 * last to the first), launches that a card refuses, memory that is not there, lanes that are not
 * there. What it does not: time, races within one thread's order, the card's own rounding of exp and
 * the like. */
#ifndef EMULATED_CUDA_RUNTIME_H
#define EMULATED_CUDA_RUNTIME_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static /* blocks follow each other; a template has one an instance */
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define VECTORS(type, name)                                                                        \
  struct __align__(2 * sizeof(type)) name##2 {                                                     \
    type x, y;                                                                                     \
  };                                                                                               \
  struct name##3 {                                                                                 \
    type x, y, z;                                                                                  \
  };                                                                                               \
  struct __align__(sizeof(type) < 8 ? 4 * sizeof(type) : 16) name##4 {                             \
    type x, y, z, w;                                                                               \
  };                                                                                               \
  static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                          \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTORS(float, float)
VECTORS(double, double)
VECTORS(int, int)
VECTORS(unsigned short, ushort)
VECTORS(long long, longlong)
#undef VECTORS
struct __align__(8) uint2 {
  unsigned x, y;
};
struct __align__(16) uint4 {
  unsigned x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

/* ---- launches -------------------------------------------------------------------------------- */

typedef struct emulated_stream *cudaStream_t;
namespace emulated {
struct fiber;
struct block_state {
  uint3 block;
  dim3 grid, threads;
};
extern block_state here;
uint3 thread(); /* of the fiber that runs */
void run(dim3 grid, dim3 block, size_t shared, size_t parameters, const void *kernel,
         void (*call)(void *), void *with);
void *dynamic_shared();

template <class... A> struct bound {
  dim3 grid, block;
  size_t shared;
  std::tuple<A...> with;
};
struct config {
  dim3 grid, block;
  size_t shared;
  config(dim3 g, dim3 b, size_t s = 0, cudaStream_t = nullptr) : grid(g), block(b), shared(s) {}
  template <class... A> bound<std::decay_t<A>...> operator()(A &&...a) const {
    return {grid, block, shared, std::tuple<std::decay_t<A>...>(a...)};
  }
};
/* kernel<<<g, b>>>(x) reaches the compiler as kernel ->* emulated::config(g, b)(x). */
template <class... P, class... A> void operator->*(void (*kernel)(P...), bound<A...> &&b) {
  struct pack {
    void (*kernel)(P...);
    std::tuple<P...> with;
  } p = {kernel, std::tuple<P...>(b.with)};
  run(
      b.grid, b.block, b.shared, (size_t(0) + ... + sizeof(P)), (const void *)kernel,
      [](void *v) {
        const pack *q = (const pack *)v;
        std::apply(q->kernel, q->with);
      },
      &p);
}

void sync_block();
int vote_block(int value); /* bit 0: any, bit 1: all, from bit 2: how many */
/* All lanes of the mask meet; a lane gets what lane `from` brought, 0xff.. of one that is not there. */
void meet_warp(unsigned mask, const void *mine, size_t bytes, unsigned from, void *theirs);
unsigned ballot(unsigned mask, bool value);
int lane();
} // namespace emulated
#define threadIdx (emulated::thread())
#define blockIdx (emulated::here.block)
#define blockDim (emulated::here.threads)
#define gridDim (emulated::here.grid)
static const int warpSize = 32;

static inline void __syncthreads() { emulated::sync_block(); }
static inline int __syncthreads_or(int v) { return emulated::vote_block(v) & 1; }
static inline int __syncthreads_and(int v) { return emulated::vote_block(v) >> 1 & 1; }
static inline int __syncthreads_count(int v) { return emulated::vote_block(v) >> 2; }
template <class T> static inline T emulated_shuffle(unsigned mask, T v, unsigned from) {
  T r;
  emulated::meet_warp(mask, &v, sizeof v, from, &r);
  return r;
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
  const int l = emulated::lane();
  return emulated_shuffle(mask, v, (unsigned)((l & ~(width - 1)) | (from & (width - 1))));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32) {
  const int l = emulated::lane(), to = l ^ by;
  return emulated_shuffle(mask, v, (unsigned)((to & ~(width - 1)) > (l & ~(width - 1)) ? l : to));
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  const int l = emulated::lane(), to = l + (int)by;
  return emulated_shuffle(mask, v, (unsigned)(to / width == l / width ? to : l));
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  const int l = emulated::lane(), to = l - (int)by;
  return emulated_shuffle(mask, v, (unsigned)(to >= (l & ~(width - 1)) ? to : l));
}
static inline unsigned __ballot_sync(unsigned mask, int v) { return emulated::ballot(mask, v); }
static inline int __any_sync(unsigned mask, int v) { return emulated::ballot(mask, v) != 0; }
static inline int __all_sync(unsigned mask, int v) { return emulated::ballot(mask, !v) == 0; }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { emulated::ballot(mask, false); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

/* ---- what a thread computes ------------------------------------------------------------------ */

template <class T, class B> static inline T emulated_bits(B b) {
  static_assert(sizeof(T) == sizeof(B), "as many bits");
  T t;
  memcpy(&t, &b, sizeof t);
  return t;
}
static inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return emulated_bits<float>(x); }
static inline int __float_as_int(float x) { return emulated_bits<int>(x); }
static inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1 / a; }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf(x) expf(x) /* names of the C library's own */
#define __logf(x) logf(x)
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float normcdff(float x) {
  return (float)(0.5 * erfc(-(double)x * 0.70710678118654752));
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline unsigned __umulhi(unsigned a, unsigned b) {
  return (unsigned)((uint64_t)a * b >> 32);
}
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline void __stcs(T *p, T v) { *p = v; }
template <class T> static inline void __stcg(T *p, T v) { *p = v; }
template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b) {
  typedef std::common_type_t<A, B> T;
  return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b) {
  typedef std::common_type_t<A, B> T;
  return (T)a < (T)b ? (T)b : (T)a;
}
/* Of whole numbers alone: sums of floats have an order. */
template <class T, class S> static inline T emulated_exchange(T *p, S next) {
  static_assert(std::is_integral<T>::value, "atomics are for whole numbers");
  const T was = *p;
  *p = (T)next;
  return was;
}
template <class T, class S> static inline T atomicAdd(T *p, S v) {
  return emulated_exchange(p, *p + (T)v);
}
template <class T, class S> static inline T atomicOr(T *p, S v) {
  return emulated_exchange(p, *p | (T)v);
}
template <class T, class S> static inline T atomicMax(T *p, S v) {
  return emulated_exchange(p, max(*p, (T)v));
}
template <class T, class S> static inline T atomicMin(T *p, S v) {
  return emulated_exchange(p, min(*p, (T)v));
}
template <class T, class S> static inline T atomicExch(T *p, S v) {
  return emulated_exchange(p, v);
}
template <class T, class S> static inline T atomicCAS(T *p, S if_this, S v) {
  return emulated_exchange(p, *p == (T)if_this ? (T)v : *p);
}

/* ---- calls of the host ----------------------------------------------------------------------- */

#define CUDART_VERSION 13000
typedef enum cudaError {
  cudaSuccess,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDevicesUnavailable = 46,
  cudaErrorNoDevice = 100,
  cudaErrorDeviceAlreadyInUse = 216,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700
} cudaError_t;
typedef struct emulated_pool *cudaMemPool_t;
typedef struct emulated_event *cudaEvent_t;
typedef enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
} cudaMemcpyKind;
typedef enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
} cudaDeviceAttr;
typedef enum cudaMemPoolAttr {
  cudaMemPoolAttrReleaseThreshold,
  cudaMemPoolAttrReservedMemCurrent,
  cudaMemPoolAttrUsedMemCurrent
} cudaMemPoolAttr;
typedef enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize } cudaFuncAttribute;
typedef struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount, l2CacheSize;
} cudaDeviceProp;
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventDefault = 0 };

cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int card);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr a, int card);
cudaError_t cudaDriverGetVersion(int *v);
cudaError_t cudaRuntimeGetVersion(int *v);
cudaError_t cudaSetDevice(int card);
cudaError_t cudaGetDevice(int *card);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *p, int card);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t p, cudaMemPoolAttr a, void *value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t p, cudaMemPoolAttr a, void *value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t p, size_t bytes);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t emulated_take(void **p, size_t bytes);
cudaError_t emulated_give(void *p);
template <class T> cudaError_t cudaMallocAsync(T **p, size_t bytes, cudaStream_t) {
  return emulated_take((void **)p, bytes);
}
template <class T> cudaError_t cudaMalloc(T **p, size_t bytes) {
  return emulated_take((void **)p, bytes);
}
template <class T> cudaError_t cudaMallocHost(T **p, size_t bytes) {
  return emulated_take((void **)p, bytes);
}
static inline cudaError_t cudaFreeAsync(void *p, cudaStream_t) { return emulated_give(p); }
static inline cudaError_t cudaFree(void *p) { return emulated_give(p); }
static inline cudaError_t cudaFreeHost(void *p) { return emulated_give(p); }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind k, cudaStream_t s);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind k, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t n, cudaStream_t s);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
static inline cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t emulated_attribute(const void *kernel, cudaFuncAttribute a, int value);
template <class F> cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute a, int value) {
  return emulated_attribute((const void *)kernel, a, value);
}
#endif
