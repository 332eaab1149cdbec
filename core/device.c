/* device.c: what this build and this machine can compute on, in words. */
#include "attnlab.h"
#include "../kernels/kernel.h"
#include "../kernels/matmul.h"
#include <stdio.h>

const char *al_cpu(void) {
  static _Thread_local char text[96];
  const alk_isa isa = alk_cpu_isa(), best = alk_cpu_best();
  snprintf(text, sizeof text, "%s%s%s", alk_isa_name(isa), isa == best ? "" : " of ",
           isa == best ? "" : alk_isa_name(best));
  return text;
}

const char *al_build_info(void) {
  static _Thread_local char text[320];
  snprintf(text, sizeof text, "cpu %s, products by %s, cuda: %s", al_cpu(), alk_matmul_version(),
           AL_CUDA_STATE);
  return text;
}
