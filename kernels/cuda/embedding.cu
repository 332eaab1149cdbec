/* embedding.cu: rows of a table, and gradients summed into them in the order of the ids (contract:
 * ../embedding.h). Backward: the ids are sorted with their places; a block takes CHUNK sorted
 * rows, and what an id has in several chunks is joined chunk after chunk, so the order of a sum
 * follows from the ids alone.
 *
 * Floor: N C numbers read and written forward; backward N C read and V C written. Share of a
 * copy's rate (cuda.cuh), 2 N C numbers either way, V = 32,000, bf16 and f32: forward 1.0 and .90,
 * backward .26 and .33. */
#include "cuda.cuh"
extern "C" {
#include "../embedding.h"
}

template <class T>
static __global__ void gather(T *y, const T *table, const int32_t *ids, int64_t N, int64_t C) {
  GRID_LOOP(i, N * C) {
    const int64_t r = quotient(i, C);
    y[i] = table[ids[r] * C + i - r * C];
  }
}
template <class T>
static alk_status fwd(const alk_place *at, void *y, const void *table, const void *ids, int64_t N,
                      int64_t C) {
  if (N * C == 0) return ALK_OK;
  if (grouped(C, sizeof(T), y, table)) { /* 16 bytes a number */
    C /= GROUP(T);
    gather<uint4><<<blocks_for(N * C, THREADS), THREADS, 0, stream_of(at)>>>(
        (uint4 *)y, (const uint4 *)table, (const int32_t *)ids, N, C);
    return launched();
  }
  gather<T><<<blocks_for(N * C, THREADS), THREADS, 0, stream_of(at)>>>((T *)y, (const T *)table,
                                                                       (const int32_t *)ids, N, C);
  return launched();
}
CUDA_TYPED_BF16(embedding_fwd, fwd)

/* ---- sorted ids -------------------------------------------------------------------------------- */

/* A radix sort by BITS bits a pass, which keeps the order of equal digits: a warp takes TILE
 * numbers. */
enum { BITS = 8, DIGITS = 1 << BITS, TILE = 512, CHUNK = 64 };

typedef struct scratch {
  int64_t tiles, chunks;
  int32_t *key[2], *place[2], *count; /* (N) each; (DIGITS,tiles) */
  int64_t *start;                     /* (V+1): the first of the sorted that is v or larger */
  void *part;                         /* (chunks,2,C): sums of a chunk's first id and of its last */
} scratch;

static int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }
/* Lays the parts out from `base`; returns how many bytes they take. */
static int64_t lay_out(scratch *s, char *base, int64_t N, int64_t V, int64_t C, int64_t size) {
  int64_t at = 0;
  auto take = [&](int64_t bytes) {
    char *p = base + at;
    at += aligned(bytes);
    return p;
  };
  s->tiles = (N + TILE - 1) / TILE, s->chunks = (N + CHUNK - 1) / CHUNK;
  for (int i = 0; i < 2; i++)
    s->key[i] = (int32_t *)take(4 * N), s->place[i] = (int32_t *)take(4 * N);
  s->count = (int32_t *)take(4 * DIGITS * s->tiles);
  s->start = (int64_t *)take(8 * (V + 1));
  s->part = take(s->chunks * 2 * C * size);
  return at;
}
template <class T> static int64_t bwd_room(const alk_place *at, int64_t N, int64_t V, int64_t C) {
  scratch s;
  return lay_out(&s, NULL, N, V, C, sizeof(real_of<T>));
}
CUDA_TYPED_BF16(embedding_bwd_room, bwd_room)

/* Where each digit of each tile goes: first how many there are, then, in place, where they begin. */
static __global__ void count_digits(int64_t N, int64_t tiles, int shift, const int32_t *key,
                                    int32_t *count) {
  __shared__ int32_t n[DIGITS];
  const int64_t first = (int64_t)blockIdx.x * TILE;
  for (int d = threadIdx.x; d < DIGITS; d += blockDim.x) n[d] = 0;
  __syncthreads();
  for (int64_t i = first + threadIdx.x; i < N && i < first + TILE; i += blockDim.x)
    atomicAdd(&n[key[i] >> shift & (DIGITS - 1)], 1);
  __syncthreads();
  for (int d = threadIdx.x; d < DIGITS; d += blockDim.x) count[d * tiles + blockIdx.x] = n[d];
}
static __global__ void begin_digits(int64_t n, int32_t *count) {
  __shared__ int32_t sum[1024];
  int32_t before = 0;
  for (int64_t from = 0; from < n; from += blockDim.x) {
    const int64_t i = from + threadIdx.x;
    const int32_t own = i < n ? count[i] : 0;
    sum[threadIdx.x] = own;
    __syncthreads();
    for (unsigned step = 1; step < blockDim.x; step *= 2) {
      const int32_t more = threadIdx.x >= step ? sum[threadIdx.x - step] : 0;
      __syncthreads();
      sum[threadIdx.x] += more;
      __syncthreads();
    }
    if (i < n) count[i] = before + sum[threadIdx.x] - own;
    before += sum[blockDim.x - 1];
    __syncthreads();
  }
}
/* place NULL: each number's own index. */
static __global__ void move_digits(int64_t N, int64_t tiles, int shift, const int32_t *key,
                                   const int32_t *place, const int32_t *begin, int32_t *to_key,
                                   int32_t *to_place) {
  __shared__ int32_t next[DIGITS];
  const int64_t first = (int64_t)blockIdx.x * TILE;
  const int lane = threadIdx.x;
  for (int d = lane; d < DIGITS; d += 32) next[d] = begin[d * tiles + blockIdx.x];
  __syncwarp();
  for (int64_t from = first; from < N && from < first + TILE; from += 32) {
    const int64_t i = from + lane;
    const int32_t own = i < N ? key[i] : 0;
    const int digit = i < N ? own >> shift & (DIGITS - 1) : DIGITS;
    int before = 0, all = 0;
    for (int l = 0; l < 32; l++) {
      const bool same = __shfl_sync(0xffffffffu, digit, l) == digit;
      before += same && l < lane;
      all += same;
    }
    const int32_t to = i < N ? next[digit] + before : 0;
    __syncwarp();
    if (i < N && before == 0) next[digit] += all;
    __syncwarp();
    if (i >= N) continue;
    to_key[to] = own;
    to_place[to] = place ? place[i] : (int32_t)i;
  }
}
static __global__ void find_starts(int64_t N, int64_t V, const int32_t *key, int64_t *start) {
  GRID_LOOP(i, N + 1) {
    const int64_t last = i < N ? key[i] : V;
    for (int64_t v = i > 0 ? key[i - 1] + 1 : 0; v <= last; v++) start[v] = i;
  }
}

/* ---- sums -------------------------------------------------------------------------------------- */

/* A block a chunk and blockDim.x channels. Ids that lie in the chunk wholly are done. */
template <class T>
static __global__ void sum_chunks(int64_t N, int64_t C, const int32_t *key, const int32_t *place,
                                  const T *g, real_of<T> *d, real_of<T> *part) {
  typedef real_of<T> real;
  const int64_t c = (int64_t)blockIdx.y * blockDim.x + threadIdx.x,
                from = (int64_t)blockIdx.x * CHUNK, to = from + CHUNK < N ? from + CHUNK : N;
  if (c >= C) return;
  for (int64_t i = from; i < to;) {
    const int32_t id = key[i];
    const int64_t first = i;
    real sum = 0;
    for (; i < to && key[i] == id; i++) sum += load(g, (int64_t)place[i] * C + c);
    if (first == from) part[(int64_t)blockIdx.x * 2 * C + c] = sum;
    if (i == to) part[((int64_t)blockIdx.x * 2 + 1) * C + c] = sum;
    if ((first > from || from == 0 || key[from - 1] != id) && (i < to || to == N || key[to] != id))
      d[id * C + c] = sum;
  }
}
/* The others: ids that no row has, and those of several chunks. A block an id. */
template <class real>
static __global__ void join_chunks(int64_t V, int64_t C, const int64_t *start, const real *part,
                                   real *d) {
  for (int64_t v = blockIdx.x; v < V; v += gridDim.x) {
    const int64_t lo = start[v], hi = start[v + 1], a = lo / CHUNK, b = (hi - 1) / CHUNK;
    if (lo < hi && a == b) continue;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
      real sum = 0;
      if (lo < hi) sum = part[(a * 2 + 1) * C + c];
      for (int64_t k = a + 1; lo < hi && k <= b; k++) sum += part[k * 2 * C + c];
      d[v * C + c] = sum;
    }
  }
}
template <class T>
static alk_status bwd(const alk_place *at, void *dtable, const void *dy, const void *ids, int64_t N,
                      int64_t V, int64_t C, void *room) {
  typedef real_of<T> real;
  const cudaStream_t stream = stream_of(at);
  if (V * C == 0) return ALK_OK;
  scratch s;
  lay_out(&s, (char *)room, N, V, C, sizeof(real));
  const int32_t *key = (const int32_t *)ids, *place = NULL;
  int to = 0;
  for (int shift = 0; N > 0 && (shift == 0 || ((V - 1) >> shift) > 0); shift += BITS, to ^= 1) {
    count_digits<<<(unsigned)s.tiles, THREADS, 0, stream>>>(N, s.tiles, shift, key, s.count);
    begin_digits<<<1, 1024, 0, stream>>>(DIGITS * s.tiles, s.count);
    move_digits<<<(unsigned)s.tiles, 32, 0, stream>>>(N, s.tiles, shift, key, place, s.count,
                                                      s.key[to], s.place[to]);
    key = s.key[to], place = s.place[to];
  }
  find_starts<<<blocks_for(N + 1, THREADS), THREADS, 0, stream>>>(N, V, key, s.start);
  if (N > 0)
    sum_chunks<T><<<dim3((unsigned)s.chunks, (unsigned)((C + 127) / 128)), 128, 0, stream>>>(
        N, C, key, place, (const T *)dy, (real *)dtable, (real *)s.part);
  join_chunks<real><<<blocks_for(V, 1), THREADS, 0, stream>>>(V, C, s.start, (const real *)s.part,
                                                              (real *)dtable);
  return launched();
}
CUDA_TYPED_BF16(embedding_bwd, bwd)
