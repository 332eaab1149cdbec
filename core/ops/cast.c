/* cast.c: conversion between dtypes; to i32 it truncates, to bf16 it rounds to the nearest even. */
#include "shape.h"
#include "../../kernels/copy.h"

static al_status shape(al_ctx *c, al_call *k) {
  k->out_meta[0] = k->in_meta[0];
  return al_dtype_parse(c, al_opt_word(k->opts, "dtype"), &k->out_meta[0].dtype);
}

static al_status forward(al_ctx *c, al_call *k) { return al_copy_into(c, k->out[0], k->in[0]); }

static al_status backward(al_ctx *c, al_call *k) {
  if (k->out_meta[0].dtype == AL_I32)
    return al_fail(c, AL_ETYPE,
                   "cast: no gradient flows through i32 (detach the tensor that is cast)");
  if (al_type(k->dout[0]) == k->in_meta[0].dtype) k->din[0] = al_retain(k->dout[0]);
  else if ((k->din[0] = al_new_meta(c, &k->in_meta[0]))) al_copy_into(c, k->din[0], k->dout[0]);
  return al_error(c);
}

static const al_op cast = {
    .info = {.name = "cast",
             .doc = "A copy of x in another dtype; the gradient is converted back.",
             .inputs = (const al_row[]){{"x", AL_IN_ANY, "any shape"}, {0}},
             .outputs = (const al_row[]){{"y", 0, "x's shape"}, {0}},
             .args = (const al_arg[]){{.name = "dtype",
                                       .type = AL_T_WORD,
                                       .def = "f32",
                                       .choices = "f64 f32 bf16 i32",
                                       .doc = "of the result"},
                                      {0}}},
    .flags = AL_OP_STRIDED,
    .shape = shape,
    .forward = forward,
    .backward = backward,
    .samples = (const al_sample[]){{"(3,5)", .args = "dtype=f64"},
                                   {"(2,3,5)t", .args = "dtype=f64"},
                                   {"(7)", .args = "dtype=f32",
                                    .exempt = "rounds to f32, coarser than the step"},
                                   {"(4,2)t", .args = "dtype=bf16", .exempt = "rounds to bf16"},
                                   {"(9)", .args = "dtype=i32", .exempt = "truncates"},
                                   {"i(3,4)<9", .args = "dtype=f32"},
                                   {0}},
};

AL_OPS(cast, &cast);
