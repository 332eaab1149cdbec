/* The new numerator is also written into the state that was given. */
#define AFTER                                                                                      \
  if (next && al_error(c) == AL_OK)                                                                \
    memcpy(al_data(n), al_data(next), (size_t)(al_numel(n) * al_dtype_size(al_type(n))));
#include "gated_linear.h"
BROKEN(state_changed)
