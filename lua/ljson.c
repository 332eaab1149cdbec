/* ljson.c: JSON by jansson: sorted keys, exact integers, %.17g, no NaN. A table with #t > 0 is an
 * array, core.json.array(t) marks one that may be empty, core.json.null stands for null. */
#include "lua_attnlab.h"
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY "attnlab.json.array"
enum { DEEPEST = 200 };

typedef struct encoder {
  lua_State *L;
  char path[256]; /* of the value at hand: "model.layers[2]" */
  char error[512];
} encoder;

static void free_json(void *p) { json_decref(p); }

static __attribute__((format(printf, 2, 3))) json_t *fail(encoder *e, const char *fmt, ...) {
  if (e->error[0]) return NULL;
  const int n = snprintf(e->error, sizeof e->error, "json: %s%s", e->path, e->path[0] ? ": " : "");
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(e->error + n, sizeof e->error - (size_t)n, fmt, ap);
  va_end(ap);
  return NULL;
}

static json_t *encode(encoder *e, int depth);

/* The array on top. */
static json_t *encode_array(encoder *e, int depth) {
  json_t *a = json_array();
  if (!a) return fail(e, "out of memory");
  const size_t at = strlen(e->path), n = lua_rawlen(e->L, -1);
  for (size_t i = 1; i <= n; i++) {
    snprintf(e->path + at, sizeof e->path - at, "[%zu]", i);
    lua_rawgeti(e->L, -1, (lua_Integer)i);
    json_t *v = encode(e, depth + 1);
    lua_pop(e->L, 1);
    if (!v || json_array_append_new(a, v) != 0) {
      json_decref(a);
      return fail(e, "out of memory");
    }
    e->path[at] = 0;
  }
  return a;
}

static json_t *encode_object(encoder *e, int depth) {
  lua_State *L = e->L;
  json_t *o = json_object();
  if (!o) return fail(e, "out of memory");
  const size_t at = strlen(e->path);
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) {
      fail(e, "keys are strings (or 1, 2, ... alone, without holes), got a %s key",
           luaL_typename(L, -2));
      break;
    }
    size_t n;
    const char *key = lua_tolstring(L, -2, &n);
    snprintf(e->path + at, sizeof e->path - at, "%s%s", at ? "." : "", key);
    json_t *v = encode(e, depth + 1);
    if (!v) break;
    if (strlen(key) != n || json_object_set_new(o, key, v) != 0) {
      fail(e, "a key must be UTF-8 without zero bytes");
      break;
    }
    e->path[at] = 0;
  }
  if (!e->error[0]) return o;
  lua_pop(L, 2); /* where the loop broke: key and value */
  json_decref(o);
  return NULL;
}

/* Integer keys 1..#t and nothing else. */
static bool is_array(lua_State *L) {
  const lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  lua_Integer seen = 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) < 1 || lua_tointeger(L, -2) > n) {
      lua_pop(L, 2);
      return false;
    }
    seen++;
  }
  return seen == n;
}

static bool is_marked(lua_State *L) {
  if (!lua_getmetatable(L, -1)) return false;
  luaL_getmetatable(L, ARRAY);
  const bool yes = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return yes;
}

/* The value on top, left there. Raises nothing: what it made is not in a box yet. */
static json_t *encode(encoder *e, int depth) {
  lua_State *L = e->L;
  if (depth > DEEPEST) return fail(e, "nested deeper than %d (a cycle?)", DEEPEST);
  if (!lua_checkstack(L, 8)) return fail(e, "out of memory");
  switch (lua_type(L, -1)) {
  case LUA_TBOOLEAN:
    return json_boolean(lua_toboolean(L, -1));
  case LUA_TLIGHTUSERDATA:
    if (!lua_touserdata(L, -1)) return json_null();
    break;
  case LUA_TNUMBER: {
    if (lua_isinteger(L, -1)) return json_integer(lua_tointeger(L, -1));
    const double x = lua_tonumber(L, -1);
    if (!isfinite(x)) return fail(e, "JSON has no %s", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
    return json_real(x);
  }
  case LUA_TSTRING: {
    size_t n;
    const char *s = lua_tolstring(L, -1, &n);
    json_t *v = json_stringn(s, n);
    return v ? v : fail(e, "the text is not UTF-8");
  }
  case LUA_TTABLE: {
    const bool list = is_array(L);
    if (is_marked(L) && !list) return fail(e, "marked as an array, but its keys are not 1, 2, ...");
    return list && (lua_rawlen(L, -1) > 0 || is_marked(L)) ? encode_array(e, depth)
                                                           : encode_object(e, depth);
  }
  default:
    break;
  }
  return fail(e, "a %s has no JSON form", luaL_typename(L, -1));
}

/* jansson knows a decimal sign of one byte. */
static char *dump(const json_t *v, bool pretty) {
  AL_PLAIN_NUMBERS;
  return json_dumps(v, JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17) |
                           (pretty ? JSON_INDENT(2) : JSON_COMPACT));
}

static json_t *load(const char *text, size_t n, json_error_t *error) {
  AL_PLAIN_NUMBERS;
  return json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, error);
}

/* core.json.encode(v, {pretty = bool}) */
static int json_encode(lua_State *L) {
  luaL_checkany(L, 1);
  bool pretty = false;
  if (!lua_isnoneornil(L, 2)) {
    luaL_checktype(L, 2, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1))
      if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), "pretty") != 0)
        return lal_argerror(L, 2, "encode", "the only option is 'pretty'");
    lua_getfield(L, 2, "pretty");
    pretty = lua_toboolean(L, -1);
  }
  encoder e = {.L = L};
  lal_guard *g = lal_guard_new(L, free_json);
  lua_pushvalue(L, 1);
  g->p = encode(&e, 0);
  if (!g->p) return luaL_error(L, "%s", e.error);
  lal_guard *text = lal_guard_new(L, free);
  text->p = dump(g->p, pretty);
  lal_guard_free(g);
  if (!text->p) return luaL_error(L, "json: out of memory");
  lua_pushstring(L, text->p);
  lal_guard_free(text);
  return 1;
}

static void push(lua_State *L, const json_t *v) {
  luaL_checkstack(L, 6, "json");
  switch (json_typeof(v)) {
  case JSON_NULL:
    lua_pushlightuserdata(L, NULL);
    break;
  case JSON_TRUE:
    lua_pushboolean(L, true);
    break;
  case JSON_FALSE:
    lua_pushboolean(L, false);
    break;
  case JSON_INTEGER:
    lua_pushinteger(L, json_integer_value(v));
    break;
  case JSON_REAL:
    lua_pushnumber(L, json_real_value(v));
    break;
  case JSON_STRING:
    lua_pushlstring(L, json_string_value(v), json_string_length(v));
    break;
  case JSON_ARRAY: {
    const size_t n = json_array_size(v);
    lua_createtable(L, n < 1 << 24 ? (int)n : 0, 0);
    for (size_t i = 0; i < n; i++) {
      push(L, json_array_get(v, i));
      lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    luaL_setmetatable(L, ARRAY);
    break;
  }
  case JSON_OBJECT: {
    lua_newtable(L);
    void *it = json_object_iter((json_t *)(uintptr_t)v); /* iterating does not write */
    for (; it; it = json_object_iter_next((json_t *)(uintptr_t)v, it)) {
      push(L, json_object_iter_value(it));
      lua_setfield(L, -2, json_object_iter_key(it));
    }
    break;
  }
  }
}

/* core.json.decode(text): errors name line and column. */
static int json_decode(lua_State *L) {
  size_t n;
  const char *text = luaL_checklstring(L, 1, &n);
  json_error_t error;
  lal_guard *g = lal_guard_new(L, free_json);
  g->p = load(text, n, &error);
  if (!g->p)
    return luaL_error(L, "json: line %d, column %d: %s", error.line, error.column, error.text);
  push(L, g->p);
  lal_guard_free(g);
  return 1;
}

static int json_mark(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_setmetatable(L, ARRAY);
  return 1;
}

static const luaL_Reg functions[] = {
    {"encode", json_encode}, {"decode", json_decode}, {"array", json_mark}, {NULL, NULL}};

void lal_open_json(lua_State *L) {
  luaL_newmetatable(L, ARRAY);
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  lua_setfield(L, -2, "json");
}
