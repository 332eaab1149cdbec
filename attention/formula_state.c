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

static bool polynomial(const al_opts *o, bool denominator) {
  return strcmp(formula_weight(o, denominator).f, "polynomial") == 0;
}

bool formula_own_rows(const al_opts *o) {
  return formula_reads_weights(o) && (formula_own_weights(o) || is(o, "denominator.stat", "l2"));
}

weight_fn formula_denominator_to(const al_opts *o, int order) {
  const weight_fn f = formula_weight_to(o, true, order);
  if (!is(o, "denominator.stat", "l2")) return f;
  weight_fn square = {.f = f.f, .order = 2 * f.order, .learned = f.learned};
  for (int i = 0; i <= f.order; i++)
    for (int j = 0; j <= f.order; j++)
      if (i + j <= FORMULA_MAX_ORDER) square.c[i + j] += f.c[i] * f.c[j];
  for (int n = 0; f.learned && n <= FORMULA_MAX_ORDER; n++)
    square.c[n] = square.c[n] != 0; /* the products are in what is learned: squared_coefficients */
  return square;
}

const char *formula_not_finite(const al_opts *o) {
  if (al_opt_num(o, "state_limit") == 0) return "state_limit=0 asks for keys and values";
  if (!polynomial(o, false))
    return "weights other than linear, square, power and taylor need every key";
  if (number(o, "logit_clamp") || number(o, "logit_softcap") || is(o, "logit_round", "bf16"))
    return "limits on the logits need every logit";
  const weight_fn f = formula_weight(o, false);
  bool any = false;
  for (int n = 0; n <= f.order; n++) any |= f.c[n] != 0;
  if (!any) return "all coefficients are 0";
  if (!formula_reads_weights(o)) return NULL;
  if (!polynomial(o, true)) return "the denominator's own weights need every key";
  if (is(o, "denominator.stat", "abs") && !formula_nonnegative(o, formula_own_weights(o)))
    return "denominator=abs needs every weight, as these may be negative";
  if (is(o, "denominator.stat", "l2") && 2 * formula_weight(o, true).order > FORMULA_MAX_ORDER)
    return "the square of these weights has too high an order";
  return NULL;
}

const char *formula_not_chunked(const al_opts *o) {
  const char *why = formula_not_finite(o);
  if (why) return why;
  if (al_opt_num(o, "dropout") > 0) return "dropout needs every weight";
  if (is(o, "impl", "composed")) return "impl=composed makes every weight";
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

/* Numbers of a finite state of one sequence, with another `order`. */
static double numbers(const al_opts *o, const attn_sizes *s, int order) {
  const weight_fn f = formula_weight_to(o, false, order), own = formula_denominator_to(o, order);
  double n = features(&f, s->head_dim) * (double)s->value_dim;
  if (formula_reads_weights(o)) n += features(formula_own_rows(o) ? &own : &f, s->head_dim);
  n *= (double)s->kv_heads;
  return is(o, "denominator.stat", "cumulative_gate") ? n + (double)s->heads : n;
}

al_status formula_state_fits(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t size) {
  const double limit = al_opt_num(o, "state_limit") * MIB, each = (double)size;
  const int order = (int)al_opt_int(o, "order");
  const double need = numbers(o, s, order) * each;
  if (need <= limit) return AL_OK;
  int fits = order - 1;
  while (fits >= 0 && !(numbers(o, s, fits) * each <= limit)) fits--;
  char hint[64] = "no order fits";
  if (fits >= 0 && numbers(o, s, fits) > 0) snprintf(hint, sizeof hint, "order %d would fit", fits);
  return al_fail(
      c, AL_EVALUE,
      "kernel_attention: state: %.1f MiB a sequence needed for %s of order %d, %lld "
      "heads of size %lld, but state_limit is %g MiB: %s; state_limit=0 carries keys and "
      "values instead",
      need / MIB, al_opt_word(o, "similarity"), formula_weight(o, false).order,
      (long long)s->kv_heads, (long long)s->head_dim, al_opt_num(o, "state_limit"), hint);
}

static int not_held(const weight_fn *f, const al_opts *o, const attn_sizes *s, al_dtype dtype) {
  const double scale = number(o, "logit_scale")          ? al_opt_num(o, "logit_scale")
                       : is(o, "logit_scale", "learned") ? 1 /* with q, by then */
                                                         : 1 / sqrt((double)s->head_dim);
  return alk_not_held(s->head_dim, f->order + 1, f->c, scale, al_dtype_size(dtype));
}

/* The first order, of the numerator's weights or the denominator's own, that a state cannot hold,
 * or -1. */
static int first_not_held(const al_opts *o, const attn_sizes *s, al_dtype dtype) {
  const weight_fn f = formula_weight(o, false),
                  own = formula_denominator_to(o, (int)al_opt_int(o, "order"));
  const int n = not_held(&f, o, s, dtype);
  return n < 0 && formula_own_rows(o) ? not_held(&own, o, s, dtype) : n;
}

al_status formula_state_held(al_ctx *c, const al_opts *o, const attn_sizes *s, al_dtype dtype) {
  const int n = first_not_held(o, s, dtype);
  if (n < 0) return AL_OK;
  return al_fail(
      c, AL_EVALUE,
      "kernel_attention: option 'order': a state in %s cannot hold order %d of these weights%s "
      "(head_dim %lld): a factor or a product of so many channels leaves the type: use %sa lower "
      "order, or form=parallel and, to decode, state_limit=0, which carries keys and values",
      al_dtype_name(dtype), n,
      is(o, "denominator.stat", "l2") ? ", which denominator=l2 squares" : "",
      (long long)s->head_dim, dtype == AL_F32 ? "f64, " : "");
}

/* As attn_state_size measures it: with the host's count. */
int64_t formula_state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype) {
  double n;
  if (formula_not_finite(o)) {
    const int64_t key = s->head_dim + s->value_dim + (on(o, "decay") ? 1 : 0);
    n = (double)t * (double)s->kv_heads * (double)key;
    if (is(o, "denominator.stat", "cumulative_gate")) n += (double)s->heads;
  } else {
    n = numbers(o, s, (int)al_opt_int(o, "order"));
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
  const int64_t H = s->kv_heads, E = s->value_dim;
  if (formula_not_finite(o)) {
    AL_TRY(put_zeros(c, st, "k", dtype, 4, (int64_t[]){batch, 0, H, s->head_dim}, "keys so far"));
    AL_TRY(put_zeros(c, st, "v", dtype, 4, (int64_t[]){batch, 0, H, E},
                     "values so far, after their gate"));
    if (on(o, "decay"))
      AL_TRY(put_zeros(c, st, "log_decay", dtype, 3, (int64_t[]){batch, 0, H}, "of each step"));
  } else {
    AL_TRY(formula_state_fits(c, o, s, al_dtype_size(dtype)));
    AL_TRY(formula_state_held(c, o, s, dtype));
    const int order = (int)al_opt_int(o, "order");
    const weight_fn f = formula_weight(o, false), own = formula_denominator_to(o, order);
    const int64_t R = (int64_t)features(&f, s->head_dim);
    AL_TRY(put_zeros(c, st, "numerator", dtype, 4, (int64_t[]){batch, H, R, E},
                     "sums of A m(phi(k)) v, m: monomials of the kept orders, ascending"));
    const int64_t rows = formula_own_rows(o) ? (int64_t)features(&own, s->head_dim) : R;
    if (formula_reads_weights(o))
      AL_TRY(put_zeros(c, st, "denominator", dtype, 3, (int64_t[]){batch, H, rows},
                       "sums of A m(phi(k)), m: monomials of its kept orders, ascending"));
  }
  if (is(o, "denominator.stat", "cumulative_gate"))
    AL_TRY(put_zeros(c, st, "gate_sum", dtype, 2, (int64_t[]){batch, s->heads}, "sum of exp(p)"));
  return AL_OK;
}

/* ---- which form ------------------------------------------------------------------------------ */

/* auto: fused, but composed in f64, where it is the reference. */
bool formula_fused(const al_opts *o, al_dtype dtype) {
  return is(o, "impl", "fused") || is(o, "form", "chunked") ||
         (is(o, "impl", "auto") && dtype != AL_F64);
}

/* Chunked from this many keys on: measured, forward and backward, for heads of 16 to 128 channels
 * of order 1, 8 to 64 of orders 2 and 3. Rows of a denominator of their own take as long as 16
 * channels.
 */
static double least_chunked(const al_opts *o, const attn_sizes *s) {
  const weight_fn f = formula_weight(o, false),
                  own = formula_denominator_to(o, (int)al_opt_int(o, "order"));
  double work = features(&f, s->head_dim) * (double)s->value_dim;
  if (formula_own_rows(o)) work += 16 * features(&own, s->head_dim);
  return 4 * work / (double)(s->head_dim + s->value_dim);
}

static bool within_limit(const al_opts *o, const attn_sizes *s, al_dtype dtype) {
  return numbers(o, s, (int)al_opt_int(o, "order")) * (double)al_dtype_size(dtype) <=
         al_opt_num(o, "state_limit") * MIB;
}

bool formula_chunks(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t S) {
  return formula_fused(o, dtype) && !formula_not_chunked(o) && within_limit(o, s, dtype) &&
         (double)S >= least_chunked(o, s) && first_not_held(o, s, dtype) < 0;
}

void formula_plan(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
                  size_t n) {
  const char *why_not = formula_not_chunked(o), *finite = formula_not_finite(o);
  const char *impl = formula_fused(o, dtype) ? "fused" : "composed";
  const int high = finite ? -1 : first_not_held(o, s, dtype);
  if (is(o, "form", "recurrent")) snprintf(buf, n, "recurrent: form=recurrent");
  else if (!formula_fused(o, dtype))
    snprintf(buf, n, "parallel, composed: %s",
             is(o, "impl", "composed") ? "impl=composed" : "in f64 it is the reference");
  else if (!is(o, "form", "auto"))
    snprintf(buf, n, "%s, %s: form=%s", al_opt_word(o, "form"), impl, al_opt_word(o, "form"));
  else if (why_not) snprintf(buf, n, "parallel, fused (no chunked form: %s)", why_not);
  else if (!within_limit(o, s, dtype))
    snprintf(buf, n, "parallel, fused: a state would be above state_limit");
  else if (high >= 0)
    snprintf(buf, n, "parallel, fused: a state in %s cannot hold order %d", al_dtype_name(dtype),
             high);
  else
    snprintf(buf, n, "%s, fused: %lld tokens, chunked pays from %.0f on",
             formula_chunks(o, s, dtype, T) ? "chunked" : "parallel", (long long)T,
             ceil(least_chunked(o, s)));
  const size_t at = strlen(buf);
  if (at >= n) return;
  if (finite) {
    snprintf(buf + at, n - at, "; decoding carries the key/value cache (%s)", finite);
  } else if (!within_limit(o, s, dtype)) {
    snprintf(buf + at, n - at, "; no decoding by state, it would be above state_limit");
  } else if (high >= 0) {
    snprintf(buf + at, n - at, "; no decoding by state: %s cannot hold order %d",
             al_dtype_name(dtype), high);
  } else {
    const weight_fn f = formula_weight(o, false);
    snprintf(buf + at, n - at, "; decoding carries %.0f features a head",
             features(&f, s->head_dim));
  }
}
