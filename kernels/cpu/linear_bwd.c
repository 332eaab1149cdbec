/* linear_bwd.c: backward of chunked linear attention (contract: ../linear.h).
 *
 * With y = N / W the gradient of a weight is dw_ij = g_i.u_j + delta_i,
 *   g = dy / W,  delta = dW - dy.y / W;  without it g = dy, delta = dW.
 * With the states H, z before a chunk and, over the rows after it, both decayed to it,
 *   R = sum g_i qh_i^T,  r = sum delta_i qh_i:
 *   dqh_i = scale (H g_i + delta_i z) + chunk
 *   dkh_j = scale (R u_j + r) + chunk
 *   du_j  = scale R kh_j + chunk
 * A segment is walked forward for the states before its chunks and then back. The gradient of the
 * decay of step t is the sum of w_ij dw_ij over the pairs j < t <= i: what two states, a state and
 * the chunk, or the chunk itself hold of it, none as a difference of long sums. */
#include "linear.h"

enum { CHUNKS = SEGMENT / CHUNK };

typedef struct layout { /* of a job's scratch, in elements */
  int64_t k, kt, u, ut, q, g, dq, dk, du, s, p, row, delta, past, local, whole, turned, total;
} layout;

static layout layout_of(const alk_attn_spec *a) {
  const int64_t Dw = lanes_width(a->D), Ew = lanes_width(a->E), state = state_size(a);
  layout l = {.k = 0};
  l.kt = l.k + CHUNK * Dw;
  l.u = l.kt + CHUNK * a->D;
  l.ut = l.u + CHUNK * Ew;
  l.q = l.ut + CHUNK * a->E;
  l.g = l.q + CHUNK * Dw;
  l.dq = l.g + CHUNK * Ew;
  l.dk = l.dq + CHUNK * Dw;
  l.du = l.dk + CHUNK * Dw;
  l.s = l.du + CHUNK * Ew;
  l.p = l.s + CHUNK * CHUNK;
  l.row = l.p + CHUNK * CHUNK;
  l.delta = l.row + Dw;
  l.past = l.delta + CHUNK;
  l.local = l.past + CHUNKS * state;
  l.whole = l.local + state;
  l.turned = l.whole + state;
  l.total = l.turned + state;
  return l;
}

/* States after the rows of all segments of all lines. */
static int64_t after_size(const alk_attn_spec *a) {
  return a->g.B * (a->g.H / line_heads(a)) * alk_linear_segments(a->g.T) * state_size(a);
}

int64_t ALK_NAME(linear_bwd_room)(const alk_place *place, const alk_attn_spec *a) {
  return (after_size(a) + linear_jobs(place, a) * layout_of(a).total) * (int64_t)sizeof(real);
}

typedef struct walk { /* one line by one job */
  line n;
  bool add; /* an earlier line has written dk, dv, db */
  const real *q, *k, *v, *b, *y, *W, *dy, *dW;
  real *dq, *dk, *dv, *db;
  const real *before; /* states at the ends of the segments of keys, [Dw][Ew] */
  real *after;        /* states from the starts of the segments of rows on, [Ew][Dw] */
  double *steps;      /* (S) of the line, or NULL */
  real *x_k, *x_kt, *x_u, *x_ut, *x_q, *x_g, *x_dq, *x_dk, *x_du, *x_s, *x_p, *x_row, *x_delta,
      *past, *local, *whole, *turned;
} walk;

static bool sums_weights(const walk *w) { return w->n.a->stat != ALK_STAT_none; }
static int64_t z_at(const walk *w) { return w->n.Dw * w->n.Ew; }

/* ---- loading
 * -------------------------------------------------------------------------------------- */

static void load_keys(const walk *w, const chunk *c) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Hkv = a->g.Hkv;
  pack_rows(a->map, c->keys, a->D, w->k + c->at * Hkv * a->D, Hkv * a->D, NULL, 0, w->x_k, w->n.Dw);
  pack_rows(ALK_MAP_identity, c->keys, a->E, w->v + c->at * Hkv * a->E, Hkv * a->E,
            w->b ? w->b + c->at * Hkv : NULL, Hkv, w->x_u, w->n.Ew);
}

/* q, g and delta of the chunk's rows of head h of the line. */
static void load_rows(const walk *w, const chunk *c, int64_t h) {
  const alk_attn_spec *a = w->n.a;
  const int64_t H = a->g.H, T = a->g.T;
  pack_rows(a->map, c->rows, a->D, w->q + (c->at * H + h) * a->D, H * a->D, NULL, 0, w->x_q,
            w->n.Dw);
  for (int64_t i = 0; i < c->rows; i++) {
    const int64_t t = c->at + i;
    const real *dy = w->dy + (t * H + h) * a->E, *y = w->y + (t * H + h) * a->E;
    real *g = w->x_g + i * w->n.Ew, by = 1, delta = w->dW ? w->dW[h * T + t] : 0;
    if (a->normalise) {
      const real W = w->W[h * T + t];
      by = vabs(W) < SMALLEST ? 0 : 1 / W;
      delta = by == 0 ? 0 : delta - row_dot(a->E, dy, y) * by;
    }
    w->x_delta[i] = delta;
    for (int64_t e = 0; e < a->E; e++) g[e] = by == 0 ? 0 : dy[e] * by;
    for (int64_t e = a->E; e < w->n.Ew; e++) g[e] = 0;
  }
}

/* to [c][r] = from [r][c], both of padded sizes. */
static void turn(const real *from, int64_t rows, int64_t columns, real *to) {
  for (int64_t r = 0; r < rows; r += LANES)
    for (int64_t c = 0; c < columns; c += LANES)
      transpose(from + r * columns + c, columns, to + c * rows + r, rows);
}

/* ---- states
 * --------------------------------------------------------------------------------------- */

/* The chunk's rows of one head, loaded, join the local state; q is no longer what it was. */
static void take_rows(const walk *w, const chunk *c, real over) {
  const alk_attn_spec *a = w->n.a;
  if (w->n.sums) scale_rows(c->rows, w->n.Dw, c->to_row, w->x_q);
  absorb(w->local, over, c->rows, w->x_g, a->E, w->n.Ew, w->x_q, w->n.Dw);
  if (sums_weights(w)) absorb_sum(w->local + z_at(w), over, c->rows, w->x_q, w->n.Dw, w->x_delta);
}

static void clear(const walk *w) { memset(w->local, 0, (size_t)w->n.state * sizeof(real)); }

/* Adds the state after segment s to its local one. */
static void join_segment(const walk *w, int64_t s, const real *local) {
  const int64_t size = w->n.state, s0 = s * SEGMENT, T = w->n.a->g.T;
  real *state = w->after + s * size;
  if (s + 1 < alk_linear_segments(T))
    blend(size, decay_over(&w->n, s0, least(s0 + SEGMENT, T)), state + size, local, state);
  else if (local != state) memcpy(state, local, (size_t)size * sizeof(real));
}

/* past[i]: the state before the i-th chunk of the segment, transposed. */
static void fill_past(const walk *w, int64_t s, int64_t s0, int64_t s1) {
  const alk_attn_spec *a = w->n.a;
  const int64_t size = w->n.state;
  chunk c;
  if (s > 0) {
    turn(w->before + (s - 1) * size, w->n.Dw, w->n.Ew, w->past);
    memcpy(w->past + z_at(w), w->before + (s - 1) * size + z_at(w), (size_t)w->n.Dw * sizeof(real));
  } else {
    memset(w->past, 0, (size_t)size * sizeof(real));
  }
  real *state = w->past;
  for (int64_t at = s0; at + CHUNK < s1; at += CHUNK, state += size) {
    open_chunk(&w->n, at, s0, s1, &c);
    blend(size, c.over, state, NULL, state + size);
    if (c.keys == 0) continue;
    load_keys(w, &c);
    const int64_t next = at + CHUNK, Hkv = a->g.Hkv; /* at most s1 - 1 */
    fetch_rows(least(CHUNK, s1 - next), a->D, w->k + next * Hkv * a->D, Hkv * a->D);
    fetch_rows(least(CHUNK, s1 - next), a->E, w->v + next * Hkv * a->E, Hkv * a->E);
    if (w->n.sums) scale_rows(c.keys, w->n.Dw, c.from_key, w->x_k);
    absorb(state + size, 1, c.keys, w->x_u, a->E, w->n.Ew, w->x_k, w->n.Dw);
    if (sums_weights(w)) absorb_sum(state + size + z_at(w), 1, c.keys, w->x_k, w->n.Dw, NULL);
  }
}

/* ---- gradients of a chunk
 * ------------------------------------------------------------------------- */

static void store_queries(const walk *w, const chunk *c, int64_t h) {
  const alk_attn_spec *a = w->n.a;
  for (int64_t i = 0; i < c->rows; i++) {
    const int64_t at = ((c->at + i) * a->g.H + h) * a->D;
    map_row_bwd(a->map, a->D, w->q + at, w->x_dq + i * w->n.Dw, w->dq + at);
  }
}

static void store_keys(const walk *w, const chunk *c) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Hkv = a->g.Hkv;
  for (int64_t j = 0; j < c->keys; j++) {
    const int64_t t = (c->at + j) * Hkv;
    const real *du = w->x_du + j * w->n.Ew, *v = w->v + t * a->E;
    real *dk = w->dk + t * a->D, *dv = w->dv + t * a->E;
    const real b = w->b ? w->b[t] : 1;
    if (w->add) {
      map_row_bwd(a->map, a->D, w->k + t * a->D, w->x_dk + j * w->n.Dw, w->x_row);
      for (int64_t d = 0; d < a->D; d++) dk[d] += w->x_row[d];
      for (int64_t e = 0; e < a->E; e++) dv[e] += b * du[e];
    } else {
      map_row_bwd(a->map, a->D, w->k + t * a->D, w->x_dk + j * w->n.Dw, dk);
      for (int64_t e = 0; e < a->E; e++) dv[e] = b * du[e];
    }
    if (w->b) w->db[t] = (w->add ? w->db[t] : 0) + row_dot(a->E, du, v);
  }
}

/* Zeros for the chunk's tokens past the length, which nobody sees. */
static void store_hidden(const walk *w, const chunk *c, int64_t tokens) {
  const alk_attn_spec *a = w->n.a;
  for (int64_t j = c->keys; j < tokens && !w->add; j++) {
    const int64_t t = (c->at + j) * a->g.Hkv;
    memset(w->dk + t * a->D, 0, (size_t)a->D * sizeof(real));
    memset(w->dv + t * a->E, 0, (size_t)a->E * sizeof(real));
    if (w->b) w->db[t] = 0;
  }
}

/* dq = scale (H g + delta z), H transposed; 0 where H is NULL. */
static void queries_from_state(const walk *w, const chunk *c, const real *H) {
  const int64_t Dw = w->n.Dw;
  if (!H) {
    memset(w->x_dq, 0, (size_t)(c->rows * Dw) * sizeof(real));
    return;
  }
  const real scale = (real)w->n.a->scale, *z = H + z_at(w);
  product(true, c->rows, w->n.a->E, &(factor){w->x_g, w->n.Ew, 1}, H, Dw, Dw, false, scale, w->x_dq,
          Dw);
  for (int64_t i = 0; sums_weights(w) && i < c->rows; i++) {
    const real f = scale * w->x_delta[i];
    for (int64_t d = 0; d < Dw; d++) w->x_dq[i * Dw + d] += f * z[d];
  }
  if (w->n.sums) scale_rows(c->rows, Dw, c->to_row, w->x_dq);
}

/* dk = scale (R u + r), du = scale R^T k of the keys, R transposed; 0 where R is NULL. */
static void keys_from_state(const walk *w, const chunk *c, const real *R) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Dw = w->n.Dw, Ew = w->n.Ew;
  if (!R) {
    memset(w->x_dk, 0, (size_t)(c->keys * Dw) * sizeof(real));
    memset(w->x_du, 0, (size_t)(c->keys * Ew) * sizeof(real));
    return;
  }
  const real scale = (real)a->scale, *r = R + z_at(w);
  turn(R, Ew, Dw, w->turned);
  product(true, c->keys, a->E, &(factor){w->x_u, Ew, 1}, R, Dw, Dw, false, scale, w->x_dk, Dw);
  product(true, c->keys, a->D, &(factor){w->x_k, Dw, 1}, w->turned, Ew, Ew, false, scale, w->x_du,
          Ew);
  for (int64_t j = 0; sums_weights(w) && j < c->keys; j++)
    for (int64_t d = 0; d < Dw; d++) w->x_dk[j * Dw + d] += scale * r[d];
  if (!w->n.sums) return;
  scale_rows(c->keys, Dw, c->from_key, w->x_dk);
  scale_rows(c->keys, Ew, c->from_key, w->x_du);
}

/* s and p of row i, scores and g.u of its first `keys` keys, become w and ds; steps: row sum minus
 * column sum of w dw, at each token of the chunk, or NULL. */
static void slope_row(const walk *w, const chunk *c, int64_t i, int64_t keys, double *steps) {
  real *s = w->x_s + i * CHUNK, *p = w->x_p + i * CHUNK;
  const real scale = (real)w->n.a->scale, delta = w->x_delta[i];
  if (!w->n.sums) {
    for (int64_t j = 0; sums_weights(w) && j < keys; j++) p[j] += scale * delta;
    return;
  }
  real A[CHUNK];
  decay_row(&w->n, c, i, keys, A);
  for (int64_t j = 0; j < keys; j++) s[j] *= A[j];
  if (sums_weights(w))
    for (int64_t j = 0; j < keys; j++) p[j] += delta;
  if (steps) {
    double sum[8] = {0};
    for (int64_t j = 0; j < keys; j++) {
      const double e = (double)s[j] * (double)p[j];
      steps[j] -= e;
      sum[j % 8] += e;
    }
    for (int l = 0; l < 8; l++) steps[i] += sum[l];
  }
  for (int64_t j = 0; j < keys; j++) p[j] *= scale * A[j];
}

/* Asks for rows [r, r + rows) of the chunk before this one. */
static void fetch(const walk *w, const chunk *c, int64_t h, int64_t r, int64_t rows) {
  const alk_attn_spec *a = w->n.a;
  const int64_t at = c->at - CHUNK + r, H = a->g.H;
  if (at < 0) return;
  fetch_rows(rows, a->D, w->q + (at * H + h) * a->D, H * a->D);
  fetch_rows(rows, a->E, w->dy + (at * H + h) * a->E, H * a->E);
  fetch_rows(rows, a->D, w->dq + (at * H + h) * a->D, H * a->D);
  if (h == 0) {
    const int64_t D = a->g.Hkv * a->D, E = a->g.Hkv * a->E;
    fetch_rows(rows, a->D, w->k + at * D, D);
    fetch_rows(rows, a->E, w->v + at * E, E);
    fetch_rows(rows, a->D, w->dk + at * D, D);
    fetch_rows(rows, a->E, w->dv + at * E, E);
  }
  if (a->normalise) fetch_rows(rows, a->E, w->y + (at * H + h) * a->E, H * a->E);
}

/* Adds the pairs inside the chunk, of the head whose rows are loaded, to dq, dk and du. */
static void run_pairs(const walk *w, const chunk *c, int64_t h, double *steps) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Dw = w->n.Dw, Ew = w->n.Ew;
  const real scale = (real)a->scale;
  for (int64_t r = 0, rows; r < c->rows && c->keys > 0; r += rows) {
    const bool corner = r < c->keys;
    rows = rows_at(r, corner ? c->keys : c->rows); /* a block has the corner or sees all keys */
    const int64_t seen = corner ? r + rows : c->keys, width = lanes_width(seen);
    fetch(w, c, h, r, rows);
    product(true, rows, a->D, &(factor){w->x_q + r * Dw, Dw, 1}, w->x_kt, CHUNK, width, false,
            scale, w->x_s + r * CHUNK, CHUNK);
    product(true, rows, a->E, &(factor){w->x_g + r * Ew, Ew, 1}, w->x_ut, CHUNK, width, false,
            w->n.sums ? 1 : scale, w->x_p + r * CHUNK, CHUNK);
    for (int64_t i = r; i < r + rows; i++) slope_row(w, c, i, corner ? i + 1 : seen, steps);
    const factor ds = {w->x_p + r * CHUNK, CHUNK, 1};
    for (int64_t d = 0; d < Dw; d += WIDTH) {
      const int nv = vectors_at(d, Dw);
      tile_fn *run = corner ? triangle_for(true, (int)rows, nv) : tile_for(true, (int)rows, nv);
      run(corner ? r : seen, &ds, w->x_k + d, Dw, true, 1, w->x_dq + r * Dw + d, Dw);
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

/* Sum of w dw over the pairs of a row after the chunk and a key before it. */
static double across(const walk *w, const chunk *c, const real *H, const real *R) {
  if (!H || !R) return 0;
  const alk_attn_spec *a = w->n.a;
  double sum = 0;
  for (int64_t e = 0; e < a->E; e++) sum += (double)row_dot(a->D, H + e * w->n.Dw, R + e * w->n.Dw);
  if (sums_weights(w)) sum += (double)row_dot(a->D, H + z_at(w), R + z_at(w));
  return sum * a->scale * (double)c->over;
}

/* Gradients of the chunk; H: the state before it, R: after it, or NULL. Its rows join the local
 * state when an earlier chunk will read it. */
static void run_chunk(const walk *w, const chunk *c, const real *H, const real *R, bool take) {
  const alk_attn_spec *a = w->n.a;
  const int64_t Dw = w->n.Dw;
  double inside[CHUNK] = {0}, row[CHUNK] = {0},
         key[CHUNK] = {0};                        /* parts of the decay's gradient */
  double sum = w->steps ? across(w, c, H, R) : 0; /* R may be the local state, which moves on */
  load_keys(w, c);
  if (c->keys > 0) {
    pack_columns(w->x_k, Dw, c->keys, a->D, w->x_kt);
    pack_columns(w->x_u, w->n.Ew, c->keys, a->E, w->x_ut);
  }
  keys_from_state(w, c, R);
  for (int64_t j = 0; w->steps && R && j < c->keys; j++)
    key[j] = (double)row_dot(a->D, w->x_k + j * Dw, w->x_dk + j * Dw);
  for (int64_t h = 0; h < w->n.heads; h++) {
    load_rows(w, c, h);
    queries_from_state(w, c, H);
    for (int64_t i = 0; w->steps && H && i < c->rows; i++)
      row[i] += (double)row_dot(a->D, w->x_q + i * Dw, w->x_dq + i * Dw);
    run_pairs(w, c, h, w->steps ? inside : NULL);
    store_queries(w, c, h);
    if (take) take_rows(w, c, h == 0 ? c->over : 1);
  }
  store_keys(w, c);
  store_hidden(w, c, c->rows);
  if (!w->steps) return;
  for (int64_t j = 0; j < c->keys; j++) sum += key[j];
  for (int64_t i = c->rows - 1; i >= c->keys; i--) sum += row[i] + inside[i];
  for (int64_t t = c->keys - 1; t >= 0; t--) { /* step t: rows from t on, keys before t */
    sum += row[t] + inside[t] - key[t];
    w->steps[c->at + t] = sum;
  }
}

/* ---- segments
 * ------------------------------------------------------------------------------------- */

/* Gradients of segment s, causal, given the state after it; `keep`: leaves the state from its start
 * on. */
static void run_segment(const walk *w, int64_t s, bool keep) {
  const int64_t T = w->n.a->g.T, s0 = s * SEGMENT, s1 = least(s0 + SEGMENT, T), size = w->n.state;
  const bool more = s1 < T;
  chunk c;
  fill_past(w, s, s0, s1);
  clear(w);
  for (int64_t at = s0 + (s1 - s0 - 1) / CHUNK * CHUNK; at >= s0; at -= CHUNK) {
    open_chunk(&w->n, at, s0, s1, &c);
    const real *R = w->local, *H = w->past + (at - s0) / CHUNK * size;
    if (more) blend(size, c.after, w->after + (s + 1) * size, w->local, w->whole), R = w->whole;
    run_chunk(w, &c, least(at, w->n.len) > 0 ? H : NULL, at + c.rows < T ? R : NULL,
              keep || at > s0);
  }
  if (keep) join_segment(w, s, w->local);
}

/* Local state of segment s of rows; with H, the state that all of them see, dq as well. */
static void sum_segment(const walk *w, int64_t s, const real *H) {
  const alk_attn_spec *a = w->n.a;
  const int64_t s0 = s * SEGMENT, s1 = least(s0 + SEGMENT, a->g.T);
  chunk c = {.rows = 0};
  clear(w);
  for (int64_t at = s0 + (s1 - s0 - 1) / CHUNK * CHUNK; at >= s0; at -= CHUNK) {
    if (a->g.causal) open_chunk(&w->n, at, s0, s1, &c);
    else c = (chunk){.at = at, .rows = least(CHUNK, s1 - at), .over = 1};
    for (int64_t h = 0; h < w->n.heads; h++) {
      load_rows(w, &c, h);
      if (!a->g.causal) {
        queries_from_state(w, &c, H);
        store_queries(w, &c, h);
      }
      take_rows(w, &c, h == 0 ? c.over : 1);
    }
  }
  memcpy(w->after + s * w->n.state, w->local, (size_t)w->n.state * sizeof(real));
}

/* dq and local states of rows that see every key; the state over all keys is turned for each
 * segment. */
static void run_rows(const walk *w, int64_t s) {
  if (w->n.len > 0) {
    const real *all = w->before + (alk_linear_segments(w->n.a->g.S) - 1) * w->n.state;
    turn(all, w->n.Dw, w->n.Ew, w->whole);
    memcpy(w->whole + z_at(w), all + z_at(w), (size_t)w->n.Dw * sizeof(real));
  }
  sum_segment(w, s, w->n.len > 0 ? w->whole : NULL);
}

/* dk, dv of segment s of keys that every row sees. */
static void run_keys(const walk *w, int64_t s) {
  const alk_attn_spec *a = w->n.a;
  const int64_t s0 = s * SEGMENT, s1 = least(s0 + SEGMENT, a->g.S);
  for (int64_t at = s0; at < s1; at += CHUNK) {
    const chunk c = {.at = at, .keys = most(least(CHUNK, least(s1, w->n.len) - at), 0)};
    load_keys(w, &c);
    keys_from_state(w, &c, a->g.T > 0 ? w->after : NULL);
    store_keys(w, &c);
    store_hidden(w, &c, least(CHUNK, s1 - at));
  }
}

/* ---- lines
 * ---------------------------------------------------------------------------------------- */

typedef struct task {
  const alk_attn_spec *a;
  const alk_linear_grad *t;
  real *after, *scratch;
  layout l;
  int64_t lines, shared; /* lines of a batch row; of a key/value head */
} task;

static walk walk_of(const task *t, int64_t n, int64_t job) {
  const alk_attn_spec *a = t->a;
  const alk_linear_grad *g = t->t;
  const int64_t b = n / t->lines, h0 = n % t->lines * line_heads(a);
  walk w = {.n = line_of(a, g->sums, b, h0), .add = n % t->shared != 0};
  const int64_t keys = b * a->g.S * a->g.Hkv + w.n.hk, rows = b * a->g.T * a->g.H + h0,
                stats = (b * a->g.H + h0) * a->g.T;
  w.q = (const real *)g->q + rows * a->D, w.k = (const real *)g->k + keys * a->D,
  w.v = (const real *)g->v + keys * a->E;
  w.b = g->b ? (const real *)g->b + keys : NULL, w.y = (const real *)g->y + rows * a->E,
  w.W = (const real *)g->W + stats;
  w.dy = (const real *)g->dy + rows * a->E,
  w.dW = g->dW && a->stat != ALK_STAT_none ? (const real *)g->dW + stats : NULL;
  w.dq = (real *)g->dq + rows * a->D, w.dk = (real *)g->dk + keys * a->D,
  w.dv = (real *)g->dv + keys * a->E;
  w.db = g->b ? (real *)g->db + keys : NULL;
  w.before = (const real *)g->states + n * alk_linear_segments(a->g.S) * w.n.state;
  w.after = t->after + n * alk_linear_segments(a->g.T) * w.n.state;
  w.steps = g->ddecay ? (double *)g->steps + (b * a->g.H + h0) * a->g.S : NULL;
  real *x = t->scratch + job * t->l.total;
  w.x_k = x + t->l.k, w.x_kt = x + t->l.kt, w.x_u = x + t->l.u, w.x_ut = x + t->l.ut,
  w.x_q = x + t->l.q, w.x_g = x + t->l.g;
  w.x_dq = x + t->l.dq, w.x_dk = x + t->l.dk, w.x_du = x + t->l.du, w.x_s = x + t->l.s,
  w.x_p = x + t->l.p, w.x_row = x + t->l.row;
  w.x_delta = x + t->l.delta, w.past = x + t->l.past, w.local = x + t->l.local,
  w.whole = x + t->l.whole, w.turned = x + t->l.turned;
  return w;
}

/* Whole key/value heads: their lines one after another. */
static void run_heads(const task *t, int64_t job, int64_t jobs) {
  int64_t from, to;
  share(t->a->g.B * t->a->g.Hkv, job, jobs, &from, &to);
  const int64_t keys = alk_linear_segments(t->a->g.S), rows = alk_linear_segments(t->a->g.T);
  for (int64_t n = from * t->shared; n < to * t->shared; n++) {
    const walk w = walk_of(t, n, job);
    for (int64_t s = rows - 1; t->a->g.causal && s >= 0; s--) run_segment(&w, s, s > 0);
    if (t->a->g.causal) continue;
    for (int64_t s = rows - 1; s >= 0; s--)
      run_rows(&w, s), join_segment(&w, s, w.after + s * w.n.state);
    for (int64_t s = 0; s < keys; s++) run_keys(&w, s);
  }
}

/* Step 0: local states of all segments of rows, 1: the rest, the states joined in between. */
static void run_parts(const task *t, int step, int64_t job, int64_t jobs) {
  int64_t from, to;
  const int64_t parts = alk_linear_segments(step ? t->a->g.S : t->a->g.T);
  share(t->a->g.B * t->a->g.Hkv * parts, job, jobs, &from, &to);
  for (int64_t i = from; i < to; i++)
    for (int64_t n = i / parts * t->shared; n < (i / parts + 1) * t->shared; n++) {
      const walk w = walk_of(t, n, job);
      if (step == 0) t->a->g.causal ? sum_segment(&w, i % parts, NULL) : run_rows(&w, i % parts);
      else t->a->g.causal ? run_segment(&w, i % parts, false) : run_keys(&w, i % parts);
    }
}

/* ddecay (B,S,Hd) = sum of the steps of the lines of each of its heads. */
static void sum_steps(const task *t, real *ddecay) {
  const alk_attn_spec *a = t->a;
  const int64_t S = a->g.S, Hd = a->weight.Hd, heads = a->g.H / Hd, step = line_heads(a);
  const double *steps = t->t->steps;
  for (int64_t b = 0; b < a->g.B; b++)
    for (int64_t s = 0; s < S; s++)
      for (int64_t d = 0; d < Hd; d++) {
        double sum = 0;
        for (int64_t h = d * heads; h < (d + 1) * heads; h += step)
          sum += steps[(b * a->g.H + h) * S + s];
        ddecay[(b * S + s) * Hd + d] = (real)sum;
      }
}

alk_status ALK_NAME(linear_bwd)(const alk_place *place, const alk_attn_spec *a,
                                const alk_linear_grad *g, void *scratch) {
  const int64_t jobs = linear_jobs(place, a);
  const task t = {.a = a,
                  .t = g,
                  .after = scratch,
                  .scratch = (real *)scratch + after_size(a),
                  .l = layout_of(a),
                  .lines = a->g.H / line_heads(a),
                  .shared = a->g.H / a->g.Hkv / line_heads(a)};
  if (g->ddecay)
    memset(g->steps, 0,
           (size_t)(a->g.B * a->g.H * a->g.S) * sizeof(double)); /* hidden keys have none */
  if (jobs <= a->g.B * a->g.Hkv) {
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
    for (int64_t job = 0; job < jobs; job++) run_heads(&t, job, jobs);
  } else {
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
    for (int64_t job = 0; job < jobs; job++) run_parts(&t, 0, job, jobs);
    for (int64_t n = 0; n < a->g.B * t.lines; n++) {
      const walk w = walk_of(&t, n, 0);
      for (int64_t s = alk_linear_segments(a->g.T) - 1; s >= 0; s--)
        join_segment(&w, s, w.after + s * w.n.state);
    }
#pragma omp parallel for schedule(static, 1) num_threads((int)jobs)
    for (int64_t job = 0; job < jobs; job++) run_parts(&t, 1, job, jobs);
  }
  if (g->ddecay) sum_steps(&t, g->ddecay);
  return ALK_OK;
}
