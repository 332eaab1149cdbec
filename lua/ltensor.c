/* ltensor.c: tensors in Lua: constructors, methods, conversion from and to tables. */
#include "lua_attnlab.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static void release(void *p) { al_release(p); }
const lal_type lal_tensor_type = {"attnlab.tensor", release, 0};

al_tensor *lal_tensor_test(lua_State *L, int idx) {
  const lal_box *b = lal_box_test(L, idx, LAL_TENSOR);
  return b ? b->p : NULL;
}

al_tensor *lal_tensor_check(lua_State *L, int arg) { return lal_check(L, arg, LAL_TENSOR); }

void lal_tensor_set(lua_State *L, const char *name, al_tensor *t) {
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  b->p = al_retain(t);
  lua_setfield(L, -2, name);
}

/* t:free(): gives its memory back now, before the collector would. */
static int tensor_free(lua_State *L) {
  lal_box_free(L, luaL_checkudata(L, 1, LAL_TENSOR->name));
  return 0;
}

/* ---- from tables ---- */

typedef struct nest {
  lua_State *L;
  const char *fname;
  al_dtype dtype;
  int ndim;
  int64_t shape[AL_MAX_DIMS], at[AL_MAX_DIMS], n;
  double *data;
} nest;

/* "[2][1]" */
static const char *place(const nest *s, int depth, char *buf, size_t n) {
  size_t at = 0;
  buf[0] = 0;
  for (int i = 0; i < depth && at < n; i++)
    at += (size_t)snprintf(buf + at, n - at, "[%lld]", (long long)s->at[i] + 1);
  return buf;
}

bool lal_is_i32(double x) { return x == floor(x) && x >= INT32_MIN && x <= INT32_MAX; }

static double number(lua_State *L, int idx, al_dtype dtype, const char *fname, const char *where) {
  const double x = lua_tonumber(L, idx);
  if (dtype == AL_I32 && !lal_is_i32(x))
    luaL_error(L, "%s: element %s: an i32 expected, got %f", fname, where, x);
  return x;
}

/* Sizes along the first elements. The value is at the top of the stack. */
static void measure(nest *s, int depth) {
  lua_State *L = s->L;
  if (lua_type(L, -1) != LUA_TTABLE) {
    s->ndim = depth;
    return;
  }
  if (depth == AL_MAX_DIMS)
    luaL_error(L, "%s: tables nested deeper than %d axes", s->fname, AL_MAX_DIMS);
  luaL_checkstack(L, 4, "tensor");
  s->shape[depth] = (int64_t)lua_rawlen(L, -1);
  lua_rawgeti(L, -1, 1);
  if (s->shape[depth] == 0) s->ndim = depth + 1;
  else measure(s, depth + 1);
  lua_pop(L, 1);
}

static void fill(nest *s, int depth) {
  lua_State *L = s->L;
  char text[160];
  if (depth == s->ndim) {
    if (lua_type(L, -1) != LUA_TNUMBER)
      luaL_error(L, "%s: element %s: a number expected, got a %s", s->fname,
                 place(s, depth, text, sizeof text), luaL_typename(L, -1));
    s->data[s->n++] = number(L, -1, s->dtype, s->fname,
                             s->dtype == AL_I32 ? place(s, depth, text, sizeof text) : "");
    return;
  }
  if (lua_type(L, -1) != LUA_TTABLE)
    luaL_error(L, "%s: element %s: a table of %I expected as in the first, got a %s", s->fname,
               place(s, depth, text, sizeof text), (lua_Integer)s->shape[depth],
               luaL_typename(L, -1));
  if ((int64_t)lua_rawlen(L, -1) != s->shape[depth])
    luaL_error(L, "%s: table %s has %I elements, the first one here has %I", s->fname,
               place(s, depth, text, sizeof text), (lua_Integer)lua_rawlen(L, -1),
               (lua_Integer)s->shape[depth]);
  for (s->at[depth] = 0; s->at[depth] < s->shape[depth]; s->at[depth]++) {
    lua_rawgeti(L, -1, s->at[depth] + 1);
    fill(s, depth + 1);
    lua_pop(L, 1);
  }
}

/* Makes the device that option `device` names current, until al_on(c, what it returns); NULL with the error
 * pending. */
static const char *begin_there(al_ctx *c, const al_opts *o) {
  if (al_error(c) != AL_OK) return NULL;
  return al_on(c, al_opts_given(o, "device") ? al_opt_word(o, "device") : NULL);
}

static al_tensor *from_doubles(lua_State *L, const nest *s, int ndim, const int64_t *shape) {
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  const int64_t before = al_memory(c).live;
  LAL_RETRY(L, c, b->p = al_tensor_from(c, s->dtype, ndim, shape, s->data, s->n));
  if (b->p) lal_account(L, before);
  return b->p;
}

/* Reads the nested table or number at idx into a buffer, which it pushes. */
static void read_nested(lua_State *L, int idx, al_dtype dtype, const char *fname, nest *s) {
  *s = (nest){.L = L, .fname = fname, .dtype = dtype};
  lua_pushvalue(L, idx);
  measure(s, 0);
  int64_t n = 1;
  for (int i = 0; i < s->ndim; i++)
    if (__builtin_mul_overflow(n, s->shape[i], &n) || n > (int64_t)1 << 40)
      luaL_error(L, "%s: table too large", fname);
  s->data = lua_newuserdatauv(L, (size_t)(n ? n : 1) * sizeof(double), 0);
  lua_insert(L, -2);
  fill(s, 0);
  lua_pop(L, 1);
}

al_tensor *lal_tensor_from(lua_State *L, int idx, al_dtype dtype, const char *fname) {
  nest s;
  read_nested(L, lua_absindex(L, idx), dtype, fname, &s);
  al_tensor *t = from_doubles(L, &s, s.ndim, s.shape);
  if (!t) lal_raise(L);
  lua_remove(L, -2); /* the buffer */
  return t;
}

/* ---- constructors ---- */

#define SHAPE                                                                                      \
  { "shape", AL_T_INT | AL_T_LIST, "{}", NULL, 0, 1e300, "sizes of the axes", NULL }
#define DTYPE                                                                                      \
  { "dtype", AL_T_WORD, "f32", "f64 f32 bf16 i32", 0, 0, "element type", NULL }
#define DEVICE                                                                                     \
  { "device", AL_T_TEXT, "", NULL, 0, 0, "where it lies (the current device)", NULL }
#define STREAM                                                                                     \
  {                                                                                                \
      "seed",                                                                                      \
      AL_T_INT,                                                                                    \
      "",                                                                                          \
      NULL,                                                                                        \
      0,                                                                                           \
      0,                                                                                           \
      "number of the random stream; absent: the next of core.seed's",                              \
      NULL},                                                                                       \
  {                                                                                                \
    "stream", AL_T_TEXT, "", NULL, 0, 0, "name of the random stream, with seed", NULL              \
  }

static const al_arg plain_args[] = {SHAPE, DTYPE, DEVICE, {0}};
static const al_arg full_args[] = {
    SHAPE, DTYPE, DEVICE, {"value", AL_T_NUM, "", NULL, 0, 0, "of every element", NULL}, {0}};
static const al_arg random_args[] = {SHAPE, DTYPE, DEVICE, STREAM, {0}};
static const al_row data_row[] = {{"data", 0, "numbers, flat or nested"}, {0}};

/* The sizes of option shape; -1 with an error. */
static int shape_of(al_ctx *c, const al_opts *o, const char *owner, int64_t shape[AL_MAX_DIMS]) {
  const double *x;
  const int n = al_opt_list(o, "shape", &x);
  if (n > AL_MAX_DIMS) {
    al_fail(c, AL_ESHAPE, "%s: option 'shape': at most %d axes possible, got %d", owner,
            AL_MAX_DIMS, n);
    return -1;
  }
  for (int i = 0; i < n; i++) shape[i] = (int64_t)x[i]; /* a list of integers holds exact ones */
  return n;
}

/* A constructor takes one table; `as` shows how it is written. */
static void one_table(lua_State *L, const char *fname, const char *as) {
  if (lua_gettop(L) > 1) lal_argerror(L, 2, fname, "one table expected, as %s%s", fname, as);
  if (lua_gettop(L) == 0 || !lua_istable(L, 1))
    lal_argerror(L, 1, fname, "a table expected, as %s%s, got %s", fname, as, luaL_typename(L, 1));
}

enum { ZEROS, ONES, FULL, UNIFORM, NORMAL };

static int make(lua_State *L, const char *fname, int kind, const al_arg *rows) {
  const lal_where w = {.fname = fname, .opts_arg = 1};
  one_table(L, fname,
            kind == FULL      ? "{shape={2,3}, value=1, dtype=\"f64\"}"
            : kind >= UNIFORM ? "{shape={2,3}, dtype=\"f64\", seed=1}"
                              : "{shape={2,3}, dtype=\"f64\"}");
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  al_opts *o = lal_opts_from(L, 1, c, rows, fname);
  if (!o) return lal_raise_in(L, &w);
  lal_opts_need(L, &w, o, kind == FULL ? "shape value" : "shape");
  int64_t shape[AL_MAX_DIMS];
  const int ndim = shape_of(c, o, fname, shape);
  const bool seeded = kind >= UNIFORM && al_opts_given(o, "seed");
  const double value = kind == FULL ? al_opt_num(o, "value") : kind == ONES;
  uint64_t stream = 0;
  if (seeded) stream = al_stream((uint64_t)al_opt_int(o, "seed"), al_opt_word(o, "stream"));
  else if (kind >= UNIFORM && al_opts_given(o, "stream"))
    al_fail(c, AL_EVALUE, "%s: option 'stream': needs the option 'seed', too", fname);
  else if (kind >= UNIFORM) stream = al_draw_key(c);
  al_dtype dtype = AL_F32;
  al_dtype_parse(c, al_opt_word(o, "dtype"), &dtype);
  if (dtype == AL_I32 && !lal_is_i32(value))
    al_fail(c, AL_EVALUE, "%s: option 'value': an i32 expected, got %g", fname, value);
  const char *here = begin_there(c, o);
  al_opts_release(o);
  if (!here) return lal_raise_in(L, &w);
  const int64_t before = al_memory(c).live;
  LAL_RETRY(L, c, b->p = al_tensor_full(c, dtype, ndim, shape, value));
  if (b->p && kind == UNIFORM) al_fill_uniform(b->p, stream, 0, 1);
  if (b->p && kind == NORMAL) al_fill_normal(b->p, stream, 0, 1);
  if (al_error(c) == AL_OK) lal_account(L, before);
  al_on(c, here);
  return al_error(c) == AL_OK ? 1 : lal_raise_in(L, &w);
}

/* lab.zeros{shape={2,3}, dtype="f32", device=}: a tensor of zeros. */
static int core_zeros(lua_State *L) { return make(L, "zeros", ZEROS, plain_args); }
/* lab.ones{shape={2,3}, dtype="f32", device=}: a tensor of ones. */
static int core_ones(lua_State *L) { return make(L, "ones", ONES, plain_args); }
/* lab.full{shape={2,3}, value=0.5, dtype="f32", device=}: a tensor of one value. */
static int core_full(lua_State *L) { return make(L, "full", FULL, full_args); }
/* lab.rand{shape={2,3}, dtype="f32", seed=, stream=, device=}: uniform in [0, 1), a function of (seed,
 * stream); without a seed the next of the sequence. */
static int core_rand(lua_State *L) { return make(L, "rand", UNIFORM, random_args); }
/* lab.randn{shape={2,3}, dtype="f32", seed=, stream=, device=}: N(0, 1), as lab.rand. */
static int core_randn(lua_State *L) { return make(L, "randn", NORMAL, random_args); }

/* Has the table at idx a key that is a name? */
static bool has_names(lua_State *L, int idx) {
  if (!lua_istable(L, idx)) return false;
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1))
    if (lua_type(L, -2) == LUA_TSTRING) {
      lua_pop(L, 2);
      return true;
    }
  return false;
}

/* lab.tensor{{1,2},{3,4}}: a tensor of these numbers, f32; lab.tensor(5); or the whole of it,
 * lab.tensor{data={...}, shape={2,3}, dtype="f64", device=}. */
static int core_tensor(lua_State *L) {
  static const char *const as = "{data={1,2,3}, dtype=\"f64\"}";
  const lal_where w = {.fname = "tensor", .opts_arg = 1};
  if (lua_gettop(L) != 1 || lua_type(L, 1) != LUA_TNUMBER) one_table(L, w.fname, as);
  if (!has_names(L, 1)) {
    lal_tensor_from(L, 1, AL_F32, w.fname);
    return 1;
  }
  if (lua_rawlen(L, 1) > 0)
    return lal_argerror(L, 1, w.fname, "numbers beside names: data=.. expected, as tensor%s", as);
  al_ctx *c = lal_ctx(L);
  al_opts *o = al_opts_new(c, plain_args, w.fname);
  if (o) lal_opts_set(L, 1, c, o, w.fname, data_row);
  int64_t shape[AL_MAX_DIMS];
  const int ndim = al_error(c) == AL_OK ? shape_of(c, o, w.fname, shape) : -1;
  al_dtype dtype = AL_F32;
  if (al_error(c) == AL_OK) al_dtype_parse(c, al_opt_word(o, "dtype"), &dtype);
  const bool shaped = al_error(c) == AL_OK && al_opts_given(o, "shape");
  const char *here = begin_there(c, o), *there = here ? al_on(c, here) : NULL;
  al_opts_release(o);
  if (!here) return lal_raise_in(L, &w);
  lua_pushliteral(L, "data");
  const int type = lua_rawget(L, 1);
  if (type == LUA_TNIL) return lal_argerror(L, 1, w.fname, "option 'data' is missing");
  if (type != LUA_TNUMBER && type != LUA_TTABLE)
    return lal_argerror(L, 1, w.fname, "option 'data': numbers in a table expected, got a %s",
                        lua_typename(L, type));
  nest s;
  read_nested(L, 2, dtype, w.fname, &s);
  al_on(c, there);
  const al_tensor *t = from_doubles(L, &s, shaped ? ndim : s.ndim, shaped ? shape : s.shape);
  al_on(c, here);
  return t ? 1 : lal_raise(L);
}

/* core.is_tensor(v): whether v is a tensor. */
static int core_is_tensor(lua_State *L) {
  lua_pushboolean(L, lal_tensor_test(L, 1) != NULL);
  return 1;
}

/* ---- reading ---- */

/* All elements as doubles in a buffer that it pushes. */
static double *read_all(lua_State *L, const al_tensor *t) {
  const int64_t n = al_numel(t);
  double *x = lua_newuserdatauv(L, (size_t)(n ? n : 1) * sizeof *x, 0);
  if (al_read(t, x, n) != AL_OK) lal_raise(L);
  return x;
}

static void push_number(lua_State *L, const al_tensor *t, double x) {
  if (al_type(t) == AL_I32) lua_pushinteger(L, (lua_Integer)x);
  else lua_pushnumber(L, x);
}

static const double *push_nested(lua_State *L, const al_tensor *t, int axis, const double *x) {
  if (axis == al_ndim(t)) {
    push_number(L, t, *x);
    return x + 1;
  }
  const int64_t n = al_size(t, axis);
  luaL_checkstack(L, 4, "tensor");
  lua_createtable(L, n < 1 << 24 ? (int)n : 0, 0);
  for (int64_t i = 0; i < n; i++) {
    x = push_nested(L, t, axis + 1, x);
    lua_rawseti(L, -2, i + 1);
  }
  return x;
}

/* t:totable(): its numbers as nested tables; of one number, the number. */
static int tensor_totable(lua_State *L) {
  const al_tensor *t = lal_tensor_check(L, 1);
  push_nested(L, t, 0, read_all(L, t));
  return 1;
}

/* t:flat(): its numbers as one array, the last axis fastest. */
static int tensor_flat(lua_State *L) {
  const al_tensor *t = lal_tensor_check(L, 1);
  const double *x = read_all(L, t);
  const int64_t n = al_numel(t);
  lua_createtable(L, n < 1 << 24 ? (int)n : 0, 0);
  for (int64_t i = 0; i < n; i++) {
    push_number(L, t, x[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* t:item(): the number of a tensor that has one. */
static int tensor_item(lua_State *L) {
  const al_tensor *t = lal_tensor_check(L, 1);
  if (al_numel(t) != 1)
    return luaL_error(L, "item: a tensor of one element needed, got shape %s",
                      al_shape_str(t, (char[96]){0}, 96));
  const double x = al_item(t);
  if (al_error(lal_ctx(L)) != AL_OK) return lal_raise(L); /* of what was queued before, too */
  push_number(L, t, x);
  return 1;
}

/* t:shape(): array of its sizes. */
static int tensor_shape(lua_State *L) {
  const al_tensor *t = lal_tensor_check(L, 1);
  lua_createtable(L, al_ndim(t), 0);
  for (int i = 0; i < al_ndim(t); i++) {
    lua_pushinteger(L, al_size(t, i));
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* t:size(axis): the size of an axis, from 1 or, from the end, -1. */
static int tensor_size(lua_State *L) {
  const al_tensor *t = lal_tensor_check(L, 1);
  const lua_Integer a = luaL_checkinteger(L, 2), n = al_ndim(t);
  if (a == 0 || a > n || a < -n)
    return lal_argerror(L, 2, "size", "axis in 1..%d or %d..-1 expected, got %lld for shape %s",
                        (int)n, (int)-n, (long long)a, al_shape_str(t, (char[96]){0}, 96));
  lua_pushinteger(L, al_size(t, (int)(a > 0 ? a - 1 : a)));
  return 1;
}

/* t:id(): equal for all that is this very tensor and for no other one that lives; a key of
 * tables. */
static int tensor_id(lua_State *L) {
  lua_pushlightuserdata(L, lal_tensor_check(L, 1));
  return 1;
}

static int tensor_len(lua_State *L) {
  const al_tensor *t = lal_tensor_check(L, 1);
  if (al_ndim(t) == 0) return luaL_error(L, "length: a scalar tensor has no axis");
  lua_pushinteger(L, al_size(t, 0));
  return 1;
}

/* t:ndim(): number of axes. */
static int tensor_ndim(lua_State *L) {
  lua_pushinteger(L, al_ndim(lal_tensor_check(L, 1)));
  return 1;
}

/* t:numel(): number of elements. */
static int tensor_numel(lua_State *L) {
  lua_pushinteger(L, al_numel(lal_tensor_check(L, 1)));
  return 1;
}

/* t:device(): where its numbers are. */
static int tensor_device(lua_State *L) {
  lua_pushstring(L, al_device_name(lal_tensor_check(L, 1)));
  return 1;
}

/* t:dtype(): "f32", "f64", "bf16" or "i32". */
static int tensor_dtype(lua_State *L) {
  lua_pushstring(L, al_dtype_name(al_type(lal_tensor_check(L, 1))));
  return 1;
}

/* ---- copies and writing in place ---- */

/* t:to(dtype or device): the values as that type, gradients flow back; or on that device. */
static int tensor_to(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  const char *to = luaL_checkstring(L, 2);
  al_ctx *c = lal_ctx(L);
  al_dtype dtype;
  if (al_dtype_parse(c, to, &dtype) != AL_OK) { /* then it is a device */
    al_error_clear(c);
    lal_box *there = lal_box_new(L, LAL_TENSOR);
    there->p = al_to(c, t, to);
    if (there->p) return 1;
    if (al_error(c) != AL_ENAME || strncmp(to, "cuda", 4) == 0) return lal_raise(L);
    al_error_clear(c);
    return lal_argerror(L, 2, "to", "a type, f64 f32 bf16 i32, or a device expected, got '%s' (%s)",
                        to, al_build_info());
  }
  if (dtype == al_type(t)) return lua_pushvalue(L, 1), 1;
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  const int64_t before = al_memory(c).live;
  LAL_RETRY(L, c, b->p = al_run(c, LAL_OP_CAST, AL_IN(t), "dtype=%s", al_dtype_name(dtype)));
  if (!b->p) return lal_raise(L);
  lal_account(L, before);
  return 1;
}

/* t:detach(): the same numbers in the same memory, without history. */
static int tensor_detach(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  LAL_RETRY(L, c, b->p = al_detach(c, t));
  return b->p ? 1 : lal_raise(L);
}

/* t:fork(): the values without history, in t's memory until either is written. */
static int tensor_fork(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  LAL_RETRY(L, c, b->p = al_fork(c, t));
  return b->p ? 1 : lal_raise(L);
}

/* t:fork_(src): as copy_, but the memory is src's until either is written. */
static int tensor_fork_into(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  if (al_fork_into(lal_ctx(L), t, lal_tensor_check(L, 2)) != AL_OK) return lal_raise(L);
  lua_settop(L, 1);
  return 1;
}

/* A copy of the values, without history. */
static int tensor_clone(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  const int64_t before = al_memory(c).live;
  const char *here = al_on(c, al_device_name(t));
  LAL_RETRY(L, c, b->p = al_tensor_new(c, al_type(t), al_ndim(t), al_shape(t)));
  if (b->p && al_copy_into(c, b->p, t) == AL_OK) lal_account(L, before);
  al_on(c, here);
  return al_error(c) == AL_OK ? 1 : lal_raise(L);
}

/* t:copy_(src): writes the values of a tensor or table of the same shape into t, which it
 * returns. */
static int tensor_copy(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  al_ctx *c = lal_ctx(L);
  lua_settop(L, 2);
  al_tensor *src =
      lua_istable(L, 2) ? lal_tensor_from(L, 2, al_type(t), "copy_") : lal_tensor_check(L, 2);
  if (al_copy_into(c, t, src) != AL_OK) return lal_raise(L);
  lua_settop(L, 1);
  return 1;
}

/* t:fill(x): writes the number everywhere; returns t. */
static int tensor_fill(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  luaL_checktype(L, 2, LUA_TNUMBER);
  const double x = number(L, 2, al_type(t), "fill", "");
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  LAL_RETRY(L, c, b->p = al_tensor_full(c, al_type(t), al_ndim(t), al_shape(t), x));
  if (!b->p || al_copy_into(c, t, b->p) != AL_OK) return lal_raise(L);
  lal_box_empty(b);
  lua_settop(L, 1);
  return 1;
}

static int fill_random(lua_State *L, bool normal) {
  al_tensor *t = lal_tensor_check(L, 1);
  const uint64_t stream = al_stream((uint64_t)luaL_checkinteger(L, 2), luaL_checkstring(L, 3));
  const double a = luaL_optnumber(L, 4, 0), b = luaL_optnumber(L, 5, 1);
  if ((normal ? al_fill_normal : al_fill_uniform)(t, stream, a, b) != AL_OK) return lal_raise(L);
  lua_settop(L, 1);
  return 1;
}
/* t:fill_uniform(seed, stream, lo, hi): uniform numbers, a function of (seed, stream). */
static int tensor_fill_uniform(lua_State *L) { return fill_random(L, false); }
/* t:fill_normal(seed, stream, mean, deviation): normal numbers, a function of (seed, stream). */
static int tensor_fill_normal(lua_State *L) { return fill_random(L, true); }

/* ---- gradients ---- */

/* t:requires_grad(true): gradients are kept in t; returns t. t:requires_grad(): whether they
 * are. */
static int tensor_requires_grad(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  if (lua_isnoneornil(L, 2)) {
    lua_pushboolean(L, al_needs_grad(t));
    return 1;
  }
  luaL_checktype(L, 2, LUA_TBOOLEAN);
  const bool on = lua_toboolean(L, 2);
  al_requires_grad(t, on);
  if (al_needs_grad(t) != on)
    return on ? luaL_error(L, "requires_grad: f32, f64 or bf16 needed, got %s",
                           al_dtype_name(al_type(t)))
              : luaL_error(L, "requires_grad: this tensor was computed from others; t:detach() has "
                              "no history");
  lua_settop(L, 1);
  return 1;
}

/* t:grad(): the gradient that backward left, or nil. */
static int tensor_grad(lua_State *L) {
  const al_tensor *t = lal_tensor_check(L, 1);
  lal_box *b = lal_box_new(L, LAL_TENSOR); /* first: a finaliser may change the gradient */
  b->p = al_retain(al_grad(t));
  if (!b->p) lua_pushnil(L);
  return 1;
}

/* t:zero_grad(): forgets the gradient; returns t. */
static int tensor_zero_grad(lua_State *L) {
  al_set_grad(lal_tensor_check(L, 1), NULL);
  lua_settop(L, 1);
  return 1;
}

/* t:backward(seed): adds d t / d x to the gradient of every x that t came from; seed, a tensor:
 * what t itself is given, 1 for a tensor of one number. */
static int tensor_backward(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  al_tensor *seed = lua_isnoneornil(L, 2) ? NULL : lal_tensor_check(L, 2);
  al_ctx *c = lal_ctx(L);
  const int64_t before = al_memory(c).live;
  if (al_backward(c, t, seed) != AL_OK) return lal_raise(L);
  lal_account(L, before);
  return 0;
}

static const luaL_Reg methods[] = {{"totable", tensor_totable},
                                   {"flat", tensor_flat},
                                   {"item", tensor_item},
                                   {"shape", tensor_shape},
                                   {"size", tensor_size},
                                   {"ndim", tensor_ndim},
                                   {"numel", tensor_numel},
                                   {"dtype", tensor_dtype},
                                   {"device", tensor_device},
                                   {"id", tensor_id},
                                   {"to", tensor_to},
                                   {"detach", tensor_detach},
                                   {"clone", tensor_clone},
                                   {"copy_", tensor_copy},
                                   {"fork", tensor_fork},
                                   {"fork_", tensor_fork_into},
                                   {"fill", tensor_fill},
                                   {"fill_uniform", tensor_fill_uniform},
                                   {"fill_normal", tensor_fill_normal},
                                   {"requires_grad", tensor_requires_grad},
                                   {"grad", tensor_grad},
                                   {"zero_grad", tensor_zero_grad},
                                   {"backward", tensor_backward},
                                   {"free", tensor_free},
                                   {NULL, NULL}};

static const luaL_Reg meta[] = {
    {"__tostring", lal_tensor_tostring}, {"__len", tensor_len}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"tensor", core_tensor},       {"zeros", core_zeros},
                                     {"ones", core_ones},           {"full", core_full},
                                     {"rand", core_rand},           {"randn", core_randn},
                                     {"is_tensor", core_is_tensor}, {NULL, NULL}};

void lal_open_tensor(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  if (!lal_class(L, LAL_TENSOR, methods, meta)) return;
  luaL_getmetatable(L, LAL_TENSOR->name);
  lua_getfield(L, -1, "__index");
  lal_ops_methods(L);
  lal_index_open(L); /* takes the methods */
  lal_ops_metamethods(L);
  lua_pop(L, 1);
}
