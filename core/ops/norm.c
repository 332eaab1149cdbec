/* norm.c: rms, layer and l2 norm over the last axis: y = gain xh + bias; the maths is in
 * kernels/norm.h. Backward makes xh again from x and the saved row statistics. */
#include "shape.h"
#include "../../kernels/norm.h"

enum { OP_RMS = ALK_NORM_RMS, OP_LAYER = ALK_NORM_LAYER, OP_L2 = ALK_NORM_L2 };
static int op_of(const al_call *k);

/* Inputs in the order of the rows; layer alone has a bias. */
static int logscale_at(const al_call *k) { return op_of(k) == OP_LAYER ? 3 : 2; }

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0], *L = &k->in_meta[logscale_at(k)];
  const char *name = k->op->info.name;
  if (x->ndim < 1)
    return al_fail(c, AL_ESHAPE, "%s: x: at least one axis needed, got %s", name, AL_META_STR(x));
  const int64_t n = x->shape[x->ndim - 1];
  for (int i = 1; i < logscale_at(k); i++) {
    const al_meta *m = &k->in_meta[i];
    if (k->in[i] && (m->ndim != 1 || m->shape[0] != n))
      return al_fail(c, AL_ESHAPE, "%s: %s: (%lld) needed for x %s, got %s", name,
                     k->op->info.inputs[i].name, (long long)n, AL_META_STR(x), AL_META_STR(m));
  }
  al_meta rows = *x;
  rows.ndim--;
  bool fits = L->ndim == rows.ndim;
  for (int i = 0; fits && i < rows.ndim; i++) fits = L->shape[i] == rows.shape[i];
  if (k->in[logscale_at(k)] && !fits)
    return al_fail(c, AL_ESHAPE, "%s: logscale: %s needed for x %s, got %s", name,
                   AL_META_STR(&rows), AL_META_STR(x), AL_META_STR(L));
  k->out_meta[0] = *x;
  for (int i = 1; i < k->n_out; i++) k->out_meta[i] = rows;
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const bool layer = op_of(k) == OP_LAYER;
  const al_tensor *x = k->in[0];
  const int64_t n = al_size(x, -1);
  ALK_RUN(al_here(c, (alk_dtype)al_type(x)), norm_fwd, op_of(k), n ? al_numel(x) / n : 0, n,
          al_opt_num(k->opts, "eps"), al_data(x), al_data(k->in[1]),
          layer ? al_data(k->in[2]) : NULL, al_data(k->in[logscale_at(k)]), al_data(k->out[0]),
          layer ? al_data(k->out[2]) : NULL, al_data(k->out[1]));
  return AL_OK;
}

/* Partial sums (chunks,n) of the kernel, when input i needs its gradient. */
static al_tensor *partials(al_ctx *c, const al_call *k, int i, int64_t N, int64_t n) {
  if (!k->need[i]) return NULL;
  return al_tensor_new(c, k->in_meta[0].dtype, 2,
                       (int64_t[]){(N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS, n});
}

static al_tensor *summed(al_ctx *c, al_tensor *p) {
  al_tensor *s = p ? al_run(c, "sum", AL_IN(p), "axes={0}") : NULL;
  al_release(p);
  return s;
}

static al_status backward(al_ctx *c, al_call *k) {
  const bool layer = op_of(k) == OP_LAYER;
  const al_tensor *x = k->in[0], *dy = k->dout[0];
  const int64_t n = al_size(x, -1), N = n ? al_numel(x) / n : 0;
  al_tensor *dx = k->need[0] ? al_new_meta(c, &k->in_meta[0]) : NULL;
  al_tensor *dgain = partials(c, k, 1, N, n), *dbias = layer ? partials(c, k, 2, N, n) : NULL;
  if (al_error(c) == AL_OK)
    ALK_RUN(al_here(c, (alk_dtype)al_type(x)), norm_bwd, op_of(k), N, n, al_data(x),
            al_data(k->in[1]), layer ? al_data(k->out[2]) : NULL, al_data(k->out[1]), al_data(dy),
            al_data(dx), al_data(dgain), al_data(dbias));
  k->din[0] = dx;
  k->din[1] = summed(c, dgain);
  if (layer) k->din[2] = summed(c, dbias);
  return al_error(c);
}

#define X_ROW                                                                                      \
  { "x", 0, "(..,n)" }
#define GAIN_ROW                                                                                   \
  { "gain", AL_IN_OPTIONAL, "(n), factor of each channel" }
#define LOGSCALE_ROW                                                                               \
  {                                                                                                \
    "logscale", AL_IN_OPTIONAL | AL_IN_NODIFF,                                                     \
        "(..), x without its last axis: x stands for x e^logscale"                                 \
  }
#define OUTPUTS                                                                                    \
  {"y", 0, "(..,n)"}, { "scale", AL_OUT_SAVED, "(..) factor of each row" }
static const al_row inputs[] = {X_ROW, GAIN_ROW, LOGSCALE_ROW, {0}};
static const al_row layer_inputs[] = {
    X_ROW, GAIN_ROW, {"bias", AL_IN_OPTIONAL, "(n), added to each channel"}, LOGSCALE_ROW, {0}};
static const al_row outputs[] = {OUTPUTS, {0}};
static const al_row layer_outputs[] = {
    OUTPUTS, {"mean", AL_OUT_SAVED, "(..) mean of each row"}, {0}};

#define EPS(value, text)                                                                           \
  (const al_arg[]) {                                                                               \
    {.name = "eps", .type = AL_T_NUM, .def = value, .min = 0, .max = 1e300, .doc = text}, { 0 }    \
  }
static const al_sample samples[] = {{.inputs = "(3,7)"},
                                    {.inputs = "(2,3,8) (8)"},
                                    {"(2,3,8)t (8) (2,3)", .args = "eps=0.1", .lo = 0.5, .hi = 2},
                                    {"(2,3,5) - (2,3)", .args = "eps=0.3", .lo = 0.5, .hi = 2},
                                    {"(70,3) (3)", .args = "eps=0"},
                                    {.inputs = "(9) (9) ()"},
                                    {0}};

static const al_op table[] = {
    [OP_RMS] = {.info = {.name = "rmsnorm",
                         .doc =
                             "x / sqrt(mean x^2 + eps) over the last axis of x (..,n), times gain.",
                         .inputs = inputs,
                         .outputs = outputs,
                         .args = EPS("1e-5", "added to the mean square")},
                .shape = shape,
                .forward = forward,
                .backward = backward,
                .reads_in = 1 | 2,
                .reads_out = 2,
                .samples = samples},
    [OP_LAYER] = {.info = {.name = "layernorm",
                           .doc = "(x - mean) / sqrt(variance + eps) over the last axis of x "
                                  "(..,n), times gain, plus "
                                  "bias.",
                           .inputs = layer_inputs,
                           .outputs = layer_outputs,
                           .args = EPS("1e-5", "added to the variance")},
                  .shape = shape,
                  .forward = forward,
                  .backward = backward,
                  .reads_in = 1 | 2,
                  .reads_out = 2 | 4,
                  .samples = (const al_sample[]){{.inputs = "(3,7)"},
                                                 {.inputs = "(2,3,8) (8) (8)"},
                                                 {"(2,3,8)t (8) - (2,3)", .args = "eps=0.1"},
                                                 {"(2,3,5) - (5) (2,3)", .args = "eps=0.3"},
                                                 {"(70,3) (3) (3)", .args = "eps=0.01"},
                                                 {.inputs = "(9) (9) (9) ()"},
                                                 {0}}},
    [OP_L2] = {.info = {.name = "l2norm",
                        .doc = "x / max(||x||, eps) over the last axis of x (..,n), times gain; no "
                               "gradient to x where "
                               "||x|| <= eps.",
                        .inputs = inputs,
                        .outputs = outputs,
                        .args = EPS("1e-12", "least length divided by")},
               .shape = shape,
               .forward = forward,
               .backward = backward,
               .reads_in = 1 | 2,
               .reads_out = 2,
               .samples = samples},
};

static int op_of(const al_call *k) { return (int)(k->op - table); }

AL_OPS(norm, &table[OP_RMS], &table[OP_LAYER], &table[OP_L2]);
