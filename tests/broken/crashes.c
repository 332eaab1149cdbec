/* Ends the process. */
#include <signal.h>
#define OUTPUT(y) (raise(SIGSEGV), (y))
#include "gated_linear.h"
BROKEN(crashes)
