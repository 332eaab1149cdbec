/* emulated.cpp: blocks and fibers, memory and errors of the emulated card (cuda_runtime.h). */
#include "cuda_runtime.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unordered_map>
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emulated {
block_state here;

enum { WARP = 32, MOST_THREADS = 1024, WIDEST = 16 };
static const size_t STACK = (256 << 10) + 64 * 67; /* not all in the same lines of a cache */
static const size_t SHARED = 48 << 10, SHARED_MOST = 227 << 10;

struct barrier {
  int arrived, alive;
  unsigned generation;
  int any[2], all[2], count[2]; /* votes, by the generation's last bit */
};
struct warp {
  barrier b;
  unsigned lanes;      /* that have not ended */
  unsigned present[2]; /* that brought something */
  unsigned char brought[2][WARP][WIDEST];
};
struct fiber {
#ifdef __x86_64__
  void *sp;
#else
  ucontext_t context;
#endif
  uint3 id;
  int number;
  bool ended;
  const barrier *waits;
  unsigned seen;
};

static fiber fibers[MOST_THREADS], *now;
static warp warps[MOST_THREADS / WARP];
static barrier whole;
static char *stacks;
static unsigned char pool[SHARED_MOST] __attribute__((aligned(1024)));
static void (*the_call)(void *);
static void *the_pack;

uint3 thread() { return now->id; }
void *dynamic_shared() { return pool; }
int lane() { return now->number % WARP; }

/* ---- fibers ---------------------------------------------------------------------------------- */

#ifdef __x86_64__
extern "C" void emulated_switch(void **from, void *to);
asm(".text\n"
    ".globl emulated_switch\n"
    ".type emulated_switch,@function\n"
    "emulated_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp,(%rdi)\n"
    "  movq %rsi,%rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n");
static void *host;
static void to_host() { emulated_switch(&now->sp, host); }
static void to_fiber(fiber *f) { emulated_switch(&host, f->sp); }
#else
static ucontext_t host;
static void to_host() { swapcontext(&now->context, &host); }
static void to_fiber(fiber *f) { swapcontext(&host, &f->context); }
#endif

static void release(barrier *b) {
  const unsigned next = ++b->generation & 1;
  b->arrived = 0;
  b->any[next] = 0, b->all[next] = 1, b->count[next] = 0;
}
static void release_warp(warp *w) {
  release(&w->b);
  w->present[w->b.generation & 1] = 0;
}

static void body() {
  the_call(the_pack);
  warp *w = &warps[now->number / WARP];
  now->ended = true;
  w->lanes &= ~(1u << lane());
  if (--whole.alive && whole.arrived >= whole.alive) release(&whole);
  if (--w->b.alive && w->b.arrived >= w->b.alive) release_warp(w);
  to_host();
}

static void begin(fiber *f) {
  char *top = stacks + (size_t)(f->number + 1) * STACK / 16 * 16;
#ifdef __x86_64__
  void **sp = (void **)top - 2; /* 16-byte aligned as before a call's return address is pushed */
  *sp = (void *)body;
  f->sp = sp - 6;
#else
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = top - STACK, f->context.uc_stack.ss_size = STACK;
  makecontext(&f->context, body, 0);
#endif
}

[[noreturn]] static void end(const char *what) {
  fprintf(stderr, "emulated card: %s (block %u,%u,%u of %u,%u,%u, %u threads)\n", what,
          here.block.x, here.block.y, here.block.z, here.grid.x, here.grid.y, here.grid.z,
          here.threads.x * here.threads.y * here.threads.z);
  abort();
}

static void wait_at(const barrier *b) {
  now->waits = b, now->seen = b->generation;
  to_host();
  now->waits = NULL;
}

/* ---- barriers -------------------------------------------------------------------------------- */

int vote_block(int value) {
  barrier *b = &whole;
  const unsigned g = b->generation & 1;
  b->any[g] |= value != 0, b->all[g] &= value != 0, b->count[g] += value != 0;
  if (++b->arrived >= b->alive) release(b);
  else wait_at(b);
  return b->any[g] | b->all[g] << 1 | b->count[g] << 2;
}
void sync_block() { vote_block(0); }

void meet_warp(unsigned mask, const void *mine, size_t bytes, unsigned from, void *theirs) {
  warp *w = &warps[now->number / WARP];
  const unsigned g = w->b.generation & 1;
  if (!(mask >> lane() & 1)) end("a lane calls a warp's function whose mask leaves it out");
  if (bytes > WIDEST) end("a shuffle of more than 16 bytes");
  w->present[g] |= 1u << lane();
  if (bytes == 4) memcpy(w->brought[g][lane()], mine, 4); /* as one move */
  else if (bytes == 8) memcpy(w->brought[g][lane()], mine, 8);
  else memcpy(w->brought[g][lane()], mine, bytes);
  const unsigned who = mask & w->lanes;
  if (++w->b.arrived >= (who == ~0u ? 32 : __builtin_popcount(who))) release_warp(w);
  else wait_at(&w->b);
  if (from < WARP && w->present[g] >> from & 1) {
    if (bytes == 4) memcpy(theirs, w->brought[g][from], 4);
    else if (bytes == 8) memcpy(theirs, w->brought[g][from], 8);
    else memcpy(theirs, w->brought[g][from], bytes);
  } else memset(theirs, 0xff, bytes);
}
unsigned ballot(unsigned mask, bool value) {
  warp *w = &warps[now->number / WARP];
  const unsigned g = w->b.generation & 1;
  bool own;
  meet_warp(mask, &value, sizeof value, (unsigned)lane(), &own);
  unsigned bits = 0;
  for (unsigned l = 0; l < WARP; l++)
    if (w->present[g] >> l & 1 && w->brought[g][l][0]) bits |= 1u << l;
  return bits;
}

/* ---- launches -------------------------------------------------------------------------------- */

static cudaError_t last;
static std::unordered_map<const void *, size_t> allowed; /* dynamic shared memory of a kernel */

static void run_block(unsigned n, bool backward) {
  whole = {};
  whole.alive = (int)n, whole.all[0] = 1;
  for (unsigned i = 0; i < (n + WARP - 1) / WARP; i++) {
    const unsigned here_are = n - i * WARP < WARP ? n - i * WARP : WARP;
    warps[i].b = {};
    warps[i].b.alive = (int)here_are, warps[i].present[0] = 0;
    warps[i].lanes = here_are == WARP ? ~0u : (1u << here_are) - 1;
  }
  for (unsigned i = 0; i < n; i++) {
    fiber *f = &fibers[i];
    f->number = (int)i, f->ended = false, f->waits = NULL;
    f->id = {i % here.threads.x, i / here.threads.x % here.threads.y,
             i / here.threads.x / here.threads.y};
    begin(f);
  }
  for (bool alive = true; alive;) {
    bool moved = alive = false;
    for (unsigned k = 0; k < n; k++) {
      fiber *f = &fibers[backward ? n - 1 - k : k];
      if (f->ended) continue;
      alive = true;
      if (f->waits && f->waits->generation == f->seen) continue;
      moved = true;
      now = f;
      to_fiber(f);
    }
    if (alive && !moved) end("threads wait at a barrier that others never reach");
  }
}

void run(dim3 grid, dim3 block, size_t shared, size_t parameters, const void *kernel,
         void (*call)(void *), void *with) {
  const uint64_t n = (uint64_t)block.x * block.y * block.z;
  const auto more = allowed.find(kernel);
  if (n == 0 || n > MOST_THREADS || block.z > 64 || !grid.x || !grid.y || !grid.z ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || parameters > 32764 ||
      shared > (more == allowed.end() ? SHARED : more->second)) {
    last = cudaErrorInvalidConfiguration;
    return;
  }
  if (!stacks) {
    void *p = mmap(NULL, (size_t)MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) end("no memory for stacks");
    stacks = (char *)p;
  }
  the_call = call, the_pack = with;
  here.grid = grid, here.threads = block;
  uint64_t at = 0;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        here.block = {x, y, z};
        memset(pool, 0xff, shared); /* NaN */
        run_block((unsigned)n, at++ & 1);
      }
}
} // namespace emulated

/* ---- memory ---------------------------------------------------------------------------------- */

static const size_t TOTAL = (size_t)16 << 30;
static std::unordered_map<void *, size_t> taken;
static size_t used;

static cudaError_t said(cudaError_t e) {
  if (e != cudaSuccess) emulated::last = e;
  return e;
}
cudaError_t emulated_take(void **p, size_t bytes) {
  if (bytes > TOTAL - used || !(*p = aligned_alloc(256, (bytes + 255) / 256 * 256)))
    return said(cudaErrorMemoryAllocation);
  taken[*p] = bytes;
  used += bytes;
  return cudaSuccess;
}
cudaError_t emulated_give(void *p) {
  const auto was = taken.find(p);
  if (!p) return cudaSuccess;
  if (was == taken.end()) return said(cudaErrorInvalidValue);
  used -= was->second;
  taken.erase(was);
  free(p);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  *free = TOTAL - used, *total = TOTAL;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind, cudaStream_t) {
  if (n) memmove(to, from, n);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t) {
  for (size_t i = 0; i < height; i++)
    memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int byte, size_t n, cudaStream_t) {
  if (n) memset(to, byte, n);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *p, int) {
  *p = NULL;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void *) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void *value) {
  *(uint64_t *)value = used;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

/* ---- errors, the card, its one stream -------------------------------------------------------- */

cudaError_t cudaPeekAtLastError() { return emulated::last; }
cudaError_t cudaGetLastError() {
  const cudaError_t e = emulated::last;
  emulated::last = cudaSuccess;
  return e;
}
const char *cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorMemoryAllocation       ? "out of memory"
         : e == cudaErrorInvalidConfiguration ? "invalid configuration argument"
         : e == cudaErrorInvalidValue         ? "invalid argument"
         : e == cudaSuccess                   ? "no error"
                                              : "an error of the emulated card";
}
const char *cudaGetErrorName(cudaError_t e) {
  return e == cudaErrorMemoryAllocation       ? "cudaErrorMemoryAllocation"
         : e == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration"
         : e == cudaErrorInvalidValue         ? "cudaErrorInvalidValue"
                                              : "cudaError";
}
cudaError_t cudaGetDeviceCount(int *n) {
  *n = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
  *p = {};
  snprintf(p->name, sizeof p->name, "emulated card");
  p->totalGlobalMem = TOTAL, p->sharedMemPerBlockOptin = emulated::SHARED_MOST;
  p->major = 9, p->multiProcessorCount = 4, p->l2CacheSize = 1 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr a, int) {
  *value = a == cudaDevAttrComputeCapabilityMajor         ? 9
           : a == cudaDevAttrMultiProcessorCount          ? 4
           : a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? (int)emulated::SHARED_MOST
                                                          : 0;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v) {
  *v = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v) { return cudaDriverGetVersion(v); }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDevice(int *card) {
  *card = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
  *s = (cudaStream_t)&emulated::here;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
struct emulated_event {
  timespec at;
};
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
  *e = new emulated_event();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
  clock_gettime(CLOCK_MONOTONIC, &e->at);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
  *ms = (float)((double)(b->at.tv_sec - a->at.tv_sec) * 1e3 +
                (double)(b->at.tv_nsec - a->at.tv_nsec) * 1e-6);
  return cudaSuccess;
}
cudaError_t emulated_attribute(const void *kernel, cudaFuncAttribute, int value) {
  if (value < 0 || (size_t)value > emulated::SHARED_MOST) return said(cudaErrorInvalidValue);
  emulated::allowed[kernel] = (size_t)value;
  return cudaSuccess;
}
