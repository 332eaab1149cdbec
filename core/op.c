/* op.c: the table of ops, made from the file names in core/ops/, and one way to run any of them. */
#include "core.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AL_OP_FILE(stem) extern const al_op *const al_ops_##stem[];
#include "al_ops.inc"
#undef AL_OP_FILE

static const al_op *const *const files[] = {
#define AL_OP_FILE(stem) al_ops_##stem,
#include "al_ops.inc"
#undef AL_OP_FILE
    NULL};

enum { MAX_OPS = 256, MAX_IN = AL_MAX_INPUTS, MAX_OUT = 8 };
static const al_op *table[MAX_OPS];
static int n_ops, n_defined;
static const char *twice; /* a name that two ops have */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int by_name(const void *a, const void *b) {
  return strcmp((*(const al_op *const *)a)->info.name, (*(const al_op *const *)b)->info.name);
}

static void build_table(void) {
  for (int f = 0; files[f]; f++)
    for (const al_op *const *op = files[f]; *op; op++)
      if (n_defined++ < MAX_OPS) table[n_ops++] = *op;
  qsort(table, (size_t)n_ops, sizeof *table, by_name);
  for (int i = 1; i < n_ops; i++)
    if (by_name(&table[i - 1], &table[i]) == 0) twice = table[i]->info.name;
}

al_status al_op_check_table(al_ctx *c) {
  pthread_once(&once, build_table);
  if (twice) return al_fail(c, AL_ENAME, "op '%s': two files of core/ops/ define it", twice);
  if (n_defined > MAX_OPS)
    return al_fail(c, AL_EVALUE, "ops: room for %d, %d are defined: raise MAX_OPS", MAX_OPS,
                   n_defined);
  return AL_OK;
}

const al_op *const *al_op_table(int *n) {
  pthread_once(&once, build_table);
  *n = n_ops;
  return table;
}

int al_op_count(void) {
  int n;
  al_op_table(&n);
  return n;
}

const al_op_info *al_op_at(int i) { return i >= 0 && i < al_op_count() ? &table[i]->info : NULL; }

const al_op_info *al_op_find(al_ctx *c, const char *name) {
  int lo = 0, hi = al_op_count();
  while (lo < hi) {
    const int mid = (lo + hi) / 2, d = strcmp(name, table[mid]->info.name);
    if (d == 0) return &table[mid]->info;
    if (d < 0) hi = mid;
    else lo = mid + 1;
  }
  const char *names[MAX_OPS] = {0};
  for (int i = 0; i < n_ops; i++) names[i] = table[i]->info.name;
  const char *near = al_nearest(name, names, n_ops);
  al_fail(c, AL_ENAME, "unknown op '%s'%s%s%s", name, near ? " (did you mean '" : "",
          near ? near : "", near ? "'?)" : "");
  return NULL;
}

static int count_rows(const al_row *r) {
  int n = 0;
  while (r[n].name) n++;
  return n;
}

/* The row that input i belongs to: members of a list all belong to the last one. */
static int row_of(int i, int n_rows) { return i < n_rows ? i : n_rows - 1; }

static al_status check_inputs(al_ctx *c, const al_op *op, al_tensor *const *in, int n_in) {
  const char *name = op->info.name;
  const al_row *rows = op->info.inputs;
  const int n_rows = count_rows(rows);
  const bool list = n_rows && rows[n_rows - 1].flags & AL_IN_LIST;
  if (n_in > MAX_IN || (n_in > n_rows && !list))
    return al_fail(c, AL_EVALUE, "%s: at most %d inputs, got %d", name, list ? MAX_IN : n_rows,
                   n_in);
  const al_tensor *first = NULL;
  const char *first_name = "";
  for (int i = 0; i < n_in || i < n_rows; i++) {
    const al_row *r = &rows[row_of(i, n_rows)];
    const al_tensor *t = i < n_in ? in[i] : NULL;
    if (!t) {
      if (r->flags & AL_IN_OPTIONAL) continue;
      return al_fail(c, AL_EVALUE, "%s: %s: a tensor is needed", name, r->name);
    }
    if (r->flags & AL_IN_ANY) continue;
    if (r->flags & AL_IN_I32) {
      if (t->dtype != AL_I32)
        return al_fail(c, AL_ETYPE, "%s: %s: i32 needed, got %s", name, r->name,
                       al_dtype_name(t->dtype));
      continue;
    }
    if (t->dtype == AL_I32)
      return al_fail(c, AL_ETYPE, "%s: %s: f32, f64 or bf16 needed, got i32 (cast it first)", name,
                     r->name);
    if (first && r->flags & AL_STAT) {
      if (t->dtype != al_statistic_type(first->dtype))
        return al_fail(c, AL_ETYPE, "%s: %s: %s needed as %s is %s, got %s", name, r->name,
                       al_dtype_name(al_statistic_type(first->dtype)), first_name,
                       al_dtype_name(first->dtype), al_dtype_name(t->dtype));
      continue;
    }
    if (first && t->dtype != first->dtype)
      return al_fail(c, AL_ETYPE, "%s: %s: %s needed as %s has it, got %s", name, r->name,
                     al_dtype_name(first->dtype), first_name, al_dtype_name(t->dtype));
    if (!first) first = t, first_name = r->name;
  }
  return AL_OK;
}

/* Where the inputs lie, or NULL without any: all of them in one place. */
static al_status one_device(al_ctx *c, const al_op *op, al_tensor *const *in, int n_in,
                            al_device **found) {
  const int n_rows = count_rows(op->info.inputs);
  int first = -1;
  *found = NULL;
  for (int i = 0; i < n_in; i++) {
    if (!in[i]) continue;
    if (first < 0) first = i, *found = in[i]->storage->device;
    if (in[i]->storage->device != *found)
      return al_fail(c, AL_ESTATE, "%s: %s: on %s needed as %s is, got one on %s", op->info.name,
                     op->info.inputs[row_of(i, n_rows)].name, (*found)->name,
                     op->info.inputs[row_of(first, n_rows)].name, in[i]->storage->device->name);
  }
  return AL_OK;
}

static bool wants_record(al_ctx *c, const al_op *op, al_tensor *const *in, int n_in) {
  if (!c->record || !op->backward) return false;
  const int n_rows = count_rows(op->info.inputs);
  for (int i = 0; i < n_in; i++)
    if (in[i] && al_needs_grad(in[i]) && !(op->info.inputs[row_of(i, n_rows)].flags & AL_IN_NODIFF))
      return true;
  return false;
}

/* Without kernels of bf16 inputs of that type come to an op as f32, but where it takes any type,
 * and what it returns is rounded, but for statistics. */
static bool runs_narrow(const al_op *op, const al_device *there) {
  const alk_place at = {.dtype = ALK_BF16, .device = there->kernels};
  for (const al_has *has = op->bf16; has && *has; has++)
    if (!(*has)(&at)) return false;
  return op->bf16 != NULL;
}
bool al_in_bf16(al_ctx *c, const char *op) {
  const void *info = al_op_find(c, op); /* the first member */
  return info && runs_narrow(info, c->device);
}
static bool composed(const al_row *r, const al_tensor *t) {
  return t && t->dtype == AL_BF16 && !(r->flags & AL_IN_ANY);
}

static al_status round_outputs(al_ctx *c, al_call *k) {
  for (int i = 0; i < k->n_out && c->error == AL_OK; i++)
    if (k->out_meta[i].dtype == AL_F32 &&
        !(k->op->info.outputs[i].flags & (AL_OUT_SAVED | AL_STAT)))
      al_retype(c, &k->out[i], AL_BF16);
  return c->error;
}

/* Inputs of bf16 are kept as they came: a backward widens them once more. */
static al_status keep_narrow(al_ctx *c, al_call *k, al_tensor *const *in, int n_in) {
  for (int i = 0; i < n_in; i++) {
    if (!in[i] || in[i]->dtype == k->in[i]->dtype) continue;
    k->in_meta[i].dtype = in[i]->dtype;
    if (!(k->op->reads_in >> row_of(i, count_rows(k->op->info.inputs)) & 1)) continue;
    al_release(k->in[i]);
    k->in[i] = al_contiguous_ref(c, in[i]);
  }
  return c->error;
}

/* Draws the key of a random op into a copy of its options. */
static al_opts *with_key(al_ctx *c, al_opts *o) {
  if (al_opt_num(o, "key") >= 0) return o;
  al_opts *d = al_opts_copy(c, o);
  if (d) al_opts_set_num(c, d, "key", (double)al_draw_key(c));
  al_opts_release(o);
  return d;
}

/* The op of what it makes of each part of a long list. */
static al_status run_parts(al_ctx *c, const al_op_info *info, al_tensor *const *in, int n_in,
                           al_opts *opts, al_tensor **out, int n_out) {
  const int n = (n_in + MAX_IN - 1) / MAX_IN;
  al_tensor **part = al_calloc(c, n, sizeof *part);
  if (!part) return c->error;
  const bool off = c->scope_off;
  c->scope_off = true;
  for (int i = 0, at = 0; i < n; i++, at += MAX_IN)
    al_op_run(c, info, in + at, n_in - at < MAX_IN ? n_in - at : MAX_IN, opts, &part[i], 1);
  c->scope_off = off;
  al_op_run(c, info, part, n, opts, out, n_out);
  for (int i = 0; i < n; i++) al_release(part[i]);
  free(part);
  return c->error;
}

al_status al_op_run(al_ctx *c, const al_op_info *info, al_tensor *const *in, int n_in,
                    al_opts *opts, al_tensor **out, int n_out) {
  for (int i = 0; i < n_out; i++) out[i] = NULL;
  if (c->error != AL_OK) return c->error;
  const al_op *op = (const al_op *)(const void *)info; /* info is the first member */
  if (n_in > MAX_IN && op->flags & AL_OP_JOINS)
    return run_parts(c, info, in, n_in, opts, out, n_out);
  AL_TRY(check_inputs(c, op, in, n_in));
  al_device *there;
  AL_TRY(one_device(c, op, in, n_in, &there));
  const int n_rows = count_rows(op->info.inputs), n_results = count_rows(op->info.outputs);

  al_tensor *dense[MAX_IN] = {0}, *res[MAX_OUT] = {0}, *made[MAX_OUT] = {0};
  al_meta in_meta[MAX_IN], out_meta[MAX_OUT];
  memset(out_meta, 0, sizeof out_meta);
  al_call k = {.op = op,
               .n_in = n_in > n_rows ? n_in : n_rows,
               .n_out = n_results,
               .in = dense,
               .out = res,
               .in_meta = in_meta,
               .out_meta = out_meta,
               .recorded = wants_record(c, op, in, n_in)};
  for (int i = 0; i < n_in; i++)
    if (composed(&op->info.inputs[row_of(i, n_rows)], in[i])) k.narrow = true;
  k.narrow = k.narrow && runs_narrow(op, there);
  const bool off = c->scope_off, record = c->record;
  c->scope_off = true;
  bool rounds = false; /* to bf16 what it returns */
  const char *outer = c->running;
  c->running = op->info.name;
  al_device *before = al_device_use(c, there);

  k.opts = opts ? al_opts_retain(opts) : al_opts_new(c, op->info.args, op->info.name);
  if (!k.opts) goto done;
  if (op->flags & AL_OP_RANDOM && !(k.opts = with_key(c, k.opts))) goto done;
  for (int i = 0; i < k.n_in; i++) {
    al_tensor *t = i < n_in ? in[i] : NULL;
    in_meta[i] = t ? al_meta_of(t) : (al_meta){0};
    const bool wide = !k.narrow && composed(&op->info.inputs[row_of(i, n_rows)], t);
    if (t &&
        !(dense[i] = wide || op->flags & (AL_OP_STRIDED | AL_OP_VIEW) ? al_retain(t)
                                                                      : al_contiguous_ref(c, t)))
      goto done;
    if (!wide) continue;
    in_meta[i].dtype = AL_F32, rounds = true;
    if (al_retype(c, &dense[i], AL_F32) != AL_OK) goto done;
  }
  if (op->plan_size && !(k.plan = al_calloc(c, 1, op->plan_size))) goto done;
  if (op->shape(c, &k) != AL_OK) goto done;
  for (int i = 0; i < n_results; i++)
    if (op->info.outputs[i].flags & AL_STAT)
      out_meta[i].dtype = al_statistic_type(out_meta[i].dtype);
  for (int i = 0; i < n_results; i++)
    if (al_shape_check(c, op->info.name, out_meta[i].ndim, out_meta[i].shape) != AL_OK) goto done;
  if (!(op->flags & AL_OP_VIEW))
    for (int i = 0; i < n_results; i++)
      if (!(res[i] = al_new_meta(c, &out_meta[i]))) goto done;
  c->record = false;
  op->forward(c, &k);
  for (int i = 0; i < n_results && c->error == AL_OK; i++)
    if (!(op->flags & AL_OP_VIEW) && !(op->info.outputs[i].flags & AL_OUT_SAVED))
      al_jitter_apply(c, res[i]);
  c->record = record;
  if (c->error == AL_OK && rounds) {
    for (int i = 0; i < n_results; i++) made[i] = al_retain(res[i]);
    round_outputs(c, &k);
    if (k.recorded) keep_narrow(c, &k, in, n_in);
  }
  if (c->error == AL_OK && k.recorded) al_record(c, &k, in, rounds ? made : res);

done:
  c->scope_off = off;
  c->running = outer;
  al_device_use(c, before);
  for (int i = 0; i < k.n_in; i++) al_release(dense[i]);
  for (int i = 0; i < n_results; i++) al_release(made[i]);
  al_opts_release(k.opts);
  free(k.plan);
  int visible = 0;
  for (int i = 0; i < n_results; i++) {
    const bool keep =
        c->error == AL_OK && !(op->info.outputs[i].flags & AL_OUT_SAVED) && visible < n_out;
    if (keep) out[visible++] = al_scope_own(c, res[i]);
    else al_release(res[i]);
  }
  if (c->error != AL_OK) /* a scope that could not take an output reported it */
    for (int i = 0; i < n_out; i++) {
      if (out[i] && (c->n_marks == 0 || c->scope_off)) al_release(out[i]);
      out[i] = NULL;
    }
  return c->error;
}

static al_status run_text(al_ctx *c, const char *name, al_tensor *const *in, int n_in,
                          al_tensor **out, int n_out, const char *fmt, va_list ap) {
  AL_PLAIN_NUMBERS;
  for (int i = 0; i < n_out; i++) out[i] = NULL;
  if (c->error != AL_OK) return c->error;
  const al_op_info *op = al_op_find(c, name);
  al_opts *o = op ? al_opts_new(c, op->args, op->name) : NULL;
  if (o && *fmt) {
    char text[8192];
    const int n = vsnprintf(text, sizeof text, fmt, ap);
    if (n >= (int)sizeof text)
      al_fail(c, AL_EVALUE, "%s: options longer than %zu characters", name, sizeof text - 1);
    else al_opts_parse(c, o, text);
  }
  if (o) al_op_run(c, op, in, n_in, o, out, n_out);
  al_opts_release(o);
  return c->error;
}

al_status al_run_into(al_ctx *c, const char *name, al_tensor *const *in, int n_in, al_tensor **out,
                      int n_out, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  const al_status st = run_text(c, name, in, n_in, out, n_out, fmt, ap);
  va_end(ap);
  return st;
}

al_tensor *al_run(al_ctx *c, const char *name, al_tensor *const *in, int n_in, const char *fmt,
                  ...) {
  al_tensor *out;
  va_list ap;
  va_start(ap, fmt);
  run_text(c, name, in, n_in, &out, 1, fmt, ap);
  va_end(ap);
  return out;
}

al_status al_axis(al_ctx *c, const al_call *k, const char *key, int ndim, int *axis) {
  const int64_t a = al_opt_int(k->opts, key);
  if (a < -ndim || a >= ndim)
    return al_fail(
        c, AL_EVALUE, "%s: option '%s': integer in %d..%d expected, got %lld for shape %s",
        k->op->info.name, key, -ndim, ndim - 1 + c->axis_base,
        (long long)(a < 0 ? a : a + c->axis_base), al_meta_str(&k->in_meta[0], (char[96]){0}, 96));
  *axis = (int)(a < 0 ? a + ndim : a);
  return AL_OK;
}
