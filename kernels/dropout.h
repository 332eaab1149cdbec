/* dropout.h: y = keep ? x scale : 0 for n packed elements; element i draws word i % 4 of Philox
 * block i / 4 of the key and is dropped when the word is below `threshold` (p 2^32). y may be x. */
#ifndef ALK_DROPOUT_H
#define ALK_DROPOUT_H
#include "kernel.h"

ALK_KERNEL(dropout, void *y, const void *x, int64_t n, uint64_t key, uint64_t threshold,
           double scale)
#endif
