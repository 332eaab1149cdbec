/* lua_attnlab.h: what the files of the C module attnlab.core share.
 *
 * Two rules keep a raise (a longjmp) from leaking: all arguments are checked before anything is
 * made, and a core object is made only after the empty userdata ("box") that will own it. Code that
 * holds core objects outside boxes calls no Lua function that can raise; it reports through the
 * context. */
#ifndef LUA_ATTNLAB_H
#define LUA_ATTNLAB_H
#include <lauxlib.h>
#include <lua.h>
#include "../core/attnlab.h"

/* ---- the state, errors, memory (lcore.c) ---- */
/* One per Lua state. When the state closes it empties every box that is left: Lua finalises nothing
 * that other finalisers make then. */
typedef struct lal_state {
  al_ctx *c;
  struct lal_box *boxes;
  int64_t pending; /* bytes of tensors made since the collector was last told */
  int64_t base;    /* live bytes when it last finished a cycle */
} lal_state;
void lal_begin(lua_State *L);     /* makes it, once */
lal_state *lal_get(lua_State *L); /* raises when the state is closing */
al_ctx *lal_ctx(lua_State *L);
/* Raises the context's error, cleared: "message [file.c:12]". */
int lal_raise(lua_State *L);
/* Raises "bad argument #arg to 'fname' (...)"; as luaL_argerror, but fname is ours to choose. */
int lal_argerror(lua_State *L, int arg, const char *fname, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Where the parts of a call stood, so that errors of the core can name the Lua argument. */
typedef struct lal_where {
  const char *fname;
  int opts_arg;         /* argument that holds the options; 0 = none */
  const al_row *inputs; /* ends with {0}; may be NULL */
  const int *pos;       /* argument of each input */
} lal_where;
int lal_raise_in(lua_State *L, const lal_where *w);
/* After AL_ENOMEM: collects all garbage, gives cached memory back, clears the error. */
void lal_reclaim(lua_State *L);
/* Evaluates call, once more when memory ran out. */
#define LAL_RETRY(L, c, call)                                                                      \
  for (int lal_try_ = 0; lal_try_ < 2; lal_try_++) {                                               \
    call;                                                                                          \
    if (al_error(c) != AL_ENOMEM || lal_try_ == 1) break;                                          \
    lal_reclaim(L);                                                                                \
  }
/* Tells the collector that live tensor memory grew since `before` (al_memory(c).live). */
void lal_account(lua_State *L, int64_t before);

/* ---- boxes: userdata that own one core object ---- */
typedef struct lal_type {
  const char *name; /* "attnlab.tensor" */
  void (*release)(void *);
  int values; /* Lua values that a box keeps alive (lua_setiuservalue) */
} lal_type;
typedef struct lal_box {
  void *p; /* NULL: empty or freed */
  const lal_type *type;
  lal_state *s;
  struct lal_box *prev, *next;
} lal_box;
lal_box *lal_box_new(lua_State *L, const lal_type *type); /* pushes an empty box */
void lal_box_empty(lal_box *b);                           /* releases p */
/* x:free(). A finaliser runs wherever memory is asked for, in the middle of a call that reads the
 * object too: there it is left to the collector. */
void lal_box_free(lua_State *L, lal_box *b);
/* NULL when idx holds another value. */
lal_box *lal_box_test(lua_State *L, int idx, const lal_type *type);
/* The object in the box at arg; raises "tensor expected" or "the tensor was freed". */
void *lal_check(lua_State *L, int arg, const lal_type *type);
/* Metatable of the type with methods, __gc and __close. False: this state has it already. */
bool lal_class(lua_State *L, const lal_type *type, const luaL_Reg *methods, const luaL_Reg *meta);
/* Pushes a guard that calls free_fn(p) when it is collected or lal_guard_free is called: for what
 * is not a core object. Make it first (p = NULL), then set the pointer. */
typedef struct lal_guard {
  void *p;
  void (*free_fn)(void *);
} lal_guard;
lal_guard *lal_guard_new(lua_State *L, void (*free_fn)(void *));
void lal_guard_free(lal_guard *g);

/* ---- options (lopt.c) ---- */
/* Sets options from the table at idx, passing over `inputs` (may be NULL) named there. Never
 * raises: the error, "owner: option 'x': ...", is in the context. */
al_status lal_opts_set(lua_State *L, int idx, al_ctx *c, al_opts *o, const char *owner,
                       const al_row *inputs);
/* New options of rows from the table, nil or none at idx; NULL with the error in the context. */
al_opts *lal_opts_from(lua_State *L, int idx, al_ctx *c, const al_arg *rows, const char *owner);
/* Pushes the rows as an array of tables for help; with o also the values it holds. */
void lal_push_args(lua_State *L, const al_arg *rows, const al_opts *o);
/* Raises unless every option named (space separated) was given; releases o before it raises. */
void lal_opts_need(lua_State *L, const lal_where *w, al_opts *o, const char *names);

/* ---- tensors (ltensor.c, lindex.c, lprint.c) ---- */
extern const lal_type lal_tensor_type;
#define LAL_TENSOR (&lal_tensor_type)
al_tensor *lal_tensor_test(lua_State *L, int idx); /* NULL when not a live tensor */
al_tensor *lal_tensor_check(lua_State *L, int arg);
/* A tensor from a number or (nested) array at idx, pushed; raises. dtype as given. */
al_tensor *lal_tensor_from(lua_State *L, int idx, al_dtype dtype, const char *fname);
bool lal_is_i32(double x); /* a whole number in the range of an i32 */
int lal_tensor_tostring(lua_State *L);
/* Metatable, then table of methods on top: sets __index and __newindex, pops the methods. */
void lal_index_open(lua_State *L);
/* Sets field `name` of the table on top to t (a reference of its own). */
void lal_tensor_set(lua_State *L, const char *name, al_tensor *t);

/* ---- ops (lop.c) ---- */
/* What t[{...}] and t:to("f64") stand for; with the operators in lop.c the only op names here. */
#define LAL_OP_SLICE "slice"
#define LAL_OP_DROP "squeeze"
#define LAL_OP_CAST "cast"
int lal_ops_list(lua_State *L);         /* core.ops() */
void lal_ops_open(lua_State *L);        /* pushes the table core.op */
void lal_ops_methods(lua_State *L);     /* adds ops to the table on top, names there stay */
void lal_ops_metamethods(lua_State *L); /* adds arithmetic to the metatable on top */

/* ---- the module (lmodule.c) ---- */
/* One part of core each: sets its functions in the table on top. */
void lal_open_tensor(lua_State *L);
void lal_open_attn(lua_State *L);
void lal_open_check(lua_State *L);
void lal_open_optim(lua_State *L);
void lal_open_data(lua_State *L);
void lal_open_sample(lua_State *L);
void lal_open_tokens(lua_State *L);
void lal_open_json(lua_State *L);
void lal_open_sys(lua_State *L);
void lal_open_proc(lua_State *L);   /* into core.sys */
void lal_open_signal(lua_State *L); /* into core.sys */
AL_API int luaopen_attnlab_core(lua_State *L);

int lal_signals(void); /* that were caught so far, as core.sys.interrupted() */
/* What core.sys.say_crashes says was being done, until it is set to NULL; called from a signal
 * handler: text(owner, error) gives that, and the pending error in *error ("" = none). */
typedef const char *lal_crash_text(const void *owner, const char **error);
void lal_on_crash(lal_crash_text *text, const void *owner);
#endif
