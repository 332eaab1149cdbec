/* optim.c: SGD with momentum and AdamW (Loshchilov & Hutter 2019: decay decoupled from the
 * gradient), with clipping of the global gradient norm. State is in the parameters' dtype. Of bf16
 * ones it is f32, and so is the weight itself, the master: the parameter is its rounded copy,
 * which the update's pass writes, too, and nothing of an update is lost to rounding. A parameter
 * that somebody wrote to goes on from there. A step is two passes over all parameters, one for the
 * norm and one for the update; the norm's partial sums go in fixed blocks, so the result does not
 * depend on the number of threads. */
#include "core.h"
#include "../kernels/optim.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct slot {
  char *name;
  bool decay;
  al_tensor *p, *m, *v; /* v: AdamW only */
  al_tensor *w;         /* what is updated: p, or the master of one in bf16 */
} slot;

struct al_optim {
  al_ctx *ctx;
  bool adamw;
  al_opts *opts;
  int n, cap;
  slot *slots;
  al_tensor *steps;      /* made so far, a number of f64 */
  alk_optim_task *tasks; /* room for one a slot */
  char label[160];       /* of the last state name handed out */
};

#define COMMON                                                                                     \
  {"weight_decay",                                                                                 \
   AL_T_NUM,                                                                                       \
   "0",                                                                                            \
   NULL,                                                                                           \
   0,                                                                                              \
   1e308,                                                                                          \
   "decoupled weight decay, times the learning rate",                                              \
   NULL},                                                                                          \
  {                                                                                                \
    "grad_clip", AL_T_NUM, "0", NULL, 0, 1e308, "largest global gradient norm; 0 = off", NULL      \
  }

static const al_arg adamw_args[] = {
    {"betas", AL_T_LIST | AL_T_NUM, "{0.9,0.999}", NULL, 0, 1,
     "decay of the first and second moment", NULL},
    {"eps", AL_T_NUM, "1e-8", NULL, 0, 1e308, "added to the root of the second moment", NULL},
    COMMON,
    {0}};
static const al_arg sgd_args[] = {
    {"momentum", AL_T_NUM, "0", NULL, 0, 1, "decay of the running gradient", NULL}, COMMON, {0}};

const al_arg *al_optim_args(al_ctx *c, const char *kind) {
  if (strcmp(kind, "adamw") == 0) return adamw_args;
  if (strcmp(kind, "sgd") == 0) return sgd_args;
  al_fail(c, AL_ENAME, "optim: one of adamw sgd expected, got '%s'", kind);
  return NULL;
}

al_optim *al_optim_new(al_ctx *c, const char *kind, al_opts *opts) {
  const al_arg *rows = al_optim_args(c, kind);
  if (!rows || c->error != AL_OK) return NULL;
  al_optim *o = al_calloc(c, 1, sizeof *o);
  if (!o) return NULL;
  o->ctx = c;
  o->adamw = rows == adamw_args;
  o->opts = opts ? al_opts_copy(c, opts) : al_opts_new(c, rows, kind);
  const double *betas;
  const int n = o->opts && o->adamw ? al_opt_list(o->opts, "betas", &betas) : 0;
  if (o->opts && o->adamw && n != 2)
    al_fail(c, AL_EVALUE, "adamw: option 'betas': two numbers expected, got %d", n);
  else if (n == 2 && !(betas[0] < 1 && betas[1] < 1))
    al_fail(c, AL_EVALUE, "adamw: option 'betas': numbers below 1 expected, got %g and %g",
            betas[0], betas[1]);
  const bool off = c->scope_off;
  c->scope_off = true; /* the optimiser's own */
  if (c->error == AL_OK) o->steps = al_tensor_full(c, AL_F64, 0, NULL, 0);
  c->scope_off = off;
  if (c->error == AL_OK) return o;
  al_optim_free(o);
  return NULL;
}

void al_optim_free(al_optim *o) {
  if (!o) return;
  for (int i = 0; i < o->n; i++) {
    al_release(o->slots[i].p);
    al_release(o->slots[i].m);
    al_release(o->slots[i].v);
    al_release(o->slots[i].w);
    free(o->slots[i].name);
  }
  free(o->slots);
  free(o->tasks);
  al_release(o->steps);
  al_opts_release(o->opts);
  free(o);
}

/* For one more parameter. */
static al_status make_room(al_optim *o) {
  if (o->n < o->cap) return AL_OK;
  const int cap = o->cap ? 2 * o->cap : 32;
  slot *slots = realloc(o->slots, (size_t)cap * sizeof *slots);
  if (slots) o->slots = slots;
  alk_optim_task *tasks = slots ? realloc(o->tasks, (size_t)cap * sizeof *tasks) : NULL;
  if (!tasks) return al_fail(o->ctx, AL_ENOMEM, "out of memory (optimiser)");
  o->tasks = tasks, o->cap = cap;
  return AL_OK;
}

/* Both contiguous. */
static bool overlap(const al_tensor *a, const al_tensor *b) {
  return a->storage == b->storage && a->offset < b->offset + al_numel(b) &&
         b->offset < a->offset + al_numel(a);
}

/* An optimiser lives where its first parameter does. */
static al_status place_of(al_optim *o, const char *name, const al_tensor *p) {
  al_ctx *c = o->ctx;
  const al_device *here = o->steps->storage->device, *there = p->storage->device;
  if (here == there) return AL_OK;
  if (o->n)
    return al_fail(c, AL_ESTATE, "optim: parameter '%s': on %s needed as '%s' is, got one on %s",
                   name, here->name, o->slots[0].name, there->name);
  al_tensor *steps = al_tensor_full(c, AL_F64, 0, NULL, al_item(o->steps));
  if (!steps) return al_error(c);
  al_release(o->steps);
  o->steps = steps;
  return AL_OK;
}

al_status al_optim_add(al_optim *o, const char *name, al_tensor *p, bool decay) {
  al_ctx *c = o->ctx;
  if (!p || p->dtype == AL_I32 || !al_contiguous(p) || p->node)
    return al_fail(c, AL_ETYPE, "optim: parameter '%s': a contiguous f32, f64 or bf16 leaf needed",
                   name);
  if (strlen(name) + sizeof "m." > sizeof o->label)
    return al_fail(c, AL_EVALUE, "optim: parameter '%s': a name of at most %zu characters needed",
                   name, sizeof o->label - sizeof "m.");
  for (int i = 0; i < o->n; i++) {
    const slot *s = &o->slots[i];
    if (strcmp(s->name, name) == 0)
      return al_fail(c, AL_ENAME, "optim: parameter '%s' was added twice", name);
    if (s->p == p) return AL_OK;
    if (overlap(s->p, p))
      return al_fail(c, AL_EVALUE,
                     "optim: parameters '%s' and '%s' are two tensors in the same memory: one "
                     "tensor under both names needed, or memory of its own for each",
                     s->name, name);
  }
  AL_TRY(make_room(o));
  al_meta m = al_meta_of(p);
  m.dtype = al_statistic_type(m.dtype);
  slot s = {.name = strdup(name), .decay = decay, .w = al_retain(p)};
  const bool off = c->scope_off;
  c->scope_off = true; /* the optimiser's own */
  al_device *before = al_device_use(c, p->storage->device);
  if (place_of(o, name, p) == AL_OK) {
    s.m = al_new_meta_full(c, &m, 0);
    s.v = o->adamw ? al_new_meta_full(c, &m, 0) : NULL;
    al_retype(c, &s.w, m.dtype);
  }
  al_device_use(c, before);
  c->scope_off = off;
  if (!s.name) al_fail(c, AL_ENOMEM, "out of memory (optimiser)");
  if (c->error != AL_OK) {
    al_release(s.m);
    al_release(s.v);
    al_release(s.w);
    free(s.name);
    return c->error;
  }
  s.p = al_retain(p);
  o->slots[o->n++] = s;
  return AL_OK;
}

void al_optim_zero_grad(al_optim *o) {
  for (int i = 0; i < o->n; i++) al_set_grad(o->slots[i].p, NULL);
}

static int64_t blocks_of(int64_t n) { return (n + ALK_OPTIM_BLOCK - 1) / ALK_OPTIM_BLOCK; }

/* Lists the parameters that are updated in that type and have a gradient. */
static int list_tasks(al_optim *o, al_dtype dtype) {
  int n = 0;
  int64_t first = 0;
  for (int i = 0; i < o->n; i++) {
    const slot *t = &o->slots[i];
    if (!t->p->grad || t->w->dtype != dtype) continue;
    o->tasks[n++] = (alk_optim_task){.n = al_numel(t->p),
                                     .first = first,
                                     .p = al_data(t->w),
                                     .g = al_data(t->p->grad),
                                     .m = al_data(t->m),
                                     .v = al_data(t->v),
                                     .narrow = t->w == t->p ? NULL : al_data(t->p),
                                     .decay = t->decay ? al_opt_num(o->opts, "weight_decay") : 0};
    first += blocks_of(al_numel(t->p));
  }
  return n;
}

/* What a step writes must not be seen by a fork. */
static al_status take_slots(al_optim *o) {
  for (int i = 0; i < o->n; i++) {
    slot *t = &o->slots[i];
    if (!t->p->grad) continue;
    AL_TRY(al_retype(o->ctx, &t->p->grad, t->w->dtype));
    al_tensor *written[] = {t->p, t->w, t->m, t->v};
    for (int k = t->w == t->p; k < 4; k++)
      if (written[k]) AL_TRY(al_storage_own(o->ctx, written[k]->storage));
  }
  return AL_OK;
}

static const al_dtype types[] = {AL_F32, AL_F64};

/* The norm of all gradients, a number of f64, and one step more where it is finite. */
static al_tensor *gradient_norm(al_optim *o, const al_tensor *after) {
  al_ctx *c = o->ctx;
  int64_t blocks = 1;
  for (int i = 0; i < o->n; i++) blocks += blocks_of(al_numel(o->slots[i].p));
  al_tensor *parts = al_tensor_new(c, AL_F64, 1, &blocks),
            *sum = al_tensor_full(c, AL_F64, 0, NULL, 0), *norm = al_tensor_new(c, AL_F64, 0, NULL);
  for (int i = 0; i < 2 && al_error(c) == AL_OK; i++) {
    const int n = list_tasks(o, types[i]);
    if (n)
      ALK_RUN(al_here(c, (alk_dtype)types[i]), optim_squares, n, o->tasks, al_data(parts),
              al_data(sum));
  }
  if (al_error(c) == AL_OK)
    ALK_RUN(al_where(norm), optim_norm, al_data(sum), al_data(after), al_data(norm),
            al_data(o->steps));
  al_release(parts);
  al_release(sum);
  return norm;
}

static void update(al_optim *o, double lr, const al_tensor *norm) {
  alk_optim_step s = {.lr = lr, .clip = al_opt_num(o->opts, "grad_clip")};
  const double *betas;
  if (o->adamw) {
    al_opt_list(o->opts, "betas", &betas);
    s.beta1 = betas[0], s.beta2 = betas[1], s.eps = al_opt_num(o->opts, "eps");
  } else {
    s.momentum = al_opt_num(o->opts, "momentum");
  }
  for (int i = 0; i < 2; i++) {
    const int n = list_tasks(o, types[i]);
    const al_place *at = al_here(o->ctx, (alk_dtype)types[i]);
    if (n && o->adamw) ALK_RUN(at, adamw, n, o->tasks, &s, al_data(norm), al_data(o->steps));
    else if (n) ALK_RUN(at, sgd, n, o->tasks, &s, al_data(norm));
  }
}

al_status al_optim_step(al_optim *o, double lr, al_tensor **norm) {
  return al_optim_step_after(o, lr, NULL, norm);
}

al_status al_optim_step_after(al_optim *o, double lr, const al_tensor *after, al_tensor **norm) {
  al_ctx *c = o->ctx;
  if (norm) *norm = NULL;
  if (after && (after->dtype != AL_F64 || al_numel(after) != 1 ||
                after->storage->device != o->steps->storage->device))
    return al_fail(c, AL_EVALUE,
                   "optim: after: the norm of a step of this optimiser needed, got %s",
                   al_dtype_name(after->dtype));
  const bool off = c->scope_off;
  c->scope_off = true;
  al_device *before = al_device_use(c, o->steps->storage->device);
  al_tensor *n = take_slots(o) == AL_OK ? gradient_norm(o, after) : NULL;
  if (al_error(c) == AL_OK) update(o, lr, n);
  al_device_use(c, before);
  c->scope_off = off;
  if (norm && al_error(c) == AL_OK) *norm = al_scope_own(c, n);
  else al_release(n);
  return al_error(c);
}

int64_t al_optim_steps(const al_optim *o) { return (int64_t)al_item(o->steps); }
void al_optim_set_steps(al_optim *o, int64_t n) { al_write(o->steps, (double[]){(double)n}, 1); }

al_tensor *al_optim_state(al_optim *o, int i, const char **name) {
  for (int k = 0; k < o->n && i >= 0; k++) {
    const slot *s = &o->slots[k];
    al_tensor *const kept[] = {s->m, s->v, s->w == s->p ? NULL : s->w};
    const char *const words[] = {"m", "v", "w"};
    for (int part = 0; part < 3; part++) {
      if (!kept[part] || i-- > 0) continue;
      snprintf(o->label, sizeof o->label, "%s.%s", words[part], s->name);
      *name = o->label;
      return kept[part];
    }
  }
  return NULL;
}
