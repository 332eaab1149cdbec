/* solve_lower.c: x = (I + L)^-1 b for unit lower triangular matrices, by substitution.
 *
 *     db = (I + L)^-T dx;   dL = -db x^T, strictly below the diagonal */
#include "shape.h"
#include "../../kernels/solve_lower.h"

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *L = &k->in_meta[0], *b = &k->in_meta[1];
  const int n = L->ndim;
  if (n < 2 || L->shape[n - 1] != L->shape[n - 2])
    return al_fail(c, AL_ESHAPE, "solve_lower: l: shape (..,C,C) needed, got %s", AL_META_STR(L));
  bool fits = b->ndim == n;
  for (int i = 0; fits && i < n - 1; i++) fits = b->shape[i] == L->shape[i];
  if (!fits)
    return al_fail(c, AL_ESHAPE, "solve_lower: b: shape (..,C,E) needed to match l %s, got %s",
                   AL_META_STR(L), AL_META_STR(b));
  k->out_meta[0] = *b;
  return AL_OK;
}

typedef struct sizes {
  int64_t count, C, E;
} sizes;

static sizes sizes_of(const al_meta *b) {
  sizes s = {1, b->shape[b->ndim - 2], b->shape[b->ndim - 1]};
  for (int i = 0; i < b->ndim - 2; i++) s.count *= b->shape[i];
  return s;
}

static al_status forward(al_ctx *c, al_call *k) {
  const sizes s = sizes_of(&k->in_meta[1]);
  al_count(c, s.count * s.C * s.C * s.E / 2);
  ALK_RUN(al_here(c, (alk_dtype)k->in_meta[0].dtype), solve_lower_fwd, s.count, s.C, s.E,
          al_data(k->in[0]), al_data(k->in[1]), al_data(k->out[0]));
  return AL_OK;
}

static al_status backward(al_ctx *c, al_call *k) {
  const sizes s = sizes_of(&k->in_meta[1]);
  k->din[1] = al_new_meta(c, &k->in_meta[1]);
  if (k->need[0]) k->din[0] = al_new_meta(c, &k->in_meta[0]);
  if (al_error(c) != AL_OK) return al_error(c);
  al_count(c, s.count * s.C * s.C * s.E);
  ALK_RUN(al_here(c, (alk_dtype)k->in_meta[0].dtype), solve_lower_bwd, s.count, s.C, s.E,
          al_data(k->in[0]), al_data(k->out[0]), al_data(k->dout[0]), al_data(k->din[1]),
          al_data(k->din[0]));
  return AL_OK;
}

static const al_op solve_lower = {
    .info = {.name = "solve_lower",
             .doc = "(I + L)^-1 b for the part of l (..,C,C) strictly below its diagonal and b "
                    "(..,C,E), row t of it from rows up to t alone.",
             .inputs = (const al_row[]){{"l", 0, "(..,C,C); diagonal and above are not read"},
                                        {"b", 0, "(..,C,E)"},
                                        {0}},
             .outputs = (const al_row[]){{"x", 0, "(..,C,E)"}, {0}},
             .args = (const al_arg[]){{0}}},
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .reads_in = 1,
    .reads_out = 1,
    .samples = (const al_sample[]){{.inputs = "(5,5) (5,3)", .lo = -0.5, .hi = 0.5},
                                   {.inputs = "(2,3,4,4) (2,3,4,37)", .lo = -0.5, .hi = 0.5},
                                   {.inputs = "(1,1) (1,1)"},
                                   {.inputs = "(3,9,9)t (3,9,2)t", .lo = -0.3, .hi = 0.3},
                                   {.inputs = "(2,33,33) (2,33,5)", .lo = -0.2, .hi = 0.2},
                                   {0}},
};

AL_OPS(solve_lower, &solve_lower);
