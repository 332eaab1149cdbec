/* binary.h: contract of the kernels of two broadcast operands, expanded from binary.def. */
#ifndef ALK_BINARY_H
#define ALK_BINARY_H
#include "kernel.h"

enum {
#define BINARY(name, ...) ALK_BIN_##name,
#include "binary.def"
#undef BINARY
  ALK_BIN_COUNT
};
enum { ALK_BIN_VALUE, ALK_BIN_DA, ALK_BIN_DB };

/* y = value, da or db (see `part`), contiguous, one number for each index of the broadcast shape
 * that a and b both have as their sizes (stride 0 where an operand repeats). g: contiguous dy of
 * that shape, NULL for the value. */
ALK_KERNEL(binary, int op, int part, const alk_view *a, const alk_view *b, const void *g, void *y)
#endif
