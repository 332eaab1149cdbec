/* rope.c: rotary position embedding of (B,T,H,D): channel pair i of position p turns by the angle
 * p base^(-2i/dims). rope_pair turns queries and keys together: one table, one pass. Scaled to longer
 * contexts than those of training, slow pairs turn `factor` times slower and fast ones as before:
 *
 *   linear  every pair slower (position interpolation, 2306.15595)
 *   yarn    in between a ramp over the pairs that make `high` to `low` turns over `original` positions,
 *           its ends whole pairs (2309.00071, eq. 18 to 23, as its code and transformers have it); cos
 *           and sin are multiplied, by 0.1 ln(factor) + 1 where `size` is 0
 *   llama3  a ramp over the turns themselves (Llama 3.1's code) */
#include "shape.h"
#include "../../kernels/pick_rows.h"
#include "../../kernels/rope.h"
#include <math.h>

enum { ALL_PAIRS = 1, NO_PAIR = 0 };

/* The pair (a fraction) that makes that many turns over `original` positions. */
static double pair_of(double turns, double original, double base, double n) {
  return n * log(original / (turns * 2 * M_PI)) / log(base);
}

/* The law of n pairs that the options ask for. */
static alk_rope_law law_of(const al_opts *o, int64_t n) {
  const double base = al_opt_num(o, "base"), original = al_opt_num(o, "original"),
               low = al_opt_num(o, "low"), high = al_opt_num(o, "high"),
               size = al_opt_num(o, "size");
  alk_rope_law law = {.base = base, .factor = 1, .at = ALL_PAIRS, .size = size > 0 ? size : 1};
  if (al_opt_is(o, "scaling", "none")) return law;
  law.factor = al_opt_num(o, "factor");
  law.at = NO_PAIR;
  if (al_opt_is(o, "scaling", "llama3")) {
    law.at = -low / (high - low);
    law.by_frequency = original / (2 * M_PI) / (high - low);
  } else if (al_opt_is(o, "scaling", "yarn")) {
    double first = pair_of(high, original, base, (double)n),
           last = pair_of(low, original, base, (double)n);
    if (al_opt_bool(o, "truncate")) first = floor(first), last = ceil(last);
    if (first < 0) first = 0;
    if (last > (double)(2 * n - 1)) last = (double)(2 * n - 1);
    if (first == last) last += 0.001; /* as there: a step */
    law.at = 1 + first / (last - first);
    law.by_pair = -1 / (last - first);
    if (size == 0) law.size = 0.1 * log(law.factor) + 1;
  }
  return law;
}

static int tensors_of(const al_call *k) { return k->n_out; } /* positions come behind them */

static al_status positions_shape(al_ctx *c, const al_call *k) {
  const al_meta *p = &k->in_meta[tensors_of(k)], *x = &k->in_meta[0];
  if (!k->in[tensors_of(k)]) return AL_OK;
  if (p->ndim == 2 && p->shape[0] == x->shape[0] && p->shape[1] == x->shape[1]) return AL_OK;
  return al_fail(c, AL_ESHAPE, "%s: positions: shape (%lld,%lld) needed to match %s %s, got %s",
                 k->op->info.name, (long long)x->shape[0], (long long)x->shape[1],
                 k->op->info.inputs[0].name, AL_META_STR(x), AL_META_STR(p));
}

/* Rows of the table that stand for positions offset, offset + 1, .. */
static int64_t places_of(const al_call *k) {
  const int64_t places = al_opt_int(k->opts, "places");
  return places ? places : k->in_meta[0].shape[1];
}

/* A row of the table for each token, by its own position; takes the table. */
static al_tensor *table_by_token(al_ctx *c, const al_call *k, al_tensor *table) {
  const int64_t n = al_numel(table) / places_of(k) / 2,
                tokens = k->in_meta[0].shape[0] * k->in_meta[0].shape[1];
  al_tensor *ids = al_run(c, "add_i32", AL_IN(k->in[tensors_of(k)]), "by=1"),
            *all = al_tensor_new(c, al_type(table), 3, (const int64_t[]){tokens, n, 2});
  if (al_error(c) == AL_OK)
    ALK_RUN(al_where(table), pick_rows, al_data(table), al_data(ids), tokens, 2 * n, al_data(all));
  al_release(ids);
  al_release(table);
  return all;
}

static al_status shape(al_ctx *c, al_call *k) {
  const char *name = k->op->info.name;
  const int64_t dims = al_opt_int(k->opts, "dims");
  const double low = al_opt_num(k->opts, "low"), high = al_opt_num(k->opts, "high");
  if (!(low < high))
    return al_fail(c, AL_EVALUE, "%s: option 'low': a number below 'high' (%g) expected, got %g",
                   name, high, low);
  if (al_opt_is(k->opts, "scaling", "yarn") && al_opt_num(k->opts, "base") == 1)
    return al_fail(c, AL_EVALUE, "%s: option 'base': above 1 expected with scaling=yarn", name);
  for (int i = 0; i < tensors_of(k); i++) {
    const al_meta *x = &k->in_meta[i], *q = &k->in_meta[0];
    const char *row = k->op->info.inputs[i].name;
    if (x->ndim != 4)
      return al_fail(c, AL_ESHAPE, "%s: %s: shape (B,T,H,D) needed, got %s", name, row,
                     AL_META_STR(x));
    const int64_t D = x->shape[3];
    if (x->shape[0] != q->shape[0] || x->shape[1] != q->shape[1] || D != q->shape[3])
      return al_fail(c, AL_ESHAPE, "%s: %s: shape (%lld,%lld,H,%lld) needed to match q %s, got %s",
                     name, row, (long long)q->shape[0], (long long)q->shape[1],
                     (long long)q->shape[3], AL_META_STR(q), AL_META_STR(x));
    if ((dims < 0 ? D : dims) % 2 != 0 || dims > D)
      return al_fail(c, AL_EVALUE,
                     "%s: option 'dims': an even number in 0..D expected, got %lld for %s %s", name,
                     (long long)(dims < 0 ? D : dims), row, AL_META_STR(x));
    k->out_meta[i] = *x;
  }
  return positions_shape(c, k);
}

/* y[i] = x[i] turned, or turned back; pairs with a NULL in y are left out. */
static al_status turn(al_ctx *c, const al_call *k, al_tensor *const *y, al_tensor *const *x,
                      bool back) {
  const int64_t *s = k->in_meta[0].shape, dims = al_opt_int(k->opts, "dims"),
                n = (dims < 0 ? s[3] : dims) / 2;
  const bool own = k->in[tensors_of(k)] != NULL; /* positions: then all tokens are one row */
  const int64_t B = own ? 1 : s[0], T = own ? s[0] * s[1] : s[1], rows = own ? places_of(k) : s[1];
  const al_dtype type = k->in_meta[0].dtype;
  al_tensor *dense[2] = {0},
            *table = al_tensor_new(c, al_statistic_type(type), 3, (const int64_t[]){rows, n, 2});
  alk_rope_task tasks[2];
  int n_tasks = 0;
  for (int i = 0; i < tensors_of(k) && al_error(c) == AL_OK; i++) {
    if (!y[i]) continue;
    const int64_t *stride = al_stride(x[i]);
    const bool as_it_is =
        (stride[3] == 1 || s[3] == 1) && (!own || s[0] == 1 || stride[0] == s[1] * stride[1]);
    dense[i] = as_it_is ? al_retain(x[i]) : al_contiguous_ref(c, x[i]);
    if (!dense[i]) break;
    tasks[n_tasks] =
        (alk_rope_task){.y = al_data(y[i]), .x = al_data(dense[i]), .H = al_size(y[i], 2)};
    memcpy(tasks[n_tasks++].stride, al_stride(dense[i]), sizeof tasks->stride);
  }
  const alk_rope_law law = law_of(k->opts, n);
  if (al_error(c) == AL_OK)
    ALK_RUN(al_here(c, (alk_dtype)type), rope_table, al_data(table), rows, n, &law,
            al_opt_int(k->opts, "offset"));
  if (al_error(c) == AL_OK && own) table = table_by_token(c, k, table);
  if (al_error(c) == AL_OK)
    ALK_RUN(al_here(c, (alk_dtype)type), rope, tasks, n_tasks, al_data(table), B, T, s[3], n,
            al_opt_bool(k->opts, "interleaved"), back);
  for (int i = 0; i < 2; i++) al_release(dense[i]);
  al_release(table);
  return al_error(c);
}

static al_status forward(al_ctx *c, al_call *k) {
  const int i = tensors_of(k);
  al_tensor *given = k->in[i];
  if (given) k->in[i] = al_contiguous_ref(c, given);
  al_release(given);
  AL_TRY(al_error(c));
  AL_TRY(al_check_ids(c, k, i, places_of(k) - 1, NULL, 0));
  return turn(c, k, k->out, k->in, false);
}

/* Turned back in place where the gradient is nobody else's. */
static al_status backward(al_ctx *c, al_call *k) {
  for (int i = 0; i < tensors_of(k); i++)
    if (k->need[i])
      k->din[i] = k->dout[i] ? al_overwrite(c, k->dout[i]) : al_new_meta_full(c, &k->in_meta[i], 0);
  al_tensor *y[2] = {0};
  for (int i = 0; i < tensors_of(k); i++)
    if (k->dout[i]) y[i] = k->din[i];
  return al_error(c) == AL_OK ? turn(c, k, y, k->dout, true) : al_error(c);
}

static const al_arg args[] = {
    {.name = "base",
     .type = AL_T_NUM,
     .def = "10000",
     .min = 1,
     .max = 1e300,
     .doc = "slowest angle is about 1/base a position"},
    {.name = "dims",
     .type = AL_T_INT,
     .def = "-1",
     .min = -1,
     .max = 1e300,
     .doc = "channels that turn, even; -1 = all D; the others pass unchanged"},
    {.name = "interleaved",
     .type = AL_T_BOOL,
     .def = "false",
     .doc = "pairs (2i, 2i+1) instead of (i, i + dims/2)"},
    {.name = "offset",
     .type = AL_T_INT,
     .def = "0",
     .min = 0,
     .max = 9007199254740992.0,
     .doc = "position of t = 0"},
    {.name = "places",
     .type = AL_T_INT,
     .def = "0",
     .min = 0,
     .max = 2147483647.0,
     .doc = "positions lie below it; 0: below T"},
    {.name = "scaling",
     .type = AL_T_WORD,
     .def = "none",
     .choices = "none linear yarn llama3",
     .doc = "how slow pairs turn where positions go beyond those of training"},
    {.name = "factor",
     .type = AL_T_NUM,
     .def = "1",
     .min = 1,
     .max = 1e9,
     .doc = "of a scaling: how many times slower"},
    {.name = "original",
     .type = AL_T_NUM,
     .def = "8192",
     .min = 1,
     .max = 1e12,
     .doc = "of yarn and llama3: positions of training"},
    {.name = "low",
     .type = AL_T_NUM,
     .def = "1",
     .min = 1e-6,
     .max = 1e9,
     .doc = "of yarn (beta_slow) and llama3: pairs of fewer turns over them are slowed down"},
    {.name = "high",
     .type = AL_T_NUM,
     .def = "32",
     .min = 1e-6,
     .max = 1e9,
     .doc = "of yarn (beta_fast) and llama3: pairs of more turns over them are kept"},
    {.name = "size",
     .type = AL_T_NUM,
     .def = "0",
     .min = 0,
     .max = 1e6,
     .doc = "multiplies what turns; 0: 1, with yarn 0.1 ln(factor) + 1"},
    {.name = "truncate",
     .type = AL_T_BOOL,
     .def = "true",
     .doc = "of yarn: the ramp begins and ends at whole pairs"},
    {0}};

#define POSITIONS_ROW                                                                              \
  {                                                                                                \
    "positions", AL_IN_OPTIONAL | AL_IN_I32 | AL_IN_NODIFF,                                        \
        "(B,T), 0..places-1: of each token, instead of t"                                          \
  }

static const al_op rope = {
    .info = {.name = "rope",
             .doc = "Rotary position embedding of x (B,T,H,D): pairs of channels turn with "
                    "position offset + t.",
             .inputs = (const al_row[]){{"x", 0, "(B,T,H,D)"}, POSITIONS_ROW, {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,T,H,D)"}, {0}},
             .args = args},
    .flags = AL_OP_STRIDED,
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_rope_table_has, alk_rope_has),
    .backward = backward,
    .reads_in = 2,
    .samples =
        (const al_sample[]){{.inputs = "(2,5,3,8)"},
                            {"(2,5,3,8) i(2,5)<5", .args = "dims=6"},
                            {"(3,4,2,6)t i(3,4)t<9", .args = "places=9 offset=3"},
                            {"(2,9,2,16) i(2,9)<5", .args = "scaling=yarn factor=4 original=64"},
                            {"(1,3,2,6)t", .args = "interleaved=true offset=7"},
                            {"(2,3,1,7)", .args = "dims=4 base=100"},
                            {"(1,35,1,7)", .args = "dims=2 interleaved=true"},
                            {"(1,2,2,3)", .args = "dims=0"},
                            {"(2,70,9,62)t", .args = "dims=60"},
                            {"(1,5,2,24)", .args = "dims=16"},
                            {"(1,9,2,16)", .args = "scaling=linear factor=4 size=0.5"},
                            {"(1,9,2,16)", .args = "scaling=yarn factor=4 original=64 offset=60"},
                            {"(1,9,1,16)", .args = "scaling=yarn factor=4 original=64 "
                                                   "truncate=false size=1"},
                            {"(1,9,2,16)", .args = "scaling=llama3 factor=8 original=64 "
                                                   "high=4 offset=100"},
                            {0}},
};

static const al_op rope_pair = {
    .info = {.name = "rope_pair",
             .doc = "Rotary position embedding of queries q (B,T,H,D) and keys k (B,T,Hkv,D) at "
                    "once, as by rope.",
             .inputs =
                 (const al_row[]){
                     {"q", 0, "(B,T,H,D)"}, {"k", 0, "(B,T,Hkv,D)"}, POSITIONS_ROW, {0}},
             .outputs = (const al_row[]){{"q", 0, "(B,T,H,D)"}, {"k", 0, "(B,T,Hkv,D)"}, {0}},
             .args = args},
    .flags = AL_OP_STRIDED,
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_rope_table_has, alk_rope_has),
    .backward = backward,
    .reads_in = 4,
    .samples =
        (const al_sample[]){
            {.inputs = "(2,5,3,8) (2,5,1,8)"},
            {"(2,5,2,8) (2,5,1,8)t i(2,5)<7", .args = "places=7 interleaved=true"},
            {"(1,3,2,6)t (1,3,2,6)", .args = "interleaved=true offset=7"},
            {"(2,3,1,7) (2,3,2,7)t", .args = "dims=4 base=100"},
            {"(2,70,6,62) (2,70,3,62)t", .args = "dims=60"},
            {"(1,9,2,16) (1,9,1,16)", .args = "scaling=llama3 factor=8 original=64 high=4"},
            {0}},
};

AL_OPS(rope, &rope, &rope_pair);
