/* rope.c: rotary position embedding of (B,T,H,D): channel pair i of position p turns by the angle
 * p base^(-2i/dims). */
#include "shape.h"
#include "../../kernels/rope.h"

static al_status shape(al_ctx *c, al_call *k) {
  const al_meta *x = &k->in_meta[0];
  if (x->ndim != 4)
    return al_fail(c, AL_ESHAPE, "rope: x: shape (B,T,H,D) needed, got %s", AL_META_STR(x));
  const int64_t D = x->shape[3], dims = al_opt_int(k->opts, "dims");
  if ((dims < 0 ? D : dims) % 2 != 0 || dims > D)
    return al_fail(c, AL_EVALUE,
                   "rope: option 'dims': an even number in 0..D expected, got %lld for x %s",
                   (long long)(dims < 0 ? D : dims), AL_META_STR(x));
  k->out_meta[0] = *x;
  return AL_OK;
}

/* y = x turned, or turned back. */
static al_status turn(al_ctx *c, const al_call *k, al_tensor *y, al_tensor *x, bool back) {
  const int64_t *s = al_shape(y), dims = al_opt_int(k->opts, "dims"),
                n = (dims < 0 ? s[3] : dims) / 2;
  const alk_dtype dt = (alk_dtype)al_type(y);
  al_tensor *dense = al_stride(x)[3] == 1 || s[3] == 1 ? al_retain(x) : al_contiguous_ref(c, x);
  al_tensor *table = al_tensor_new(c, al_type(y), 3, (const int64_t[]){s[1], n, 2});
  if (dense && table) {
    alk_rope_table(dt)(al_data(table), s[1], n, al_opt_num(k->opts, "base"),
                       al_opt_int(k->opts, "offset"));
    alk_rope(dt)(al_data(y), al_data(dense), al_stride(dense), al_data(table), s[0], s[1], s[2],
                 s[3], n, al_opt_bool(k->opts, "interleaved"), back);
  }
  al_release(table);
  al_release(dense);
  return al_error(c);
}

static al_status forward(al_ctx *c, al_call *k) { return turn(c, k, k->out[0], k->in[0], false); }

static al_status backward(al_ctx *c, al_call *k) {
  if (!(k->din[0] = al_new_meta(c, &k->in_meta[0]))) return al_error(c);
  return turn(c, k, k->din[0], k->dout[0], true);
}

static const al_op rope = {
    .info = {.name = "rope",
             .doc = "Rotary position embedding of x (B,T,H,D): pairs of channels turn with "
                    "position offset + t.",
             .inputs = (const al_row[]){{"x", 0, "(B,T,H,D)"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,T,H,D)"}, {0}},
             .args =
                 (const al_arg[]){
                     {.name = "base",
                      .type = AL_T_NUM,
                      .def = "10000",
                      .min = 1,
                      .max = 1e300,
                      .doc = "slowest angle is about 1/base a position"},
                     {.name = "dims",
                      .type = AL_T_INT,
                      .def = "-1",
                      .min = -1,
                      .max = 1e300,
                      .doc = "channels that turn, even; -1 = all D; the others pass unchanged"},
                     {.name = "interleaved",
                      .type = AL_T_BOOL,
                      .def = "false",
                      .doc = "pairs (2i, 2i+1) instead of (i, i + dims/2)"},
                     {.name = "offset",
                      .type = AL_T_INT,
                      .def = "0",
                      .min = 0,
                      .max = 9007199254740992.0,
                      .doc = "position of t = 0"},
                     {0}}},
    .flags = AL_OP_STRIDED,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .samples = (const al_sample[]){{.inputs = "(2,5,3,8)"},
                                   {"(1,3,2,6)t", .args = "interleaved=true offset=7"},
                                   {"(2,3,1,7)", .args = "dims=4 base=100"},
                                   {"(1,35,1,7)", .args = "dims=2 interleaved=true"},
                                   {"(1,2,2,3)", .args = "dims=0"},
                                   {"(2,70,9,62)t", .args = "dims=60"},
                                   {0}},
};

AL_OPS(rope, &rope);
