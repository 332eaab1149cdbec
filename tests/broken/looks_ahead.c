/* A row sees one token too many. */
#define OFFSET 1
#include "gated_linear.h"
BROKEN(looks_ahead)
