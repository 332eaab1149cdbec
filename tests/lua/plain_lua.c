/* plain_lua.c: plain_lua SCRIPT [ARGS]: an interpreter as the system's own one is: liblua and its
 * libraries, no symbol of ours. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>

int main(int argc, char **argv) {
  if (argc < 2) return fputs("usage: plain_lua SCRIPT\n", stderr), 2;
  lua_State *L = luaL_newstate();
  if (!L) return fputs("plain_lua: out of memory\n", stderr), 1;
  luaL_openlibs(L);
  int failed = luaL_loadfile(L, argv[1]) != LUA_OK;
  for (int i = 2; i < argc && !failed; i++) lua_pushstring(L, argv[i]);
  failed = failed || lua_pcall(L, argc - 2, 0, 0) != LUA_OK;
  if (failed) fprintf(stderr, "plain_lua: %s\n", lua_tostring(L, -1));
  lua_close(L);
  return failed;
}
