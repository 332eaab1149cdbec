/* lopt.c: options from Lua tables, by descriptor rows alone. The only place where axes change from
 * 1-based (Lua) to 0-based (core); negative axes count from the end in both. */
#include "lua_attnlab.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct conv {
  lua_State *L;
  al_ctx *c;
  al_opts *o;
  const char *owner;
} conv;

enum { MAX_NAMES = 128 };
#define EXACT 9007199254740992.0 /* 2^53: integers a double holds exactly */

static const al_arg *find(const al_arg *rows, const char *name) {
  for (; rows && rows->name; rows++)
    if (strcmp(rows->name, name) == 0) return rows;
  return NULL;
}

/* The row that a value given to r directly is for: a record means its first field. */
static const al_arg *leaf(const al_arg *r) {
  while (r->type & AL_T_RECORD) r = r->fields;
  return r;
}

static al_status bad(const conv *v, const char *path, const char *what) {
  return al_fail(v->c, AL_ETYPE, "%s: option '%s': %s", v->owner, path, what);
}

/* The number on top of the stack, an axis made 0-based. */
static al_status number(const conv *v, const al_arg *r, const char *path, double *x) {
  *x = lua_tonumber(v->L, -1);
  if (lua_isinteger(v->L, -1) && fabs(*x) > EXACT)
    return bad(v, path, "integer too large (more than 2^53)");
  if (!(r->type & AL_T_AXIS)) return AL_OK;
  if (!lua_isinteger(v->L, -1) && *x != floor(*x)) return bad(v, path, "an axis is an integer");
  if (*x == 0) return bad(v, path, "axes count from 1, or from the end with -1; got 0");
  if (*x > 0) *x -= 1;
  return AL_OK;
}

/* The array on top of the stack into the list option r. */
static al_status list(const conv *v, const al_arg *r, const char *path) {
  const size_t n = lua_rawlen(v->L, -1);
  if (n > 1 << 20) return bad(v, path, "list too long (more than 2^20)");
  double small[16], *x = n <= 16 ? small : malloc(n * sizeof *x);
  if (!x) return al_fail(v->c, AL_ENOMEM, "out of memory (option list)");
  al_status st = AL_OK;
  for (size_t i = 0; i < n && st == AL_OK; i++) {
    const int type = lua_rawgeti(v->L, -1, (lua_Integer)i + 1);
    if (type != LUA_TNUMBER) {
      char text[96];
      snprintf(text, sizeof text, "a list of numbers expected, got a %s at place %zu",
               lua_typename(v->L, type), i + 1);
      st = bad(v, path, text);
    } else {
      st = number(v, r, path, &x[i]);
    }
    lua_pop(v->L, 1);
  }
  if (st == AL_OK) st = al_opts_set_list(v->c, v->o, path, (int)n, x);
  if (x != small) free(x);
  return st;
}

/* The table on top into the option r of numbers by name. */
static al_status by_names(const conv *v, const char *path) {
  lua_State *L = v->L;
  const char *names[MAX_NAMES];
  double x[MAX_NAMES];
  int n = 0;
  al_status st = AL_OK;
  for (lua_pushnil(L); st == AL_OK && lua_next(L, -2); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TNUMBER) {
      st = bad(v, path, "numbers by name expected, as {t=1}");
    } else if (n == MAX_NAMES) {
      st = bad(v, path, "too many names");
    } else {
      names[n] = lua_tostring(L, -2); /* a key of the table, so it stays */
      x[n++] = lua_tonumber(L, -1);
    }
  }
  if (st != AL_OK) lua_pop(L, 1);
  return st == AL_OK ? al_opts_set_named(v->c, v->o, path, n, names, x) : st;
}

static al_status unknown(const conv *v, const char *key, const char *prefix, const al_arg *rows,
                         const al_row *inputs) {
  const char *names[MAX_NAMES];
  int n = 0;
  char all[600];
  size_t at = 0;
  all[0] = 0;
  for (; rows && rows->name && n < MAX_NAMES; rows++) names[n++] = rows->name;
  for (; inputs && inputs->name && n < MAX_NAMES; inputs++)
    if (inputs->flags & AL_IN_OPTIONAL) names[n++] = inputs->name;
  for (int i = 0; i < n && at < sizeof all; i++)
    at += (size_t)snprintf(all + at, sizeof all - at, i ? " %s" : "%s", names[i]);
  const char *dot = *prefix ? "." : "", *near = al_nearest(key, names, n);
  if (near)
    return al_fail(v->c, AL_ENAME, "%s: unknown option '%s%s%s' (did you mean '%s'?)", v->owner,
                   prefix, dot, key, near);
  return al_fail(v->c, AL_ENAME, "%s: unknown option '%s%s%s'; known are: %s", v->owner, prefix,
                 dot, key, n ? all : "none");
}

static al_status by_name(const conv *v, const char *prefix, const char *type) {
  char text[96];
  snprintf(text, sizeof text, "names expected as keys of the table, got a %s", type);
  return *prefix ? bad(v, prefix, text)
                 : al_fail(v->c, AL_ETYPE, "%s: options: %s", v->owner, text);
}

static bool is_input(const al_row *inputs, const char *name) {
  for (; inputs && inputs->name; inputs++)
    if (strcmp(inputs->name, name) == 0) return true;
  return false;
}

/* Every key of the table on top must be a name of rows or inputs, or part of its array. */
static al_status check_keys(const conv *v, const char *prefix, const al_arg *rows,
                            const al_row *inputs) {
  lua_State *L = v->L;
  const lua_Integer len = (lua_Integer)lua_rawlen(L, -1);
  al_status st = AL_OK;
  for (lua_pushnil(L); st == AL_OK && lua_next(L, -2); lua_pop(L, 1)) {
    if (lua_type(L, -2) == LUA_TSTRING) {
      const char *key = lua_tostring(L, -2);
      if (!find(rows, key) && !is_input(inputs, key)) st = unknown(v, key, prefix, rows, inputs);
    } else if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) < 1 || lua_tointeger(L, -2) > len) {
      st = by_name(v, prefix, luaL_typename(L, -2));
    }
  }
  if (st != AL_OK) lua_pop(L, 1);
  return st;
}

static al_status value(const conv *v, const al_arg *r, const char *path);

/* The table on top: named options, or the bare array of the first one (t:reshape{2,3}: shape). */
static al_status table(const conv *v, const al_arg *rows, const char *prefix,
                       const al_row *inputs) {
  lua_State *L = v->L;
  AL_TRY(check_keys(v, prefix, rows, inputs));
  char path[160];
  if (lua_rawlen(L, -1) > 0) {
    if (!rows || !rows->name || !(leaf(rows)->type & AL_T_LIST))
      return by_name(v, prefix, "number");
    snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", rows->name);
    AL_TRY(list(v, leaf(rows), path));
  }
  for (; rows && rows->name; rows++) {
    lua_pushstring(L, rows->name);
    const int type = lua_rawget(L, -2);
    al_status st = AL_OK;
    if (type != LUA_TNIL && !(type == LUA_TUSERDATA && is_input(inputs, rows->name))) {
      snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", rows->name);
      st = value(v, rows, path);
    }
    lua_pop(L, 1);
    AL_TRY(st);
  }
  return AL_OK;
}

static al_status value(const conv *v, const al_arg *r, const char *path) {
  lua_State *L = v->L;
  const int type = lua_type(L, -1);
  switch (type) {
  case LUA_TBOOLEAN:
    return al_opts_set_bool(v->c, v->o, path, lua_toboolean(L, -1));
  case LUA_TNUMBER: {
    double x;
    AL_TRY(number(v, leaf(r), path, &x));
    return al_opts_set_num(v->c, v->o, path, x);
  }
  case LUA_TSTRING: {
    size_t n;
    const char *s = lua_tolstring(L, -1, &n);
    if (strlen(s) != n) return bad(v, path, "text without zero bytes expected");
    return al_opts_set_word(v->c, v->o, path, s);
  }
  case LUA_TTABLE:
    if (!lua_checkstack(L, 8)) return al_fail(v->c, AL_ENOMEM, "out of memory (Lua stack)");
    if (r->type & AL_T_RECORD) return table(v, r->fields, path, NULL);
    if (r->type & AL_T_NAMED) return by_names(v, path);
    if (r->type & AL_T_LIST) {
      lua_pushnil(L);
      if (lua_next(L, -2)) {
        const bool named = lua_type(L, -2) == LUA_TSTRING;
        lua_pop(L, 2);
        if (named) return bad(v, path, "a list of numbers expected, got a table with names");
      }
      return list(v, r, path);
    }
    return al_opts_set_list(v->c, v->o, path, 0, NULL); /* says what was expected */
  default: {
    char text[64];
    snprintf(text, sizeof text, "a %s is not an option value", lua_typename(L, type));
    return bad(v, path, text);
  }
  }
}

al_status lal_opts_set(lua_State *L, int idx, al_ctx *c, al_opts *o, const char *owner,
                       const al_row *inputs) {
  const conv v = {L, c, o, owner};
  if (!lua_checkstack(L, 8)) return al_fail(c, AL_ENOMEM, "out of memory (Lua stack)");
  lua_pushvalue(L, idx);
  const al_status st = table(&v, al_opts_rows(o), "", inputs);
  lua_pop(L, 1);
  return st;
}

al_opts *lal_opts_from(lua_State *L, int idx, al_ctx *c, const al_arg *rows, const char *owner) {
  al_opts *o = al_opts_new(c, rows, owner);
  if (!o || lua_isnoneornil(L, idx)) return o;
  if (!lua_istable(L, idx))
    al_fail(c, AL_ETYPE, "%s: options: a table expected, got a %s", owner, luaL_typename(L, idx));
  else lal_opts_set(L, idx, c, o, owner, NULL);
  if (al_error(c) == AL_OK) return o;
  al_opts_release(o);
  return NULL;
}

void lal_opts_need(lua_State *L, const lal_where *w, al_opts *o, const char *names) {
  char name[64];
  for (const char *p = names; *p;) {
    const size_t k = strcspn(p, " ");
    snprintf(name, sizeof name, "%.*s", (int)k, p);
    if (!al_opts_given(o, name)) {
      al_opts_release(o);
      lal_argerror(L, w->opts_arg, w->fname, "option '%s' is missing", name);
    }
    p += k + strspn(p + k, " ");
  }
}

/* ---- rows as tables for help ---- */

static void push_type(lua_State *L, unsigned type) {
  static const struct {
    unsigned bit;
    const char *name;
  } kinds[] = {{AL_T_BOOL, "bool"}, {AL_T_INT, "integer"},   {AL_T_NUM, "number"},
               {AL_T_WORD, "word"}, {AL_T_LIST, "list"},     {AL_T_TEXT, "text"},
               {AL_T_AXIS, "axis"}, {AL_T_RECORD, "record"}, {AL_T_NAMED, "named"}};
  char text[96] = "";
  size_t at = 0;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (type & kinds[i].bit)
      at += (size_t)snprintf(text + at, sizeof text - at, at ? "|%s" : "%s", kinds[i].name);
  lua_pushstring(L, text);
}

/* Default text; the axes in it made 1-based. */
static void push_default(lua_State *L, const al_arg *r) {
  const char *s = r->def ? r->def : "";
  if (!(r->type & AL_T_AXIS)) {
    lua_pushstring(L, s);
    return;
  }
  char out[256];
  size_t at = 0;
  while (*s && at + 24 < sizeof out) {
    char *end;
    const long axis = strtol(s, &end, 10);
    if (end != s)
      at += (size_t)snprintf(out + at, sizeof out - at, "%ld", axis < 0 ? axis : axis + 1);
    else end = (char *)(uintptr_t)(s + 1), out[at++] = *s;
    s = end;
  }
  lua_pushlstring(L, out, at);
}

/* Numbers by name as a table; names are separated by spaces. */
static void push_named(lua_State *L, const char *names, int n, const double *x) {
  lua_createtable(L, 0, n);
  for (int i = 0; i < n; i++) {
    const size_t k = strcspn(names, " ");
    lua_pushlstring(L, names, k);
    lua_pushnumber(L, x[i]);
    lua_rawset(L, -3);
    names += k + strspn(names + k, " ");
  }
}

static void push_value(lua_State *L, const al_arg *r, const al_opts *o, const char *path) {
  const double *x;
  const int shift = r->type & AL_T_AXIS ? 1 : 0;
  switch (al_opt_kind(o, path)) {
  case AL_T_BOOL:
    lua_pushboolean(L, al_opt_bool(o, path));
    break;
  case AL_T_NUM: {
    const double n = al_opt_num(o, path) + (al_opt_num(o, path) >= 0 ? shift : 0);
    if (n == floor(n) && fabs(n) < EXACT) lua_pushinteger(L, (lua_Integer)n);
    else lua_pushnumber(L, n);
    break;
  }
  case AL_T_WORD:
  case AL_T_TEXT:
    lua_pushstring(L, al_opt_word(o, path));
    break;
  case AL_T_NAMED: {
    const int n = al_opt_list(o, path, &x);
    push_named(L, al_opt_word(o, path), n, x);
    break;
  }
  case AL_T_LIST: {
    const int n = al_opt_list(o, path, &x);
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
      lua_pushnumber(L, x[i] + (x[i] >= 0 ? shift : 0));
      lua_rawseti(L, -2, i + 1);
    }
    break;
  }
  default:
    lua_pushnil(L);
  }
}

static void push_words(lua_State *L, const char *words) {
  lua_newtable(L);
  for (int i = 1; *words; i++) {
    const size_t k = strcspn(words, " ");
    lua_pushlstring(L, words, k);
    lua_rawseti(L, -2, i);
    words += k + strspn(words + k, " ");
  }
}

static void push_rows(lua_State *L, const al_arg *rows, const al_opts *o, const char *prefix) {
  luaL_checkstack(L, 8, "options");
  lua_newtable(L);
  for (int i = 1; rows && rows->name; rows++, i++) {
    char path[160];
    snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", rows->name);
    lua_createtable(L, 0, 8);
    lua_pushstring(L, rows->name);
    lua_setfield(L, -2, "name");
    push_type(L, rows->type);
    lua_setfield(L, -2, "type");
    push_default(L, rows);
    lua_setfield(L, -2, "default");
    lua_pushstring(L, rows->doc ? rows->doc : "");
    lua_setfield(L, -2, "doc");
    if (rows->choices) {
      push_words(L, rows->choices);
      lua_setfield(L, -2, "choices");
    }
    if (rows->min != 0 || rows->max != 0) {
      lua_pushnumber(L, rows->min);
      lua_setfield(L, -2, "min");
      lua_pushnumber(L, rows->max);
      lua_setfield(L, -2, "max");
    }
    if (rows->type & AL_T_RECORD) {
      push_rows(L, rows->fields, o, path);
      lua_setfield(L, -2, "fields");
    } else if (o) {
      push_value(L, rows, o, path);
      lua_setfield(L, -2, "value");
    }
    lua_rawseti(L, -2, i);
  }
}

void lal_push_args(lua_State *L, const al_arg *rows, const al_opts *o) {
  push_rows(L, rows, o, "");
}
