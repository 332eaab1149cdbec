/* lattn.c: attention in Lua: core.attn.list, describe, options, inputs, new, and the instances.
 * Names of families and presets, options and parameters come from the registry. */
#include "lattn.h"
#include <stdlib.h>
#include <string.h>

typedef struct item { /* what a box holds */
  attn *a;
  const attn_preset *preset; /* NULL: made from a family */
  bool open;                 /* the sizes come with the first q */
  attn_sizes given;          /* open: those that are known, 0 for the others */
} item;

static void release(void *p) {
  attn_free(((item *)p)->a);
  free(p);
}
static const lal_type attention_type = {"attnlab.attention", release, 0};

static item *check(lua_State *L) { return lal_check(L, 1, &attention_type); }
static item *check_sized(lua_State *L) {
  item *x = check(L);
  if (x->open)
    luaL_error(L, "attention: the sizes are not known yet: they come with the first q of forward, "
                  "or give heads and head_dim to new");
  return x;
}
attn *lal_attn_check(lua_State *L) { return check_sized(L)->a; }

/* Size `axis` of t, which is shaped (B,T,heads,channels). */
static int64_t size_of(lua_State *L, const char *name, const al_tensor *t, int axis) {
  if (al_ndim(t) != 4)
    lal_argerror(L, 2, "forward", "%s: shape (B,T,heads,channels) needed, got %s", name,
                 al_shape_str(t, (char[96]){0}, 96));
  return al_size(t, axis);
}

attn *lal_attn_fit(lua_State *L, const attn_in *in) {
  item *x = check(L);
  if (!x->open) return x->a;
  attn_sizes s = x->given;
  if (!s.heads) s.heads = size_of(L, "q", in->q, 2);
  if (!s.kv_heads) s.kv_heads = size_of(L, "k", in->k, 2);
  if (!s.head_dim) s.head_dim = size_of(L, "q", in->q, 3);
  if (!s.value_dim) s.value_dim = size_of(L, "v", in->v, 3);
  if (attn_resize(lal_ctx(L), x->a, &s) != AL_OK) lal_raise(L);
  return x->a;
}
void lal_attn_keep(lua_State *L) { check(L)->open = false; }

/* ---- the registry ---- */

static void set_text(lua_State *L, const char *key, const char *text) {
  lua_pushstring(L, text ? text : "");
  lua_setfield(L, -2, key);
}

/* core.attn.list(): every preset, as lab.attention.list(). */
static int attn_list(lua_State *L) {
  const int n = attn_preset_count();
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    const attn_family *f;
    const attn_preset *p = attn_preset_at(i, &f);
    lua_createtable(L, 0, 6);
    set_text(L, "name", p->name);
    set_text(L, "family", f->name);
    set_text(L, "options", p->options);
    set_text(L, "layer", p->layer);
    set_text(L, "source", p->source);
    set_text(L, "note", p->note);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* core.attn.families(): array of { name=, doc=, plugin= }. */
static int attn_families(lua_State *L) {
  const int n = attn_family_count();
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    const attn_family *f = attn_family_at(i);
    const char *path, *hash;
    lua_createtable(L, 0, 4);
    set_text(L, "name", f->name);
    set_text(L, "doc", f->doc);
    if (attn_plugin_of(f, &path, &hash)) {
      set_text(L, "plugin", path);
      set_text(L, "hash", hash);
    }
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* core.attn.load(path, reserved): the name of the family that the plug-in brings, none of whose
 * options may be called as the words in the table are. */
static int attn_load(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *words[128];
  int n = 0;
  luaL_checktype(L, 2, LUA_TTABLE);
  const lua_Integer have = luaL_len(L, 2);
  luaL_argcheck(L, have < 128, 2, "at most 127 words expected");
  luaL_checkstack(L, (int)have, "reserved words");
  while (n < have) { /* they stay on the stack */
    lua_rawgeti(L, 2, n + 1);
    words[n++] = luaL_checkstring(L, -1);
  }
  words[n] = NULL;
  const attn_family *f = attn_plugin_load(lal_ctx(L), path, words);
  if (!f) return lal_raise(L);
  lua_pushstring(L, f->name);
  return 1;
}

/* core.attn.describe(name): of a preset or family, as lab.attention.describe. */
static int attn_describe_name(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  lal_guard *g = lal_guard_new(L, free);
  g->p = attn_describe(lal_ctx(L), name);
  if (!g->p) return lal_raise(L);
  lua_pushstring(L, g->p);
  lal_guard_free(g);
  return 1;
}

/* Rows as for ops; value = what the preset has. */
static int attn_options(lua_State *L) {
  const char *name = luaL_optstring(L, 1, "");
  al_ctx *c = lal_ctx(L);
  const attn_family *f;
  const attn_preset *p;
  al_opts *o = NULL;
  lal_guard *g = lal_guard_new(L, (void (*)(void *))al_opts_release);
  if (attn_find(c, name, &f, &p, &o) != AL_OK) return lal_raise(L);
  g->p = o;
  lal_push_args(L, f->options, o);
  lal_guard_free(g);
  return 1;
}

/* ---- instances ---- */

static const al_arg new_args[] = {
    {"heads", AL_T_INT, "", NULL, 1, 65536,
     "query heads; absent, where no parameter needs it: as the first q", NULL},
    {"kv_heads", AL_T_INT, "", NULL, 1, 65536, "key and value heads; absent: heads", NULL},
    {"head_dim", AL_T_INT, "", NULL, 1, 65536,
     "channels of a query and key head; absent, where no parameter needs it: as the first q", NULL},
    {"value_dim", AL_T_INT, "", NULL, 1, 65536, "channels of a value head; absent: head_dim", NULL},
    {"width", AL_T_INT, "0", NULL, 0, 1e9, "channels of x, where a part reads it", NULL},
    {"dtype", AL_T_WORD, "f32", "f64 f32 bf16", 0, 0, "of the parameters", NULL},
    {"seed", AL_T_INT, "", NULL, 0, 0, "of the parameters; absent: the next of core.seed's", NULL},
    {"tag", AL_T_TEXT, "attention", NULL, 0, 0,
     "prefix of the names of the parameters' random streams", NULL},
    {"bare", AL_T_BOOL, "false", NULL, 0, 0, "no parameters: to be asked, not to run", NULL},
    {0}};

static int64_t size_or(const al_opts *o, const char *key, int64_t otherwise) {
  return al_opts_given(o, key) ? al_opt_int(o, key) : otherwise;
}

/* Sizes are open only where no parameter needs them. */
static al_status check_open(al_ctx *c, const item *x, const attn_family *f, const al_opts *o) {
  char name[48];
  if (!x->open || !attn_needs_sizes(f, o, &x->given, name)) return AL_OK;
  return al_fail(c, AL_EVALUE,
                 "%s: heads and head_dim are needed, because the parameter '%s' depends on them",
                 f->name, name);
}

/* core.attn.new(name, options, {heads=, head_dim=, ...}) */
static int attn_new_instance(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  const lal_where w = {.fname = "new", .opts_arg = 3};
  al_ctx *c = lal_ctx(L);
  lal_box *b = lal_box_new(L, &attention_type);
  item *x = calloc(1, sizeof *x);
  if (!x) return luaL_error(L, "new: out of memory");
  b->p = x;
  al_opts *z = lal_opts_from(L, 3, c, new_args, w.fname);
  if (!z) return lal_raise_in(L, &w);
  x->given = (attn_sizes){.heads = size_or(z, "heads", 0),
                          .head_dim = size_or(z, "head_dim", 0),
                          .width = al_opt_int(z, "width")};
  x->given.kv_heads = size_or(z, "kv_heads", x->given.heads);
  x->given.value_dim = size_or(z, "value_dim", x->given.head_dim);
  x->open = !x->given.heads || !x->given.head_dim;
  const attn_sizes s = attn_sizes_filled(&x->given, 1);
  const uint64_t seed = al_opts_given(z, "seed") ? (uint64_t)al_opt_int(z, "seed") : al_draw_key(c);
  al_dtype dtype = AL_F32;
  al_dtype_parse(c, al_opt_word(z, "dtype"), &dtype);
  const char *tag = al_opt_bool(z, "bare") ? NULL : al_opt_word(z, "tag");

  const int64_t before = al_memory(c).live;
  const attn_family *f = NULL;
  for (int attempt = 0; attempt < 2; attempt++) {
    al_opts *o = NULL;
    if (attn_find(c, name, &f, &x->preset, &o) == AL_OK) {
      if (lua_istable(L, 2)) lal_opts_set(L, 2, c, o, f->name, NULL);
      if (al_error(c) == AL_OK) check_open(c, x, f, o);
      if (al_error(c) == AL_OK) x->a = attn_new(c, f, o, &s, dtype, seed, tag);
    }
    al_opts_release(o);
    if (al_error(c) != AL_ENOMEM || attempt == 1) break;
    lal_reclaim(L);
  }
  al_opts_release(z);
  if (!x->a) {
    const lal_where options = {.fname = f ? f->name : name, .opts_arg = 2};
    return lal_raise_in(L, &options);
  }
  lal_account(L, before);
  return 1;
}

/* a:parameters(): its learned tensors by name. */
static int attention_parameters(lua_State *L) {
  item *x = check(L);
  const char *name;
  al_tensor *t;
  lua_newtable(L);
  for (int i = 0; (t = attn_param_at(x->a, i, &name)); i++) lal_tensor_set(L, name, t);
  return 1;
}

/* a:set_parameter(name, tensor): puts the tensor in the place of a parameter; returns a. */
static int attention_set_parameter(lua_State *L) {
  item *x = check(L);
  const char *want = luaL_checkstring(L, 2), *names[ATTN_MAX_PARAMS];
  al_tensor *t = lal_tensor_check(L, 3);
  int n = 0;
  for (; n < ATTN_MAX_PARAMS && attn_param_at(x->a, n, &names[n]); n++)
    if (strcmp(names[n], want) == 0) {
      if (attn_param_set(lal_ctx(L), x->a, n, t) != AL_OK) return lal_raise(L);
      lua_settop(L, 1);
      return 1;
    }
  const char *near = al_nearest(want, names, n);
  return near ? lal_argerror(L, 2, "set_parameter", "no parameter '%s' (did you mean '%s'?)", want,
                             near)
              : lal_argerror(L, 2, "set_parameter", "no parameter '%s'", want);
}

/* a:claims(): what it says of itself and the conformance driver checks, as { [claim] = true }. */
static int attention_claims(lua_State *L) {
  const unsigned held = attn_claims(check(L)->a);
  unsigned bit;
  lua_newtable(L);
  for (int i = 0; attn_claim_at(i, &bit, NULL); i++)
    if (held & bit) {
      lua_pushboolean(L, true);
      lua_setfield(L, -2, attn_claim_name(bit));
    }
  return 1;
}

/* a:state_bytes(t): bytes that a sequence carries at position t (0). */
static int attention_state_bytes(lua_State *L) {
  item *x = check_sized(L);
  const lua_Integer t = luaL_optinteger(L, 2, 0);
  luaL_argcheck(L, t >= 0, 2, "a position of at least 0 expected");
  lua_pushinteger(L, attn_state_bytes(x->a, t));
  return 1;
}

/* Those that are known. */
static int attention_sizes(lua_State *L) {
  const item *x = check(L);
  const attn_sizes *s = x->open ? &x->given : attn_sizes_of(x->a);
  const struct {
    const char *name;
    int64_t n;
  } sizes[] = {{"heads", s->heads},
               {"kv_heads", s->kv_heads},
               {"head_dim", s->head_dim},
               {"value_dim", s->value_dim},
               {"width", s->width}};
  lua_newtable(L);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    if (x->open && !sizes[i].n) continue;
    lua_pushinteger(L, sizes[i].n);
    lua_setfield(L, -2, sizes[i].name);
  }
  return 1;
}

/* a:dtype(): of its parameters. */
static int attention_dtype(lua_State *L) {
  lua_pushstring(L, al_dtype_name(attn_dtype_of(check(L)->a)));
  return 1;
}

/* a:plan(T, {packed=false}): what runs for T tokens, and why; packed: of rows of several documents. */
static int attention_plan(lua_State *L) {
  item *x = check_sized(L);
  const lua_Integer t = luaL_checkinteger(L, 2);
  luaL_argcheck(L, t >= 1, 2, "a number of tokens of at least 1 expected");
  static const al_arg plan_args[] = {
      {"packed", AL_T_BOOL, "false", NULL, 0, 0, "of rows of several documents", NULL}, {0}};
  al_opts *o = lal_opts_from(L, 3, lal_ctx(L), plan_args, "plan");
  if (!o) return lal_raise_in(L, &(lal_where){.fname = "plan", .opts_arg = 3});
  const bool packed = al_opt_bool(o, "packed");
  al_opts_release(o);
  char text[640];
  lua_pushstring(L, (packed ? attn_plan_packed : attn_plan)(x->a, t, text, sizeof text));
  return 1;
}

/* a:taps(): array of {name=, shape=, doc=, composed=}, those that these options have. */
static int attention_taps(lua_State *L) {
  const attn *a = check(L)->a;
  const attn_tap_row *r;
  lua_newtable(L);
  for (int i = 0; (r = attn_tap_at(a, i)); i++) {
    lua_createtable(L, 0, 4);
    set_text(L, "name", r->name);
    set_text(L, "shape", r->shape);
    set_text(L, "doc", r->doc);
    lua_pushboolean(L, r->composed);
    lua_setfield(L, -2, "composed");
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* a:source(kind): the variant as a formula ("formula": one line, "latex") or as a PyTorch function
 * ("torch"). */
static int attention_source(lua_State *L) {
  item *x = check(L);
  const char *kind = luaL_checkstring(L, 2);
  lal_guard *g = lal_guard_new(L, free);
  g->p = attn_source(lal_ctx(L), x->a, kind);
  if (!g->p) return lal_raise(L);
  lua_pushstring(L, g->p);
  lal_guard_free(g);
  return 1;
}

/* a:options(): rows as core.attn.options gives them; value = what this instance has. */
static int attention_options(lua_State *L) {
  const attn *a = check(L)->a;
  lal_push_args(L, attn_family_of(a)->options, attn_opts(a));
  return 1;
}

/* a:text(all): canonical option text; all = with the defaults. */
static int attention_text(lua_State *L) {
  char text[1 << 14]; /* holds two lists of 256 numbers with 17 digits */
  al_opts_text(attn_opts(check(L)->a), lua_toboolean(L, 2), text, sizeof text);
  lua_pushstring(L, text);
  return 1;
}

/* a:family(): name of its family. */
static int attention_family(lua_State *L) {
  lua_pushstring(L, attn_family_of(check(L)->a)->name);
  return 1;
}

/* a:layer(): the options of the layer that its preset brings, as text. */
static int attention_layer(lua_State *L) {
  const attn_preset *p = check(L)->preset;
  lua_pushstring(L, p && p->layer ? p->layer : "");
  return 1;
}

/* a:set(options): every option that is not named keeps its value. */
static int attention_set(lua_State *L) {
  item *x = check(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  al_ctx *c = lal_ctx(L);
  const lal_where w = {.fname = attn_family_of(x->a)->name, .opts_arg = 2};
  const int64_t before = al_memory(c).live;
  al_opts *o = al_opts_copy(c, attn_opts(x->a));
  if (o && lal_opts_set(L, 2, c, o, w.fname, NULL) == AL_OK &&
      check_open(c, x, attn_family_of(x->a), o) == AL_OK)
    attn_set(c, x->a, o);
  al_opts_release(o);
  if (al_error(c) != AL_OK) return lal_raise_in(L, &w);
  lal_account(L, before);
  lua_settop(L, 1);
  return 1;
}

static const luaL_Reg methods[] = {{"forward", lal_attn_forward},
                                   {"step", lal_attn_step},
                                   {"state", lal_attn_state},
                                   {"restore", lal_attn_restore},
                                   {"set", attention_set},
                                   {"parameters", attention_parameters},
                                   {"set_parameter", attention_set_parameter},
                                   {"claims", attention_claims},
                                   {"state_bytes", attention_state_bytes},
                                   {"sizes", attention_sizes},
                                   {"dtype", attention_dtype},
                                   {"plan", attention_plan},
                                   {"text", attention_text},
                                   {"options", attention_options},
                                   {"source", attention_source},
                                   {"taps", attention_taps},
                                   {"family", attention_family},
                                   {"layer", attention_layer},
                                   {NULL, NULL}};
static const luaL_Reg functions[] = {{"list", attn_list},
                                     {"families", attn_families},
                                     {"describe", attn_describe_name},
                                     {"options", attn_options},
                                     {"new", attn_new_instance},
                                     {"load", attn_load},
                                     {"inputs", lal_attn_inputs},
                                     {"documents", lal_attn_documents},
                                     {NULL, NULL}};

/* core.attn.<key> = the methods of a class: Lua modules add theirs. Needs the module on top. */
static void expose(lua_State *L, const char *class_name, const char *key) {
  lua_getfield(L, -1, "attn");
  luaL_getmetatable(L, class_name);
  lua_getfield(L, -1, "__index");
  lua_setfield(L, -3, key);
  lua_pop(L, 2);
}

void lal_open_attn(lua_State *L) {
  luaL_newlib(L, functions);
  lua_setfield(L, -2, "attn");
  lal_class(L, &attention_type, methods, NULL);
  expose(L, attention_type.name, "methods");
  expose(L, lal_open_state(L), "state_methods");
}
