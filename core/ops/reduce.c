/* reduce.c: sum, mean, max, min and l2 over a list of axes.
 *
 * Neighbouring axes that are all reduced, or all kept, are merged; then one group of reduced axes
 * after the other goes, the innermost first, each as the middle axis of (O,R,I). */
#include "shape.h"
#include "../../kernels/binary.h"
#include "../../kernels/reduce.h"
#include "../../kernels/select.h"

typedef struct groups { /* merged axes, alternately kept and reduced */
  int n;
  int64_t size[AL_MAX_DIMS];
  bool reduced[AL_MAX_DIMS];
} groups;

typedef struct plan {
  bool gone[AL_MAX_DIMS]; /* which axes of x go */
  groups s;
} plan;

/* An empty list means all. */
static al_status reduced_axes(al_ctx *c, const al_call *k, bool *gone) {
  const al_meta *x = &k->in_meta[0];
  const double *list;
  const int n = al_opt_list(k->opts, "axes", &list);
  for (int i = 0; i < x->ndim; i++) gone[i] = n == 0;
  for (int i = 0; i < n; i++) {
    const int64_t a = (int64_t)list[i] + (list[i] < 0 ? x->ndim : 0);
    if (a < 0 || a >= x->ndim || gone[a])
      return al_fail(
          c, AL_EVALUE,
          "%s: option 'axes': different axes of x %s expected; entry %d of the list is %s",
          k->op->info.name, AL_META_STR(x), i + 1,
          a < 0 || a >= x->ndim ? "not an axis of it" : "there before");
    gone[a] = true;
  }
  return AL_OK;
}

static groups merged(const al_meta *x, const bool *gone) {
  groups s = {.n = 0};
  for (int i = 0; i < x->ndim; i++) {
    if (x->shape[i] == 1) continue;
    if (s.n > 0 && s.reduced[s.n - 1] == gone[i]) {
      s.size[s.n - 1] *= x->shape[i];
    } else {
      s.size[s.n] = x->shape[i];
      s.reduced[s.n++] = gone[i];
    }
  }
  return s;
}

/* The innermost reduced group as the middle axis of (O,R,I); without one R = 1. Removes it. */
static void take_group(groups *s, int64_t *O, int64_t *R, int64_t *I) {
  int at = s->n - 1;
  *O = *R = *I = 1;
  while (at >= 0 && !s->reduced[at]) *I *= s->size[at--];
  if (at >= 0) *R = s->size[at];
  for (int i = 0; i < at; i++) *O *= s->size[i];
  if (at < 0) *O = *I, *I = 1;
  if (at < 0) return;
  const bool after = at + 1 < s->n;
  if (after && at > 0) s->size[at - 1] *= s->size[at + 1];
  else if (after) s->size[0] = s->size[1], s->reduced[0] = false;
  s->n = at > 0 ? at : after ? 1 : 0;
}

static bool more_groups(const groups *s) {
  for (int i = 0; i < s->n; i++)
    if (s->reduced[i]) return true;
  return false;
}

static const int kinds[] = {ALK_SUM, ALK_SUM, ALK_MAX, ALK_MIN, ALK_SUM_SQUARES};
enum { OP_SUM, OP_MEAN, OP_MAX, OP_MIN, OP_L2 };
static int op_of(const al_call *k);

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  al_meta *y = &k->out_meta[0];
  plan *p = k->plan;
  const bool *gone = p->gone;
  AL_TRY(reduced_axes(c, k, p->gone));
  p->s = merged(x, gone);
  y->dtype = x->dtype;
  y->ndim = 0;
  int64_t count = 1;
  for (int i = 0; i < x->ndim; i++) {
    if (gone[i]) count *= x->shape[i];
    if (!gone[i]) y->shape[y->ndim++] = x->shape[i];
    else if (al_opt_bool(k->opts, "keep")) y->shape[y->ndim++] = 1;
  }
  if (count == 0 && op_of(k) != OP_SUM && op_of(k) != OP_L2)
    return al_fail(c, AL_ESHAPE,
                   "%s: x: at least one element along the reduced axes needed, got %s",
                   k->op->info.name, AL_META_STR(x));
  return AL_OK;
}

/* Reduces the middle axis of x, in stages of at most `chunk`, into y, or into a new tensor
 * (O,I); of bf16 in f32. */
static al_tensor *reduce_middle(al_ctx *c, int kind, int64_t O, int64_t R, int64_t I, int64_t chunk,
                                double scale, bool root, al_tensor *x, al_tensor *y) {
  al_retain(x);
  for (;;) {
    const int64_t n = R > chunk ? (R + chunk - 1) / chunk : 1;
    const bool last = n == 1;
    al_tensor *to = last && y
                        ? al_retain(y)
                        : al_tensor_new(c, al_statistic_type(al_type(x)), 3, (int64_t[]){O, n, I});
    if (to)
      ALK_RUN(al_here(c, (alk_dtype)al_type(x)), reduce, kind, O, R, I, chunk, last ? scale : 1,
              last && root, al_data(x), al_data(to));
    al_release(x);
    if (last || !to) return to;
    x = to;
    R = n;
    if (kind == ALK_SUM_SQUARES) kind = ALK_SUM;
  }
}

static al_status forward(al_ctx *c, al_call *k) {
  groups s = ((const plan *)k->plan)->s;
  const int64_t count = al_numel(k->out[0]);
  const double scale = op_of(k) == OP_MEAN ? (double)count / (double)al_numel(k->in[0]) : 1;
  int kind = kinds[op_of(k)];
  if (count == 0) return AL_OK;
  al_tensor *x = al_retain(k->in[0]), *out = al_retain(k->out[0]);
  if (k->narrow) {
    al_meta m = k->out_meta[0];
    m.dtype = AL_F32;
    al_release(out);
    if (!(out = al_new_meta(c, &m))) goto done;
  }
  for (bool more = true; more && x;) {
    int64_t O, R, I;
    take_group(&s, &O, &R, &I);
    more = more_groups(&s);
    al_tensor *y =
        reduce_middle(c, kind, O, R, I, I == 1 ? ALK_ROW_CHUNK : ALK_COLUMN_CHUNK, more ? 1 : scale,
                      !more && op_of(k) == OP_L2, x, more ? NULL : out);
    al_release(x);
    x = y;
    if (kind == ALK_SUM_SQUARES) kind = ALK_SUM;
  }
  if (k->narrow) al_copy_into(c, k->out[0], out);
done:
  al_release(x);
  al_release(out);
  return al_error(c);
}

/* y (the output's shape, packed) repeated to x's shape. */
static alk_view repeated(al_tensor *y, const al_meta *x, const bool *gone) {
  alk_view v = {.data = al_data(y), .ndim = x->ndim, .dtype = (alk_dtype)al_type(y)};
  int64_t run = 1;
  for (int i = x->ndim - 1; i >= 0; i--) {
    v.size[i] = x->shape[i];
    v.stride[i] = gone[i] ? 0 : run;
    if (!gone[i]) run *= x->shape[i];
  }
  return v;
}

static al_status backward(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  const bool *gone = ((const plan *)k->plan)->gone;
  bool all[AL_MAX_DIMS];
  for (int i = 0; i < x->ndim; i++) all[i] = true;
  al_tensor *dx = al_new_meta(c, x), *dy = k->dout[0], *f = NULL;
  if (!dx) return al_error(c);
  const int64_t count = al_numel(dy);
  if (op_of(k) == OP_L2) {
    f = al_new_meta(c, &k->out_meta[0]);
    if (f)
      ALK_RUN(al_here(c, (alk_dtype)x->dtype), reduce_l2_slope, count, al_data(k->out[0]),
              al_data(dy), al_data(f));
  } else {
    const int64_t n = al_numel(dx);
    f = al_tensor_full(c, x->dtype, 0, NULL,
                       op_of(k) == OP_MEAN && n ? (double)count / (double)n : 1);
  }
  if (f) {
    const bool l2 = op_of(k) == OP_L2;
    const alk_view a = l2 ? al_view(k->in[0]) : repeated(dy, x, gone),
                   b = repeated(f, x, l2 ? gone : all);
    ALK_RUN(al_here(c, (alk_dtype)x->dtype), binary, ALK_BIN_mul, ALK_BIN_VALUE, &a, &b, NULL,
            al_data(dx));
    if (l2) { /* 0 where the factor is, whatever x holds */
      const alk_view d = al_view(dx), none = {.ndim = d.ndim};
      ALK_RUN(al_here(c, (alk_dtype)x->dtype), select, &d, &b, &d, &none);
    }
  }
  al_release(f);
  k->din[0] = dx;
  return al_error(c);
}

/* Of a maximum or minimum over several groups of axes: the steps of forward are made again, then
 * the gradient goes back through each to its first winner, which is the first of all in row-major
 * order. */
static al_status backward_pick(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  groups s = ((const plan *)k->plan)->s;
  const alk_dtype t = (alk_dtype)x->dtype;
  al_tensor *step[AL_MAX_DIMS + 1] = {al_retain(k->in[0])}, *g = al_retain(k->dout[0]);
  int64_t O[AL_MAX_DIMS], R[AL_MAX_DIMS], I[AL_MAX_DIMS];
  int n = 0;
  for (bool more = true; more && al_error(c) == AL_OK; n++) {
    take_group(&s, &O[n], &R[n], &I[n]);
    more = more_groups(&s);
    step[n + 1] = more ? reduce_middle(c, kinds[op_of(k)], O[n], R[n], I[n], R[n] + 1, 1, false,
                                       step[n], NULL)
                       : al_retain(k->out[0]);
  }
  for (int i = n - 1; i >= 0 && al_error(c) == AL_OK; i--) {
    al_tensor *d =
        i > 0 ? al_tensor_new(c, x->dtype, 3, (int64_t[]){O[i], R[i], I[i]}) : al_new_meta(c, x);
    if (d)
      ALK_RUN(al_here(c, t), reduce_pick, O[i], R[i], I[i], al_data(step[i]), al_data(step[i + 1]),
              al_data(g), al_data(d));
    al_release(g);
    g = d;
  }
  for (int i = 0; i <= n; i++) al_release(step[i]);
  k->din[0] = g;
  return al_error(c);
}

static const al_row inputs[] = {{"x", 0, "(..)"}, {0}};
static const al_row outputs[] = {{"y", 0, "x without the reduced axes, or with 1 in their place"},
                                 {0}};
static const al_arg args[] = {
    {.name = "axes",
     .type = AL_T_AXIS | AL_T_LIST,
     .def = "{}",
     .doc = "axes to reduce; none given = all"},
    {.name = "keep", .type = AL_T_BOOL, .def = "false", .doc = "keep reduced axes with size 1"},
    {0}};
static const al_sample samples[] = {{.inputs = "(3,5)"},
                                    {.inputs = "()"},
                                    {"(3,37)", .args = "axes={-1}"},
                                    {"(67,3)", .args = "axes={0} keep=true"},
                                    {"(2,3,4,5)", .args = "axes={0,2}"},
                                    {"(2,3,4,5)", .args = "axes={1,-1} keep=true"},
                                    {"(3,1,5)t", .args = "axes={1}"},
                                    {"(2,3,4)", .args = "axes={1,0}"},
                                    {0}};

#define REDUCTION(stem, text, ...)                                                                 \
  {                                                                                                \
    .info = {.name = #stem, .doc = text, .inputs = inputs, .outputs = outputs, .args = args},      \
    .shape = shape, .forward = forward, .plan_size = sizeof(plan), .samples = samples, __VA_ARGS__ \
  }
static const al_op table[] = {
    [OP_SUM] = REDUCTION(sum, "Sum of x over the given axes.", .backward = backward,
                         .bf16 = AL_KERNELS(alk_reduce_has, alk_binary_has)),
    [OP_MEAN] = REDUCTION(mean, "Mean of x over the given axes.", .backward = backward),
    [OP_MAX] = REDUCTION(
        max, "Largest element of x over the given axes; the first of equals takes the gradient.",
        .backward = backward_pick, .reads_in = 1, .reads_out = 1),
    [OP_MIN] = REDUCTION(
        min, "Smallest element of x over the given axes; the first of equals takes the gradient.",
        .backward = backward_pick, .reads_in = 1, .reads_out = 1),
    [OP_L2] = REDUCTION(l2, "Square root of the sum of squares of x over the given axes.",
                        .backward = backward, .reads_in = 1, .reads_out = 1),
};

static int op_of(const al_call *k) { return (int)(k->op - table); }

AL_OPS(reduce, &table[OP_SUM], &table[OP_MEAN], &table[OP_MAX], &table[OP_MIN], &table[OP_L2]);
