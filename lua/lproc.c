/* lproc.c: core.sys: child processes and signals. */
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

/* ---- interrupts ---- */

/* A handler has no argument of ours, so these are globals: how many signals came, how many SIGINT
 * within two seconds of each other, the main thread of the state whose chunk the second stops (the
 * coroutine that asked may be collected by then), when the last came. */
static volatile sig_atomic_t n_caught, n_close;
static lua_State *volatile stop_state;
static volatile int64_t last_ms;
static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_CAUGHT = sizeof caught / sizeof *caught };
static struct sigaction old[N_CAUGHT];
static bool catching;
/* oneDNN's generated sgemm keeps values below the stack pointer, further than the 128 bytes that a
 * signal frame spares: on the normal stack a signal corrupted the heap in about every second
 * interrupted run. A frame with AVX-512 and AMX state takes 11 KiB. */
static char signal_stack[1 << 16];

static void stop_chunk(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted");
}

static void on_signal(int sig) {
  n_caught++;
  if (sig != SIGINT) return;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
  n_close = n_close > 0 && ms - last_ms <= 2000 ? n_close + 1 : 1;
  last_ms = ms;
  if (n_close == 2 && stop_state) /* the one Lua call that a handler may make */
    lua_sethook(stop_state, stop_chunk, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
  if (n_close >= 3) _exit(130);
}

/* core.sys.catch_interrupts(bool): from now SIGINT, SIGTERM and SIGHUP are counted. A second SIGINT
 * within two seconds stops the running chunk (a coroutine: once it yields or returns) with the
 * error "interrupted", a third ends the process with 130. */
static int sys_catch_interrupts(lua_State *L) {
  luaL_checktype(L, 1, LUA_TBOOLEAN);
  const bool on = lua_toboolean(L, 1);
  n_caught = n_close = 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  stop_state = on ? lua_tothread(L, -1) : NULL;
  if (on == catching) return 0;
  if (on) {
    const stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    if (sigaltstack(&stack, NULL) != 0)
      return luaL_error(L, "catch_interrupts: %s", strerror(errno));
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    sigemptyset(&a.sa_mask);
    for (int i = 0; i < N_CAUGHT; i++) sigaction(caught[i], &a, &old[i]);
  } else {
    for (int i = 0; i < N_CAUGHT; i++) sigaction(caught[i], &old[i], NULL);
  }
  catching = on;
  return 0;
}

static int sys_interrupted(lua_State *L) {
  lua_pushinteger(L, n_caught);
  return 1;
}

/* ---- crashes ---- */

/* What a process says when it crashes: a handler has no argument of ours. */
static lal_crash_text *volatile crash_text;
static const void *volatile crash_owner;
static const al_ctx *volatile crash_ctx;
static char crash_case[256];

static void say_crash(const char *before, const char *text) {
  if (!text || !*text) return;
  const ssize_t a = write(STDERR_FILENO, before, strlen(before));
  const ssize_t b = a < 0 ? a : write(STDERR_FILENO, text, strlen(text));
  (void)b; /* nobody is left to be told */
}

static void on_crash(int sig) {
  const char *error = "";
  say_crash("crashed in ", crash_text ? crash_text(crash_owner, &error) : crash_case);
  if (!*error && crash_ctx && al_error(crash_ctx) != AL_OK)
    error = al_error_message(crash_ctx, NULL, NULL);
  say_crash("; pending error: ", error);
  say_crash("\n", "\n");
  raise(sig); /* SA_RESETHAND: it ends the process when this returns */
}

void lal_on_crash(lal_crash_text *text, const void *owner) {
  crash_text = NULL;
  crash_owner = owner;
  crash_text = text;
}

/* core.sys.say_crashes(what): from now a crash writes to stderr what was being done (`what`, or the
 * case of a check) and the error that was pending. */
static int sys_say_crashes(lua_State *L) {
  snprintf(crash_case, sizeof crash_case, "%s", luaL_checkstring(L, 1));
  crash_ctx = lal_ctx(L);
  static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
  const stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
  if (sigaltstack(&stack, NULL) != 0) return luaL_error(L, "say_crashes: %s", strerror(errno));
  struct sigaction a = {.sa_handler = on_crash, .sa_flags = SA_ONSTACK | (int)SA_RESETHAND};
  sigemptyset(&a.sa_mask);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &a, NULL);
  return 0;
}

/* No signal reaches a state that is gone. */
static void forget(void *state) {
  crash_text = NULL;
  crash_ctx = NULL;
  if (stop_state == state) stop_state = NULL;
}

static const luaL_Reg functions[] = {{"spawn", sys_spawn},
                                     {"wait", sys_wait},
                                     {"kill", sys_kill},
                                     {"sleep", sys_sleep},
                                     {"pid", sys_pid},
                                     {"program", sys_program},
                                     {"catch_interrupts", sys_catch_interrupts},
                                     {"interrupted", sys_interrupted},
                                     {"say_crashes", sys_say_crashes},
                                     {NULL, NULL}};

static const char closing_key = 0; /* its address is the key in the registry */

void lal_open_proc(lua_State *L) {
  lal_guard *closing = lal_guard_new(L, forget);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  closing->p = lua_tothread(L, -1);
  lua_pop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &closing_key);
  lua_getfield(L, -1, "sys");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}
