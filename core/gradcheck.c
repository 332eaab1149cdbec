/* gradcheck.c: reverse-mode gradients against central differences. */
#include "core.h"
#include <math.h>
#include <stdlib.h>

/* Fixed by the position, in (0.5, 1.5) so that nothing cancels by accident. */
static double weight(int64_t i) { return 1.0 + 0.5 * sin(1.7 * (double)i + 0.3); }

/* sum(y * weight) */
static double weighted(al_ctx *c, al_fn f, al_tensor *const *in, int n, void *user) {
  al_scope_begin(c);
  const bool record = al_grad_mode(c, false);
  al_tensor *y = f(c, in, n, user);
  double sum = NAN;
  if (y) {
    sum = 0;
    const int64_t count = al_numel(y);
    double *v = al_calloc(c, count, sizeof *v);
    if (v && al_read(y, v, count) == AL_OK)
      for (int64_t i = 0; i < count; i++) sum += v[i] * weight(i);
    free(v);
  }
  al_grad_mode(c, record);
  al_scope_end(c, NULL);
  return sum;
}

/* The gradient of in[..] = x with differences. */
static void compare(al_ctx *c, al_fn f, al_tensor *const *in, int n, void *user, double step,
                    al_tensor *x, double *worst) {
  const int64_t count = al_numel(x);
  double *v = al_calloc(c, count, sizeof *v), *g = al_calloc(c, count, sizeof *g);
  if (v) al_read(x, v, count);
  if (g && al_grad(x)) al_read(al_grad(x), g, count);
  for (int64_t j = 0; j < count && c->error == AL_OK; j++) {
    const double keep = v[j];
    double y[2];
    for (int side = 0; side < 2; side++) {
      v[j] = side ? keep - step : keep + step;
      al_write(x, v, count);
      y[side] = weighted(c, f, in, n, user);
    }
    v[j] = keep;
    const double numeric = (y[0] - y[1]) / (2 * step),
                 e = fabs(g[j] - numeric) / (1 + fabs(numeric));
    if (!(e <= *worst)) *worst = e; /* also when e is NaN */
  }
  if (v) al_write(x, v, count);
  free(v);
  free(g);
}

al_status al_gradcheck(al_ctx *c, al_fn f, al_tensor *const *in, int n, void *user, double step,
                       double *worst) {
  *worst = 0;
  if (c->error != AL_OK) return c->error;
  for (int i = 0; i < n; i++) {
    if (!in[i] || !al_needs_grad(in[i])) continue;
    if (in[i]->dtype != AL_F64 || in[i]->node)
      return al_fail(c, AL_ETYPE, "gradcheck: input %d: an f64 leaf needed, got %s", i,
                     al_dtype_name(in[i]->dtype));
    al_set_grad(in[i], NULL);
  }
  al_scope_begin(c);
  al_tensor *y = f(c, in, n, user);
  if (y && y->dtype != AL_F64)
    al_fail(c, AL_ETYPE, "gradcheck: an f64 result needed, got %s", al_dtype_name(y->dtype));
  if (y && c->error == AL_OK) {
    al_meta m = al_meta_of(y);
    al_tensor *w = al_new_meta(c, &m);
    double *p = al_calloc(c, al_numel(y), sizeof *p);
    for (int64_t i = 0; p && i < al_numel(y); i++) p[i] = weight(i);
    if (w && p) al_write(w, p, al_numel(y));
    free(p);
    al_backward(c, y, w);
  }
  al_scope_end(c, NULL);
  for (int i = 0; i < n && c->error == AL_OK; i++)
    if (in[i] && al_needs_grad(in[i])) compare(c, f, in, n, user, step, in[i], worst);
  return c->error;
}
