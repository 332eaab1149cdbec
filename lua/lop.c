/* lop.c: every op as core.op.NAME(inputs..., {options}) and as a method, by its descriptor
 * alone. */
#include "lua_attnlab.h"
#include <stdio.h>
#include <string.h>

enum { MAX_ROWS = 16, FEW = AL_MAX_INPUTS, MAX_OUT = 8 };
enum { MANY = 1 << 24 }; /* of a list, far past use: their count is an int */

typedef struct args {
  const al_op_info *op;
  int n_rows, top, opts_arg;
  bool list;         /* the last row takes any number of tensors */
  int pos[MAX_ROWS]; /* Lua argument of each row: 0 absent, opts_arg when named there */
  int n_in, room;    /* inputs, and how many `in` can take */
  al_tensor **in;    /* few, or a longer buffer in the stack's slot `buffer` */
  al_tensor *few[FEW];
  int buffer;
  bool scalar[MAX_ROWS]; /* a number was given: its tensor is made for the call */
  double value[MAX_ROWS];
} args;

/* An array whose first element is a tensor. */
static bool is_tensors(lua_State *L, int idx) {
  if (!lua_istable(L, idx)) return false;
  lua_rawgeti(L, idx, 1);
  const bool yes = lal_box_test(L, -1, LAL_TENSOR) != NULL;
  lua_pop(L, 1);
  return yes;
}

static const char *input_names(const args *a, char *buf, size_t n) {
  size_t at = 0;
  buf[0] = 0;
  for (int i = 0; i < a->n_rows && at < n; i++)
    at += (size_t)snprintf(buf + at, n - at, i ? ", %s" : "%s", a->op->inputs[i].name);
  return buf;
}

/* Puts the tensor or number at idx into in[at]; arg is for errors. */
static void take(lua_State *L, args *a, int at, int row, int idx, int arg) {
  const char *name = a->op->inputs[row].name;
  if (lua_type(L, idx) == LUA_TNUMBER && !(a->list && row == a->n_rows - 1)) {
    a->scalar[at] = true;
    a->value[at] = lua_tonumber(L, idx);
  } else {
    const lal_box *b = lal_box_test(L, idx, LAL_TENSOR);
    if (!b)
      lal_argerror(L, arg, a->op->name, "%s: tensor expected, got %s", name, luaL_typename(L, idx));
    else if (!b->p) lal_argerror(L, arg, a->op->name, "%s: the tensor was freed", name);
    else a->in[at] = b->p;
  }
}

/* Room for n inputs. */
static void reserve(lua_State *L, args *a, lua_Integer n, int arg) {
  if (n <= a->room) return;
  if (n > MANY) lal_argerror(L, arg, a->op->name, "at most %d tensors", MANY);
  const size_t room = (size_t)n + FEW;
  al_tensor **in = lua_newuserdatauv(L, room * sizeof *in, 0);
  memset(in, 0, room * sizeof *in);
  memcpy(in, a->in, (size_t)a->n_in * sizeof *in);
  lua_replace(L, a->buffer);
  a->in = in;
  a->room = (int)room;
}

static void take_list(lua_State *L, args *a, int idx, int arg) {
  const lua_Integer n = (lua_Integer)lua_rawlen(L, idx);
  reserve(L, a, a->n_in + n, arg);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, idx, i);
    take(L, a, a->n_in, a->n_rows - 1, lua_gettop(L), arg);
    a->n_in++;
    lua_pop(L, 1);
  }
}

static bool has_option(const al_op_info *op, const char *name) {
  for (const al_arg *r = op->args; r && r->name; r++)
    if (strcmp(r->name, name) == 0) return true;
  return false;
}

/* Inputs by position, then those named in the options table; where an option has an input's name, a
 * tensor is the input. */
static void collect(lua_State *L, args *a) {
  const al_row *rows = a->op->inputs;
  while (rows[a->n_rows].name && a->n_rows < MAX_ROWS) a->n_rows++;
  a->list = a->n_rows && rows[a->n_rows - 1].flags & AL_IN_LIST;
  const int n_single = a->n_rows - a->list;
  a->top = lua_gettop(L);
  if (a->top && lua_istable(L, a->top) && !(a->list && is_tensors(L, a->top)))
    a->opts_arg = a->top--;
  a->n_in = n_single;
  a->in = a->few;
  a->room = FEW;
  lua_pushnil(L);
  a->buffer = lua_gettop(L);
  char names[160];
  for (int i = 1; i <= a->top; i++) {
    const int row = i <= n_single ? i - 1 : a->n_rows - 1;
    if (lua_isnil(L, i)) continue;
    if (i > n_single && !a->list)
      lal_argerror(L, i, a->op->name, "too many inputs: it takes %s and one table of options",
                   input_names(a, names, sizeof names));
    if (!a->pos[row]) a->pos[row] = i;
    if (i <= n_single) {
      take(L, a, i - 1, row, i, i);
    } else if (is_tensors(L, i)) {
      take_list(L, a, i, i);
    } else {
      reserve(L, a, a->n_in + 1, i);
      take(L, a, a->n_in, row, i, i);
      a->n_in++;
    }
  }
  for (int r = 0; r < a->n_rows && a->opts_arg; r++) {
    lua_pushstring(L, rows[r].name);
    const int type = lua_rawget(L, a->opts_arg);
    if (type == LUA_TUSERDATA || (type != LUA_TNIL && !has_option(a->op, rows[r].name))) {
      if (a->pos[r]) lal_argerror(L, a->opts_arg, a->op->name, "%s: given twice", rows[r].name);
      a->pos[r] = a->opts_arg;
      if (r < n_single) take(L, a, r, r, lua_gettop(L), a->opts_arg);
      else if (is_tensors(L, lua_gettop(L))) take_list(L, a, lua_gettop(L), a->opts_arg);
      else
        lal_argerror(L, a->opts_arg, a->op->name, "%s: an array of tensors expected", rows[r].name);
    }
    lua_pop(L, 1);
  }
  for (int r = 0; r < a->n_rows; r++)
    if (!a->pos[r] && !(rows[r].flags & AL_IN_OPTIONAL))
      lal_argerror(L, r + 1, a->op->name, "%s: %s expected, got %s", rows[r].name,
                   r < n_single ? "tensor" : "array of tensors", r < a->top ? "nil" : "no value");
}

/* Type of the scalars made from numbers: that of the first input which has a free choice. */
static al_dtype scalar_type(const args *a) {
  al_dtype dtype = AL_F32;
  bool found = false;
  for (int i = a->n_in - 1; i >= 0; i--) {
    const al_row *r = &a->op->inputs[i < a->n_rows ? i : a->n_rows - 1];
    if (!a->in[i]) continue;
    const bool any = r->flags & (AL_IN_ANY | AL_IN_I32);
    if (!any || !found) dtype = al_type(a->in[i]);
    found = found || !any;
  }
  return dtype;
}

/* Where the tensors lie that a number stands beside: ops run there, whatever device is current.
 * NULL: nowhere else. */
static const char *elsewhere(al_ctx *c, const args *a) {
  for (int i = 0; i < a->n_in; i++) {
    const char *there = a->in[i] ? al_device_name(a->in[i]) : NULL;
    if (there) return strcmp(there, al_on(c, NULL)) == 0 ? NULL : there;
  }
  return NULL;
}

static void make_each(al_ctx *c, args *a) {
  const al_dtype shared = scalar_type(a);
  for (int i = 0; i < a->n_rows; i++) {
    if (!a->scalar[i]) continue;
    const al_row *r = &a->op->inputs[i];
    const al_dtype dtype = r->flags & AL_IN_I32 ? AL_I32
                           : r->flags & AL_STAT ? al_statistic_type(shared)
                                                : shared;
    if (dtype == AL_I32 && !lal_is_i32(a->value[i])) {
      al_fail(c, AL_ETYPE, "%s: %s: the number %g is no i32", a->op->name, r->name, a->value[i]);
      return;
    }
    a->in[i] = al_tensor_full(c, dtype, 0, NULL, a->value[i]);
    if (!a->in[i]) return;
  }
}

/* A tensor for each number; drop_scalars releases them. */
static void make_scalars(al_ctx *c, args *a) {
  bool any = false;
  for (int i = 0; i < a->n_rows; i++) any = any || a->scalar[i];
  if (!any) return;
  const char *there = elsewhere(c, a);
  const char *before = there ? al_on(c, there) : NULL;
  make_each(c, a);
  if (before) al_on(c, before);
}

static void drop_scalars(args *a) {
  for (int i = 0; i < a->n_rows; i++) {
    if (!a->scalar[i]) continue;
    al_release(a->in[i]);
    a->in[i] = NULL;
  }
}

static int op_call(lua_State *L) {
  args a = {.op = lua_touserdata(L, lua_upvalueindex(1))};
  collect(L, &a);
  al_ctx *c = lal_ctx(L);
  int n_out = 0;
  for (const al_row *r = a.op->outputs; r->name; r++) n_out += !(r->flags & AL_OUT_SAVED);
  if (n_out > MAX_OUT) n_out = MAX_OUT;
  luaL_checkstack(L, n_out + 4, "outputs");
  lal_box *box[MAX_OUT];
  for (int i = 0; i < n_out; i++) box[i] = lal_box_new(L, LAL_TENSOR);

  /* Nothing below raises until everything made is in a box or released. */
  al_tensor *out[MAX_OUT] = {0};
  const int64_t before = al_memory(c).live;
  for (int attempt = 0; attempt < 2; attempt++) {
    al_opts *o = a.opts_arg ? al_opts_new(c, a.op->args, a.op->name) : NULL;
    if (o) lal_opts_set(L, a.opts_arg, c, o, a.op->name, a.op->inputs);
    if (al_error(c) == AL_OK) make_scalars(c, &a);
    if (al_error(c) == AL_OK) al_op_run(c, a.op, a.in, a.n_in, o, out, n_out);
    drop_scalars(&a);
    al_opts_release(o);
    if (al_error(c) != AL_ENOMEM || attempt == 1) break;
    lal_reclaim(L);
  }
  if (al_error(c) != AL_OK) {
    const lal_where w = {a.op->name, a.opts_arg, a.op->inputs, a.pos};
    return lal_raise_in(L, &w);
  }
  for (int i = 0; i < n_out; i++) box[i]->p = out[i];
  lal_account(L, before);
  return n_out;
}

/* ---- core.ops(), core.op ---- */

static void push_io(lua_State *L, const al_row *rows, bool outputs) {
  lua_newtable(L);
  for (int i = 1; rows->name; rows++) {
    if (outputs && rows->flags & AL_OUT_SAVED) continue;
    lua_createtable(L, 0, 5);
    lua_pushstring(L, rows->name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, rows->doc ? rows->doc : "");
    lua_setfield(L, -2, "doc");
    if (!outputs) {
      lua_pushboolean(L, rows->flags & AL_IN_OPTIONAL);
      lua_setfield(L, -2, "optional");
      lua_pushboolean(L, rows->flags & AL_IN_LIST);
      lua_setfield(L, -2, "list");
      lua_pushstring(L, rows->flags & AL_IN_I32   ? "i32"
                        : rows->flags & AL_IN_ANY ? "any"
                                                  : "float");
      lua_setfield(L, -2, "dtype");
    }
    lua_rawseti(L, -2, i++);
  }
}

int lal_ops_list(lua_State *L) {
  const int n = al_op_count();
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    const al_op_info *op = al_op_at(i);
    lua_createtable(L, 0, 5);
    lua_pushstring(L, op->name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, op->doc);
    lua_setfield(L, -2, "doc");
    push_io(L, op->inputs, false);
    lua_setfield(L, -2, "inputs");
    push_io(L, op->outputs, true);
    lua_setfield(L, -2, "outputs");
    lal_push_args(L, op->args, NULL);
    lua_setfield(L, -2, "args");
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static void push_op(lua_State *L, const al_op_info *op) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)op);
  lua_pushcclosure(L, op_call, 1);
}

static int op_missing(lua_State *L) {
  al_ctx *c = lal_ctx(L);
  al_op_find(c, luaL_checkstring(L, 2));
  return al_error(c) == AL_OK ? 0 : lal_raise(L);
}

void lal_ops_open(lua_State *L) {
  const int n = al_op_count();
  lua_createtable(L, 0, n);
  for (int i = 0; i < n; i++) {
    push_op(L, al_op_at(i));
    lua_setfield(L, -2, al_op_at(i)->name);
  }
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, op_missing);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
}

void lal_ops_methods(lua_State *L) {
  for (int i = 0; i < al_op_count(); i++) {
    const al_op_info *op = al_op_at(i);
    lua_pushstring(L, op->name);
    const bool taken = lua_rawget(L, -2) != LUA_TNIL;
    lua_pop(L, 1);
    if (taken) continue;
    push_op(L, op);
    lua_setfield(L, -2, op->name);
  }
}

/* x ^ 2: the right side is the op's first option. */
static int power(lua_State *L) {
  const al_op_info *op = lua_touserdata(L, lua_upvalueindex(1));
  lua_settop(L, 2);
  lua_createtable(L, 0, 1);
  lua_insert(L, 2);
  lua_setfield(L, 2, op->args->name);
  return op_call(L);
}

/* -x: Lua passes the operand twice. */
static int negate(lua_State *L) {
  lua_settop(L, 1);
  return op_call(L);
}

void lal_ops_metamethods(lua_State *L) {
  static const struct { /* what Lua's operators stand for */
    const char *event, *op;
    lua_CFunction f;
  } operators[] = {{"__add", "add", op_call}, {"__sub", "sub", op_call}, {"__mul", "mul", op_call},
                   {"__div", "div", op_call}, {"__unm", "neg", negate},  {"__pow", "pow", power}};
  al_ctx *c = lal_ctx(L);
  for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
    const al_op_info *op = al_op_find(c, operators[i].op);
    if (!op) {
      al_error_clear(c);
      continue;
    }
    lua_pushlightuserdata(L, (void *)(uintptr_t)op);
    lua_pushcclosure(L, operators[i].f, 1);
    lua_setfield(L, -2, operators[i].event);
  }
}
