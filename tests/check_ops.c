/* check_ops.c: every registered op, every sample, one driver: what it computes.
 *
 * The f64 kernel is the truth once central differences agree with its backward; f32, other layouts
 * and other thread counts are compared with it. Errors are ratios of root mean squares. An op
 * without samples fails. What is exempt from the gradient check is printed, counted, and listed in
 * `exemptions`, so that the list cannot grow unseen. What ops refuse is in check_refusals.c.
 */
#include "op_case.h"
#include <math.h>

/* Cases as "op: inputs args", or an op without a gradient. */
static const char *const exemptions[] = {
    "add_i32",
    "attend: (1,3,2,40) (1,9,1,40) (1,9,1,70) causal=true offset=6 normalise=true",
    "attend: (2,5,4,3) (2,5,2,3) (2,5,2,6) causal=true normalise=true",
    "attend: (2,3,2,3) (2,9,2,3) (2,9,2,2) (2,9,1) - i(2)<10 causal=true offset=4 normalise=true",
    "attend: (1,5,2,3) (1,5,2,3) (1,5,2,2) (1,5,2) - i(1)<6 causal=true f=cosh",
    "attend: (1,5,2,3) (1,5,2,3) (1,5,2,2) softcap=2 clamp=5 stat=none dropout=0.4 key=5",
    "attend: (2,5,4,3) (2,5,2,3) (2,5,2,6) - - - - (1,4) expr='t*s^2' expr_names=t causal=true "
    "normalise=true",
    "cast: (7) dtype=f32",
    "cast: (4,2)t dtype=bf16",
    "cast: (9) dtype=i32",
    "expression: (1,2,3,4) expr='s^3' round_bf16=true",
    "present",
    "round_bf16: (3,37)",
    "round_bf16: (2,3,5)t",
    "sign",
    "visible_count",
    "visible_max",
    "weights: (1,2,3,4) round_bf16=true",
};
enum { N_EXEMPT = sizeof exemptions / sizeof exemptions[0] };

/* rms(a - b) / rms(b); equal infinities count as equal. */
static double ratio(int64_t n, const double *a, const double *b) {
  double d = 0, s = 0;
  for (int64_t i = 0; i < n; i++) {
    if (a[i] == b[i] && !isfinite(b[i])) continue;
    d += (a[i] - b[i]) * (a[i] - b[i]);
    s += b[i] * b[i];
  }
  if (d == 0) return 0;
  return s > 0 ? sqrt(d / s) : INFINITY;
}

static void expect_close(const result *a, const result *b, double limit_y, double limit_g,
                         const char *what) {
  expect(a->n_y == b->n_y && a->n_g == b->n_g && a->graded == b->graded, "%s: other sizes", what);
  const double y = ratio(a->n_y, a->y, b->y), g = ratio(a->n_g, a->g, b->g);
  expect(y <= limit_y, "%s: output differs by %.3g, at most %.1g allowed", what, y, limit_y);
  expect(g <= limit_g, "%s: gradient differs by %.3g, at most %.1g allowed", what, g, limit_g);
}

/* ---- what holds for a sample ---- */

/* What the gradient check differentiates. Small samples: the inputs themselves, in their stored
 * shape, which an op that gradients flow through swaps back. Large ones: one scalar an input, y =
 * f(base + scalar way), so that two runs cover all elements at once. */
typedef struct probe {
  const sample_case *k;
  int which; /* output */
  al_tensor *base[MAX_WORDS], *way[MAX_WORDS];
} probe;

static al_tensor *probed(al_ctx *ctx, al_tensor *const *in, int n, void *user) {
  const probe *p = user;
  al_tensor *x[MAX_WORDS], *out[MAX_OUT] = {0};
  for (int i = 0; i < n; i++) {
    x[i] = in[i];
    if (p->way[i])
      x[i] = al_run(ctx, "add", AL_IN(p->base[i], al_run(ctx, "mul", AL_IN(p->way[i], in[i]), "")),
                    "");
    else if (p->base[i]) x[i] = p->base[i];
    if (p->k->w[i].swapped) x[i] = al_run(ctx, "transpose", AL_IN(x[i]), "");
  }
  al_seed(ctx, 5);
  al_opts *o = options(p->k);
  if (o) al_op_run(ctx, &op->info, x, n, o, out, visible_outputs());
  al_opts_release(o);
  return out[p->which];
}

static void check_gradient(const sample_case *k) {
  if (!op->backward || k->sample->exempt) return;
  sample_case stored = *k;
  al_tensor *in[MAX_WORDS] = {0};
  probe p = {.k = k};
  bool any = false;
  for (int i = 0; i < k->n; i++) {
    word *w = &stored.w[i];
    const int64_t last = w->swapped ? w->shape[w->ndim - 1] : 0;
    if (w->swapped) w->shape[w->ndim - 1] = w->shape[w->ndim - 2], w->shape[w->ndim - 2] = last;
    w->swapped = false;
    in[i] = make(&stored, i, AL_F64, AS_WRITTEN);
    if (in[i] && k->total > LARGE) {
      p.base[i] = in[i];
      in[i] = al_tensor_full(c, AL_F64, 0, (const int64_t[]){0}, 0);
      if (al_needs_grad(p.base[i])) {
        al_requires_grad(p.base[i], false);
        al_requires_grad(in[i], true);
        p.way[i] = al_tensor_new(c, AL_F64, w->ndim, w->shape);
        al_fill_uniform(p.way[i], 9, -1, 1);
      }
    }
    any |= in[i] && al_needs_grad(in[i]);
  }
  for (; any && p.which < visible_outputs(); p.which++) {
    double worst;
    /* errors of the difference: step^2/6 times the third derivative, 1e-16 |f| / step */
    al_gradcheck(c, probed, in, k->n, &p, 1e-5, &worst);
    expect_ok();
    expect(worst <= 1e-6, "gradient differs from central differences by %.3g", worst);
  }
  for (int i = 0; i < k->n; i++) {
    if (in[i]) al_set_grad(in[i], NULL);
    al_release(in[i]);
    al_release(p.base[i]);
    al_release(p.way[i]);
  }
}

/* Outputs complete, no leak; the same numbers in other layouts, types, threads, and the same bits
 * when a run is repeated. */
static void check_values(const sample_case *k) {
  static const struct {
    const char *what;
    al_dtype dtype;
    layout layout;
    int threads;
    double limit_y, limit_g; /* f32: a sum of a hundred terms keeps 1e-6 */
  } variants[] = {{"repeated", AL_F64, AS_WRITTEN, 2, 0, 0},
                  {"packed", AL_F64, PACKED, 2, 1e-13, 1e-13},
                  {"axes swapped in memory", AL_F64, SWAPPED, 2, 1e-13, 1e-13},
                  {"spread in memory", AL_F64, SPREAD, 2, 1e-13, 1e-13},
                  {"one thread", AL_F64, AS_WRITTEN, 1, 1e-13, 1e-13},
                  {"three threads", AL_F64, AS_WRITTEN, 3, 1e-13, 1e-13},
                  {"f32", AL_F32, AS_WRITTEN, 2, 2e-6, 4e-6},
                  {"f32, spread in memory", AL_F32, SPREAD, 3, 2e-6, 4e-6}};
  for (int which = 0; which < visible_outputs(); which++) {
    const int64_t live = al_memory(c).live;
    al_memory_poison(c, true);
    result truth = run(k, AL_F64, AS_WRITTEN, which, WEIGHTS);
    expect_ok();
    expect(al_memory(c).live == live, "%lld bytes leaked", (long long)(al_memory(c).live - live));
    for (int64_t i = 0; i < truth.n_y; i++)
      if (!isfinite(truth.y[i])) expect(false, "y[%d] = %g", (int)i, truth.y[i]);
    for (int64_t i = 0; i < truth.n_g; i++)
      if (!isfinite(truth.g[i])) expect(false, "dx[%d] = %g", (int)i, truth.g[i]);
    al_memory_poison(c, false);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
      al_set_threads(variants[i].threads);
      result r = run(k, variants[i].dtype, variants[i].layout, which, WEIGHTS);
      expect_ok();
      expect_close(&r, &truth, variants[i].limit_y, variants[i].limit_g, variants[i].what);
      result twin = run(k, variants[i].dtype, variants[i].layout, which, WEIGHTS);
      expect_close(&twin, &r, 0, 0, "run twice");
      result_free(&twin);
      result_free(&r);
    }
    result packed = run(k, AL_F64, PACKED, which, WEIGHTS);
    result alone = run(k, AL_F64, PACKED, which, ALONE);
    expect_ok();
    expect_close(&alone, &packed, 0, 0, "what the graph alone holds");
    result_free(&alone);
    result_free(&packed);
    result_free(&truth);
    result ones = run(k, AL_F64, AS_WRITTEN, which, ONES);
    result repeated = run(k, AL_F64, AS_WRITTEN, which, REPEATED);
    expect_ok();
    expect_close(&repeated, &ones, 0, 1e-13, "gradient with strides of 0");
    result_free(&repeated);
    result_free(&ones);
  }
}

/* On another device the CPU's numbers, within what a sum in another order moves. */
static void check_place(const sample_case *k) {
  static const struct {
    al_dtype dtype;
    layout layout;
    double limit_y, limit_g;
  } types[] = {{AL_F64, AS_WRITTEN, 1e-12, 1e-12},
               {AL_F64, SPREAD, 1e-12, 1e-12},
               {AL_F32, AS_WRITTEN, 2e-6, 4e-6}};
  const char *there = al_on(c, NULL);
  if (strcmp(there, "cpu") == 0) return;
  for (int which = 0; which < visible_outputs(); which++)
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
      result got = run(k, types[i].dtype, types[i].layout, which, WEIGHTS);
      expect_ok();
      al_on(c, "cpu");
      result truth = run(k, types[i].dtype, types[i].layout, which, WEIGHTS);
      al_on(c, there);
      expect_ok();
      expect_close(&got, &truth, types[i].limit_y, types[i].limit_g,
                   types[i].dtype == AL_F32 ? "f32, against the CPU" : "f64, against the CPU");
      if (i == 0) {
        result alone = run(k, AL_F64, AS_WRITTEN, which, ALONE);
        expect_ok();
        expect_close(&alone, &truth, types[i].limit_y, types[i].limit_g,
                     "what the graph alone holds, against the CPU");
        result_free(&alone);
      }
      result_free(&got);
      result_free(&truth);
    }
}

/* What .shape promises is what forward makes; views make their outputs themselves. */
static void check_shapes(const sample_case *k) {
  al_tensor *in[MAX_WORDS] = {0}, *out[MAX_OUT] = {0};
  al_meta in_meta[MAX_WORDS] = {0}, out_meta[MAX_OUT] = {0};
  for (int i = 0; i < k->n; i++)
    if ((in[i] = make(k, i, AL_F64, AS_WRITTEN))) {
      in_meta[i] = (al_meta){.dtype = al_type(in[i]), .ndim = al_ndim(in[i])};
      memcpy(in_meta[i].shape, al_shape(in[i]), sizeof in_meta[i].shape);
    }
  al_opts *o = options(k);
  const int n_rows = count_rows(op->info.inputs);
  al_call call = {.op = op,
                  .opts = o,
                  .plan = calloc(1, op->plan_size + 1),
                  .n_in = k->n > n_rows ? k->n : n_rows,
                  .n_out = count_rows(op->info.outputs),
                  .in = in,
                  .in_meta = in_meta,
                  .out_meta = out_meta};
  op->shape(c, &call);
  free(call.plan);
  al_op_run(c, &op->info, in, k->n, o, out, visible_outputs());
  expect_ok();
  for (int i = 0, v = 0; i < call.n_out; i++) {
    if (op->info.outputs[i].flags & AL_OUT_SAVED) continue;
    const al_tensor *y = out[v++];
    const al_meta *m = &out_meta[i];
    expect(al_type(y) == m->dtype, "output %d: %s promised, got %s", i, al_dtype_name(m->dtype),
           al_dtype_name(al_type(y)));
    bool same = al_ndim(y) == m->ndim;
    for (int a = 0; same && a < m->ndim; a++) same = al_size(y, a) == m->shape[a];
    expect(same, "output %d: %s promised, got %s", i, al_meta_str(m, (char[96]){0}, 96), AL_STR(y));
  }
  for (int i = 0; i < MAX_OUT; i++) al_release(out[i]);
  for (int i = 0; i < k->n; i++) al_release(in[i]);
  al_opts_release(o);
}

/* RMS of a - b over that of b; both are released. */
static double distance(al_tensor *a, al_tensor *b) {
  const int64_t n = al_numel(b);
  double *x = malloc(2 * sizeof *x * (size_t)(n + 1)), *y = x + n + 1, d = 0, size = 0;
  al_read(a, x, n);
  al_read(b, y, n);
  for (int64_t i = 0; i < n; i++) d += (x[i] - y[i]) * (x[i] - y[i]), size += y[i] * y[i];
  free(x);
  al_release(a);
  al_release(b);
  return size > 0 ? sqrt(d / size) : sqrt(d);
}

/* Does the op run in bf16 there, or is it composed of f32? */
static bool runs_narrow(void) {
  al_tensor *t = al_tensor_full(c, AL_BF16, 0, NULL, 0);
  const alk_place at = al_where(t)->k;
  al_release(t);
  for (const al_has *has = op->bf16; has && *has; has++)
    if (!(*has)(&at)) return false;
  return op->bf16 != NULL;
}

/* How far outputs (into y) and gradients (into g) of inputs in f32 move when each op's outputs are off by
 * 2^-8, as those of kernels of bf16 are: the largest of a few draws. */
static void magnified(const sample_case *k, al_tensor *const *in, int which, double *y, double *g) {
  const int n_out = visible_outputs();
  double *kept[MAX_WORDS + 1] = {0}; /* without noise: gradients, the output */
  *y = 0;
  for (int i = 0; i < k->n; i++) g[i] = 0;
  for (int draw = 0; draw < 4; draw++) {
    al_tensor *out[MAX_OUT] = {0};
    al_seed(c, 5);
    if (draw) al_jitter(c, 0x1p-8, (uint64_t)draw << 32);
    al_opts *o = options(k);
    al_op_run(c, &op->info, in, k->n, o, out, n_out);
    al_opts_release(o);
    if (al_needs_grad(out[which])) {
      al_tensor *seed =
          al_tensor_full(c, al_type(out[which]), al_ndim(out[which]), al_shape(out[which]), 1);
      al_fill_uniform(seed, 3, 0.5, 1.5);
      al_backward(c, out[which], seed);
      al_release(seed);
    }
    al_jitter(c, 0, 0);
    expect_ok();
    for (int i = 0; i <= k->n; i++) {
      const al_tensor *t = i == k->n ? out[which] : in[i] ? al_grad(in[i]) : NULL;
      const int64_t n = al_numel(t);
      double *v = malloc((size_t)(n + 1) * sizeof *v);
      if (t) al_read(t, v, n);
      const double d = draw && t ? ratio(n, v, kept[i]) : 0;
      double *most = i == k->n ? y : &g[i];
      if (d > *most && isfinite(d)) *most = d;
      if (draw) free(v);
      else kept[i] = v;
    }
    for (int i = 0; i < k->n; i++)
      if (in[i]) al_set_grad(in[i], NULL);
    for (int v = 0; v < n_out; v++) al_release(out[v]);
  }
  for (int i = 0; i <= k->n; i++) free(kept[i]);
}

/* Outputs and gradients of inputs of bf16 against those of the same numbers in f32: what is returned
 * is rounded (by 2^-9 at most, and once more by a kernel of bf16), statistics and gradients are f32.
 * Where an op has kernels of bf16, its gradients are off by as much, and by what the function makes of
 * such roundings. */
static void check_bf16(const sample_case *k) {
  const bool native = runs_narrow();
  double may_y = 0, may_g[MAX_WORDS] = {0};
  al_tensor *in[2][MAX_WORDS] = {0}, *out[2][MAX_OUT] = {0};
  const int n_out = visible_outputs();
  const int64_t live = al_memory(c).live;
  bool narrow = false;
  for (int i = 0; i < k->n; i++) {
    in[0][i] = make(k, i, AL_BF16, AS_WRITTEN);
    if (!in[0][i]) continue;
    narrow |= al_type(in[0][i]) == AL_BF16 && !(row_of(i)->flags & AL_IN_ANY);
    al_grad_mode(c, false);
    in[1][i] = al_type(in[0][i]) == AL_BF16 ? al_run(c, "cast", AL_IN(in[0][i]), "dtype=f32")
                                            : al_run(c, "contiguous", AL_IN(in[0][i]), "");
    al_grad_mode(c, true);
    al_requires_grad(in[1][i], al_needs_grad(in[0][i]));
  }
  for (int which = 0; which < n_out; which++) {
    if (native) magnified(k, in[1], which, &may_y, may_g);
    for (int r = 0; r < 2; r++) {
      al_seed(c, 5);
      al_opts *o = options(k);
      al_op_run(c, &op->info, in[r], k->n, o, out[r], n_out);
      al_opts_release(o);
      expect_ok();
      al_tensor *y = out[r][which];
      if (al_type(y) == AL_I32 || !al_needs_grad(y)) continue;
      al_tensor *seed = al_tensor_new(c, al_statistic_type(al_type(y)), al_ndim(y), al_shape(y));
      al_fill_uniform(seed, 3, 0.5, 1.5);
      if (native && al_type(out[0][which]) == AL_BF16) { /* which it would round */
        al_tensor *rounded = al_run(c, "cast", AL_IN(seed), "dtype=bf16");
        al_copy_into(c, seed, rounded);
        al_release(rounded);
      }
      al_backward(c, y, seed);
      al_release(seed);
      expect_ok();
    }
    int row = -1;
    for (int v = -1; v < which; v += !(op->info.outputs[row].flags & AL_OUT_SAVED)) row++;
    if (narrow && al_type(out[1][which]) == AL_F32)
      expect(al_type(out[0][which]) == (op->info.outputs[row].flags & AL_STAT ? AL_F32 : AL_BF16),
             "output %d is %s", which, al_dtype_name(al_type(out[0][which])));
    for (int v = 0; v < n_out; v++) {
      if (v == which) {
        const double d = distance(out[0][v], out[1][v]);
        expect(d <= 0x1p-8 + may_y, "output %d: %.3g off", v, d);
      } else {
        al_release(out[0][v]);
        al_release(out[1][v]);
      }
    }
    for (int i = 0; i < k->n; i++) {
      if (!in[0][i] || !al_grad(in[0][i])) continue;
      expect(al_type(al_grad(in[0][i])) == al_type(al_grad(in[1][i])), "gradient %d is %s", i,
             al_dtype_name(al_type(al_grad(in[0][i]))));
      const double d = distance(al_retain(al_grad(in[0][i])), al_retain(al_grad(in[1][i])));
      expect(d <= (native ? 0x1p-8 + 2 * may_g[i] : 1e-6), "gradient %d: %.3g off", i, d);
      al_set_grad(in[0][i], NULL);
      al_set_grad(in[1][i], NULL);
    }
  }
  for (int i = 0; i < k->n; i++) {
    al_release(in[0][i]);
    al_release(in[1][i]);
  }
  expect(al_memory(c).live == live, "%lld bytes leaked", (long long)(al_memory(c).live - live));
}

/* Every allocation of a run fails once: an error is set, nothing is kept, the next run works. */
static void fail_allocations(const sample_case *k, al_dtype dtype) {
  const int64_t live = al_memory(c).live;
  int n = 1;
  for (; n < 1000; n++) {
    al_memory_fail_at(c, n);
    result r = run(k, dtype, AS_WRITTEN, 0, WEIGHTS);
    al_memory_fail_at(c, 0);
    const al_status st = al_error(c);
    result_free(&r);
    expect(al_memory(c).live == live, "allocation %d fails: %lld bytes leaked", n,
           (long long)(al_memory(c).live - live));
    if (st == AL_OK) break;
    expect(st == AL_ENOMEM, "allocation %d fails: %s", n, al_error_message(c, NULL, NULL));
    al_error_clear(c);
  }
  expect(n > 3 && n < 1000, "%d allocations failed", n - 1);
}
static void check_allocations(const sample_case *k) {
  if (k->total > LARGE) return;
  fail_allocations(k, AL_F32);
  fail_allocations(k, AL_BF16);
}

FOR_EACH_SAMPLE(shapes)
FOR_EACH_SAMPLE(gradient)
FOR_EACH_SAMPLE(values)
FOR_EACH_SAMPLE(place)
FOR_EACH_SAMPLE(allocations)
FOR_EACH_SAMPLE(bf16)

static int n_exempt_found;

/* sample: NULL for an op without a gradient. */
static void exempt(const char *name, const al_sample *sample, const char *why) {
  char text[256];
  snprintf(text, sizeof text, "%s%s%s%s%s", name, sample ? ": " : "", sample ? sample->inputs : "",
           sample && sample->args && *sample->args ? " " : "",
           sample && sample->args ? sample->args : "");
  printf("gradient not checked: %s: %s\n", text, why);
  int at = 0;
  while (at < N_EXEMPT && strcmp(exemptions[at], text) != 0) at++;
  ck_assert_msg(at < N_EXEMPT, "exemption '%s' is not in the list of check_ops.c", text);
  n_exempt_found++;
}

/* Prints what has no gradient check and holds it to the list at the top. */
START_TEST(exempt_list) {
  int n;
  const al_op *const *table = al_op_table(&n);
  for (int i = 0; i < n; i++) {
    const al_sample *s = table[i]->samples;
    if (!table[i]->backward) exempt(table[i]->info.name, NULL, "it has none");
    else
      for (; s && s->inputs; s++)
        if (s->exempt) exempt(table[i]->info.name, s, s->exempt);
  }
  printf("gradient not checked: %d cases; %d ops\n", n_exempt_found, n);
  ck_assert_int_eq(n_exempt_found, N_EXEMPT);
}
END_TEST

Suite *suite_check_ops(void);
Suite *suite_check_ops(void) {
  static const struct {
    const char *name;
    const TTest **test;
  } tests[] = {{"shapes", &shapes}, {"gradient", &gradient},       {"values", &values},
               {"place", &place},   {"allocations", &allocations}, {"bf16", &bf16}};
  /* I/N: of N parts of the table the I-th, so that several processes share the ops */
  int part = 1, parts = 1;
  const char *share = getenv("ATTNLAB_TEST_PART");
  if (share && (sscanf(share, "%d/%d", &part, &parts) != 2 || part < 1 || part > parts))
    fprintf(stderr, "ATTNLAB_TEST_PART: I/N needed, 1 <= I <= N, got '%s'\n", share), abort();
  const int from = al_op_count() * (part - 1) / parts, to = al_op_count() * part / parts;
  Suite *s = suite_create("ops");
  for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
    TCase *t = tcase_create(tests[i].name);
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, *tests[i].test, from, to);
    suite_add_tcase(s, t);
  }
  TCase *t = tcase_create("exemptions");
  tcase_add_test(t, exempt_list);
  suite_add_tcase(s, t);
  return s;
}
