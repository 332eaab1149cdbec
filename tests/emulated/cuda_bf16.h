/* cuda_bf16.h: bfloat16 as CUDA's header has it, as far as kernels/cuda/ uses it. */
#ifndef EMULATED_CUDA_BF16_H
#define EMULATED_CUDA_BF16_H
#include "cuda_runtime.h"

/* Rounds to the nearest, ties to even; NaN is 0x7fff. */
static inline uint16_t emulated_narrow(float x) {
  const uint32_t i = emulated_bits<uint32_t>(x);
  return x == x ? (uint16_t)((i + 0x7fffu + (i >> 16 & 1)) >> 16) : (uint16_t)0x7fff;
}
static inline float emulated_odd(double x) { /* to f32, inexact ones to an odd last bit */
  const float f = (float)x;
  if ((double)f == x || x != x || f - f != 0) return f;
  uint32_t i = emulated_bits<uint32_t>(f);
  if (fabs((double)f) > fabs(x)) i--;
  return emulated_bits<float>(i | 1);
}
struct __align__(2) __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float x) : bits(emulated_narrow(x)) {}
  __nv_bfloat16(double x) : bits(emulated_narrow(emulated_odd(x))) {}
  __nv_bfloat16(int x) : bits(emulated_narrow(emulated_odd(x))) {}
  operator float() const { return emulated_bits<float>((uint32_t)bits << 16); }
};
struct __align__(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
static inline float __bfloat162float(__nv_bfloat16 x) { return (float)x; }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __double2bfloat16(double x) { return __nv_bfloat16(x); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
static inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {v.x, v.y}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {(float)v.x, (float)v.y}; }
static inline float __low2float(__nv_bfloat162 v) { return (float)v.x; }
static inline float __high2float(__nv_bfloat162 v) { return (float)v.y; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short b) {
  __nv_bfloat16 x;
  x.bits = b;
  return x;
}
#endif
