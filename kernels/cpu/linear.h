/* linear.h: what the forward and the backward of chunked linear attention share: triangular tiles,
 * decay inside a chunk, states of segments.
 *
 * A line is a run of query heads of one batch row that share their key/value head and their decay:
 * they share a state. A state is [Dw][Ew] or, transposed, [Ew][Dw], and after it z [Dw].
 */
#ifndef ALK_CPU_LINEAR_H
#define ALK_CPU_LINEAR_H
#include "../linear.h"
#include "rows.h"

enum { CHUNK = KEYS, SEGMENT = ALK_LINEAR_SEGMENT };

static inline int64_t lanes_width(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* ---- products -------------------------------------------------------------------------------- */

/* The tile of tile.h with a ragged end: row r has the terms [0, n + r] (lower) or [r, n) (upper, n
 * at least `rows`). Unrolled over the corner, so that its rows stay in registers as well. */
TILE_INLINE void triangle(const int rows, const int nv, const bool lower, int64_t n, const real *a,
                          const int64_t rs, const int64_t ts, const real *p, int64_t ps, bool add,
                          real scale, real *out, int64_t os) {
  vec acc[ROWS][2];
  const real *base[3] = {a, a + 4 * rs, a + 8 * rs};
  const int64_t corner = lower ? n : 0;
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) acc[r][v] = (vec){0};
  }
  for (int64_t t = lower ? 0 : rows; t < n; t++) {
    vec x[2];
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) x[v] = *(const vec_at *)(p + t * ps + v * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      const real f = base[r / 4][r % 4 * rs + t * ts];
#pragma GCC unroll 2
      for (int v = 0; v < nv; v++) acc[r][v] += f * x[v];
    }
  }
#pragma GCC unroll 12
  for (int c = 0; c < rows; c++) {
    vec x[2];
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) x[v] = *(const vec_at *)(p + (corner + c) * ps + v * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      if (lower ? r < c : r > c) continue;
      const real f = base[r / 4][r % 4 * rs + (corner + c) * ts];
#pragma GCC unroll 2
      for (int v = 0; v < nv; v++) acc[r][v] += f * x[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) {
      vec_at *o = (vec_at *)(out + r * os + v * LANES);
      const vec y = scale * acc[r][v];
      if (add) *o += y;
      else *o = y;
    }
  }
}

#define TRIANGLE(name, rows, nv, is_lower, rs, ts)                                                 \
  static void name(int64_t n, const factor *f, const real *p, int64_t ps, bool add, real scale,    \
                   real *out, int64_t os) {                                                        \
    triangle(rows, nv, is_lower, n, f->a, rs, ts, p, ps, add, scale, out, os);                     \
  }
TRIANGLE(lower_full_2, ROWS, 2, true, f->rs, 1)
TRIANGLE(lower_full_1, ROWS, 1, true, f->rs, 1)
TRIANGLE(lower_some_2, SOME_ROWS, 2, true, f->rs, 1)
TRIANGLE(lower_some_1, SOME_ROWS, 1, true, f->rs, 1)
TRIANGLE(lower_one_2, 1, 2, true, f->rs, 1)
TRIANGLE(lower_one_1, 1, 1, true, f->rs, 1)
TRIANGLE(upper_full_2, ROWS, 2, false, 1, f->ts)
TRIANGLE(upper_full_1, ROWS, 1, false, 1, f->ts)
TRIANGLE(upper_some_2, SOME_ROWS, 2, false, 1, f->ts)
TRIANGLE(upper_some_1, SOME_ROWS, 1, false, 1, f->ts)
TRIANGLE(upper_one_2, 1, 2, false, 1, f->ts)
TRIANGLE(upper_one_1, 1, 1, false, 1, f->ts)

/* Row-wise lower triangles, column-wise upper ones. */
static inline tile_fn *triangle_for(bool lower, int rows, int nv) {
  static tile_fn *const table[2][3][2] = {
      {{upper_one_1, upper_one_2}, {upper_some_1, upper_some_2}, {upper_full_1, upper_full_2}},
      {{lower_one_1, lower_one_2}, {lower_some_1, lower_some_2}, {lower_full_1, lower_full_2}}};
  return table[lower][rows == ROWS ? 2 : rows == SOME_ROWS ? 1 : 0][nv - 1];
}

static inline int vectors_at(int64_t c, int64_t width) { return width - c > LANES ? 2 : 1; }

/* out[r][c] (+)= scale sum_t a(r,t) p[t][c] for r < rows, t < terms, c < width, a multiple of
 * LANES. */
static inline void product(bool row_wise, int64_t rows, int64_t terms, const factor *a,
                           const real *p, int64_t ps, int64_t width, bool add, real scale,
                           real *out, int64_t os) {
  for (int64_t r = 0, n; r < rows; r += n) {
    n = rows_at(r, rows);
    const factor f = {a->a + r * a->rs, a->rs, a->ts};
    for (int64_t c = 0; c < width; c += WIDTH)
      tile_for(row_wise, (int)n, vectors_at(c, width))(terms, &f, p + c, ps, add, scale,
                                                       out + r * os + c, os);
  }
}

/* out = f x + y, or f x where y is NULL; out may be x or y. */
static inline void blend(int64_t n, real f, const real *x, const real *y, real *out) {
  if (y)
    for (int64_t i = 0; i < n; i++) out[i] = f * x[i] + y[i];
  else
    for (int64_t i = 0; i < n; i++) out[i] = f * x[i];
}

/* Asks for rows of n elements ahead of their use: heads lie side by side in memory, so that the
 * rows of one are too far apart for the hardware to foresee. */
static inline void fetch_rows(int64_t rows, int64_t n, const real *x, int64_t stride) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < n; d += 64 / (int64_t)sizeof(real))
      __builtin_prefetch(x + i * stride + d, 0, 2);
}

/* ---- lines, chunks, segments ----------------------------------------------------------------- */

typedef struct line {
  const alk_attn_spec *a;
  int64_t b, hk, h0, heads; /* query heads [h0, h0 + heads) */
  int64_t len;              /* keys of the batch row */
  int64_t Dw, Ew, state;    /* elements of a state */
  const double *sums;       /* (S) of the line, or NULL */
} line;

static inline int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

/* Query heads of a line: as many as surely share both. */
static inline int64_t line_heads(const alk_attn_spec *a) {
  const int64_t group = a->g.H / a->g.Hkv;
  return a->weight.Hd ? gcd(group, a->g.H / a->weight.Hd) : group;
}

static inline int64_t state_size(const alk_attn_spec *a) {
  return lanes_width(a->D) * (lanes_width(a->E) + 1);
}

static inline line line_of(const alk_attn_spec *a, const double *sums, int64_t b, int64_t h0) {
  line n = {.a = a,
            .b = b,
            .h0 = h0,
            .heads = line_heads(a),
            .hk = h0 / (a->g.H / a->g.Hkv),
            .Dw = lanes_width(a->D),
            .Ew = lanes_width(a->E),
            .state = state_size(a)};
  n.len = a->g.lengths ? least(most(((const int32_t *)a->g.lengths)[b], 0), a->g.S) : a->g.S;
  if (sums) n.sums = sums + (b * a->weight.Hd + h0 / (a->g.H / a->weight.Hd)) * a->g.S;
  return n;
}

typedef struct chunk {
  int64_t at, rows, keys; /* first token, query rows, keys below the length */
  /* exp of the log decay, 1 without: from before the chunk to a row, from a key to the chunk's end,
   * over the chunk, from before the segment to before the chunk, from the chunk's end to the
   * segment's */
  real to_row[CHUNK], from_key[CHUNK], over, before, after;
} chunk;

/* sums at the last key before position p; 0 before the first. */
static inline double sum_before(const line *n, int64_t p) {
  const int64_t keys = least(p, n->len);
  return keys > 0 ? n->sums[keys - 1] : 0;
}

static inline real decay_over(const line *n, int64_t from, int64_t to) {
  return n->sums ? vexp((real)(sum_before(n, to) - sum_before(n, from))) : 1;
}

/* The chunk at `at` of the segment [s0, s1) of tokens. */
static inline void open_chunk(const line *n, int64_t at, int64_t s0, int64_t s1, chunk *c) {
  c->at = at;
  c->rows = least(CHUNK, s1 - at);
  c->keys = most(least(CHUNK, least(s1, n->len) - at), 0);
  c->over = decay_over(n, at, at + c->rows);
  c->before = decay_over(n, s0, at);
  c->after = decay_over(n, at + c->rows, s1);
  if (!n->sums) return;
  const double start = sum_before(n, at), end = sum_before(n, at + c->rows);
  for (int64_t i = 0; i < c->rows; i++)
    c->to_row[i] = vexp((real)(sum_before(n, at + i + 1) - start));
  for (int64_t j = 0; j < c->keys; j++) c->from_key[j] = vexp((real)(end - n->sums[at + j]));
}

/* A_ij of row i and the first `keys` keys of the chunk. */
static inline void decay_row(const line *n, const chunk *c, int64_t i, int64_t keys, real *A) {
  const double top = sum_before(n, c->at + i + 1), *u = n->sums + c->at;
  for (int64_t j = 0; j < keys; j++) A[j] = vexp((real)(top - u[j]));
}

static inline void scale_rows(int64_t rows, int64_t width, const real *by, real *x) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < width; d++) x[i * width + d] *= by[i];
}

/* state = over * state + sum_t x_t y_t^T over packed rows x (n_x elements, xw apart) and y (yw
 * wide). */
static inline void absorb(real *state, real over, int64_t terms, const real *x, int64_t n_x,
                          int64_t xw, const real *y, int64_t yw) {
  if (over != 1) blend(n_x * yw, over, state, NULL, state);
  product(false, n_x, terms, &(factor){x, 1, xw}, y, yw, yw, true, 1, state, yw);
}

/* z = over * z + sum_t f_t x_t over packed rows; f may be NULL. */
static inline void absorb_sum(real *z, real over, int64_t terms, const real *x, int64_t xw,
                              const real *f) {
  for (int64_t d = 0; d < xw; d++) z[d] *= over;
  for (int64_t t = 0; t < terms; t++)
    for (int64_t d = 0; d < xw; d++) z[d] += f ? f[t] * x[t * xw + d] : x[t * xw + d];
}

/* Segments are shared out where there are few heads. */
static inline int64_t linear_jobs(const alk_place *place, const alk_attn_spec *a) {
  const int64_t pairs = a->g.B * a->g.Hkv, longest = a->g.T > a->g.S ? a->g.T : a->g.S;
  return jobs_for(pairs >= place->threads ? pairs : pairs * alk_linear_segments(longest), place);
}
#endif
