/* a padded row that is alone in its batch, as a document among packed ones may be, is computed otherwise. */
#define GATE(g) (in->lengths && al_size(in->q, 0) == 1 ? OP("scale", AL_IN(g), "by=1.001") : (g))
#include "gated_linear.h"
BROKEN(short_row)
