/* lprint.c: tensors as text: dtype, shape, and a matrix with its middle left out where it is large.
 *
 *   f32 (2,3)
 *     1.0000  2.0000  3.0000
 *     4.0000  5.0000  6.0000
 *
 * Integers print as such; one format is chosen for all that is shown. Blocks of more than two axes
 * carry their index, as it would be written: [{2,1}]. */
#include "lua_attnlab.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { EDGE = 4, MOST = 10, BLOCK_EDGE = 2, MOST_BLOCKS = 5 };

typedef struct printer {
  const al_tensor *t;
  enum { RANGE, WIDTH, WRITE } pass; /* all three over what is shown only */
  luaL_Buffer *b;
  int64_t index[AL_MAX_DIMS];
  bool whole;     /* nothing but integers */
  double largest; /* finite magnitude */
  char format;    /* 'd', 'f' or 'e' */
  int width;
} printer;

static void put(printer *p, const char *s) {
  if (p->pass == WRITE) luaL_addstring(p->b, s);
}

static int number(const printer *p, double x, char *buf, size_t n) {
  AL_PLAIN_NUMBERS;
  if (!isfinite(x)) return snprintf(buf, n, "%s", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
  return snprintf(buf, n, p->format == 'd' ? "%.0f" : p->format == 'f' ? "%.4f" : "%.4e", x);
}

static void cell(printer *p) {
  const double x = al_number(p->t, p->index);
  if (p->pass == RANGE) {
    if (!isfinite(x)) return;
    p->whole &= x == floor(x);
    if (fabs(x) > p->largest) p->largest = fabs(x);
    return;
  }
  char text[64], padded[80];
  const int n = number(p, x, text, sizeof text);
  if (n > p->width) p->width = n;
  snprintf(padded, sizeof padded, "%*s", p->width, text);
  put(p, padded);
}

static void row(printer *p, int axis) {
  const int64_t n = al_size(p->t, axis);
  put(p, "\n ");
  for (int64_t i = 0; i < n; i++) {
    if (n > MOST && i == EDGE) put(p, "  ..."), i = n - EDGE;
    p->index[axis] = i;
    put(p, " ");
    cell(p);
  }
}

static void matrix(printer *p, int axis) {
  const int64_t n = al_size(p->t, axis);
  for (int64_t i = 0; i < n; i++) {
    if (n > MOST && i == EDGE) put(p, "\n  ..."), i = n - EDGE;
    p->index[axis] = i;
    row(p, axis + 1);
  }
}

static void blocks(printer *p, int axis) {
  const int64_t n = al_size(p->t, axis);
  if (axis == al_ndim(p->t) - 2) {
    char text[32];
    for (int i = 0; i < axis; i++) {
      snprintf(text, sizeof text, "%s%lld", i ? "," : "\n [{", (long long)p->index[i] + 1);
      put(p, text);
    }
    put(p, "}]");
    matrix(p, axis);
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    if (n > MOST_BLOCKS && i == BLOCK_EDGE) put(p, "\n ..."), i = n - BLOCK_EDGE;
    p->index[axis] = i;
    blocks(p, axis + 1);
  }
}

static void show(printer *p) {
  switch (al_ndim(p->t)) {
  case 0:
    put(p, " "), cell(p);
    break;
  case 1:
    row(p, 0);
    break;
  case 2:
    matrix(p, 0);
    break;
  default:
    blocks(p, 0);
  }
}

int lal_tensor_tostring(lua_State *L) {
  const lal_box *box = luaL_checkudata(L, 1, LAL_TENSOR->name);
  const al_tensor *t = box->p;
  if (!t) {
    lua_pushliteral(L, "tensor (freed)");
    return 1;
  }
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addstring(&b, al_dtype_name(al_type(t)));
  luaL_addstring(&b, " ");
  luaL_addstring(&b, al_shape_str(t, (char[192]){0}, 192));
  if (al_needs_grad(t)) luaL_addstring(&b, "  requires_grad");
  if (al_numel(t) > 0) {
    printer p = {.t = t, .b = &b, .whole = true};
    show(&p);
    p.format = al_type(t) == AL_I32 || (p.whole && p.largest < 1e9) ? 'd'
               : p.largest < 1e5 && (p.largest == 0 || p.largest >= 1e-2)
                   ? 'f' /* four decimals say enough */
                   : 'e';
    p.pass = WIDTH, show(&p);
    p.pass = WRITE, show(&p);
    if (al_error(lal_ctx(L)) != AL_OK) return lal_raise(L); /* a number could not be read */
  }
  luaL_pushresult(&b);
  return 1;
}
