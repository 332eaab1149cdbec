/* formula_counts.c: denominators that read no weights: what a row counts, with all that belongs to it.
 * ORDER FORMULA_COUNTS */
#include "formula_run.h"

/* ---- length: the number of visible keys ------------------------------------------------------- */

static al_tensor *length(const run *r, bool composed) {
  (void)composed;
  al_tensor *n = formula_counts(r, r->in->q, r->in->offset);
  return OP("expand", AL_IN(n), "shape={%lld,%lld,%lld}", (long long)r->B, (long long)r->T,
            (long long)r->s->heads);
}

/* ---- cumulative_gate: max(1, sum over visible j of exp(p_j)), p = x W + b --------------------- */

static int gate_params(const attn_sizes *s, attn_param *rows) {
  const double fan = s->width > 0 ? (double)s->width : 1;
  rows[0] = (attn_param){"denominator.weight", 2,   {s->heads, s->width},
                         ATTN_UNIFORM,         fan, "p = x W + b of the cumulative gate"};
  rows[1] = (attn_param){"denominator.bias", 1, {s->heads}, ATTN_UNIFORM, fan, ""};
  return 2;
}

/* By the same selection as the values. */
static al_tensor *gate_sum(const run *r, bool composed) {
  al_tensor *e = OP("exp", AL_IN(project(r, r->in->x, "denominator")), "");
  al_tensor *gates = as_factor(r, e, r->s->heads), *sum;
  if (composed && !r->in->state) {
    const int64_t shape[] = {r->B, r->s->heads, r->T, r->S};
    sum = OP("mix", AL_IN(like(r, 4, shape, 1), gates, r->in->lengths), "%s", r->now);
  } else if (r->by_state && r->T > 1) { /* weights of 1 */
    al_tensor *one = like(r, 4, (int64_t[]){r->B, r->T, r->s->heads, 1}, 1);
    sum = OP("attend_chunked", AL_IN(one, one, gates, NULL, NULL, r->in->lengths), "stat=none %s",
             r->now);
  } else {
    al_tensor *none = like(r, 4, (int64_t[]){r->B, r->T, r->s->heads, 1}, 0);
    sum = OP("attend", AL_IN(none, none, gates, NULL, NULL, r->in->lengths),
             "f=polynomial coefficients={1} stat=none %s", r->now);
  }
  if (r->in->state) {
    const long long B = r->B, H = r->s->heads, T = r->T;
    al_tensor *earlier = attn_state_get(r->in->state, "gate_sum");
    sum = OP("add", AL_IN(sum, OP("reshape", AL_IN(earlier), "shape={%lld,1,%lld,1}", B, H)), "");
    al_tensor *last = OP("slice", AL_IN(sum), "axis=1 start=%lld", T - 1);
    attn_state_put(r->c, r->in->next, "gate_sum",
                   OP("reshape", AL_IN(last), "shape={%lld,%lld}", B, H), "");
  }
  return OP("squeeze", AL_IN(OP("clamp", AL_IN(sum), "min=1")), "axis=-1");
}

/* ---- rows ------------------------------------------------------------------------------------ */

const formula_count *formula_count_of(const formula *f) {
  static const formula_count counts[] = {
      {.text = "n_i",
       .latex = "n_i",
       .torch = "    W = n[..., None].expand(B, T, H)\n",
       .reads_n = true,
       .by_key = true,
       .value = length},
      {.text = "max(1, sum_j exp(x_j Wp))",
       .latex = "\\max\\left(1, \\sum_j e^{x_j W_p + b_p}\\right)",
       .torch =
           "    e = torch.exp(F.linear(x, p[\"denominator.weight\"], p[\"denominator.bias\"]))\n"
           "    W = torch.einsum(\"bts,bsh->bth\", seen.to(q.dtype), e)\n"
           "    W = torch.where(W < 1, 1, W)\n",
       .reads_x = true,
       .params = gate_params,
       .value = gate_sum,
       .state = "gate_sum",
       .state_doc = "sum of exp(p)"}};
  return f->stat < STAT_first_count ? NULL : &counts[f->stat - STAT_first_count];
}
