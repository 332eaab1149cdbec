/* lproc.c: core.sys: child processes. */
#define _GNU_SOURCE
#include "lua_attnlab.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* ---- children ---- */

/* All that the child needs, made before the fork: after it come only system calls. */
typedef struct plan {
  char **argv, **envp;
  const char *out, *err; /* paths, or NULL to inherit */
  bool group;            /* in a process group of its own */
  pid_t parent;
} plan;

static bool redirect(const char *path, int fd) {
  if (!path) return true;
  const int f = al_file_open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
  if (f < 0 || dup2(f, fd) < 0) return false;
  if (f != fd) close(f);
  else fcntl(fd, F_SETFD, 0); /* it was opened at its own place */
  return true;
}

/* In the child. Reports errno and the step through the pipe when it cannot become the program. */
static _Noreturn void become(const plan *p, int report) {
  int told[2] = {0, 0};
  const int null = open("/dev/null", O_RDONLY);
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != p->parent)
    _exit(127); /* the parent is gone already */
  if (p->group) setpgid(0, 0);
  if (null >= 0) dup2(null, STDIN_FILENO);
  if (!redirect(p->out, STDOUT_FILENO)) told[1] = 1;
  else if (!redirect(p->err, STDERR_FILENO)) told[1] = 2;
  else execvpe(p->argv[0], p->argv, p->envp);
  told[0] = errno;
  const ssize_t k = write(report, told, sizeof told);
  _exit(k == sizeof told ? 127 : 126);
}

static const char *string_field(lua_State *L, const char *name) {
  const int type = lua_getfield(L, 1, name);
  if (type != LUA_TNIL && type != LUA_TSTRING)
    lal_argerror(L, 1, "spawn", "option '%s': a path expected, got a %s", name,
                 lua_typename(L, type));
  return type == LUA_TSTRING ? lua_tostring(L, -1) : NULL; /* stays on the stack */
}

static bool same_name(const char *entry, const char *name) {
  const size_t n = strlen(name);
  return strncmp(entry, name, n) == 0 && entry[n] == '=';
}

/* The environment with the table `env` over it, in a buffer that it pushes; its strings stay on the
 * stack. */
static char **environment(lua_State *L) {
  int n = 0, extra = 0;
  while (environ[n]) n++;
  const int type = lua_getfield(L, 1, "env");
  if (type == LUA_TNIL) return environ;
  if (type != LUA_TTABLE)
    lal_argerror(L, 1, "spawn", "option 'env': a table of names and texts expected");
  const int env = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, env); lua_pop(L, 1)) extra++;
  char **e = lua_newuserdatauv(L, sizeof *e * (size_t)(n + extra + 1), 0);
  lua_newtable(L); /* keeps the new strings alive */
  const int keep = lua_gettop(L);
  int m = 0;
  for (int i = 0; i < n; i++) e[m++] = environ[i];
  lua_Integer k = 0;
  for (lua_pushnil(L); lua_next(L, env);) {
    if (lua_type(L, -2) != LUA_TSTRING || !(lua_isstring(L, -1)))
      lal_argerror(L, 1, "spawn", "option 'env': a table of names and texts expected");
    const char *name = lua_tostring(L, -2);
    lua_pushfstring(L, "%s=%s", name, lua_tostring(L, -1));
    char *text =
        (char *)(uintptr_t)lua_tostring(L, -1); /* execve takes char *, and does not write */
    lua_rawseti(L, keep, ++k);
    lua_pop(L, 1);
    int at = 0;
    while (at < m && !same_name(e[at], name)) at++;
    e[at] = text;
    if (at == m) m++;
  }
  e[m] = NULL;
  return e;
}

static void check_spawn_keys(lua_State *L, lua_Integer n) {
  static const char *const names[] = {"stdout", "stderr", "env", "group"};
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) {
    if (lua_isinteger(L, -2) && lua_tointeger(L, -2) >= 1 && lua_tointeger(L, -2) <= n) continue;
    bool known = false;
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
    for (int i = 0; i < 4; i++) known = known || strcmp(key, names[i]) == 0;
    if (!known)
      lal_argerror(L, 1, "spawn", "unknown option '%s'; known are: stdout stderr env group", key);
  }
}

/* core.sys.spawn{program, argument, ..., stdout=path, stderr=path, env={K=V}, group=bool} -> pid.
 * Output is appended; input is empty; the child is killed when this process ends. group: in a
 * process group of its own, which Ctrl-C does not reach. */
static int sys_spawn(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  const lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
  if (n == 0) return lal_argerror(L, 1, "spawn", "a program expected at place 1");
  if (n > 1 << 16) return lal_argerror(L, 1, "spawn", "at most 2^16 arguments expected");
  check_spawn_keys(L, n);
  plan p = {.argv = lua_newuserdatauv(L, sizeof(char *) * (size_t)(n + 1), 0), .parent = getpid()};
  luaL_checkstack(L, (int)n + 16, "too many arguments");
  for (lua_Integer i = 0; i < n; i++) {
    lua_rawgeti(L, 1, i + 1);
    if (!lua_isstring(L, -1))
      return lal_argerror(L, 1, "spawn", "text expected at place %d, got a %s", (int)i + 1,
                          luaL_typename(L, -1));
    p.argv[i] = (char *)(uintptr_t)lua_tostring(L, -1); /* stays on the stack */
  }
  p.argv[n] = NULL;
  p.out = string_field(L, "stdout");
  p.err = string_field(L, "stderr");
  p.envp = environment(L);
  lua_getfield(L, 1, "group");
  p.group = lua_toboolean(L, -1);
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0)
    return luaL_error(L, "spawn: %s: %s", p.argv[0], strerror(errno));
  fflush(NULL);
  const pid_t pid = fork();
  if (pid == 0) become(&p, report[1]);
  const int fork_errno = errno;
  close(report[1]);
  int told[2];
  ssize_t k = 0;
  if (pid > 0) {
    do k = read(report[0], told, sizeof told);
    while (k < 0 && errno == EINTR);
  }
  close(report[0]);
  if (pid < 0) return luaL_error(L, "spawn: %s: %s", p.argv[0], strerror(fork_errno));
  if (k == sizeof told) {
    waitpid(pid, NULL, 0);
    return luaL_error(L, "spawn: %s: %s",
                      told[1] == 0 ? p.argv[0] : al_path_shown(told[1] == 1 ? p.out : p.err).text,
                      al_file_reason(told[0]));
  }
  lua_pushinteger(L, pid);
  return 1;
}

static pid_t check_pid(lua_State *L) {
  const lua_Integer pid = luaL_checkinteger(L, 1);
  luaL_argcheck(L, pid > 0 && pid < 1 << 30, 1,
                "a process id expected"); /* 0 and below mean groups */
  return (pid_t)pid;
}

/* core.sys.wait(pid, nohang) -> "running" | "exited", code | "signal", number. A signal to this
 * process ends a wait early with "running". */
static int sys_wait(lua_State *L) {
  const pid_t pid = check_pid(L);
  int status;
  const pid_t r = waitpid(pid, &status, lua_toboolean(L, 2) ? WNOHANG : 0);
  if (r == 0 || (r < 0 && errno == EINTR)) {
    lua_pushliteral(L, "running");
    return 1;
  }
  if (r < 0) return luaL_error(L, "wait: process %d: %s", (int)pid, strerror(errno));
  lua_pushstring(L, WIFEXITED(status) ? "exited" : "signal");
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
  return 2;
}

static int sys_kill(lua_State *L) {
  const pid_t pid = check_pid(L);
  const lua_Integer sig = luaL_optinteger(L, 2, SIGTERM);
  luaL_argcheck(L, sig >= 0 && sig <= SIGRTMAX, 2, "a signal number expected");
  if (kill(pid, (int)sig) != 0)
    return luaL_error(L, "kill: process %d, signal %d: %s", (int)pid, (int)sig, strerror(errno));
  return 0;
}

/* Ends early when a signal comes. */
static int sys_sleep(lua_State *L) {
  const double s = luaL_checknumber(L, 1);
  luaL_argcheck(L, s >= 0 && s < 1e9, 1, "seconds expected");
  const struct timespec t = {(time_t)s, (long)((s - floor(s)) * 1e9)};
  nanosleep(&t, NULL);
  return 0;
}

static int sys_pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

/* The path of the running program: what a run starts its workers with. */
static int sys_program(lua_State *L) {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0 || n == sizeof path)
    return luaL_error(L, "program: /proc/self/exe: %s", strerror(n < 0 ? errno : ENAMETOOLONG));
  lua_pushlstring(L, path, (size_t)n);
  return 1;
}

static const luaL_Reg functions[] = {
    {"spawn", sys_spawn}, {"wait", sys_wait},       {"kill", sys_kill}, {"sleep", sys_sleep},
    {"pid", sys_pid},     {"program", sys_program}, {NULL, NULL}};

void lal_open_proc(lua_State *L) {
  lua_getfield(L, -1, "sys");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}
