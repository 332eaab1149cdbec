/* bf16.cuh: bfloat16 as a stored type. Reading CUDA's own header for it takes longer than
 * compiling most files here. */
#ifndef ALK_CUDA_BF16_CUH
#define ALK_CUDA_BF16_CUH
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

struct bf16 {
  uint16_t bits;
  bf16() = default;
  /* to the nearest, ties to even; NaN is 0x7fff */
  explicit __host__ __device__ inline bf16(float x) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    uint32_t all;
    memcpy(&all, &x, sizeof all);
    bits = (uint16_t)(x == x ? (all + 0x7fffu + (all >> 16 & 1)) >> 16 : 0x7fffu);
#endif
  }
  explicit __host__ __device__ inline bf16(int x) : bf16((float)x) {}
  explicit bf16(double) = delete; /* it would be rounded twice */
  explicit __host__ __device__ inline operator float() const {
    const uint32_t all = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &all, sizeof x);
    return x;
  }
};
#endif
