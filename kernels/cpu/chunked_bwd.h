/* chunked_bwd.h: one line of the backward of chunked attention, as one job sees it: its room, what
 * it loads for a chunk, what it stores of one.
 */
#ifndef ALK_CPU_CHUNKED_BWD_H
#define ALK_CPU_CHUNKED_BWD_H
#include "chunked.h"

typedef struct layout { /* of a job's scratch, in elements */
  int64_t k, kt, u, us, ut, ust, q, qt, g, gs, gst, dq, dk, dt, du, f, df, s, p, row, past, local,
      whole, total;
} layout;

static inline layout layout_of(const alk_attn_spec *a, const basis *s) {
  const int64_t Dw = lanes_width(a->D), Ew = lanes_width(a->E), state = slab_size(s, Ew);
  layout l = {.k = 0};
  l.kt = l.k + CHUNK * Dw;
  l.u = l.kt + CHUNK * a->D;
  l.us = l.u + CHUNK * Ew;
  l.ut = l.us + CHUNK * Ew;
  l.ust = l.ut + CHUNK * a->E;
  l.q = l.ust + CHUNK * a->E;
  l.qt = l.q + CHUNK * Dw;
  l.g = l.qt + CHUNK * a->D;
  l.gs = l.g + CHUNK * Ew;
  l.gst = l.gs + CHUNK * Ew;
  l.dq = l.gst + CHUNK * a->E;
  l.dk = l.dq + CHUNK * Dw;
  l.dt = l.dk + CHUNK * Dw;
  l.du = l.dt + CHUNK * Dw;
  l.f = l.du + CHUNK * Ew;
  l.df = l.f + CHUNK * slab_rows(s);
  l.s = l.df + CHUNK * slab_rows(s);
  l.p = l.s + CHUNK * CHUNK;
  l.row = l.p + CHUNK * CHUNK;
  l.past = l.row + Dw;
  l.local = l.past + (least(s->segment, a->g.T) + CHUNK - 1) / CHUNK * state;
  l.whole = l.local + state;
  l.total = l.whole + state;
  return l;
}

/* States from the starts of the segments of rows on; the first of causal rows is the gradient of
 * the initial state. */
static inline int64_t after_segments(const alk_attn_spec *a, const basis *s) {
  return most(alk_chunk_segments(s->R, a->g.T) - a->g.causal, 0);
}

static inline int64_t after_size(const alk_attn_spec *a, const basis *s) {
  return a->g.B * (a->g.H / line_heads(a)) * after_segments(a, s) * s->R * (a->E + 1);
}

typedef struct walk { /* one line by one job */
  line n;
  const basis *s;
  bool add; /* an earlier line has written dk, dv, db */
  const real *q, *k, *v, *b, *y, *W, *dy, *dW;
  real *dq, *dk, *dv, *db;
  const real *states; /* at the ends of the segments of keys */
  real *after;        /* from the starts of the segments of rows on */
  held init, dinit, dfinal;
  double *steps, *coefficients; /* (S) of the line, (segments,n) of its first head, or NULL */
  real *x_k, *x_kt, *x_u, *x_us, *x_ut, *x_ust, *x_q, *x_qt, *x_g, *x_gs, *x_gst, *x_dq, *x_dk,
      *x_dt, *x_du, *x_f, *x_df, *x_s, *x_p, *x_row, *past, *local, *whole;
} walk;

typedef struct part { /* of a segment: a slab of a chunk */
  const slab *p;
  chunk c;
  int64_t segment;
  real delta[CHUNK], to_row[CHUNK]; /* of the head at hand; delta decayed to the row; 0 past rows */
  double inside[CHUNK], row[CHUNK], key[CHUNK]; /* parts of the decay's gradient */
} part;

static inline bool sums_weights(const walk *w) { return w->n.a->stat != ALK_STAT_none; }

static inline held before(const walk *w, int64_t s) {
  return s > 0 ? state_after(&w->n, w->s, w->states, s - 1, (held){NULL, NULL}) : w->init;
}

/* What the rows from the start of segment s on leave. */
static inline held after(const walk *w, int64_t s) {
  const int64_t i = s - w->n.a->g.causal, E = w->n.a->E, R = w->s->R;
  if (i < 0) return w->dinit;
  if (i >= after_segments(w->n.a, w->s)) return w->dfinal;
  real *H = w->after + i * R * (E + 1);
  return (held){H, sums_weights(w) ? H + R * E : NULL};
}

/* (n) of head h of the line and a segment of rows. */
static inline double *coefficients_of(const walk *w, int64_t h, int64_t segment) {
  return w->coefficients + (h * alk_chunk_segments(w->s->R, w->n.a->g.T) + segment) * w->s->n;
}

/* ---- loading --------------------------------------------------------------------------------- */

static inline void load_keys(const walk *w, const chunk *c) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Hkv = a->g.Hkv;
  pack_rows(a->map, c->keys, a->D, w->k + c->at * Hkv * a->D, Hkv * a->D, NULL, 0, w->x_k, w->n.Dw);
  pack_columns(w->x_k, w->n.Dw, c->keys, a->D, w->x_kt);
  pack_rows(ALK_MAP_identity, c->keys, a->E, w->v + c->at * Hkv * a->E, Hkv * a->E,
            w->b ? w->b + c->at * Hkv : NULL, Hkv, w->x_u, w->n.Ew);
  memcpy(w->x_us, w->x_u, (size_t)(c->keys * w->n.Ew) * sizeof(real));
  if (w->n.sums) scale_rows(c->keys, w->n.Ew, c->from_key, w->x_us);
}

/* q, g and delta of the chunk's rows of head h of the line. */
static inline void load_rows(const walk *w, part *x, int64_t h) {
  const alk_attn_spec *a = w->n.a;
  const chunk *c = &x->c;
  const int64_t H = a->g.H, T = a->g.T, Ew = w->n.Ew;
  pack_rows(a->map, c->rows, a->D, w->q + (c->at * H + h) * a->D, H * a->D, NULL, 0, w->x_q,
            w->n.Dw);
  pack_columns(w->x_q, w->n.Dw, c->rows, a->D, w->x_qt);
  for (int64_t i = 0; i < c->rows; i++) {
    const int64_t t = c->at + i;
    const real *dy = w->dy + (t * H + h) * a->E, *y = w->y + (t * H + h) * a->E;
    real *g = w->x_g + i * Ew, by = 1, delta = w->dW ? w->dW[h * T + t] : 0;
    if (a->normalise) {
      const real W = w->W[h * T + t];
      by = vabs(W) < SMALLEST ? 0 : 1 / W;
      delta = by == 0 ? 0 : delta - row_dot(a->E, dy, y) * by;
    }
    x->delta[i] = delta;
    x->to_row[i] = w->n.sums ? delta * c->to_row[i] : delta;
    for (int64_t e = 0; e < a->E; e++) g[e] = by == 0 ? 0 : dy[e] * by;
    for (int64_t e = a->E; e < Ew; e++) g[e] = 0;
  }
  for (int64_t i = c->rows; i < CHUNK; i++) x->delta[i] = x->to_row[i] = 0;
  memcpy(w->x_gs, w->x_g, (size_t)(c->rows * Ew) * sizeof(real));
  if (w->n.sums) scale_rows(c->rows, Ew, c->to_row, w->x_gs);
}

/* Rows [token][Dw] from a panel [Dw][token]. */
static inline void turn(const walk *w, const real *panel, real *rows) {
  for (int64_t d = 0; d < w->n.Dw; d += LANES)
    for (int64_t t = 0; t < CHUNK; t += LANES)
      transpose(panel + d * CHUNK + t, CHUNK, rows + t * w->n.Dw + d, w->n.Dw);
}

/* ---- storing --------------------------------------------------------------------------------- */

static inline void store_queries(const walk *w, const part *x, int64_t h) {
  const alk_attn_spec *a = w->n.a;
  for (int64_t i = 0; i < x->c.rows; i++) {
    const int64_t at = ((x->c.at + i) * a->g.H + h) * a->D;
    real *dq = w->dq + at;
    map_row_bwd(a->map, a->D, w->q + at, w->x_dq + i * w->n.Dw, x->p->first ? dq : w->x_row);
    for (int64_t d = 0; !x->p->first && d < a->D; d++) dq[d] += w->x_row[d];
  }
}

static inline void store_keys(const walk *w, const part *x) {
  const alk_attn_spec *a = w->n.a;
  const bool add = w->add || !x->p->first;
  for (int64_t j = 0; j < x->c.keys; j++) {
    const int64_t t = (x->c.at + j) * a->g.Hkv;
    const real *du = w->x_du + j * w->n.Ew, *v = w->v + t * a->E, b = w->b ? w->b[t] : 1;
    real *dk = w->dk + t * a->D, *dv = w->dv + t * a->E;
    map_row_bwd(a->map, a->D, w->k + t * a->D, w->x_dk + j * w->n.Dw, add ? w->x_row : dk);
    for (int64_t d = 0; add && d < a->D; d++) dk[d] += w->x_row[d];
    for (int64_t e = 0; e < a->E; e++) dv[e] = (add ? dv[e] : 0) + b * du[e];
    if (w->b) w->db[t] = (add ? w->db[t] : 0) + row_dot(a->E, du, v);
  }
}

/* Zeros for the chunk's tokens past the length, which nobody sees. */
static inline void store_hidden(const walk *w, const part *x, int64_t tokens) {
  const alk_attn_spec *a = w->n.a;
  for (int64_t j = x->c.keys; j < tokens && !w->add && x->p->first; j++) {
    const int64_t t = (x->c.at + j) * a->g.Hkv;
    memset(w->dk + t * a->D, 0, (size_t)a->D * sizeof(real));
    memset(w->dv + t * a->E, 0, (size_t)a->E * sizeof(real));
    if (w->b) w->db[t] = 0;
  }
}
#endif
