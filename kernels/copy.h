/* copy.h: strided copies with conversion, and in-place sums, of all types. */
#ifndef ALK_COPY_H
#define ALK_COPY_H
#include "kernel.h"

/* dst = src, element by element, converting between dtypes; sizes equal, any strides (a stride of 0
 * in src repeats). f64 to i32 truncates; bf16 rounds to nearest even. */
ALK_ANY(copy, const alk_view *dst, const alk_view *src)
/* dst += src for n packed elements of the place's type: f32, f64 or bf16. */
ALK_ANY(add_into, int64_t n, void *dst, const void *src)
/* n packed elements of the place's type = value. */
ALK_ANY(fill, int64_t n, void *dst, double value)

float alk_bf16_to_f32(uint16_t b);
uint16_t alk_f32_to_bf16(float f);
#endif
