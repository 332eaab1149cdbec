/* lstate.c: running attention from Lua: forward, step, and the states between them. */
#include "lattn.h"
#include <stdlib.h>
#include <string.h>

static void release(void *p) { attn_state_free(p); }
static const lal_type state_type = {"attnlab.attention_state", release, 1};

/* An empty box for a state of the instance at argument 1, which it keeps alive. */
static lal_box *new_state(lua_State *L) {
  lal_box *b = lal_box_new(L, &state_type);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  return b;
}

/* ---- inputs ---- */

enum { Q, K, V, X, LENGTHS, DOCUMENTS, STATE, TAPS };
static const al_row rows[] = {
    {"q", 0, "(B,T,H,D)"},
    {"k", 0, "(B,S,Hkv,D)"},
    {"v", 0, "(B,S,Hkv,E)"},
    {"x", AL_IN_OPTIONAL, "(B,T,width)"},
    {"lengths", AL_IN_OPTIONAL, "(B) i32 or a table"},
    {"documents", AL_IN_OPTIONAL,
     "(B,T) i32 or a table: packed rows, of each token the place, from 0, "
     "at which its document begins; or attention.documents of it"},
    {"state", AL_IN_OPTIONAL, "of a:state, a:step or a:forward"},
    {"taps", AL_IN_OPTIONAL,
     "table by tap (a:taps): function(t), which may return what is to "
     "stand for t"},
    {0}};
static const al_arg args[] = {
    {"causal", AL_T_BOOL, "true", NULL, 0, 0, "a query sees no later key", NULL},
    {"offset", AL_T_INT, "0", NULL, 0, 0, "query row i stands at key position i + offset", NULL},
    {"training", AL_T_BOOL, "false", NULL, 0, 0, "dropout is active", NULL},
    {"detach", AL_T_BOOL, "false", NULL, 0, 0, "no gradient flows into the state given", NULL},
    {0}};

/* core.attn.inputs(): what forward and step take, as rows: tensors, then options. */
int lal_attn_inputs(lua_State *L) {
  lua_newtable(L);
  for (int i = 0; rows[i].name; i++) {
    lua_createtable(L, 0, 3);
    lua_pushstring(L, rows[i].name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, rows[i].doc);
    lua_setfield(L, -2, "doc");
    lua_pushboolean(L, rows[i].flags & AL_IN_OPTIONAL);
    lua_setfield(L, -2, "optional");
    lua_rawseti(L, -2, i + 1);
  }
  lal_push_args(L, args, NULL);
  return 2;
}

typedef struct call { /* of forward or step; the table is at index `at` */
  const char *fname;
  int at;
} call;

/* The tensor in field `name` of the table, or NULL when it is optional and absent. A table of
 * numbers becomes an i32 tensor; what is pushed stays on the stack. */
static al_tensor *field(lua_State *L, const call *f, const al_row *r) {
  lua_pushstring(L, r->name);
  const int type = lua_rawget(L, f->at);
  if (type == LUA_TNIL) {
    if (!(r->flags & AL_IN_OPTIONAL))
      lal_argerror(L, f->at, f->fname, "%s: tensor %s expected, got nil", r->name, r->doc);
    return NULL;
  }
  if (type == LUA_TTABLE && r == &rows[LENGTHS])
    return lal_tensor_from(L, -1, AL_I32, f->at == 2 ? "forward: lengths" : "step: lengths");
  al_tensor *t = lal_tensor_test(L, -1);
  if (!t)
    lal_argerror(L, f->at, f->fname, "%s: tensor %s expected, got %s", r->name, r->doc,
                 luaL_typename(L, -1));
  return t;
}

/* ---- packed rows ---- */

static void release_documents(void *p) { attn_documents_free(p); }
static const lal_type documents_type = {"attnlab.documents", release_documents, 0};

/* What stands at idx as documents: a box of them, or one made of starts, pushed. */
static attn_documents *documents_at(lua_State *L, int idx, int arg, const char *fname) {
  lal_box *b = lal_box_test(L, idx, &documents_type);
  if (b && b->p) return b->p;
  const bool table = lua_type(L, idx) == LUA_TTABLE;
  const al_tensor *t =
      table ? lal_tensor_from(L, idx, AL_I32, "documents") : lal_tensor_test(L, idx);
  if (!t)
    lal_argerror(L, arg, fname, "documents: tensor %s expected, got %s", rows[DOCUMENTS].doc,
                 b ? "freed ones" : luaL_typename(L, idx));
  b = lal_box_new(L, &documents_type);
  if (!(b->p = attn_documents_new(lal_ctx(L), t))) lal_raise(L);
  return b->p;
}

/* core.attn.documents(starts): those of packed rows, checked, laid out once for all layers. */
int lal_attn_documents(lua_State *L) {
  lua_settop(L, 1);
  if (!lal_box_test(L, 1, &documents_type)) documents_at(L, 1, 1, "documents");
  return 1;
}

/* d:positions(before), d:last(n): i32 on the current device, (B,T) and (B,n), as attn.h says. */
static int i32_of(lua_State *L, al_tensor *f(al_ctx *, const attn_documents *, int64_t)) {
  const attn_documents *d = lal_check(L, 1, &documents_type);
  const lua_Integer n = luaL_optinteger(L, 2, 0);
  luaL_argcheck(L, n > -INT32_MAX - 1LL && n <= INT32_MAX, 2, "an i32 expected");
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  LAL_RETRY(L, c, b->p = f(c, d, n));
  return b->p ? 1 : lal_raise(L);
}
static int documents_positions(lua_State *L) { return i32_of(L, attn_documents_positions); }
static int documents_last(lua_State *L) {
  luaL_argcheck(L, luaL_checkinteger(L, 2) >= 0, 2, "a number of places expected");
  return i32_of(L, attn_documents_last);
}

/* d:after(before): the most tokens that a state has seen behind them. */
static int documents_after(lua_State *L) {
  const attn_documents *d = lal_check(L, 1, &documents_type);
  lua_pushinteger(L, attn_documents_after(d, luaL_checkinteger(L, 2)));
  return 1;
}

/* d:sizes(): B, T. */
static int documents_sizes(lua_State *L) {
  int64_t B, T;
  attn_documents_sizes(lal_check(L, 1, &documents_type), &B, &T);
  lua_pushinteger(L, B);
  lua_pushinteger(L, T);
  return 2;
}

/* d:packed(): whether a row holds several. */
static int documents_packed(lua_State *L) {
  lua_pushboolean(L, attn_documents_packed(lal_check(L, 1, &documents_type)));
  return 1;
}

/* ---- taps ---- */

typedef struct lua_sink {
  attn_sink base;
  lua_State *L;
  int taps, error; /* places on the stack: the table of functions, what one of them raised */
  bool failed;
  const char *asked[ATTN_MAX_TAPS]; /* names of the family's, which stay */
  int n;
} lua_sink;

static bool sink_asks(const attn_sink *base, const char *name) {
  const lua_sink *s = (const lua_sink *)base;
  for (int i = 0; i < s->n; i++)
    if (strcmp(s->asked[i], name) == 0) return true;
  return false;
}

typedef struct handed {
  const char *name;
  al_tensor *t;
} handed;

/* (handed, table): what the function of that name returns for the tensor, nil or one that fits. */
static int hand_over(lua_State *L) {
  const handed *h = lua_touserdata(L, 1);
  lua_getfield(L, 2, h->name);
  lal_box *b = lal_box_new(L, LAL_TENSOR);
  b->p = al_retain(h->t);
  lua_call(L, 1, 1);
  if (lua_isnil(L, -1)) return 1;
  al_tensor *y = lal_tensor_test(L, -1);
  bool same = y && al_type(y) == al_type(h->t) && al_ndim(y) == al_ndim(h->t);
  for (int i = 0; same && i < al_ndim(y); i++) same = al_size(y, i) == al_size(h->t, i);
  if (same) return 1;
  return luaL_error(L, "tap '%s': %s of shape %s, or nil, expected from its function, got %s%s%s",
                    h->name, al_dtype_name(al_type(h->t)), al_shape_str(h->t, (char[96]){0}, 96),
                    y ? al_dtype_name(al_type(y)) : luaL_typename(L, -1), y ? " of " : "",
                    y ? al_shape_str(y, (char[96]){0}, 96) : "");
}

/* The core calls this from inside a scope, and again where memory ran out and the call is retried;
 * what Lua makes is Lua's. An error of Lua does not pass the core: it waits on the stack. */
static al_tensor *sink_take(const attn_sink *base, al_ctx *c, const char *name, al_tensor *t) {
  lua_sink *s = (lua_sink *)(uintptr_t)base;
  lua_State *L = s->L;
  if (!lua_checkstack(L, 8)) {
    al_fail(c, AL_ENOMEM, "out of memory (stack of Lua)");
    return NULL;
  }
  handed h = {name, t};
  const al_turn turn = al_turn_begin(c, ""); /* numbers may be looked at */
  const bool on = al_scope_mode(c, false);
  lua_pushcfunction(L, hand_over);
  lua_pushlightuserdata(L, &h);
  lua_pushvalue(L, s->taps);
  const int status = lua_pcall(L, 2, 1, 0);
  al_scope_mode(c, on);
  al_turn_end(c, &turn);
  if (status != LUA_OK) {
    lua_replace(L, s->error);
    s->failed = true;
    al_fail(c, AL_ESTATE, "tap '%s' failed", name);
    return NULL;
  }
  al_tensor *y = lal_tensor_test(L, -1);
  al_scope_begin(c);
  y = al_scope_end(c, y ? y : t); /* a reference of the open scope's */
  lua_pop(L, 1);
  return y;
}

/* The names in the table at s->taps, each one that the instance has. */
static void sink_open(lua_State *L, const call *f, const attn *a, lua_sink *s) {
  const char *names[ATTN_MAX_TAPS];
  int n = 0;
  const attn_tap_row *r;
  for (; (r = attn_tap_at(a, n)); n++) names[n] = r->name;
  for (lua_pushnil(L); lua_next(L, s->taps); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
    int i = 0;
    while (i < n && strcmp(names[i], name) != 0) i++;
    const char *near = i < n ? NULL : al_nearest(name, names, n);
    if (i == n)
      lal_argerror(L, f->at, f->fname, "taps: family %s has no tap '%s' with these options%s%s%s",
                   attn_family_of(a)->name, name, near ? " (did you mean '" : "", near ? near : "",
                   near ? "'?)" : "");
    if (lua_type(L, -1) != LUA_TFUNCTION)
      lal_argerror(L, f->at, f->fname, "taps: '%s': a function expected, got %s", name,
                   luaL_typename(L, -1));
    s->asked[s->n++] = names[i];
  }
}

/* Runs the instance at 1 on the table at f->at; st NULL: without a state. */
static int run(lua_State *L, const call *f, const attn_state *st) {
  attn_in in = {.size = sizeof in};
  in.q = field(L, f, &rows[Q]);
  in.k = field(L, f, &rows[K]);
  in.v = field(L, f, &rows[V]);
  in.x = field(L, f, &rows[X]);
  in.lengths = field(L, f, &rows[LENGTHS]);
  lua_sink sink = {.base = {sink_asks, sink_take}, .L = L};
  lua_pushstring(L, rows[DOCUMENTS].name);
  attn_documents *d =
      lua_rawget(L, f->at) == LUA_TNIL ? NULL : documents_at(L, lua_gettop(L), f->at, f->fname);
  lua_pushstring(L, rows[TAPS].name);
  const int taps = lua_rawget(L, f->at);
  sink.taps = lua_gettop(L);
  if (taps != LUA_TNIL && taps != LUA_TTABLE)
    return lal_argerror(L, f->at, f->fname, "taps: a table by name expected, got %s",
                        luaL_typename(L, -1));
  lua_pushnil(L);
  sink.error = lua_gettop(L);
  al_ctx *c = lal_ctx(L);
  lal_box *y = lal_box_new(L, LAL_TENSOR), *next = st ? new_state(L) : NULL;
  al_opts *o = al_opts_new(c, args, f->fname);
  bool detach = false;
  if (o && lal_opts_set(L, f->at, c, o, f->fname, rows) == AL_OK) {
    in.causal = al_opt_bool(o, "causal");
    in.offset = al_opt_int(o, "offset");
    in.training = al_opt_bool(o, "training");
    detach = al_opt_bool(o, "detach");
  }
  al_opts_release(o);
  if (al_error(c) != AL_OK) {
    const lal_where w = {.fname = f->fname, .opts_arg = f->at};
    return lal_raise_in(L, &w);
  }
  attn *a = st ? lal_attn_check(L) : lal_attn_fit(L, &in);
  if (taps == LUA_TTABLE) sink_open(L, f, a, &sink);
  if (sink.n) in.sink = &sink.base;
  const int64_t before = al_memory(c).live;
  if (st) {
    attn_state *made = NULL;
    LAL_RETRY(L, c,
              y->p = d ? attn_continue_packed(c, a, &in, d, st, detach, &made)
                       : attn_continue(c, a, &in, st, detach, &made));
    next->p = made;
  } else {
    LAL_RETRY(L, c, y->p = d ? attn_forward_packed(c, a, &in, d) : attn_forward(c, a, &in));
  }
  if (!y->p && sink.failed) {
    al_error_clear(c);
    lua_settop(L, sink.error);
    return lua_error(L);
  }
  if (!y->p) return lal_raise(L);
  if (!st) lal_attn_keep(L);
  lal_account(L, before);
  return st ? 2 : 1;
}

/* a:forward{q=, k=, v=, x=, lengths=, causal=true, state=}: what attention gives, (B,T,H,D);
 * from a state also the next one. */
int lal_attn_forward(lua_State *L) {
  luaL_checktype(L, 2, LUA_TTABLE);
  if (lua_gettop(L) > 2) return lal_argerror(L, 3, "forward", "one table of inputs expected");
  lua_settop(L, 2);
  const call f = {"forward", 2};
  lua_pushstring(L, rows[STATE].name);
  if (lua_rawget(L, 2) == LUA_TNIL) return run(L, &f, NULL);
  const lal_box *b = lal_box_test(L, 3, &state_type);
  if (!b || !b->p)
    return lal_argerror(L, 2, f.fname, "state: a state %s expected, got %s", rows[STATE].doc,
                        b ? "a freed one" : luaL_typename(L, 3));
  return run(L, &f, b->p);
}

/* a:step(st, {q=, k=, v=, x=}): what attention gives of these tokens behind st, and the next
 * state. */
int lal_attn_step(lua_State *L) {
  const attn_state *st = lal_check(L, 2, &state_type);
  luaL_checktype(L, 3, LUA_TTABLE);
  if (lua_gettop(L) > 3) return lal_argerror(L, 4, "step", "one table of inputs expected");
  return run(L, &(call){"step", 3}, st);
}

/* ---- states ---- */

/* a:state{batch=1, device=}: the state of sequences of which nothing has been seen. */
int lal_attn_state(lua_State *L) {
  static const al_arg state_args[] = {
      {"batch", AL_T_INT, "1", NULL, 1, 1e9, "sequences", NULL},
      {"replay", AL_T_BOOL, "false", NULL, 0, 0, "keeps all inputs, so that taps can be asked for",
       NULL},
      {"device", AL_T_TEXT, "", NULL, 0, 0, "where it lies (the current device)", NULL},
      {0}};
  attn *a = lal_attn_check(L);
  al_ctx *c = lal_ctx(L);
  lua_settop(L, 2);
  lal_box *b = new_state(L);
  al_opts *o = lal_opts_from(L, 2, c, state_args, "state");
  if (!o) return lal_raise_in(L, &(lal_where){.fname = "state", .opts_arg = 2});
  const int64_t batch = al_opt_int(o, "batch");
  const bool replay = al_opt_bool(o, "replay");
  const char *here = al_on(c, al_opts_given(o, "device") ? al_opt_word(o, "device") : NULL);
  al_opts_release(o);
  if (!here) return lal_raise(L);
  const int64_t before = al_memory(c).live;
  LAL_RETRY(L, c, b->p = (replay ? attn_state_replayed : attn_state_new)(c, a, batch));
  if (b->p) lal_account(L, before);
  al_on(c, here);
  return b->p ? 1 : lal_raise(L);
}

/* a:restore(position, {[name] = tensor}): the state with these components. */
int lal_attn_restore(lua_State *L) {
  enum { MOST = 32 };
  attn *a = lal_attn_check(L);
  const lua_Integer position = luaL_checkinteger(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  const char *names[MOST];
  al_tensor *t[MOST];
  int n = 0;
  for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
    al_tensor *x = lal_tensor_test(L, -1);
    if (lua_type(L, -2) != LUA_TSTRING || !x)
      return lal_argerror(L, 3, "restore", "tensors by name expected, got %s = %s",
                          luaL_typename(L, -2), luaL_typename(L, -1));
    if (n == MOST) return lal_argerror(L, 3, "restore", "at most %d components", MOST);
    names[n] = lua_tostring(L, -2);
    t[n++] = x;
  }
  al_ctx *c = lal_ctx(L);
  lal_box *b = new_state(L);
  b->p = attn_state_restore(c, a, position, n, names, t);
  return b->p ? 1 : lal_raise(L);
}

static attn_state *check(lua_State *L) { return lal_check(L, 1, &state_type); }

/* st:bytes(): how many it holds. */
static int state_bytes(lua_State *L) {
  lua_pushinteger(L, attn_state_held(check(L)));
  return 1;
}
/* st:position(): tokens seen. */
static int state_position(lua_State *L) {
  lua_pushinteger(L, attn_state_position(check(L)));
  return 1;
}
/* st:seen(): the number of tokens that each row has seen, nil where they differ; st:count(): (B) i32. */
static int state_seen(lua_State *L) {
  int64_t seen;
  if (attn_state_even(check(L), &seen)) lua_pushinteger(L, seen);
  else lua_pushnil(L);
  return 1;
}
static int state_count(lua_State *L) {
  al_tensor *t = attn_state_get(check(L), "count");
  lal_box_new(L, LAL_TENSOR)->p = al_retain(t);
  return 1;
}
/* st:batch(): number of sequences. */
static int state_batch(lua_State *L) {
  lua_pushinteger(L, attn_state_batch(check(L)));
  return 1;
}

/* The instance that made it, and whether that still has the options it had then. */
static int state_attention(lua_State *L) {
  const attn_state *st = check(L);
  lua_settop(L, 1);
  lua_getiuservalue(L, 1, 1);
  lua_replace(L, 1);
  lua_pushboolean(L, attn_state_fits(lal_attn_check(L), st));
  return 2;
}

/* st:copy(): the state again; what goes on from either leaves the other. */
static int state_copy(lua_State *L) {
  const attn_state *st = check(L);
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, &state_type);
  lua_getiuservalue(L, 1, 1);
  lua_setiuservalue(L, -2, 1);
  const int64_t before = al_memory(c).live;
  LAL_RETRY(L, c, b->p = attn_state_copy(c, st));
  if (!b->p) return lal_raise(L);
  lal_account(L, before);
  return 1;
}

/* Array of {name=, doc=, tensor=, bytes=}, in the order of the family. */
static int state_components(lua_State *L) {
  const attn_state *st = check(L);
  lua_createtable(L, attn_state_count(st), 0);
  for (int i = 0; i < attn_state_count(st); i++) {
    const char *name, *doc;
    al_tensor *t = attn_state_at(st, i, &name, &doc);
    lua_createtable(L, 0, 4);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, doc);
    lua_setfield(L, -2, "doc");
    lua_pushinteger(L, al_growing_bytes(t));
    lua_setfield(L, -2, "bytes");
    lal_tensor_set(L, "tensor", t);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* st:free(): gives its memory back now. */
static int state_free(lua_State *L) {
  lal_box *b = lal_box_test(L, 1, &state_type);
  if (b) lal_box_free(L, b);
  return 0;
}

const char *lal_open_state(lua_State *L) {
  static const luaL_Reg methods[] = {{"bytes", state_bytes},
                                     {"position", state_position},
                                     {"batch", state_batch},
                                     {"seen", state_seen},
                                     {"count", state_count},
                                     {"copy", state_copy},
                                     {"components", state_components},
                                     {"attention", state_attention},
                                     {"free", state_free},
                                     {NULL, NULL}};
  lal_class(L, &state_type, methods, NULL);
  static const luaL_Reg of_documents[] = {
      {"positions", documents_positions}, {"last", documents_last},     {"after", documents_after},
      {"sizes", documents_sizes},         {"packed", documents_packed}, {NULL, NULL}};
  lal_class(L, &documents_type, of_documents, NULL);
  return state_type.name;
}
