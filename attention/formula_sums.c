/* formula_sums.c: y and W of the formula's weights, two ways: fused (attend, or attend_chunked: the
 * (T,S) matrix is never there) and composed (scores, weights, mix). */
#include "formula_run.h"
#include <math.h>
#include <stdlib.h>

static al_tensor *features(const run *r, al_tensor *t) {
  const char *map = al_opt_word(r->o, "feature_map");
  if (strcmp(map, "identity") == 0) return t;
  return strcmp(map, "l2") == 0 ? OP("l2norm", AL_IN(t), "eps=1e-12") : OP(map, AL_IN(t), "");
}

/* Log decay a step (B,S,Hkv), or NULL. */
al_tensor *formula_log_decay(const run *r) {
  if (!on(r->o, "decay")) return NULL;
  if (!r->in->causal) {
    al_fail(r->c, AL_EVALUE,
            "kernel_attention: decay: causal=true needed, because decay follows the order of the "
            "tokens");
    return NULL;
  }
  al_tensor *a;
  if (is(r->o, "decay", "gated")) {
    a = OP("matmul", AL_IN(r->in->x, param(r, "decay.weight")), "transpose_b=true");
    return OP("neg", AL_IN(OP("softplus", AL_IN(a), "")), "");
  }
  const int64_t Hkv = r->s->kv_heads;
  if (is(r->o, "decay", "learned")) {
    a = OP("neg", AL_IN(OP("softplus", AL_IN(param(r, "decay")), "")), "");
  } else {
    double *v = malloc((size_t)Hkv * sizeof *v);
    if (!v) {
      al_fail(r->c, AL_ENOMEM, "out of memory (decay of %lld heads)", (long long)Hkv);
      return NULL;
    }
    for (int64_t h = 0; h < Hkv; h++)
      v[h] = log1p(-exp2(-5.0 - (double)h)); /* as RetNet spaces its heads */
    a = al_tensor_from(r->c, al_type(r->in->q), 1, &Hkv, v, Hkv);
    free(v);
  }
  return OP("expand", AL_IN(a), "shape={%lld,%lld,%lld}", (long long)r->B, (long long)r->S,
            (long long)Hkv);
}

static void append(char *text, size_t n, const char *key, double v) {
  const size_t at = strlen(text);
  snprintf(text + at, n - at, " %s=%.17g", key, v);
}

/* f as options of weights and attend, the limits on its argument, the learned coefficients, and the
 * expression that runs before f with its scalars (n,H). */
typedef struct f_text {
  char limits[160], f[FORMULA_MAX_ORDER * 25 + 64], expr[900];
  bool has_reference, absolute; /* exp and cosh; cosh */
  al_tensor *coefficients, *scalars;
} f_text;

/* The scalars of the expression as the ops take them, or NULL. */
static al_tensor *scalars(const run *r) {
  al_tensor *list[8];
  char word[40], name[48];
  int n = 0;
  for (; n < 8 && formula_word(al_opt_word(r->o, "expr_params"), n, word, sizeof word); n++) {
    snprintf(name, sizeof name, "expr.%s", word);
    list[n] = OP("unsqueeze", AL_IN(param(r, name)), "axis=0");
  }
  return n ? al_run(r->c, "concat", list, n, "axis=0") : NULL;
}

static void f_expression(const run *r, f_text *t) {
  char g[512];
  t->has_reference = formula_exponent(r->o, g, sizeof g);
  strcpy(t->f, t->has_reference ? "f=exp" : "f=polynomial coefficients={0,1}");
  snprintf(t->expr, sizeof t->expr, " expr='%s' expr_names='%s'",
           t->has_reference ? g : al_opt_word(r->o, "expr"), al_opt_word(r->o, "expr_params"));
  t->scalars = scalars(r);
}

static f_text f_options(const run *r, bool denominator) {
  const weight_fn f = formula_weight(r->o, denominator);
  f_text t = {.has_reference = strcmp(f.f, "polynomial") != 0,
              .absolute = strcmp(f.f, "cosh") == 0};
  if (is(r->o, "logit_round", "bf16")) strcat(t.limits, " round_bf16=true");
  if (number(r->o, "logit_softcap"))
    append(t.limits, sizeof t.limits, "softcap", al_opt_num(r->o, "logit_softcap"));
  if (number(r->o, "logit_clamp"))
    append(t.limits, sizeof t.limits, "clamp", al_opt_num(r->o, "logit_clamp"));
  if (formula_by_expr(r->o, denominator)) {
    f_expression(r, &t);
    return t;
  }
  size_t at = (size_t)snprintf(t.f, sizeof t.f, "f=%s", f.f);
  if (t.has_reference) return t;
  if (is(r->o, "coefficients", "learned")) t.coefficients = param(r, "coefficients");
  for (int n = 0; n <= f.order; n++)
    at +=
        (size_t)snprintf(t.f + at, sizeof t.f - at, "%s%.17g", n ? "," : " coefficients={", f.c[n]);
  snprintf(t.f + at, sizeof t.f - at, "}");
  return t;
}

/* Number of visible keys, at least 1: (B,T,1), for rows of `of` (q or v). */
al_tensor *formula_counts(const run *r, al_tensor *of, int64_t offset) {
  al_tensor *n = OP("visible_count", AL_IN(of, r->in->lengths), "causal=%s offset=%lld keys=%lld",
                    r->in->causal ? "true" : "false", (long long)offset, (long long)r->S);
  n = OP("clamp", AL_IN(n), "min=1");
  return OP("unsqueeze", AL_IN(n), "axis=-1");
}

/* t^power for a positive t (B,T,H or 1); `sign` -1 gives the reciprocal. */
al_tensor *formula_power(const run *r, al_tensor *t, double sign) {
  al_tensor *m = param(r, "denominator.power");
  if (m) {
    al_tensor *e = OP("mul", AL_IN(OP("log", AL_IN(t), ""), OP("sigmoid", AL_IN(m), "")), "");
    return OP("exp", AL_IN(OP("scale", AL_IN(e), "by=%.17g", sign)), "");
  }
  const double p = sign * al_opt_num(r->o, "denominator.power");
  return p == 1 ? t : OP("pow", AL_IN(t), "exponent=%.17g", p);
}

/* What multiplies v on its own side: gate and length as *scale (B,S,Hkv) or NULL; returns v,
 * already multiplied by a gate that has channels. */
static al_tensor *values(const run *r, al_tensor **scale) {
  al_tensor *v = r->in->v;
  *scale = NULL;
  if (on(r->o, "input_gate")) {
    al_tensor *g =
        activate(r, al_opt_word(r->o, "input_gate.activation"), project(r, r->in->x, "input_gate"));
    if (is(r->o, "input_gate.per", "head")) *scale = g;
    else v = scaled(r, v, as_factor(r, g, r->s->kv_heads));
  }
  if (is(r->o, "denominator.side", "value")) {
    al_tensor *by = formula_power(r, formula_counts(r, r->in->v, 0), -1);
    by = OP("expand", AL_IN(by), "shape={%lld,%lld,%lld}", (long long)r->B, (long long)r->S,
            (long long)r->s->kv_heads);
    *scale = times(r, *scale, by);
  }
  return v;
}

/* One run of attend_chunked, as attend below. */
static al_tensor *attend_chunked(const run *r, const sums *n, al_tensor *v, al_tensor *v_scale,
                                 al_tensor *decay, const char *stat, bool divide, al_tensor **W) {
  al_tensor *out[2];
  al_run_into(r->c, "attend_chunked", AL_IN(n->q, n->k, v, decay, NULL, r->in->lengths, v_scale),
              out, 2, "feature_map=%s stat=%s normalise=%s scale=%.17g %s",
              n->mapped ? "identity" : al_opt_word(r->o, "feature_map"), stat,
              divide ? "true" : "false", n->scale, r->vis);
  *W = row_first(r, out[1]);
  return out[0];
}

/* One run of attend; W and m come as (B,T,H), m NULL for polynomials. Returns y. */
static al_tensor *attend(const run *r, const sums *n, bool denominator, al_tensor *v,
                         al_tensor *v_scale, const char *stat, bool divide, double dropout,
                         al_tensor **W, al_tensor **m) {
  const f_text f = f_options(r, denominator);
  al_tensor *decay = denominator && is(r->o, "denominator.decay", "none") ? NULL : n->decay;
  al_tensor *out[3];
  *m = NULL;
  if (r->chunked) return attend_chunked(r, n, v, v_scale, decay, stat, divide, W);
  al_run_into(r->c, "attend",
              AL_IN(n->q, n->k, v, decay, f.coefficients, r->in->lengths, v_scale, f.scalars), out,
              3, "%s%s%s feature_map=%s stat=%s normalise=%s scale=%.17g dropout=%.17g %s", f.f,
              f.limits, f.expr, n->mapped ? "identity" : al_opt_word(r->o, "feature_map"), stat,
              divide ? "true" : "false", n->scale, dropout, r->vis);
  *W = row_first(r, out[1]);
  if (f.has_reference) *m = row_first(r, out[2]);
  return out[0];
}

/* The weights (B,H,T,S) and their reference (B,H,T) or NULL. */
static al_tensor *weigh(const run *r, const sums *n, bool denominator, al_tensor **reference) {
  f_text f = f_options(r, denominator);
  al_tensor *decay = denominator && is(r->o, "denominator.decay", "none") ? NULL : n->decay;
  al_tensor *s = n->logits;
  *reference = NULL;
  if (*f.expr) { /* it does what comes before f, the limits too */
    s = OP("expression", AL_IN(s, r->in->lengths, f.scalars), "%s%s%s", r->vis, f.limits, f.expr);
    f.limits[0] = 0;
  }
  if (f.has_reference)
    *reference = OP("visible_max", AL_IN(s, decay, r->in->lengths), "%s%s abs=%s", r->vis, f.limits,
                    f.absolute ? "true" : "false");
  return OP("weights", AL_IN(s, *reference, decay, f.coefficients, r->in->lengths), "%s %s%s", f.f,
            r->vis, f.limits);
}

/* The denominator's statistic of weights w (B,H,T,S) as (B,T,H). */
static al_tensor *statistic(const run *r, al_tensor *w) {
  const char *stat = al_opt_word(r->o, "denominator.stat");
  if (strcmp(stat, "abs") == 0) w = OP("abs", AL_IN(w), "");
  return row_first(r, OP(strcmp(stat, "l2") == 0 ? "l2" : "sum", AL_IN(w), "axes={-1}"));
}

/* W of the denominator's own weights; *m its reference. */
al_tensor *formula_own_statistic(const run *r, const sums *n, al_tensor **m) {
  al_tensor *W;
  if (!n->logits) {
    attend(r, n, true, like(r, 4, (int64_t[]){r->B, r->S, r->s->kv_heads, 1}, 0), NULL,
           al_opt_word(r->o, "denominator.stat"), false, 0, &W, m);
    return W;
  }
  W = statistic(r, weigh(r, n, true, m));
  *m = row_first(r, *m);
  return W;
}

static void map_inputs(const run *r, sums *n) {
  n->q = features(r, n->q);
  n->k = features(r, n->k);
  n->mapped = true;
}

static void scale_inputs(const run *r,
                         sums *n) { /* learned: q's features are multiplied, one factor a head */
  if (!is(r->o, "logit_scale", "learned")) return;
  if (!n->mapped) map_inputs(r, n);
  n->scale = 1;
  n->q = OP("mul", AL_IN(n->q, OP("unsqueeze", AL_IN(param(r, "logit_scale")), "axis=-1")), "");
}

void formula_add_up_fused(const run *r, sums *n) {
  const al_opts *o = r->o;
  scale_inputs(r, n);
  const bool reads =
      formula_reads_weights(o) && !formula_own_weights(o) && is(o, "denominator.side", "row");
  n->divided = reads && is(o, "denominator.stat", "sum") && is(o, "denominator.gradient", "both");
  al_tensor *W, *scale, *v = values(r, &scale);
  n->y = attend(r, n, false, v, scale, reads ? al_opt_word(o, "denominator.stat") : "none",
                n->divided, r->in->training ? al_opt_num(o, "dropout") : 0, &W, &n->reference);
  n->W = reads ? W : NULL;
}

void formula_add_up_composed(const run *r, sums *n) {
  const al_opts *o = r->o;
  map_inputs(r, n);
  scale_inputs(r, n);
  n->logits = OP("scores", AL_IN(n->q, n->k, r->in->lengths), "scale=%.17g %s", n->scale, r->vis);
  al_tensor *reference, *w = weigh(r, n, false, &reference);
  n->reference = row_first(r, reference);
  if (formula_reads_weights(o) && !formula_own_weights(o)) n->W = statistic(r, w);
  if (r->in->training && al_opt_num(o, "dropout") > 0)
    w = OP("dropout", AL_IN(w), "p=%.17g", al_opt_num(o, "dropout"));
  al_tensor *scale, *v = values(r, &scale);
  n->y = OP("mix", AL_IN(w, scaled(r, v, scale), r->in->lengths), "%s", r->vis);
}
