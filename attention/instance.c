/* instance.c: one attention with its options, sizes and parameters; the border where inputs are
 * checked for every family alike. */
#include "state.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static al_status check_sizes(al_ctx *c, const attn_sizes *s) {
  /* so large that products of three of them and the bytes of an element stay below 2^63 */
  enum { LARGEST = 1 << 16, WIDEST = 1 << 30 };
  bool ok = s->width >= 0 && s->width <= WIDEST;
  const int64_t sizes[] = {s->heads, s->kv_heads, s->head_dim, s->value_dim};
  for (int i = 0; i < 4; i++) ok = ok && sizes[i] >= 1 && sizes[i] <= LARGEST;
  if (!ok)
    return al_fail(c, AL_EVALUE,
                   "attention: sizes of 1 to %d and a width of 0 to %d needed, got heads %lld, "
                   "kv_heads %lld, head_dim %lld, value_dim %lld, width %lld",
                   LARGEST, WIDEST, (long long)s->heads, (long long)s->kv_heads,
                   (long long)s->head_dim, (long long)s->value_dim, (long long)s->width);
  if (s->heads % s->kv_heads)
    return al_fail(c, AL_EVALUE, "attention: kv_heads: a divisor of heads = %lld needed, got %lld",
                   (long long)s->heads, (long long)s->kv_heads);
  return AL_OK;
}

static al_tensor *make_param(al_ctx *c, const attn_param *r, al_dtype dtype, uint64_t seed,
                             const char *tag) {
  const double value = r->init == ATTN_ONES ? 1 : r->init == ATTN_VALUE ? r->value : 0;
  al_tensor *t = al_tensor_full(c, dtype, r->ndim, r->shape, value);
  if (t && r->init == ATTN_UNIFORM) {
    char name[256];
    snprintf(name, sizeof name, "%s.%s", tag, r->name);
    const double bound = 1 / sqrt(r->value);
    al_fill_uniform(t, al_stream(seed, name), -bound, bound);
  }
  if (t) al_requires_grad(t, true);
  return t;
}

static uint64_t kind_of(const attn *a) {
  char text[1 << 14];
  al_opts_text(a->opts, true, text, sizeof text);
  const attn_sizes *s = &a->sizes;
  char all[sizeof text + 256];
  snprintf(all, sizeof all, "%s %s %lld %lld %lld %lld %lld %s", a->family->name, text,
           (long long)s->heads, (long long)s->kv_heads, (long long)s->head_dim,
           (long long)s->value_dim, (long long)s->width, al_dtype_name(a->dtype));
  return al_stream(0, all);
}

attn *attn_new(al_ctx *c, const attn_family *f, const al_opts *opts, const attn_sizes *s,
               al_dtype dtype, uint64_t seed, const char *tag) {
  AL_PLAIN_NUMBERS;
  if (al_error(c) != AL_OK || check_sizes(c, s) != AL_OK) return NULL;
  if (dtype == AL_I32) {
    al_fail(c, AL_ETYPE, "attention: dtype: f32, f64 or bf16 needed, got i32");
    return NULL;
  }
  if (f->check && f->check(c, opts, s) != AL_OK) return NULL;
  attn *a = calloc(1, sizeof *a);
  if (!a) {
    al_fail(c, AL_ENOMEM, "out of memory (attention)");
    return NULL;
  }
  a->family = f;
  a->sizes = *s;
  a->dtype = dtype;
  a->seed = seed;
  a->bare = !tag;
  snprintf(a->tag, sizeof a->tag, "%s", tag ? tag : "");
  a->opts = al_opts_copy(c, opts);
  a->n = a->opts && f->params && tag ? f->params(a->opts, s, a->rows) : 0;
  for (int i = 0; i < a->n; i++) a->p[i] = make_param(c, &a->rows[i], dtype, seed, tag);
  if (al_error(c) == AL_OK) {
    a->kind = kind_of(a);
    return a;
  }
  attn_free(a);
  return NULL;
}

void attn_free(attn *a) {
  if (!a) return;
  for (int i = 0; i < a->n; i++) al_release(a->p[i]);
  al_opts_release(a->opts);
  free(a);
}

static bool same_kind(const attn_param *a, const attn_param *b) {
  bool same = a->ndim == b->ndim && a->init == b->init && a->value == b->value;
  for (int i = 0; same && i < a->ndim; i++) same = a->shape[i] == b->shape[i];
  return same;
}

attn_sizes attn_sizes_filled(const attn_sizes *known, int64_t n) {
  attn_sizes s = *known;
  if (!s.kv_heads) s.kv_heads = s.heads ? s.heads : n;
  if (!s.heads) s.heads = n * s.kv_heads;
  if (!s.head_dim) s.head_dim = n;
  if (!s.value_dim) s.value_dim = n;
  return s;
}

bool attn_needs_sizes(const attn_family *f, const al_opts *o, const attn_sizes *known,
                      char name[48]) {
  const attn_sizes small = attn_sizes_filled(known, 1), large = attn_sizes_filled(known, 2);
  attn_param one[ATTN_MAX_PARAMS], other[ATTN_MAX_PARAMS];
  const int n = f->params ? f->params(o, &small, one) : 0;
  if (n) f->params(o, &large, other);
  for (int i = 0; i < n; i++)
    if (!same_kind(&one[i], &other[i])) {
      snprintf(name, 48, "%s", one[i].name);
      return true;
    }
  return false;
}

al_status attn_resize(al_ctx *c, attn *a, const attn_sizes *s) {
  AL_TRY(check_sizes(c, s));
  if (a->family->check) AL_TRY(a->family->check(c, a->opts, s));
  a->sizes = *s;
  a->kind = kind_of(a);
  return al_error(c);
}

const attn_family *attn_family_of(const attn *a) { return a->family; }
const al_opts *attn_opts(const attn *a) { return a->opts; }
const attn_sizes *attn_sizes_of(const attn *a) { return &a->sizes; }
al_dtype attn_dtype_of(const attn *a) { return a->dtype; }
unsigned attn_claims(const attn *a) { return a->family->claims ? a->family->claims(a->opts) : 0; }
/* Tokens that a family is asked about: more than memory holds, and room for it to add and
 * multiply. */
static int64_t tokens(int64_t n) {
  const int64_t most = (int64_t)1 << 53;
  return n < most ? n : most;
}

int64_t attn_state_bytes(const attn *a, int64_t t) {
  t = tokens(t);
  const attn_sizes *s = &a->sizes;
  if (a->family->state_bytes) return a->family->state_bytes(a->opts, s, t, attn_computes_in(a));
  if (a->family->state) return 0;
  /* replayed: q, k, v and x of every token */
  const int64_t token =
      s->heads * s->head_dim + s->kv_heads * (s->head_dim + s->value_dim) + s->width;
  int64_t bytes;
  return __builtin_mul_overflow(t, token * al_dtype_size(a->dtype), &bytes) ? INT64_MAX : bytes;
}

const char *attn_plan(const attn *a, int64_t T, char *buf, size_t n) {
  AL_PLAIN_NUMBERS;
  if (n) buf[0] = 0;
  if (a->family->plan) a->family->plan(a->opts, &a->sizes, attn_computes_in(a), tokens(T), buf, n);
  else snprintf(buf, n, "parallel, as %s computes it", a->family->name);
  return buf;
}

char *attn_source(al_ctx *c, const attn *a, const char *kind) {
  AL_PLAIN_NUMBERS;
  enum { SIZE = 1 << 16 };
  static const char *const kinds[] = {"formula", "latex", "torch"};
  enum { N = sizeof kinds / sizeof *kinds };
  if (al_error(c) != AL_OK) return NULL;
  int k = 0;
  while (k < N && strcmp(kind, kinds[k]) != 0) k++;
  if (k == N) {
    const char *near = al_nearest(kind, kinds, N);
    al_fail(c, AL_ENAME, "attention: source: formula, latex or torch needed, got '%s'%s%s%s", kind,
            near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    return NULL;
  }
  const attn_family *f = a->family;
  const bool line = k == 0, prints = line ? f->formula != NULL : f->source != NULL;
  char *text = prints ? calloc(1, SIZE) : NULL;
  if (!prints)
    al_fail(c, AL_EVALUE, "attention: source: family %s does not print itself as %s", f->name,
            kind);
  else if (!text) al_fail(c, AL_ENOMEM, "out of memory (attention source)");
  else if (line) {
    f->formula(a->opts, text, SIZE);
    return text;
  } else if (f->source(a->opts, &a->sizes, kind, text, SIZE) && strlen(text) < SIZE - 1)
    return text;
  else
    al_fail(c, AL_EVALUE, "attention: source: family %s has no %s text of these options", f->name,
            kind);
  free(text);
  return NULL;
}

al_tensor *attn_param_at(const attn *a, int i, const char **name) {
  if (i < 0 || i >= a->n) return NULL;
  if (name) *name = a->rows[i].name;
  return a->p[i];
}

const attn_tap_row *attn_tap_at(const attn *a, int i) {
  for (const attn_tap_row *r = a->family->taps; r && r->name; r++)
    if ((!r->has || r->has(a->opts)) && i-- == 0) return r;
  return NULL;
}

static bool same_shape(const al_tensor *a, const al_tensor *b) {
  if (al_ndim(a) != al_ndim(b) || al_type(a) != al_type(b)) return false;
  for (int i = 0; i < al_ndim(a); i++)
    if (al_size(a, i) != al_size(b, i)) return false;
  return true;
}

al_status attn_param_set(al_ctx *c, attn *a, int i, al_tensor *t) {
  char want[96], got[96];
  if (i < 0 || i >= a->n)
    return al_fail(c, AL_ENAME, "attention: parameter %d: there are %d", i, a->n);
  if (!same_shape(t, a->p[i]))
    return al_fail(c, AL_ESHAPE, "attention: parameter '%s': %s of shape %s needed, got %s of %s",
                   a->rows[i].name, al_dtype_name(a->dtype),
                   al_shape_str(a->p[i], want, sizeof want), al_dtype_name(al_type(t)),
                   al_shape_str(t, got, sizeof got));
  al_retain(t);
  al_release(a->p[i]);
  a->p[i] = t;
  return AL_OK;
}

/* One input against its wanted shape; a size of -1 is free. */
static al_status check_input(al_ctx *c, const attn *a, const char *name, const al_tensor *t,
                             int ndim, const int64_t *want, const char *legend) {
  char got[96];
  if (!t) return al_fail(c, AL_EVALUE, "attention: %s: a tensor %s is needed", name, legend);
  if (al_type(t) != a->dtype)
    return al_fail(c, AL_ETYPE, "attention: %s: %s needed as the parameters are, got %s", name,
                   al_dtype_name(a->dtype), al_dtype_name(al_type(t)));
  bool ok = al_ndim(t) == ndim;
  for (int i = 0; ok && i < ndim; i++) ok = want[i] < 0 || al_size(t, i) == want[i];
  if (ok) return AL_OK;
  char shape[128];
  size_t at = 0;
  for (int i = 0; i < ndim; i++) {
    if (want[i] < 0)
      at +=
          (size_t)snprintf(shape + at, sizeof shape - at, "%s%c", i ? "," : "", legend[1 + 2 * i]);
    else
      at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%lld", i ? "," : "",
                             (long long)want[i]);
  }
  return al_fail(c, AL_ESHAPE, "attention: %s: shape (%s) needed, got %s", name, shape,
                 al_shape_str(t, got, sizeof got));
}

static al_status has_parameters(al_ctx *c, const attn *a) {
  if (!a->bare) return al_error(c);
  return al_fail(c, AL_ESTATE, "attention: made without parameters, to be asked and not to run");
}

/* Every input against the sizes. */
al_status attn_check_inputs(al_ctx *c, const attn *a, const attn_in *in) {
  AL_TRY(al_error(c));
  AL_TRY(has_parameters(c, a));
  const attn_sizes *s = &a->sizes;
  const int64_t free_size = -1;
  const int64_t want_q[] = {free_size, free_size, s->heads, s->head_dim};
  AL_TRY(check_input(c, a, "q", in->q, 4, want_q, "(B,T,H,D)"));
  const int64_t B = al_size(in->q, 0), T = al_size(in->q, 1);
  const int64_t want_k[] = {B, free_size, s->kv_heads, s->head_dim};
  AL_TRY(check_input(c, a, "k", in->k, 4, want_k, "(B,S,H,D)"));
  const int64_t want_v[] = {B, al_size(in->k, 1), s->kv_heads, s->value_dim};
  AL_TRY(check_input(c, a, "v", in->v, 4, want_v, "(B,S,H,E)"));
  const int64_t want_x[] = {B, T, s->width};
  if (in->x && s->width) AL_TRY(check_input(c, a, "x", in->x, 3, want_x, "(B,T,C)"));
  if (in->lengths &&
      (al_type(in->lengths) != AL_I32 || al_ndim(in->lengths) != 1 || al_size(in->lengths, 0) != B))
    return al_fail(c, AL_ESHAPE, "attention: lengths: i32 of shape (%lld) needed, got %s of %s",
                   (long long)B, al_dtype_name(al_type(in->lengths)),
                   al_shape_str(in->lengths, (char[96]){0}, 96));
  if (in->offset < 0)
    return al_fail(c, AL_EVALUE, "attention: offset: at least 0 needed, got %lld",
                   (long long)in->offset);
  return AL_OK;
}

/* What forward of a plug-in returned: callers read it as (B,T,H,E). */
static void check_result(al_ctx *c, const attn *a, const attn_in *in, al_dtype dtype,
                         const al_tensor *o) {
  if (al_error(c) != AL_OK) return;
  char got[96];
  const int64_t want[] = {al_size(in->q, 0), al_size(in->q, 1), a->sizes.heads, a->sizes.value_dim};
  if (!o) {
    al_fail(c, AL_ESTATE, "attention: family %s: forward returned NULL and no error",
            a->family->name);
    return;
  }
  bool ok = al_ndim(o) == 4 && al_type(o) == dtype;
  for (int i = 0; ok && i < 4; i++) ok = al_size(o, i) == want[i];
  if (!ok)
    al_fail(
        c, AL_ESHAPE,
        "attention: family %s: forward must return %s of shape (%lld,%lld,%lld,%lld), (B,T,H,E), "
        "it returned %s of %s",
        a->family->name, al_dtype_name(dtype), (long long)want[0], (long long)want[1],
        (long long)want[2], (long long)want[3], al_dtype_name(al_type(o)),
        al_shape_str(o, got, sizeof got));
}

/* t itself where it is of that type; belongs to the open scope. */
static al_tensor *typed(al_ctx *c, al_tensor *t, al_dtype dtype) {
  return !t || al_type(t) == dtype ? t
                                   : al_run(c, "cast", AL_IN(t), "dtype=%s", al_dtype_name(dtype));
}

al_tensor *attn_run_family(al_ctx *c, attn *a, const attn_in *in) {
  AL_PLAIN_NUMBERS;
  const char *before = al_on(c, al_device_name(in->q)); /* what a family makes lies there */
  const bool narrow = a->dtype == AL_BF16 && al_type(in->q) == AL_BF16 && a->family->in_bf16 &&
                      a->family->in_bf16(c, a->opts, in);
  const al_dtype dtype = narrow ? AL_BF16 : attn_computes_in(a);
  al_tensor *p[ATTN_MAX_PARAMS];
  attn_in wide = *in;
  al_scope_begin(c);
  wide.q = typed(c, in->q, dtype), wide.k = typed(c, in->k, dtype);
  wide.v = typed(c, in->v, dtype), wide.x = typed(c, in->x, dtype);
  for (int i = 0; i < a->n; i++) p[i] = typed(c, a->p[i], dtype);
  al_tensor *o = NULL;
  if (al_error(c) == AL_OK) {
    const al_turn turn = al_turn_begin(c, a->family->name);
    o = a->family->forward(c, a->opts, &a->sizes, p, &wide);
    al_turn_end(c, &turn);
    check_result(c, a, in, dtype, o);
  }
  o = al_scope_end(c, al_error(c) == AL_OK ? typed(c, o, a->dtype) : NULL);
  al_on(c, before);
  return o;
}

al_tensor *attn_forward(al_ctx *c, attn *a, const attn_in *in) {
  if (attn_check_inputs(c, a, in) != AL_OK) return NULL;
  if (!in->sink && al_opts_has(a->opts, "form") && al_opt_is(a->opts, "form", "recurrent"))
    return attn_recur(c, a, in);
  attn_in whole = *in;
  whole.state = NULL, whole.next = NULL;
  return attn_run_family(c, a, &whole);
}

/* ---- another formula for a living instance --------------------------------------------------- */

al_status attn_set(al_ctx *c, attn *a, const al_opts *opts) {
  AL_TRY(has_parameters(c, a));
  attn *b = attn_new(c, a->family, opts, &a->sizes, a->dtype, a->seed, a->tag);
  if (!b) return al_error(c);
  for (int i = 0; i < b->n; i++)
    for (int k = 0; k < a->n; k++)
      if (strcmp(b->rows[i].name, a->rows[k].name) == 0 && same_shape(b->p[i], a->p[k])) {
        al_release(b->p[i]);
        b->p[i] = al_retain(a->p[k]);
      }
  const attn old = *a;
  *a = *b;
  *b = old;
  attn_free(b);
  return AL_OK;
}
