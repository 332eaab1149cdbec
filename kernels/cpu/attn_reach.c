/* attn_reach.c: rows, keys and batch rows of attention that a gradient reaches (contract:
 * ../reach.h). */
#include "../reach.h"

static void keys_of(const alk_attn_masks *r, const bool *row, bool *key, bool *batch) {
  for (int64_t b = 0; b < r->B; b++) {
    const bool carried = batch[b];
    int64_t last = -1;
    for (int64_t i = 0; i < r->T * r->H; i++)
      if (row[b * r->T * r->H + i]) last = i / r->H;
    const int64_t end = r->causal ? last + 1 + r->offset : r->S;
    batch[b] = carried || last >= 0;
    for (int64_t j = 0; j < r->S; j++) key[b * r->S + j] = carried || (last >= 0 && j < end);
  }
}

alk_status alk_attn_reach_any(const alk_place *at, const alk_attn_masks *r) {
  const bool *y = r->row[ALK_BY_Y], *of_y = r->batch[ALK_BY_Y], *of_W = r->batch[ALK_BY_W];
  bool *W = r->row[ALK_BY_W], *any = r->row[ALK_BY_ANY], *of_any = r->batch[ALK_BY_ANY];
  for (int64_t i = 0; i < r->B * r->T * r->H; i++) {
    W[i] = W[i] || (r->divided && y[i]);
    any[i] = y[i] || W[i];
  }
  for (int64_t b = 0; b < r->B; b++) of_any[b] = of_y[b] || of_W[b];
  for (int n = 0; n < ALK_BY; n++) keys_of(r, r->row[n], r->key[n], r->batch[n]);
  return ALK_OK;
}
