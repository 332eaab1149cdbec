/* isa.c: which build of a float kernel this machine runs. */
#include "../kernel.h"
#include <stdatomic.h>

static alk_isa detect(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
  return v4 ? ALK_ISA_V4 : v3 ? ALK_ISA_V3 : ALK_ISA_BASE;
#else
  return ALK_ISA_BASE;
#endif
}

alk_isa alk_cpu_isa(void) {
  static atomic_int known = -1; /* threads that meet here store the same value */
  int isa = atomic_load_explicit(&known, memory_order_relaxed);
  if (isa < 0) atomic_store_explicit(&known, isa = (int)detect(), memory_order_relaxed);
  return (alk_isa)isa;
}

const char *alk_isa_name(alk_isa isa) {
  static const char *const names[] = {"x86-64", "x86-64-v3", "x86-64-v4"};
#if defined(__x86_64__)
  return names[isa];
#else
  return isa == ALK_ISA_BASE ? "generic" : names[isa];
#endif
}
