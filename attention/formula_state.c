/* formula_state.c: what a sequence carries from token to token under the options of the formula,
 * and which form runs.
 *
 * Polynomial weights carry sums over the keys: "numerator" (B,Hkv,R,E), "denominator" (B,Hkv,R), a
 * row for each monomial of phi(k) of the kept orders (kernels/monomials.h). A denominator with
 * weights of its own has rows of its own; l2 those of f^2. All other weights carry "k" and "v"
 * (B,t,Hkv,..), v after its gate, and the decay of each step.
 */
#include "formula_run.h"
#include <math.h>

#define MIB 1048576.0

/* ---- which state ----------------------------------------------------------------------------- */

/* Of a statistic whose inner sum is one over squares the weights are f^2. */
static bool squares(const formula *f) { return alk_statistics[f->weights].inner == ALK_PW_square; }

bool formula_own_rows(const formula *f) {
  return f->stat == STAT_weights && (f->own_weights || squares(f));
}

weight_fn formula_denominator_to(const formula *f, int order) {
  const weight_fn w = formula_weight_to(f, true, order);
  if (!squares(f)) return w;
  weight_fn square = {.by = w.by, .order = 2 * w.order, .learned = w.learned};
  for (int i = 0; i <= w.order; i++)
    for (int j = 0; j <= w.order; j++)
      if (i + j <= FORMULA_MAX_ORDER) square.c[i + j] += w.c[i] * w.c[j];
  for (int n = 0; w.learned && n <= FORMULA_MAX_ORDER; n++)
    square.c[n] = square.c[n] != 0; /* the products are in what is learned: squared_coefficients */
  return square;
}

/* Why a statistic of polynomial weights is no sum of features, or NULL. */
static const char *not_summed(const formula *f) {
  const alk_pointwise inner = alk_statistics[f->weights].inner;
  if (inner == ALK_PW_identity) return NULL;
  if (inner == ALK_PW_abs)
    return formula_nonnegative(f, f->own_weights)
               ? NULL
               : "denominator=abs needs every weight, as these may be negative";
  if (inner != ALK_PW_square) return "this statistic of the denominator needs every weight";
  return 2 * f->own.order > FORMULA_MAX_ORDER ? "the square of these weights has too high an order"
                                              : NULL;
}

const char *formula_not_finite(const formula *f) {
  if (f->state_limit == 0) return "state_limit=0 asks for keys and values";
  if (f->w.by != BY_polynomial)
    return "weights other than linear, square, power and taylor need every key";
  if (f->clamps || f->caps || f->rounds) return "limits on the logits need every logit";
  bool any = false;
  for (int n = 0; n <= f->w.order; n++) any |= f->w.c[n] != 0;
  if (!any) return "all coefficients are 0";
  if (f->stat != STAT_weights) return NULL;
  if (f->own.by != BY_polynomial) return "the denominator's own weights need every key";
  return not_summed(f);
}

const char *formula_not_chunked(const formula *f) {
  const char *why = formula_not_finite(f);
  if (why) return why;
  if (f->dropout > 0) return "dropout needs every weight";
  if (f->impl == IMPL_composed) return "impl=composed makes every weight";
  if (f->impl == IMPL_cudnn) return "impl=cudnn is of the parallel form";
  return NULL;
}

/* ---- its size -------------------------------------------------------------------------------- */

/* C(D+n-1, n) summed over the kept orders. */
static double features(const weight_fn *f, int64_t D) {
  double sum = 0, count = 1;
  for (int n = 0; n <= f->order; n++) {
    if (f->c[n] != 0) sum += count;
    count *= (double)(D + n) / (n + 1);
  }
  return floor(sum + 0.5);
}

/* Numbers that a denominator without weights carries. */
static double counted(const formula *f, const attn_sizes *s) {
  const formula_count *count = formula_count_of(f);
  return count && count->state ? (double)s->heads : 0;
}

/* Numbers of a finite state of one sequence, with another `order`. */
static double numbers(const formula *f, const attn_sizes *s, int order) {
  const weight_fn w = formula_weight_to(f, false, order), own = formula_denominator_to(f, order);
  double n = features(&w, s->head_dim) * (double)s->value_dim;
  if (f->stat == STAT_weights) n += features(formula_own_rows(f) ? &own : &w, s->head_dim);
  n *= (double)s->kv_heads;
  return n + counted(f, s);
}

al_status formula_state_fits(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t size) {
  formula room;
  const formula *f = formula_of(o, &room);
  const double limit = f->state_limit * MIB, each = (double)size;
  const double need = numbers(f, s, f->order) * each;
  if (need <= limit) return AL_OK;
  int fits = f->order - 1;
  while (fits >= 0 && !(numbers(f, s, fits) * each <= limit)) fits--;
  char hint[64] = "no order fits";
  if (fits >= 0 && numbers(f, s, fits) > 0) snprintf(hint, sizeof hint, "order %d would fit", fits);
  return al_fail(
      c, AL_EVALUE,
      "kernel_attention: state: %.1f MiB a sequence needed for %s of order %d, %lld "
      "heads of size %lld, but state_limit is %g MiB: %s; state_limit=0 carries keys and "
      "values instead",
      need / MIB, al_opt_word(o, "similarity"), f->w.order, (long long)s->kv_heads,
      (long long)s->head_dim, f->state_limit, hint);
}

static int not_held(const weight_fn *w, const formula *f, const attn_sizes *s, al_dtype dtype) {
  return alk_not_held(s->head_dim, w->order + 1, w->c, formula_scale_by(f, s->head_dim),
                      al_dtype_size(dtype));
}

/* The first order, of the numerator's weights or the denominator's own, that a state cannot hold,
 * or -1. */
static int first_not_held(const formula *f, const attn_sizes *s, al_dtype dtype) {
  const weight_fn own = formula_denominator_to(f, f->order);
  const int n = not_held(&f->w, f, s, dtype);
  return n < 0 && formula_own_rows(f) ? not_held(&own, f, s, dtype) : n;
}

al_status formula_state_held(al_ctx *c, const formula *f, const attn_sizes *s, al_dtype dtype) {
  const int n = first_not_held(f, s, dtype);
  if (n < 0) return AL_OK;
  return al_fail(
      c, AL_EVALUE,
      "kernel_attention: option 'order': a state in %s cannot hold order %d of these weights%s "
      "(head_dim %lld): a factor or a product of so many channels leaves the type: use %sa lower "
      "order, or form=parallel and, to decode, state_limit=0, which carries keys and values",
      al_dtype_name(dtype), n, squares(f) ? ", which the denominator squares" : "",
      (long long)s->head_dim, dtype == AL_F32 ? "f64, " : "");
}

/* As attn_state_size measures it: with the host's count. */
int64_t formula_state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype) {
  formula room;
  const formula *f = formula_of(o, &room);
  double n;
  if (formula_not_finite(f)) {
    const int64_t key = s->head_dim + s->value_dim + (f->decay != DECAY_none ? 1 : 0);
    n = (double)t * (double)s->kv_heads * (double)key;
    n += counted(f, s);
  } else {
    n = numbers(f, s, f->order);
  }
  const double bytes = n * (double)al_dtype_size(dtype) + (double)al_dtype_size(AL_I32);
  return bytes < 9e18 ? (int64_t)bytes : INT64_MAX;
}

static al_status put_zeros(al_ctx *c, attn_state *st, const char *name, al_dtype dtype, int ndim,
                           const int64_t *shape, const char *doc) {
  return attn_state_put(c, st, name, al_tensor_full(c, dtype, ndim, shape, 0), doc);
}

al_status formula_state(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
                        al_dtype dtype, attn_state *st) {
  formula room;
  const formula *f = formula_of(o, &room);
  const int64_t H = s->kv_heads, E = s->value_dim;
  if (formula_not_finite(f)) {
    AL_TRY(put_zeros(c, st, "k", dtype, 4, (int64_t[]){batch, 0, H, s->head_dim}, "keys so far"));
    AL_TRY(put_zeros(c, st, "v", dtype, 4, (int64_t[]){batch, 0, H, E},
                     "values so far, after their gate"));
    if (f->decay != DECAY_none)
      AL_TRY(put_zeros(c, st, "log_decay", dtype, 3, (int64_t[]){batch, 0, H}, "of each step"));
  } else {
    AL_TRY(formula_state_fits(c, o, s, al_dtype_size(dtype)));
    AL_TRY(formula_state_held(c, f, s, dtype));
    const weight_fn own = formula_denominator_to(f, f->order);
    const int64_t R = (int64_t)features(&f->w, s->head_dim);
    AL_TRY(put_zeros(c, st, "numerator", dtype, 4, (int64_t[]){batch, H, R, E},
                     "sums of A m(phi(k)) v, m: monomials of the kept orders, ascending"));
    const int64_t rows = formula_own_rows(f) ? (int64_t)features(&own, s->head_dim) : R;
    if (f->stat == STAT_weights)
      AL_TRY(put_zeros(c, st, "denominator", dtype, 3, (int64_t[]){batch, H, rows},
                       "sums of A m(phi(k)), m: monomials of its kept orders, ascending"));
  }
  const formula_count *count = formula_count_of(f);
  if (count && count->state)
    AL_TRY(
        put_zeros(c, st, count->state, dtype, 2, (int64_t[]){batch, s->heads}, count->state_doc));
  return AL_OK;
}

/* ---- which form ------------------------------------------------------------------------------ */

/* auto: fused, but composed in f64, where it is the reference. */
bool formula_fused(const formula *f, al_dtype dtype) {
  return f->impl == IMPL_fused || f->impl == IMPL_cudnn || f->form == FORM_chunked ||
         (f->impl == IMPL_auto && dtype != AL_F64);
}

/* Chunked from this many keys on: measured, forward and backward, for heads of 16 to 128 channels
 * of order 1, 8 to 64 of orders 2 and 3. Rows of a denominator of their own take as long as 16
 * channels.
 */
static double least_chunked(const formula *f, const attn_sizes *s) {
  const weight_fn own = formula_denominator_to(f, f->order);
  double work = features(&f->w, s->head_dim) * (double)s->value_dim;
  if (formula_own_rows(f)) work += 16 * features(&own, s->head_dim);
  return 4 * work / (double)(s->head_dim + s->value_dim);
}

static bool within_limit(const formula *f, const attn_sizes *s, al_dtype dtype) {
  return numbers(f, s, f->order) * (double)al_dtype_size(dtype) <= f->state_limit * MIB;
}

bool formula_chunks(const formula *f, const attn_sizes *s, al_dtype dtype, int64_t S) {
  return formula_fused(f, dtype) && !formula_not_chunked(f) && within_limit(f, s, dtype) &&
         (double)S >= least_chunked(f, s) && first_not_held(f, s, dtype) < 0;
}

void formula_plan(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
                  size_t n) {
  formula room;
  const formula *f = formula_of(o, &room);
  const char *why_not = formula_not_chunked(f), *finite = formula_not_finite(f);
  const char *impl = formula_fused(f, dtype) ? "fused" : "composed";
  const int high = finite ? -1 : first_not_held(f, s, dtype);
  const char *form = NULL;
  switch (f->form) {
  case FORM_auto:
    break;
  case FORM_parallel:
    form = "parallel";
    break;
  case FORM_chunked:
    form = "chunked";
    break;
  case FORM_recurrent:
    form = "recurrent";
    break;
  }
  if (f->form == FORM_recurrent) snprintf(buf, n, "recurrent: form=recurrent");
  else if (!formula_fused(f, dtype))
    snprintf(buf, n, "parallel, composed: %s",
             f->impl == IMPL_composed ? "impl=composed" : "in f64 it is the reference");
  else if (form) snprintf(buf, n, "%s, %s: form=%s", form, impl, form);
  else if (why_not) snprintf(buf, n, "parallel, fused (no chunked form: %s)", why_not);
  else if (!within_limit(f, s, dtype))
    snprintf(buf, n, "parallel, fused: a state would be above state_limit");
  else if (high >= 0)
    snprintf(buf, n, "parallel, fused: a state in %s cannot hold order %d", al_dtype_name(dtype),
             high);
  else
    snprintf(buf, n, "%s, fused: %lld tokens, chunked pays from %.0f on",
             formula_chunks(f, s, dtype, T) ? "chunked" : "parallel", (long long)T,
             ceil(least_chunked(f, s)));
  const size_t at = strlen(buf);
  if (at >= n) return;
  if (finite) {
    snprintf(buf + at, n - at, "; decoding carries the key/value cache (%s)", finite);
  } else if (!within_limit(f, s, dtype)) {
    snprintf(buf + at, n - at, "; no decoding by state, it would be above state_limit");
  } else if (high >= 0) {
    snprintf(buf + at, n - at, "; no decoding by state: %s cannot hold order %d",
             al_dtype_name(dtype), high);
  } else {
    snprintf(buf + at, n - at, "; decoding carries %.0f features a head",
             features(&f->w, s->head_dim));
  }
}
