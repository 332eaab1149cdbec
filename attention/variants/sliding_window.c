/* sliding_window: softmax over the last `window` visible keys of each row, time and memory linear
 * in T.
 *
 *   o_i = sum_j e^(s_ij) v_j / (sum_j e^(s_ij) + e^sink),  s_ij = t q_i.k_j,  e_i - window < j <=
 * e_i
 *
 * where e_i is the last key that row i sees: i itself, or the last key present when i is padding.
 * Source: Longformer (2004.05150, section 3.1) without global tokens; window, soft cap and sink as
 * the presets' sources have them.
 *
 * Blocks of R = min(window, T) rows. A row sees the keys of its own block up to itself, and of the
 * window - 1 keys before the block those that are near enough: counted from the block's start
 * backwards, row u sees the first window - 1 - u. With the rows in reversed order too that is a
 * causal mask again, so both parts are the op attend, and neither makes a matrix. Each part is
 * relative to its own row maximum m; they are added relative to the larger one.
 *
 * State: the last window keys and values, the latest first, so that a row of the batch with few
 * keys is a short prefix. Not done: rows that are not the keys' own tokens.
 */
#include "variant.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const al_arg options[] = {
    {"window", AL_T_INT, "64", NULL, 1, 1 << 24, "keys a row sees, its own included", NULL},
    {"logit_scale", AL_T_WORD | AL_T_NUM, "rsqrt", "rsqrt learned", -1e308, 1e308,
     "rsqrt: 1/sqrt(head_dim); learned: one a head, from there", NULL},
    {"logit_softcap", AL_T_BOOL | AL_T_NUM, "false", NULL, 1e-6, 1e308, "c tanh(s/c)", NULL},
    {"sink", AL_T_BOOL | AL_T_NUM | AL_T_WORD, "false", "learned", -80, 80,
     "exp(sink) is added to the denominator; learned: one a head, 0 at first", NULL},
    {0}};

static bool given(const al_opts *o, const char *key) {
  return al_opt_kind(o, key) != AL_T_BOOL || al_opt_bool(o, key);
}

static al_status check(al_ctx *c, const al_opts *o, const attn_sizes *s) {
  (void)s;
  static const char *const no_switch[] = {"sink", "logit_softcap"};
  for (int i = 0; i < 2; i++)
    if (al_opt_kind(o, no_switch[i]) == AL_T_BOOL && al_opt_bool(o, no_switch[i]))
      return al_fail(c, AL_EVALUE, "sliding_window: %s: false or a number%s needed, got true",
                     no_switch[i], i ? "" : " or learned");
  return AL_OK;
}

static int params(const al_opts *o, const attn_sizes *s, attn_param *rows) {
  int n = 0;
  if (al_opt_is(o, "logit_scale", "learned"))
    rows[n++] =
        (attn_param){"logit_scale", 1, {s->heads}, ATTN_VALUE, 0, "multiplies q.k, one a head"};
  if (n) rows[0].value = 1 / sqrt((double)s->head_dim);
  if (al_opt_is(o, "sink", "learned"))
    rows[n++] =
        (attn_param){"sink", 1, {s->heads}, ATTN_ZEROS, 0, "exp of it is added to the denominator"};
  return n;
}

typedef struct run {
  al_ctx *c;
  const al_opts *o;
  const attn_sizes *s;
  const attn_in *in;
  al_tensor *q;               /* with a learned scale in it */
  al_tensor *scale, *sink;    /* parameters or NULL */
  al_tensor *k_last, *v_last; /* (B,m,Hkv,D or E): the last tokens, the latest first */
  al_tensor *held;       /* (B) i32: how many of the ring's entries are tokens; NULL: no ring */
  int64_t B, T, W, R, N; /* N blocks of R rows */
  int64_t kept;          /* entries of the state's ring */
} run;

#define OP(name, ...) al_run(r->c, name, __VA_ARGS__)

static int64_t clip(int64_t x, int64_t lo, int64_t hi) { return x < lo ? lo : x > hi ? hi : x; }

static al_tensor *ring(const run *r, const char *name) {
  return r->kept ? attn_state_get(r->in->state, name) : NULL;
}

/* ---- one part of a row's keys ---------------------------------------------------------------- */

typedef struct part {
  al_tensor *y, *W, *m; /* (n,m,H,E), (n,m,H): relative to e^m */
} part;

static part attend(const run *r, al_tensor *q, al_tensor *k, al_tensor *v, al_tensor *lengths,
                   const char *mask) {
  al_tensor *out[3];
  char cap[48] = "";
  const double t = r->scale ? 1
                   : al_opt_kind(r->o, "logit_scale") == AL_T_NUM
                       ? al_opt_num(r->o, "logit_scale")
                       : 1 / sqrt((double)r->s->head_dim);
  if (given(r->o, "logit_softcap"))
    snprintf(cap, sizeof cap, "softcap=%.17g", al_opt_num(r->o, "logit_softcap"));
  al_run_into(r->c, "attend", AL_IN(q, k, v, NULL, NULL, lengths), out, 3, "scale=%.17g %s %s", t,
              cap, mask);
  return (part){out[0], OP("permute", AL_IN(out[1]), "axes={0,2,1}"),
                OP("permute", AL_IN(al_detach(r->c, out[2])), "axes={0,2,1}")};
}

/* exp(m - M), m at most M: the m of a part that sees nothing counts for nothing. */
static al_tensor *shrink(const run *r, al_tensor *m, al_tensor *M) {
  return OP("exp", AL_IN(OP("sub", AL_IN(OP("minimum", AL_IN(m, M), ""), M), "")), "");
}

/* D e^M of all rows in blocks (B N,R,H) as (B,T,H) for whoever looks, and back. */
static al_tensor *show(const run *r, al_tensor *D, al_tensor *M) {
  const long long B = r->B, T = r->T, rest = r->N * r->R - r->T, H = r->s->heads;
  al_tensor *whole = OP("mul", AL_IN(D, OP("exp", AL_IN(M), "")), "");
  al_tensor *t = OP("slice", AL_IN(attn_reshape(r->c, whole, ATTN_SHAPE(B, T + rest, H))),
                    "axis=1 start=0 stop=%lld", T);
  t = attn_tap(r->c, r->in, "D", t);
  if (rest)
    t = OP("concat", AL_IN(t, al_tensor_full(r->c, al_type(t), 3, (int64_t[]){B, rest, H}, 0)),
           "axis=1");
  t = attn_reshape(r->c, t, ATTN_SHAPE(r->B * r->N, r->R, H));
  t = OP("mul", AL_IN(t, OP("exp", AL_IN(OP("neg", AL_IN(M), "")), "")), "");
  return OP("select", AL_IN(OP("inverse", AL_IN(whole), ""), t, D), ""); /* it may be infinite */
}

/* N / D of one or two parts; NULL y: there is no such part. A part that sees nothing (W = 0) has no
 * say in the reference. `shown`: D is the rows' own. */
static al_tensor *merge(const run *r, part a, part b, bool shown) {
  al_tensor *M = a.m;
  if (b.y) {
    al_tensor *ma = OP("select", AL_IN(a.W, a.m, b.m), "");
    M = OP("maximum", AL_IN(ma, OP("select", AL_IN(b.W, b.m, a.m), "")), "");
  }
  al_tensor *sink = r->sink;
  if (!sink && given(r->o, "sink"))
    sink = al_tensor_full(r->c, al_type(r->in->q), 1, &r->s->heads, al_opt_num(r->o, "sink"));
  if (sink) M = OP("maximum", AL_IN(M, al_detach(r->c, sink)), "");
  al_tensor *f = shrink(r, a.m, M), *D = OP("mul", AL_IN(a.W, f), "");
  al_tensor *N = OP("mul", AL_IN(a.y, OP("unsqueeze", AL_IN(f), "axis=-1")), "");
  if (b.y) {
    f = shrink(r, b.m, M);
    D = OP("add", AL_IN(D, OP("mul", AL_IN(b.W, f), "")), "");
    N = OP("add", AL_IN(N, OP("mul", AL_IN(b.y, OP("unsqueeze", AL_IN(f), "axis=-1")), "")), "");
  }
  if (sink) D = OP("add", AL_IN(D, shrink(r, sink, M)), "");
  if (shown && attn_asked(r->in, "D")) D = show(r, D, M);
  D = OP("unsqueeze", AL_IN(OP("inverse", AL_IN(D), "")), "axis=-1");
  return OP("mul", AL_IN(N, D), "");
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* (B,T,H,C) -> (B N,R,H,C), zeros after T. */
static al_tensor *blocks(const run *r, al_tensor *t) {
  if (!t) return NULL;
  const int64_t H = al_size(t, 2), C = al_size(t, 3), rest = r->N * r->R - r->T;
  const int64_t more[] = {r->B, rest, H, C};
  if (rest) t = OP("concat", AL_IN(t, al_tensor_full(r->c, al_type(t), 4, more, 0)), "axis=1");
  return OP("reshape", AL_IN(t), "shape={%lld,%lld,%lld,%lld}", (long long)(r->B * r->N),
            (long long)r->R, (long long)H, (long long)C);
}

/* The order of the rows in every block turned round: (B N,R,...) */
static al_tensor *turned(const run *r, al_tensor *t) {
  return r->R == 1 || !t ? t : OP("latest", AL_IN(t), "size=%lld", (long long)r->R);
}

static part own_keys(const run *r) {
  al_tensor *lengths = attn_part_lengths(r->c, r->in->lengths, r->B, r->T, r->R);
  return attend(r, blocks(r, r->q), blocks(r, r->in->k), blocks(r, r->in->v), lengths,
                "causal=true");
}

/* The P tokens before each block, the latest first: (B N,P,H,C). */
static al_tensor *before_blocks(const run *r, const char *name, al_tensor *now, int64_t P) {
  return OP("latest", AL_IN(now, ring(r, name), r->held, r->in->lengths), "size=%lld every=%lld",
            (long long)P, (long long)r->R);
}

static part keys_before(const run *r) {
  const int64_t P = clip(r->kept + (r->N - 1) * r->R, 0, r->W - 1), zero = 0;
  if (P == 0) return (part){0};
  char mask[64];
  al_tensor *held = r->held ? r->held : al_tensor_full(r->c, AL_I32, 1, &r->B, (double)zero);
  held = OP("unsqueeze", AL_IN(held), "axis=-1");
  al_tensor *lengths =
      OP("add_i32", AL_IN(held, attn_multiples(r->c, r->N, r->R)), "min=0 max=%lld", (long long)P);
  lengths = attn_reshape(r->c, lengths, ATTN_SHAPE(r->B * r->N));
  snprintf(mask, sizeof mask, "causal=true offset=%lld", (long long)(r->W - 1 - r->R));
  part p = attend(r, turned(r, blocks(r, r->q)), before_blocks(r, "k", r->in->k, P),
                  before_blocks(r, "v", r->in->v, P), lengths, mask);
  return (part){turned(r, p.y), turned(r, p.W), turned(r, p.m)};
}

/* Rows past the length see the last keys there are. */
static al_tensor *padding(const run *r, al_tensor *y) {
  if (!r->in->lengths) return y;
  al_tensor *lengths = OP("add_i32", AL_IN(r->in->lengths), "min=0 max=%lld", (long long)r->T);
  lengths = OP("add_i32", AL_IN(lengths, r->held), "max=%lld", (long long)al_size(r->k_last, 1));
  const part last = attend(r, r->q, r->k_last, r->v_last, lengths, "");
  al_tensor *present = OP("present", AL_IN(r->in->lengths), "size=%lld", (long long)r->T);
  present = OP("unsqueeze", AL_IN(OP("unsqueeze", AL_IN(present), "axis=-1")), "axis=-1");
  return OP("select", AL_IN(present, y, merge(r, last, (part){0}, false)), "");
}

static al_tensor *last_tokens(const run *r, const char *name, al_tensor *now) {
  return OP("latest", AL_IN(now, ring(r, name), r->held, r->in->lengths), "size=%lld",
            (long long)clip(r->W, 0, r->kept + r->T));
}

static al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                          const attn_in *in) {
  if (attn_check_own_tokens(c, "sliding_window", in) != AL_OK) return NULL;
  run run_ = {c, o, s, in, .q = in->q, .B = al_size(in->q, 0), .T = al_size(in->q, 1)}, *r = &run_;
  r->W = al_opt_int(o, "window");
  r->R = clip(r->T, 1, r->W);
  r->N = (r->T + r->R - 1) / r->R;
  r->kept = in->state ? al_size(attn_state_get(in->state, "k"), 1) : 0;
  if (al_opt_is(o, "logit_scale", "learned")) r->scale = *p++;
  if (al_opt_is(o, "sink", "learned")) r->sink = *p;
  if (r->scale) r->q = OP("mul", AL_IN(in->q, OP("unsqueeze", AL_IN(r->scale), "axis=-1")), "");
  if (r->kept)
    r->held =
        OP("add_i32", AL_IN(attn_state_get(in->state, "count")), "max=%lld", (long long)r->kept);
  if (in->next || in->lengths) {
    r->k_last = last_tokens(r, "k", in->k);
    r->v_last = last_tokens(r, "v", in->v);
  }
  if (in->next) {
    attn_state_put(c, in->next, "k", r->k_last, NULL);
    attn_state_put(c, in->next, "v", r->v_last, NULL);
  }
  if (r->T == 0)
    return al_tensor_full(c, al_type(in->q), 4, (int64_t[]){r->B, 0, s->heads, s->value_dim}, 0);
  al_tensor *y = merge(r, own_keys(r), keys_before(r), true);
  y = OP("reshape", AL_IN(y), "shape={%lld,%lld,%lld,%lld}", (long long)r->B,
         (long long)(r->N * r->R), (long long)s->heads, (long long)s->value_dim);
  if (r->N * r->R > r->T)
    y = OP("contiguous", AL_IN(OP("slice", AL_IN(y), "axis=1 start=0 stop=%lld", (long long)r->T)),
           "");
  return padding(r, y);
}

static al_status state(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
                       al_dtype dtype, attn_state *st) {
  (void)o;
  const int64_t k[] = {batch, 0, s->kv_heads, s->head_dim},
                v[] = {batch, 0, s->kv_heads, s->value_dim};
  AL_TRY(attn_state_put(c, st, "k", al_tensor_new(c, dtype, 4, k),
                        "the last window keys, the latest first"));
  return attn_state_put(c, st, "v", al_tensor_new(c, dtype, 4, v), "their values");
}

static int64_t state_bytes(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype) {
  return clip(t, 0, al_opt_int(o, "window")) * s->kv_heads * (s->head_dim + s->value_dim) *
             al_dtype_size(dtype) +
         4;
}

static unsigned claims(const al_opts *o) {
  unsigned bits = ATTN_CAUSAL | ATTN_POSITIVE_WEIGHTS;
  if (!given(o, "sink")) bits |= ATTN_ROWSUM1;
  if (!given(o, "sink") && !given(o, "logit_softcap")) bits |= ATTN_SHIFT_INVARIANT;
  return bits;
}

static void formula(const al_opts *o, char *buf, size_t n) {
  char s[64] = "q_i.k_j", sink[32] = "", t[32] = " / sqrt(D)";
  if (al_opt_is(o, "logit_scale", "learned")) snprintf(t, sizeof t, " t");
  if (al_opt_kind(o, "logit_scale") == AL_T_NUM)
    snprintf(t, sizeof t, " %g", al_opt_num(o, "logit_scale"));
  snprintf(s + 7, sizeof s - 7, "%s", t);
  if (al_opt_is(o, "sink", "learned")) snprintf(sink, sizeof sink, " + exp(sink)");
  else if (given(o, "sink")) snprintf(sink, sizeof sink, " + exp(%g)", al_opt_num(o, "sink"));
  const double cap = al_opt_num(o, "logit_softcap");
  char soft[48] = "s";
  if (given(o, "logit_softcap")) snprintf(soft, sizeof soft, "%g tanh(s/%g)", cap, cap);
  snprintf(buf, n,
           "o_i = (sum_j exp(%s) v_j) / (sum_j exp(%s)%s) over the last %lld visible j;  s = %s",
           soft, soft, sink, (long long)al_opt_int(o, "window"), s);
}

static void plan(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
                 size_t n) {
  (void)s, (void)dtype;
  const int64_t W = al_opt_int(o, "window"), R = clip(T, 1, W);
  snprintf(buf, n, "parallel, fused: %lld blocks of %lld rows, at most %lld keys a row",
           (long long)((T + R - 1) / R), (long long)R, (long long)W);
}

/* ---- written out ----------------------------------------------------------------------------- */

static const char torch_text[] =
    "import math\n"
    "import torch\n\n\n"
    "def attention(q, k, v, x=None, p=None, causal=True, lengths=None):\n"
    "    # q (B,T,H,D), k (B,T,Hkv,D), v (B,T,Hkv,E); p: parameters by name; causal only\n"
    "    assert causal\n"
    "    B, T, H, D = q.shape\n"
    "    G = H // k.shape[2]\n"
    "    i, j = torch.arange(T)[:, None], torch.arange(T)\n"
    "    last = i.expand(B, T, 1)  # the last key that a row sees\n"
    "    if lengths is not None:\n"
    "        last = torch.minimum(last, lengths.view(B, 1, 1) - 1)\n"
    "    seen = ((j <= last) & (j > last - %lld))[:, None]\n"
    "    s = torch.einsum(\"bthd,bshd->bhts\", q, k.repeat_interleave(G, 2))%s\n"
    "%s"
    "    w = torch.exp(s).masked_fill(~seen, 0)\n"
    "    W = w.sum(-1).transpose(1, 2)[..., None]%s\n"
    "    y = torch.einsum(\"bhts,bshe->bthe\", w, v.repeat_interleave(G, 2))\n"
    "    return y / torch.where(W > 0, W, 1)  # rows that see no key give 0\n";

static const char latex_text[] = "\\begin{aligned}\n"
                                 "o_i &= \\frac{\\sum_{e_i - %lld < j \\le e_i} w_{ij} v_j}"
                                 "{\\sum_{e_i - %lld < j \\le e_i} w_{ij}%s},\\\\\n"
                                 "w_{ij} &= \\exp\\left(%s\\right), \\quad s_{ij} = %s\n"
                                 "\\end{aligned}\n"
                                 "%% e_i: the last key that row i sees\n";

static bool source(const al_opts *o, const attn_sizes *s, const char *kind, char *buf, size_t n) {
  (void)s;
  const bool torch = strcmp(kind, "torch") == 0, fixed = al_opt_kind(o, "logit_scale") == AL_T_NUM;
  const long long W = (long long)al_opt_int(o, "window");
  const double t = al_opt_num(o, "logit_scale"), cap = al_opt_num(o, "logit_softcap");
  char scale[64], soft[96] = "", sink[64] = "";
  if (torch) {
    snprintf(scale, sizeof scale, " / math.sqrt(D)");
    if (fixed) snprintf(scale, sizeof scale, " * %.17g", t);
    if (al_opt_is(o, "logit_scale", "learned"))
      snprintf(scale, sizeof scale, " * p[\"logit_scale\"].view(H, 1, 1)");
    if (given(o, "logit_softcap"))
      snprintf(soft, sizeof soft, "    s = %.17g * torch.tanh(s / %.17g)\n", cap, cap);
    if (al_opt_is(o, "sink", "learned"))
      snprintf(sink, sizeof sink, " + torch.exp(p[\"sink\"]).view(H, 1)");
    else if (given(o, "sink"))
      snprintf(sink, sizeof sink, " + math.exp(%.17g)", al_opt_num(o, "sink"));
    return snprintf(buf, n, torch_text, W, scale, soft, sink) < (int)n;
  }
  snprintf(scale, sizeof scale, "q_i \\cdot k_j / \\sqrt{d}");
  if (fixed) snprintf(scale, sizeof scale, "%g \\, q_i \\cdot k_j", t);
  if (al_opt_is(o, "logit_scale", "learned")) snprintf(scale, sizeof scale, "t \\, q_i \\cdot k_j");
  snprintf(soft, sizeof soft, "s_{ij}");
  if (given(o, "logit_softcap"))
    snprintf(soft, sizeof soft, "%g \\tanh\\left(s_{ij} / %g\\right)", cap, cap);
  if (al_opt_is(o, "sink", "learned")) snprintf(sink, sizeof sink, " + e^{a}");
  else if (given(o, "sink")) snprintf(sink, sizeof sink, " + e^{%g}", al_opt_num(o, "sink"));
  return snprintf(buf, n, latex_text, W, W, sink, soft, scale) < (int)n;
}

static const attn_tap_row taps[] = {
    {"D", "(B,T,H)", "what divides: the sum of exp over the window, and the sink's", false, NULL},
    {0}};

static const attn_preset presets[] = {
    {"window/mistral", "window=4096", "", "Mistral 7B (2310.06825), section 2", ""},
    {"window/gemma2", "window=4096 logit_softcap=50", "",
     "Gemma 2 (2408.00118), section 2: its local layers",
     "its global layers are plain softmax with the same cap; rope_base (10000), biases (none) and "
     "the logit_scale of the 27B model (1/12) are the user's"},
    {"window/gpt_oss", "window=128 sink=learned", "",
     "gpt-oss (2508.10925), section 2.2: its banded layers",
     "a learned sink a head, in the denominator alone; the layer's rope_base=150000 and bias=true "
     "are the user's, YaRN is not there"},
    {0}};

ATTN_FAMILY(sliding_window, .doc = "softmax over the last keys of each row, linear in T",
            .options = options, .presets = presets, .check = check, .params = params,
            .forward = forward, .claims = claims, .state_bytes = state_bytes, .formula = formula,
            .plan = plan, .state = state, .source = source, .taps = taps);
