/* ldata.c: safetensors files, windows of tokens, vocabularies, llama2.c models. */
#include "lua_attnlab.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* ---- safetensors ---- */

typedef al_tensor *(*getter)(al_ctx *c, const void *file, const char *name);

/* Sets field `name` of the table on top to that tensor of the file. */
static void load(lua_State *L, al_ctx *c, getter get, const void *file, const char *name) {
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  const int64_t before = al_memory(c).live;
  LAL_RETRY(L, c, b->p = get(c, file, name));
  if (!b->p) lal_raise(L);
  lal_account(L, before);
  lua_setfield(L, -2, name);
}

static al_tensor *get_st(al_ctx *c, const void *file, const char *name) {
  return al_st_tensor(c, file, name);
}
static al_tensor *get_llama2c(al_ctx *c, const void *file, const char *name) {
  return al_llama2c_tensor(c, file, name);
}
static void close_st(void *p) { al_st_close(p); }
static void close_llama2c(void *p) { al_llama2c_close(p); }

/* Tensor i, which cannot be loaded, as a field of the table on top: { type = as the file names it,
 * shape = {..}, why = what al_st_tensor says of it }. */
static void set_listed(lua_State *L, al_ctx *c, const al_st *s, int i) {
  const char *name = al_st_name(s, i);
  lua_createtable(L, 0, 3);
  lua_pushstring(L, al_st_type(s, i));
  lua_setfield(L, -2, "type");
  lua_newtable(L);
  for (int a = 0; a < al_st_ndim(s, i); a++) {
    lua_pushinteger(L, al_st_size(s, i, a));
    lua_rawseti(L, -2, a + 1);
  }
  lua_setfield(L, -2, "shape");
  al_st_tensor(c, s, name);
  lua_pushstring(L, al_error_message(c, NULL, NULL));
  al_error_clear(c);
  lua_setfield(L, -2, "why");
  lua_setfield(L, -2, name);
}

/* __index of the tensors: a name that is only listed is an error that says why. */
static int st_missing(lua_State *L) {
  lua_settop(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  if (lua_isnil(L, -1)) return 1;
  lua_getfield(L, -1, "why");
  return luaL_error(L, "%s", lua_tostring(L, -1));
}

/* core.safetensors.open(path) -> {[name] = tensor}, {[key] = value}, {[name] = {type =, shape =}}
 * of the tensors that cannot be loaded: asking the first table for one of them is an error. A
 * tensor that the file has under several names is one tensor under each of them. */
static int st_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  al_ctx *c = lal_ctx(L);
  lal_guard *g = lal_guard_new(L, close_st);
  const al_st *s = g->p = al_st_open(c, path);
  if (!s) return lal_raise(L);
  const int n = al_st_count(s), n_meta = al_st_meta_count(s);
  lua_createtable(L, 0, n);
  for (int i = 0; i < n; i++)
    if (al_st_loads(s, i)) load(L, c, get_st, s, al_st_name(s, i));
  lua_createtable(L, 0, n_meta);
  for (int i = 0; i < n_meta; i++) {
    const char *value, *key = al_st_meta(s, i, &value), *name = al_st_alias(s, i);
    if (name) {
      lua_getfield(L, -2, name);
      lua_setfield(L, -3, key);
    }
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
  }
  lua_newtable(L);
  for (int i = 0; i < n; i++)
    if (!al_st_loads(s, i)) set_listed(L, c, s, i);
  lua_createtable(L, 0, 1);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, st_missing, 1);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -4); /* of the tensors */
  lal_guard_free(g);
  return 3;
}

/* core.safetensors.metadata(path) -> {[key] = value}: of the header alone, no tensor is read */
static int st_metadata(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  lal_guard *g = lal_guard_new(L, close_st);
  const al_st *s = g->p = al_st_open(lal_ctx(L), path);
  if (!s) return lal_raise(L);
  lua_createtable(L, 0, al_st_meta_count(s));
  for (int i = 0; i < al_st_meta_count(s); i++) {
    const char *value, *key = al_st_meta(s, i, &value);
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
  }
  lal_guard_free(g);
  return 1;
}

typedef struct entry {
  const char *name;
  const void *value; /* al_tensor * or const char * */
} entry;

static int by_size_then_name(const void *a, const void *b) {
  const entry *x = a, *y = b;
  const int64_t dx = al_dtype_size(al_type(x->value)), dy = al_dtype_size(al_type(y->value));
  return dx != dy ? (dx < dy ? 1 : -1) : strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static lua_Integer count(lua_State *L, int idx) {
  lua_Integer n = 0;
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) n++;
  return n;
}

/* The table at arg as a sorted array of entries in a buffer that it pushes; text: values are
 * strings. */
static entry *entries(lua_State *L, int arg, bool text, size_t *n_out) {
  const size_t n = (size_t)count(L, arg);
  entry *e = lua_newuserdatauv(L, (n + 1) * sizeof *e, 0);
  size_t i = 0;
  for (lua_pushnil(L); lua_next(L, arg) && i < n; lua_pop(L, 1), i++) {
    if (lua_type(L, -2) != LUA_TSTRING)
      lal_argerror(L, arg, "save", "names expected as keys, got a %s", luaL_typename(L, -2));
    e[i].name = lua_tostring(L, -2);
    e[i].value = text ? (lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL)
                      : (const void *)lal_tensor_test(L, -1);
    if (!e[i].value)
      lal_argerror(L, arg, "save", "'%s': %s expected, got %s", e[i].name,
                   text ? "string" : "tensor", luaL_typename(L, -1));
  }
  qsort(e, n, sizeof *e, text ? by_name : by_size_then_name);
  *n_out = n;
  return e;
}

/* core.safetensors.save(path, {[name] = tensor}, {[key] = value}); a tensor under several names is
 * written once. */
static int st_save(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  if (lua_isnoneornil(L, 3)) {
    lua_settop(L, 2);
    lua_newtable(L);
  }
  luaL_checktype(L, 3, LUA_TTABLE);
  size_t n, n_meta;
  const entry *e = entries(L, 2, false, &n), *m = entries(L, 3, true, &n_meta);
  const char **text = lua_newuserdatauv(L, (n + 2 * n_meta + 1) * sizeof *text, 0);
  al_tensor **tensors = lua_newuserdatauv(L, (n + 1) * sizeof *tensors, 0);
  for (size_t i = 0; i < n; i++)
    text[i] = e[i].name, tensors[i] = (al_tensor *)(uintptr_t)e[i].value;
  for (size_t i = 0; i < n_meta; i++) text[n + i] = m[i].name, text[n + n_meta + i] = m[i].value;
  if (al_st_save(lal_ctx(L), path, (int)n, text, tensors, (int)n_meta, text + n,
                 text + n + n_meta) != AL_OK)
    return lal_raise(L);
  return 0;
}

/* ---- windows of tokens ---- */

#define WINDOW                                                                                     \
  {"lo", AL_T_INT, "0", NULL, 0, 9e15, "first token position, from 0", NULL},                      \
      {"hi", AL_T_INT, "", NULL, 0, 9e15, "position after the last token; absent: all", NULL},     \
      {"batch", AL_T_INT, "", NULL, 1, 1e9, "windows", NULL}, {                                    \
    "context", AL_T_INT, "", NULL, 1, 1e9, "tokens a window", NULL                                 \
  }
static const al_arg random_args[] = {
    WINDOW,
    {"seed", AL_T_INT, "", NULL, 0, 0, "of the draw", NULL},
    {"index", AL_T_INT, "", NULL, 0, 9e15, "number of the batch", NULL},
    {0}};
static const al_arg even_args[] = {
    WINDOW,
    {"first", AL_T_INT, "0", NULL, 0, 9e15, "first window, from 0", NULL},
    {"total", AL_T_INT, "", NULL, 1, 9e15, "windows spread over the range", NULL},
    {0}};

static int windows(lua_State *L, bool even) {
  const lal_where w = {.fname = even ? "windows_even" : "windows_random", .opts_arg = 2};
  const al_tensor *tokens = lal_tensor_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  al_ctx *c = lal_ctx(L);
  lal_box *bx = lal_box_new(L, LAL_TENSOR), *by = lal_box_new(L, LAL_TENSOR);
  al_opts *o = lal_opts_from(L, 2, c, even ? even_args : random_args, w.fname);
  if (!o) return lal_raise_in(L, &w);
  lal_opts_need(L, &w, o, even ? "batch context total" : "batch context seed index");
  const int64_t lo = al_opt_int(o, "lo"),
                hi = al_opts_given(o, "hi") ? al_opt_int(o, "hi") : al_numel(tokens);
  const int64_t B = al_opt_int(o, "batch"), T = al_opt_int(o, "context");
  al_tensor *x = NULL, *y = NULL;
  if (even)
    LAL_RETRY(L, c,
              al_windows_even(c, tokens, lo, hi, B, T, al_opt_int(o, "first"),
                              al_opt_int(o, "total"), &x, &y))
  else
    LAL_RETRY(L, c,
              al_windows_random(c, tokens, lo, hi, B, T, (uint64_t)al_opt_int(o, "seed"),
                                (uint64_t)al_opt_int(o, "index"), &x, &y))
  al_opts_release(o);
  if (al_error(c) != AL_OK) return lal_raise(L);
  bx->p = x;
  by->p = y;
  return 2;
}

static int core_windows_random(lua_State *L) { return windows(L, false); }
static int core_windows_even(lua_State *L) { return windows(L, true); }

/* ---- vocabularies ---- */

static void release_vocab(void *p) { al_vocab_free(p); }
static const lal_type vocab_type = {"attnlab.vocab", release_vocab, 0};

static al_vocab *check_vocab(lua_State *L) { return lal_check(L, 1, &vocab_type); }

/* The files {{name, bytes}, ..} at arg, in a buffer that it pushes; borrowed from the table. */
static al_source *check_files(lua_State *L, int arg, const char *fname, int *n_out) {
  luaL_checktype(L, arg, LUA_TTABLE);
  const size_t n = lua_rawlen(L, arg);
  al_source *files = lua_newuserdatauv(L, (n + 1) * sizeof *files, 0);
  for (size_t i = 0; i < n; i++) {
    if (lua_rawgeti(L, arg, (lua_Integer)i + 1) != LUA_TTABLE ||
        lua_rawgeti(L, -1, 1) != LUA_TSTRING || lua_rawgeti(L, -2, 2) != LUA_TSTRING)
      lal_argerror(L, arg, fname, "{{name, bytes}, ..} expected");
    files[i].name = lua_tostring(L, -2);
    files[i].data = lua_tolstring(L, -1, &files[i].n);
    lua_pop(L, 3);
  }
  *n_out = (int)n;
  return files;
}

/* core.vocab.new(kind, {{name, bytes}, ..}): the tokenizer that these files are. */
static int vocab_new(lua_State *L) {
  const char *kind = luaL_checkstring(L, 1);
  int n;
  const al_source *files = check_files(L, 2, "new", &n);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, &vocab_type);
  LAL_RETRY(L, c, b->p = al_vocab_new(c, kind, files, n));
  return b->p ? 1 : lal_raise(L);
}

/* core.vocab.train(args, {{name, text}, ..}, ends): bytes of a SentencePiece model. The library asks
 * nobody whether to go on; ends: a signal ends the process meanwhile, and nothing was written. */
static int vocab_train(lua_State *L) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
  enum { N = sizeof signals / sizeof *signals };
  struct sigaction before[N];
  const char *args = luaL_checkstring(L, 1);
  int n;
  const al_source *texts = check_files(L, 2, "train", &n);
  lal_guard *g = lal_guard_new(L, free);
  char *model = NULL;
  size_t n_model;
  const bool ends = lua_toboolean(L, 3);
  for (int i = 0; i < N && ends; i++) {
    sigaction(signals[i], NULL, &before[i]);
    if (before[i].sa_handler != SIG_IGN) signal(signals[i], SIG_DFL);
  }
  const al_status st = al_vocab_train(lal_ctx(L), args, texts, n, &model, &n_model);
  for (int i = 0; i < N && ends; i++) sigaction(signals[i], &before[i], NULL);
  g->p = model;
  if (st != AL_OK) return lal_raise(L);
  lua_pushlstring(L, model, n_model);
  lal_guard_free(g);
  return 1;
}

/* v:size(): number of ids. */
static int vocab_size(lua_State *L) {
  lua_pushinteger(L, al_vocab_size(check_vocab(L)));
  return 1;
}

/* v:piece(id): the bytes it stands for, nil where there is no such id. */
static int vocab_piece(lua_State *L) {
  size_t n;
  const char *s = al_vocab_piece(check_vocab(L), luaL_checkinteger(L, 2), &n);
  if (s) lua_pushlstring(L, s, n);
  else lua_pushnil(L);
  return 1;
}

/* v:id(piece): its id, nil where there is none. */
static int vocab_id(lua_State *L) {
  const al_vocab *v = check_vocab(L);
  size_t n;
  const char *s = luaL_checklstring(L, 2, &n);
  const int64_t id = al_vocab_id(v, s, n);
  if (id >= 0) lua_pushinteger(L, id);
  else lua_pushnil(L);
  return 1;
}

/* v:known(role): the id of "bos", "eos", "unk" or "pad", nil where it has none. */
static int vocab_known(lua_State *L) {
  const al_vocab *v = check_vocab(L);
  const int64_t id = al_vocab_known(v, luaL_checkstring(L, 2));
  if (id >= 0) lua_pushinteger(L, id);
  else lua_pushnil(L);
  return 1;
}

/* v:special(): {[name] = id}. */
static int vocab_special(lua_State *L) {
  const al_vocab *v = check_vocab(L);
  lua_newtable(L);
  int64_t id;
  size_t n;
  const char *name;
  for (int64_t i = 0; (name = al_vocab_special(v, i, &id, &n)); i++) {
    lua_pushlstring(L, name, n);
    lua_pushinteger(L, id);
    lua_rawset(L, -3);
  }
  return 1;
}

/* v:encode(text, special, plain): ids, an i32 tensor. */
static int vocab_encode(lua_State *L) {
  const al_vocab *v = check_vocab(L);
  size_t n;
  const char *text = luaL_checklstring(L, 2, &n);
  const int flags =
      (lua_toboolean(L, 3) ? AL_ENCODE_SPECIAL : 0) | (lua_toboolean(L, 4) ? AL_ENCODE_PLAIN : 0);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  LAL_RETRY(L, c, b->p = al_vocab_encode(c, v, text, n, flags));
  return b->p ? 1 : lal_raise(L);
}

/* v:decode(ids, special): ids a tensor of any shape or an array. */
static int vocab_decode(lua_State *L) {
  const al_vocab *v = check_vocab(L);
  const int flags = lua_toboolean(L, 3) ? AL_ENCODE_SPECIAL : 0;
  lua_settop(L, 2);
  const al_tensor *t =
      lua_istable(L, 2) ? lal_tensor_from(L, 2, AL_I32, "decode") : lal_tensor_check(L, 2);
  if (al_type(t) != AL_I32)
    return lal_argerror(L, 2, "decode", "ids: i32 needed, got %s", al_dtype_name(al_type(t)));
  const int64_t n = al_numel(t);
  double *x = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *x, 0);
  int32_t *ids = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *ids, 0);
  if (al_read(t, x, n) != AL_OK) return lal_raise(L);
  for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)x[i];
  size_t len = 0;
  lal_guard *g = lal_guard_new(L, free);
  g->p = al_vocab_decode(lal_ctx(L), v, ids, n, flags, &len);
  if (!g->p) return lal_raise(L);
  lua_pushlstring(L, g->p, len);
  lal_guard_free(g);
  return 1;
}

/* ---- llama2.c ---- */

static void set_int(lua_State *L, const char *key, int64_t v) {
  lua_pushinteger(L, v);
  lua_setfield(L, -2, key);
}

/* core.llama2c(path) -> sizes, {[name] = tensor} */
static int core_llama2c(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  al_ctx *c = lal_ctx(L);
  lal_guard *g = lal_guard_new(L, close_llama2c);
  const al_llama2c *m = g->p = al_llama2c_open(c, path);
  if (!m) return lal_raise(L);
  const al_llama2c_config *s = al_llama2c_sizes(m);
  lua_createtable(L, 0, 8);
  set_int(L, "dim", s->dim);
  set_int(L, "hidden_dim", s->hidden_dim);
  set_int(L, "n_layers", s->n_layers);
  set_int(L, "n_heads", s->n_heads);
  set_int(L, "n_kv_heads", s->n_kv_heads);
  set_int(L, "vocab_size", s->vocab_size);
  set_int(L, "max_seq_len", s->max_seq_len);
  lua_pushboolean(L, s->tied);
  lua_setfield(L, -2, "tied");
  lua_newtable(L);
  const char *name;
  for (int i = 0; (name = al_llama2c_name(m, i)); i++) load(L, c, get_llama2c, m, name);
  lal_guard_free(g);
  return 2;
}

static const luaL_Reg vocab_methods[] = {{"size", vocab_size},       {"piece", vocab_piece},
                                         {"id", vocab_id},           {"known", vocab_known},
                                         {"special", vocab_special}, {"encode", vocab_encode},
                                         {"decode", vocab_decode},   {NULL, NULL}};
static const luaL_Reg st_functions[] = {
    {"open", st_open}, {"save", st_save}, {"metadata", st_metadata}, {NULL, NULL}};
static const luaL_Reg vocab_functions[] = {
    {"new", vocab_new}, {"train", vocab_train}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"windows_random", core_windows_random},
                                     {"windows_even", core_windows_even},
                                     {"llama2c", core_llama2c},
                                     {NULL, NULL}};

void lal_open_data(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  luaL_newlib(L, st_functions);
  lua_setfield(L, -2, "safetensors");
  luaL_newlib(L, vocab_functions);
  lua_setfield(L, -2, "vocab");
  lal_class(L, &vocab_type, vocab_methods, NULL);
}
