/* state.c: what a sequence carries from token to token, as tensors by name. */
#include "state.h"
#include <stdlib.h>
#include <string.h>

attn_state *attn_state_make(al_ctx *c, uint64_t kind, int64_t batch) {
  attn_state *st = calloc(1, sizeof *st);
  if (!st) {
    al_fail(c, AL_ENOMEM, "out of memory (attention state)");
    return NULL;
  }
  st->c = c;
  st->kind = kind;
  st->batch = batch;
  return st;
}

attn_state *attn_state_after(al_ctx *c, const attn_state *st, int64_t tokens) {
  attn_state *next = attn_state_make(c, st->kind, st->batch);
  if (!next) return NULL;
  next->position = st->position + tokens;
  next->padded = st->padded;
  next->replayed = st->replayed;
  return next;
}

void attn_state_free(attn_state *st) {
  for (int i = 0; st && i < st->n; i++) al_release(st->at[i].t);
  free(st);
}

static const attn_component *find(const attn_state *st, const char *name) {
  for (int i = 0; i < st->n; i++)
    if (strcmp(st->at[i].name, name) == 0) return &st->at[i];
  return NULL;
}

al_tensor *attn_state_get(const attn_state *st, const char *name) {
  const attn_component *x = find(st, name);
  return x ? x->t : NULL;
}

al_status attn_state_put(al_ctx *c, attn_state *st, const char *name, al_tensor *t,
                         const char *doc) {
  if (al_error(c) != AL_OK) return al_error(c);
  if (!t) return al_fail(c, AL_EVALUE, "attention: state: component '%s': a tensor needed", name);
  if (al_ndim(t) < 1 || al_size(t, 0) != st->batch)
    return al_fail(c, AL_ESHAPE,
                   "attention: state: component '%s': a first axis of %lld (the batch) needed, got "
                   "%s",
                   name, (long long)st->batch, al_shape_str(t, (char[96]){0}, 96));
  attn_component *x = (attn_component *)find(st, name);
  if (!x && st->n == ATTN_MAX_COMPONENTS)
    return al_fail(c, AL_EVALUE, "attention: state: component '%s': at most %d components", name,
                   ATTN_MAX_COMPONENTS);
  if (!x) {
    x = &st->at[st->n++];
    *x = (attn_component){.name = name};
  }
  al_retain(t);
  al_release(x->t);
  x->t = t;
  if (doc || !x->doc) x->doc = doc ? doc : "";
  return AL_OK;
}

int64_t attn_state_batch(const attn_state *st) { return st->batch; }
int64_t attn_state_position(const attn_state *st) { return st->position; }

bool attn_state_even(const attn_state *st, int64_t *seen) {
  *seen = st->position;
  if (!st->padded) return true;
  const al_turn turn = al_turn_begin(st->c, ""); /* waits, though it is the family's */
  double *n = malloc((size_t)st->batch * sizeof *n);
  bool even = n && al_read(attn_state_get(st, "count"), n, st->batch) == AL_OK;
  for (int64_t b = 0; even && b < st->batch; b++) even = n[b] == n[0];
  if (even) *seen = (int64_t)n[0];
  free(n);
  al_turn_end(st->c, &turn);
  return even;
}

int attn_state_count(const attn_state *st) { return st->n; }

al_tensor *attn_state_at(const attn_state *st, int i, const char **name, const char **doc) {
  if (i < 0 || i >= st->n) return NULL;
  if (name) *name = st->at[i].name;
  if (doc) *doc = st->at[i].doc;
  return st->at[i].t;
}

int64_t attn_state_size(const attn_state *st) {
  int64_t bytes = 0;
  for (int i = 0; i < st->n; i++)
    bytes += al_numel(st->at[i].t) * al_dtype_size(al_type(st->at[i].t));
  return bytes;
}

int64_t attn_state_held(const attn_state *st) {
  int64_t bytes = 0;
  for (int i = 0; i < st->n; i++) bytes += al_growing_bytes(st->at[i].t);
  return bytes;
}

attn_state *attn_state_copy(al_ctx *c, const attn_state *st) {
  attn_state *out = attn_state_after(c, st, 0);
  al_scope_begin(c);
  for (int i = 0; out && i < st->n; i++) {
    const attn_component *x = &st->at[i];
    al_tensor *t = al_tensor_new(c, al_type(x->t), al_ndim(x->t), al_shape(x->t));
    if (t && al_copy_into(c, t, x->t) == AL_OK) attn_state_put(c, out, x->name, t, x->doc);
  }
  al_scope_end(c, NULL);
  if (al_error(c) == AL_OK) return out;
  attn_state_free(out);
  return NULL;
}
