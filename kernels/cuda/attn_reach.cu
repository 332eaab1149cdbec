/* attn_reach.cu: rows, keys and batch rows of attention that a gradient reaches (contract:
 * ../reach.h): a thread a row, then a block a batch row.
 *
 * Floor: a byte a row, key and batch row of each mask, read and written. Not measured: small. */
#include "rows.cuh"
extern "C" {
#include "../reach.h"
}

static __global__ void of_rows(alk_attn_masks r) {
  const bool *y = (const bool *)r.row[ALK_BY_Y], *of_y = (const bool *)r.batch[ALK_BY_Y],
             *of_W = (const bool *)r.batch[ALK_BY_W];
  bool *W = (bool *)r.row[ALK_BY_W], *any = (bool *)r.row[ALK_BY_ANY],
       *of_any = (bool *)r.batch[ALK_BY_ANY];
  GRID_LOOP(i, r.B * r.T * r.H) {
    const bool by_W = W[i] || (r.divided && y[i]);
    W[i] = by_W;
    any[i] = y[i] || by_W;
  }
  GRID_LOOP(b, r.B) of_any[b] = of_y[b] || of_W[b];
}

/* What is reached in a batch row, the last row first, and what a state hands on reaches all keys. */
static __global__ void of_keys(alk_attn_masks r) {
  EACH_ROW(u, r.B * ALK_BY) {
    const int by = (int)(u / r.B);
    const int64_t b = u % r.B;
    const bool *row = (const bool *)r.row[by] + b * r.T * r.H;
    bool *key = (bool *)r.key[by] + b * r.S, *batch = (bool *)r.batch[by];
    int64_t last = -1;
    ROW_LOOP(i, r.T * r.H) if (row[i]) last = i / r.H;
    last = block_max(last, (int64_t)-1);
    const bool carried = batch[b];
    const int64_t end = r.causal ? last + 1 + r.offset : r.S;
    __syncthreads(); /* all have read it */
    if (threadIdx.x == 0) batch[b] = carried || last >= 0;
    ROW_LOOP(j, r.S) key[j] = carried || (last >= 0 && j < end);
  }
}

static alk_status attn_reach(const alk_place *at, const alk_attn_masks *r) {
  const int64_t rows = r->B * r->T * r->H;
  if (r->B == 0) return ALK_OK;
  of_rows<<<blocks_for(rows > r->B ? rows : r->B, THREADS), THREADS, 0, stream_of(at)>>>(*r);
  of_keys<<<blocks_for(r->B * ALK_BY, 1), THREADS, 0, stream_of(at)>>>(*r);
  return launched();
}
CUDA_ANY(attn_reach, attn_reach)
