/* kernel_attention: the formula with its slots, in parallel, chunked and recurrent form. For one
 * head, row i, key j:
 *
 *   s_ij = logit_scale * phi(q_i).phi(k_j)          w_ij = A_ij f(s_ij) over visible j
 *   u_j  = b_j v_j                                  N_i  = sum_j w_ij u_j
 *   D_i  = max(W_i + exp(sink) + eps, floor)^power  y_i  = r_i N_i / D_i
 *   o_i  = h_i Norm(y_i)
 *
 * Source: the papers' forms in one (P1 2507.23632, P2 2409.18747, P3 2602.17363); every variant of
 * the papers but Mamba blocks and distance scores.
 *
 * Three ways to the sums (formula_sums.c): composed (scores, weights, mix: the (T,S) matrix is
 * there), fused (the op attend: it never is), and by a state (attend_chunked, attend_step). What
 * follows the sums is the same code.
 *
 * Numerics. exp and cosh carry a row reference m outside: weights are w e^-m, so N and W are
 * relative to e^m and what is added to W (sink, eps, floor) is multiplied by e^-m. What remains is
 * one log factor L = m_N - power m_D a row: nothing for the usual sum, else it multiplies y, or,
 * when a norm follows, goes into the norm's eps, so that exp without a denominator never overflows
 * before a norm. Rows whose |W| is below the smallest normal, or that see no key, give 0 with
 * gradient 0; with a power other than 1 so do rows whose W is negative.
 */
#include "../formula_run.h"
#include "../source.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 1 / D as a factor (B,T,H), and *log_scale (B,T,H): what y must still be multiplied by, as a log.
 * NULL factor = no division. */
static al_tensor *denominator(const run *r, const sums *n, al_tensor **log_scale) {
  const formula *f = r->f;
  const formula_count *count = formula_count_of(f);
  *log_scale = n->reference;
  if (!formula_divides_row(f)) return NULL;
  al_tensor *W = n->W, *m = n->W ? n->reference : NULL;
  if (!W) W = count ? count->value(r, n->logits != NULL) : formula_own_statistic(r, n, &m);
  if (f->gradient == GRADIENT_stopped) W = al_detach(r->c, W);
  al_tensor *shrink = m ? OP("exp", AL_IN(OP("neg", AL_IN(m), "")), "") : NULL; /* e^-m */
  al_tensor *D = W;
  al_tensor *sink = param(r, "denominator.sink");
  if (f->sink != SINK_none) {
    const int64_t H = r->s->heads;
    if (!sink) sink = like(r, 1, &H, f->sink_at);
    al_tensor *e =
        m ? OP("exp", AL_IN(OP("sub", AL_IN(sink, m), "")), "") : OP("exp", AL_IN(sink), "");
    D = OP("add", AL_IN(D, e), "");
  }
  const double eps = f->eps, floor = f->floor;
  if (eps > 0)
    D = m ? OP("add", AL_IN(D, OP("scale", AL_IN(shrink), "by=%.17g", eps)), "")
          : OP("scale", AL_IN(D), "add=%.17g", eps);
  if (floor > 0)
    D = m ? OP("maximum", AL_IN(D, OP("scale", AL_IN(shrink), "by=%.17g", floor)), "")
          : OP("clamp", AL_IN(D), "min=%.17g", floor);
  const bool whole = formula_whole_power(f);
  al_tensor *inverse;
  if (whole) {
    inverse = D == W && n->divided ? NULL : OP("inverse", AL_IN(D), "");
  } else { /* a power needs a positive base: other rows give 0 */
    const int64_t one = 1;
    al_tensor *live = OP("sign", AL_IN(OP("relu", AL_IN(OP("inverse", AL_IN(D), "")), "")), "");
    al_tensor *base = OP("select", AL_IN(live, D, like(r, 1, &one, 1)), "");
    inverse = OP("mul", AL_IN(formula_power(r, base, -1), live), "");
  }
  if (n->divided && inverse) inverse = OP("mul", AL_IN(inverse, W), "");
  if (f->times_length) {
    al_tensor *n_i = formula_counts(r, r->in->q, r->in->offset); /* (B,T,1) */
    al_tensor *by = OP("expand", AL_IN(n_i), "shape={%lld,%lld,%lld}", (long long)r->B,
                       (long long)r->T, (long long)r->s->heads);
    inverse = times(r, inverse, OP("inverse", AL_IN(by), ""));
  }
  if (m) { /* L = m_N - power m_D */
    if (whole && !f->own_weights) {
      *log_scale = NULL;
    } else {
      al_tensor *p = param(r, "denominator.power");
      al_tensor *md = p ? OP("mul", AL_IN(m, OP("sigmoid", AL_IN(p), "")), "")
                        : OP("scale", AL_IN(m), "by=%.17g", f->power);
      *log_scale = *log_scale ? OP("sub", AL_IN(*log_scale, md), "") : OP("neg", AL_IN(md), "");
    }
  }
  return inverse;
}

/* (B,T,H), or (B,T,H,E) for a gate a channel. */
static al_tensor *output_gate(const run *r) {
  const formula_gate *gate = &r->f->output_gate;
  if (!formula_has_gate(r->f)) return NULL;
  al_tensor *g;
  if (gate->constant) {
    const int64_t shape[] = {r->B, r->T, r->s->heads};
    g = like(r, 3, shape, gate->value);
    return attn_tap(r->c, r->in, "output_gate", g);
  }
  al_tensor *x = r->in->x;
  if (gate->input == INPUT_position)
    x = OP("log", AL_IN(formula_counts(r, r->in->q, r->in->offset)), "");
  g = activate(r, gate, project(r, x, "output_gate"));
  if (gate->per == PER_channel) g = as_factor(r, g, r->s->heads);
  return attn_tap(r->c, r->in, "output_gate", g);
}

/* What is left to do to y: factor, pre-norm gate, norm, post-norm factor. */
typedef struct tail {
  al_tensor *factor;     /* (B,T,H) or NULL */
  al_tensor *log_scale;  /* (B,T,H), joint (B,T), or NULL: y stands for y e^log_scale, seen by the
                            norm's eps */
  al_tensor *pre, *post; /* gates, NULL, (B,T,H) or (B,T,H,E) */
  double constant;       /* after everything */
} tail;

static tail plan_tail(const run *r, sums *n) {
  const formula *f = r->f;
  tail t = {.constant = 1};
  t.factor = denominator(r, n, &t.log_scale);
  if (n->w) {
    formula_show(r, n, t.factor, t.log_scale);
    t.factor = t.log_scale = NULL;
  }
  const bool normed = f->norm != ALK_NORM_none, joint = f->scope == SCOPE_joint;
  /* a log factor that a parameter shapes must carry its gradient, so it goes in before the norm */
  if (t.log_scale && (!normed || f->power_learned)) {
    t.factor = times(r, t.factor, OP("exp", AL_IN(t.log_scale), ""));
    t.log_scale = NULL;
  }
  if (joint && t.log_scale) { /* heads keep their ratio: e^(L_h - max L) goes in, max L stays out */
    al_tensor *top = al_detach(r->c, OP("max", AL_IN(t.log_scale), "axes={-1} keep=true"));
    t.factor = times(r, t.factor, OP("exp", AL_IN(OP("sub", AL_IN(t.log_scale, top), "")), ""));
    t.log_scale = OP("squeeze", AL_IN(top), "axis=-1");
  }
  al_tensor *gate = output_gate(r);
  if (formula_gate_at(f, PLACE_pre_norm)) t.pre = gate;
  if (formula_gate_at(f, PLACE_post_norm)) t.post = gate;
  if (!normed) return t;
  switch (f->gain) {
  case GAIN_auto:
  case GAIN_off:
  case GAIN_on: /* in the norm */
  case GAIN_learned:
    break; /* head_gain */
  case GAIN_number:
    t.constant = f->gain_by;
    break;
  case GAIN_width:
    t.constant = (double)(joint ? r->s->heads : 1) * (double)r->s->value_dim;
  }
  return t;
}

/* The learned gain a head as a factor (B,T,H), or NULL. */
static al_tensor *head_gain(const run *r) {
  if (r->f->gain != GAIN_learned || r->f->norm == ALK_NORM_none) return NULL;
  return OP("expand", AL_IN(param(r, "output_norm.gain")), "shape={%lld,%lld,%lld}",
            (long long)r->B, (long long)r->T, (long long)r->s->heads);
}

/* One pass over y, but for gates a channel. */
static al_tensor *end_fused(const run *r, const sums *n, tail t) {
  const formula *f = r->f;
  const bool normed = f->norm != ALK_NORM_none && !n->normed;
  al_tensor *y = n->y;
  if (t.pre && al_ndim(t.pre) == 4) {
    y = scaled(r, scaled(r, y, t.factor), t.pre);
    t.factor = NULL;
  } else {
    t.factor = times(r, t.factor, t.pre);
  }
  al_tensor *gate = t.post && al_ndim(t.post) == 3 ? t.post : NULL;
  gate = times(r, gate, head_gain(r));
  if (t.constant != 1 && gate)
    gate = OP("scale", AL_IN(gate), "by=%.17g", t.constant), t.constant = 1;
  if (!normed) t.factor = times(r, t.factor, gate), gate = NULL;
  if (normed || t.factor)
    y = OP("finish",
           AL_IN(y, t.factor, t.log_scale, f->gain == GAIN_on ? param(r, "output_norm.gain") : NULL,
                 param(r, "output_norm.bias"), gate),
           "norm=%s joint=%s eps=%.17g", alk_norms[f->norm].word,
           f->scope == SCOPE_joint && normed ? "true" : "false", f->norm_eps);
  if (t.post && al_ndim(t.post) == 4) y = scaled(r, y, t.post);
  return t.constant == 1 ? y : OP("scale", AL_IN(y), "by=%.17g", t.constant);
}

static al_tensor *norm_composed(const run *r, al_tensor *y, const tail *t) {
  const formula *f = r->f;
  const long long B = r->B, T = r->T, H = r->s->heads, E = r->s->value_dim;
  const bool joint = f->scope == SCOPE_joint;
  if (joint) y = OP("reshape", AL_IN(y), "shape={%lld,%lld,%lld}", B, T, H * E);
  al_tensor *gain = f->gain == GAIN_on ? param(r, "output_norm.gain") : NULL;
  char op[32];
  snprintf(op, sizeof op, "%snorm", alk_norms[f->norm].word);
  if (alk_norms[f->norm].mean)
    y = OP(op, AL_IN(y, gain, param(r, "output_norm.bias"), t->log_scale), "eps=%.17g",
           f->norm_eps);
  else y = OP(op, AL_IN(y, gain, t->log_scale), "eps=%.17g", f->norm_eps);
  return joint ? OP("reshape", AL_IN(y), "shape={%lld,%lld,%lld,%lld}", B, T, H, E) : y;
}

static al_tensor *end_composed(const run *r, al_tensor *y, tail t) {
  y = scaled(r, scaled(r, y, t.factor), t.pre);
  if (r->f->norm != ALK_NORM_none) y = norm_composed(r, y, &t);
  y = scaled(r, scaled(r, y, head_gain(r)), t.post);
  return t.constant == 1 ? y : OP("scale", AL_IN(y), "by=%.17g", t.constant);
}

static al_status pick_form(run *r) {
  if (r->in->sink) return AL_OK; /* every weight is made */
  if (r->in->state) {
    r->by_state = !formula_not_finite(r->f);
    if (r->by_state && r->in->training && r->f->dropout > 0)
      return al_fail(r->c, AL_EVALUE,
                     "kernel_attention: state: dropout needs every weight: continue in evaluation "
                     "mode, or with dropout=0");
    return AL_OK;
  }
  const bool fits = !r->in->causal || (r->T == r->S && r->in->offset == 0);
  r->by_state = r->f->form == FORM_chunked;
  if (r->by_state && !fits)
    return al_fail(r->c, AL_ESHAPE,
                   "kernel_attention: form=chunked: causal rows must be the keys' own tokens, got "
                   "%lld rows, %lld keys, "
                   "offset %lld",
                   (long long)r->T, (long long)r->S, (long long)r->in->offset);
  if (r->by_state) AL_TRY(formula_state_held(r->c, r->f, r->s, al_type(r->in->q)));
  if (r->f->form == FORM_auto && fits)
    r->by_state = formula_chunks(r->f, r->s, al_type(r->in->q), r->S);
  return AL_OK;
}

static al_status check_x(const run *r) {
  const formula *f = r->f;
  const formula_count *count = formula_count_of(f);
  if (formula_reads_x(f) && !r->in->x)
    return al_fail(
        r->c, AL_EVALUE,
        "kernel_attention: x: needed, because a gate or decay of these options reads it");
  const bool keys_from_x = f->decay == DECAY_gated || f->input_gate.activation != ALK_GATE_none ||
                           (count && count->reads_x);
  if (keys_from_x && r->T != r->S)
    return al_fail(r->c, AL_ESHAPE,
                   "kernel_attention: x: these options read x at key positions, so as many queries "
                   "as keys are needed, got %lld and %lld",
                   (long long)r->T, (long long)r->S);
  return AL_OK;
}

/* No token: the state is what it was. */
static void pass_on(al_ctx *c, const attn_in *in) {
  for (int i = 0; i < attn_state_count(in->state); i++) {
    const char *name, *doc;
    al_tensor *t = attn_state_at(in->state, i, &name, &doc);
    attn_state_put(c, in->next, name, t, doc);
  }
}

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  formula room;
  const formula *f = formula_of(o, &room);
  attn_in empty = *in;
  if (in->state && al_size(in->q, 1) == 0) {
    pass_on(c, in);
    empty.state = NULL;
    in = &empty;
  }
  run run_ = {.c = c,
              .f = f,
              .s = s,
              .in = in,
              .p = p,
              .B = al_size(in->q, 0),
              .T = al_size(in->q, 1),
              .S = al_size(in->k, 1),
              .lengths = in->lengths,
              .before = in->state ? attn_state_get(in->state, "count") : NULL};
  run *r = &run_;
  r->n = formula_params(o, s, r->rows);
  snprintf(r->now, sizeof r->now, "causal=%s offset=%lld", in->causal ? "true" : "false",
           (long long)in->offset);
  strcpy(r->vis, r->now);
  if (check_x(r) != AL_OK || pick_form(r) != AL_OK) return NULL;

  sums n = {.q = in->q, .k = in->k, .decay = formula_log_decay(r)};
  n.scale = formula_scale_by(f, s->head_dim);
  formula_values(r, &n);
  if (in->state && !r->by_state && formula_join_cache(r, &n) != AL_OK) return NULL;
  const bool whole = !in->sink && formula_fused(f, al_type(in->q));
  if (r->by_state) formula_add_up_by_state(r, &n);
  else if (whole) formula_add_up_fused(r, &n);
  else formula_add_up_composed(r, &n);
  const tail t = plan_tail(r, &n);
  return whole ? end_fused(r, &n, t) : end_composed(r, n.y, t);
}

/* exp weights whose row is summed and divided, or not, in one op, and then a head's norm. */
static bool in_bf16(al_ctx *c, const al_opts *o, const attn_in *in) {
  formula room;
  const formula *f = formula_of(o, &room);
  const bool whole = f->weights == ALK_STAT_sum && !f->own_weights && formula_whole_power(f) &&
                     f->gradient == GRADIENT_both && f->side == SIDE_row && !f->times_length,
             bare = f->floor <= 0 && f->eps <= 0 && f->sink == SINK_none;
  const bool divided = f->stat == STAT_weights && whole && bare;
  const bool weighed = f->w.by == BY_exp && f->map == ALK_MAP_identity &&
                       f->scale != SCALE_learned && f->decay == DECAY_none &&
                       f->input_gate.activation == ALK_GATE_none;
  const bool ends = !formula_has_gate(f) && f->gain != GAIN_learned && f->scope == SCOPE_head;
  const bool parallel = (f->form == FORM_auto || f->form == FORM_parallel) &&
                        f->impl != IMPL_composed && !in->state && !in->next && !in->sink;
  return (f->stat == STAT_none || divided) && weighed && ends && parallel &&
         al_in_bf16(c, "attend") && al_in_bf16(c, "finish");
}

static bool divides(const al_opts *o) {
  formula room;
  return formula_of(o, &room)->stat != STAT_none;
}
static bool gates_output(const al_opts *o) {
  formula room;
  return formula_has_gate(formula_of(o, &room));
}
static bool gates_input(const al_opts *o) {
  formula room;
  return formula_of(o, &room)->input_gate.activation != ALK_GATE_none;
}
static bool decays(const al_opts *o) {
  formula room;
  return formula_of(o, &room)->decay != DECAY_none;
}

static const attn_tap_row taps[] = {
    {"logits", "(B,H,T,S)", "s, before a limit; only visible pairs count", true, NULL},
    {"D", "(B,T,H)", "what divides the weights; of the values' side a key's, (B,S,Hkv)", true,
     divides},
    {"weights", "(B,H,T,S)", "w / D, decay included: what multiplies the values", true, NULL},
    {"y", "(B,T,H,E)", "sum of weights times values, before output gate and norm", true, NULL},
    {"log_decay", "(B,S,Hkv)", "log decay of each step", true, decays},
    {"input_gate", "(B,S,Hkv) or (B,S,Hkv,E)", "b, which multiplies the values", true, gates_input},
    {"output_gate", "(B,T,H) or (B,T,H,E)", "r or h, before or after the norm", true, gates_output},
    {0}};

#define ROW(...) {__VA_ARGS__},
static const attn_preset presets[] = {
#include "kernel_attention.def"
    {0}};
#undef ROW

ATTN_FAMILY(kernel_attention, .doc = "weights f(q.k) with every part of the formula a switch",
            .in_bf16 = in_bf16, .options = formula_options, .presets = presets,
            .check = formula_check, .params = formula_params, .forward = forward,
            .claims = formula_claims, .state_bytes = formula_state_bytes, .formula = formula_text,
            .exempt = formula_exempt, .plan = formula_plan, .state = formula_state,
            .source = formula_source, .taps = taps);
