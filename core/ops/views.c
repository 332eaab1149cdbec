/* views.c: ops that move no numbers: reshape permute transpose slice expand squeeze unsqueeze
 * contiguous.
 *
 * Each makes a strided window on its input's storage; reshape copies where strides cannot express
 * the new shape, contiguous where the input is not packed. The gradient is the inverse window of
 * the gradient, except for slice (written into zeros) and expand (summed).
 */
#include "shape.h"
#include "../../kernels/copy.h"

typedef int64_t dims[AL_MAX_DIMS];

static void packed(int ndim, const int64_t *shape, int64_t *stride) {
  int64_t run = 1;
  for (int i = ndim - 1; i >= 0; i--) stride[i] = run, run *= shape[i];
}

/* Strides of t's elements, in row-major order, under another shape of as many; false when there are
 * none. Axes of t are merged into evenly spaced groups, and each group is split anew from its end.
 */
static bool split_strides(const al_tensor *t, int ndim, const int64_t *shape, int64_t *stride) {
  packed(ndim, shape, stride);
  if (al_numel(t) == 0) return true;
  dims size, step;
  int n = 0;
  for (int i = 0; i < al_ndim(t); i++) {
    const int64_t s = al_size(t, i), st = al_stride(t)[i];
    if (s == 1) continue;
    if (n && step[n - 1] == st * s) size[n - 1] *= s, step[n - 1] = st;
    else size[n] = s, step[n++] = st;
  }
  int j = ndim - 1;
  for (int g = n - 1; g >= 0; g--) {
    int64_t left = size[g], run = step[g];
    for (; left > 1; j--) {
      if (left % shape[j] != 0) return false;
      stride[j] = run;
      run *= shape[j];
      left /= shape[j];
    }
  }
  return true;
}

static al_tensor *reshaped(al_ctx *c, al_tensor *t, int ndim, const int64_t *shape) {
  dims stride;
  if (split_strides(t, ndim, shape, stride)) return al_tensor_view(c, t, ndim, shape, stride, 0);
  al_tensor *d = al_contiguous_ref(c, t), *v = NULL;
  packed(ndim, shape, stride);
  if (d) v = al_tensor_view(c, d, ndim, shape, stride, 0);
  al_release(d);
  return v;
}

/* The gradient of everything that keeps the elements and their order. */
static al_status reshape_back(al_ctx *c, al_call *k) {
  k->din[0] = reshaped(c, k->dout[0], k->in_meta[0].ndim, k->in_meta[0].shape);
  return al_error(c);
}

static al_status reshape_forward(al_ctx *c, al_call *k) {
  k->out[0] = reshaped(c, k->in[0], k->out_meta[0].ndim, k->out_meta[0].shape);
  return al_error(c);
}

/* ---- reshape ---- */

static al_status reshape_shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  const double *v;
  const int n = al_opt_list(k->opts, "shape", &v);
  if (!al_opts_given(k->opts, "shape"))
    return al_fail(c, AL_EVALUE, "reshape: option 'shape' is needed");
  if (n > AL_MAX_DIMS)
    return al_fail(c, AL_EVALUE, "reshape: option 'shape': at most %d sizes, got %d", AL_MAX_DIMS,
                   n);
  al_meta *y = &k->out_meta[0];
  *y = (al_meta){.dtype = x->dtype, .ndim = n};
  int64_t known = 1, total = 1;
  int open = -1;
  for (int i = 0; i < x->ndim; i++) total *= x->shape[i];
  bool fits = true;
  for (int i = 0; i < n && fits; i++) {
    y->shape[i] = (int64_t)v[i];
    if (v[i] == -1 && open < 0) open = i;
    else fits = v[i] >= 0 && !__builtin_mul_overflow(known, y->shape[i], &known);
  }
  if (fits && open >= 0) {
    fits = known > 0 && total % known == 0;
    if (fits) y->shape[open] = total / known;
  } else {
    fits = fits && known == total;
  }
  if (fits) return AL_OK;
  for (int i = 0; i < n; i++) y->shape[i] = (int64_t)v[i];
  return al_fail(
      c, AL_ESHAPE,
      "reshape: option 'shape': %lld elements of x %s needed (one size may be -1), got %s",
      (long long)total, AL_META_STR(x), AL_META_STR(y));
}

static const al_op reshape = {
    .info = {.name = "reshape",
             .doc = "The elements of x in row-major order under another shape; a view where "
                    "strides allow, else a copy.",
             .inputs = (const al_row[]){{"x", AL_IN_ANY, "any shape"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "of the new shape"}, {0}},
             .args = (const al_arg[]){{.name = "shape",
                                       .type = AL_T_INT | AL_T_LIST,
                                       .doc = "sizes; one may be -1 = what is left"},
                                      {0}}},
    .flags = AL_OP_VIEW,
    .shape = reshape_shape,
    .forward = reshape_forward,
    .backward = reshape_back,
    .samples = (const al_sample[]){{"(2,3,4)", .args = "shape={6,-1}"},
                                   {"(2,3,4)t", .args = "shape={2,12}"},
                                   {"(2,6,5)t", .args = "shape={2,5,3,2}"},
                                   {"(1)", .args = "shape={}"},
                                   {"(4,1,3)", .args = "shape={-1}"},
                                   {0}},
};

/* ---- permute, transpose ---- */

/* out axis i = in axis order[i]; the inverse when `back`. */
static al_tensor *permuted(al_ctx *c, const al_tensor *t, const int *order, bool back) {
  dims shape, stride;
  for (int i = 0; i < al_ndim(t); i++) {
    const int from = back ? i : order[i], to = back ? order[i] : i;
    shape[to] = al_size(t, from);
    stride[to] = al_stride(t)[from];
  }
  return al_tensor_view(c, t, al_ndim(t), shape, stride, 0);
}

/* The plan of both: order[AL_MAX_DIMS]. */
static al_status permute_order(al_ctx *c, const al_call *k, int *order) {
  const double *v;
  const int n = al_opt_list(k->opts, "axes", &v), ndim = k->in_meta[0].ndim;
  unsigned seen = 0;
  bool good = n == ndim;
  for (int i = 0; i < n && good; i++) {
    const double a = v[i] < 0 ? v[i] + ndim : v[i];
    good = a >= 0 && a < ndim && !(seen >> (int)a & 1);
    if (good) order[i] = (int)a, seen |= 1u << order[i];
  }
  if (good) return AL_OK;
  return al_fail(c, AL_EVALUE,
                 "permute: option 'axes': each of the %d axes of x %s needed once, got %d axes%s",
                 ndim, AL_META_STR(&k->in_meta[0]), n,
                 n == ndim ? ", some out of range or repeated" : "");
}

static al_status transpose_order(al_ctx *c, const al_call *k, int *order) {
  const int ndim = k->in_meta[0].ndim;
  int a, b;
  AL_TRY(al_axis(c, k, "a", ndim, &a));
  AL_TRY(al_axis(c, k, "b", ndim, &b));
  for (int i = 0; i < ndim; i++) order[i] = i == a ? b : i == b ? a : i;
  return AL_OK;
}

static al_status order_of(al_ctx *c, const al_call *k, int *order) {
  return k->op->info.args[0].type & AL_T_LIST ? permute_order(c, k, order)
                                              : transpose_order(c, k, order);
}

static al_status permute_shape(al_ctx *c, al_call *k) {
  int *order = k->plan;
  AL_TRY(order_of(c, k, order));
  k->out_meta[0] = k->in_meta[0];
  for (int i = 0; i < k->in_meta[0].ndim; i++)
    k->out_meta[0].shape[i] = k->in_meta[0].shape[order[i]];
  return AL_OK;
}

static al_status permute_forward(al_ctx *c, al_call *k) {
  k->out[0] = permuted(c, k->in[0], k->plan, false);
  return al_error(c);
}

static al_status permute_back(al_ctx *c, al_call *k) {
  k->din[0] = permuted(c, k->dout[0], k->plan, true);
  return al_error(c);
}

static const al_op permute = {
    .info = {.name = "permute",
             .doc = "A view of x with its axes in another order.",
             .inputs = (const al_row[]){{"x", AL_IN_ANY, "any shape"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "axis i of y is axis axes[i] of x"}, {0}},
             .args = (const al_arg[]){{.name = "axes",
                                       .type = AL_T_AXIS | AL_T_LIST,
                                       .doc = "every axis of x once, in the new order"},
                                      {0}}},
    .flags = AL_OP_VIEW,
    .shape = permute_shape,
    .forward = permute_forward,
    .backward = permute_back,
    .plan_size = AL_MAX_DIMS * sizeof(int),
    .samples = (const al_sample[]){{"(2,3,4)", .args = "axes={2,0,1}"},
                                   {"(2,3,4,5)t", .args = "axes={0,2,-3,-1}"},
                                   {0}},
};

static const al_op transpose = {
    .info = {.name = "transpose",
             .doc = "A view of x with axes a and b exchanged.",
             .inputs = (const al_row[]){{"x", AL_IN_ANY, "two or more axes by default"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "x with two axes exchanged"}, {0}},
             .args =
                 (const al_arg[]){{.name = "a", .type = AL_T_AXIS, .def = "-2", .doc = "one axis"},
                                  {.name = "b", .type = AL_T_AXIS, .def = "-1", .doc = "the other"},
                                  {0}}},
    .flags = AL_OP_VIEW,
    .shape = permute_shape,
    .forward = permute_forward,
    .backward = permute_back,
    .plan_size = AL_MAX_DIMS * sizeof(int),
    .samples = (const al_sample[]){{.inputs = "(3,5)"}, {"(2,3,4)t", .args = "a=0 b=-1"}, {0}},
};

/* ---- slice ---- */

typedef struct range {
  int axis;
  int64_t start, count, step;
} range;

/* Positions count from 0, negative ones from the end. */
static al_status slice_shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  range *r = k->plan;
  AL_TRY(al_axis(c, k, "axis", x->ndim, &r->axis));
  const int64_t n = x->shape[r->axis];
  int64_t at[2] = {al_opt_int(k->opts, "start"), n};
  if (al_opts_given(k->opts, "stop")) at[1] = al_opt_int(k->opts, "stop");
  for (int i = 0; i < 2; i++) {
    if (at[i] < -n || at[i] > n)
      return al_fail(c, AL_EVALUE,
                     "slice: option '%s': integer in %lld..%lld expected for that axis of x %s, "
                     "got %lld",
                     i ? "stop" : "start", (long long)-n, (long long)n, AL_META_STR(x),
                     (long long)at[i]);
    if (at[i] < 0) at[i] += n;
  }
  /* a step past the end is the same slice, and its stride cannot overflow */
  r->step = al_opt_int(k->opts, "step");
  if (r->step > n) r->step = n > 0 ? n : 1;
  r->start = at[0];
  r->count = at[1] > at[0] ? (at[1] - at[0] + r->step - 1) / r->step : 0;
  k->out_meta[0] = *x;
  k->out_meta[0].shape[r->axis] = r->count;
  return AL_OK;
}

static al_tensor *sliced(al_ctx *c, const al_call *k, const al_tensor *t) {
  const range *r = k->plan;
  dims shape, stride;
  memcpy(shape, al_shape(t), sizeof shape[0] * (size_t)al_ndim(t));
  memcpy(stride, al_stride(t), sizeof stride[0] * (size_t)al_ndim(t));
  const int64_t offset = r->count ? r->start * stride[r->axis] : 0;
  shape[r->axis] = r->count;
  stride[r->axis] *= r->step;
  return al_tensor_view(c, t, al_ndim(t), shape, stride, offset);
}

static al_status slice_forward(al_ctx *c, al_call *k) {
  k->out[0] = sliced(c, k, k->in[0]);
  return al_error(c);
}

static al_status slice_back(al_ctx *c, al_call *k) {
  k->din[0] = al_new_meta_full(c, &k->in_meta[0], 0);
  al_tensor *window = k->din[0] ? sliced(c, k, k->din[0]) : NULL;
  if (window) al_copy_into(c, window, k->dout[0]);
  al_release(window);
  return al_error(c);
}

static const al_op slice = {
    .info = {.name = "slice",
             .doc = "A view of the positions start, start + step, ... before stop along one axis "
                    "of x; positions count from 0, negative ones from the end.",
             .inputs = (const al_row[]){{"x", AL_IN_ANY, "one or more axes"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "x with a shorter axis"}, {0}},
             .args =
                 (const al_arg[]){
                     {.name = "axis", .type = AL_T_AXIS, .def = "-1", .doc = "the axis"},
                     {.name = "start", .type = AL_T_INT, .def = "0", .doc = "first position"},
                     {.name = "stop",
                      .type = AL_T_INT,
                      .doc = "position after the last; the end by default"},
                     {.name = "step",
                      .type = AL_T_INT,
                      .def = "1",
                      .min = 1,
                      .max = 1e300,
                      .doc = "distance of two positions"},
                     {0}}},
    .flags = AL_OP_VIEW,
    .shape = slice_shape,
    .forward = slice_forward,
    .backward = slice_back,
    .plan_size = sizeof(range),
    .samples = (const al_sample[]){{"(3,7)", .args = "start=1 stop=6 step=2"},
                                   {"(5,3)t", .args = "axis=0 start=-3"},
                                   {"(2,5,3)", .args = "axis=1 stop=-1 step=3"},
                                   {"(2,5)", .args = "start=3 stop=3"},
                                   {0}},
};

/* ---- expand ---- */

static al_status expand_shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  const double *v;
  const int n = al_opt_list(k->opts, "shape", &v), lead = n - x->ndim;
  if (!al_opts_given(k->opts, "shape"))
    return al_fail(c, AL_EVALUE, "expand: option 'shape' is needed");
  if (n > AL_MAX_DIMS)
    return al_fail(c, AL_EVALUE, "expand: option 'shape': at most %d sizes, got %d", AL_MAX_DIMS,
                   n);
  al_meta *y = &k->out_meta[0];
  *y = (al_meta){.dtype = x->dtype, .ndim = n};
  bool fits = lead >= 0;
  for (int i = 0; i < n; i++) {
    y->shape[i] = (int64_t)v[i];
    if (!fits) continue;
    if (v[i] == -1 && i >= lead) y->shape[i] = x->shape[i - lead];
    fits = y->shape[i] >= 0 &&
           (i < lead || x->shape[i - lead] == 1 || x->shape[i - lead] == y->shape[i]);
  }
  if (fits) return AL_OK;
  return al_fail(
      c, AL_ESHAPE,
      "expand: option 'shape': sizes that x %s broadcasts to needed (-1 keeps one), got %s",
      AL_META_STR(x), AL_META_STR(y));
}

static al_status expand_forward(al_ctx *c, al_call *k) {
  const al_meta *y = &k->out_meta[0];
  dims stride;
  broadcast_strides(k->in[0], y->ndim, y->shape, stride);
  k->out[0] = al_tensor_view(c, k->in[0], y->ndim, y->shape, stride, 0);
  return al_error(c);
}

static al_status expand_back(al_ctx *c, al_call *k) {
  k->din[0] = sum_to(c, al_retain(k->dout[0]), &k->in_meta[0]);
  return al_error(c);
}

static const al_op expand = {
    .info =
        {.name = "expand",
         .doc =
             "A view of x that repeats its axes of size 1, and new leading axes, without copying.",
         .inputs = (const al_row[]){{"x", AL_IN_ANY, "any shape"}, {0}},
         .outputs = (const al_row[]){{"y", 0, "of the larger shape"}, {0}},
         .args = (const al_arg[]){{.name = "shape",
                                   .type = AL_T_INT | AL_T_LIST,
                                   .doc = "sizes; -1 keeps that of x"},
                                  {0}}},
    .flags = AL_OP_VIEW,
    .shape = expand_shape,
    .forward = expand_forward,
    .backward = expand_back,
    .samples = (const al_sample[]){{"(3,1)", .args = "shape={2,3,4}"},
                                   {"(1,3,1)t", .args = "shape={5,-1,3}"},
                                   {"(4)", .args = "shape={4}"},
                                   {"(1)", .args = "shape={7}"},
                                   {0}},
};

/* ---- squeeze, unsqueeze, contiguous ---- */

static al_status squeeze_shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  al_meta *y = &k->out_meta[0];
  int axis;
  AL_TRY(al_axis(c, k, "axis", x->ndim, &axis));
  if (x->shape[axis] != 1)
    return al_fail(c, AL_ESHAPE, "squeeze: x: size 1 needed on the axis, got %lld in %s",
                   (long long)x->shape[axis], AL_META_STR(x));
  *y = *x;
  y->ndim--;
  for (int i = axis; i < y->ndim; i++) y->shape[i] = x->shape[i + 1];
  return AL_OK;
}

static const al_op squeeze = {
    .info = {.name = "squeeze",
             .doc = "A view of x without one axis of size 1.",
             .inputs = (const al_row[]){{"x", AL_IN_ANY, "size 1 on that axis"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "one axis less"}, {0}},
             .args =
                 (const al_arg[]){
                     {.name = "axis", .type = AL_T_AXIS, .def = "-1", .doc = "the axis to drop"},
                     {0}}},
    .flags = AL_OP_VIEW,
    .shape = squeeze_shape,
    .forward = reshape_forward,
    .backward = reshape_back,
    .samples = (const al_sample[]){{.inputs = "(3,1)"},
                                   {"(2,1,3)", .args = "axis=-2"},
                                   {"(1,2,3)t", .args = "axis=0"},
                                   {0}},
};

static al_status unsqueeze_shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  al_meta *y = &k->out_meta[0];
  if (x->ndim == AL_MAX_DIMS)
    return al_fail(c, AL_ESHAPE, "unsqueeze: x: fewer than %d axes needed, got %s", AL_MAX_DIMS,
                   AL_META_STR(x));
  int axis;
  AL_TRY(al_axis(c, k, "axis", x->ndim + 1, &axis));
  *y = *x;
  y->ndim++;
  y->shape[axis] = 1;
  for (int i = axis; i < x->ndim; i++) y->shape[i + 1] = x->shape[i];
  return AL_OK;
}

static const al_op unsqueeze = {
    .info = {.name = "unsqueeze",
             .doc = "A view of x with a new axis of size 1.",
             .inputs = (const al_row[]){{"x", AL_IN_ANY, "any shape"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "one axis more"}, {0}},
             .args = (const al_arg[]){{.name = "axis",
                                       .type = AL_T_AXIS,
                                       .def = "-1",
                                       .doc = "where the new axis stands in y"},
                                      {0}}},
    .flags = AL_OP_VIEW,
    .shape = unsqueeze_shape,
    .forward = reshape_forward,
    .backward = reshape_back,
    .samples =
        (const al_sample[]){
            {.inputs = "(3,2)"}, {"(2,3)t", .args = "axis=1"}, {"(4)", .args = "axis=0"}, {0}},
};

static al_status contiguous_shape(al_ctx *c, al_call *k) {
  k->out_meta[0] = k->in_meta[0];
  return al_error(c);
}

static al_status contiguous_forward(al_ctx *c, al_call *k) {
  al_tensor *d = al_contiguous_ref(c, k->in[0]);
  if (d) k->out[0] = al_tensor_view(c, d, al_ndim(d), al_shape(d), al_stride(d), 0);
  al_release(d);
  return al_error(c);
}

static al_status contiguous_back(al_ctx *c, al_call *k) {
  k->din[0] = al_retain(k->dout[0]);
  return al_error(c);
}

static const al_op contiguous = {
    .info = {.name = "contiguous",
             .doc = "x itself when its elements are packed in row-major order, else a packed copy.",
             .inputs = (const al_row[]){{"x", AL_IN_ANY, "any shape"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "packed"}, {0}},
             .args = (const al_arg[]){{0}}},
    .flags = AL_OP_VIEW,
    .shape = contiguous_shape,
    .forward = contiguous_forward,
    .backward = contiguous_back,
    .samples = (const al_sample[]){{.inputs = "(3,5)"}, {.inputs = "(2,3,5)t"}, {0}},
};

AL_OPS(views, &reshape, &permute, &transpose, &slice, &expand, &squeeze, &unsqueeze, &contiguous);
