/* embedding.c: rows of a table picked by token numbers. */
#include "shape.h"
#include "../../kernels/embedding.h"

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *table = &k->in_meta[0], *ids = &k->in_meta[1];
  if (table->ndim != 2)
    return al_fail(c, AL_ESHAPE, "embedding: table: shape (V,C) needed, got %s",
                   AL_META_STR(table));
  if (ids->ndim == AL_MAX_DIMS)
    return al_fail(c, AL_ESHAPE, "embedding: ids: fewer than %d axes needed, got %s", AL_MAX_DIMS,
                   AL_META_STR(ids));
  al_meta *y = &k->out_meta[0];
  *y = *ids;
  y->dtype = table->dtype;
  y->shape[y->ndim++] = table->shape[1];
  return AL_OK;
}

static al_status forward(al_ctx *c, al_call *k) {
  const int64_t V = k->in_meta[0].shape[0], C = k->in_meta[0].shape[1];
  AL_TRY(al_check_ids(c, k, 1, V - 1, NULL, 0));
  return ALK_RUN(al_here(c, (alk_dtype)k->out_meta[0].dtype), embedding_fwd, al_data(k->out[0]),
                 al_data(k->in[0]), al_data(k->in[1]), al_numel(k->in[1]), C);
}

static al_status backward(al_ctx *c, al_call *k) {
  const int64_t N = al_numel(k->in[1]), V = k->in_meta[0].shape[0], C = k->in_meta[0].shape[1];
  const al_place *at = al_here(c, (alk_dtype)k->in_meta[0].dtype);
  al_meta m = k->in_meta[0];
  m.dtype = al_statistic_type(m.dtype);
  al_tensor *scratch = AL_ROOM(at, embedding_bwd, N, V, C);
  k->din[0] = al_new_meta(c, &m);
  if (al_error(c) == AL_OK)
    ALK_RUN(at, embedding_bwd, al_data(k->din[0]), al_data(k->dout[0]), al_data(k->in[1]), N, V, C,
            al_data(scratch));
  al_release(scratch);
  return al_error(c);
}

static const al_op embedding = {
    .info = {.name = "embedding",
             .doc = "Row ids[..] of the table (V,C) for every id -> (..,C).",
             .inputs = (const al_row[]){{"table", 0, "(V,C)"},
                                        {"ids", AL_IN_I32 | AL_IN_NODIFF, "(..), i32 in 0..V-1"},
                                        {0}},
             .outputs = (const al_row[]){{"y", 0, "(..,C)"}, {0}},
             .args = (const al_arg[]){{0}}},
    .shape = shape,
    .forward = forward,
    .bf16 = AL_KERNELS(alk_embedding_fwd_has, alk_embedding_bwd_room_has, alk_embedding_bwd_has),
    .backward = backward,
    .reads_in = 2,
    .samples = (const al_sample[]){{.inputs = "(7,5) i(2,3)<7"},
                                   {.inputs = "(3,1)t i(11)<3"},
                                   {.inputs = "(4,37) i(1,2,3)<4"},
                                   {.inputs = "(50,40) i(30,30)<50"},
                                   {.inputs = "(300,8) i(700)<300"},
                                   {0}},
};

AL_OPS(embedding, &embedding);
