/* source.h: kernel_attention as text. */
#ifndef ATTN_SOURCE_H
#define ATTN_SOURCE_H
#include "attn.h"

/* kind "latex" or "torch", as attn_family.source; false where n is too small. */
bool formula_source(const al_opts *o, const attn_sizes *s, const char *kind, char *buf, size_t n);
#endif
