/* lsignal.c: core.sys: interrupts, and what a crash says.
 *
 * SIGINT, SIGTERM and SIGHUP end a script, but for long work that asks for them (catch_interrupts):
 * it looks at their number after each step and ends by itself. At the prompt they never end the
 * process: work that asks for them returns what it has, and the chunk ends at its next call into
 * lab; all else is raised out of at once. */
#define _GNU_SOURCE
#include "lua_attnlab.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A handler has no argument of ours, so these are globals. */
static volatile sig_atomic_t n_caught;     /* signals that came */
static volatile sig_atomic_t n_close;      /* SIGINT within two seconds of each other */
static volatile sig_atomic_t ending;       /* SIGTERM or SIGHUP, when one came */
static volatile sig_atomic_t in_chunk;     /* the prompt runs what was typed */
static volatile sig_atomic_t n_working;    /* calls of it that end by themselves */
static volatile sig_atomic_t n_whole;      /* calls of it that may not be cut */
static volatile sig_atomic_t n_raised;     /* errors that were to end the chunk */
static volatile sig_atomic_t wanted;       /* the chunk has to end */
static volatile int64_t last_ms, first_ms; /* when the last came, and the first of this chunk */
/* Main thread of the state whose chunk is stopped: the coroutine that asked may be collected. */
static lua_State *volatile stop_state;
static int working_since; /* n_caught when the outermost began */
static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_CAUGHT = sizeof caught / sizeof *caught };
static struct sigaction old[N_CAUGHT];
static bool catching, prompt;
/* oneDNN's generated sgemm keeps values below the stack pointer, further than the 128 bytes that a
 * signal frame spares: on the normal stack a signal corrupted the heap in about every second
 * interrupted run. A frame with AVX-512 and AMX state takes 11 KiB. */
static char signal_stack[1 << 16];

enum {
  PATIENT_MS = 5000, /* work that has not ended by itself for so long is raised out of */
  AGAIN = 100000, /* instructions: more than what code that was raised out of needs to clean up */
  GENTLY = 3      /* times that it gets them */
};

static lua_State *main_thread(lua_State *L) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lua_State *m = lua_tothread(L, -1);
  lua_pop(L, 1);
  return m;
}

/* ---- chunks that are stopped ---- */

static void stop_chunk(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  /* A chunk that catches the error and goes on is stopped again: first with time to put things in
   * order, then wherever it is. */
  if (in_chunk) lua_sethook(L, stop_chunk, LUA_MASKCOUNT, n_raised++ < GENTLY ? AGAIN : 1);
  luaL_error(L, "interrupted");
}

static void stop_at_once(lua_State *L) {
  lua_sethook(L, stop_chunk, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

/* Registry keys, by their addresses: C functions of ours, where Lua functions of ours come from,
 * and which of them are not meant. */
static const char ours_key = 0, source_key = 0, except_key = 0;

static bool begins(lua_State *L, const char *source, const void *key) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, key);
  const char *s = lua_tostring(L, -1);
  const bool yes = s && strncmp(source, s, strlen(s)) == 0;
  lua_pop(L, 1);
  return yes;
}

static bool is_ours(lua_State *L, lua_Debug *ar) {
  lua_getinfo(L, "fS", ar);
  bool yes;
  if (*ar->what == 'C') {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &ours_key);
    lua_insert(L, -2);
    yes = lua_rawget(L, -2) != LUA_TNIL;
    lua_pop(L, 2);
  } else {
    lua_pop(L, 1);
    yes = begins(L, ar->source, &source_key) && !begins(L, ar->source, &except_key);
  }
  return yes;
}

/* Whether the call at hand is one of ours by somebody else: the nearest below it that is a Lua
 * function or ours decides, so that pcall(f) is the caller's own call of f. */
static bool enters_lab(lua_State *L, lua_Debug *ar) {
  if (!is_ours(L, ar)) return false;
  lua_Debug below;
  for (int level = 1; lua_getstack(L, level, &below); level++) {
    if (is_ours(L, &below)) return false;
    if (*below.what != 'C') return true;
  }
  return true;
}

static void stop_at_lab(lua_State *L, lua_Debug *ar) {
  if (enters_lab(L, ar)) stop_chunk(L, ar);
}

static void on_signal(int sig) {
  n_caught++;
  if (sig != SIGINT) ending = sig;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
  if (prompt) {
    if (!in_chunk) return;
    if (!wanted) first_ms = ms;
    wanted = 1;
    /* the one Lua call that a handler may make */
    if (!n_whole && (!n_working || ms - first_ms > PATIENT_MS)) stop_at_once(stop_state);
    return;
  }
  if (sig != SIGINT) return;
  n_close = n_close > 0 && ms - last_ms <= 2000 ? n_close + 1 : 1;
  last_ms = ms;
  if (n_close == 2 && stop_state) stop_at_once(stop_state);
  if (n_close >= 3) _exit(130);
}

static void handle(lua_State *L, bool on) {
  if (on == catching) return;
  if (on) {
    const stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    if (sigaltstack(&stack, NULL) != 0) luaL_error(L, "catch_interrupts: %s", strerror(errno));
    /* at the prompt what is printed goes on behind a signal, and is whole */
    struct sigaction a = {.sa_handler = on_signal,
                          .sa_flags = SA_ONSTACK | (prompt ? SA_RESTART : 0)};
    sigemptyset(&a.sa_mask);
    for (int i = 0; i < N_CAUGHT; i++) sigaction(caught[i], &a, &old[i]);
  } else {
    for (int i = 0; i < N_CAUGHT; i++) sigaction(caught[i], &old[i], NULL);
  }
  catching = on;
}

/* core.sys.catch_interrupts(bool): from now signals are counted, for work that looks at their
 * number and ends by itself. A second SIGINT within two seconds stops the running chunk (a
 * coroutine: once it yields or returns) with the error "interrupted", a third ends the process with
 * 130. At the prompt, where signals are always counted, this says that the chunk is in such work:
 * it is stopped by no error for five seconds, and once the work is done at its next call into lab.
 */
static int sys_catch_interrupts(lua_State *L) {
  luaL_checktype(L, 1, LUA_TBOOLEAN);
  const bool on = lua_toboolean(L, 1);
  if (prompt) {
    /* a chunk that has to end begins no more work */
    if (on && n_working == 0 && wanted && in_chunk) stop_chunk(L, NULL);
    if (on && n_working++ == 0) working_since = n_caught;
    if (!on && n_working > 0 && --n_working == 0 && in_chunk && n_caught > working_since)
      lua_sethook(stop_state, stop_at_lab, LUA_MASKCALL, 0);
    return 0;
  }
  n_caught = n_close = 0;
  stop_state = on ? main_thread(L) : NULL;
  handle(L, on);
  return 0;
}

int lal_signals(void) { return n_caught; }

/* core.sys.interrupted() -> how many signals came, and which of "terminated", "hangup" or nil. */
static int sys_interrupted(lua_State *L) {
  lua_pushinteger(L, n_caught);
  lua_pushstring(L, ending == SIGTERM ? "terminated" : ending == SIGHUP ? "hangup" : NULL);
  return 2;
}

/* ---- the prompt ---- */

/* Marks every function in the table at `idx` as ours, in tables inside it too. */
static void mark(lua_State *L, int idx, int set, int depth) {
  if (depth == 0) return;
  luaL_checkstack(L, 8, NULL);
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
    const int at = lua_gettop(L);
    if (lua_iscfunction(L, at)) {
      lua_pushvalue(L, at);
      lua_pushboolean(L, true);
      lua_rawset(L, set);
    } else if (lua_istable(L, at)) {
      mark(L, at, set, depth - 1);
    }
  }
}

/* core.sys.begin_prompt(source, except): from now the process is a prompt's, and no signal ends it.
 * source: what the source names of lab's own Lua functions begin with; except: those of the prompt
 * itself. */
static int sys_begin_prompt(lua_State *L) {
  luaL_checkstring(L, 1);
  luaL_checkstring(L, 2);
  lua_settop(L, 2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &except_key);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &source_key);
  lua_newtable(L);
  const int set = lua_gettop(L);
  lua_pushvalue(L, LUA_REGISTRYINDEX);
  for (lua_pushnil(L); lua_next(L, set + 1); lua_pop(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    if (strncmp(key, "attnlab.", 8) == 0 && lua_istable(L, -1)) mark(L, lua_gettop(L), set, 3);
  }
  lua_pop(L, 1);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "attnlab.core") == LUA_TTABLE) mark(L, lua_gettop(L), set, 4);
  lua_settop(L, set);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &ours_key);
  stop_state = main_thread(L);
  n_caught = 0;
  prompt = true;
  handle(L, true);
  return 0;
}

/* core.sys.chunk(f, handler, answered) -> true, f's results; or false, handler(error). An interrupt
 * ends f; one that came since there were `answered` of them does at its first step. */
static int sys_chunk(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  const bool late = n_caught > luaL_checkinteger(L, 3) || ending;
  lua_settop(L, 2);
  lua_insert(L, 1); /* the handler stands below the function */
  n_caught = wanted = late;
  n_working = n_whole = n_raised = 0;
  in_chunk = 1;
  if (late && stop_state) stop_at_once(stop_state);
  const int status = lua_pcall(L, 0, LUA_MULTRET, 1);
  in_chunk = 0;
  if (stop_state) lua_sethook(stop_state, NULL, 0, 0);
  n_working = n_whole = 0;
  lua_pushboolean(L, status == LUA_OK);
  lua_replace(L, 1);
  return lua_gettop(L);
}

/* core.sys.stop_soon(): the chunk of a prompt ends at its next call into lab, as after work that was
 * interrupted. */
static int sys_stop_soon(lua_State *L) {
  if (!prompt) return luaL_error(L, "stop_soon: it is a prompt's, and none was begun");
  wanted = 1;
  if (in_chunk) lua_sethook(stop_state, stop_at_lab, LUA_MASKCALL, 0);
  return 0;
}

/* core.sys.whole(f, ...) -> what f gives: a change that an interrupt may not cut in two. It comes
 * behind it. */
static int sys_whole(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  n_whole++;
  const int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  if (n_whole > 0 && --n_whole == 0 && wanted && in_chunk && !n_working) stop_at_once(stop_state);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

static void look(lua_State *L, lua_Debug *ar) {
  if (wanted && in_chunk && !n_whole && !n_working) stop_chunk(L, ar);
}

/* core.sys.watch(coroutine): it is stopped with the chunk that runs it. */
static int sys_watch(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTHREAD);
  lua_sethook(lua_tothread(L, 1), look, LUA_MASKCOUNT, AGAIN);
  return 0;
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
  if (stop_state == state) stop_state = NULL, prompt = false;
}

static const luaL_Reg functions[] = {{"catch_interrupts", sys_catch_interrupts},
                                     {"interrupted", sys_interrupted},
                                     {"begin_prompt", sys_begin_prompt},
                                     {"chunk", sys_chunk},
                                     {"stop_soon", sys_stop_soon},
                                     {"whole", sys_whole},
                                     {"watch", sys_watch},
                                     {"say_crashes", sys_say_crashes},
                                     {NULL, NULL}};

static const char closing_key = 0; /* its address is the key in the registry */

void lal_open_signal(lua_State *L) {
  lal_guard *closing = lal_guard_new(L, forget);
  closing->p = main_thread(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &closing_key);
  lua_getfield(L, -1, "sys");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}
