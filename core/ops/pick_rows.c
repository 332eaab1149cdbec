/* pick_rows.c: rows put in another order and among others, each at most once: one inverse index
 * makes the gradient the same walk back, without a sum or a sort (embedding has those). */
#include "shape.h"
#include "../../kernels/pick_rows.h"

enum { X, IDS, BACK };

static int64_t width_of(const al_meta *x) {
  int64_t n = 1;
  for (int i = 1; i < x->ndim; i++) n *= x->shape[i];
  return n;
}

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[X], *ids = &k->in_meta[IDS], *back = &k->in_meta[BACK];
  al_meta *y = &k->out_meta[0];
  if (x->ndim < 1) return al_fail(c, AL_ESHAPE, "pick_rows: x: shape (M,..) needed, got ()");
  if (ids->ndim + x->ndim - 1 > AL_MAX_DIMS)
    return al_fail(c, AL_ESHAPE, "pick_rows: ids: at most %d axes beside those of x %s, got %s",
                   AL_MAX_DIMS, AL_META_STR(x), AL_META_STR(ids));
  if (back->ndim != 1 || back->shape[0] != x->shape[0])
    return al_fail(c, AL_ESHAPE, "pick_rows: back: shape (%lld) needed to match x %s, got %s",
                   (long long)x->shape[0], AL_META_STR(x), AL_META_STR(back));
  *y = *ids;
  y->dtype = x->dtype;
  for (int i = 1; i < x->ndim; i++) y->shape[y->ndim++] = x->shape[i];
  return AL_OK;
}

/* Where the host can look: each of ids and back says what the other does. */
static al_status check_inverse(al_ctx *c, const al_call *k) {
  const int32_t *at[2];
  int64_t n[2];
  for (int i = 0; i < 2; i++) {
    const al_tensor *t = k->in[IDS + i];
    if (!al_at_hand(t) || !al_runs(al_where(t))) return AL_OK;
    at[i] = al_host(t), n[i] = al_numel(t);
  }
  for (int i = 0; i < 2; i++)
    for (int64_t p = 0; p < n[i]; p++)
      if (at[i][p] && at[1 - i][at[i][p] - 1] != p + 1)
        return al_fail(
            c, AL_EVALUE,
            "pick_rows: back: the inverse of ids needed, got %d as number %lld of %s and %d as "
            "number %d of %s",
            at[i][p], (long long)p + 1, i ? "back" : "ids", at[1 - i][at[i][p] - 1], at[i][p],
            i ? "ids" : "back");
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  AL_TRY(al_check_ids(c, k, IDS, k->in_meta[X].shape[0], NULL, 0));
  AL_TRY(al_check_ids(c, k, BACK, al_numel(k->in[IDS]), NULL, 0));
  AL_TRY(check_inverse(c, k));
  return ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), pick_rows, al_data(k->in[X]),
                 al_data(k->in[IDS]), al_numel(k->in[IDS]), width_of(&k->in_meta[X]),
                 al_data(k->out[0]));
}

static al_status backward(al_ctx *c, al_call *k) {
  const al_place *at = al_here(c, (alk_dtype)k->out_meta[0].dtype);
  const int64_t width = width_of(&k->in_meta[X]);
  if (k->sum[X] && al_type(k->sum[X]) == al_type(k->dout[0])) {
    k->din[X] = al_retain(k->sum[X]);
    return ALK_RUN(at, pick_rows_add, al_data(k->dout[0]), al_data(k->in[IDS]),
                   al_numel(k->in[IDS]), width, al_data(k->din[X]));
  }
  if (!(k->din[X] = al_new_meta(c, &k->in_meta[X]))) return al_error(c);
  return ALK_RUN(at, pick_rows, al_data(k->dout[0]), al_data(k->in[BACK]), al_numel(k->in[BACK]),
                 width, al_data(k->din[X]));
}

static const al_op pick_rows = {
    .info = {.name = "pick_rows",
             .doc = "Row ids[..] of x (M,..), counted from 1, for every id -> (..,..), zeros for "
                    "an id of 0; no row is picked twice.",
             .inputs = (const al_row[]){{"x", 0, "(M,..)"},
                                        {"ids", AL_IN_I32 | AL_IN_NODIFF, "(..), i32 in 0..M"},
                                        {"back", AL_IN_I32 | AL_IN_NODIFF,
                                         "(M): the place in ids that picks row m, counted from 1; "
                                         "0: none does"},
                                        {0}},
             .outputs = (const al_row[]){{"y", 0, "the shape of ids, then a row's"}, {0}},
             .args = (const al_arg[]){{0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_pick_rows_has, alk_pick_rows_add_has),
    .backward = backward,
    .reads_in = 1 << IDS | 1 << BACK,
    .samples = (const al_sample[]){{.inputs = "(6,5) d(2,3) d(6)"},
                                   {.inputs = "(35,2,4)t d(35) d(35)"},
                                   {.inputs = "(300,8) d(300) d(300)"},
                                   {.inputs = "(3,2) i(4)<1 i(3)<1"},
                                   {.inputs = "(5) d(5,1) d(5)"},
                                   {0}},
};

AL_OPS(pick_rows, &pick_rows);
