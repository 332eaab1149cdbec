/* recur.c: attention from state to state: continuing a sequence, and the recurrent form. A family
 * that declares no state is replayed: all inputs are kept and run again. */
#include "state.h"
#include <stdlib.h>
#include <string.h>

static const char *const count_doc = "keys that each row has seen";
/* What a family without a state is replayed from. */
static const char *const replayed[] = {"q", "k", "v", "x"};

static al_status empty_replay(al_ctx *c, const attn *a, int64_t batch, attn_state *st) {
  const attn_sizes *s = &a->sizes;
  const int64_t shapes[4][4] = {{batch, 0, s->heads, s->head_dim},
                                {batch, 0, s->kv_heads, s->head_dim},
                                {batch, 0, s->kv_heads, s->value_dim},
                                {batch, 0, s->width}};
  for (int i = 0; i < (s->width ? 4 : 3); i++) {
    al_tensor *t = al_tensor_new(c, a->dtype, i < 3 ? 4 : 3, shapes[i]);
    attn_state_put(c, st, replayed[i], t, "all inputs so far, run again for every token");
  }
  return al_error(c);
}

static attn_state *new_state(al_ctx *c, const attn *a, int64_t batch, bool replays) {
  AL_PLAIN_NUMBERS;
  if (al_error(c) != AL_OK) return NULL;
  if (batch < 1) {
    al_fail(c, AL_EVALUE, "attention: state: batch: at least 1 needed, got %lld", (long long)batch);
    return NULL;
  }
  attn_state *st = attn_state_make(c, a->kind, batch);
  if (!st) return NULL;
  st->replayed = replays || !a->family->state;
  al_scope_begin(c);
  if (st->replayed) empty_replay(c, a, batch, st);
  else a->family->state(c, a->opts, &a->sizes, batch, attn_computes_in(a), st);
  attn_state_put(c, st, "count", al_tensor_full(c, AL_I32, 1, &batch, 0), count_doc);
  al_scope_end(c, NULL);
  if (al_error(c) == AL_OK) return st;
  attn_state_free(st);
  return NULL;
}

attn_state *attn_state_new(al_ctx *c, const attn *a, int64_t batch) {
  return new_state(c, a, batch, false);
}

attn_state *attn_state_replayed(al_ctx *c, const attn *a, int64_t batch) {
  return new_state(c, a, batch, true);
}

/* What each row had before and how many of the T keys are present; in a scope. */
static al_tensor *total(al_ctx *c, const attn_state *st, const attn_in *in) {
  return al_run(c, "add_i32", AL_IN(attn_state_get(st, "count"), in->lengths), "by=%lld",
                in->lengths ? 0LL : (long long)al_size(in->k, 1));
}

bool attn_state_fits(const attn *a, const attn_state *st) { return st->kind == a->kind; }

static al_status check_state(al_ctx *c, const attn *a, const attn_in *in, const attn_state *st) {
  const int64_t B = al_size(in->q, 0), T = al_size(in->q, 1);
  if (!attn_state_fits(a, st))
    return al_fail(c, AL_ESTATE,
                   "attention: state: it was made for another family, other options or sizes; make "
                   "a new one");
  if (st->batch != B)
    return al_fail(c, AL_ESHAPE, "attention: state: a batch of %lld as q has needed, got %lld",
                   (long long)B, (long long)st->batch);
  if (in->sink && !st->replayed)
    return al_fail(c, AL_ESTATE,
                   "attention: state: taps need a state that keeps all inputs, made with "
                   "replay=true");
  if (!in->causal || in->offset != 0)
    return al_fail(c, AL_EVALUE,
                   "attention: state: causal=true and offset=0 needed: a state holds what came "
                   "before, got causal=%s, offset %lld",
                   in->causal ? "true" : "false", (long long)in->offset);
  if (al_size(in->k, 1) != T)
    return al_fail(c, AL_ESHAPE, "attention: state: as many keys as rows needed, got %lld and %lld",
                   (long long)al_size(in->k, 1), (long long)T);
  if (T > INT32_MAX - st->position)
    return al_fail(c, AL_EVALUE,
                   "attention: state: at most %d tokens in all needed, got %lld after %lld",
                   INT32_MAX, (long long)T, (long long)st->position);
  return AL_OK;
}

/* As the empty state has it; free along axis 1 where that has nothing yet. */
static al_status check_component(al_ctx *c, const attn_component *x, const al_tensor *t) {
  bool ok = t && al_type(t) == al_type(x->t) && al_ndim(t) == al_ndim(x->t);
  for (int k = 0; ok && k < al_ndim(t); k++)
    ok = al_size(t, k) == al_size(x->t, k) || (k == 1 && al_size(x->t, 1) == 0);
  if (ok) return AL_OK;
  char want[96], got[96];
  return al_fail(c, AL_ESHAPE,
                 "attention: state: component '%s': %s of shape %s needed, got %s%s%s", x->name,
                 al_dtype_name(al_type(x->t)), al_shape_str(x->t, want, sizeof want),
                 t ? al_dtype_name(al_type(t)) : "none", t ? " of " : "",
                 t ? al_shape_str(t, got, sizeof got) : "");
}

/* A count of its own, between 0 and the position. */
static al_status restore_count(al_ctx *c, attn_state *st) {
  double *n = malloc((size_t)st->batch * sizeof *n);
  if (!n) return al_fail(c, AL_ENOMEM, "out of memory (%lld counts)", (long long)st->batch);
  al_scope_begin(c);
  al_read(attn_state_get(st, "count"), n, st->batch);
  attn_state_put(c, st, "count", al_tensor_from(c, AL_I32, 1, &st->batch, n, st->batch), count_doc);
  for (int64_t b = 0; b < st->batch && al_error(c) == AL_OK; b++)
    if (n[b] < 0 || n[b] > (double)st->position)
      al_fail(c, AL_EFORMAT,
              "attention: state: count of row %lld: 0..%lld (the position) needed, got %.0f",
              (long long)b, (long long)st->position, n[b]);
    else st->padded |= n[b] != (double)st->position;
  al_scope_end(c, NULL);
  free(n);
  return al_error(c);
}

static al_tensor *given(const char *name, int n, const char *const *names, al_tensor *const *t) {
  for (int i = 0; i < n; i++)
    if (strcmp(names[i], name) == 0) return t[i];
  return NULL;
}

/* The empty state that these components are of: the family's own, or one that keeps all inputs. */
static attn_state *empty_of(al_ctx *c, const attn *a, int64_t batch, int n,
                            const char *const *names, al_tensor *const *t) {
  attn_state *st = attn_state_new(c, a, batch);
  if (!st || !given(replayed[0], n, names, t) || attn_state_get(st, replayed[0])) return st;
  attn_state_free(st);
  return attn_state_replayed(c, a, batch);
}

/* Components come from files: they must hold as much as a state of `batch` sequences is about to
 * ask for, which the state of one says. */
static al_status hold_batch(al_ctx *c, const attn *a, int64_t batch, int n,
                            const char *const *names, al_tensor *const *t) {
  attn_state *one = empty_of(c, a, 1, n, names, t);
  for (int k = 0; one && k < one->n; k++) {
    const al_tensor *found = given(one->at[k].name, n, names, t);
    if (found && al_numel(found) / batch >= al_numel(one->at[k].t)) continue;
    char got[96] = "none";
    if (found) al_shape_str(found, got, sizeof got);
    al_fail(c, AL_ESHAPE,
            "attention: state: component '%s': %lld sequences as in 'count' needed, got %s",
            one->at[k].name, (long long)batch, got);
    break;
  }
  attn_state_free(one);
  return al_error(c);
}

attn_state *attn_state_restore(al_ctx *c, const attn *a, int64_t position, int n,
                               const char *const *names, al_tensor *const *t) {
  int64_t batch = 0;
  for (int i = 0; i < n; i++)
    if (strcmp(names[i], "count") == 0 && al_ndim(t[i]) == 1) batch = al_size(t[i], 0);
  if (batch < 1 || position < 0 || position > INT32_MAX) {
    al_fail(c, AL_EFORMAT,
            "attention: state: a component 'count' of shape (batch) and a position of 0..%d "
            "needed, got a batch of %lld and position %lld",
            INT32_MAX, (long long)batch, (long long)position);
    return NULL;
  }
  if (hold_batch(c, a, batch, n, names, t) != AL_OK) return NULL;
  attn_state *st = empty_of(c, a, batch, n, names, t);
  if (!st) return NULL;
  st->position = position;
  for (int k = 0; k < st->n && al_error(c) == AL_OK; k++) {
    al_tensor *found = given(st->at[k].name, n, names, t);
    if (check_component(c, &st->at[k], found) == AL_OK)
      attn_state_put(c, st, st->at[k].name, found, st->at[k].doc);
  }
  if (al_error(c) == AL_OK && n != st->n)
    al_fail(c, AL_EFORMAT, "attention: state: %d components needed, got %d", st->n, n);
  if (al_error(c) == AL_OK) restore_count(c, st);
  if (al_error(c) == AL_OK) return st;
  attn_state_free(st);
  return NULL;
}

static al_status same_counts(al_ctx *c, const attn_state *st) {
  int64_t seen;
  if (attn_state_even(st, &seen) && seen == st->position) return AL_OK;
  return al_fail(c, AL_ESTATE,
                 "attention: state: this family keeps all inputs, so no row may have been padded: "
                 "each needs %lld tokens",
                 (long long)st->position);
}

/* Appends the inputs to those kept, runs forward on all, returns the last T rows. */
static al_tensor *replay(al_ctx *c, attn *a, const attn_in *in, const attn_state *st,
                         attn_state *next) {
  if (same_counts(c, st) != AL_OK) return NULL;
  const int64_t T = al_size(in->q, 1), before = st->position;
  al_tensor *const now[] = {in->q, in->k, in->v, in->x};
  al_tensor *all[4] = {0};
  al_scope_begin(c);
  for (int i = 0; i < (a->sizes.width ? 4 : 3); i++) {
    al_tensor *kept = attn_state_get(st, replayed[i]);
    if (!now[i]) continue;
    all[i] = before ? al_run(c, "concat", AL_IN(kept, now[i]), "axis=1") : now[i];
    if (all[i]) attn_state_put(c, next, replayed[i], all[i], NULL);
  }
  if (a->sizes.width && !in->x) /* none so far either: kept empty */
    attn_state_put(c, next, "x", attn_state_get(st, "x"), NULL);
  attn_in whole = *in;
  whole.state = NULL, whole.next = NULL;
  whole.q = all[0], whole.k = all[1], whole.v = all[2], whole.x = all[3];
  if (in->lengths)
    whole.lengths = al_run(c, "add_i32", AL_IN(in->lengths), "by=%lld", (long long)before);
  al_tensor *o = al_error(c) == AL_OK ? attn_run_family(c, a, &whole) : NULL;
  if (before)
    o = al_run(c, "slice", AL_IN(o), "axis=1 start=%lld stop=%lld", (long long)before,
               (long long)(before + T));
  return al_scope_end(c, al_error(c) == AL_OK ? o : NULL);
}

static attn_state *detached(al_ctx *c, const attn_state *st) {
  attn_state *out = attn_state_after(c, st, 0);
  al_scope_begin(c);
  for (int i = 0; out && i < st->n; i++)
    attn_state_put(c, out, st->at[i].name, al_detach(c, st->at[i].t), st->at[i].doc);
  al_scope_end(c, NULL);
  return out;
}

/* Of a state that was checked. */
static al_tensor *advance(al_ctx *c, attn *a, const attn_in *in, const attn_state *st,
                          attn_state **next) {
  *next = attn_state_after(c, st, al_size(in->q, 1));
  if (!*next) return NULL;
  (*next)->padded |= in->lengths != NULL;
  al_scope_begin(c);
  attn_in with = *in;
  with.state = st;
  with.next = *next;
  if (in->lengths) /* so that they add up */
    with.lengths =
        al_run(c, "add_i32", AL_IN(in->lengths), "min=0 max=%lld", (long long)al_size(in->q, 1));
  al_tensor *o = NULL;
  if (al_error(c) == AL_OK)
    o = st->replayed ? replay(c, a, &with, st, *next) : attn_run_family(c, a, &with);
  attn_state_put(c, *next, "count", total(c, st, &with), count_doc);
  for (int i = 0; al_error(c) == AL_OK && i < st->n; i++)
    if (!attn_state_get(*next, st->at[i].name))
      al_fail(c, AL_ESTATE, "attention: family %s: component '%s' of the state was not put",
              a->family->name, st->at[i].name);
  if (al_error(c) != AL_OK) {
    attn_state_free(*next);
    *next = NULL;
    o = NULL;
  }
  return al_scope_end(c, o);
}

al_tensor *attn_continue(al_ctx *c, attn *a, const attn_in *in, const attn_state *st, bool detach,
                         attn_state **next) {
  *next = NULL;
  if (attn_check_inputs(c, a, in) != AL_OK || check_state(c, a, in, st) != AL_OK) return NULL;
  if (!detach) return advance(c, a, in, st, next);
  attn_state *cut = detached(c, st);
  al_tensor *o = cut && al_error(c) == AL_OK ? advance(c, a, in, cut, next) : NULL;
  attn_state_free(cut);
  return o;
}

/* Token t of the inputs; the tensors belong to the open scope. */
static attn_in token(al_ctx *c, const attn_in *in, int64_t t) {
  attn_in one = *in;
  al_tensor **const at[] = {&one.q, &one.k, &one.v, &one.x};
  for (int i = 0; i < 4; i++)
    if (*at[i])
      *at[i] = al_run(c, "slice", AL_IN(*at[i]), "axis=1 start=%lld stop=%lld", (long long)t,
                      (long long)t + 1);
  if (in->lengths)
    one.lengths = al_run(c, "add_i32", AL_IN(in->lengths), "by=%lld min=0 max=1", -(long long)t);
  return one;
}

al_tensor *attn_recur(al_ctx *c, attn *a, const attn_in *in) {
  if (attn_check_inputs(c, a, in) != AL_OK) return NULL;
  const int64_t T = al_size(in->q, 1);
  const char *before = al_on(c, al_device_name(in->q));
  attn_state *st = attn_state_new(c, a, al_size(in->q, 0));
  al_on(c, before);
  if (!st || check_state(c, a, in, st) != AL_OK) {
    attn_state_free(st);
    return NULL;
  }
  al_tensor **rows = calloc((size_t)(T ? T : 1), sizeof *rows), *o = NULL;
  if (!rows) al_fail(c, AL_ENOMEM, "out of memory (recurrent form of %lld tokens)", (long long)T);
  al_scope_begin(c); /* holds the rows */
  for (int64_t t = 0; t < T && al_error(c) == AL_OK; t++) {
    attn_state *next = NULL;
    al_scope_begin(c);
    const attn_in one = token(c, in, t);
    rows[t] = al_scope_end(c, al_error(c) == AL_OK ? advance(c, a, &one, st, &next) : NULL);
    if (next) attn_state_free(st), st = next;
  }
  if (al_error(c) == AL_OK)
    o = T ? al_run(c, "concat", rows, (int)T, "axis=1") : attn_run_family(c, a, in);
  free(rows);
  attn_state_free(st);
  return al_scope_end(c, o);
}
