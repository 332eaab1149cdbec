/* basis.h: the monomials of monomials.h for a chunk of tokens at once, a panel [feature][token].
 *
 * Features of order n come in runs: a prefix x_a1 .. x_a(n-1), and every last index from a(n-1) on.
 * The products of the prefixes are a stack of n rows of tokens; nothing of lower orders is stored,
 * so that any range of features (a slab) is made by itself.
 */
#ifndef ALK_CPU_BASIS_H
#define ALK_CPU_BASIS_H
#include "../chunked.h"
#include "linear.h"

enum { CHUNK_VECS = CHUNK / LANES, MOST_ORDERS = ALK_MAX_COEFFICIENTS };

typedef struct basis {
  int64_t D, R;
  int n; /* coefficients */
  int64_t first[MOST_ORDERS + 1];
  double k[MOST_ORDERS]; /* c_n = kept_n k_n */
  real c[MOST_ORDERS], kept[MOST_ORDERS];
  double power[MOST_ORDERS]; /* scale^n */
  real *w;                   /* (R) multiplicity times scale^n */
  int64_t segment;           /* tokens */
} basis;

/* by (n): k_n, or NULL: all 1 */
static inline basis basis_of(int64_t D, int n, const double *kept, const double *by, double scale) {
  basis s = {.D = D, .n = n};
  double power = 1;
  for (int i = 0; i < n; i++, power *= scale) {
    s.first[i] = s.R;
    if (kept[i] == 0) continue;
    s.R += alk_monomials(D, i);
    s.k[i] = by ? by[i] : 1;
    s.c[i] = (real)(kept[i] * s.k[i]);
    s.kept[i] = (real)kept[i];
    s.power[i] = power;
  }
  s.first[n] = s.R;
  s.segment = alk_chunk_segment(s.R);
  return s;
}

/* A run of features [at, at + count): last indices l, l + 1, ..; `level`: the prefix index that
 * moved on since the run before, 0 at first. */
typedef struct run {
  int n;
  int64_t D, at, end, l, count;
  int level;
  int64_t a[MOST_ORDERS];
} run;

static inline void cut_run(run *r) {
  r->l = r->n > 0 ? r->a[r->n - 1] : 0;
  r->count = least(r->n > 0 ? r->D - r->l : 1, r->end - r->at);
}

/* The first run of order n in the features [from, to); false where there is none. */
static inline bool open_run(const basis *s, int n, int64_t from, int64_t to, run *r) {
  *r = (run){.n = n, .D = s->D, .at = most(from, s->first[n]), .end = least(to, s->first[n + 1])};
  if (r->at >= r->end) return false;
  int64_t rank = r->at - s->first[n], low = 0;
  for (int i = 0; i < n; i++) {
    for (int64_t size; (size = alk_monomials(s->D - low, n - 1 - i)) <= rank; low++) rank -= size;
    r->a[i] = low;
  }
  cut_run(r);
  return true;
}

static inline bool last_run(const run *r) { return r->at + r->count >= r->end; }

/* The prefix index that moves on to the next run; 0 where there is none. */
static inline int next_level(const run *r) {
  int i = last_run(r) ? 0 : r->n - 2;
  while (i > 0 && r->a[i] == r->D - 1) i--;
  return i;
}

static inline bool next_run(run *r) {
  if (last_run(r)) return false;
  r->level = next_level(r);
  r->at += r->count;
  r->a[r->level]++;
  for (int j = r->level + 1; j < r->n; j++) r->a[j] = r->a[r->level];
  cut_run(r);
  return true;
}

static inline void make_weights(const basis *s) {
  for (int n = 0; n < s->n; n++) {
    run r;
    for (bool more = open_run(s, n, 0, s->R, &r); more; more = next_run(&r))
      for (int64_t i = 0; i < r.count; i++) {
        double w = s->power[n]; /* n! / prod m!, one index after another: i-th of all, k-th alike */
        for (int64_t j = 1, k = 1; j < n; j++) {
          const int64_t this = j + 1 < n ? r.a[j] : r.l + i;
          k = this == r.a[j - 1] ? k + 1 : 1;
          w = w * (double)(j + 1) / (double)k;
        }
        s->w[r.at + i] = (real)w;
      }
  }
}

#define EACH_VEC _Pragma("GCC unroll 16") for (int v = 0; v < CHUNK_VECS; v++)
#define AT(p) ((vec_at *)(p))[v]

/* Prefix products of a run from its level on; stack[i] = x_a1 .. x_ai. */
static inline void fill_stack(const run *r, const real *x, real (*stack)[CHUNK]) {
  for (int i = r->level; i + 1 < r->n; i++)
    EACH_VEC AT(stack[i + 1]) = AT(stack[i]) * AT(x + r->a[i] * CHUNK);
}

static inline void fill_ones(real *row) {
  for (int i = 0; i < CHUNK; i++) row[i] = 1;
}

/* f [feature - from][token] of the features [from, to) of x [channel][token], times c_n w_r with
 * `weighted`. */
static inline void features(const basis *s, int64_t from, int64_t to, const real *x, bool weighted,
                            real *f) {
  real stack[MOST_ORDERS][CHUNK];
  fill_ones(stack[0]);
  for (int n = 0; n < s->n; n++) {
    run r;
    for (bool more = open_run(s, n, from, to, &r); more; more = next_run(&r)) {
      fill_stack(&r, x, stack);
      vec prefix[CHUNK_VECS];
      EACH_VEC prefix[v] = AT(stack[n > 0 ? n - 1 : 0]);
      real *out = f + (r.at - from) * CHUNK;
      for (int64_t i = 0; i < r.count; i++) {
        const real w = weighted ? s->w[r.at + i] * s->c[n] : 1;
        if (n == 0) EACH_VEC AT(out) = w * prefix[v];
        else EACH_VEC AT(out + i * CHUNK) = w * prefix[v] * AT(x + (r.l + i) * CHUNK);
      }
    }
  }
}

/* dx [channel][token] += the gradient through the features [from, to) of df [feature -
 * from][token], times c_n w_r with `weighted`. sums [n][token], or NULL: += sum over the features
 * of order n of f df, times kept_n w_r with `weighted`. */
static inline void features_bwd(const basis *s, int64_t from, int64_t to, const real *x,
                                const real *df, bool weighted, real *dx, double (*sums)[CHUNK]) {
  real stack[MOST_ORDERS][CHUNK], slope[MOST_ORDERS][CHUNK];
  fill_ones(stack[0]);
  for (int n = 0; n < s->n; n++) {
    run r;
    bool more = open_run(s, n, from, to, &r);
    if (!more) continue;
    memset(slope, 0, (size_t)(n > 0 ? n : 1) * sizeof *slope);
    while (more) {
      fill_stack(&r, x, stack);
      const int top = n > 0 ? n - 1 : 0;
      vec prefix[CHUNK_VECS], back[CHUNK_VECS], part[CHUNK_VECS];
      EACH_VEC {
        prefix[v] = AT(stack[top]);
        back[v] = AT(slope[top]);
        part[v] = (vec){0};
      }
      const real *in = df + (r.at - from) * CHUNK;
      for (int64_t i = 0; i < r.count; i++) {
        const real m = weighted ? s->w[r.at + i] : 1, w = weighted ? m * s->kept[n] : 1,
                   c = weighted ? m * s->c[n] : 1;
        const real *d = in + i * CHUNK;
        if (n == 0) {
          EACH_VEC part[v] += w * AT(d);
          continue;
        }
        const real *at = x + (r.l + i) * CHUNK;
        real *to_x = dx + (r.l + i) * CHUNK;
        if (sums) EACH_VEC part[v] += w * AT(d) * (prefix[v] * AT(at));
        EACH_VEC {
          const vec g = c * AT(d);
          AT(to_x) += g * prefix[v];
          back[v] += g * AT(at);
        }
      }
      EACH_VEC AT(slope[top]) = back[v];
      if (sums) {
        real p[CHUNK];
        EACH_VEC AT(p) = part[v];
        for (int i = 0; i < CHUNK; i++) sums[n][i] += (double)p[i];
      }
      /* what moves on hands its slope to its index and to the prefix before it */
      for (int j = n - 2, level = next_level(&r); j >= level; j--) {
        const real *at = x + r.a[j] * CHUNK;
        real *to_x = dx + r.a[j] * CHUNK;
        EACH_VEC {
          const vec g = AT(slope[j + 1]);
          AT(to_x) += g * AT(stack[j]);
          AT(slope[j]) += g * AT(at);
          AT(slope[j + 1]) = (vec){0};
        }
      }
      more = next_run(&r);
    }
  }
}
#endif
