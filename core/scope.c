/* scope.c: pools of references, so that a composition of ops reads as a formula. */
#include "core.h"
#include <stdlib.h>

void al_scope_begin(al_ctx *c) {
  if (c->n_marks < AL_MAX_SCOPES) c->marks[c->n_marks] = c->n_pool;
  else al_fail(c, AL_ESTATE, "scopes: nested deeper than %d", AL_MAX_SCOPES);
  c->n_marks++; /* also when it failed: its end must not close another */
}

al_tensor *al_scope_own(al_ctx *c, al_tensor *t) {
  if (!t || c->n_marks == 0 || c->scope_off) return t;
  if (c->n_pool == c->pool_cap) {
    const int64_t cap = c->pool_cap ? 2 * c->pool_cap : 256;
    al_tensor **p = realloc(c->pool, (size_t)cap * sizeof *p);
    if (!p) {
      al_release(t);
      al_fail(c, AL_ENOMEM, "out of memory (scope of %lld tensors)", (long long)cap);
      return NULL;
    }
    c->pool = p;
    c->pool_cap = cap;
  }
  c->pool[c->n_pool++] = t;
  return t;
}

bool al_scope_mode(al_ctx *c, bool on) {
  const bool old = !c->scope_off;
  c->scope_off = !on;
  return old;
}

al_tensor *al_scope_end(al_ctx *c, al_tensor *keep) {
  if (c->n_marks == 0) return keep;
  al_retain(keep);
  const int64_t from = --c->n_marks < AL_MAX_SCOPES ? c->marks[c->n_marks] : c->n_pool;
  while (c->n_pool > from) al_release(c->pool[--c->n_pool]);
  return al_scope_own(c, keep);
}
