/* philox.h: Philox4x32-10, a counter-based generator (Salmon et al., SC 2011).
 * out = a pure function of (key, counter); 2^64 counters a key, 128 bits each. Used on the CPU and,
 * unchanged, in device code, so that both draw the same numbers. */
#ifndef ALK_PHILOX_H
#define ALK_PHILOX_H
#include "kernel.h"

static inline ALK_BOTH void alk_philox(uint64_t key, uint64_t counter, uint32_t out[4]) {
  /* multipliers and Weyl increments of the paper */
  const uint32_t m0 = 0xD2511F53u, m1 = 0xCD9E8D57u, w0 = 0x9E3779B9u, w1 = 0xBB67AE85u;
  uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)m0 * c0, p1 = (uint64_t)m1 * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
    k0 += w0;
    k1 += w1;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Uniform in [0, 1) from 32 random bits. */
static inline ALK_BOTH double alk_unit(uint32_t bits) { return bits * (1.0 / 4294967296.0); }
#endif
