/* lindex.c: t[i] and t[{...}], read and written. An integer picks one place and drops the axis,
 * {first, last} or {first, last, step} is a range with both ends, {} is the whole axis; axes that
 * are not named are whole. Places count from 1, or from the end with -1. Reading is recorded for
 * gradients and shares the storage; writing is not recorded. */
#include "lua_attnlab.h"
#include <string.h>

typedef struct item {
  bool drop, whole;
  int64_t start, stop, step; /* 0-based, stop excluded */
} item;

typedef struct pick {
  int n;
  item at[AL_MAX_DIMS];
} pick;

static int64_t position(lua_State *L, int idx, const al_tensor *t, int axis) {
  int ok;
  const lua_Integer i = lua_tointegerx(L, idx, &ok), n = al_size(t, axis);
  if (!ok || lua_type(L, idx) != LUA_TNUMBER)
    luaL_error(L, "index: axis %d: an integer or {first, last} expected, got a %s", axis + 1,
               luaL_typename(L, idx));
  if (i == 0 || i > n || i < -n)
    luaL_error(L, "index: axis %d: 1..%I or from the end -%I..-1 expected, got %I for shape %s",
               axis + 1, n, n, i, al_shape_str(t, (char[96]){0}, 96));
  return i > 0 ? i - 1 : i + n;
}

static item parse(lua_State *L, const al_tensor *t, int axis) {
  const int idx = lua_gettop(L);
  item r = {.step = 1};
  if (!lua_istable(L, idx)) {
    r.start = position(L, idx, t, axis);
    r.stop = r.start + 1;
    r.drop = true;
    return r;
  }
  const size_t n = lua_rawlen(L, idx);
  if (n == 0) {
    r.whole = true;
    return r;
  }
  if (n > 3 || n == 1)
    luaL_error(L, "index: axis %d: a range is {first, last} or {first, last, step}", axis + 1);
  lua_rawgeti(L, idx, 1);
  r.start = position(L, -1, t, axis);
  lua_rawgeti(L, idx, 2);
  r.stop = position(L, -1, t, axis) + 1;
  if (n == 3) {
    lua_rawgeti(L, idx, 3);
    r.step = lua_tointeger(L, -1);
    if (r.step < 1)
      luaL_error(L, "index: axis %d: the step of a range is an integer of at least 1", axis + 1);
  }
  if (r.stop <= r.start)
    luaL_error(L, "index: axis %d: first after last in {%I, %I}", axis + 1,
               (lua_Integer)r.start + 1, (lua_Integer)r.stop);
  lua_settop(L, idx);
  return r;
}

static pick parse_key(lua_State *L, int idx, const al_tensor *t) {
  pick p = {.n = 1};
  const int ndim = al_ndim(t);
  if (lua_istable(L, idx)) {
    const size_t n = lua_rawlen(L, idx);
    if ((int64_t)n > ndim)
      luaL_error(L, "index: %d places for the %d axes of shape %s", (int)n, ndim,
                 al_shape_str(t, (char[96]){0}, 96));
    p.n = (int)n;
    for (int i = 0; i < p.n; i++) {
      lua_rawgeti(L, idx, i + 1);
      p.at[i] = parse(L, t, i);
      lua_pop(L, 1);
    }
  } else {
    if (ndim == 0) luaL_error(L, "index: a scalar tensor has no axis");
    lua_pushvalue(L, idx);
    p.at[0] = parse(L, t, 0);
    lua_pop(L, 1);
  }
  return p;
}

static al_tensor *view(al_ctx *c, al_tensor *t, const pick *p) {
  al_scope_begin(c);
  al_tensor *x = t;
  for (int i = 0; i < p->n; i++)
    if (!p->at[i].whole)
      x = al_run(c, LAL_OP_SLICE, AL_IN(x), "axis=%d start=%lld stop=%lld step=%lld", i,
                 (long long)p->at[i].start, (long long)p->at[i].stop, (long long)p->at[i].step);
  for (int i = p->n - 1; i >= 0; i--)
    if (p->at[i].drop) x = al_run(c, LAL_OP_DROP, AL_IN(x), "axis=%d", i);
  return al_scope_end(c, x);
}

static int get_method(lua_State *L) {
  const char *name = lua_tostring(L, 2);
  const int methods = lua_upvalueindex(1);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, methods) != LUA_TNIL) return 1;
  const char *names[512];
  int n = 0;
  for (lua_pushnil(L); n < 512 && lua_next(L, methods); lua_pop(L, 1))
    names[n++] = lua_tostring(L, -2);
  const char *near = al_nearest(name, names, n);
  return near ? luaL_error(L, "a tensor has no method '%s' (did you mean '%s'?)", name, near)
              : luaL_error(L, "a tensor has no method '%s'", name);
}

static int tensor_index(lua_State *L) {
  if (lua_type(L, 2) == LUA_TSTRING) return get_method(L);
  al_tensor *t = lal_tensor_check(L, 1);
  const pick p = parse_key(L, 2, t);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  const int64_t before = al_memory(c).live;
  LAL_RETRY(L, c, b->p = view(c, t, &p));
  if (!b->p) return lal_raise(L);
  lal_account(L, before);
  return 1;
}

static int tensor_newindex(lua_State *L) {
  al_tensor *t = lal_tensor_check(L, 1);
  if (lua_type(L, 2) == LUA_TSTRING)
    return luaL_error(L, "a tensor has no field '%s' to set", lua_tostring(L, 2));
  const pick p = parse_key(L, 2, t);
  const bool filled = lua_type(L, 3) == LUA_TNUMBER;
  if (filled && al_type(t) == AL_I32 && !lal_is_i32(lua_tonumber(L, 3)))
    return luaL_error(L, "index: an i32 expected, got %f", lua_tonumber(L, 3));
  const al_tensor *src = filled              ? NULL
                         : lua_istable(L, 3) ? lal_tensor_from(L, 3, al_type(t), "index")
                                             : lal_tensor_check(L, 3);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR), *v = filled ? lal_box_new(L, LAL_TENSOR) : NULL;
  const bool old = al_grad_mode(c, false);
  b->p = view(c, t, &p);
  if (b->p && filled)
    src = v->p = al_tensor_full(c, al_type(t), al_ndim(b->p), al_shape(b->p), lua_tonumber(L, 3));
  if (b->p && src) al_copy_into(c, b->p, src);
  al_grad_mode(c, old);
  return al_error(c) == AL_OK ? 0 : lal_raise(L);
}

void lal_index_open(lua_State *L) {
  lua_pushcclosure(L, tensor_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, tensor_newindex);
  lua_setfield(L, -2, "__newindex");
}
