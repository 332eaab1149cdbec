/* isa.c: which build of a float kernel runs: the best that this machine has, or a lower one. */
#include "../matmul.h"
#include <stdatomic.h>
#include <string.h>

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

static atomic_int best = -1, used = -1; /* threads that meet here store the same value */

alk_isa alk_cpu_best(void) {
  int isa = atomic_load_explicit(&best, memory_order_relaxed);
  if (isa < 0) atomic_store_explicit(&best, isa = (int)detect(), memory_order_relaxed);
  return (alk_isa)isa;
}

alk_isa alk_cpu_isa(void) {
  int isa = atomic_load_explicit(&used, memory_order_relaxed);
  if (isa < 0) atomic_store_explicit(&used, isa = (int)alk_cpu_best(), memory_order_relaxed);
  return (alk_isa)isa;
}

alk_isa alk_isa_use(const char *name) {
  int isa = 0;
  for (; isa < ALK_ISAS; isa++) {
    const char *own = alk_isa_name((alk_isa)isa), *level = strrchr(own, 'v');
    if (strcmp(name, own) == 0 || (level && strcmp(name, level) == 0)) break;
  }
  if (isa > (int)alk_cpu_best()) return (alk_isa)isa;
  if (isa != (int)alk_cpu_isa()) alk_matmul_limit((alk_isa)isa);
  atomic_store_explicit(&used, isa, memory_order_relaxed);
  return (alk_isa)isa;
}

const char *alk_isa_name(alk_isa isa) {
  static const char *const names[] = {"x86-64", "x86-64-v3", "x86-64-v4"};
#if defined(__x86_64__)
  return names[isa];
#else
  return isa == ALK_ISA_BASE ? "generic" : names[isa]; /* of another machine */
#endif
}
