/* autograd.c: recording and reverse mode.
 *
 * A node holds what its op's backward declares (aliases of inputs and outputs without history), the
 * options and the edges. Backward collects the reachable nodes, sorts them by creation number
 * (every consumer of a node is younger), and runs each once; what a node held is dropped as it
 * runs, so the graph is gone afterwards. Sums of gradients are made in that fixed order. */
#include "core.h"
#include "../kernels/copy.h"
#include <stdlib.h>

void al_requires_grad(al_tensor *t, bool on) {
  if (t && !t->node) t->requires_grad = on && t->dtype != AL_I32;
}
bool al_needs_grad(const al_tensor *t) { return t && (t->requires_grad || t->node); }
al_tensor *al_grad(const al_tensor *t) { return t ? t->grad : NULL; }

void al_set_grad(al_tensor *t, al_tensor *g) {
  if (!t) return;
  al_retain(g);
  al_release(t->grad);
  t->grad = g;
}

bool al_grad_mode(al_ctx *c, bool on) {
  const bool old = c->record;
  c->record = on;
  return old;
}

/* Drops what a node holds; nodes it alone held are put on the work list. */
static void empty(al_node *n, al_node **work) {
  for (int i = 0; i < n->n_in; i++) {
    if (n->saved_in) al_release(n->saved_in[i]), n->saved_in[i] = NULL;
    if (!n->edges) continue;
    al_release(n->edges[i].leaf);
    n->edges[i].leaf = NULL;
    al_node *p = n->edges[i].node;
    n->edges[i].node = NULL;
    if (p && --p->refs == 0) p->next = *work, *work = p;
  }
  for (int i = 0; i < n->n_out; i++) {
    if (n->saved_out) al_release(n->saved_out[i]), n->saved_out[i] = NULL;
    if (n->grads) al_release(n->grads[i]), n->grads[i] = NULL;
  }
  al_opts_release(n->opts);
  n->opts = NULL;
}

static void delete (al_node *n) {
  free(n->in_meta);
  free(n->out_meta);
  free(n->edges);
  free(n->saved_in);
  free(n->saved_out);
  free(n->grads);
  free(n->plan);
  free(n);
}

/* A list, not recursion: a chain may be as long as a text. */
static void drain(al_node *work) {
  while (work) {
    al_node *n = work;
    work = n->next;
    empty(n, &work);
    delete (n);
  }
}

void al_node_release(al_node *n) {
  if (!n || --n->refs > 0) return;
  n->next = NULL;
  drain(n);
}

al_status al_record(al_ctx *c, al_call *k, al_tensor *const *origin, al_tensor *const *made) {
  al_node *n = al_calloc(c, 1, sizeof *n);
  if (!n) return c->error;
  *n = (al_node){.ctx = c,
                 .refs = 1,
                 .seq = ++c->seq,
                 .op = k->op,
                 .opts = al_opts_retain(k->opts),
                 .plan = k->plan,
                 .narrow = k->narrow,
                 .n_in = k->n_in,
                 .n_out = k->n_out};
  k->plan = NULL;
  n->in_meta = al_calloc(c, n->n_in, sizeof *n->in_meta);
  n->out_meta = al_calloc(c, n->n_out, sizeof *n->out_meta);
  n->edges = al_calloc(c, n->n_in, sizeof *n->edges);
  n->saved_in = al_calloc(c, n->n_in, sizeof *n->saved_in);
  n->saved_out = al_calloc(c, n->n_out, sizeof *n->saved_out);
  n->grads = al_calloc(c, n->n_out, sizeof *n->grads);
  if (c->error != AL_OK) goto fail;
  int n_rows = 0;
  while (k->op->info.inputs[n_rows].name) n_rows++;
  for (int i = 0; i < n->n_in; i++) {
    const int row = i < n_rows ? i : n_rows - 1;
    n->in_meta[i] = k->in_meta[i];
    if (!k->in[i]) continue;
    if (k->op->reads_in >> row & 1 && !(n->saved_in[i] = al_tensor_alias(c, k->in[i]))) goto fail;
    al_tensor *t = origin[i];
    if (k->op->info.inputs[row].flags & AL_IN_NODIFF) continue;
    if (t->node) {
      n->edges[i] = (al_edge){.node = t->node, .out = t->node_out};
      t->node->refs++;
    } else if (t->requires_grad) {
      n->edges[i].leaf = al_retain(t);
    }
  }
  for (int i = 0; i < n->n_out; i++) {
    n->out_meta[i] = al_meta_of(k->out[i]);
    if (k->op->reads_out >> i & 1 && !(n->saved_out[i] = al_tensor_alias(c, made[i]))) goto fail;
  }
  for (int i = 0; i < n->n_out; i++) {
    k->out[i]->node = n;
    k->out[i]->node_out = i;
    n->refs++;
  }
  n->refs--; /* held by its outputs alone */
  return AL_OK;
fail:
  n->refs = 1;
  al_node_release(n);
  return c->error;
}

/* Packed and seen by its one holder alone: may be changed in place. */
static bool own(const al_tensor *t) {
  return t->refs == 1 && t->storage->refs == 1 && !al_storage_shared(t->storage) &&
         al_contiguous(t);
}

al_tensor *al_overwrite(al_ctx *c, al_tensor *t) {
  if (own(t)) return al_retain(t);
  const al_meta m = al_meta_of(t);
  return al_new_meta(c, &m);
}

al_tensor *al_take_over(al_ctx *c, al_tensor **t) {
  if (!own(*t)) {
    const al_meta m = al_meta_of(*t);
    return al_new_meta(c, &m);
  }
  al_tensor *taken = *t;
  *t = NULL;
  return taken;
}

/* *slot += g; takes g. A tensor that nobody else sees is added to in place. */
static al_status accumulate(al_ctx *c, al_tensor **slot, al_tensor *g) {
  if (!*slot) {
    *slot = g;
    return AL_OK;
  }
  al_tensor *a = *slot;
  if (a->dtype != g->dtype) { /* of bf16: the sum is wider */
    al_retype(c, slot, al_statistic_type(a->dtype));
    a = *slot;
    al_retype(c, &g, a->dtype);
  }
  if (!own(a)) {
    const al_meta m = al_meta_of(a);
    al_tensor *d = al_new_meta(c, &m);
    if (!d) goto done;
    al_copy_into(c, d, a);
    al_release(a);
    *slot = a = d;
  }
  al_tensor *dense = al_contiguous_ref(c, g);
  if (dense) ALK_RUN(al_where(a), add_into, al_numel(a), al_data(a), al_data(dense));
  al_release(dense);
done:
  al_release(g);
  return c->error;
}

/* A leaf's gradient is its own, packed: an optimiser may change it in place. What a kernel made in
 * bf16 becomes f32. */
static al_status accumulate_leaf(al_ctx *c, al_tensor *leaf, al_tensor *g, bool widens) {
  if (widens && al_retype(c, &g, al_statistic_type(g->dtype)) != AL_OK) {
    al_release(g);
    return c->error;
  }
  if (!leaf->grad && !own(g)) {
    const al_meta m = al_meta_of(g);
    al_tensor *d = al_new_meta(c, &m);
    if (d) al_copy_into(c, d, g);
    al_release(g);
    g = d;
    if (!g) return c->error;
  }
  return accumulate(c, &leaf->grad, g);
}

/* Of that shape, and of that type or, as a gradient may be, of its statistics'. */
static bool fits(const al_tensor *t, const al_meta *m) {
  if (t->dtype != m->dtype && t->dtype != al_statistic_type(m->dtype)) return false;
  if (t->ndim != m->ndim) return false;
  for (int i = 0; i < m->ndim; i++)
    if (t->shape[i] != m->shape[i]) return false;
  return true;
}

/* Where the gradient along an edge is collected. */
static al_tensor **slot_of(const al_edge *e) {
  return e->leaf ? &e->leaf->grad : e->node ? &e->node->grads[e->out] : NULL;
}

/* What the backward reads is what the forward read, or made. */
static al_status unchanged(al_ctx *c, const al_node *n) {
  for (int i = 0; i < n->n_in + n->n_out; i++) {
    const bool in = i < n->n_in;
    const al_tensor *t = in ? n->saved_in[i] : n->saved_out[i - n->n_in];
    if (t && t->read_at != t->storage->writes)
      return al_fail(c, AL_ESTATE,
                     "%s: backward: its %s %d was written to after the forward; write into a copy, "
                     "or after the backward",
                     n->op->info.name, in ? "input" : "output", in ? i + 1 : i - n->n_in + 1);
  }
  return AL_OK;
}

/* A backward of bf16 runs in f32: what it reads is widened, and the gradients it makes stay so. */
static al_status widen(al_ctx *c, al_node *n) {
  for (int i = 0; i < n->n_in + n->n_out; i++) {
    const bool in = i < n->n_in;
    const int at = in ? i : i - n->n_in;
    al_meta *m = in ? &n->in_meta[at] : &n->out_meta[at];
    al_tensor **t = in ? &n->saved_in[at] : &n->saved_out[at];
    m->dtype = al_statistic_type(m->dtype);
    if (*t) AL_TRY(al_retype(c, t, al_statistic_type((*t)->dtype)));
    if (!in && n->grads[at])
      AL_TRY(al_retype(c, &n->grads[at], al_statistic_type(n->grads[at]->dtype)));
  }
  return c->error;
}

static bool takes_any_type(const al_op *op) {
  for (const al_row *r = op->info.inputs; r->name; r++)
    if (!(r->flags & AL_IN_ANY)) return false;
  return true;
}

/* The gradients that come to a node get the type it runs in. One that takes any type passes those
 * of bf16 on as they are, where all are so. */
static al_status type_grads(al_ctx *c, al_node *n) {
  bool wide = false;
  for (int i = 0; i < n->n_out; i++) {
    if (n->narrow && n->grads[i]) AL_TRY(al_retype(c, &n->grads[i], n->out_meta[i].dtype));
    wide |= n->grads[i] && n->grads[i]->dtype != AL_BF16;
  }
  return n->narrow || (takes_any_type(n->op) && !wide) ? c->error : widen(c, n);
}

static al_status run_node(al_ctx *c, al_node *n) {
  bool any = false;
  for (int i = 0; i < n->n_out; i++) any |= n->grads[i] != NULL;
  if (!any) return AL_OK;
  AL_TRY(unchanged(c, n));
  AL_TRY(type_grads(c, n));
  al_tensor *din[AL_MAX_INPUTS] = {0}, *sum[AL_MAX_INPUTS] = {0};
  bool need[AL_MAX_INPUTS] = {0};
  for (int i = 0; i < n->n_in; i++) {
    al_tensor **slot = slot_of(&n->edges[i]);
    need[i] = slot != NULL;
    if (slot && *slot && fits(*slot, &n->in_meta[i]) && own(*slot)) sum[i] = *slot;
  }
  for (int i = 0; i < n->n_out;
       i++) /* backward sees packed gradients unless the op takes strides */
    if (n->grads[i] && !(n->op->flags & (AL_OP_STRIDED | AL_OP_VIEW))) {
      al_tensor *d = al_contiguous_ref(c, n->grads[i]);
      al_release(n->grads[i]);
      n->grads[i] = d;
    }
  al_call k = {.op = n->op,
               .narrow = n->narrow,
               .opts = n->opts,
               .plan = n->plan,
               .n_in = n->n_in,
               .n_out = n->n_out,
               .in = n->saved_in,
               .out = n->saved_out,
               .in_meta = n->in_meta,
               .out_meta = n->out_meta,
               .dout = n->grads,
               .din = din,
               .need = need,
               .sum = sum};
  const char *outer = c->running;
  c->running = n->op->info.name;
  al_device *before = al_device_use(c, n->out_meta[0].device);
  if (c->error == AL_OK) n->op->backward(c, &k);
  al_device_use(c, before);
  c->running = outer;
  for (int i = 0; i < n->n_in; i++) {
    if (!din[i]) {
      if (need[i] && c->error == AL_OK)
        al_fail(c, AL_ESTATE, "%s: backward gave no gradient for input %d", n->op->info.name, i);
      continue;
    }
    if (c->error == AL_OK && din[i] != sum[i] && own(din[i])) al_jitter_apply(c, din[i]);
    if (c->error != AL_OK || !need[i] || din[i] == sum[i]) al_release(din[i]);
    else if (!fits(din[i], &n->in_meta[i])) {
      al_fail(c, AL_ESHAPE, "%s: backward of input %d: shape %s needed, got %s", n->op->info.name,
              i, al_meta_str(&n->in_meta[i], (char[96]){0}, 96), AL_STR(din[i]));
      al_release(din[i]);
    } else if (n->edges[i].leaf) accumulate_leaf(c, n->edges[i].leaf, din[i], true);
    else accumulate(c, &n->edges[i].node->grads[n->edges[i].out], din[i]);
  }
  return c->error;
}

static int youngest_first(const void *a, const void *b) {
  const al_node *x = *(al_node *const *)a, *y = *(al_node *const *)b;
  return x->seq < y->seq ? 1 : -1;
}

/* All nodes below root, marked; NULL on failure. */
static al_node **reachable(al_ctx *c, al_node *root, int64_t *count) {
  int64_t n = 0, cap = 256;
  al_node **list = malloc((size_t)cap * sizeof *list);
  if (!list) goto oom;
  list[n++] = root;
  root->marked = true;
  for (int64_t at = 0; at < n; at++)
    for (int i = 0; i < list[at]->n_in; i++) {
      al_node *p = list[at]->edges[i].node;
      if (!p || p->marked) continue;
      if (n == cap) {
        al_node **more = realloc(list, (size_t)(cap *= 2) * sizeof *list);
        if (!more) goto oom;
        list = more;
      }
      p->marked = true;
      list[n++] = p;
    }
  *count = n;
  return list;
oom:
  for (int64_t i = 0; i < n; i++) list[i]->marked = false;
  free(list);
  al_fail(c, AL_ENOMEM, "out of memory (backward over %lld nodes)", (long long)n);
  return NULL;
}

static al_tensor *start_gradient(al_ctx *c, al_tensor *t, al_tensor *seed) {
  al_meta m = al_meta_of(t);
  if (!seed) {
    m.dtype = al_statistic_type(m.dtype);
    if (al_numel(t) == 1) return al_new_meta_full(c, &m, 1);
    al_fail(c, AL_ESHAPE,
            "backward: a tensor of one element needed without a seed gradient, got shape %s",
            AL_STR(t));
    return NULL;
  }
  if (fits(seed, &m)) return al_contiguous_ref(c, seed);
  al_fail(c, AL_ESHAPE, "backward: seed: %s of shape %s needed, got %s of %s",
          al_dtype_name(t->dtype), AL_STR(t), al_dtype_name(seed->dtype), AL_STR(seed));
  return NULL;
}

al_status al_backward(al_ctx *c, al_tensor *t, al_tensor *seed) {
  if (c->error != AL_OK) return c->error;
  if (!t) return al_fail(c, AL_EVALUE, "backward: a tensor is needed");
  if (!al_needs_grad(t))
    return al_fail(c, AL_ESTATE,
                   "backward: the tensor depends on nothing that requires a gradient");
  if (t->node && t->node->spent)
    return al_fail(c, AL_ESTATE,
                   "backward: this graph was already used and is gone; compute it again");
  const bool off = c->scope_off, record = c->record;
  c->scope_off = true;
  c->record = false;
  al_tensor *g = start_gradient(c, t, seed);
  if (g && !t->node) accumulate_leaf(c, t, g, false);
  else if (g) {
    int64_t n = 0;
    al_node **list = reachable(c, t->node, &n);
    for (int64_t i = 0; list && i < n; i++)
      if (list[i]->spent)
        al_fail(c, AL_ESTATE, "backward: a part of this graph (%s) was already used and is gone",
                list[i]->op->info.name);
    if (list) {
      qsort(list, (size_t)n, sizeof *list, youngest_first);
      accumulate(c, &t->node->grads[t->node_out], g);
      for (int64_t i = 0; i < n; i++) list[i]->refs++; /* until the loop is past it */
      for (int64_t i = 0; i < n; i++) {
        al_node *node = list[i], *work = NULL;
        if (c->error == AL_OK) run_node(c, node);
        node->marked = false;
        node->spent = true;
        empty(node, &work);
        drain(work);
        if (--node->refs == 0) delete (node);
      }
    } else {
      al_release(g);
    }
    free(list);
  }
  c->scope_off = off;
  c->record = record;
  return c->error;
}
