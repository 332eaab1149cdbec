/* attend_reach.h: what no gradient reaches takes no part in the backward of attend, attend_chunked
 * and attend_step, whatever it holds: rows, and the keys and states that only such rows see; for
 * core/ops/ only. */
#ifndef AL_OPS_ATTEND_REACH_H
#define AL_OPS_ATTEND_REACH_H
#include "attend.h"
#include "reach.h"

/* By which gradients a row is reached. ORDER outputs of attention: y, W, then those of a state. */
enum { BY_Y, BY_W, BY_ANY, N_BY, NEXT = 2 };

typedef struct attend_reach { /* rows (B,T,H), keys (B,S) that they see, batch rows (B) */
  bool *row[N_BY], *key[N_BY], *batch[N_BY];
} attend_reach;

/* Fills row[BY_ANY], key and batch from the other rows, and from the gradients of a state that is
 * handed on, outputs NEXT and NEXT + 1, which all keys are in. */
static inline void attend_reach_keys(const al_call *k, const attend_reach *r, bool states) {
  const int64_t *q = k->in_meta[Q].shape, B = q[0], T = q[1], H = q[2], S = k->in_meta[K].shape[1];
  const bool causal = al_opts_has(k->opts, "causal") && al_opt_bool(k->opts, "causal");
  const bool divided = al_opt_bool(k->opts, "normalise");
  for (int i = BY_Y; states && i <= BY_W; i++) {
    const al_tensor *t = k->dout[NEXT + i];
    const alk_view v = t ? al_view(t) : (alk_view){0};
    if (t && k->out_meta[NEXT + i].ndim > 1) alk_reach(v.dtype)(&v, 1, r->batch[i]);
  }
  for (int64_t i = 0; i < B * T * H; i++) {
    r->row[BY_W][i] |= divided && r->row[BY_Y][i];
    r->row[BY_ANY][i] = r->row[BY_Y][i] || r->row[BY_W][i];
  }
  for (int64_t b = 0; b < B; b++) r->batch[BY_ANY][b] = r->batch[BY_Y][b] || r->batch[BY_W][b];
  for (int n = 0; n < N_BY; n++)
    for (int64_t b = 0; b < B; b++) {
      const bool carried = r->batch[n][b];
      int64_t last = -1;
      for (int64_t i = 0; i < T * H; i++)
        if (r->row[n][b * T * H + i]) last = i / H;
      const int64_t end = causal ? last + 1 + al_opt_int(k->opts, "offset") : S;
      r->batch[n][b] = carried || last >= 0;
      for (int64_t j = 0; j < S; j++) r->key[n][b * S + j] = carried || (last >= 0 && j < end);
    }
}

/* Is there a row of y or W that no gradient reaches and that is not finite? Fills row[BY_Y] and
 * row[BY_W]. */
static inline bool attend_reach_rows(const al_call *k, const attend_reach *r) {
  bool dirty = false;
  const int last = al_opt_is(k->opts, "stat", "none") ? BY_Y : BY_W;
  for (int i = BY_Y; i <= last; i++) {
    bool all = false;
    for (int part = 0; part < 2 && !all; part++) { /* the gradient, then what it is of */
      al_tensor *t = part == 0 ? k->dout[i] : k->out[i];
      if (!t) continue;
      const alk_view v = i == BY_Y ? al_view(t) : reach_heads(t); /* (B,H,T) as (B,T,H) */
      if (part == 0) all = alk_reach(v.dtype)(&v, 3, r->row[i]);
      else dirty = alk_reach_dirty(v.dtype)(&v, 3, r->row[i]) || dirty;
    }
  }
  return dirty;
}

/* Where a row that no gradient reaches is not finite, k goes on as if what it alone sees were 0 (it
 * may be finite, and a weight too large): in[] becomes copies, and out[] what forward makes of
 * them. ORDER inputs of attention: with `states` a state and its norm follow value_scale. */
static inline al_status attend_without_unreached(al_ctx *c, al_call *k,
                                                 al_status (*forward)(al_ctx *, al_call *),
                                                 int value_scale, bool states) {
  const int64_t *q = k->in_meta[Q].shape, rows = q[0] * q[1] * q[2],
                keys = q[0] * k->in_meta[K].shape[1], each = rows + keys + q[0];
  bool *all = calloc((size_t)(N_BY * each + 1), sizeof *all);
  if (!all) return al_fail(c, AL_ENOMEM, "%s: out of memory (rows)", k->op->info.name);
  attend_reach r;
  for (int n = 0; n < N_BY; n++) {
    r.row[n] = all + n * each;
    r.key[n] = r.row[n] + rows;
    r.batch[n] = r.key[n] + keys;
  }
  if (attend_reach_rows(k, &r)) {
    attend_reach_keys(k, &r, states);
    const struct {
      int input, axes;
      const bool *reached;
    } part[] = {{Q, 3, r.row[BY_ANY]},
                {K, 2, r.key[BY_ANY]},
                {V, 2, r.key[BY_Y]},
                {DECAY, 2, r.key[BY_ANY]},
                {value_scale, 2, r.key[BY_Y]},
                {value_scale + 1, 1, r.batch[BY_Y]},
                {value_scale + 2, 1, r.batch[BY_W]}};
    const int n_parts = (int)(sizeof part / sizeof *part) - (states ? 0 : 2);
    for (int i = 0; i < n_parts && al_error(c) == AL_OK; i++) {
      al_tensor **t = &k->in[part[i].input], *old = *t;
      if (!old) continue;
      *t = reach_zeroed(c, old, part[i].axes, part[i].reached);
      al_release(old);
    }
    for (int i = 0; i < k->n_out && al_error(c) == AL_OK; i++) {
      al_release(k->out[i]);
      k->out[i] = al_new_meta(c, &k->out_meta[i]);
    }
    if (al_error(c) == AL_OK) forward(c, k);
  }
  free(all);
  return al_error(c);
}
#endif
