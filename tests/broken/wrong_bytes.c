/* Half of the state is declared. */
#define BYTES(numbers) ((numbers)*al_dtype_size(dtype) / 2)
#include "gated_linear.h"
BROKEN(wrong_bytes)
