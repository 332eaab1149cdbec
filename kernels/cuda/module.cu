/* module.cu: the CUDA module: its table of kernels, cards, queues and memory (contract:
 * ../module.h). */
#include "cuda.cuh"
#include "sdpa.cuh"
#include "versions.cuh"
extern "C" {
#include "../module.h"
}
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALK_TYPED(name)                                                                            \
  extern "C" const alk_##name##_fn cuda_##name[ALK_DTYPES] __attribute__((weak));
#define ALK_UNTYPED(name) extern "C" const alk_##name##_fn cuda_##name __attribute__((weak));
#include "alk_rows.inc"
#undef ALK_TYPED
#undef ALK_UNTYPED

static const alk_table *filled(void) {
  static alk_table t;
#define ALK_TYPED(name)                                                                            \
  if (&cuda_##name) memcpy(t.name, cuda_##name, sizeof t.name);
#define ALK_UNTYPED(name)                                                                          \
  if (&cuda_##name) t.name = cuda_##name;
#include "alk_rows.inc"
  return &t;
}

/* ---- cards ----------------------------------------------------------------------------------- */

enum { LEAST_MAJOR = 8 };

static int cards(char *why, size_t n) {
  int count = 0, driver = 0, runtime = 0, usable = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  cudaGetLastError();
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (e == cudaErrorInsufficientDriver && driver == 0)
    snprintf(why, n, "no NVIDIA driver on this machine");
  else if (e == cudaErrorInsufficientDriver)
    snprintf(why, n, "the driver is too old: CUDA %d.%d needed, it has %d.%d", runtime / 1000,
             runtime / 10 % 100, driver / 1000, driver / 10 % 100);
  else if (e == cudaErrorNoDevice || (e == cudaSuccess && count == 0))
    snprintf(why, n, "no NVIDIA card on this machine");
  else if (e != cudaSuccess) snprintf(why, n, "%s", cudaGetErrorString(e));
  if (e != cudaSuccess) return 0;
  for (; usable < count; usable++) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, usable);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, usable);
    if (major >= LEAST_MAJOR) continue;
    snprintf(why, n, "card %d has compute capability %d.%d, %d.0 or more needed", usable, major,
             minor, LEAST_MAJOR);
    break;
  }
  return usable;
}

/* The number of the driver's release, as "580.159.04 ", or "": CUDA has no call for it. */
static const char *driver_release(char text[32]) {
  char line[256] = "";
  FILE *f = fopen("/proc/driver/nvidia/version", "r");
  text[0] = 0;
  if (!f) return text;
  if (fgets(line, sizeof line, f)) {
    for (const char *word = strtok(line, " \t\n"); word; word = strtok(NULL, " \t\n"))
      if (strchr(word, '.') && strspn(word, "0123456789.") == strlen(word)) {
        snprintf(text, 32, "%.30s ", word);
        break;
      }
  }
  fclose(f);
  return text;
}

static void describe(int i, char *text, size_t n) {
  cudaDeviceProp p;
  int driver = 0, runtime = 0;
  char release[32];
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (cudaGetDeviceProperties(&p, i) != cudaSuccess)
    snprintf(text, n, "%s", cudaGetErrorString(cudaGetLastError()));
  else
    snprintf(text, n, "%s, %.0f GiB, compute %d.%d, driver %sfor CUDA %d.%d, runtime %d.%d%s%s",
             p.name, (double)p.totalGlobalMem / (1 << 30), p.major, p.minor,
             driver_release(release), driver / 1000, driver / 10 % 100, runtime / 1000,
             runtime / 10 % 100, cuda_blas_version(), cuda_dnn_version());
}

static int64_t memory(int i) {
  cudaDeviceProp p;
  if (cudaGetDeviceProperties(&p, i) == cudaSuccess) return (int64_t)p.totalGlobalMem;
  cudaGetLastError();
  return 0;
}

/* The queue that was closed last, for the next that is opened: handles of libraries and buffers
 * that the card reads take longer to make than a small test runs. */
static cuda_queue *idle;

static thread_local int at_card = -1; /* asking the runtime costs more than a kernel's launch may */
static cudaError_t turn_to(int card) {
  if (at_card == card) return cudaSuccess;
  const cudaError_t e = cudaSetDevice(card);
  at_card = e == cudaSuccess ? card : -1;
  return e;
}

static void end_queue(cuda_queue *q);
static void *open_queue(int card, char *why, size_t n) {
  cuda_queue *q = __atomic_exchange_n(&idle, (cuda_queue *)NULL, __ATOMIC_ACQ_REL);
  if (q && q->card == card && turn_to(card) == cudaSuccess) return q;
  if (q) end_queue(q);
  q = (cuda_queue *)calloc(1, sizeof *q);
  if (!q) return snprintf(why, n, "out of memory"), (void *)NULL;
  q->card = card;
  cudaMemPool_t pool;
  uint64_t keep = UINT64_MAX; /* what is given back stays in the pool */
  cudaError_t e = turn_to(card);
  if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking);
  if (e == cudaSuccess) e = cudaDeviceGetDefaultMemPool(&pool, card);
  if (e == cudaSuccess) e = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep);
  if (e == cudaSuccess) return q;
  cudaGetLastError();
  if (e == cudaErrorDevicesUnavailable || e == cudaErrorDeviceAlreadyInUse)
    snprintf(why, n, "the card is busy: another process has it for itself (%s)",
             cudaGetErrorString(e));
  else if (e == cudaErrorMemoryAllocation)
    snprintf(why, n, "the card is busy: no memory is left on it (%s)", cudaGetErrorString(e));
  else snprintf(why, n, "%s", cudaGetErrorString(e));
  if (q->stream) cudaStreamDestroy(q->stream);
  free(q);
  return NULL;
}

static void end_stages(cuda_queue *q);
static void end_queue(cuda_queue *q) {
  turn_to(q->card);
  cuda_blas_end(q);
  cuda_sdpa_end(q);
  end_stages(q);
  cudaStreamDestroy(q->stream);
  cudaGetLastError();
  free(q);
}
static void close_queue(void *queue) {
  cuda_queue *q = (cuda_queue *)queue;
  turn_to(q->card);
  if (cudaStreamSynchronize(q->stream) == cudaSuccess) {
    cuda_blas_forget(q);
    q->failed = false;
    q = __atomic_exchange_n(&idle, q, __ATOMIC_ACQ_REL);
  }
  if (q) end_queue(q);
}

static void use(void *queue) { turn_to(((cuda_queue *)queue)->card); }

/* ---- memory ---------------------------------------------------------------------------------- */

static void *take(void *queue, int64_t bytes) {
  void *p = NULL;
  use(queue);
  const cudaError_t e =
      cudaMallocAsync(&p, bytes > 0 ? (size_t)bytes : 1, ((cuda_queue *)queue)->stream);
  if (e == cudaErrorMemoryAllocation) cudaGetLastError(); /* the caller says so */
  return e == cudaSuccess ? p : NULL;
}
static void give(void *queue, void *data) {
  use(queue);
  cudaFreeAsync(data, ((cuda_queue *)queue)->stream);
}
/* Small blocks in one launch, a warp each: bytes of 0xff are a NaN in every float type, -1 in i32. */
static const int64_t SMALL = (int64_t)64 << 10;
struct small_blocks {
  uint4 *data[128];
  int64_t n[128];
};
static __global__ void poison_blocks(small_blocks all) {
  uint4 *p = all.data[blockIdx.x];
  for (int64_t i = threadIdx.x; i < all.n[blockIdx.x]; i += blockDim.x) p[i] = {~0u, ~0u, ~0u, ~0u};
}
static void poison(void *queue, int n, void *const *data, const int64_t *bytes) {
  const cudaStream_t stream = ((cuda_queue *)queue)->stream;
  small_blocks all;
  unsigned small = 0;
  use(queue);
  for (int i = 0; i < n; i++) {
    if (n == 1 || bytes[i] > SMALL || bytes[i] % 16 || small == sizeof all.n / sizeof *all.n)
      cudaMemsetAsync(data[i], 0xff, (size_t)bytes[i], stream);
    else all.data[small] = (uint4 *)data[i], all.n[small++] = bytes[i] / 16;
  }
  if (small) poison_blocks<<<small, 32, 0, stream>>>(all);
}
static void copy(void *queue, void *to, const void *from, int64_t bytes, cudaMemcpyKind kind) {
  const cudaStream_t s = ((cuda_queue *)queue)->stream;
  use(queue);
  if (cudaMemcpyAsync(to, from, (size_t)bytes, kind, s) == cudaSuccess) cudaStreamSynchronize(s);
}
static void to_host(void *queue, void *to, const void *from, int64_t bytes) {
  copy(queue, to, from, bytes, cudaMemcpyDeviceToHost);
}
/* What is small is copied to a buffer that the card reads by itself, so that nobody waits for the
 * queue: the buffers take turns. */
enum { STAGES = sizeof(((cuda_queue *)0)->read_by) / sizeof(cudaEvent_t) };
static const int64_t STAGE = (int64_t)256 << 10;
static char *free_stage(cuda_queue *q) {
  if (!q->staged) {
    cudaError_t e = cudaMallocHost(&q->staged, (size_t)(STAGES * STAGE));
    for (int i = 0; i < STAGES && e == cudaSuccess; i++)
      e = cudaEventCreateWithFlags(&q->read_by[i], cudaEventDisableTiming);
    if (e != cudaSuccess) return end_stages(q), (char *)NULL;
  } else if (cudaEventSynchronize(q->read_by[q->stage]) != cudaSuccess) {
    return NULL;
  }
  return q->staged + q->stage * STAGE;
}
static void end_stages(cuda_queue *q) {
  for (int i = 0; q->staged && i < STAGES; i++)
    if (q->read_by[i]) cudaEventDestroy(q->read_by[i]);
  if (q->staged) cudaFreeHost(q->staged);
  memset(q->read_by, 0, sizeof q->read_by);
  q->staged = NULL;
}
static void from_host(void *queue, void *to, const void *from, int64_t bytes) {
  cuda_queue *q = (cuda_queue *)queue;
  use(queue);
  char *stage = bytes <= STAGE ? free_stage(q) : NULL;
  if (!stage) {
    copy(queue, to, from, bytes, cudaMemcpyHostToDevice);
    return;
  }
  memcpy(stage, from, (size_t)bytes);
  if (cudaMemcpyAsync(to, stage, (size_t)bytes, cudaMemcpyHostToDevice, q->stream) == cudaSuccess)
    cudaEventRecord(q->read_by[q->stage], q->stream);
  q->stage = (q->stage + 1) % STAGES;
}
static void trim(void *queue) {
  cudaMemPool_t pool;
  use(queue);
  if (cudaStreamSynchronize(((cuda_queue *)queue)->stream) != cudaSuccess) return;
  if (cudaDeviceGetDefaultMemPool(&pool, ((cuda_queue *)queue)->card) == cudaSuccess)
    cudaMemPoolTrimTo(pool, 0);
}

/* An error that a query still tells after it was taken has ended the process's use of the card. */
static const char *failure(void *queue, bool *dead) {
  cuda_queue *q = (cuda_queue *)queue;
  const cudaError_t e = cudaGetLastError();
  *dead = false;
  if (q->failed) return q->failed = false, q->why;
  if (e == cudaSuccess) return NULL;
  const cudaError_t after = cudaStreamQuery(q->stream);
  *dead = after != cudaSuccess && after != cudaErrorNotReady;
  cudaGetLastError();
  snprintf(q->why, sizeof q->why, "%s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
  return q->why;
}

static bool plans_time(void *queue, bool on) {
  use(queue);
  return cuda_plans_time((cuda_queue *)queue, on);
}
static char *plans_save(void *queue, char *why, size_t n) {
  use(queue);
  return cuda_plans_save((cuda_queue *)queue, why, n);
}
static bool plans_load(void *queue, const char *text, char *why, size_t n) {
  use(queue);
  return cuda_plans_load((cuda_queue *)queue, text, why, n);
}

extern "C" __attribute__((visibility("default"))) const alk_module *
alk_cuda_module(const char **build) {
  static alk_module m;
  *build = ALK_BUILD_ID;
  m = {filled(), cards,   describe,  memory, open_queue, close_queue, use,        take,      give,
       poison,   to_host, from_host, trim,   failure,    plans_time,  plans_save, plans_load};
  return &m;
}
