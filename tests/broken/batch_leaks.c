/* Every row gets a little of the mean over the batch. */
#define OUTPUT(y)                                                                                  \
  OP("add", AL_IN(y, OP("scale", AL_IN(OP("mean", AL_IN(y), "axes={0} keep=true")), "by=1e-3")), "")
#include "gated_linear.h"
BROKEN(batch_leaks)
