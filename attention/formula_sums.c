/* formula_sums.c: y and W of the formula's weights, three ways: fused (attend: the (T,S) matrix is
 * never there), by a state (attend_chunked, attend_step) and composed (scores, weights, mix). */
#include "formula_run.h"
#include <math.h>
#include <stdlib.h>

static al_tensor *features(const run *r, al_tensor *t) {
  const alk_map map = r->f->map;
  if (map == ALK_MAP_identity) return t;
  if (map == ALK_MAP_expr) return function_of(r, r->f->map_expr, t);
  if (map == ALK_MAP_l2) return OP("l2norm", AL_IN(t), "eps=1e-12");
  return OP(alk_map_text(map).word, AL_IN(t), "");
}

/* ln(1 - 2^(-5-h)) of head h: as RetNet spaces its heads. */
static al_tensor *constant_decay(const run *r) {
  const int64_t Hkv = r->s->kv_heads;
  double *v = malloc((size_t)Hkv * sizeof *v);
  if (!v) {
    al_fail(r->c, AL_ENOMEM, "out of memory (decay of %lld heads)", (long long)Hkv);
    return NULL;
  }
  for (int64_t h = 0; h < Hkv; h++) v[h] = log1p(-exp2(-5.0 - (double)h));
  al_tensor *a = al_tensor_from(r->c, al_type(r->in->q), 1, &Hkv, v, Hkv);
  free(v);
  return a;
}

/* Log decay a step (B,S,Hkv), or NULL. */
al_tensor *formula_log_decay(const run *r) {
  const int64_t Hkv = r->s->kv_heads;
  al_tensor *a = NULL;
  if (r->f->decay != DECAY_none && !r->in->causal) {
    al_fail(r->c, AL_EVALUE,
            "kernel_attention: decay: causal=true needed, because decay follows the order of the "
            "tokens");
    return NULL;
  }
  switch (r->f->decay) {
  case DECAY_none:
    return NULL;
  case DECAY_gated:
    a = OP("matmul", AL_IN(r->in->x, param(r, "decay.weight")), "transpose_b=true");
    return attn_tap(r->c, r->in, "log_decay", OP("neg", AL_IN(OP("softplus", AL_IN(a), "")), ""));
  case DECAY_learned:
    a = OP("neg", AL_IN(OP("softplus", AL_IN(param(r, "decay")), "")), "");
    break;
  case DECAY_constant:
    a = constant_decay(r);
  }
  a = OP("expand", AL_IN(a), "shape={%lld,%lld,%lld}", (long long)r->B, (long long)r->S,
         (long long)Hkv);
  return attn_tap(r->c, r->in, "log_decay", a);
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
static al_tensor *scalars(const run *r, const char *names) {
  al_tensor *list[8];
  char word[40], name[48];
  int n = 0;
  for (; n < 8 && formula_word(names, n, word, sizeof word); n++) {
    snprintf(name, sizeof name, "expr.%s", word);
    list[n] = OP("unsqueeze", AL_IN(param(r, name)), "axis=0");
  }
  return n ? al_run(r->c, "concat", list, n, "axis=0") : NULL;
}

static void f_expression(const run *r, const weight_fn *w, f_text *t) {
  char g[512];
  t->has_reference = formula_exponent(w, g, sizeof g);
  strcpy(t->f, t->has_reference ? "f=exp" : "f=polynomial coefficients={0,1}");
  snprintf(t->expr, sizeof t->expr, " expr='%s' expr_names='%s'", t->has_reference ? g : w->expr,
           w->names);
  t->scalars = scalars(r, w->names);
}

/* " coefficients={..}" */
static void list_text(const weight_fn *f, char *buf, size_t size) {
  size_t at = 0;
  for (int n = 0; n <= f->order; n++)
    at += (size_t)snprintf(buf + at, size - at, "%s%.17g", n ? "," : " coefficients={", f->c[n]);
  snprintf(buf + at, size - at, "}");
}

static f_text f_options(const run *r, bool denominator) {
  const formula *f = r->f;
  const weight_fn *w = denominator ? &f->own : &f->w;
  f_text t = {0};
  if (f->rounds) strcat(t.limits, " round_bf16=true");
  if (f->caps) append(t.limits, sizeof t.limits, "softcap", f->cap);
  if (f->clamps) append(t.limits, sizeof t.limits, "clamp", f->clamp);
  switch (w->by) {
  case BY_exp:
    t.has_reference = true;
    strcpy(t.f, "f=exp");
    break;
  case BY_cosh:
    t.has_reference = t.absolute = true;
    strcpy(t.f, "f=cosh");
    break;
  case BY_expression:
    f_expression(r, w, &t);
    break;
  case BY_polynomial:
    strcpy(t.f, "f=polynomial");
    if (w->learned) t.coefficients = param(r, "coefficients");
    list_text(w, t.f + strlen(t.f), sizeof t.f - strlen(t.f));
  }
  return t;
}

/* Number of visible keys, at least 1: (B,T,1), for rows of `of` (q or v). */
al_tensor *formula_counts(const run *r, al_tensor *of, int64_t offset) {
  al_tensor *n =
      OP("visible_count", AL_IN(of, r->in->lengths, r->before), "causal=%s offset=%lld keys=%lld",
         r->in->causal ? "true" : "false", (long long)offset, (long long)al_size(r->in->k, 1));
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
  const double p = sign * r->f->power;
  return p == 1 ? t : OP("pow", AL_IN(t), "exponent=%.17g", p);
}

void formula_values(const run *r, sums *n) {
  n->v = r->in->v;
  n->v_scale = NULL;
  const formula_gate *gate = &r->f->input_gate;
  if (gate->activation != ALK_GATE_none) {
    al_tensor *g = activate(r, gate, project(r, r->in->x, "input_gate"));
    if (gate->per == PER_channel) g = as_factor(r, g, r->s->kv_heads);
    g = attn_tap(r->c, r->in, "input_gate", g);
    if (gate->per == PER_head) n->v_scale = g;
    else n->v = scaled(r, n->v, g);
  }
  if (r->f->side != SIDE_value) return;
  const bool shows = attn_asked(r->in, "D");
  al_tensor *by = formula_power(r, formula_counts(r, r->in->v, 0), shows ? 1 : -1);
  by = OP("expand", AL_IN(by), "shape={%lld,%lld,%lld}", (long long)r->B, (long long)r->S,
          (long long)r->s->kv_heads);
  if (shows) by = OP("inverse", AL_IN(attn_tap(r->c, r->in, "D", by)), "");
  if (r->in->sink) n->by_key = by;
  else n->v_scale = times(r, n->v_scale, by);
}

/* The map that is left to the kernel. */
static const char *kernel_map(const run *r, const sums *n) {
  return alk_map_text(n->mapped ? ALK_MAP_identity : r->f->map).word;
}

/* Whose kernel: with a state, decoding, whichever there is. */
static const char *library_of(const run *r) {
  if (r->f->impl == IMPL_fused) return "none";
  return r->f->impl == IMPL_cudnn && !r->in->state ? "cudnn" : "auto";
}

/* One run of attend; W and m come as (B,T,H), m NULL for polynomials. Returns y. */
static al_tensor *attend(const run *r, const sums *n, bool denominator, al_tensor *v,
                         al_tensor *v_scale, alk_stat stat, bool divide, double dropout,
                         al_tensor **W, al_tensor **m) {
  const f_text f = f_options(r, denominator);
  al_tensor *decay = denominator && r->f->own_decay ? NULL : n->decay;
  const bool norms = n->normed && !denominator;
  char end[80] = "";
  if (norms)
    snprintf(end, sizeof end, " norm=%s norm_eps=%.17g", alk_norms[r->f->norm].word,
             r->f->norm_eps);
  al_tensor *out[3];
  *m = NULL;
  al_run_into(r->c, "attend",
              AL_IN(n->q, n->k, v, decay, f.coefficients, r->lengths, v_scale, f.scalars), out, 3,
              "%s%s%s feature_map=%s stat=%s normalise=%s scale=%.17g dropout=%.17g library=%s "
              "%s%s",
              f.f, f.limits, f.expr, kernel_map(r, n), alk_statistics[stat].word,
              divide ? "true" : "false", n->scale, dropout, library_of(r), r->vis, end);
  *W = row_first(r, out[1]);
  if (f.has_reference && !norms) *m = row_first(r, out[2]);
  return out[0];
}

/* The weights (B,H,T,S) and their reference (B,H,T) or NULL. */
static al_tensor *weigh(const run *r, const sums *n, bool denominator, al_tensor **reference) {
  f_text f = f_options(r, denominator);
  al_tensor *decay = denominator && r->f->own_decay ? NULL : n->decay;
  al_tensor *s = n->logits;
  *reference = NULL;
  if (*f.expr) { /* it does what comes before f, the limits too */
    s = OP("expression", AL_IN(s, r->lengths, f.scalars), "%s%s%s", r->vis, f.limits, f.expr);
    f.limits[0] = 0;
  }
  if (f.has_reference)
    /* detached, so that a difference which holds a stopped W still also holds its reference */
    *reference = al_detach(r->c, OP("visible_max", AL_IN(s, decay, r->lengths), "%s%s abs=%s",
                                    r->vis, f.limits, f.absolute ? "true" : "false"));
  return OP("weights", AL_IN(s, *reference, decay, f.coefficients, r->lengths), "%s %s%s", f.f,
            r->vis, f.limits);
}

static al_tensor *entry(const run *r, alk_pointwise function, double parameter, al_tensor *t) {
  const alk_function *f = &alk_functions[function];
  if (function == ALK_PW_identity) return t;
  if (!*f->parameter) return OP(f->word, AL_IN(t), "");
  return OP(f->word, AL_IN(t), "%s=%.17g", f->parameter, parameter);
}

/* The denominator's statistic of weights w (B,H,T,S) as (B,T,H); an outer function has neither value
 * nor gradient where the sum is not above 0. */
static al_tensor *outer(const run *r, al_tensor *sum) {
  const alk_statistic *stat = &alk_statistics[r->f->weights];
  if (stat->outer == ALK_PW_identity) return sum;
  const int64_t one = 1;
  al_tensor *live = OP("sign", AL_IN(OP("relu", AL_IN(sum), "")), "");
  al_tensor *base = OP("select", AL_IN(live, sum, like(r, 1, &one, 1)), "");
  return OP("mul", AL_IN(entry(r, stat->outer, stat->q, base), live), "");
}
static al_tensor *statistic(const run *r, al_tensor *w) {
  const alk_statistic *stat = &alk_statistics[r->f->weights];
  w = entry(r, stat->inner, stat->p, w);
  return row_first(r, outer(r, OP("sum", AL_IN(w), "axes={-1}")));
}

static void map_inputs(const run *r, sums *n) {
  n->q = features(r, n->q);
  n->k = features(r, n->k);
  n->mapped = true;
}

static void scale_inputs(const run *r,
                         sums *n) { /* learned: q's features are multiplied, one factor a head */
  if (r->f->map == ALK_MAP_expr && !n->mapped) map_inputs(r, n);
  if (r->f->scale != SCALE_learned) return;
  if (!n->mapped) map_inputs(r, n);
  n->q = OP("mul", AL_IN(n->q, OP("unsqueeze", AL_IN(param(r, "logit_scale")), "axis=-1")), "");
}

/* ---- by a state ------------------------------------------------------------------------------ */

/* Sums of polynomial weights by the features of their monomials. */
typedef struct pass {
  weight_fn f;
  al_tensor *coefficients, *decay, *v, *v_scale;
  alk_stat stat; /* none or sum */
  bool divide;
  al_tensor *state, *norm; /* before, and then after; NULL without a state */
} pass;

/* Returns y; W as (B,H,T). */
static al_tensor *run_pass(const run *r, const sums *n, pass *p, al_tensor **W) {
  const bool step = p->state && r->T == 1;
  char list[sizeof(f_text)], more[96] = "";
  list_text(&p->f, list, sizeof list);
  if (!step) snprintf(more, sizeof more, " carry=%s %s", p->state ? "true" : "false", r->vis);
  al_tensor *out[4];
  al_run_into(
      r->c, step ? "attend_step" : "attend_chunked",
      AL_IN(n->q, n->k, p->v, p->decay, p->coefficients, r->lengths, p->v_scale, p->state, p->norm),
      out, 4, "feature_map=%s stat=%s normalise=%s scale=%.17g%s%s", kernel_map(r, n),
      alk_statistics[p->stat].word, p->divide ? "true" : "false", n->scale, list, more);
  if (p->state) p->state = out[2];
  if (p->norm) p->norm = out[3];
  *W = out[1];
  return out[0];
}

static al_tensor *component(const run *r, const char *name) {
  return r->in->state ? attn_state_get(r->in->state, name) : NULL;
}
static void put(const run *r, const char *name, al_tensor *t) {
  if (r->in->state) attn_state_put(r->c, r->in->next, name, t, "");
}

void formula_add_up_by_state(const run *r, sums *n) {
  const formula *f = r->f;
  scale_inputs(r, n);
  const bool reads = f->stat == STAT_weights && !formula_own_rows(f);
  n->divided = reads && f->weights == ALK_STAT_sum && f->gradient == GRADIENT_both;
  pass p = {.f = f->w,
            .decay = n->decay,
            .v = n->v,
            .v_scale = n->v_scale,
            .stat = reads ? ALK_STAT_sum : ALK_STAT_none,
            .divide = n->divided,
            .state = component(r, "numerator"),
            .norm = reads ? component(r, "denominator") : NULL};
  if (p.f.learned) p.coefficients = param(r, "coefficients");
  al_tensor *W;
  n->y = run_pass(r, n, &p, &W);
  put(r, "numerator", p.state);
  if (reads) put(r, "denominator", p.norm);
  n->W = reads ? row_first(r, W) : NULL;
}

/* Coefficients d_n = sum over i + j = n of k_i c_i k_j c_j of the square of sum k_n c_n s^n. */
static al_tensor *squared_coefficients(const run *r, const weight_fn *f) {
  const int64_t n = f->order + 1, all = 2 * n - 1, count = n * n * all;
  double *sum = calloc((size_t)count, sizeof *sum); /* (n n, 2n-1): which products d_n has */
  if (!sum) {
    al_fail(r->c, AL_ENOMEM, "out of memory (squared coefficients)");
    return NULL;
  }
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) sum[(i * n + j) * all + i + j] = f->c[i] * f->c[j];
  al_tensor *k = param(r, "coefficients"),
            *which =
                al_tensor_from(r->c, al_type(r->in->q), 2, (int64_t[]){n * n, all}, sum, count);
  free(sum);
  k = OP("mul", AL_IN(OP("unsqueeze", AL_IN(k), "axis=1"), k), "");
  k = OP("reshape", AL_IN(k), "shape={1,%lld}", (long long)(n * n));
  return OP("squeeze", AL_IN(OP("matmul", AL_IN(k, which), "")), "axis=0");
}

/* W of rows of their own: the sums of weights are those of values that are 1. */
static al_tensor *own_by_state(const run *r, const sums *n) {
  const formula *f = r->f;
  const bool squares = alk_statistics[f->weights].inner == ALK_PW_square;
  pass p = {.f = formula_denominator_to(f, f->order),
            .decay = f->own_decay ? NULL : n->decay,
            .v = like(r, 4, (int64_t[]){r->B, r->S, r->s->kv_heads, 1}, 1),
            .stat = ALK_STAT_none};
  if (p.f.learned && squares) {
    p.coefficients = squared_coefficients(r, &f->own);
  } else if (p.f.learned) {
    p.coefficients = param(r, "coefficients");
  }
  if (squares && p.decay) p.decay = OP("scale", AL_IN(p.decay), "by=2");
  if (r->in->state) p.state = OP("unsqueeze", AL_IN(component(r, "denominator")), "axis=-1");
  al_tensor *W;
  al_tensor *y = run_pass(r, n, &p, &W); /* (B,T,H,1) */
  if (r->in->state) put(r, "denominator", OP("squeeze", AL_IN(p.state), "axis=-1"));
  return outer(r, OP("squeeze", AL_IN(y), "axis=-1"));
}

/* W of the denominator's own weights; *m its reference. */
al_tensor *formula_own_statistic(const run *r, const sums *n, al_tensor **m) {
  al_tensor *W;
  *m = NULL;
  if (r->by_state) return own_by_state(r, n);
  if (!n->logits) {
    attend(r, n, true, like(r, 4, (int64_t[]){r->B, r->S, r->s->kv_heads, 1}, 0), NULL,
           r->f->weights, false, 0, &W, m);
    return W;
  }
  W = statistic(r, weigh(r, n, true, m));
  *m = row_first(r, *m);
  return W;
}

/* In bf16, of which a step's memory is full: y goes through the norm where it lies, where that is
 * the function. On what comes in that type nothing else follows y (in_bf16 of kernel_attention.c). */
static bool norms_at_once(const run *r) {
  const formula *f = r->f;
  return al_type(r->in->q) == AL_BF16 && alk_norms[f->norm].homogeneous && f->gain != GAIN_on;
}

void formula_add_up_fused(const run *r, sums *n) {
  const formula *f = r->f;
  scale_inputs(r, n);
  const bool reads = f->stat == STAT_weights && !f->own_weights && f->side == SIDE_row;
  n->divided = reads && f->weights == ALK_STAT_sum && f->gradient == GRADIENT_both;
  n->normed = norms_at_once(r);
  al_tensor *W;
  n->y = attend(r, n, false, n->v, n->v_scale, reads ? f->weights : ALK_STAT_none, n->divided,
                r->in->training ? f->dropout : 0, &W, &n->reference);
  n->W = reads ? W : NULL;
}

void formula_add_up_composed(const run *r, sums *n) {
  const formula *f = r->f;
  map_inputs(r, n);
  scale_inputs(r, n);
  n->logits = OP("scores", AL_IN(n->q, n->k, r->lengths), "scale=%.17g %s", n->scale, r->vis);
  n->logits = attn_tap(r->c, r->in, "logits", n->logits);
  al_tensor *reference, *w = weigh(r, n, false, &reference);
  n->reference = row_first(r, reference);
  if (f->stat == STAT_weights && !f->own_weights) n->W = statistic(r, w);
  if (r->in->sink) {
    n->w = w;
    return;
  }
  if (r->in->training && f->dropout > 0) w = OP("dropout", AL_IN(w), "p=%.17g", f->dropout);
  n->y = OP("mix", AL_IN(w, scaled(r, n->v, n->v_scale), r->lengths), "%s", r->vis);
}

/* The weights of a row, divided: by its factor (B,T,H), and by what every key has (B,S,Hkv). */
static al_tensor *divided(const run *r, const sums *n, al_tensor *factor) {
  al_tensor *w = n->w, *by = n->by_key;
  if (factor)
    w = OP(
        "mul",
        AL_IN(w, OP("unsqueeze", AL_IN(OP("permute", AL_IN(factor), "axes={0,2,1}")), "axis=-1")),
        "");
  if (!by) return w;
  const int64_t Hkv = r->s->kv_heads, G = r->s->heads / Hkv;
  by = attn_reshape(r->c, OP("permute", AL_IN(by), "axes={0,2,1}"),
                    ATTN_SHAPE(r->B, Hkv, 1, 1, r->S));
  by = OP("expand", AL_IN(by), "shape={%lld,%lld,%lld,1,%lld}", (long long)r->B, (long long)Hkv,
          (long long)G, (long long)r->S);
  return OP("mul", AL_IN(w, attn_reshape(r->c, by, ATTN_SHAPE(r->B, r->s->heads, 1, r->S))), "");
}

/* w = w_rel e^m_N, and w / D = w_rel factor e^L: so D = e^(m_N - L) / factor. */
void formula_show(const run *r, sums *n, al_tensor *factor, al_tensor *L) {
  const formula *f = r->f;
  if (factor && attn_asked(r->in, "D")) {
    al_tensor *g = n->reference;
    if (g && L) g = OP("sub", AL_IN(g, L), "");
    if (g) g = OP("exp", AL_IN(g), "");
    al_tensor *D = times(r, OP("inverse", AL_IN(factor), ""), g);
    al_tensor *by = times(r, OP("inverse", AL_IN(attn_tap(r->c, r->in, "D", D)), ""), g);
    /* a D beyond the type, or of a row without weight, is shown and stays as it is */
    factor = OP("select", AL_IN(OP("inverse", AL_IN(D), ""), by, factor), "");
  }
  if (L) factor = times(r, factor, OP("exp", AL_IN(L), ""));
  al_tensor *a = attn_tap(r->c, r->in, "weights", divided(r, n, factor));
  if (r->in->training && f->dropout > 0) a = OP("dropout", AL_IN(a), "p=%.17g", f->dropout);
  n->y = OP("mix", AL_IN(a, scaled(r, n->v, n->v_scale), r->lengths), "%s", r->vis);
  n->y = attn_tap(r->c, r->in, "y", n->y);
}

/* ---- keys and values of a state -------------------------------------------------------------- */

/* The cache of `name` and the new entries. */
static al_tensor *grown(const run *r, const char *name, al_tensor *more) {
  al_tensor *t = OP("append", AL_IN(component(r, name), more, r->before, r->in->lengths), "");
  put(r, name, t);
  return t;
}

/* A cache as kernels take it, packed: with its room, whose entries no length reaches, where there
 * are rows with room between them. All have the same number of entries, or none of them its room
 * (some of them may be recorded). */
static void with_room(const run *r, al_tensor **t, int n) {
  al_tensor *whole[3];
  bool same = r->B > 1;
  for (int i = 0; i < n; i++) {
    whole[i] = t[i] ? al_growing_whole(r->c, t[i]) : NULL;
    same = same && whole[i] && al_size(whole[i], 1) == al_size(whole[0], 1);
  }
  for (int i = 0; i < n && same; i++) t[i] = whole[i];
}

al_status formula_join_cache(run *r, sums *n) {
  const attn_state *st = r->in->state;
  int64_t seen = attn_state_position(st);
  /* a single row sees all that its length leaves, wherever it stands */
  if ((r->T > 1 || formula_expr_reads_row(r->f)) && !attn_state_even(st, &seen))
    return r->T > 1
               ? al_fail(r->c, AL_ESTATE,
                         "kernel_attention: state: its rows have seen different numbers of tokens, "
                         "so further ones must come one at a time, got %lld",
                         (long long)r->T)
               : al_fail(r->c, AL_ESTATE,
                         "kernel_attention: state: its rows have seen different numbers of tokens, "
                         "but expr reads the row's position i");
  r->lengths = OP("add_i32", AL_IN(r->before, r->in->lengths), "by=%lld",
                  r->in->lengths ? 0LL : (long long)r->T);
  al_tensor *t[] = {grown(r, "k", n->k), grown(r, "v", scaled(r, n->v, n->v_scale)),
                    n->decay ? grown(r, "log_decay", n->decay) : NULL};
  with_room(r, t, n->decay ? 3 : 2);
  n->k = t[0], n->v = t[1], n->decay = t[2];
  n->v_scale = NULL;
  r->S = al_size(n->k, 1);
  snprintf(r->vis, sizeof r->vis, "causal=true offset=%lld", (long long)seen);
  return al_error(r->c);
}
