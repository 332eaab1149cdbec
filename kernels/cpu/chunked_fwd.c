/* chunked_fwd.c: forward of chunked attention (contract: ../chunked.h).
 *
 * A chunk's rows take the state before the chunk, by their features, and then the triangle of the
 * chunk, whose scores go through the channels and f itself: a later value is never touched. Then
 * the features of the chunk's keys join the state.
 */
#include "chunked.h"

typedef struct layout { /* of a job's scratch, in elements */
  int64_t k, kt, v, u, q, qt, f, s, n, local, whole, total;
} layout;

static layout layout_of(const alk_attn_spec *a, const basis *s) {
  const int64_t Dw = lanes_width(a->D), Ew = lanes_width(a->E), state = slab_size(s, Ew);
  layout l = {.k = 0};
  l.kt = l.k + CHUNK * Dw;
  l.v = l.kt + CHUNK * a->D;
  l.u = l.v + CHUNK * Ew;
  l.q = l.u + CHUNK * Ew;
  l.qt = l.q + CHUNK * Dw;
  l.f = l.qt + CHUNK * a->D;
  l.s = l.f + CHUNK * slab_rows(s);
  l.n = l.s + ROWS * CHUNK;
  l.local = l.n + CHUNK * Ew;
  l.whole = l.local + state;
  l.total = l.whole + state;
  return l;
}

int64_t ALK_NAME(chunked_states_room)(const alk_place *place, const alk_attn_spec *a,
                                      const double *kept) {
  const basis s = basis_sizes(a, kept);
  return a->g.B * (a->g.H / alk_chunked_shared(a)) * kept_segments(a, &s) * s.R * (a->E + 1) *
         (int64_t)sizeof(real);
}

int64_t ALK_NAME(chunked_fwd_room)(const alk_place *place, const alk_attn_spec *a,
                                   const double *kept) {
  const basis s = basis_sizes(a, kept);
  return (s.R + chunked_jobs(place, a, s.R) * layout_of(a, &s).total) * (int64_t)sizeof(real);
}

typedef struct walk { /* one line by one job */
  line n;
  const basis *s;
  const real *q, *k, *v, *b; /* at the line's batch row and head */
  real *y, *W, *states;      /* states of the line, one a segment */
  held init, final;
  real *x_k, *x_kt, *x_v, *x_u, *x_q, *x_qt, *x_f, *x_s, *x_n, *local, *whole;
} walk;

static bool sums_weights(const walk *w) { return w->n.a->stat != ALK_STAT_none; }

static held end_of(const walk *w, int64_t s) {
  return state_after(&w->n, w->s, w->states, s, w->final);
}
static held before(const walk *w, int64_t s) { return s > 0 ? end_of(w, s - 1) : w->init; }

/* ---- keys ------------------------------------------------------------------------------------ */

static void load_keys(const walk *w, const chunk *c) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Hkv = a->g.Hkv;
  pack_rows(a->map, c->keys, a->D, w->k + c->at * Hkv * a->D, Hkv * a->D, NULL, 0, w->x_k, w->n.Dw);
  pack_columns(w->x_k, w->n.Dw, c->keys, a->D, w->x_kt);
  pack_rows(ALK_MAP_identity, c->keys, a->E, w->v + c->at * Hkv * a->E, Hkv * a->E,
            w->b ? w->b + c->at * Hkv : NULL, Hkv, w->x_v, w->n.Ew);
}

/* The chunk's keys, loaded, join the slab of the state of their segment. */
static void take_keys(const walk *w, const chunk *c, const slab *p) {
  if (c->keys == 0) return;
  const real *u = w->x_v;
  real by[CHUNK] = {0};
  for (int64_t j = 0; j < c->keys; j++) by[j] = w->n.sums ? c->from_key[j] : 1;
  if (w->n.sums) {
    memcpy(w->x_u, w->x_v, (size_t)(c->keys * w->n.Ew) * sizeof(real));
    scale_rows(c->keys, w->n.Ew, by, w->x_u);
    u = w->x_u;
  }
  features(w->s, p->from, p->to, w->x_kt, false, w->x_f);
  slab_absorb(w->s, p, w->n.Ew, c->over, c->keys, w->x_f, u, by, w->local, sums_weights(w));
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* N and W of the chunk's rows, loaded, from the slab H of the state before the chunk. */
static void rows_from_state(const walk *w, const chunk *c, const slab *p, real *H, real *W) {
  const int64_t Ew = w->n.Ew;
  features(w->s, p->from, p->to, w->x_qt, true, w->x_f);
  product(false, c->rows, p->rows, &(factor){w->x_f, 1, CHUNK}, H, Ew, Ew, false, 1, w->x_n, Ew);
  if (sums_weights(w)) add_columns(p->rows, w->x_f, slab_z(w->s, H, Ew), W);
  if (!w->n.sums) return;
  scale_rows(c->rows, Ew, c->to_row, w->x_n);
  for (int64_t i = 0; i < c->rows; i++) W[i] *= c->to_row[i];
}

/* Adds the pairs inside the chunk to N and W of rows [r, r + rows). */
static void add_pairs(const walk *w, const chunk *c, int64_t r, int rows, real *W) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Dw = w->n.Dw, Ew = w->n.Ew;
  const bool corner = r < c->keys;
  const int64_t seen = corner ? r + rows : c->keys; /* keys of the last row */
  const factor q = {w->x_q + r * Dw, Dw, 1}, s = {w->x_s, CHUNK, 1};
  product(true, rows, a->D, &q, w->x_kt, CHUNK, lanes_width(seen), false, (real)a->scale, w->x_s,
          CHUNK);
  for (int i = 0; i < rows; i++) {
    const int64_t keys = corner ? r + i + 1 : seen;
    real *row = w->x_s + i * CHUNK;
    weigh_scores(w->s, keys, row);
    if (w->n.sums) {
      real A[CHUNK];
      decay_row(&w->n, c, r + i, keys, A);
      for (int64_t j = 0; j < keys; j++) row[j] *= A[j];
    }
    if (sums_weights(w)) W[r + i] += row_sum(keys, row);
  }
  for (int64_t e = 0; e < Ew; e += WIDTH) {
    const int nv = vectors_at(e, Ew);
    real *N = w->x_n + r * Ew + e;
    if (corner) triangle_for(true, rows, nv)(r, &s, w->x_v + e, Ew, true, 1, N, Ew);
    else tile_for(true, rows, nv)(seen, &s, w->x_v + e, Ew, true, 1, N, Ew);
  }
}

/* y and W of the chunk's rows of head h: sums of the slabs so far, divided after the last. */
static void store_rows(const walk *w, const chunk *c, const slab *p, int64_t h, const real *part) {
  const alk_attn_spec *a = w->n.a;
  for (int64_t i = 0; i < c->rows; i++) {
    const int64_t t = c->at + i;
    real *y = w->y + (t * a->g.H + h) * a->E, *W = w->W + h * a->g.T + t;
    const real *N = w->x_n + i * w->n.Ew;
    *W = p->first ? part[i] : *W + part[i];
    for (int64_t e = 0; e < a->E; e++) y[e] = p->first ? N[e] : y[e] + N[e];
    if (!p->last || !a->normalise) continue;
    if (vabs(*W) < SMALLEST) {
      memset(y, 0, (size_t)a->E * sizeof *y);
      continue;
    }
    const real by = 1 / *W;
    for (int64_t e = 0; e < a->E; e++) y[e] *= by;
  }
}

static void run_chunk(const walk *w, const chunk *c, const slab *p, real *H) {
  const alk_attn_spec *a = w->n.a;
  for (int64_t h = 0; h < w->n.heads; h++) {
    real W[CHUNK] = {0};
    pack_rows(a->map, c->rows, a->D, w->q + (c->at * a->g.H + h) * a->D, a->g.H * a->D, NULL, 0,
              w->x_q, w->n.Dw);
    if (H) {
      pack_columns(w->x_q, w->n.Dw, c->rows, a->D, w->x_qt);
      rows_from_state(w, c, p, H, W);
    } else {
      memset(w->x_n, 0, (size_t)(c->rows * w->n.Ew) * sizeof(real));
    }
    for (int64_t r = 0, rows; p->first && c->keys > 0 && r < c->rows; r += rows) {
      rows = rows_at(r, r < c->keys ? least(c->keys, c->rows) : c->rows);
      add_pairs(w, c, r, (int)rows, W); /* a block has the corner or sees all keys */
    }
    store_rows(w, c, p, h, W);
  }
}

/* ---- segments -------------------------------------------------------------------------------- */

static void clear(const walk *w) {
  memset(w->local, 0, (size_t)slab_size(w->s, w->n.Ew) * sizeof(real));
}

/* Local state of segment s of keys, to memory. */
static void sum_segment(const walk *w, int64_t s) {
  const int64_t s0 = s * w->s->segment, s1 = least(s0 + w->s->segment, w->n.a->g.S);
  const held end = end_of(w, s), none = {NULL, NULL};
  if (!end.H) return;
  for (int64_t i = 0; i < n_slabs(w->s); i++) {
    const slab p = slab_at(w->s, i);
    chunk c;
    clear(w);
    for (int64_t at = s0; at < s1; at += CHUNK) {
      open_chunk(&w->n, at, s0, s1, &c);
      load_keys(w, &c);
      take_keys(w, &c, &p);
    }
    slab_to_memory(&p, w->n.a->E, w->n.Ew, 0, &none, w->local, slab_z(w->s, w->local, w->n.Ew),
                   &end);
  }
}

/* Adds the state before segment s to its local one, both in memory. */
static void join_segment(const walk *w, int64_t s) {
  const int64_t s0 = s * w->s->segment;
  const held end = end_of(w, s), start = before(w, s);
  if (end.H)
    join_held(w->s->R, w->n.a->E, decay_over(&w->n, s0, least(s0 + w->s->segment, w->n.a->g.S)),
              &start, &end);
}

/* Outputs of segment s, causal, given the state before it; `keep`: leaves the state at its end. */
static void run_segment(const walk *w, int64_t s, bool keep) {
  const int64_t E = w->n.a->E, Ew = w->n.Ew, s0 = s * w->s->segment,
                s1 = least(s0 + w->s->segment, w->n.a->g.T);
  const held start = before(w, s), end = end_of(w, s);
  real *z = slab_z(w->s, w->local, Ew), *whole_z = slab_z(w->s, w->whole, Ew);
  keep = keep && end.H;
  for (int64_t i = 0; i < n_slabs(w->s); i++) {
    const slab p = slab_at(w->s, i);
    chunk c;
    clear(w);
    for (int64_t at = s0; at < s1; at += CHUNK) {
      open_chunk(&w->n, at, s0, s1, &c);
      load_keys(w, &c);
      real *H = least(at, w->n.len) > s0 ? w->local : NULL;
      if (start.H) {
        slab_join(&p, E, Ew, c.before, &start, w->local, z, w->whole, Ew, whole_z);
        H = w->whole;
      }
      run_chunk(w, &c, &p, H);
      if (keep || at + CHUNK < s1) take_keys(w, &c, &p);
    }
    if (keep) slab_to_memory(&p, E, Ew, decay_over(&w->n, s0, s1), &start, w->local, z, &end);
  }
}

/* Outputs of segment s of rows that all see every key. */
static void run_all(const walk *w, int64_t s) {
  const int64_t s0 = s * w->s->segment, s1 = least(s0 + w->s->segment, w->n.a->g.T);
  const held all = before(w, alk_chunk_segments(w->s->R, w->n.a->g.S));
  for (int64_t i = 0; i < n_slabs(w->s); i++) {
    const slab p = slab_at(w->s, i);
    clear(w);
    if (all.H)
      slab_join(&p, w->n.a->E, w->n.Ew, 1, &all, w->local, slab_z(w->s, w->local, w->n.Ew),
                w->whole, w->n.Ew, slab_z(w->s, w->whole, w->n.Ew));
    for (int64_t at = s0; at < s1; at += CHUNK)
      run_chunk(w, &(chunk){.at = at, .rows = least(CHUNK, s1 - at)}, &p,
                all.H && w->n.len > 0 ? w->whole : NULL);
  }
}

/* ---- lines ----------------------------------------------------------------------------------- */

typedef struct task {
  const alk_attn_spec *a;
  const alk_chunked_in *in;
  const alk_chunked_out *out;
  real *scratch;
  basis s;
  layout l;
  int64_t lines; /* of a batch row */
} task;

static walk walk_of(const task *t, int64_t item, int64_t job) {
  const alk_attn_spec *a = t->a;
  const alk_chunked_in *in = t->in;
  const int64_t b = item / t->lines, h0 = item % t->lines * line_heads(a);
  walk w = {.n = line_of(a, in->sums, b, h0), .s = &t->s};
  const int64_t keys = b * a->g.S * a->g.Hkv + w.n.hk, rows = b * a->g.T * a->g.H + h0;
  real *x = t->scratch + t->s.R + job * t->l.total;
  w.q = (const real *)in->q + rows * a->D, w.k = (const real *)in->k + keys * a->D;
  w.v = (const real *)in->v + keys * a->E, w.b = in->b ? (const real *)in->b + keys : NULL;
  w.y = (real *)t->out->y + rows * a->E, w.W = (real *)t->out->W + (b * a->g.H + h0) * a->g.T;
  w.states = (real *)t->out->states + item * kept_segments(a, &t->s) * t->s.R * (a->E + 1);
  w.init = held_at(a, &t->s, (void *)in->state, (void *)in->norm, item);
  w.final = held_at(a, &t->s, t->out->state, t->out->norm, item);
  w.x_k = x + t->l.k, w.x_kt = x + t->l.kt, w.x_v = x + t->l.v, w.x_u = x + t->l.u;
  w.x_q = x + t->l.q, w.x_qt = x + t->l.qt, w.x_f = x + t->l.f, w.x_s = x + t->l.s;
  w.x_n = x + t->l.n, w.local = x + t->l.local, w.whole = x + t->l.whole;
  return w;
}

/* Whole lines, one after another. */
static void run_lines(const task *t, int64_t job, int64_t jobs) {
  int64_t from, to;
  share(t->a->g.B * t->lines, job, jobs, &from, &to);
  const int64_t keys = alk_chunk_segments(t->s.R, t->a->g.S),
                rows = alk_chunk_segments(t->s.R, t->a->g.T);
  for (int64_t n = from; n < to; n++) {
    const walk w = walk_of(t, n, job);
    for (int64_t s = 0; t->a->g.causal && s < rows; s++) run_segment(&w, s, true);
    if (t->a->g.causal) continue;
    for (int64_t s = 0; s < keys; s++) sum_segment(&w, s), join_segment(&w, s);
    for (int64_t s = 0; s < rows; s++) run_all(&w, s);
  }
}

/* Step 0: local states of all segments, 1: outputs, the states joined in between. */
static void run_parts(const task *t, int step, int64_t job, int64_t jobs) {
  int64_t from, to;
  const int64_t parts = alk_chunk_segments(t->s.R, step ? t->a->g.T : t->a->g.S);
  share(t->a->g.B * t->lines * parts, job, jobs, &from, &to);
  for (int64_t n = from; n < to; n++) {
    const walk w = walk_of(t, n / parts, job);
    if (step == 0) sum_segment(&w, n % parts);
    else if (t->a->g.causal) run_segment(&w, n % parts, false);
    else run_all(&w, n % parts);
  }
}

alk_status ALK_NAME(chunked_fwd)(const alk_place *place, const alk_attn_spec *a,
                                 const alk_chunked_in *in, const alk_chunked_out *out,
                                 void *scratch) {
  task t = {.a = a, .in = in, .out = out, .scratch = scratch, .s = basis_for(a, in->kept)};
  t.s.w = scratch;
  t.l = layout_of(a, &t.s);
  t.lines = a->g.H / line_heads(a);
  make_weights(&t.s);
  const int64_t items = a->g.B * t.lines, jobs = chunked_jobs(place, a, t.s.R);
  for (int64_t n = 0; out->state && a->g.S == 0 && n < items; n++) {
    const walk w = walk_of(&t, n, 0);
    copy_held(a, &t.s, &w.init, &w.final);
  }
  if (jobs <= a->g.B * a->g.Hkv) {
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
    for (int64_t job = 0; job < jobs; job++) run_lines(&t, job, jobs);
    return ALK_OK;
  }
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) run_parts(&t, 0, job, jobs);
#pragma omp parallel for schedule(static) num_threads((int)jobs)
  for (int64_t n = 0; n < items; n++) {
    const walk w = walk_of(&t, n, 0);
    for (int64_t s = 0; s < alk_chunk_segments(t.s.R, a->g.S); s++) join_segment(&w, s);
  }
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) run_parts(&t, 1, job, jobs);
  return ALK_OK;
}
