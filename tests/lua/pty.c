/* pty.c: programs on a terminal of their own, for tests of the prompt: a Lua module.
 *
 *   p = pty.open({program, args ..}, {rows =, cols =, env = {"NAME=value", ..}})
 *   p:write(text)       as typed
 *   p:read(seconds)     what was written since, "" after that time, nil once the program has ended
 *   p:signal(number)    p:pid()
 *   p:wait(seconds)     exit status, or minus the signal that ended it; nil: it runs still
 *   p:resize(rows, cols) */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TYPE "attnlab.test.pty"
enum { MOST_WORDS = 32 };

typedef struct pty {
  int fd;
  pid_t pid;
  bool ended;
  int status;
} pty;

static pty *check(lua_State *L) { return luaL_checkudata(L, 1, TYPE); }

static int field(lua_State *L, const char *name, int without) {
  lua_getfield(L, 2, name);
  const int v = (int)luaL_optinteger(L, -1, without);
  lua_pop(L, 1);
  return v;
}

/* Texts of the list at idx; they live as long as it. */
static void words(lua_State *L, int idx, const char **out) {
  const int n = (int)luaL_len(L, idx);
  luaL_argcheck(L, n < MOST_WORDS, idx, "too many words");
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, idx, i + 1);
    out[i] = luaL_checkstring(L, -1);
    lua_pop(L, 1);
  }
  out[n] = NULL;
}

static int pty_open(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  if (lua_isnoneornil(L, 2)) lua_settop(L, 1), lua_newtable(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  const char *argv[MOST_WORDS], *env[MOST_WORDS] = {NULL};
  words(L, 1, argv);
  if (lua_getfield(L, 2, "env") == LUA_TTABLE) words(L, lua_gettop(L), env);
  struct winsize size = {.ws_row = (unsigned short)field(L, "rows", 24),
                         .ws_col = (unsigned short)field(L, "cols", 80)};
  pty *p = lua_newuserdatauv(L, sizeof *p, 0);
  *p = (pty){.fd = -1};
  luaL_setmetatable(L, TYPE);
  p->pid = forkpty(&p->fd, NULL, NULL, &size);
  if (p->pid < 0) return luaL_error(L, "pty: %s", strerror(errno));
  if (p->pid == 0) {
    for (int i = 0; env[i]; i++) putenv((char *)env[i]);
    execvp(argv[0], (char *const *)argv);
    _exit(127);
  }
  fcntl(p->fd, F_SETFD, FD_CLOEXEC);
  return 1;
}

static int pty_write(lua_State *L) {
  pty *p = check(L);
  size_t n;
  const char *s = luaL_checklstring(L, 2, &n);
  while (n > 0) {
    const ssize_t k = write(p->fd, s, n);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return luaL_error(L, "pty: %s", strerror(errno));
    s += k, n -= (size_t)k;
  }
  return 0;
}

static int pty_read(lua_State *L) {
  pty *p = check(L);
  struct pollfd in = {.fd = p->fd, .events = POLLIN};
  const int n = poll(&in, 1, (int)(1000 * luaL_optnumber(L, 2, 0)));
  char buf[4096];
  const ssize_t k = n > 0 ? read(p->fd, buf, sizeof buf) : 0;
  if (n > 0 && k <= 0) lua_pushnil(L); /* nobody holds the other side */
  else lua_pushlstring(L, buf, k > 0 ? (size_t)k : 0);
  return 1;
}

static int pty_wait(lua_State *L) {
  pty *p = check(L);
  const double seconds = luaL_optnumber(L, 2, 0);
  for (double waited = 0; !p->ended; waited += 0.01) {
    int status;
    const pid_t got = waitpid(p->pid, &status, WNOHANG);
    if (got == p->pid) {
      p->ended = true;
      p->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      break;
    }
    if (waited >= seconds) return 0;
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  lua_pushinteger(L, p->status);
  return 1;
}

static int pty_signal(lua_State *L) {
  pty *p = check(L);
  if (!p->ended) kill(p->pid, (int)luaL_checkinteger(L, 2));
  return 0;
}

static int pty_pid(lua_State *L) {
  lua_pushinteger(L, check(L)->pid);
  return 1;
}

static int pty_resize(lua_State *L) {
  struct winsize size = {.ws_row = (unsigned short)luaL_checkinteger(L, 2),
                         .ws_col = (unsigned short)luaL_checkinteger(L, 3)};
  ioctl(check(L)->fd, TIOCSWINSZ, &size);
  return 0;
}

static int pty_close(lua_State *L) {
  pty *p = check(L);
  if (!p->ended && p->pid > 0) {
    kill(p->pid, SIGKILL);
    waitpid(p->pid, &p->status, 0);
    p->ended = true;
  }
  if (p->fd >= 0) close(p->fd);
  p->fd = -1;
  return 0;
}

static const luaL_Reg methods[] = {
    {"write", pty_write}, {"read", pty_read},     {"wait", pty_wait},   {"signal", pty_signal},
    {"pid", pty_pid},     {"resize", pty_resize}, {"close", pty_close}, {NULL, NULL}};

int luaopen_pty(lua_State *L);
__attribute__((visibility("default"))) int luaopen_pty(lua_State *L) {
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, pty_close);
    lua_setfield(L, -2, "__gc");
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
  }
  lua_newtable(L);
  lua_pushcfunction(L, pty_open);
  lua_setfield(L, -2, "open");
  return 1;
}
