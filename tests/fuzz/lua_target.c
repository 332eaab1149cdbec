/* lua_target.c: runs a target that is written in Lua (libFuzzer). The script returns
 *
 *   { run = function(bytes), seeds = {texts}, words = {texts} }
 *
 * run reads the bytes as what the target is about and catches what readers raise; an error that
 * leaves it is a finding. libFuzzer sees which lines of Lua ran, one after the other, as it sees
 * the branches of C. Its mutations are its own, words put in, and seeds put in the place of all. */
#include "fuzz.h"
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

extern const char fuzz_script[], fuzz_root[];
int luaopen_attnlab_core(lua_State *L);

enum { COUNTERS = 1 << 15, MOST = 1000 };
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[COUNTERS];

typedef struct texts {
  size_t n, length[MOST];
  const char *text[MOST]; /* borrowed from the Lua state, which stays */
} texts;
static texts seeds, words;

static void count_line(lua_State *L, lua_Debug *at) {
  static unsigned before;
  lua_getinfo(L, "Sl", at);
  const unsigned here = ((unsigned)(uintptr_t)at->source + (unsigned)at->currentline) * 2654435761u;
  counters[(before ^ here >> 8) % COUNTERS]++;
  before = here >> 9;
}

static void fail(lua_State *L) {
  fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
  abort();
}

/* Field `name` of the table on top. */
static void take(lua_State *L, const char *name, texts *list) {
  lua_getfield(L, -1, name);
  list->n = lua_istable(L, -1) ? (size_t)lua_rawlen(L, -1) : 0;
  HOLDS(list->n <= MOST);
  for (size_t i = 0; i < list->n; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    HOLDS((list->text[i] = lua_tolstring(L, -1, &list->length[i])));
    lua_pop(L, 1);
  }
  lua_setfield(L, LUA_REGISTRYINDEX, name); /* keeps the texts */
}

static int traced(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

/* The state, with traced and run on its stack. */
static lua_State *state(void) {
  static lua_State *L;
  if (L) return L;
  HOLDS(setenv("ATTNLAB_HOME", fuzz_root, 1) == 0 && setenv("OMP_NUM_THREADS", "1", 1) == 0);
  HOLDS((L = luaL_newstate()));
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_attnlab_core);
  lua_setfield(L, -2, "attnlab.core");
  lua_getglobal(L, "package");
  lua_pushfstring(L, "%s/lua/?.lua;%s/lua/?/init.lua", fuzz_root, fuzz_root);
  lua_setfield(L, -2, "path");
  lua_settop(L, 0);
  lua_pushcfunction(L, traced);
  lua_sethook(L, count_line, LUA_MASKLINE, 0);
  if (luaL_loadfile(L, fuzz_script)) fail(L);
  lua_pushfstring(L, "%s/tests/fuzz/", fuzz_root);
  lua_pushstring(L, fuzz_folder());
  if (lua_pcall(L, 2, 1, 1)) fail(L);
  take(L, "seeds", &seeds);
  take(L, "words", &words);
  lua_getfield(L, -1, "run");
  lua_replace(L, 2);
  return L;
}

/* Leaks are looked for at the end: a collected state allocates and frees as it likes. Of what is
 * larger than memory the core says so, as without the sanitizer. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
  char **more = calloc((size_t)*argc + 2, sizeof *more);
  HOLDS(more);
  memcpy(more, *argv, (size_t)*argc * sizeof *more);
  static char flag[] = "-detect_leaks=0";
  more[(*argc)++] = flag;
  *argv = more;
  state();
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  const unsigned h = seed * 2654435761u;
  const size_t i = seeds.n ? (h >> 8) % seeds.n : 0;
  if (seeds.n && (size <= 1 || seed % 61 == 0) && seeds.length[i] <= max) {
    memcpy(data, seeds.text[i], seeds.length[i]);
    return seeds.length[i];
  }
  if (words.n) return fuzz_mutate(data, size, max, seed, words.text, words.n, 0);
  return LLVMFuzzerMutate(data, size, max);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lua_State *L = state();
  static unsigned n;
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 0, 1)) fail(L);
  lua_gc(L, ++n % 64 ? LUA_GCSTEP : LUA_GCCOLLECT, 10);
  return 0;
}
