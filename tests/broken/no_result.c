/* Returns nothing, and reports no error. */
#define OUTPUT(y) ((void)(y), NULL)
#include "gated_linear.h"
BROKEN(no_result)
