/* matmul.c: y = alpha a' b' + bias, a' (..,M,K), b' (..,K,N), a' = a or its transpose.
 *
 * Batch axes broadcast. All operands go to the kernel as strided views, so a transpose costs
 * nothing; one whose two last axes both have a stride is copied first. With a 2-D b all rows of a
 * are one product, and so is the gradient of b.
 */
#include "reach.h"
#include "shape.h"
#include "../../kernels/matmul.h"

typedef struct plan {
  bool ta, tb, as_one; /* transposed; all rows of a are one product */
  double alpha;
} plan;

/* One operand as the kernel sees it: a matrix for each entry of the batch. */
typedef struct mat {
  void *data;
  al_dtype dtype;
  int64_t rows, cols, row, col; /* sizes, strides */
  int64_t batch[AL_MAX_DIMS];   /* stride along each batch axis of the product, 0 = repeats */
} mat;

static mat matrix(const al_tensor *t, const al_meta *y) {
  const int n = al_ndim(t);
  const int64_t *stride = al_stride(t);
  mat m = {.data = al_data(t),
           .dtype = al_type(t),
           .rows = al_size(t, -2),
           .cols = al_size(t, -1),
           .row = stride[n - 2],
           .col = stride[n - 1]};
  const int nb = y->ndim - 2, lead = y->ndim - n;
  for (int i = 0; i < nb; i++)
    m.batch[i] = i >= lead && al_size(t, i - lead) == y->shape[i] ? stride[i - lead] : 0;
  return m;
}

static mat flipped(mat m) {
  mat f = m;
  f.rows = m.cols, f.cols = m.rows, f.row = m.col, f.col = m.row;
  return f;
}

/* c = alpha a b (+ bias), or c += alpha a b; c has packed columns. */
static void product(al_ctx *ctx, const al_meta *y, double alpha, mat a, mat b, mat c,
                    const al_numbers *bias, bool add) {
  alk_matmul_task t = {.dtype = (alk_dtype)y->dtype,
                       .wide = c.dtype != y->dtype,
                       .m = a.rows,
                       .n = b.cols,
                       .k = a.cols,
                       .a = a.data,
                       .b = b.data,
                       .c = c.data,
                       .a_row = a.row,
                       .a_col = a.col,
                       .b_row = b.row,
                       .b_col = b.col,
                       .c_row = c.row,
                       .n_batch = y->ndim - 2,
                       .alpha = alpha,
                       .add = add,
                       .bias = bias};
  memcpy(t.batch, y->shape, (size_t)t.n_batch * sizeof *t.batch);
  memcpy(t.a_batch, a.batch, sizeof a.batch);
  memcpy(t.b_batch, b.batch, sizeof b.batch);
  memcpy(t.c_batch, c.batch, sizeof c.batch);
  int64_t n = 1;
  for (int i = 0; i < t.n_batch; i++) n *= t.batch[i];
  al_count(ctx, n * t.m * t.n * t.k);
  al_count_bytes(ctx, n * (t.m * t.k + t.k * t.n + t.m * t.n) * al_dtype_size(y->dtype));
  ALK_RUN(al_here(ctx, t.dtype), matmul, &t);
}

/* True when all axes but the last are one axis of evenly spaced rows. */
static bool one_matrix(const al_tensor *t) {
  int64_t next = -1;
  for (int i = al_ndim(t) - 2; i >= 0; i--) {
    if (al_size(t, i) == 1) continue;
    if (next >= 0 && al_stride(t)[i] != next) return false;
    next = al_stride(t)[i] * al_size(t, i);
  }
  return true;
}

/* New reference to t, or to a packed copy where the kernel could not take t as it is. */
static al_tensor *usable(al_ctx *c, al_tensor *t, bool as_one) {
  const int n = al_ndim(t);
  const int64_t *stride = al_stride(t);
  const bool direct =
      alk_matmul_direct(al_size(t, -2), al_size(t, -1), stride[n - 2], stride[n - 1]);
  return direct && (!as_one || one_matrix(t)) ? al_retain(t) : al_contiguous_ref(c, t);
}

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *a = &k->in_meta[0], *b = &k->in_meta[1];
  const bool ta = al_opt_bool(k->opts, "transpose_a"), tb = al_opt_bool(k->opts, "transpose_b");
  *(plan *)k->plan = (plan){ta, tb, !ta && b->ndim == 2, al_opt_num(k->opts, "alpha")};
  for (int i = 0; i < 2; i++)
    if (k->in_meta[i].ndim < 2)
      return al_fail(c, AL_ESHAPE, "matmul: %s: 2 or more axes needed, got %s", i ? "b" : "a",
                     AL_META_STR(&k->in_meta[i]));
  const int64_t *as = a->shape + a->ndim - 2, *bs = b->shape + b->ndim - 2;
  const int64_t M = as[ta], K = as[!ta], N = bs[!tb];
  if (bs[tb] != K)
    return al_fail(c, AL_ESHAPE, "matmul: b: size(%d) must be %lld to match a %s%s, got %s%s",
                   tb ? -1 : -2, (long long)K, AL_META_STR(a), ta ? " transposed" : "",
                   AL_META_STR(b), tb ? " transposed" : "");
  al_meta *y = &k->out_meta[0];
  *y = (al_meta){.dtype = a->dtype, .ndim = a->ndim - 2};
  memcpy(y->shape, a->shape, (size_t)y->ndim * sizeof *y->shape);
  if (!broadcast_into(y, b->ndim - 2, b->shape))
    return al_fail(c, AL_ESHAPE, "matmul: b: batch axes that fit those of a %s needed, got %s",
                   AL_META_STR(a), AL_META_STR(b));
  y->shape[y->ndim++] = M;
  y->shape[y->ndim++] = N;
  const al_meta *bias = &k->in_meta[2];
  if (k->in[2] && (bias->ndim != 1 || bias->shape[0] != N))
    return al_fail(c, AL_ESHAPE, "matmul: bias: shape (%lld) needed to match b %s, got %s",
                   (long long)N, AL_META_STR(b), AL_META_STR(bias));
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const plan *p = k->plan;
  al_tensor *a = usable(c, k->in[0], p->as_one), *b = usable(c, k->in[1], false);
  al_tensor *bias = al_contiguous_ref(c, k->in[2]);
  if (a && b && (bias || !k->in[2])) {
    const al_meta *y = &k->out_meta[0];
    const mat ma = matrix(a, y), mb = matrix(b, y);
    product(c, y, p->alpha, p->ta ? flipped(ma) : ma, p->tb ? flipped(mb) : mb,
            matrix(k->out[0], y), al_data(bias), false);
  }
  al_release(a);
  al_release(b);
  al_release(bias);
  return al_error(c);
}

/* The gradient of input i, to be added to where there is one already (*add). Of bf16 that of a 2-D
 * b, which is summed over all rows, and of the bias are f32. */
static al_tensor *gradient(al_ctx *c, al_call *k, int i, bool *add) {
  al_meta m = k->in_meta[i];
  if (i == 2 || (i == 1 && ((const plan *)k->plan)->as_one)) m.dtype = al_statistic_type(m.dtype);
  *add = i < 2 && k->sum[i];
  return k->din[i] = *add ? al_retain(k->sum[i]) : al_new_meta(c, &m);
}

/* The terms of a gradient are rows of d, which is dy or dy^T, times rows of x. As views: the batch
 * axes of x, its rows, the rest. */
static alk_reach_pair terms(const al_meta *y, mat d, mat x) {
  alk_reach_pair k = {.g = {.data = d.data, .dtype = (alk_dtype)y->dtype}};
  alk_view *g = &k.g, *v = &k.x;
  const int nb = y->ndim - 2;
  *v = *g;
  v->data = x.data;
  for (int i = 0; i < nb; i++) {
    if (x.batch[i] == 0) continue;
    g->size[g->ndim] = y->shape[i], g->stride[g->ndim++] = d.batch[i];
    v->size[v->ndim] = y->shape[i], v->stride[v->ndim++] = x.batch[i];
  }
  g->size[g->ndim] = d.rows, g->stride[g->ndim++] = d.row;
  v->size[v->ndim] = x.rows, v->stride[v->ndim++] = x.row;
  k.rows = v->ndim;
  for (int i = 0; i < nb; i++)
    if (x.batch[i] == 0) g->size[g->ndim] = y->shape[i], g->stride[g->ndim++] = d.batch[i];
  g->size[g->ndim] = d.cols, g->stride[g->ndim++] = d.col;
  v->size[v->ndim] = x.cols, v->stride[v->ndim++] = x.col;
  return k;
}

/* Where a row of d is all 0 and that of x is not finite, x becomes a copy with 0 there: returns
 * what the copy lies in, a new reference, or NULL where x stays or with the error pending. */
static al_tensor *without_unreached(al_ctx *c, const al_meta *y, mat d, mat *x) {
  const alk_reach_pair k = terms(y, d, *x);
  al_tensor *reached = reach_rows(c, &k.g, k.rows), *t = NULL;
  if (reach_dirty(c, &k.x, k.rows, reached) &&
      (t = al_tensor_new(c, y->dtype, k.x.ndim, k.x.size))) {
    const int64_t *stride = al_stride(t);
    ALK_RUN(al_here(c, k.x.dtype), reach_clean, &k.x, k.rows, al_data(reached), al_data(t));
    x->data = al_data(t), x->row = stride[k.rows - 1], x->col = stride[k.rows];
    for (int i = 0, own = 0; i < y->ndim - 2; i++)
      if (x->batch[i] != 0) x->batch[i] = stride[own++];
  }
  al_release(reached);
  return t;
}

/* The same where the host would have to wait: such rows go as numbers while the products run. */
typedef struct hiding {
  int n;
  alk_reach_pair pair[ALK_REACH_PAIRS];
  al_tensor *room[2 * ALK_REACH_PAIRS];
} hiding;

static void hide(al_ctx *c, hiding *h, const al_meta *y, mat d, mat x) {
  alk_reach_pair k = terms(y, d, x);
  int64_t rows = 1, all = 1;
  for (int i = 0; i < k.x.ndim; i++) {
    all *= k.x.size[i];
    if (i < k.rows) rows *= k.x.size[i];
  }
  if (all == 0) return;
  al_tensor **room = &h->room[2 * h->n];
  room[0] = reach_mask(c, rows * ALK_REACH_WORDS(all / rows) * (int64_t)sizeof(uint32_t));
  room[1] = reach_mask(c, rows);
  k.turned = al_data(room[0]), k.hidden = al_data(room[1]);
  h->pair[h->n++] = k;
}
static void begin(al_ctx *c, const hiding *h, alk_dtype dtype) {
  if (h->n && al_error(c) == AL_OK) ALK_RUN(al_here(c, dtype), reach_hide, h->n, h->pair);
}
static void show(al_ctx *c, hiding *h, alk_dtype dtype) {
  if (h->n && al_error(c) == AL_OK) ALK_RUN(al_here(c, dtype), reach_show, h->n, h->pair);
  for (int i = 0; i < 2 * h->n; i++) al_release(h->room[i]);
  h->n = 0;
}

/* da' = alpha dy b'^T and db' = alpha a'^T dy, each written in the layout of its input and summed
 * over the batch axes that the input lacks; dbias = dy summed over all rows. */
static al_status backward(al_ctx *c, al_call *k) {
  const plan *p = k->plan;
  const bool ta = p->ta, tb = p->tb;
  const al_meta *y = &k->out_meta[0];
  al_tensor *a = usable(c, k->in[0], p->as_one), *b = usable(c, k->in[1], false);
  al_tensor *dy = k->need[2] ? al_contiguous_ref(c, k->dout[0]) : usable(c, k->dout[0], p->as_one);
  al_tensor *rows_a = NULL, *columns_b = NULL;
  hiding h[2] = {0}; /* of operands that share memory one after the other */
  const alk_dtype type = (alk_dtype)y->dtype;
  const bool apart = a && b && al_shares(a, b);
  if (!a || !b || !dy) goto done;
  const mat d = matrix(dy, y);
  mat ma = ta ? flipped(matrix(a, y)) : matrix(a, y),
      mb = flipped(tb ? flipped(matrix(b, y)) : matrix(b, y)); /* b'^T */
  if (al_at_hand(dy)) {
    if (k->need[0]) columns_b = without_unreached(c, y, flipped(d), &mb);
    if (k->need[1]) rows_a = without_unreached(c, y, d, &ma);
  } else {
    if (k->need[0]) hide(c, &h[0], y, flipped(d), mb);
    if (k->need[1]) hide(c, &h[apart], y, d, ma);
    begin(c, &h[0], type);
  }
  if (al_error(c) != AL_OK) goto done;
  bool add;
  if (k->need[0]) {
    if (!gradient(c, k, 0, &add)) goto done;
    const mat out = matrix(k->din[0], y);
    if (ta) product(c, y, p->alpha, flipped(mb), flipped(d), out, NULL, add);
    else product(c, y, p->alpha, d, mb, out, NULL, add);
  }
  if (apart) show(c, &h[0], type), begin(c, &h[1], type);
  if (k->need[1]) {
    if (!gradient(c, k, 1, &add)) goto done;
    const mat out = matrix(k->din[1], y);
    if (tb) product(c, y, p->alpha, flipped(d), ma, out, NULL, add);
    else product(c, y, p->alpha, flipped(ma), d, out, NULL, add);
  }
  if (k->need[2] && gradient(c, k, 2, &add)) {
    const int64_t N = k->in_meta[2].shape[0];
    ALK_RUN(al_here(c, (alk_dtype)y->dtype), bias_sum, al_data(k->din[2]), al_data(dy),
            N ? al_numel(dy) / N : 0, N);
  }
done:
  show(c, &h[0], type);
  show(c, &h[1], type);
  al_release(a);
  al_release(b);
  al_release(dy);
  al_release(rows_a);
  al_release(columns_b);
  return al_error(c);
}

static const al_op matmul = {
    .info = {.name = "matmul",
             .doc = "Matrix product alpha a b + bias of a (..,M,K) and b (..,K,N) -> (..,M,N); "
                    "batch axes broadcast, "
                    "and b may be 2-D for any a.",
             .inputs = (const al_row[]){{"a", 0, "(..,M,K), or (..,K,M) with transpose_a"},
                                        {"b", 0, "(..,K,N), or (..,N,K) with transpose_b"},
                                        {"bias", AL_IN_OPTIONAL, "(N), added to every row"},
                                        {0}},
             .outputs = (const al_row[]){{"y", 0, "(..,M,N)"}, {0}},
             .args = (const al_arg[]){{.name = "transpose_a",
                                       .type = AL_T_BOOL,
                                       .def = "false",
                                       .doc = "a is stored (..,K,M)"},
                                      {.name = "transpose_b",
                                       .type = AL_T_BOOL,
                                       .def = "false",
                                       .doc = "b is stored (..,N,K)"},
                                      {.name = "alpha",
                                       .type = AL_T_NUM,
                                       .def = "1",
                                       .doc = "factor of the product"},
                                      {0}}},
    .flags = AL_OP_STRIDED,
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_bias_sum_has, alk_reach_has, alk_reach_dirty_has, alk_reach_clean_has,
                       alk_reach_hide_has, alk_reach_show_has),
    .backward = backward,
    .plan_size = sizeof(plan),
    .reads_in = 1 | 2,
    .samples = (const al_sample[]){{.inputs = "(3,5) (5,4)"},
                                   {"(3,5)t (5,4)t", .args = "alpha=0.5"},
                                   {"(2,3,5) (5,7) (7)", .args = "alpha=-2"},
                                   {.inputs = "(2,3,5)t (5,7)t (7)"},
                                   {"(2,3,5) (7,5) (7)", .args = "transpose_b=true"},
                                   {"(2,5,3) (5,4)", .args = "transpose_a=true"},
                                   {"(2,5,3) (4,5) (4)",
                                    .args = "transpose_a=true transpose_b=true alpha=3"},
                                   {.inputs = "(2,3,4,5) (2,3,5,1)"},
                                   {.inputs = "(2,1,4,5)t (3,5,2)t"},
                                   {"(3,4,5) (2,1,6,5) (6)", .args = "transpose_b=true"},
                                   {.inputs = "(1,5) (3,5,2)"},
                                   {.inputs = "(4,1) (1,3)"},
                                   {.inputs = "(2,90,48) (48,70) (70)"},
                                   {"(5,33,40)t (5,35,40)", .args = "transpose_b=true"},
                                   {0}},
};

AL_OPS(matmul, &matmul);
