/* lengths.c: arithmetic on i32 tensors of lengths, counts and positions, and what they say is
 * there. Nothing here is read by the host. */
#include "../../kernels/lengths.h"
#include "shape.h"

static al_status add_shape(al_ctx *c, al_call *k) {
  const double lo = al_opt_num(k->opts, "min"), hi = al_opt_num(k->opts, "max");
  if (lo > hi)
    return al_fail(c, AL_EVALUE, "add_i32: option 'min': at most max (%.0f) needed, got %.0f", hi,
                   lo);
  k->out_meta[0] = k->in_meta[0];
  if (!k->in[1] || broadcast_into(&k->out_meta[0], k->in_meta[1].ndim, k->in_meta[1].shape))
    return AL_OK;
  return al_fail(c, AL_ESHAPE,
                 "add_i32: b: a shape that broadcasts with a %s needed (sizes equal or 1 from the "
                 "last axis on), got %s",
                 AL_META_STR(&k->in_meta[0]), AL_META_STR(&k->in_meta[1]));
}

static al_status add_forward(al_ctx *c, al_call *k) {
  const alk_view y = al_view(k->out[0]), a = broadcast_view(k->in[0], y.ndim, y.size),
                 b = k->in[1] ? broadcast_view(k->in[1], y.ndim, y.size) : (alk_view){0};
  return ALK_RUN(al_here(c, ALK_F32), add_i32, &a, &b, al_opt_int(k->opts, "by"),
                 al_opt_int(k->opts, "min"), al_opt_int(k->opts, "max"), &y);
}

#define WHOLE_I32 -2147483648.0, 2147483647
static const al_op add_i32 = {
    .info = {.name = "add_i32",
             .doc = "a + b + by of i32, shapes broadcast as in numpy, kept within min..max: "
                    "arithmetic on lengths and counts.",
             .inputs = (const al_row[]){{"a", AL_IN_I32, "(..)"},
                                        {"b", AL_IN_OPTIONAL | AL_IN_I32,
                                         "(..), broadcasts with a; else 0"},
                                        {0}},
             .outputs = (const al_row[]){{"y", 0, "the broadcast shape, i32"}, {0}},
             .args = (const al_arg[]){{"by", AL_T_INT, "0", NULL, -1e15, 1e15, "added", NULL},
                                      {"min", AL_T_INT, "-2147483648", NULL, WHOLE_I32,
                                       "what is less becomes this", NULL},
                                      {"max", AL_T_INT, "2147483647", NULL, WHOLE_I32,
                                       "what is more becomes this", NULL},
                                      {0}}},
    .flags = AL_OP_STRIDED,
    .shape = add_shape,
    .forward = add_forward,
    .samples = (const al_sample[]){{.inputs = "i(3,5)<9 i(3,5)<9"},
                                   {"i(4)<9", .args = "by=-4 min=0 max=3"},
                                   {"i(2,3,4)t<90 i(3,1)<5", .args = "max=50"},
                                   {"i(3,1)<9 i(1,4)<9", .args = "by=1000000000000"},
                                   {0}},
};

static al_status present_shape(al_ctx *c, al_call *k) {
  const al_meta *n = &k->in_meta[0];
  const int64_t rows = al_opt_int(k->opts, "rows"), size = al_opt_int(k->opts, "size");
  if (n->ndim != 1)
    return al_fail(c, AL_ESHAPE, "present: lengths: shape (B) needed, got %s", AL_META_STR(n));
  k->out_meta[0] = rows ? (al_meta){.dtype = AL_I32, .ndim = 3, .shape = {n->shape[0], rows, size}}
                        : (al_meta){.dtype = AL_I32, .ndim = 2, .shape = {n->shape[0], size}};
  return AL_OK;
}

static al_status present_forward(al_ctx *c, al_call *k) {
  const int64_t rows = al_opt_int(k->opts, "rows");
  return ALK_RUN(al_here(c, ALK_F32), present, k->in_meta[0].shape[0], rows ? rows : 1,
                 al_opt_int(k->opts, "size"), al_data(k->in[0]), al_data(k->out[0]));
}

static const al_op present = {
    .info = {.name = "present",
             .doc = "Lengths (B) -> (B,size) i32, 1 for each of the first lengths positions, else "
                    "0; with rows (B,rows,size), where the rows are the last of the positions and "
                    "see none behind their own.",
             .inputs = (const al_row[]){{"lengths", AL_IN_I32, "(B); below 0 as 0"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "(B,size) or (B,rows,size), i32"}, {0}},
             .args = (const al_arg[]){{"size", AL_T_INT, "0", NULL, 0, 1e15, "positions", NULL},
                                      {"rows", AL_T_INT, "0", NULL, 0, 1e15,
                                       "rows that look back from the end; 0: no such axis", NULL},
                                      {0}}},
    .shape = present_shape,
    .forward = present_forward,
    .samples = (const al_sample[]){{"i(3)<8", .args = "size=7"},
                                   {"i(4)<6", .args = "size=5 rows=5"},
                                   {"i(2)<9", .args = "size=6 rows=2"},
                                   {"i(300)<200", .args = "size=200"},
                                   {0}},
};

AL_OPS(lengths, &add_i32, &present);
