/* versions.cuh: the libraries that kernels open at run time: how one is opened, and their versions for
 * the line that runs record. */
#ifndef ALK_CUDA_VERSIONS_CUH
#define ALK_CUDA_VERSIONS_CUH

/* Of a list CALLS(X) of a library's functions: a pointer p_NAME to each, and taking each from the
 * opened `so` of the name `file`; `why` is an array for what is missing. */
#define LIBRARY_CALL(call) static decltype(&call) p_##call;
#define LIBRARY_TAKE(call)                                                                         \
  if (so && !(p_##call = (decltype(p_##call))dlsym(so, #call)))                                    \
    snprintf(why, sizeof why, "%s has no " #call, file);

/* matmul.cu: ", cuBLASLt 130200", or ", " and why there is none. */
const char *cuda_blas_version(void);
/* sdpa.cu: the same of cuDNN. */
const char *cuda_dnn_version(void);
#endif
