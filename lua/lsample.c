/* lsample.c: core.sample, the choice of a next token. */
#include "lua_attnlab.h"

static const al_arg args[] = {{"u", AL_T_NUM, "0", NULL, 0, 1, "of the draw, from [0,1)", NULL},
                              {"temperature", AL_T_NUM, "0", NULL, 0, 0, "0: the likeliest", NULL},
                              {"top_k", AL_T_INT, "0", NULL, 0, 9e15, "0: all", NULL},
                              {"top_p", AL_T_NUM, "1", NULL, 0, 1, "1: all", NULL},
                              {"min_p", AL_T_NUM, "0", NULL, 0, 1, "0: all", NULL},
                              {"repetition_penalty", AL_T_NUM, "1", NULL, 0, 0, "1: none", NULL},
                              {0}};

/* core.sample(logits, {u=, temperature=, top_k=, top_p=, min_p=, repetition_penalty=}, seen): the
 * id chosen from all numbers of a tensor, as al_next_token does; seen: ids for the penalty. */
static int core_sample(lua_State *L) {
  const lal_where w = {.fname = "sample", .opts_arg = 2};
  lua_settop(L, 3);
  const al_tensor *t = lal_tensor_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  const int64_t n = al_numel(t);
  double *logits = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *logits, 0);
  const lua_Integer n_seen = lua_isnil(L, 3) ? 0 : luaL_len(L, 3);
  int32_t *seen = lua_newuserdatauv(L, (size_t)(n_seen + 1) * sizeof *seen, 0);
  for (lua_Integer i = 0; i < n_seen; i++) {
    lua_geti(L, 3, i + 1);
    const lua_Integer id = lua_tointeger(L, -1);
    seen[i] = id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
    lua_pop(L, 1);
  }
  al_ctx *c = lal_ctx(L);
  al_opts *o = lal_opts_from(L, 2, c, args, w.fname);
  if (!o) return lal_raise_in(L, &w);
  const al_sampling s = {.temperature = al_opt_num(o, "temperature"),
                         .top_k = al_opt_int(o, "top_k"),
                         .top_p = al_opt_num(o, "top_p"),
                         .min_p = al_opt_num(o, "min_p"),
                         .repetition_penalty = al_opt_num(o, "repetition_penalty")};
  const double u = al_opt_num(o, "u");
  al_opts_release(o);
  int64_t id = 0;
  if (al_read(t, logits, n) != AL_OK ||
      al_next_token(c, &s, seen, n_seen, u, logits, n, &id) != AL_OK)
    return lal_raise(L);
  lua_pushinteger(L, id);
  return 1;
}

static const luaL_Reg functions[] = {{"sample", core_sample}, {NULL, NULL}};

void lal_open_sample(lua_State *L) { luaL_setfuncs(L, functions, 0); }
