/* chunked_bwd.c: backward of chunked attention (contract: ../chunked.h).
 *
 * With y = N / W the gradient of a weight is dw_ij = g_i.u_j + delta_i, g = dy / W, delta = dW -
 * dy.y / W; without it g = dy, delta = dW. With the state H, z before a chunk and, over the rows
 * after it, R[r] = sum_i w_r m_r(qh_i) g_i^T, t[r] = sum_i w_r m_r(qh_i) delta_i, decayed to it,
 * the features of queries have the gradient H g_i + delta_i z (times w_r), those of keys R u_j + t,
 * and du_j = R^T m(kh_j); pairs of the chunk come on top. A gradient of the final state is the R
 * after the last chunk, and what R is before the first one is the gradient of the initial state.
 * A segment is walked forward for the states before its chunks and then back. The gradient of the
 * decay of step t is the sum of w_ij dw_ij over the pairs j < t <= i: what two states, a state and
 * the chunk, or the chunk itself hold of it, none as a difference of long sums.
 */
#include "chunked_bwd.h"

int64_t ALK_NAME(chunked_bwd_room)(const alk_place *place, const alk_attn_spec *a,
                                   const double *kept) {
  const basis s = basis_sizes(a, kept);
  const int64_t each = layout_of(a, &s).total, jobs = chunked_jobs(place, a, s.R);
  return (s.R + after_size(a, &s) + jobs * each) * (int64_t)sizeof(real);
}

/* ---- states ---------------------------------------------------------------------------------- */

/* The chunk's rows of one head, loaded, join the slab of the local state. */
static void take_rows(const walk *w, const part *x, real over) {
  features(w->s, x->p->from, x->p->to, w->x_qt, true, w->x_f);
  slab_absorb(w->s, x->p, w->n.Ew, over, x->c.rows, w->x_f, w->x_gs, x->to_row, w->local,
              sums_weights(w));
}

static void clear(const walk *w) {
  memset(w->local, 0, (size_t)slab_size(w->s, w->n.Ew) * sizeof(real));
}

/* A slab of a state from memory, zeros where it has none. */
static void load_slab(const walk *w, const slab *p, const held *from, real *to) {
  const int64_t Ew = w->n.Ew;
  memset(to, 0, (size_t)slab_size(w->s, Ew) * sizeof(real));
  if (from->H)
    slab_join(p, w->n.a->E, Ew, 1, from, to, slab_z(w->s, to, Ew), to, Ew, slab_z(w->s, to, Ew));
}

/* past[i]: the slab of the state before the i-th chunk of the segment. */
static void fill_past(const walk *w, const slab *p, int64_t s, int64_t s0, int64_t s1) {
  const alk_attn_spec *a = w->n.a;
  const int64_t size = slab_size(w->s, w->n.Ew);
  const held start = before(w, s);
  load_slab(w, p, &start, w->past);
  real *state = w->past;
  for (int64_t at = s0; at + CHUNK < s1; at += CHUNK, state += size) {
    chunk c;
    real by[CHUNK] = {0};
    open_chunk(&w->n, at, s0, s1, &c);
    blend(size, c.over, state, NULL, state + size);
    if (c.keys == 0) continue;
    load_keys(w, &c);
    const int64_t next = at + CHUNK, Hkv = a->g.Hkv; /* at most s1 - 1 */
    fetch_rows(least(CHUNK, s1 - next), a->D, w->k + next * Hkv * a->D, Hkv * a->D);
    fetch_rows(least(CHUNK, s1 - next), a->E, w->v + next * Hkv * a->E, Hkv * a->E);
    for (int64_t j = 0; j < c.keys; j++) by[j] = w->n.sums ? c.from_key[j] : 1;
    features(w->s, p->from, p->to, w->x_kt, false, w->x_f);
    slab_absorb(w->s, p, w->n.Ew, 1, c.keys, w->x_f, w->x_us, by, state + size, sums_weights(w));
  }
}

/* ---- gradients of a chunk -------------------------------------------------------------------- */

/* Gradient of a chunk's features [feature][token] from a slab of a state: of vectors x (a panel
 * [channel][token]) and of weights by[token] beside them. */
static void features_from_state(const walk *w, const part *x, real *S, const real *panel,
                                const real *by) {
  const int64_t Ew = w->n.Ew;
  product(true, x->p->rows, w->n.a->E, &(factor){S, Ew, 1}, panel, CHUNK, CHUNK, false, 1, w->x_df,
          CHUNK);
  const real *z = slab_z(w->s, S, Ew);
  for (int64_t r = 0; sums_weights(w) && r < x->p->rows; r++) EACH_VEC {
      AT(w->x_df + r * CHUNK) += z[r] * AT(by);
    }
}

static void clear_sums(const walk *w, double (*sums)[CHUNK]) {
  memset(sums, 0, (size_t)w->s->n * sizeof *sums);
}

/* dq of a head from the slab H of the state before the chunk; 0 where H is NULL. */
static void queries_from_state(const walk *w, part *x, int64_t h, real *H) {
  const int64_t Dw = w->n.Dw;
  if (!H) {
    memset(w->x_dq, 0, (size_t)(x->c.rows * Dw) * sizeof(real));
    return;
  }
  double sums[MOST_ORDERS][CHUNK];
  const bool summed = w->steps || w->coefficients;
  pack_columns(w->x_gs, w->n.Ew, x->c.rows, w->n.a->E, w->x_gst);
  features_from_state(w, x, H, w->x_gst, x->to_row);
  memset(w->x_dt, 0, (size_t)(Dw * CHUNK) * sizeof(real));
  if (summed) clear_sums(w, sums);
  features_bwd(w->s, x->p->from, x->p->to, w->x_qt, w->x_df, true, w->x_dt, summed ? sums : NULL);
  turn(w, w->x_dt, w->x_dq);
  for (int n = 0; summed && n < w->s->n; n++)
    for (int64_t i = 0; i < x->c.rows; i++) {
      x->row[i] += w->s->k[n] * sums[n][i];
      if (w->coefficients) coefficients_of(w, h, x->segment)[n] += sums[n][i];
    }
}

/* dk and du of the keys from the slab R of the state after the chunk; 0 where R is NULL. */
static void keys_from_state(const walk *w, part *x, real *R) {
  const int64_t Dw = w->n.Dw, Ew = w->n.Ew;
  if (!R || x->c.keys == 0) {
    memset(w->x_dk, 0, (size_t)(x->c.keys * Dw) * sizeof(real));
    memset(w->x_du, 0, (size_t)(x->c.keys * Ew) * sizeof(real));
    return;
  }
  double sums[MOST_ORDERS][CHUNK];
  real by[CHUNK] = {0};
  for (int64_t j = 0; j < x->c.keys; j++) by[j] = w->n.sums ? x->c.from_key[j] : 1;
  features(w->s, x->p->from, x->p->to, w->x_kt, false, w->x_f);
  product(false, x->c.keys, x->p->rows, &(factor){w->x_f, 1, CHUNK}, R, Ew, Ew, false, 1, w->x_du,
          Ew);
  if (w->n.sums) scale_rows(x->c.keys, Ew, by, w->x_du);
  pack_columns(w->x_us, Ew, x->c.keys, w->n.a->E, w->x_ust);
  features_from_state(w, x, R, w->x_ust, by);
  memset(w->x_dt, 0, (size_t)(Dw * CHUNK) * sizeof(real));
  if (w->steps) clear_sums(w, sums);
  features_bwd(w->s, x->p->from, x->p->to, w->x_kt, w->x_df, false, w->x_dt,
               w->steps ? sums : NULL);
  turn(w, w->x_dt, w->x_dk);
  for (int n = 0; w->steps && n < w->s->n; n++)
    for (int64_t j = 0; j < x->c.keys; j++) x->key[j] += sums[n][j];
}

enum { SUMS = 8 }; /* side by side: one sum would wait for itself at every key */

/* s and p of row i, scores and g.u of its first `keys` keys, become w and ds; adds w dw to the
 * parts of the decay's gradient and, where not NULL, to those of the coefficients. */
static void slope_row(const walk *w, part *x, int64_t i, int64_t keys, double *coefficients) {
  real *s = w->x_s + i * CHUNK, *p = w->x_p + i * CHUNK, A[CHUNK], by[CHUNK];
  const basis *b = w->s;
  const real scale = (real)w->n.a->scale, delta = x->delta[i];
  const int64_t width = lanes_width(keys);
  if (sums_weights(w))
    for (int64_t j = 0; j < keys; j++) p[j] += delta;
  if (w->n.sums) decay_row(&w->n, &x->c, i, keys, A);
  if (coefficients) {
    double t[CHUNK]; /* s^n may leave f32 where kept_n s^n does not */
    for (int64_t j = 0; j < keys; j++) t[j] = (double)(w->n.sums ? A[j] * p[j] : p[j]);
    for (int n = 0; n < b->n; n++) {
      double sum[SUMS] = {0};
      for (int64_t j = 0; j < keys; j++) {
        sum[j % SUMS] += t[j];
        t[j] *= (double)s[j];
      }
      for (int l = 0; l < SUMS && b->kept[n] != 0; l++)
        coefficients[n] += (double)b->kept[n] * sum[l];
    }
  }
  for (int64_t j = 0; j < width; j += LANES) {
    const vec at = *(vec_at *)(s + j);
    vec f = (vec){0} + b->c[b->n - 1], slope = {0};
    for (int n = b->n - 2; n >= 0; n--) {
      slope = slope * at + f;
      f = f * at + b->c[n];
    }
    *(vec_at *)(s + j) = f;
    *(vec_at *)(by + j) = scale * slope;
  }
  if (w->n.sums)
    for (int64_t j = 0; j < keys; j++) s[j] *= A[j], by[j] *= A[j];
  if (w->steps) {
    double sum[SUMS] = {0};
    for (int64_t j = 0; j < keys; j++) {
      const double e = (double)s[j] * (double)p[j];
      x->inside[j] -= e;
      sum[j % SUMS] += e;
    }
    for (int l = 0; l < SUMS; l++) x->inside[i] += sum[l];
  }
  for (int64_t j = 0; j < keys; j++) p[j] *= by[j];
}

/* Adds the pairs inside the chunk, of head h whose rows are loaded, to dq, dk and du. */
static void run_pairs(const walk *w, part *x, int64_t h) {
  const alk_attn_spec *a = w->n.a;
  const chunk *c = &x->c;
  const int64_t Dw = w->n.Dw, Ew = w->n.Ew;
  double *coefficients = w->coefficients ? coefficients_of(w, h, x->segment) : NULL;
  for (int64_t r = 0, rows; r < c->rows; r += rows) {
    const bool corner = r < c->keys;
    rows = rows_at(r, corner ? c->keys : c->rows); /* a block has the corner or sees all keys */
    const int64_t seen = corner ? r + rows : c->keys, width = lanes_width(seen);
    product(true, rows, a->D, &(factor){w->x_q + r * Dw, Dw, 1}, w->x_kt, CHUNK, width, false,
            (real)a->scale, w->x_s + r * CHUNK, CHUNK);
    product(true, rows, a->E, &(factor){w->x_g + r * Ew, Ew, 1}, w->x_ut, CHUNK, width, false, 1,
            w->x_p + r * CHUNK, CHUNK);
    for (int64_t i = r; i < r + rows; i++) slope_row(w, x, i, corner ? i + 1 : seen, coefficients);
    const factor ds = {w->x_p + r * CHUNK, CHUNK, 1};
    for (int64_t d = 0; d < Dw; d += WIDTH) {
      const int nv = vectors_at(d, Dw);
      tile_fn *multiply =
          corner ? triangle_for(true, (int)rows, nv) : tile_for(true, (int)rows, nv);
      multiply(corner ? r : seen, &ds, w->x_k + d, Dw, true, 1, w->x_dq + r * Dw + d, Dw);
    }
  }
  for (int64_t j = 0, keys; j < c->keys; j += keys) { /* key j + e sees the rows from itself on */
    keys = rows_at(j, c->keys);
    const factor ds = {w->x_p + j * CHUNK + j, 1, CHUNK}, s = {w->x_s + j * CHUNK + j, 1, CHUNK};
    for (int64_t d = 0; d < Dw; d += WIDTH)
      triangle_for(false, (int)keys, vectors_at(d, Dw))(c->rows - j, &ds, w->x_q + j * Dw + d, Dw,
                                                        true, 1, w->x_dk + j * Dw + d, Dw);
    for (int64_t e = 0; e < Ew; e += WIDTH)
      triangle_for(false, (int)keys, vectors_at(e, Ew))(c->rows - j, &s, w->x_g + j * Ew + e, Ew,
                                                        true, 1, w->x_du + j * Ew + e, Ew);
  }
}

/* Sum of w dw over the pairs of a row after the chunk and a key before it, of a slab. */
static double across(const walk *w, const part *x, real *H, real *R) {
  if (!H || !R) return 0;
  const int64_t Ew = w->n.Ew;
  double sum = 0;
  for (int64_t r = 0; r < x->p->rows; r++)
    sum += (double)row_dot(w->n.a->E, H + r * Ew, R + r * Ew);
  if (sums_weights(w)) sum += (double)row_dot(x->p->rows, slab_z(w->s, H, Ew), slab_z(w->s, R, Ew));
  return sum * (double)x->c.over;
}

/* Step t has the rows from t on and the keys before t. */
static void store_steps(const walk *w, const part *x, double sum) {
  const chunk *c = &x->c;
  for (int64_t j = 0; j < c->keys; j++) sum += x->key[j];
  for (int64_t i = c->rows - 1; i >= c->keys; i--) sum += x->row[i] + x->inside[i];
  for (int64_t t = c->keys - 1; t >= 0; t--) {
    sum += x->row[t] + x->inside[t] - x->key[t];
    w->steps[c->at + t] += sum;
  }
}

/* Gradients of a slab of a chunk; H: the state before it, R: after it, or NULL. Its rows join the
 * local state when an earlier chunk will read it. */
static void run_chunk(const walk *w, part *x, real *H, real *R, bool take) {
  const alk_attn_spec *a = w->n.a;
  memset(x->inside, 0, sizeof x->inside);
  memset(x->row, 0, sizeof x->row);
  memset(x->key, 0, sizeof x->key);
  const double sum = w->steps ? across(w, x, H, R) : 0; /* R may be the local state, which moves */
  load_keys(w, &x->c);
  if (x->p->first) pack_columns(w->x_u, w->n.Ew, x->c.keys, a->E, w->x_ut);
  keys_from_state(w, x, R);
  for (int64_t h = 0; h < w->n.heads; h++) {
    load_rows(w, x, h);
    queries_from_state(w, x, h, H);
    if (x->p->first && x->c.keys > 0) run_pairs(w, x, h);
    store_queries(w, x, h);
    if (take) take_rows(w, x, h == 0 ? x->c.over : 1);
  }
  store_keys(w, x);
  store_hidden(w, x, x->c.rows);
  if (w->steps) store_steps(w, x, sum);
}

/* ---- segments -------------------------------------------------------------------------------- */

/* Leaves slab p of the local state of segment s in memory, with `next`, the state after it, added
 * where it has one. */
static void keep_slab(const walk *w, const slab *p, int64_t s, const held *next) {
  const int64_t s0 = s * w->s->segment, Ew = w->n.Ew;
  const held to = after(w, s);
  slab_to_memory(p, w->n.a->E, Ew, decay_over(&w->n, s0, least(s0 + w->s->segment, w->n.a->g.T)),
                 next, w->local, slab_z(w->s, w->local, Ew), &to);
}

/* Gradients of segment s, causal, given the state after it; `keep`: leaves the state from its start
 * on. */
static void run_segment(const walk *w, int64_t s, bool keep) {
  const int64_t T = w->n.a->g.T, s0 = s * w->s->segment, s1 = least(s0 + w->s->segment, T),
                Ew = w->n.Ew, size = slab_size(w->s, Ew);
  const held next = after(w, s + 1);
  keep = keep && after(w, s).H;
  for (int64_t i = 0; i < n_slabs(w->s); i++) {
    const slab p = slab_at(w->s, i);
    part x = {.p = &p, .segment = s};
    fill_past(w, &p, s, s0, s1);
    clear(w);
    for (int64_t at = s0 + (s1 - s0 - 1) / CHUNK * CHUNK; at >= s0; at -= CHUNK) {
      open_chunk(&w->n, at, s0, s1, &x.c);
      real *R = at + CHUNK < s1 ? w->local : NULL, *H = w->past + (at - s0) / CHUNK * size;
      if (next.H) {
        slab_join(&p, w->n.a->E, Ew, x.c.after, &next, w->local, slab_z(w->s, w->local, Ew),
                  w->whole, Ew, slab_z(w->s, w->whole, Ew));
        R = w->whole;
      }
      run_chunk(w, &x, w->init.H || least(at, w->n.len) > 0 ? H : NULL, R, keep || at > s0);
    }
    if (keep) keep_slab(w, &p, s, &next);
  }
}

/* Local state of segment s of rows; not causal, where all of them see the state of all keys, dq as
 * well. */
static void sum_segment(const walk *w, int64_t s) {
  const alk_attn_spec *a = w->n.a;
  const int64_t s0 = s * w->s->segment, s1 = least(s0 + w->s->segment, a->g.T);
  const held all = before(w, alk_chunk_segments(w->s->R, a->g.S)), none = {NULL, NULL};
  if (!after(w, s).H) return;
  for (int64_t i = 0; i < n_slabs(w->s); i++) {
    const slab p = slab_at(w->s, i);
    part x = {.p = &p, .segment = s};
    clear(w);
    if (!a->g.causal) load_slab(w, &p, &all, w->whole);
    for (int64_t at = s0 + (s1 - s0 - 1) / CHUNK * CHUNK; at >= s0; at -= CHUNK) {
      if (a->g.causal) open_chunk(&w->n, at, s0, s1, &x.c);
      else x.c = (chunk){.at = at, .rows = least(CHUNK, s1 - at), .over = 1};
      for (int64_t h = 0; h < w->n.heads; h++) {
        load_rows(w, &x, h);
        if (!a->g.causal) {
          queries_from_state(w, &x, h, w->n.len > 0 ? w->whole : NULL);
          store_queries(w, &x, h);
        }
        take_rows(w, &x, h == 0 ? x.c.over : 1);
      }
    }
    keep_slab(w, &p, s, &none);
  }
}

/* Adds the state after segment s to its local one, both in memory. */
static void join_segment(const walk *w, int64_t s) {
  const int64_t s0 = s * w->s->segment, T = w->n.a->g.T;
  const held to = after(w, s), next = after(w, s + 1);
  if (to.H)
    join_held(w->s->R, w->n.a->E, decay_over(&w->n, s0, least(s0 + w->s->segment, T)), &next, &to);
}

/* dk, dv of segment s of keys that every row sees. */
static void run_keys(const walk *w, int64_t s) {
  const alk_attn_spec *a = w->n.a;
  const int64_t s0 = s * w->s->segment, s1 = least(s0 + w->s->segment, a->g.S);
  const held all = after(w, 0);
  for (int64_t i = 0; i < n_slabs(w->s); i++) {
    const slab p = slab_at(w->s, i);
    part x = {.p = &p, .segment = s};
    load_slab(w, &p, &all, w->whole);
    for (int64_t at = s0; at < s1; at += CHUNK) {
      x.c = (chunk){.at = at, .keys = most(least(CHUNK, least(s1, w->n.len) - at), 0)};
      load_keys(w, &x.c);
      keys_from_state(w, &x, all.H ? w->whole : NULL);
      store_keys(w, &x);
      store_hidden(w, &x, least(CHUNK, s1 - at));
    }
  }
}

/* ---- lines ----------------------------------------------------------------------------------- */

typedef struct task {
  const alk_attn_spec *a;
  const alk_chunked_in *in;
  const alk_chunked_grad *t;
  real *after, *scratch;
  basis s;
  layout l;
  int64_t lines, shared; /* lines of a batch row; of a key/value head */
} task;

static walk walk_of(const task *t, int64_t n, int64_t job) {
  const alk_attn_spec *a = t->a;
  const alk_chunked_in *in = t->in;
  const alk_chunked_grad *g = t->t;
  const int64_t b = n / t->lines, h0 = n % t->lines * line_heads(a);
  walk w = {.n = line_of(a, in->sums, b, h0), .s = &t->s, .add = n % t->shared != 0};
  const int64_t keys = b * a->g.S * a->g.Hkv + w.n.hk, rows = b * a->g.T * a->g.H + h0,
                stats = (b * a->g.H + h0) * a->g.T, state = t->s.R * (a->E + 1);
  w.q = (const real *)in->q + rows * a->D, w.k = (const real *)in->k + keys * a->D;
  w.v = (const real *)in->v + keys * a->E, w.b = in->b ? (const real *)in->b + keys : NULL;
  w.y = (const real *)g->y + rows * a->E, w.W = (const real *)g->W + stats;
  w.dy = (const real *)g->dy + rows * a->E;
  w.dW = g->dW && a->stat != ALK_STAT_none ? (const real *)g->dW + stats : NULL;
  w.dq = (real *)g->dq + rows * a->D, w.dk = (real *)g->dk + keys * a->D;
  w.dv = (real *)g->dv + keys * a->E, w.db = in->b ? (real *)g->db + keys : NULL;
  w.states = (const real *)g->states + n * kept_segments(a, &t->s) * state;
  w.after = t->after + n * after_segments(a, &t->s) * state;
  w.init = held_at(a, &t->s, (void *)in->state, (void *)in->norm, n);
  w.dinit = held_at(a, &t->s, g->dstate, g->dnorm, n);
  w.dfinal = held_at(a, &t->s, (void *)g->dstate_out, (void *)g->dnorm_out, n);
  w.steps = g->ddecay ? (double *)g->steps + n * a->g.S : NULL;
  if (g->dcoefficients)
    w.coefficients = (double *)g->dcoefficients +
                     (b * a->g.H + h0) * alk_chunk_segments(t->s.R, a->g.T) * t->s.n;
  real *x = t->scratch + job * t->l.total;
  w.x_k = x + t->l.k, w.x_kt = x + t->l.kt, w.x_u = x + t->l.u, w.x_us = x + t->l.us;
  w.x_ut = x + t->l.ut, w.x_ust = x + t->l.ust, w.x_q = x + t->l.q, w.x_qt = x + t->l.qt;
  w.x_g = x + t->l.g, w.x_gs = x + t->l.gs, w.x_gst = x + t->l.gst, w.x_dq = x + t->l.dq;
  w.x_dk = x + t->l.dk, w.x_dt = x + t->l.dt, w.x_du = x + t->l.du, w.x_f = x + t->l.f;
  w.x_df = x + t->l.df, w.x_s = x + t->l.s, w.x_p = x + t->l.p, w.x_row = x + t->l.row;
  w.past = x + t->l.past, w.local = x + t->l.local, w.whole = x + t->l.whole;
  return w;
}

/* Whole key/value heads: their lines one after another. */
static void run_heads(const task *t, int64_t job, int64_t jobs) {
  int64_t from, to;
  share(t->a->g.B * t->a->g.Hkv, job, jobs, &from, &to);
  const int64_t keys = alk_chunk_segments(t->s.R, t->a->g.S),
                rows = alk_chunk_segments(t->s.R, t->a->g.T);
  for (int64_t n = from * t->shared; n < to * t->shared; n++) {
    const walk w = walk_of(t, n, job);
    for (int64_t s = rows - 1; t->a->g.causal && s >= 0; s--) run_segment(&w, s, true);
    if (t->a->g.causal) continue;
    for (int64_t s = rows - 1; s >= 0; s--) sum_segment(&w, s), join_segment(&w, s);
    for (int64_t s = 0; s < keys; s++) run_keys(&w, s);
  }
}

/* Step 0: local states of all segments of rows, 1: the rest, the states joined in between. */
static void run_parts(const task *t, int step, int64_t job, int64_t jobs) {
  int64_t from, to;
  const int64_t parts = alk_chunk_segments(t->s.R, step ? t->a->g.S : t->a->g.T);
  share(t->a->g.B * t->a->g.Hkv * parts, job, jobs, &from, &to);
  for (int64_t i = from; i < to; i++)
    for (int64_t n = i / parts * t->shared; n < (i / parts + 1) * t->shared; n++) {
      const walk w = walk_of(t, n, job);
      if (step == 0) sum_segment(&w, i % parts);
      else if (t->a->g.causal) run_segment(&w, i % parts, false);
      else run_keys(&w, i % parts);
    }
}

/* ddecay (B,S,Hd) = sum of the steps of the lines of each of its heads. */
static void sum_steps(const task *t, real *ddecay) {
  const alk_attn_spec *a = t->a;
  const int64_t S = a->g.S, Hd = a->weight.Hd, lines = t->lines / Hd;
  const double *steps = t->t->steps;
  for (int64_t b = 0; b < a->g.B; b++)
    for (int64_t s = 0; s < S; s++)
      for (int64_t d = 0; d < Hd; d++) {
        double sum = 0;
        for (int64_t n = d * lines; n < (d + 1) * lines; n++)
          sum += steps[(b * t->lines + n) * S + s];
        ddecay[(b * S + s) * Hd + d] = (real)sum;
      }
}

static void run_all(const task *t, int64_t jobs) {
  const alk_attn_spec *a = t->a;
  if (jobs <= a->g.B * a->g.Hkv) {
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
    for (int64_t job = 0; job < jobs; job++) run_heads(t, job, jobs);
    return;
  }
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) run_parts(t, 0, job, jobs);
#pragma omp parallel for schedule(static) num_threads((int)jobs)
  for (int64_t n = 0; n < a->g.B * t->lines; n++) {
    const walk w = walk_of(t, n, 0);
    for (int64_t s = alk_chunk_segments(t->s.R, a->g.T) - 1; s >= 0; s--) join_segment(&w, s);
  }
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) run_parts(t, 1, job, jobs);
}

alk_status ALK_NAME(chunked_bwd)(const alk_place *place, const alk_attn_spec *a,
                                 const alk_chunked_in *in, const alk_chunked_grad *g,
                                 void *scratch) {
  task t = {.a = a, .in = in, .t = g, .s = basis_for(a, in->kept)};
  t.s.w = scratch;
  t.after = (real *)scratch + t.s.R;
  t.scratch = t.after + after_size(a, &t.s);
  t.l = layout_of(a, &t.s);
  t.lines = a->g.H / line_heads(a);
  t.shared = a->g.H / a->g.Hkv / line_heads(a);
  make_weights(&t.s);
  const int64_t items = a->g.B * t.lines;
  if (g->ddecay) memset(g->steps, 0, (size_t)(items * a->g.S) * sizeof(double));
  if (g->dcoefficients)
    memset(g->dcoefficients, 0,
           (size_t)(a->g.B * a->g.H * alk_chunk_segments(t.s.R, a->g.T) * t.s.n) * sizeof(double));
  for (int64_t n = 0; g->dstate && a->g.T == 0 && n < items; n++) {
    const walk w = walk_of(&t, n, 0);
    copy_held(a, &t.s, &w.dfinal, &w.dinit);
  }
  run_all(&t, chunked_jobs(place, a, t.s.R));
  if (g->ddecay) sum_steps(&t, g->ddecay);
  return ALK_OK;
}
