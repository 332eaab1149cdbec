/* coefficients.h: of f = sum_n c_n s^n, for weights, attend, attend_chunked and attend_step: c_n
 * is the n-th number of option 'coefficients' (1 where there are none) times that of the input;
 * for core/ops/ only. */
#ifndef AL_OPS_COEFFICIENTS_H
#define AL_OPS_COEFFICIENTS_H
#include "visible.h"

typedef struct coefficient_list {
  int n;
  double base[ALK_MAX_COEFFICIENTS]; /* the option's: c_n over the input's */
} coefficient_list;

/* `input` says how many there are where the option has none. */
static inline coefficient_list coefficients_of(const al_call *k, int input) {
  const double *list;
  coefficient_list f = {.n = al_opt_list(k->opts, "coefficients", &list)};
  const int listed = f.n;
  if (k->in_meta[input].ndim == 1) f.n = (int)k->in_meta[input].shape[0];
  for (int i = 0; i < f.n; i++) f.base[i] = listed ? list[i] : 1;
  return f;
}

/* Into a plan: spec points to f. */
static inline void coefficients_plan(const al_call *k, int input, coefficient_list *f,
                                     alk_weight_spec *spec) {
  *f = coefficients_of(k, input);
  spec->n_coefficients = f->n;
  spec->base = f->base;
}

/* kept: the option says which orders there are, so it is needed. */
static inline al_status coefficients_check(al_ctx *c, const al_call *k, int input, bool kept) {
  const double *list;
  const char *name = k->op->info.name;
  const int listed = al_opt_list(k->opts, "coefficients", &list);
  bool any = !kept;
  for (int i = 0; i < listed; i++) any |= list[i] != 0;
  if (listed > ALK_MAX_COEFFICIENTS || !any)
    return al_fail(c, AL_EVALUE, "%s: option 'coefficients': %s%d numbers%s needed, got %d", name,
                   kept ? "1 to " : "at most ", ALK_MAX_COEFFICIENTS,
                   kept ? ", not all of them 0," : "", listed);
  if (!k->in[input]) {
    if (listed) return AL_OK;
    return al_fail(c, AL_EVALUE, "%s: coefficients: the option or the input needed, got neither",
                   name);
  }
  AL_TRY(visible_axes(c, k, input, 1, "(n+1)"));
  const int64_t n = k->in_meta[input].shape[0];
  if (listed && n != listed)
    return al_fail(c, AL_ESHAPE,
                   "%s: coefficients: shape (%d) needed, one for each number of the option of that "
                   "name, got %s",
                   name, listed, AL_META_STR(&k->in_meta[input]));
  if (n >= 1 && n <= ALK_MAX_COEFFICIENTS) return AL_OK;
  return al_fail(c, AL_EVALUE, "%s: coefficients: 1 to %d needed, got %lld", name,
                 ALK_MAX_COEFFICIENTS, (long long)n);
}

/* The same for ops whose f need not be a polynomial. */
static inline al_status coefficients_check_f(al_ctx *c, const al_call *k, int input) {
  const double *list;
  if (al_opt_is(k->opts, "f", "polynomial")) return coefficients_check(c, k, input, false);
  if (!k->in[input] && al_opt_list(k->opts, "coefficients", &list) == 0) return AL_OK;
  return al_fail(c, AL_EVALUE, "%s: coefficients: only f=polynomial has them, got f=%s",
                 k->op->info.name, al_opt_word(k->opts, "f"));
}

/* The gradient (n) of the input: the sum of each head's part of it, `parts` (heads,n); new. */
static inline al_tensor *coefficients_grad(al_ctx *c, const al_call *k, int input,
                                           al_tensor *parts) {
  return like_input(c, k, input, al_run(c, "sum", AL_IN(parts), "axes={0}"));
}
#endif
