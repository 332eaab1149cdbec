/* lua.c: the program attnlab whose context makes everything on the pretended device: lua/main.c is
 * compiled beside it with this function in the place of the one that opens the core. */
#include "../../lua/lua_attnlab.h"
#include "device.h"

int luaopen_attnlab_core(lua_State *L);
int luaopen_pretended(lua_State *L);

int luaopen_pretended(lua_State *L) {
  pretended_offer();
  luaopen_attnlab_core(L);
  al_on(lal_ctx(L), "pretended");
  return 1;
}
