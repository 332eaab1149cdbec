/* lcore.c: what the files of the binding stand on: one context per Lua state, errors, boxes, and the
 * collector's view of tensor memory. */
#include "lua_attnlab.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the state ---- */

static const char state_key = 0; /* its address is the key in the registry */
#define STATE_TYPE "attnlab.state"
#define GUARD_TYPE "attnlab.guard"

static int state_gc(lua_State *L) {
  lal_state **p = luaL_checkudata(L, 1, STATE_TYPE);
  lal_state *s = *p;
  *p = NULL;
  if (!s) return 0;
  while (s->boxes) {
    lal_box *b = s->boxes;
    lal_box_empty(b);
    s->boxes = b->next;
    b->s = NULL;
  }
  al_ctx_free(s->c);
  free(s);
  return 0;
}

lal_state *lal_get(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
  lal_state **p = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (!p || !*p) luaL_error(L, "attnlab: the Lua state is closing");
  return *p;
}

al_ctx *lal_ctx(lua_State *L) { return lal_get(L)->c; }

void lal_begin(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key) == LUA_TUSERDATA) {
    lua_pop(L, 1);
    return;
  }
  lua_pop(L, 1);
  lal_state **p = lua_newuserdatauv(L, sizeof *p, 0);
  *p = NULL;
  luaL_newmetatable(L, STATE_TYPE);
  lua_pushcfunction(L, state_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2); /* before any box: finalisers run newest first */
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
  lal_state *s = calloc(1, sizeof *s);
  al_ctx *c = s ? al_ctx_new() : NULL;
  if (!c) {
    free(s);
    luaL_error(L, "attnlab: out of memory (context)");
    return;
  }
  s->c = c;
  al_axes_from(c, 1);
  *p = s;
  if (al_error(c) != AL_OK) lal_raise(L);
}

/* ---- errors ---- */

static const char *base_name(const char *path) {
  const char *slash = path ? strrchr(path, '/') : NULL;
  return slash ? slash + 1 : path ? path : "?";
}

int lal_raise(lua_State *L) {
  al_ctx *c = lal_ctx(L);
  const char *file;
  int line;
  char text[1024];
  snprintf(text, sizeof text, "%s", al_error_message(c, &file, &line));
  al_error_clear(c);
  return luaL_error(L, "%s [%s:%d]", text, base_name(file), line);
}

int lal_argerror(lua_State *L, int arg, const char *fname, const char *fmt, ...) {
  char text[1024];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  lua_Debug ar;
  if (lua_getstack(L, 0, &ar)) {
    lua_getinfo(L, "n", &ar);
    if (strcmp(ar.namewhat, "method") == 0 && --arg == 0)
      return luaL_error(L, "calling '%s' on bad self (%s)", fname, text);
  }
  return luaL_error(L, "bad argument #%d to '%s' (%s)", arg, fname, text);
}

/* A message of the core reads "fname: rest" with rest one of "option 'x': ...", "unknown option
 * ...",
 * "<input>: ...". */
int lal_raise_in(lua_State *L, const lal_where *w) {
  al_ctx *c = lal_ctx(L);
  char text[1024];
  snprintf(text, sizeof text, "%s", al_error_message(c, NULL, NULL));
  const size_t n = strlen(w->fname);
  if (strncmp(text, w->fname, n) != 0 || strncmp(text + n, ": ", 2) != 0) return lal_raise(L);
  const char *rest = text + n + 2;
  int arg = 0;
  if (strncmp(rest, "option", 6) == 0 || strncmp(rest, "unknown option", 14) == 0)
    arg = w->opts_arg;
  for (int i = 0; w->inputs && w->inputs[i].name; i++) {
    const size_t k = strlen(w->inputs[i].name);
    if (strncmp(rest, w->inputs[i].name, k) == 0 && rest[k] == ':')
      arg = w->pos[i] ? w->pos[i] : w->opts_arg;
  }
  if (arg == 0) return lal_raise(L);
  al_error_clear(c);
  return lal_argerror(L, arg, w->fname, "%s", rest);
}

/* ---- memory and the collector ---- */

void lal_reclaim(lua_State *L) {
  lal_state *s = lal_get(L);
  al_error_clear(s->c);
  lua_gc(L, LUA_GCCOLLECT);
  al_memory_trim(s->c);
  s->base = al_memory(s->c).live;
  s->pending = 0;
}

/* A box is a few bytes to Lua whatever it holds. The collector is stepped so that `period` bytes of
 * new tensors pay for one cycle over the Lua heap: half of what was live after the last cycle, at
 * least what the device can spare. So dead tensors stay within a fraction of the live ones, and a
 * small heap is not walked for every activation. In generational mode (stock lua5.4) steps leave
 * old boxes alone: when the live bytes have doubled all the same, all is collected. */
void lal_account(lua_State *L, int64_t before) {
  lal_state *s = lal_get(L);
  const al_mem mem = al_memory(s->c);
  const int64_t live = mem.live, least = mem.spare;
  const int64_t period = s->base / 2 > least ? s->base / 2 : least;
  if (live > before) s->pending += live - before;
  if (s->pending < period / 32) return;
  const double share = (double)s->pending / (double)period;
  s->pending = 0;
  bool whole = live > 2 * s->base + 2 * least;
  if (whole) lua_gc(L, LUA_GCCOLLECT);
  else
    whole = lua_gc(L, LUA_GCSTEP, (int)(lua_gc(L, LUA_GCCOUNT) * (share < 4 ? share : 4)) + 1) == 1;
  if (whole) s->base = al_memory(s->c).live;
}

/* ---- boxes ---- */

lal_box *lal_box_new(lua_State *L, const lal_type *type) {
  lal_state *s = lal_get(L);
  lal_box *b = lua_newuserdatauv(L, sizeof *b, type->values);
  *b = (lal_box){.type = type, .s = s, .next = s->boxes};
  if (b->next) b->next->prev = b;
  s->boxes = b;
  luaL_setmetatable(L, type->name);
  return b;
}

void lal_box_empty(lal_box *b) {
  void *p = b->p;
  b->p = NULL;
  if (p) b->type->release(p);
}

void lal_box_free(lua_State *L, lal_box *b) {
  if (lua_gc(L, LUA_GCCOUNT) >= 0) lal_box_empty(b); /* -1: inside a finaliser */
}

static int box_gc(lua_State *L) {
  const lal_type *type = lua_touserdata(L, lua_upvalueindex(1));
  lal_box *b = luaL_checkudata(L, 1, type->name);
  lal_box_empty(b);
  if (!b->s) return 0;
  if (b->next) b->next->prev = b->prev;
  if (b->prev) b->prev->next = b->next;
  else b->s->boxes = b->next;
  b->s = NULL;
  return 0;
}

lal_box *lal_box_test(lua_State *L, int idx, const lal_type *type) {
  return luaL_testudata(L, idx, type->name);
}

void *lal_check(lua_State *L, int arg, const lal_type *type) {
  const char *what = strchr(type->name, '.') + 1;
  const lal_box *b = lal_box_test(L, arg, type);
  if (!b) luaL_typeerror(L, arg, what);
  else if (!b->p) luaL_argerror(L, arg, lua_pushfstring(L, "the %s was freed", what));
  return b ? b->p : NULL;
}

bool lal_class(lua_State *L, const lal_type *type, const luaL_Reg *methods, const luaL_Reg *meta) {
  if (!luaL_newmetatable(L, type->name)) {
    lua_pop(L, 1);
    return false;
  }
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushlightuserdata(L, (void *)(uintptr_t)type);
  lua_pushcclosure(L, box_gc, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__gc");
  lua_setfield(L, -2, "__close");
  if (meta) luaL_setfuncs(L, meta, 0);
  lua_pop(L, 1);
  return true;
}

void lal_guard_free(lal_guard *g) {
  void *p = g->p;
  g->p = NULL;
  if (p) g->free_fn(p);
}

static int guard_gc(lua_State *L) {
  lal_guard_free(luaL_checkudata(L, 1, GUARD_TYPE));
  return 0;
}

lal_guard *lal_guard_new(lua_State *L, void (*free_fn)(void *)) {
  lal_guard *g = lua_newuserdatauv(L, sizeof *g, 0);
  *g = (lal_guard){.free_fn = free_fn};
  if (luaL_newmetatable(L, GUARD_TYPE)) {
    lua_pushcfunction(L, guard_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return g;
}
