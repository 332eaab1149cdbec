/* lanes.h: sums and maxima along a row in LANES independent lanes.
 *
 * gcc may not reorder a float sum, so the order is written out: element i goes to lane i mod LANES,
 * and the lanes are added as a tree: the same order for every instruction set and thread count.
 * LANES is above gcc's unrolling limit of 16, or a lane loop with a select is not vectorised
 * (measured: row maxima 3 Gelem/s with 16 lanes, 18 with 32). */
#ifndef ALK_LANES_H
#define ALK_LANES_H
#include <stdint.h>

enum {
  LANES = 32,
  ROW_BLOCK = 2048 /* a long row is summed in blocks: the error grows with ROW_BLOCK / LANES */
};

/* Runs the statement for each i in 0..n with its lane l. */
#define FOR_LANES(n, statement)                                                                    \
  do {                                                                                             \
    int64_t from_ = 0;                                                                             \
    for (; from_ + LANES <= (n); from_ += LANES)                                                   \
      for (int l = 0; l < LANES; l++) {                                                            \
        const int64_t i = from_ + l;                                                               \
        statement;                                                                                 \
      }                                                                                            \
    const int tail_ = (int)((n)-from_);                                                            \
    for (int l = 0; l < tail_; l++) {                                                              \
      const int64_t i = from_ + l;                                                                 \
      statement;                                                                                   \
    }                                                                                              \
  } while (0)

static inline ALK_REAL lanes_sum(ALK_REAL *lane) {
  for (int h = LANES / 2; h > 0; h /= 2)
    for (int l = 0; l < h; l++) lane[l] += lane[l + h];
  return lane[0];
}
static inline double lanes_sum_f64(double *lane) {
  for (int h = LANES / 2; h > 0; h /= 2)
    for (int l = 0; l < h; l++) lane[l] += lane[l + h];
  return lane[0];
}

/* Largest element of a row; n > 0. A NaN may be passed over. */
static inline ALK_REAL row_max(int64_t n, const ALK_REAL *x) {
  ALK_REAL lane[LANES];
  for (int l = 0; l < LANES; l++) lane[l] = x[0];
  FOR_LANES(n, lane[l] = x[i] > lane[l] ? x[i] : lane[l]);
  ALK_REAL m[4] = {lane[0], lane[1], lane[2], lane[3]}; /* four short chains, not one long one */
  for (int l = 4; l < LANES; l += 4)
    for (int j = 0; j < 4; j++) m[j] = lane[l + j] > m[j] ? lane[l + j] : m[j];
  for (int j = 1; j < 4; j++) m[0] = m[j] > m[0] ? m[j] : m[0];
  return m[0];
}

static inline ALK_REAL row_sum(int64_t n, const ALK_REAL *x) {
  ALK_REAL total = 0;
  for (int64_t at = 0; at < n; at += ROW_BLOCK) {
    const int64_t count = n - at < ROW_BLOCK ? n - at : ROW_BLOCK;
    const ALK_REAL *p = x + at;
    ALK_REAL lane[LANES] = {0};
    FOR_LANES(count, lane[l] += p[i]);
    total += lanes_sum(lane);
  }
  return total;
}

/* sum of x y */
static inline ALK_REAL row_dot(int64_t n, const ALK_REAL *x, const ALK_REAL *y) {
  ALK_REAL total = 0;
  for (int64_t at = 0; at < n; at += ROW_BLOCK) {
    const int64_t count = n - at < ROW_BLOCK ? n - at : ROW_BLOCK;
    const ALK_REAL *p = x + at, *q = y + at;
    ALK_REAL lane[LANES] = {0};
    FOR_LANES(count, lane[l] += p[i] * q[i]);
    total += lanes_sum(lane);
  }
  return total;
}
#endif
