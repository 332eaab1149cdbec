/* product.h: what matmul.c is made of where oneDNN does not take a product. */
#ifndef ALK_PRODUCT_H
#define ALK_PRODUCT_H
#include "../matmul.h"

/* One product on the calling thread; ignores the batch axes of t. */
ALK_PART(product, void, (const alk_matmul_task *t))
/* c[i][j] += bias[j] for m rows of n with stride c_row. */
ALK_PART(bias_add, void, (void *c, const void *bias, int64_t m, int64_t n, int64_t c_row))
#endif
