/* device.c: what this build and this machine can compute on, in words. */
#include "core.h"
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

const al_place *al_here(al_ctx *c, alk_dtype dtype) {
  al_place *at = &c->places[dtype];
  *at = (al_place){.k = {.dtype = dtype, .device = ALK_CPU, .threads = al_threads()}, .c = c};
  return at;
}

al_status al_ran(const al_place *at, const char *kernel, alk_status st) {
  if (st != ALK_OK) al_fail(at->c, AL_ESTATE, "kernel %s: failed", kernel);
  return al_error(at->c);
}

al_status al_no_kernel(const al_place *at, const char *kernel) {
  return al_fail(at->c, AL_ETYPE, "kernel %s: none for %s on %s", kernel,
                 al_dtype_name((al_dtype)at->k.dtype),
                 at->k.device == ALK_CPU ? "the cpu" : "this device");
}

al_tensor *al_room_new(const al_place *at, int64_t bytes) {
  const int64_t n = (bytes + 7) / 8;
  return al_tensor_new(at->c, AL_F64, 1, &n);
}
