/* linear.c: forward of chunked linear attention (contract: ../linear.h).
 *
 * A chunk's keys are packed as rows, as a panel [channel][key] for the scores, and the values as
 * rows. Blocks of query rows take q H first and add the triangle of the chunk, so that a later
 * value is never touched; then the chunk's k^T v joins the state.
 */
#include "linear.h"

typedef struct layout { /* of a job's scratch, in elements */
  int64_t k, kt, v, q, s, n, local, whole, total;
} layout;

static layout layout_of(const alk_attn_spec *a) {
  const int64_t Dw = lanes_width(a->D), Ew = lanes_width(a->E);
  layout l = {.k = 0};
  l.kt = l.k + CHUNK * Dw;
  l.v = l.kt + CHUNK * a->D;
  l.q = l.v + CHUNK * Ew;
  l.s = l.q + CHUNK * Dw;
  l.n = l.s + ROWS * CHUNK;
  l.local = l.n + ROWS * Ew;
  l.whole = l.local + state_size(a);
  l.total = l.whole + state_size(a);
  return l;
}

int64_t ALK_NAME(linear_states_room)(const alk_place *place, const alk_attn_spec *a) {
  return a->g.B * (a->g.H / line_heads(a)) * alk_linear_segments(a->g.S) * state_size(a) *
         (int64_t)sizeof(real);
}

int64_t ALK_NAME(linear_fwd_room)(const alk_place *place, const alk_attn_spec *a) {
  return linear_jobs(place, a) * layout_of(a).total * (int64_t)sizeof(real);
}

typedef struct walk { /* one line by one job */
  line n;
  const real *q, *k, *v, *b; /* at the line's batch row and head */
  real *y, *W, *states;      /* states of the line, one a segment */
  real *x_k, *x_kt, *x_v, *x_q, *x_s, *x_n, *local, *whole;
} walk;

static void load_keys(const walk *w, const chunk *c, bool panel) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Hkv = a->g.Hkv;
  pack_rows(a->map, c->keys, a->D, w->k + c->at * Hkv * a->D, Hkv * a->D, NULL, 0, w->x_k, w->n.Dw);
  if (panel) pack_columns(w->x_k, w->n.Dw, c->keys, a->D, w->x_kt);
  pack_rows(ALK_MAP_identity, c->keys, a->E, w->v + c->at * Hkv * a->E, Hkv * a->E,
            w->b ? w->b + c->at * Hkv : NULL, Hkv, w->x_v, w->n.Ew);
}

/* The chunk's keys, packed, join the state of their segment; they are no longer what they were. */
static void take_keys(const walk *w, const chunk *c) {
  const alk_attn_spec *a = w->n.a;
  if (c->keys == 0) return;
  if (w->n.sums) scale_rows(c->keys, w->n.Dw, c->from_key, w->x_k);
  absorb(w->local, c->over, c->keys, w->x_k, a->D, w->n.Dw, w->x_v, w->n.Ew);
  if (a->stat != ALK_STAT_none)
    absorb_sum(w->local + w->n.Dw * w->n.Ew, c->over, c->keys, w->x_k, w->n.Dw, NULL);
}

/* Rows [r, r + rows) of the chunk of head h: N, W and y. H is the state before the chunk, or
 * NULL. */
static void run_rows(const walk *w, const chunk *c, int64_t h, const real *H, int64_t r, int rows) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Dw = w->n.Dw, Ew = w->n.Ew, T = a->g.T;
  const bool corner = r < c->keys;
  const int64_t seen = corner ? r + rows : c->keys; /* keys of the last row */
  const real scale = (real)a->scale;
  const factor q = {w->x_q + r * Dw, Dw, 1}, s = {w->x_s, CHUNK, 1};
  real W[ROWS] = {0};
  if (H) {
    product(true, rows, a->D, &q, H, Ew, Ew, false, scale, w->x_n, Ew);
    for (int i = 0; a->stat != ALK_STAT_none && i < rows; i++)
      W[i] = scale * row_dot(Dw, q.a + i * Dw, H + Dw * Ew);
    if (w->n.sums) {
      scale_rows(rows, Ew, c->to_row + r, w->x_n);
      for (int i = 0; i < rows; i++) W[i] *= c->to_row[r + i];
    }
  } else if (seen == 0) {
    memset(w->x_n, 0, (size_t)(rows * Ew) * sizeof(real));
  }
  if (seen > 0)
    product(true, rows, a->D, &q, w->x_kt, CHUNK, lanes_width(seen), false, scale, w->x_s, CHUNK);
  for (int i = 0; seen > 0 && i < rows; i++) {
    const int64_t keys = corner ? r + i + 1 : seen;
    real *row = w->x_s + i * CHUNK;
    if (w->n.sums) {
      real A[CHUNK];
      decay_row(&w->n, c, r + i, keys, A);
      for (int64_t j = 0; j < keys; j++) row[j] *= A[j];
    }
    if (a->stat != ALK_STAT_none) W[i] += row_sum(keys, row);
  }
  for (int64_t e = 0; seen > 0 && e < Ew; e += WIDTH) {
    const int nv = vectors_at(e, Ew);
    if (corner) triangle_for(true, rows, nv)(r, &s, w->x_v + e, Ew, H != NULL, 1, w->x_n + e, Ew);
    else tile_for(true, rows, nv)(seen, &s, w->x_v + e, Ew, H != NULL, 1, w->x_n + e, Ew);
  }
  for (int i = 0; i < rows; i++) {
    const int64_t t = c->at + r + i;
    real *y = w->y + (t * a->g.H + h) * a->E;
    const real *N = w->x_n + i * Ew;
    w->W[h * T + t] = W[i];
    if (a->normalise && vabs(W[i]) < SMALLEST) {
      memset(y, 0, (size_t)a->E * sizeof *y);
      continue;
    }
    const real by = a->normalise ? 1 / W[i] : 1;
    for (int64_t e = 0; e < a->E; e++) y[e] = N[e] * by;
  }
}

/* Asks for rows [r, r + rows) of the chunk after this one. */
static void fetch(const walk *w, const chunk *c, int64_t h, int64_t r, int64_t rows) {
  const alk_attn_spec *a = w->n.a;
  const int64_t at = c->at + CHUNK + r;
  if (at + rows > a->g.T) return;
  fetch_rows(rows, a->D, w->q + (at * a->g.H + h) * a->D, a->g.H * a->D);
  fetch_rows(rows, a->E, w->y + (at * a->g.H + h) * a->E, a->g.H * a->E);
  if (h > 0 || c->keys == 0) return;
  fetch_rows(rows, a->D, w->k + at * a->g.Hkv * a->D, a->g.Hkv * a->D);
  fetch_rows(rows, a->E, w->v + at * a->g.Hkv * a->E, a->g.Hkv * a->E);
}

static void run_chunk(const walk *w, const chunk *c, const real *H) {
  const alk_attn_spec *a = w->n.a;
  for (int64_t h = 0; h < w->n.heads; h++) {
    pack_rows(a->map, c->rows, a->D, w->q + (c->at * a->g.H + h) * a->D, a->g.H * a->D, NULL, 0,
              w->x_q, w->n.Dw);
    for (int64_t r = 0, rows; r < c->rows; r += rows) {
      rows =
          rows_at(r, r < c->keys ? c->keys : c->rows); /* a block has the corner or sees all keys */
      fetch(w, c, h, r, rows);
      run_rows(w, c, h, H, r, (int)rows);
    }
  }
}

static void clear(const walk *w) { memset(w->local, 0, (size_t)w->n.state * sizeof(real)); }

/* Local state of segment s of keys. */
static void sum_segment(const walk *w, int64_t s) {
  const int64_t s0 = s * SEGMENT, s1 = least(s0 + SEGMENT, w->n.a->g.S);
  chunk c;
  clear(w);
  for (int64_t at = s0; at < s1; at += CHUNK) {
    open_chunk(&w->n, at, s0, s1, &c);
    load_keys(w, &c, false);
    take_keys(w, &c);
  }
  memcpy(w->states + s * w->n.state, w->local, (size_t)w->n.state * sizeof(real));
}

/* Adds the state before segment s to its local one. */
static void join_segment(const walk *w, int64_t s, const real *local) {
  const int64_t size = w->n.state, s0 = s * SEGMENT;
  real *state = w->states + s * size;
  if (s > 0)
    blend(size, decay_over(&w->n, s0, least(s0 + SEGMENT, w->n.a->g.S)), state - size, local,
          state);
  else if (local != state) memcpy(state, local, (size_t)size * sizeof(real));
}

/* Outputs of segment s, causal, given the state before it; `keep`: leaves the state at its end. */
static void run_segment(const walk *w, int64_t s, bool keep) {
  const int64_t T = w->n.a->g.T, s0 = s * SEGMENT, s1 = least(s0 + SEGMENT, T);
  chunk c;
  clear(w);
  for (int64_t at = s0; at < s1; at += CHUNK) {
    open_chunk(&w->n, at, s0, s1, &c);
    load_keys(w, &c, true);
    const real *H = w->local;
    if (s > 0)
      blend(w->n.state, c.before, w->states + (s - 1) * w->n.state, w->local, w->whole),
          H = w->whole;
    run_chunk(w, &c, least(at, w->n.len) > 0 ? H : NULL);
    if (keep || at + CHUNK < s1) take_keys(w, &c);
  }
  if (keep) join_segment(w, s, w->local);
}

/* Outputs of segment s of rows that all see every key. */
static void run_all(const walk *w, int64_t s) {
  const int64_t s0 = s * SEGMENT, s1 = least(s0 + SEGMENT, w->n.a->g.T);
  const real *H =
      w->n.len > 0 ? w->states + (alk_linear_segments(w->n.a->g.S) - 1) * w->n.state : NULL;
  for (int64_t at = s0; at < s1; at += CHUNK)
    run_chunk(w, &(chunk){.at = at, .rows = least(CHUNK, s1 - at)}, H);
}

typedef struct task {
  const alk_attn_spec *a;
  const real *q, *k, *v, *b;
  const double *sums;
  real *y, *W, *states, *scratch;
  layout l;
  int64_t lines, segments; /* of a batch row; of a line */
} task;

static walk walk_of(const task *t, int64_t item, int64_t job) {
  const alk_attn_spec *a = t->a;
  const int64_t b = item / t->lines, h0 = item % t->lines * line_heads(a);
  walk w = {.n = line_of(a, t->sums, b, h0)};
  const int64_t keys = b * a->g.S * a->g.Hkv + w.n.hk, rows = b * a->g.T * a->g.H + h0;
  real *x = t->scratch + job * t->l.total;
  w.q = t->q + rows * a->D, w.k = t->k + keys * a->D, w.v = t->v + keys * a->E,
  w.b = t->b ? t->b + keys : NULL;
  w.y = t->y + rows * a->E, w.W = t->W + (b * a->g.H + h0) * a->g.T;
  w.states = t->states + item * alk_linear_segments(a->g.S) * w.n.state;
  w.x_k = x + t->l.k, w.x_kt = x + t->l.kt, w.x_v = x + t->l.v, w.x_q = x + t->l.q,
  w.x_s = x + t->l.s, w.x_n = x + t->l.n;
  w.local = x + t->l.local, w.whole = x + t->l.whole;
  return w;
}

/* Whole lines, one after another. */
static void run_lines(const task *t, int64_t job, int64_t jobs) {
  int64_t from, to;
  share(t->a->g.B * t->lines, job, jobs, &from, &to);
  const int64_t keys = alk_linear_segments(t->a->g.S), rows = alk_linear_segments(t->a->g.T);
  for (int64_t n = from; n < to; n++) {
    const walk w = walk_of(t, n, job);
    for (int64_t s = 0; t->a->g.causal && s < rows; s++) run_segment(&w, s, s + 1 < rows);
    if (t->a->g.causal) continue;
    for (int64_t s = 0; s < keys; s++)
      sum_segment(&w, s), join_segment(&w, s, w.states + s * w.n.state);
    for (int64_t s = 0; s < rows; s++) run_all(&w, s);
  }
}

/* Step 0: local states of all segments, 1: outputs, the states joined in between. */
static void run_parts(const task *t, int step, int64_t job, int64_t jobs) {
  int64_t from, to;
  const int64_t parts = alk_linear_segments(step ? t->a->g.T : t->a->g.S);
  share(t->a->g.B * t->lines * parts, job, jobs, &from, &to);
  for (int64_t n = from; n < to; n++) {
    const walk w = walk_of(t, n / parts, job);
    if (step == 0) sum_segment(&w, n % parts);
    else if (t->a->g.causal) run_segment(&w, n % parts, false);
    else run_all(&w, n % parts);
  }
}

alk_status ALK_NAME(linear_fwd)(const alk_place *place, const alk_attn_spec *a, const void *q,
                                const void *k, const void *v, const void *b, const void *sums,
                                void *y, void *W, void *states, void *scratch) {
  const int64_t jobs = linear_jobs(place, a);
  const task t = {.a = a,
                  .q = q,
                  .k = k,
                  .v = v,
                  .b = b,
                  .sums = sums,
                  .y = y,
                  .W = W,
                  .states = states,
                  .scratch = scratch,
                  .l = layout_of(a),
                  .lines = a->g.H / line_heads(a)};
  if (jobs <= a->g.B * a->g.Hkv) {
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
    for (int64_t job = 0; job < jobs; job++) run_lines(&t, job, jobs);
    return ALK_OK;
  }
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) run_parts(&t, 0, job, jobs);
  for (int64_t n = 0; n < a->g.B * t.lines; n++) {
    const walk w = walk_of(&t, n, 0);
    for (int64_t s = 0; s < alk_linear_segments(a->g.S); s++)
      join_segment(&w, s, w.states + s * w.n.state);
  }
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
  for (int64_t job = 0; job < jobs; job++) run_parts(&t, 1, job, jobs);
  return ALK_OK;
}
