/* expression.c: y = p(s', i, j, t) of the visible logits, s' after the limits (kernels/program.h).
 *
 *     ds      dp/ds dy, through clamp and softcap
 *     dt_k    sum of dp/dt_k dy over batch, rows and keys of a head, in f64
 */
#include "expression.h"

enum { S, LENGTHS, SCALARS };

typedef struct plan {
  alk_visible g;        /* the first member: visible_plan */
  alk_weight_spec spec; /* points to the program */
  alk_program program;
} plan;

static al_status shape(al_ctx *c, al_call *k) {
  AL_TRY(visible_axes(c, k, S, 4, "(B,H,T,S)"));
  const al_meta *s = &k->in_meta[S];
  plan *p = k->plan;
  AL_TRY(logit_number(c, k, "softcap"));
  AL_TRY(logit_number(c, k, "clamp"));
  AL_TRY(visible_lengths(c, k, LENGTHS, s->shape[0], s->shape[3]));
  AL_TRY(expression_of(c, k, SCALARS, s->shape[1], &p->program));
  p->g = visible_of_matrix(k);
  p->spec = logit_limits(k);
  p->spec.program = &p->program;
  k->out_meta[0] = *s;
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const alk_visible g = visible_plan(k, LENGTHS);
  alk_weight_spec spec = ((const plan *)k->plan)->spec;
  al_tensor *scalars = input_f64(c, k, SCALARS);
  spec.scalars = al_data(scalars);
  if (al_error(c) == AL_OK)
    ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), program_fwd, &g, &spec, al_data(k->in[S]),
            al_data(k->out[0]));
  al_release(scalars);
  return al_error(c);
}

static al_status backward(al_ctx *c, al_call *k) {
  const alk_visible g = visible_plan(k, LENGTHS);
  alk_weight_spec spec = ((const plan *)k->plan)->spec;
  al_tensor *scalars = input_f64(c, k, SCALARS), *parts = NULL;
  spec.scalars = al_data(scalars);
  if (k->need[S]) k->din[S] = al_new_meta(c, &k->in_meta[S]);
  if (k->need[SCALARS])
    parts = al_tensor_new(c, AL_F64, 3, (int64_t[]){g.B, g.H, spec.program->n_scalars});
  if (al_error(c) == AL_OK) {
    ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), program_bwd, &g, &spec, al_data(k->in[S]),
            al_data(k->dout[0]), al_data(k->din[S]), al_data(parts));
    if (parts) k->din[SCALARS] = expression_grad(c, k, SCALARS, parts);
  }
  al_release(scalars);
  al_release(parts);
  return al_error(c);
}

static const al_op expression = {
    .info = {.name = "expression",
             .doc = "A function written as text, of every visible logit; hidden entries 0.",
             .inputs =
                 (const al_row[]){{"s", 0, "(B,H,T,S) logits"}, LENGTHS_ROW, EXPRESSION_ROW, {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,H,T,S)"}, {0}},
             .args = (const al_arg[]){EXPRESSION_ARGS("s"), LOGIT_ARGS, VISIBLE_ARGS, {0}}},
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .plan_size = sizeof(plan),
    .reads_in = 1 << S | 1 << LENGTHS | 1 << SCALARS,
    .samples =
        (const al_sample[]){
            {.inputs = "(2,2,3,4)", .args = "expr='exp(s)'"},
            {"(1,2,7,19)", .args = "expr='log(1+exp(s))' causal=true offset=9"},
            {"(2,1,3,5) i(2)<6 (2,1)", .args = "expr='exp(t*s)*u' expr_names='t u'"},
            {"(1,2,3,70) - (1,2)", .args = "expr='t*s^2+i-j' expr_names='t' causal=true offset=60"},
            {"(1,2,3,300)", .args = "expr='1+s+s^2/2' softcap=2 clamp=9"},
            {"(2,3,5,5) i(2)<6 (3,3)",
             .args = "expr='(2+s^2)^t*sigmoid(u*s-v)' expr_names='t u v' causal=true"},
            {"(1,2,3,17)", .args = "expr='tanh(s)*sqrt(1+s^2)*min(s,9)' clamp=-0.5 softcap=3",
             .lo = 0.5, .hi = 1},
            {"(1,1,5,4)", .args = "expr='sin(s)+cos(2*s)-erf(s)/j' causal=true offset=-2"},
            {"(1,2,2,9) - (1,2)", .args = "expr='exp(-t*abs(i-j))' expr_names=t"},
            {"(1,2,3,4)", .args = "expr='s^3' round_bf16=true",
             .exempt = "rounding passes the gradient straight through"},
            {0}},
};

AL_OPS(expression, &expression);
