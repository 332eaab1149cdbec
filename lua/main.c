/* main.c: the program attnlab: finds the Lua modules and runs require("attnlab.cli").main(arg). Its
 * value is the exit status, 1 where the output could not be written. ATTNLAB_LUA names another
 * folder of modules, ATTNLAB_TRACE=1 adds a traceback to errors. */
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int luaopen_attnlab_core(lua_State *L);
int luaopen_attnlab_edit(lua_State *L);

static int message(lua_State *L) {
  const char *text = luaL_tolstring(L, 1, NULL), *trace = getenv("ATTNLAB_TRACE");
  if (trace && *trace && strcmp(trace, "0") != 0) luaL_traceback(L, L, text, 1);
  return 1;
}

static void set_path(lua_State *L) {
  const char *dir = getenv("ATTNLAB_LUA");
  if (!dir || !*dir) dir = AL_LUA_DIR;
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s", dir, dir, lua_tostring(L, -1));
  lua_setfield(L, -3, "path");
  lua_pop(L, 1);
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_attnlab_core);
  lua_setfield(L, -2, "attnlab.core");
  lua_pushcfunction(L, luaopen_attnlab_edit);
  lua_setfield(L, -2, "attnlab.edit");
  lua_pop(L, 2);
}

static void set_arg(lua_State *L, int argc, char **argv) {
  lua_createtable(L, argc, 1);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  lua_pushvalue(L, -1);
  lua_setglobal(L, "arg");
}

/* (argc, argv) -> status */
static int run(lua_State *L) {
  const int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  luaL_openlibs(L);
  set_path(L);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "attnlab.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  set_arg(L, argc, argv);
  lua_call(L, 1, 1);
  return 1;
}

/* A standard stream that the caller closed is opened on what cannot be used: otherwise the next
 * file would get its number, and print would write into a run. */
static void open_standard(void) {
  for (int fd = 0; fd < 3; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) _exit(1);
}

/* At every exit, a script's os.exit included: output that is lost is a failure. An error of an
 * earlier write has left its mark alone: one more byte, where some are missing, asks for the
 * reason. */
static void close_standard(void) {
  const int lost = ferror(stdout);
  if (fflush(stdout) == 0 && !lost) return;
  const bool refused = write(STDOUT_FILENO, "\n", 1) != 1;
  fprintf(stderr, "attnlab: standard output: %s\n",
          refused ? strerror(errno) : "a part of it could not be written");
  _exit(1);
}

int main(int argc, char **argv) {
  open_standard();
  signal(SIGXFSZ, SIG_IGN); /* a limit of files' sizes is an error of write, which is told */
  atexit(close_standard);
  lua_State *L = luaL_newstate();
  if (!L) {
    fputs("attnlab: out of memory\n", stderr);
    return 1;
  }
  lua_pushcfunction(L, message);
  lua_pushcfunction(L, run);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  int status = 1;
  if (lua_pcall(L, 2, 1, 1) != LUA_OK) fprintf(stderr, "attnlab: %s\n", lua_tostring(L, -1));
  else if (lua_isinteger(L, -1)) status = (int)lua_tointeger(L, -1);
  else status = lua_isnoneornil(L, -1) || lua_toboolean(L, -1) ? 0 : 1;
  lua_close(L);
  return status;
}
