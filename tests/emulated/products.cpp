/* products.cpp: the library of cublasLt.h. Sums are in double, rounded once. */
#include "cublasLt.h"
#include "bf16.cuh"
#undef dlopen
#undef dlsym

static void set(cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t a, int32_t v) {
  ((int32_t *)algo->data)[a] = v;
}

extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
  *h = NULL;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
size_t cublasLtGetVersion(void) { return 0; }
cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t op, size_t,
                                               cublasComputeType_t compute, cudaDataType_t scale) {
  *op = {CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL, compute, scale};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t op,
                                              cublasLtMatmulDescAttributes_t a, const void *value,
                                              size_t size) {
  switch (a) {
  case CUBLASLT_MATMUL_DESC_TRANSA:
    memcpy(&op->ta, value, size);
    break;
  case CUBLASLT_MATMUL_DESC_TRANSB:
    memcpy(&op->tb, value, size);
    break;
  case CUBLASLT_MATMUL_DESC_EPILOGUE:
    memcpy(&op->epilogue, value, size);
    break;
  case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
    memcpy(&op->bias, value, size);
    break;
  case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
    break;
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t l, size_t,
                                                 cudaDataType_t type, uint64_t rows, uint64_t cols,
                                                 int64_t ld) {
  *l = {type, rows, cols, ld, 0, 1};
  return ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t a,
                                                const void *value, size_t size) {
  if (a == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) memcpy(&l->batch, value, size);
  else memcpy(&l->stride, value, size);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t p, size_t) {
  *p = {};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void *, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int most,
                                              cublasLtMatmulHeuristicResult_t *found, int *n) {
  *n = most < 3 ? most : 3;
  for (int i = 0; i < *n; i++) {
    found[i] = {};
    set(&found[i].algo, CUBLASLT_ALGO_CONFIG_ID, i + 1);
    set(&found[i].algo, CUBLASLT_ALGO_CONFIG_TILE_ID, 10 * i);
    set(&found[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, -1); /* the library has such ones */
  }
  return CUBLAS_STATUS_SUCCESS;
}
/* Algorithms 1 to 3, all of them the same sum; tiles up to 20. */
cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t, cublasComputeType_t, cudaDataType_t,
                                      cudaDataType_t, cudaDataType_t, cudaDataType_t,
                                      cudaDataType_t, int id, cublasLtMatmulAlgo_t *algo) {
  *algo = {};
  set(algo, CUBLASLT_ALGO_CONFIG_ID, id);
  return id >= 1 && id <= 3 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t a,
                                                    void *value, size_t size, size_t *written) {
  memcpy(value, (const int32_t *)algo->data + a, *written = size);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t a,
                                                    const void *value, size_t size) {
  memcpy((int32_t *)algo->data + a, value, size);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *found) {
  *found = {};
  return ((const int32_t *)algo->data)[CUBLASLT_ALGO_CONFIG_TILE_ID] <= 20
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_NOT_SUPPORTED;
}
}

static double get(cudaDataType_t t, const void *p, int64_t i) {
  return t == CUDA_R_64F   ? ((const double *)p)[i]
         : t == CUDA_R_32F ? (double)((const float *)p)[i]
                           : (double)(float)((const bf16 *)p)[i];
}
static void put(cudaDataType_t t, void *p, int64_t i, double v) {
  if (t == CUDA_R_64F) ((double *)p)[i] = v;
  else if (t == CUDA_R_32F) ((float *)p)[i] = (float)v;
  else ((bf16 *)p)[i] = bf16((float)v);
}

extern "C" cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t op,
                                         const void *alpha, const void *a,
                                         cublasLtMatrixLayout_t la, const void *b,
                                         cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                                         cublasLtMatrixLayout_t lc, void *d,
                                         cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t *,
                                         void *, size_t, cudaStream_t) {
  const double by = get(op->scale, alpha, 0), old = get(op->scale, beta, 0);
  const int64_t m = (int64_t)ld->rows, n = (int64_t)ld->cols,
                k = (int64_t)(op->ta == CUBLAS_OP_N ? la->cols : la->rows);
  if (m != (int64_t)(op->ta == CUBLAS_OP_N ? la->rows : la->cols) ||
      n != (int64_t)(op->tb == CUBLAS_OP_N ? lb->cols : lb->rows) ||
      k != (int64_t)(op->tb == CUBLAS_OP_N ? lb->rows : lb->cols))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  const int64_t ai = op->ta == CUBLAS_OP_N ? 1 : la->ld, al = op->ta == CUBLAS_OP_N ? la->ld : 1,
                bl = op->tb == CUBLAS_OP_N ? 1 : lb->ld, bj = op->tb == CUBLAS_OP_N ? lb->ld : 1;
  for (int64_t z = 0; z < ld->batch; z++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t i = 0; i < m; i++) {
        double sum = 0;
        for (int64_t l = 0; l < k; l++)
          sum += get(la->type, a, z * la->stride + i * ai + l * al) *
                 get(lb->type, b, z * lb->stride + l * bl + j * bj);
        sum *= by;
        if (old != 0) sum += old * get(lc->type, c, z * lc->stride + j * lc->ld + i);
        if (op->epilogue == CUBLASLT_EPILOGUE_BIAS) sum += get(ld->type, op->bias, i);
        put(ld->type, d, z * ld->stride + j * ld->ld + i, sum);
      }
  return CUBLAS_STATUS_SUCCESS;
}

void *emulated_open(const char *name) {
  return strncmp(name, "libcublasLt.so", 14) == 0 ? (void *)&emulated::here : NULL;
}
void *emulated_symbol(const char *name) {
#define ONE(f)                                                                                     \
  if (strcmp(name, #f) == 0) return (void *)f;
  ONE(cublasLtCreate)
  ONE(cublasLtDestroy)
  ONE(cublasLtGetVersion)
  ONE(cublasLtMatmul)
  ONE(cublasLtMatmulDescInit_internal)
  ONE(cublasLtMatmulDescSetAttribute)
  ONE(cublasLtMatrixLayoutInit_internal)
  ONE(cublasLtMatrixLayoutSetAttribute)
  ONE(cublasLtMatmulPreferenceInit_internal)
  ONE(cublasLtMatmulPreferenceSetAttribute)
  ONE(cublasLtMatmulAlgoGetHeuristic)
  ONE(cublasLtMatmulAlgoInit)
  ONE(cublasLtMatmulAlgoConfigGetAttribute)
  ONE(cublasLtMatmulAlgoConfigSetAttribute)
  ONE(cublasLtMatmulAlgoCheck)
#undef ONE
  return NULL;
}
