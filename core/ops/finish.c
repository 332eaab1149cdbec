/* finish.c: the tail of the formula in one pass, o = gate Norm(factor y) (kernels/finish.h):
 * nothing between y and o is stored; backward makes it again from y. */
#include "shape.h"
#include "../../kernels/finish.h"

enum { YIN, FACTOR, LOGSCALE, GAIN, BIAS, GATE };
enum { OUT, SCALE, MEAN };

static al_status want(al_ctx *c, const al_call *k, int i, int ndim, const int64_t *shape) {
  const al_meta *m = &k->in_meta[i];
  bool fits = !k->in[i] || m->ndim == ndim;
  for (int a = 0; k->in[i] && fits && a < ndim; a++) fits = m->shape[a] == shape[a];
  if (fits) return AL_OK;
  al_meta w = {.ndim = ndim};
  memcpy(w.shape, shape, (size_t)ndim * sizeof *shape);
  return al_fail(c, AL_ESHAPE, "finish: %s: shape %s needed to match y %s, got %s",
                 k->op->info.inputs[i].name, AL_META_STR(&w), AL_META_STR(&k->in_meta[YIN]),
                 AL_META_STR(m));
}

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *y = &k->in_meta[YIN];
  if (y->ndim != 4)
    return al_fail(c, AL_ESHAPE, "finish: y: shape (B,T,H,E) needed, got %s", AL_META_STR(y));
  const bool joint = al_opt_bool(k->opts, "joint");
  const alk_norm kind = (alk_norm)al_opt_choice(k->opts, "norm");
  const int64_t *n = y->shape, width = joint ? n[2] * n[3] : n[3];
  *(alk_finish *)k->plan = (alk_finish){.kind = kind,
                                        .N = joint ? n[0] * n[1] : n[0] * n[1] * n[2],
                                        .n = width,
                                        .sub = joint ? n[2] : 1,
                                        .eps = al_opt_num(k->opts, "eps")};
  AL_TRY(want(c, k, FACTOR, 3, y->shape));
  AL_TRY(want(c, k, GATE, 3, y->shape));
  AL_TRY(want(c, k, LOGSCALE, joint ? 2 : 3, y->shape));
  AL_TRY(want(c, k, GAIN, 1, &width));
  AL_TRY(want(c, k, BIAS, 1, &width));
  if (kind == ALK_NORM_none && (k->in[GAIN] || k->in[BIAS] || k->in[LOGSCALE]))
    return al_fail(c, AL_EVALUE, "finish: gain, bias, logscale: a norm needed, got norm=none");
  if (!alk_norms[kind].mean && k->in[BIAS])
    return al_fail(c, AL_EVALUE, "finish: bias: norm=layer needed, got norm=%s",
                   alk_norms[kind].word);
  k->out_meta[OUT] = *y;
  const al_meta rows = {
      .dtype = y->dtype, .ndim = joint ? 2 : 3, .shape = {n[0], n[1], joint ? 0 : n[2]}};
  const al_meta nothing = {.dtype = y->dtype, .ndim = 1};
  k->out_meta[SCALE] = kind == ALK_NORM_none ? nothing : rows;
  k->out_meta[MEAN] = alk_norms[kind].mean ? rows : nothing;
  return AL_OK;
}

/* The plan, and where the inputs lie. */
static alk_finish task_of(const al_call *k) {
  alk_finish f = *(const alk_finish *)k->plan;
  f.x = al_data(k->in[YIN]), f.factor = al_data(k->in[FACTOR]), f.gain = al_data(k->in[GAIN]);
  f.bias = al_data(k->in[BIAS]), f.logscale = al_data(k->in[LOGSCALE]);
  f.gate = al_data(k->in[GATE]);
  return f;
}

static al_status forward(al_ctx *c, al_call *k) {
  const alk_finish f = task_of(k);
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[YIN].dtype);
  al_tensor *scratch = AL_ROOM(at, finish_fwd, &f);
  if (scratch && al_numel(k->out[OUT]))
    ALK_RUN(at, finish_fwd, &f, al_data(k->out[OUT]),
            alk_norms[f.kind].mean ? al_data(k->out[MEAN]) : NULL,
            f.kind != ALK_NORM_none ? al_data(k->out[SCALE]) : NULL, al_data(scratch));
  al_release(scratch);
  return al_error(c);
}

static al_tensor *partials(al_ctx *c, const al_call *k, int i, const alk_finish *f) {
  const int64_t shape[] = {(f->N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS, f->n};
  return k->need[i] ? al_tensor_new(c, al_statistic_type(k->in_meta[YIN].dtype), 2, shape) : NULL;
}

static al_tensor *summed(al_ctx *c, al_tensor *p) {
  al_tensor *s = p ? al_run(c, "sum", AL_IN(p), "axes={0}") : NULL;
  al_release(p);
  return s;
}

static al_status backward(al_ctx *c, al_call *k) {
  const alk_finish f = task_of(k);
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[YIN].dtype);
  al_tensor *scratch = AL_ROOM(at, finish_bwd, &f);
  al_tensor *dgain = partials(c, k, GAIN, &f), *dbias = partials(c, k, BIAS, &f);
  k->din[YIN] = al_new_meta(c, &k->in_meta[YIN]);
  if (f.factor) k->din[FACTOR] = al_new_meta(c, &k->in_meta[FACTOR]);
  if (f.gate) k->din[GATE] = al_new_meta(c, &k->in_meta[GATE]);
  if (al_error(c) == AL_OK && al_numel(k->din[YIN]) > 0)
    ALK_RUN(at, finish_bwd, &f, alk_norms[f.kind].mean ? al_data(k->out[MEAN]) : NULL,
            f.kind != ALK_NORM_none ? al_data(k->out[SCALE]) : NULL, al_data(k->dout[OUT]),
            al_data(k->din[YIN]), al_data(k->din[FACTOR]), al_data(k->din[GATE]), al_data(dgain),
            al_data(dbias), al_data(scratch));
  al_release(scratch);
  k->din[GAIN] = summed(c, dgain);
  k->din[BIAS] = summed(c, dbias);
  return al_error(c);
}

static const al_op finish = {
    .info = {.name = "finish",
             .doc = "o = gate Norm(factor y): what follows the sums of attention, in one pass.",
             .inputs =
                 (const al_row[]){{"y", 0, "(B,T,H,E)"},
                                  {"factor", AL_IN_OPTIONAL | AL_STAT, "(B,T,H)"},
                                  {"logscale", AL_IN_OPTIONAL | AL_IN_NODIFF | AL_STAT,
                                   "(B,T,H), joint (B,T): y stands for y e^logscale, seen by eps"},
                                  {"gain", AL_IN_OPTIONAL, "(E), joint (H E)"},
                                  {"bias", AL_IN_OPTIONAL, "(E), joint (H E): norm=layer"},
                                  {"gate", AL_IN_OPTIONAL, "(B,T,H)"},
                                  {0}},
             .outputs = (const al_row[]){{"o", 0, "(B,T,H,E)"},
                                         {"scale", AL_OUT_SAVED | AL_STAT, "of each row"},
                                         {"mean", AL_OUT_SAVED | AL_STAT, "of each row"},
                                         {0}},
             .args = (const al_arg[]){{"norm", AL_T_WORD, "none", alk_norm_words, 0, 0,
                                       "over the channels of a head", NULL},
                                      {"joint", AL_T_BOOL, "false", NULL, 0, 0,
                                       "over the channels of all heads together", NULL},
                                      {"eps", AL_T_NUM, "1e-6", NULL, 0, 1e300,
                                       "as in rmsnorm, layernorm and l2norm", NULL},
                                      {0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_finish_fwd_room_has, alk_finish_fwd_has, alk_finish_bwd_room_has,
                       alk_finish_bwd_has),
    .backward = backward,
    .plan_size = sizeof(alk_finish),
    .reads_in = 1 << YIN | 1 << FACTOR | 1 << GAIN | 1 << BIAS | 1 << GATE | 1 << LOGSCALE,
    .reads_out = 1 << SCALE | 1 << MEAN,
    .samples = (const al_sample[]){{"(2,3,2,5) p(2,3,2)", .args = ""},
                                   {"(2,3,2,5) p(2,3,2) - - - (2,3,2)", .args = "norm=none"},
#define BIAS_MEAN(x) x,
#define BIAS_PLAIN(x)
#define NORM(word, mean, ...)                                                                      \
  {"(2,3,2,5) p(2,3,2) - (5) - (2,3,2)", .args = "eps=0.1 norm=" #word},                           \
      {"(2,3,2,5) - (2,3,2) (5)", .args = "eps=0.3 norm=" #word, .lo = 0.5, .hi = 2},              \
      {"(2,3,2,5) p(2,3,2) (2,3) (10) - (2,3,2)", .args = "joint=true eps=0.2 norm=" #word,        \
       .lo = 0.5, .hi = 2},                                                                        \
      {"(1,70,2,3) p(1,70,2) - (3) - (1,70,2)", .args = "norm=" #word},                            \
      BIAS_##mean(BIAS_SAMPLE(word))
#define BIAS_SAMPLE(word)                                                                          \
  { "(2,3,2,5) (2,3,2) - (10) (10)", "joint=true norm=" #word, 0.5, 2, NULL }
#include "../../kernels/norms.def"
#undef NORM
                                   {0}},
};

AL_OPS(finish, &finish);
