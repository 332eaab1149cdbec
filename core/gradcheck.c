/* gradcheck.c: reverse-mode gradients against central differences. */
#include "core.h"
#include <math.h>
#include <stdlib.h>

/* sum(y * w) with w fixed by the position, in (0.5, 1.5) so that nothing cancels by accident. */
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
      for (int64_t i = 0; i < count; i++) sum += v[i] * (1.0 + 0.5 * sin(1.7 * (double)i + 0.3));
    free(v);
  }
  al_grad_mode(c, record);
  al_scope_end(c, NULL);
  return sum;
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
    double *p = al_host(w);
    for (int64_t i = 0; p && i < al_numel(y); i++) p[i] = 1.0 + 0.5 * sin(1.7 * (double)i + 0.3);
    al_backward(c, y, w);
  }
  al_scope_end(c, NULL);
  for (int i = 0; i < n && c->error == AL_OK; i++) {
    if (!in[i] || !al_needs_grad(in[i])) continue;
    const int64_t count = al_numel(in[i]);
    al_tensor *x = al_contiguous(in[i]) ? in[i] : NULL;
    if (!x) return al_fail(c, AL_ESTATE, "gradcheck: input %d: must be contiguous", i);
    AL_TRY(al_storage_own(c, x->storage));
    double *v = al_host(x);
    for (int64_t j = 0; j < count && c->error == AL_OK; j++) {
      const double keep = v[j];
      v[j] = keep + step;
      const double hi = weighted(c, f, in, n, user);
      v[j] = keep - step;
      const double lo = weighted(c, f, in, n, user);
      v[j] = keep;
      const double numeric = (hi - lo) / (2 * step);
      const double exact = al_grad(x) ? ((const double *)al_host(al_grad(x)))[j] : 0;
      const double e = fabs(exact - numeric) / (1 + fabs(numeric));
      if (!(e <= *worst)) *worst = e; /* also when e is NaN */
    }
  }
  return c->error;
}
