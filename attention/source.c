/* source.c: kernel_attention written out from its options, as a formula or as a function. Only what is
 * switched on is printed. */
#include "source.h"

bool formula_source(const al_opts *o, const attn_sizes *s, const char *kind, char *buf, size_t n) {
  (void)s;
  FILE *out = n > 0 ? fmemopen(buf, n, "w") : NULL;
  if (!out) return false;
  formula room;
  if (strcmp(kind, "torch") == 0) source_torch(out, o);
  else source_latex(out, formula_of(o, &room));
  const bool fits = fflush(out) == 0 && ftell(out) < (long)n;
  return fclose(out) == 0 && fits;
}
