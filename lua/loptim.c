/* loptim.c: optimisers: core.optim(kind, options) -> o with add, step, zero_grad, steps, state. */
#include "lua_attnlab.h"

static void release(void *p) { al_optim_free(p); }
static const lal_type optim_type = {"attnlab.optim", release, 0};

static al_optim *check(lua_State *L) { return lal_check(L, 1, &optim_type); }

static int core_optim(lua_State *L) {
  const lal_where w = {.fname = "optim", .opts_arg = 2};
  const char *kind = luaL_checkstring(L, 1);
  if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, &optim_type);
  const al_arg *rows = al_optim_args(c, kind);
  al_opts *o = rows ? lal_opts_from(L, 2, c, rows, w.fname) : NULL;
  if (o) b->p = al_optim_new(c, kind, o);
  al_opts_release(o);
  return b->p ? 1 : lal_raise_in(L, &w);
}

/* core.optim_options(kind): rows as for ops, for help. */
static int core_optim_options(lua_State *L) {
  const al_arg *rows = al_optim_args(lal_ctx(L), luaL_checkstring(L, 1));
  if (!rows) return lal_raise(L);
  lal_push_args(L, rows, NULL);
  return 1;
}

static int optim_add(lua_State *L) {
  al_optim *o = check(L);
  const char *name = luaL_checkstring(L, 2);
  al_tensor *t = lal_tensor_check(L, 3);
  const bool decay =
      lua_isnoneornil(L, 4) || (luaL_checktype(L, 4, LUA_TBOOLEAN), lua_toboolean(L, 4));
  al_ctx *c = lal_ctx(L);
  LAL_RETRY(L, c, al_optim_add(o, name, t, decay));
  if (al_error(c) != AL_OK) return lal_raise(L);
  lua_settop(L, 1);
  return 1;
}

static int optim_step(lua_State *L) {
  al_optim *o = check(L);
  const double lr = luaL_checknumber(L, 2);
  luaL_argcheck(L, lr >= 0 && lr < 1e300, 2, "a learning rate of at least 0 expected");
  const al_tensor *after = lua_isnoneornil(L, 3) ? NULL : lal_tensor_check(L, 3);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  al_tensor *norm;
  if (al_optim_step_after(o, lr, after, &norm) != AL_OK) return lal_raise(L);
  b->p = norm;
  return 1;
}

static int optim_zero_grad(lua_State *L) {
  al_optim_zero_grad(check(L));
  return 0;
}

static int optim_steps(lua_State *L) {
  al_optim *o = check(L);
  if (!lua_isnoneornil(L, 2)) {
    const lua_Integer n = luaL_checkinteger(L, 2);
    luaL_argcheck(L, n >= 0 && n < (lua_Integer)1 << 53, 2, "a count expected");
    al_optim_set_steps(o, n);
  }
  lua_pushinteger(L, al_optim_steps(o));
  return 1;
}

/* {[name] = tensor}: the tensors themselves, so copying into them restores a checkpoint. */
static int optim_state(lua_State *L) {
  al_optim *o = check(L);
  const char *name;
  al_tensor *t;
  lua_newtable(L);
  for (int i = 0; (t = al_optim_state(o, i, &name)); i++) lal_tensor_set(L, name, t);
  return 1;
}

static const luaL_Reg methods[] = {
    {"add", optim_add},     {"step", optim_step},   {"zero_grad", optim_zero_grad},
    {"steps", optim_steps}, {"state", optim_state}, {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"optim", core_optim}, {"optim_options", core_optim_options}, {NULL, NULL}};

void lal_open_optim(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  lal_class(L, &optim_type, methods, NULL);
}
