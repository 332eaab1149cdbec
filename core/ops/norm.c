/* norm.c: one op for each row of kernels/norms.def, over the last axis: y = gain xh + bias; the
 * maths is in kernels/norm.h. Backward makes xh again from x and the saved row statistics. */
#include "shape.h"
#include "../../kernels/norm.h"

static alk_norm kind_of(const al_call *k);

/* Inputs in the order of the rows; norms that take the mean off alone have a bias. */
static bool has_mean(const al_call *k) { return alk_norms[kind_of(k)].mean; }
static int logscale_at(const al_call *k) { return has_mean(k) ? 3 : 2; }

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
  const bool mean = has_mean(k);
  const al_tensor *x = k->in[0];
  const int64_t n = al_size(x, -1);
  ALK_RUN(al_here(c, (alk_dtype)al_type(x)), norm_fwd, kind_of(k), n ? al_numel(x) / n : 0, n,
          al_opt_num(k->opts, "eps"), al_data(x), al_data(k->in[1]),
          mean ? al_data(k->in[2]) : NULL, al_data(k->in[logscale_at(k)]), al_data(k->out[0]),
          mean ? al_data(k->out[2]) : NULL, al_data(k->out[1]));
  return AL_OK;
}

/* Partial sums (chunks,n) of the kernel, when input i needs its gradient. */
static al_tensor *partials(al_ctx *c, const al_call *k, int i, int64_t N, int64_t n) {
  if (!k->need[i]) return NULL;
  return al_tensor_new(c, al_statistic_type(k->in_meta[0].dtype), 2,
                       (int64_t[]){(N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS, n});
}

static al_tensor *summed(al_ctx *c, al_tensor *p) {
  al_tensor *s = p ? al_run(c, "sum", AL_IN(p), "axes={0}") : NULL;
  al_release(p);
  return s;
}

static al_status backward(al_ctx *c, al_call *k) {
  const bool mean = has_mean(k);
  const al_tensor *x = k->in[0], *dy = k->dout[0];
  const int64_t n = al_size(x, -1), N = n ? al_numel(x) / n : 0;
  al_tensor *dx = k->need[0] ? al_new_meta(c, &k->in_meta[0]) : NULL;
  al_tensor *dgain = partials(c, k, 1, N, n), *dbias = mean ? partials(c, k, 2, N, n) : NULL;
  if (al_error(c) == AL_OK)
    ALK_RUN(al_here(c, (alk_dtype)al_type(x)), norm_bwd, kind_of(k), N, n, al_data(x),
            al_data(k->in[1]), mean ? al_data(k->out[2]) : NULL, al_data(k->out[1]), al_data(dy),
            al_data(dx), al_data(dgain), al_data(dbias));
  k->din[0] = dx;
  k->din[1] = summed(c, dgain);
  if (mean) k->din[2] = summed(c, dbias);
  return al_error(c);
}

#define X_ROW                                                                                      \
  { "x", 0, "(..,n)" }
#define GAIN_ROW                                                                                   \
  { "gain", AL_IN_OPTIONAL, "(n), factor of each channel" }
#define LOGSCALE_ROW                                                                               \
  {                                                                                                \
    "logscale", AL_IN_OPTIONAL | AL_IN_NODIFF | AL_STAT,                                           \
        "(..), x without its last axis: x stands for x e^logscale"                                 \
  }
#define OUTPUTS                                                                                    \
  {"y", 0, "(..,n)"}, { "scale", AL_OUT_SAVED | AL_STAT, "(..) factor of each row" }
static const al_row plain_inputs[] = {X_ROW, GAIN_ROW, LOGSCALE_ROW, {0}};
static const al_row mean_inputs[] = {
    X_ROW, GAIN_ROW, {"bias", AL_IN_OPTIONAL, "(n), added to each channel"}, LOGSCALE_ROW, {0}};
static const al_row plain_outputs[] = {OUTPUTS, {0}};
static const al_row mean_outputs[] = {
    OUTPUTS, {"mean", AL_OUT_SAVED | AL_STAT, "(..) mean of each row"}, {0}};

static const al_sample plain_samples[] = {
    {.inputs = "(3,7)"},
    {.inputs = "(2,3,8) (8)"},
    {"(2,3,8)t (8) (2,3)", .args = "eps=0.1", .lo = 0.5, .hi = 2},
    {"(2,3,5) - (2,3)", .args = "eps=0.3", .lo = 0.5, .hi = 2},
    {"(70,3) (3)", .args = "eps=0"},
    {.inputs = "(9) (9) ()"},
    {0}};
static const al_sample mean_samples[] = {{.inputs = "(3,7)"},
                                         {.inputs = "(2,3,8) (8) (8)"},
                                         {"(2,3,8)t (8) - (2,3)", .args = "eps=0.1"},
                                         {"(2,3,5) - (5) (2,3)", .args = "eps=0.3"},
                                         {"(70,3) (3) (3)", .args = "eps=0.01"},
                                         {.inputs = "(9) (9) (9) ()"},
                                         {0}};

#define IF_MEAN(x) mean_##x
#define IF_PLAIN(x) plain_##x
#define READS_MEAN (2 | 4)
#define READS_PLAIN 2
#define NORM(word, mean, gain, homogeneous, op_eps, eps_, text, eps_doc, latex, torch)             \
  [ALK_NORM_##word] = {.info = {.name = #word "norm",                                              \
                                .doc = text,                                                       \
                                .inputs = IF_##mean(inputs),                                       \
                                .outputs = IF_##mean(outputs),                                     \
                                .args = (const al_arg[]){{.name = "eps",                           \
                                                          .type = AL_T_NUM,                        \
                                                          .def = op_eps,                           \
                                                          .min = 0,                                \
                                                          .max = 1e300,                            \
                                                          .doc = eps_doc},                         \
                                                         {0}}},                                    \
                       .shape = shape,                                                             \
                       .forward = forward,                                                         \
                       .bf16 = AL_KERNELS(alk_norm_fwd_has, alk_norm_bwd_has),                     \
                       .backward = backward,                                                       \
                       .reads_in = 1 | 2,                                                          \
                       .reads_out = READS_##mean,                                                  \
                       .samples = IF_##mean(samples)},
static const al_op table[] = {
#include "../../kernels/norms.def"
};
#undef NORM

static alk_norm kind_of(const al_call *k) { return (alk_norm)(k->op - table); }

#define NORM(word, ...) &table[ALK_NORM_##word],
const al_op *const al_ops_norm[] = {
#include "../../kernels/norms.def"
    NULL};
