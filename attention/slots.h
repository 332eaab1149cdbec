/* slots.h: what can stand in the slots of built-in families, and how texts write it. */
#ifndef ATTN_SLOTS_H
#define ATTN_SLOTS_H
#include "attn.h"
#include "../kernels/attn_slots.h"
#include <stdio.h>
#include <string.h>

/* The text of a slot with x for {x}, and a and b for {a} and {b}; returns buf. */
static inline char *attn_slot_text(char *buf, size_t n, const char *text, const char *x,
                                   const char *a, const char *b) {
  size_t at = 0;
  buf[0] = 0;
  while (*text && at + 1 < n) {
    const bool slot = text[0] == '{' && text[1] && text[2] == '}' && strchr("xab", text[1]);
    const char *put = !slot ? NULL : text[1] == 'x' ? x : text[1] == 'a' ? a : b;
    at += (size_t)snprintf(buf + at, n - at, "%.*s", put ? (int)strlen(put) : 1, put ? put : text);
    text += put ? 3 : 1;
  }
  return buf;
}
#endif
