/* device.c: what this build and this machine can compute on, in words. */
#include "attnlab.h"
#include "../kernels/kernel.h"
#include "../kernels/matmul.h"
#include <stdio.h>

const char *al_build_info(void) {
  static _Thread_local char text[256];
  snprintf(text, sizeof text, "cpu %s, products by %s, cuda: %s", alk_isa_name(alk_cpu_isa()),
           alk_matmul_version(), AL_CUDA_STATE);
  return text;
}
