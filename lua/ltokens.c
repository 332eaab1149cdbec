/* ltokens.c: token sets, rows of them, shards that are written, texts as they come, names by
 * pattern. */
#include "lua_attnlab.h"
#include <glob.h>
#include <stdlib.h>
#include <string.h>

static void release_shards(void *p) { al_shards_release(p); }
static void release_rows(void *p) { al_rows_free(p); }
static void release_writer(void *p) { al_shard_abort(p); }
static void release_texts(void *p) { al_texts_close(p); }
static const lal_type shards_type = {"attnlab.shards", release_shards, 0};
static const lal_type rows_type = {"attnlab.rows", release_rows, 0};
static const lal_type writer_type = {"attnlab.shard_writer", release_writer, 0};
static const lal_type texts_type = {"attnlab.texts", release_texts, 0};

static int box_free(lua_State *L, const lal_type *type) {
  lal_box_free(L, luaL_checkudata(L, 1, type->name));
  return 0;
}

/* ---- sets ---- */

/* core.shards.open({path, ..}, format, vocab) */
static int shards_open(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  const char *format = luaL_checkstring(L, 2);
  const lua_Integer vocab = luaL_checkinteger(L, 3);
  const size_t n = lua_rawlen(L, 1);
  luaL_argcheck(L, n < 1 << 24, 1, "fewer files expected");
  const char **paths = lua_newuserdatauv(L, (n + 1) * sizeof *paths, 0);
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, 1, (lua_Integer)i + 1);
    luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, 1, "paths expected");
    paths[i] = lua_tostring(L, -1); /* the table keeps it */
    lua_pop(L, 1);
  }
  lal_box *b = lal_box_new(L, &shards_type);
  b->p = al_shards_open(lal_ctx(L), (int)n, paths, format, vocab);
  return b->p ? 1 : lal_raise(L);
}

/* core.shards.memory(vocab): an empty set that takes tokens. */
static int shards_memory(lua_State *L) {
  const lua_Integer vocab = luaL_checkinteger(L, 1);
  lal_box *b = lal_box_new(L, &shards_type);
  b->p = al_shards_memory(lal_ctx(L), vocab);
  return b->p ? 1 : lal_raise(L);
}

/* The ids of the tensor or whole number at arg: *n of them at the address; raises. */
static const int32_t *check_ids(lua_State *L, int arg, const char *fname, int32_t *one,
                                int64_t *n) {
  *n = 1;
  if (lua_isinteger(L, arg)) {
    const lua_Integer id = lua_tointeger(L, arg);
    if (id < 0 || id > INT32_MAX) lal_argerror(L, arg, fname, "an id expected, got %lld", id);
    *one = (int32_t)id;
    return one;
  }
  const al_tensor *t = lal_tensor_check(L, arg);
  *n = al_numel(t);
  if (al_type(t) == AL_I32 && *n == 0) return one;
  if (al_type(t) != AL_I32 || al_ndim(t) != 1 || al_stride(t)[0] != 1)
    lal_argerror(L, arg, fname, "one axis of i32 without gaps expected, got %d axes of %s",
                 al_ndim(t), al_dtype_name(al_type(t)));
  lal_box *here = lal_box_new(L, LAL_TENSOR); /* stays on the stack while the ids are read */
  here->p = al_to(lal_ctx(L), (al_tensor *)t, "cpu");
  const int32_t *ids = here->p ? al_host(here->p) : NULL;
  if (!ids) lal_raise(L);
  return ids;
}

static int shards_put(lua_State *L) {
  al_shards *s = lal_check(L, 1, &shards_type);
  int32_t one = 0;
  int64_t n;
  const int32_t *ids = check_ids(L, 2, "put", &one, &n);
  return al_shards_put(lal_ctx(L), s, ids, n) == AL_OK ? 0 : lal_raise(L);
}

static int shards_count(lua_State *L) {
  lua_pushinteger(L, al_shards_count(lal_check(L, 1, &shards_type)));
  return 1;
}

/* Tokens of a set on the current device; new reference, or NULL. */
static al_tensor *read_tokens(al_ctx *c, const al_shards *s, int64_t at, int64_t n) {
  const char *there = al_on(c, "cpu");
  al_tensor *t = al_tensor_new(c, AL_I32, 1, &n), *out = NULL;
  const bool ok = t && al_shards_read(c, s, at, n, al_host(t)) == AL_OK;
  al_on(c, there);
  if (ok) out = al_to(c, t, there);
  al_release(t);
  return out;
}

/* s:read(at, n) -> i32 tensor of the tokens from position `at`, from 0. */
static int shards_read(lua_State *L) {
  const al_shards *s = lal_check(L, 1, &shards_type);
  const lua_Integer at = luaL_checkinteger(L, 2), n = luaL_checkinteger(L, 3);
  al_ctx *c = lal_ctx(L);
  luaL_argcheck(L, n >= 1 && n <= al_shards_count(s), 3, "a number of tokens of the set expected");
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  LAL_RETRY(L, c, b->p = read_tokens(c, s, at, n));
  return b->p ? 1 : lal_raise(L);
}

static int shards_hash(lua_State *L) {
  char hex[65];
  if (al_shards_hash(lal_ctx(L), lal_check(L, 1, &shards_type), hex) != AL_OK) return lal_raise(L);
  lua_pushstring(L, hex);
  return 1;
}

static int shards_free(lua_State *L) { return box_free(L, &shards_type); }

/* ---- rows ---- */

/* s:rows(kind, context, lo, hi, separator) -> rows; separator: an id, or nil. */
static int shards_rows(lua_State *L) {
  al_shards *s = lal_check(L, 1, &shards_type);
  const char *kind = luaL_checkstring(L, 2);
  const lua_Integer T = luaL_checkinteger(L, 3), lo = luaL_checkinteger(L, 4),
                    hi = luaL_checkinteger(L, 5), separator = luaL_optinteger(L, 6, -1);
  luaL_argcheck(L, separator >= -1 && separator <= INT32_MAX, 6, "an id expected");
  lal_box *b = lal_box_new(L, &rows_type);
  b->p = al_rows_new(lal_ctx(L), s, lo, hi, kind, T, (int32_t)separator);
  return b->p ? 1 : lal_raise(L);
}

static int rows_count(lua_State *L) {
  lua_pushinteger(L, al_rows_count(lal_check(L, 1, &rows_type)));
  return 1;
}

/* x, y and, of packed rows, starts. */
static int push_batch(lua_State *L, bool even) {
  al_rows *r = lal_check(L, 1, &rows_type);
  const lua_Integer B = luaL_checkinteger(L, 2), a = luaL_checkinteger(L, 3),
                    b = luaL_checkinteger(L, 4);
  al_ctx *c = lal_ctx(L);
  lal_box *x = lal_box_new(L, LAL_TENSOR), *y = lal_box_new(L, LAL_TENSOR),
          *starts = lal_box_new(L, LAL_TENSOR);
  al_batch out;
  LAL_RETRY(L, c,
            even ? al_rows_even(c, r, B, a, b, &out)
                 : al_rows_shuffled(c, r, B, (uint64_t)a, b, &out));
  if (al_error(c) != AL_OK) return lal_raise(L);
  x->p = out.x;
  y->p = out.y;
  starts->p = out.starts;
  return out.starts ? 3 : (lua_pop(L, 1), 2);
}

static int rows_shuffled(lua_State *L) { return push_batch(L, false); } /* (batch, seed, index) */
static int rows_even(lua_State *L) { return push_batch(L, true); }      /* (batch, first, total) */
static int rows_free(lua_State *L) { return box_free(L, &rows_type); }

/* ---- shards that are written ---- */

/* core.shards.count(ids, id): how often an id is there. */
static int shards_count_id(lua_State *L) {
  int32_t one = 0;
  int64_t n, found = 0;
  const int32_t *ids = check_ids(L, 1, "count", &one, &n);
  const lua_Integer id = luaL_checkinteger(L, 2);
  for (int64_t i = 0; i < n; i++) found += ids[i] == id;
  lua_pushinteger(L, found);
  return 1;
}

/* core.shards.create(path, wide) -> w with put(ids), count(), commit(), abort() */
static int shards_create(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  const bool wide = lua_toboolean(L, 2);
  lal_box *b = lal_box_new(L, &writer_type);
  b->p = al_shard_create(lal_ctx(L), path, wide);
  return b->p ? 1 : lal_raise(L);
}

/* w:put(ids, from, to): those from position `from` (0) up to `to` (all); an id alone is one. */
static int writer_put(lua_State *L) {
  al_shard_writer *w = lal_check(L, 1, &writer_type);
  int32_t one = 0;
  int64_t n;
  const int32_t *ids = check_ids(L, 2, "put", &one, &n);
  const lua_Integer from = luaL_optinteger(L, 3, 0), to = luaL_optinteger(L, 4, n);
  luaL_argcheck(L, from >= 0 && from <= to && to <= n, 3, "positions of the ids expected");
  return al_shard_put(lal_ctx(L), w, ids + from, to - from) == AL_OK ? 0 : lal_raise(L);
}

static int writer_count(lua_State *L) {
  lua_pushinteger(L, al_shard_count(lal_check(L, 1, &writer_type)));
  return 1;
}

static int writer_commit(lua_State *L) {
  al_shard_writer *w = lal_check(L, 1, &writer_type);
  lal_box_test(L, 1, &writer_type)->p = NULL; /* commit frees it */
  return al_shard_commit(lal_ctx(L), w) == AL_OK ? 0 : lal_raise(L);
}

static int writer_abort(lua_State *L) { return box_free(L, &writer_type); }

/* ---- texts ---- */

/* core.texts(path, format, field, document_end) -> t: t:next() gives a text, nil at the end;
 * t:taken() bytes of the file that were read, and how many it has (nil: not known). */
static int core_texts(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *format = luaL_checkstring(L, 2),
             *field = luaL_optstring(L, 3, "text"), *mark = luaL_optstring(L, 4, NULL);
  lal_box *b = lal_box_new(L, &texts_type);
  b->p = al_texts_open(lal_ctx(L), path, format, field, mark);
  return b->p ? 1 : lal_raise(L);
}

static int texts_next(lua_State *L) {
  al_texts *t = lal_check(L, 1, &texts_type);
  al_ctx *c = lal_ctx(L);
  const char *text;
  size_t n;
  if (al_texts_next(c, t, &text, &n)) lua_pushlstring(L, text, n);
  else if (al_error(c) != AL_OK) return lal_raise(L);
  else lua_pushnil(L);
  return 1;
}

static int texts_taken(lua_State *L) {
  int64_t size;
  lua_pushinteger(L, al_texts_taken(lal_check(L, 1, &texts_type), &size));
  if (size >= 0) lua_pushinteger(L, size);
  else lua_pushnil(L);
  return 2;
}

static int texts_free(lua_State *L) { return box_free(L, &texts_type); }

/* core.glob(pattern): the paths that fit it, sorted by their bytes. */
static int by_bytes(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}
static void free_glob(void *p) {
  globfree(p);
  free(p);
}
static int core_glob(lua_State *L) {
  const char *pattern = luaL_checkstring(L, 1);
  lal_guard *g = lal_guard_new(L, free_glob);
  glob_t *found = g->p = calloc(1, sizeof *found);
  const int r = found ? glob(pattern, GLOB_NOSORT | GLOB_ERR, NULL, found) : GLOB_NOSPACE;
  if (r != 0 && r != GLOB_NOMATCH)
    return luaL_error(L, "glob: %s: %s", pattern,
                      r == GLOB_NOSPACE ? "out of memory" : "a folder cannot be read");
  const size_t n = r == 0 ? found->gl_pathc : 0;
  if (n) qsort(found->gl_pathv, n, sizeof *found->gl_pathv, by_bytes);
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushstring(L, found->gl_pathv[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lal_guard_free(g);
  return 1;
}

static const luaL_Reg shards_methods[] = {
    {"put", shards_put},   {"count", shards_count}, {"read", shards_read}, {"hash", shards_hash},
    {"rows", shards_rows}, {"free", shards_free},   {NULL, NULL}};
static const luaL_Reg rows_methods[] = {{"count", rows_count},
                                        {"shuffled", rows_shuffled},
                                        {"even", rows_even},
                                        {"free", rows_free},
                                        {NULL, NULL}};
static const luaL_Reg writer_methods[] = {{"put", writer_put},
                                          {"count", writer_count},
                                          {"commit", writer_commit},
                                          {"abort", writer_abort},
                                          {NULL, NULL}};
static const luaL_Reg texts_methods[] = {
    {"next", texts_next}, {"taken", texts_taken}, {"free", texts_free}, {NULL, NULL}};
static const luaL_Reg shards_functions[] = {{"open", shards_open},
                                            {"memory", shards_memory},
                                            {"create", shards_create},
                                            {"count", shards_count_id},
                                            {NULL, NULL}};
static const luaL_Reg functions[] = {{"texts", core_texts}, {"glob", core_glob}, {NULL, NULL}};

void lal_open_tokens(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  luaL_newlib(L, shards_functions);
  lua_setfield(L, -2, "shards");
  lal_class(L, &shards_type, shards_methods, NULL);
  lal_class(L, &rows_type, rows_methods, NULL);
  lal_class(L, &writer_type, writer_methods, NULL);
  lal_class(L, &texts_type, texts_methods, NULL);
}
