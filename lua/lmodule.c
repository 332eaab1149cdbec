/* lmodule.c: the module attnlab.core: what opens it, and the functions that belong to no other
 * file. */
#include "lua_attnlab.h"
#include <stdio.h>
#include <stdlib.h>

/* lab.info(): version, threads, libraries as one line. */
static int core_info(lua_State *L) {
  char text[1024];
  const int n = al_threads();
  snprintf(text, sizeof text, "attnlab %s, %d thread%s, %s", AL_VERSION, n, n == 1 ? "" : "s",
           al_build_info());
  lua_pushstring(L, text);
  return 1;
}

/* lab.devices(): array of the names of the devices there are; by name what each is, or why there is
 * no "cuda"; memory = bytes of each card by name. No card is opened. */
static int core_devices(lua_State *L) {
  lua_createtable(L, 1, 3);
  lua_pushliteral(L, "cpu");
  lua_rawseti(L, -2, 1);
  lua_pushstring(L, al_cpu());
  lua_setfield(L, -2, "cpu");
  lua_newtable(L); /* memory */
  int cards;
  lua_pushstring(L, al_cuda(&cards)); /* or why there is none */
  lua_setfield(L, -3, "cuda");
  for (int i = 0; i < cards; i++) {
    char name[24] = "cuda";
    if (i > 0) snprintf(name, sizeof name, "cuda:%d", i);
    lua_pushstring(L, name);
    lua_rawseti(L, -3, i + 2);
    int64_t bytes;
    lua_pushstring(L, al_cuda_card(i, &bytes));
    lua_setfield(L, -3, name);
    lua_pushinteger(L, bytes);
    lua_setfield(L, -2, name);
  }
  lua_setfield(L, -2, "memory");
  return 1;
}

/* core.libraries(): what the CPU's numbers depend on, as one line. */
static int core_libraries(lua_State *L) {
  lua_pushfstring(L, "attnlab %s, %s", AL_VERSION, al_libraries());
  return 1;
}

/* lab.memory(device): { live=, peak=, cached= } bytes of tensors there (on the current device),
 * n_alloc = allocations so far. */
static int core_memory(lua_State *L) {
  al_ctx *c = lal_ctx(L);
  const char *before = al_on(c, luaL_optstring(L, 1, NULL));
  if (!before) return lal_raise(L);
  const al_mem m = al_memory(c);
  al_on(c, before);
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, m.live);
  lua_setfield(L, -2, "live");
  lua_pushinteger(L, m.peak);
  lua_setfield(L, -2, "peak");
  lua_pushinteger(L, m.cached);
  lua_setfield(L, -2, "cached");
  lua_pushinteger(L, m.n_alloc);
  lua_setfield(L, -2, "n_alloc");
  return 1;
}

/* core.on(device): makes it current; returns the one before. core.on(): which one is. */
static int core_on(lua_State *L) {
  const char *before = al_on(lal_ctx(L), luaL_optstring(L, 1, NULL));
  if (!before) return lal_raise(L);
  lua_pushstring(L, before);
  return 1;
}

/* core.plans(device): how products there are computed so far, as text (al_plans_save); core.plans(device, text): as
 * that text says from now on; core.plans(device, bool): whether shapes that are new are timed. */
static int core_plans(lua_State *L) {
  al_ctx *c = lal_ctx(L);
  const char *device = luaL_checkstring(L, 1);
  if (lua_isboolean(L, 2))
    return al_plans_time(c, device, lua_toboolean(L, 2)) == AL_OK ? 0 : lal_raise(L);
  if (!lua_isnoneornil(L, 2))
    return al_plans_load(c, device, luaL_checkstring(L, 2)) == AL_OK ? 0 : lal_raise(L);
  lal_guard *g = lal_guard_new(L, free);
  if (!(g->p = al_plans_save(c, device))) return lal_raise(L);
  lua_pushstring(L, g->p);
  lal_guard_free(g);
  return 1;
}

/* Multiply-adds, and bytes of matrix products, on the current device so far. */
static int core_work(lua_State *L) {
  const al_work w = al_work_done(lal_ctx(L));
  lua_pushinteger(L, w.products);
  lua_pushinteger(L, w.bytes);
  return 2;
}

/* core.turn(who): a layer's turn, al_turn_begin; returns who had it before, "" for nobody. */
static int core_turn(lua_State *L) {
  const al_turn before = al_turn_begin(lal_ctx(L), luaL_checkstring(L, 1));
  lua_pushstring(L, before.who);
  return 1;
}

/* core.reset_peak(): memory().peak begins again at what is live. */
static int core_reset_peak(lua_State *L) {
  al_memory_reset_peak(lal_ctx(L));
  return 0;
}

/* core.memory_limit(bytes): tensors of the current device take that many at most; 0 = no limit. */
static int core_memory_limit(lua_State *L) {
  const lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n >= 0, 1, "0 or a number of bytes expected");
  al_memory_limit(lal_ctx(L), n);
  return 0;
}

/* core.fail_allocation(n): the n-th allocation from now fails once; 0 = off. For tests. */
static int core_fail_allocation(lua_State *L) {
  const lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n >= 0, 1, "0 or a count expected");
  al_memory_fail_at(lal_ctx(L), n);
  return 0;
}

/* lab.threads(n): that many from now on; lab.threads(): how many there are. */
static int core_threads(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) {
    const lua_Integer n = luaL_checkinteger(L, 1);
    luaL_argcheck(L, n >= 1 && n <= 4096, 1, "a number of threads in 1..4096 expected");
    al_set_threads((int)n);
  }
  lua_pushinteger(L, al_threads());
  return 1;
}

static bool check_bool(lua_State *L, int arg) {
  luaL_checktype(L, arg, LUA_TBOOLEAN);
  return lua_toboolean(L, arg);
}

/* core.poison(bool): new memory holds NaN. For tests. */
static int core_poison(lua_State *L) {
  al_memory_poison(lal_ctx(L), check_bool(L, 1));
  return 0;
}

/* lab.manual_seed(n): begins the sequence that random numbers without a seed of their own are
 * drawn from. */
static int core_seed(lua_State *L) {
  al_seed(lal_ctx(L), (uint64_t)luaL_checkinteger(L, 1));
  return 0;
}

/* core.seed_state(): where that sequence is, for seed_restore. */
static int core_seed_state(lua_State *L) {
  uint64_t s[2];
  al_seed_state(lal_ctx(L), s);
  lua_createtable(L, 2, 0);
  for (int i = 0; i < 2; i++) {
    lua_pushinteger(L, (lua_Integer)s[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* core.seed_restore(state): goes back to where seed_state() said. */
static int core_seed_restore(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  uint64_t s[2];
  for (int i = 0; i < 2; i++) {
    int ok;
    lua_rawgeti(L, 1, i + 1);
    s[i] = (uint64_t)lua_tointegerx(L, -1, &ok);
    if (!ok) return luaL_argerror(L, 1, "two integers expected, as from seed_state()");
    lua_pop(L, 1);
  }
  al_seed_restore(lal_ctx(L), s);
  return 0;
}

/* core.grad_mode(bool): whether ops record from now on; returns whether they did. */
static int core_grad_mode(lua_State *L) {
  lua_pushboolean(L, al_grad_mode(lal_ctx(L), check_bool(L, 1)));
  return 1;
}

/* lab.no_grad(f, ...): f(...) with nothing recorded for gradients. */
static int core_no_grad(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  al_ctx *c = lal_ctx(L);
  const bool old = al_grad_mode(c, false);
  const int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  al_grad_mode(c, old);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

/* The function that core.plain made: what f gives, with numbers in texts as in the C locale. */
static int call_plain(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  al_plain p = al_plain_begin();
  const int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  al_plain_end(&p);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

/* core.plain(f): f, whose numbers in texts have a point whatever locale the process has set. */
static int core_plain(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushcclosure(L, call_plain, 1);
  return 1;
}

static const luaL_Reg functions[] = {{"info", core_info},
                                     {"devices", core_devices},
                                     {"libraries", core_libraries},
                                     {"memory", core_memory},
                                     {"reset_peak", core_reset_peak},
                                     {"memory_limit", core_memory_limit},
                                     {"on", core_on},
                                     {"turn", core_turn},
                                     {"plans", core_plans},
                                     {"work", core_work},
                                     {"fail_allocation", core_fail_allocation},
                                     {"threads", core_threads},
                                     {"poison", core_poison},
                                     {"seed", core_seed},
                                     {"seed_state", core_seed_state},
                                     {"seed_restore", core_seed_restore},
                                     {"grad_mode", core_grad_mode},
                                     {"no_grad", core_no_grad},
                                     {"plain", core_plain},
                                     {"ops", lal_ops_list},
                                     {NULL, NULL}};

int luaopen_attnlab_core(lua_State *L) {
  luaL_checkversion(L);
  lal_begin(L);
  luaL_newlib(L, functions);
  lua_pushliteral(L, AL_VERSION);
  lua_setfield(L, -2, "version");
  lal_open_tensor(L);
  lal_ops_open(L);
  lua_setfield(L, -2, "op");
  lal_open_attn(L);
  lal_open_check(L);
  lal_open_optim(L);
  lal_open_data(L);
  lal_open_sample(L);
  lal_open_tokens(L);
  lal_open_json(L);
  lal_open_sys(L);
  lal_open_proc(L);
  lal_open_signal(L);
  return 1;
}
