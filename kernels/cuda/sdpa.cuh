/* sdpa.cuh: exp attention by cuDNN (sdpa.cu), behind the contract of ../attn.h.
 *
 * cuDNN gives O_i = sum_j p_ij v_j and lse_i = log sum_j exp(s_ij): of that contract, y = O, m =
 * lse and W = 1, as N and W are relative to e^m. With a norm behind it and no denominator (stat
 * none) it is the same function, as the norm's eps is carried relative to e^m, too; the backward
 * leaves out of the logits' gradient what a norm's eps makes of it, p_ij (dN_i . N_i), which is
 * eps' / (|N_i|^2 + eps') of a norm's gradient, eps' being eps relative to e^m. */
#ifndef ALK_CUDA_SDPA_CUH
#define ALK_CUDA_SDPA_CUH
#include "cuda.cuh"
extern "C" {
#include "../attn.h"
}

/* Whose a call is: cuDNN's where it is there and takes it, and ours where the spec lets us; else it
 * fails, with q->why. b, sums: as the kernels' own, or NULL. */
typedef enum sdpa_answer { SDPA_LEAVES, SDPA_TAKES, SDPA_FAILS } sdpa_answer;
sdpa_answer cuda_sdpa_takes(cuda_queue *q, const alk_attn_spec *a, bool bf16, const void *b,
                            const void *sums, bool backward);
/* Bytes of scratch for whoever it is; `own`: for us. */
int64_t cuda_sdpa_bytes(cuda_queue *q, const alk_attn_spec *a, bool backward);
template <class T>
static int64_t cuda_sdpa_room(cuda_queue *q, const alk_attn_spec *a, bool backward, int64_t own) {
  if (sizeof(T) != 2 || cuda_sdpa_takes(q, a, true, NULL, NULL, backward) != SDPA_TAKES) return own;
  const int64_t room = cuda_sdpa_bytes(q, a, backward);
  return room > own ? room : own;
}
alk_status cuda_sdpa_fwd(cuda_queue *q, const alk_attn_spec *a, const void *qs, const void *k,
                         const void *v, void *y, void *W, void *m, void *scratch);
alk_status cuda_sdpa_bwd(cuda_queue *q, const alk_attn_spec *a, const alk_attn_grad *t,
                         void *scratch);
void cuda_sdpa_end(cuda_queue *q);
#endif
