/* lcheck.c: core.check: the conformance driver of a variant, part by part, and its rows. */
#include "lattn.h"
#include <math.h>
#include "../attention/check.h"

static void release(void *p) { attn_check_free(p); }
static const lal_type check_type = {.name = "attnlab.check", .release = release};

static attn_check *check(lua_State *L) { return lal_check(L, 1, &check_type); }

/* core.check.new(name, text): of a preset or family, options on top ("order=4
 * denominator=none"). */
static int check_new(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  const char *more = luaL_optstring(L, 2, "");
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, &check_type);
  const attn_family *f = NULL;
  const attn_preset *preset;
  al_opts *o = NULL;
  if (attn_find(c, name, &f, &preset, &o) == AL_OK) al_opts_parse(c, o, more);
  b->p = attn_check_new(c, f, o);
  al_opts_release(o);
  if (b->p) return 1;
  return lal_raise(L);
}

/* core.check.canonical(name, text) -> family, canonical text of all options. */
static int check_canonical(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  const char *more = luaL_optstring(L, 2, "");
  al_ctx *c = lal_ctx(L);
  const attn_family *f = NULL;
  const attn_preset *preset;
  al_opts *o = NULL;
  char text[1 << 14]; /* as attention:text */
  if (attn_find(c, name, &f, &preset, &o) == AL_OK) al_opts_parse(c, o, more);
  if (al_error(c) == AL_OK) al_opts_text(o, true, text, sizeof text);
  al_opts_release(o);
  if (al_error(c) != AL_OK) return lal_raise(L);
  lua_pushstring(L, f->name);
  lua_pushstring(L, text);
  return 2;
}

static const char *crash_text(const void *k, const char **error) {
  *error = attn_check_error(k);
  return attn_check_case(k);
}

/* k:step() -> the name of the part that ran, its number, how many there are; nil at the end. */
static int check_step(lua_State *L) {
  attn_check *k = check(L);
  int done, of;
  const char *part = attn_check_part(k, &done, &of);
  if (!part) return 0;
  lal_on_crash(crash_text, k);
  attn_check_step(k);
  lal_on_crash(NULL, NULL);
  lua_pushstring(L, part);
  lua_pushinteger(L, done + 1);
  lua_pushinteger(L, of);
  return 3;
}

static void set_number(lua_State *L, const char *key, double v) {
  if (isnan(v)) return; /* a yes or no, or no number at all */
  lua_pushnumber(L, isfinite(v) ? v : 1e308);
  lua_setfield(L, -2, key);
}

static void set_string(lua_State *L, const char *key, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, key);
}

/* k:rows() -> {{check=, form=, dtype=, verdict=, text=, error=, limit=, growth={}}, ...} */
static int check_rows(lua_State *L) {
  attn_check *k = check(L);
  const attn_check_row *r;
  lua_newtable(L);
  for (int i = 0; (r = attn_check_at(k, i)); i++) {
    lua_createtable(L, 0, 8);
    set_string(L, "check", r->check);
    set_string(L, "form", r->form);
    set_string(L, "dtype", r->dtype);
    set_string(L, "verdict", attn_verdict_name(r->verdict));
    set_string(L, "text", r->text);
    set_number(L, "error", r->error);
    set_number(L, "limit", r->limit);
    if (r->n_growth) {
      lua_createtable(L, r->n_growth, 0);
      for (int j = 0; j < r->n_growth; j++) {
        lua_pushnumber(L, isfinite(r->growth[j]) ? r->growth[j] : 1e308);
        lua_rawseti(L, -2, j + 1);
      }
      lua_setfield(L, -2, "growth");
    }
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static int check_passed(lua_State *L) {
  lua_pushboolean(L, attn_check_passed(check(L)));
  return 1;
}

/* k:seconds() -> {[device] =}, and cpu = those of the truth */
static int check_seconds(lua_State *L) {
  const attn_check *k = check(L);
  lua_newtable(L);
  set_number(L, "cpu", attn_check_seconds(k, false));
  set_number(L, attn_check_device(k), attn_check_seconds(k, true));
  return 1;
}

static const luaL_Reg methods[] = {{"step", check_step},
                                   {"rows", check_rows},
                                   {"passed", check_passed},
                                   {"seconds", check_seconds},
                                   {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"new", check_new}, {"canonical", check_canonical}, {NULL, NULL}};

void lal_open_check(lua_State *L) {
  luaL_newlib(L, functions);
  lua_setfield(L, -2, "check");
  lal_class(L, &check_type, methods, NULL);
}
