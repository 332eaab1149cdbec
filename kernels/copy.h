/* copy.h: strided copies with conversion, and in-place sums; compiled once, all dtypes. */
#ifndef ALK_COPY_H
#define ALK_COPY_H
#include "kernel.h"

/* dst = src, element by element, converting between dtypes; sizes equal, any strides (a stride of 0
 * in src repeats). f64 to i32 truncates; bf16 rounds to nearest even. */
void alk_copy(const alk_view *dst, const alk_view *src);
/* dst += src for n packed elements of f32, f64 or bf16. */
void alk_add_into(alk_dtype dtype, int64_t n, void *dst, const void *src);
/* n packed elements = value. */
void alk_fill(alk_dtype dtype, int64_t n, void *dst, double value);

float alk_bf16_to_f32(uint16_t b);
uint16_t alk_f32_to_bf16(float f);
#endif
