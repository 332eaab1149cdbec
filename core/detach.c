/* detach.c: values without history, and a tape of them: a difference of a function that detaches
 * must hold constant what the function calls constant. */
#include "core.h"
#include <stdlib.h>

static void drop(al_ctx *c) {
  for (int64_t i = 0; i < c->n_tape; i++) al_release(c->tape[i]);
  free(c->tape);
  c->tape = NULL;
  c->n_tape = c->tape_at = 0;
}

void al_detach_tape(al_ctx *c, al_tape mode) {
  if (mode != AL_TAPE_REPLAY) drop(c);
  c->tape_mode = mode;
  c->tape_at = 0;
}

/* A copy of its own at the end of the tape. */
static al_status record(al_ctx *c, const al_tensor *t) {
  if ((c->n_tape & (c->n_tape + 1)) == 0) { /* full at 0, 1, 3, 7, ... */
    al_tensor **more = realloc(c->tape, (size_t)(2 * c->n_tape + 1) * sizeof *more);
    if (!more) return al_fail(c, AL_ENOMEM, "out of memory (tape of %lld)", (long long)c->n_tape);
    c->tape = more;
  }
  const al_meta m = al_meta_of(t);
  al_tensor *copy = al_new_meta(c, &m);
  if (!copy) return c->error;
  c->tape[c->n_tape++] = copy;
  return al_copy_into(c, copy, t);
}

static al_tensor *recorded(al_ctx *c, const al_tensor *t) {
  al_tensor *kept = c->tape_at < c->n_tape ? c->tape[c->tape_at] : NULL;
  bool same = kept && kept->dtype == t->dtype && kept->ndim == t->ndim;
  for (int i = 0; same && i < t->ndim; i++) same = kept->shape[i] == t->shape[i];
  if (!same) {
    al_fail(c, AL_ESTATE,
            "detach: replay: number %lld of %lld recorded values is %s, the shape now is %s",
            (long long)c->tape_at + 1, (long long)c->n_tape,
            kept ? al_shape_str(kept, (char[96]){0}, 96) : "absent",
            al_shape_str(t, (char[96]){0}, 96));
    return NULL;
  }
  c->tape_at++;
  return kept;
}

al_tensor *al_detach(al_ctx *c, al_tensor *t) {
  if (!t || c->error != AL_OK) return NULL;
  if (c->tape_mode == AL_TAPE_REPLAY) t = recorded(c, t);
  if (c->tape_mode == AL_TAPE_RECORD) {
    const bool off = c->scope_off;
    c->scope_off = true; /* what is on the tape belongs to the tape */
    record(c, t);
    c->scope_off = off;
  }
  return c->error == AL_OK ? al_scope_own(c, al_tensor_alias(c, t)) : NULL;
}
