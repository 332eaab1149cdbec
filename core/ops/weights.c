/* weights.c: weights w = A f(s') of the visible logits (kernels/visible.h has s' and A).
 *
 *     f       exp(s' - m), cosh(s') exp(-m), or sum_n c_n s'^n;  m = reference, a constant
 *     ds      A f'(s') dw, through clamp and softcap
 *     da      with E_ij = w_ij dw_ij: row sums of E to the last visible key, column sums off each
 *             key, then sums from the end
 *     dk_n    c_n / k_n sum dw A s'^n, k_n the input
 *
 * The backward reads w, so exp and cosh need no second exponential. */
#include "coefficients.h"
#include "logits.h"

enum { S, REFERENCE, DECAY, COEFFICIENTS, LENGTHS };

typedef struct plan {
  alk_visible g;        /* the first member: visible_plan */
  alk_weight_spec spec; /* points to f */
  coefficient_list f;
} plan;

static al_status shape(al_ctx *c, al_call *k) {
  AL_TRY(visible_axes(c, k, S, 4, "(B,H,T,S)"));
  const al_meta *s = &k->in_meta[S], *m = &k->in_meta[REFERENCE];
  plan *p = k->plan;
  if (k->in[REFERENCE] && (m->ndim != 3 || m->shape[0] != s->shape[0] ||
                           m->shape[1] != s->shape[1] || m->shape[2] != s->shape[2]))
    return al_fail(c, AL_ESHAPE,
                   "weights: reference: shape (%lld,%lld,%lld) needed to match s %s, got %s",
                   (long long)s->shape[0], (long long)s->shape[1], (long long)s->shape[2],
                   AL_META_STR(s), AL_META_STR(m));
  AL_TRY(logit_shape(c, k, DECAY, &k->out_meta[1]));
  p->spec = logit_spec(k, DECAY);
  p->spec.f = (alk_weight)al_opt_choice(k->opts, "f");
  if (k->in[REFERENCE] && p->spec.f == ALK_WEIGHT_POLYNOMIAL)
    return al_fail(
        c, AL_EVALUE,
        "weights: reference: only exp and cosh can take a factor exp(-m) out, got f=polynomial");
  AL_TRY(coefficients_check_f(c, k, COEFFICIENTS));
  AL_TRY(visible_lengths(c, k, LENGTHS, s->shape[0], s->shape[3]));
  coefficients_plan(k, COEFFICIENTS, &p->f, &p->spec);
  p->g = visible_of_matrix(k);
  k->out_meta[0] = *s;
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const alk_visible g = visible_plan(k, LENGTHS);
  alk_weight_spec spec = ((const plan *)k->plan)->spec;
  al_tensor *factors = input_f64(c, k, COEFFICIENTS);
  spec.factors = al_data(factors);
  ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), weights_fwd, &g, &spec, al_data(k->in[S]),
          al_data(k->in[REFERENCE]), logit_sums(c, k->in[DECAY], k->out[1]), al_data(k->out[0]));
  al_release(factors);
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  const alk_visible g = visible_plan(k, LENGTHS);
  alk_weight_spec spec = ((const plan *)k->plan)->spec;
  const alk_dtype dtype = (alk_dtype)k->out_meta[0].dtype;
  const al_meta *s = &k->in_meta[S];
  al_tensor *ds = NULL, *dsums = NULL, *parts = NULL, *factors = input_f64(c, k, COEFFICIENTS);
  spec.factors = al_data(factors);
  if (k->need[S] && !(ds = k->din[S] = al_new_meta(c, s))) goto done;
  if (k->need[DECAY]) {
    if (!(k->din[DECAY] = al_new_meta(c, &k->in_meta[DECAY]))) goto done;
    if (!(dsums = al_tensor_new(c, AL_F64, 3, (int64_t[]){g.B, g.H, g.S}))) goto done;
  }
  if (k->need[COEFFICIENTS]) {
    const int64_t each[] = {g.B * g.H, spec.n_coefficients};
    if (!(parts = al_tensor_new(c, AL_F64, 2, each))) goto done;
  }
  ALK_RUN(al_here(c, dtype), weights_bwd, &g, &spec, al_data(k->in[S]),
          spec.Hd ? al_data(k->out[1]) : NULL, al_data(k->out[0]), al_data(k->dout[0]), al_data(ds),
          al_data(dsums), al_data(parts));
  if (dsums)
    ALK_RUN(al_here(c, dtype), decay_sums_bwd, g.B, g.S, g.H, spec.Hd, al_data(dsums),
            al_data(k->din[DECAY]));
  if (parts) k->din[COEFFICIENTS] = coefficients_grad(c, k, COEFFICIENTS, parts);
done:
  al_release(factors);
  al_release(dsums);
  al_release(parts);
  return al_error(c);
}

static const al_op weights = {
    .info =
        {.name = "weights",
         .doc = "Weights A f(s') of the logits (B,H,T,S) a row sees, 0 elsewhere; s' is s rounded, "
                "capped and clamped, A the "
                "decay from a row's last visible key back to key j.",
         .inputs =
             (const al_row[]){
                 {"s", 0, "(B,H,T,S)"},
                 {"reference", AL_IN_OPTIONAL | AL_IN_NODIFF | AL_STAT,
                  "(B,H,T) m: exp and cosh are multiplied by exp(-m) without overflow; a constant"},
                 {"decay", AL_IN_OPTIONAL,
                  "(B,S,Hd) a, Hd divides H: A_ij = exp(a_{j+1} + .. + a_p), p the last key row i "
                  "sees"},
                 {"coefficients", AL_IN_OPTIONAL, "(n+1): factors of the option of that name"},
                 LENGTHS_ROW,
                 {0}},
         .outputs = (const al_row[]){{"w", 0, "(B,H,T,S)"},
                                     {"sums", AL_OUT_SAVED, "(B,Hd,S), running sums of decay"},
                                     {0}},
         .args = (const al_arg[]){{.name = "f",
                                   .type = AL_T_WORD,
                                   .def = "exp",
                                   .choices = "exp cosh polynomial",
                                   .doc = "similarity; polynomial = sum of c_n s^n"},
                                  {.name = "coefficients",
                                   .type = AL_T_LIST | AL_T_NUM,
                                   .def = "{}",
                                   .doc = "c_0, c_1, ..: ones when only the input is given"},
                                  LOGIT_ARGS,
                                  VISIBLE_ARGS,
                                  {0}}},
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .plan_size = sizeof(plan),
    .reads_in = 1 << S | 1 << COEFFICIENTS | 1 << LENGTHS,
    .reads_out = 1 | 2,
    .samples =
        (const al_sample[]){
            {.inputs = "(2,2,3,4)"},
            {"(1,2,7,19) (1,2,7)", .args = "causal=true offset=9"},
            {"(2,1,3,5) - - - i(2)<6", .args = "f=cosh"},
            {"(1,2,3,18) (1,2,3)", .args = "f=cosh causal=true offset=15"},
            {"(1,1,5,4)", .args = "causal=true offset=-2"},
            {"(1,2,3,4)", .args = "clamp=2", .lo = 0, .hi = 1},
            {"(1,2,3,17)", .args = "clamp=-0.5 softcap=3", .lo = 0.5, .hi = 1},
            {"(1,2,3,17)", .args = "f=cosh softcap=1.5 causal=true offset=14"},
            {"(1,2,3,17)", .args = "f=polynomial softcap=2 clamp=9 coefficients={1,1,0.5,0.25}"},
            {"(2,1,3,4)", .args = "f=polynomial coefficients={0,1}"},
            {"(2,1,3,4)", .args = "f=polynomial coefficients={2}"},
            {"(2,2,3,4) - - (3)", .args = "f=polynomial"},
            {"(2,2,3,21) - - p(4) i(2)<22",
             .args = "f=polynomial causal=true offset=18 coefficients={1,0,0.5,0.2}"},
            {"(2,4,5,5) - (2,5,1)", .args = "causal=true"},
            {"(2,4,3,21) (2,4,3) (2,21,2) - i(2)<22", .args = "causal=true offset=18"},
            {"(1,2,4,4) (1,2,4) (1,4,2)", .args = "causal=true f=cosh"},
            {"(1,2,6,19) - (1,19,2) (3)",
             .args = "causal=true offset=13 f=polynomial coefficients={1,2,0.5}"},
            {"(1,2,3,4)", .args = "round_bf16=true",
             .exempt = "rounding passes the gradient straight through"},
            {"(1,2,3,21) - (1,21,2) (19) i(1)<22", /* summed in f64 */
             .args = "f=polynomial causal=true offset=18 softcap=3 clamp=2 "
                     "coefficients={1,1,0.5,0.2,0,9e-3,0,0,2e-5,0,0,0,0,0,0,0,0,0,2e-16}",
             .lo = -0.9, .hi = 1.9},
            {0}},
};

AL_OPS(weights, &weights);
