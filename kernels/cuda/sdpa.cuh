/* sdpa.cuh: exp attention by cuDNN (sdpa.cu), behind the contract of ../attn.h.
 *
 * cuDNN gives O_i = sum_j p_ij v_j and lse_i = log sum_j exp(s_ij): of that contract, y = O, m = lse and
 * W = 1, as N and W are relative to e^m. With a norm behind it and no denominator (stat none) it is
 * the same function, as the norm's eps is carried relative to e^m, too; the backward leaves out of the
 * logits' gradient what a norm's eps makes of it, p_ij (dN_i . N_i), which is eps' / (|N_i|^2 + eps') of
 * a norm's gradient, eps' being eps relative to e^m. */
#ifndef ALK_CUDA_SDPA_CUH
#define ALK_CUDA_SDPA_CUH
#include "cuda.cuh"
extern "C" {
#include "../attn.h"
}

/* What of a call cuDNN does not take, NULL: nothing. */
const char *cuda_sdpa_refuses(const alk_attn_spec *a, bool has_b, bool has_sums);
/* Bytes of scratch; -1 with q->why where there is no plan. */
int64_t cuda_sdpa_room(cuda_queue *q, const alk_attn_spec *a, bool backward);
alk_status cuda_sdpa_fwd(cuda_queue *q, const alk_attn_spec *a, const void *qs, const void *k,
                         const void *v, void *y, void *W, void *m, void *scratch);
alk_status cuda_sdpa_bwd(cuda_queue *q, const alk_attn_spec *a, const alk_attn_grad *t,
                         void *scratch);
void cuda_sdpa_end(cuda_queue *q);
#endif
