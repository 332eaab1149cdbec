/* program.cu: an expression of every visible logit (contract: ../program.h), a block a row; the
 * gradient of a scalar, a block a head.
 *
 * Floor: 2 numbers read and written forward, 3 backward, and the expression's operations. Plain:
 * the oracle of the fused attention, not for speed. */
#include "program.cuh"

template <class T>
static __global__ void forward(alk_visible g, plan p, program_arg arg, const T *s, T *y) {
  __shared__ program_state<T> t;
  T r[1 + ALK_PROGRAM_REGISTERS], own[ALK_PROGRAM_UNIFORMS];
  program_begin(arg, &t);
  EACH_ROW(row, g.B * g.H * g.T) {
    const int64_t i = row % g.T, head = row / g.T;
    const alk_range seen = alk_visible_keys(&g, head / g.H, i);
    program_head(arg, head % g.H, g.H, &t);
    const T *u = program_row(t, i + g.offset, own);
    ROW_LOOP(j, g.S) {
      T v = 0;
      if (j >= seen.from && j < seen.to) {
        program_run(t, false, u, j, clamped(p, capped(p, s[row * g.S + j])), r);
        v = r[t.p.value];
      }
      y[row * g.S + j] = v;
    }
  }
}
template <class T>
static alk_status fwd(const alk_place *at, const alk_visible *g, const alk_weight_spec *spec,
                      const void *s, void *y) {
  const int64_t n = g->B * g->H * g->T;
  if (n * g->S == 0) return ALK_OK;
  forward<T><<<blocks_for(n, 1), ROW_THREADS, 0, stream_of(at)>>>(
      *g, plan_of(spec, false), program_arg{*spec->program, (const double *)spec->scalars},
      (const T *)s, (T *)y);
  return launched();
}
CUDA_TYPED(program_fwd, fwd)

template <class T>
static __global__ void backward(alk_visible g, plan p, program_arg arg, const T *s, const T *dy,
                                T *ds) {
  __shared__ program_state<T> t;
  T r[1 + ALK_PROGRAM_REGISTERS], own[ALK_PROGRAM_UNIFORMS];
  program_begin(arg, &t);
  EACH_ROW(row, g.B * g.H * g.T) {
    const int64_t i = row % g.T, head = row / g.T;
    const alk_range seen = alk_visible_keys(&g, head / g.H, i);
    program_head(arg, head % g.H, g.H, &t);
    const T *u = program_row(t, i + g.offset, own);
    ROW_LOOP(j, g.S) {
      const int64_t e = row * g.S + j;
      T v = 0;
      if (j >= seen.from && j < seen.to && dy[e] != 0) {
        const T x = capped(p, s[e]);
        program_run(t, true, u, j, clamped(p, x), r);
        v = limits_slope(p, x, dy[e] * r[t.p.slope]);
      }
      ds[e] = v;
    }
  }
}

template <class T>
static __global__ void backward_scalars(alk_visible g, plan p, program_arg arg, const T *s,
                                        const T *dy, double *out) {
  __shared__ program_state<T> t;
  T r[1 + ALK_PROGRAM_REGISTERS], own[ALK_PROGRAM_UNIFORMS];
  program_begin(arg, &t);
  EACH_ROW(head, g.B * g.H) {
    double sum[ALK_PROGRAM_SCALARS] = {};
    program_head(arg, head % g.H, g.H, &t);
    for (int64_t i = 0; i < g.T; i++) {
      const alk_range seen = alk_visible_keys(&g, head / g.H, i);
      const T *u = program_row(t, i + g.offset, own);
      for (int64_t j = seen.from + threadIdx.x; j < seen.to; j += blockDim.x) {
        const int64_t e = (head * g.T + i) * g.S + j;
        if (dy[e] == 0) continue;
        program_run(t, true, u, j, clamped(p, capped(p, s[e])), r);
        for (int k = 0; k < t.p.n_scalars; k++) sum[k] += (double)dy[e] * (double)r[t.p.scalar[k]];
      }
    }
    for (int k = 0; k < t.p.n_scalars; k++) {
      const double all = block_sum(sum[k]);
      if (threadIdx.x == 0) out[head * t.p.n_scalars + k] = all;
    }
  }
}

template <class T>
static alk_status bwd(const alk_place *at, const alk_visible *g, const alk_weight_spec *spec,
                      const void *s, const void *dy, void *ds, void *dscalars) {
  const int64_t n = g->B * g->H * g->T, heads = g->B * g->H;
  const plan p = plan_of(spec, false);
  const program_arg arg = {*spec->program, (const double *)spec->scalars};
  const cudaStream_t stream = stream_of(at);
  if (dscalars && heads * arg.p.n_scalars > 0)
    backward_scalars<T><<<blocks_for(heads, 1), THREADS, 0, stream>>>(
        *g, p, arg, (const T *)s, (const T *)dy, (double *)dscalars);
  if (ds && n * g->S > 0)
    backward<T><<<blocks_for(n, 1), ROW_THREADS, 0, stream>>>(*g, p, arg, (const T *)s,
                                                              (const T *)dy, (T *)ds);
  return launched();
}
CUDA_TYPED(program_bwd, bwd)
