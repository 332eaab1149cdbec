/* versions.cuh: the libraries that kernels open at run time, for the line that runs record. */
#ifndef CUDA_VERSIONS_CUH
#define CUDA_VERSIONS_CUH

/* matmul.cu: ", cuBLASLt 130200", or ", " and why there is none. */
const char *cuda_blas_version(void);
/* sdpa.cu: the same of cuDNN. */
const char *cuda_dnn_version(void);
#endif
