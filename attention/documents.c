/* documents.c: packed rows: several documents one behind the other in a row of a batch.
 *
 * The documents are laid apart, one a row of its own, padded, and the family runs as ever with
 * lengths: so positions, counts, sums, states and whatever else a family carries begin anew with
 * each of them in every form, and what another document holds reaches nothing, because it is not
 * there. Documents of about one length form a group, so that padding stays below the tokens
 * themselves; a group is one call of the family. What comes out is put back where its tokens stood.
 */
#include "state.h"
#include "variant.h"
#include <stdlib.h>
#include <string.h>

typedef struct document {
  int64_t row, start, length; /* length 0: a row of a group that holds none */
} document;

/* Documents that are run in one call; their tensors lie where the layout's device says. */
typedef struct group {
  int64_t n, longest;
  document *at;
  al_tensor *ids, *back, *lengths; /* of pick_rows, and (n) i32 */
} group;

enum { MAX_GROUPS = 64 };
typedef struct layout {
  bool made;
  int n_groups;
  group g[MAX_GROUPS];
  const char *device;      /* NULL: no tensors yet */
  al_tensor *where, *from; /* of pick_rows: where each token lies behind one another's groups */
} layout;

/* APART: all documents. BEGUN, CONTINUED: what a state needs, one that has seen nothing or another: a
 * group of the batch's rows with the last document of each; then, CONTINUED, one with those that
 * go on and end; then the others. */
typedef enum layout_kind { APART, BEGUN, CONTINUED, N_LAYOUTS } layout_kind;

struct attn_documents {
  al_ctx *c;
  int64_t B, T, n;
  document *at; /* row by row */
  layout by[N_LAYOUTS];
};

/* ---- from starts ----------------------------------------------------------------------------- */

static al_status read_starts(al_ctx *c, const double *v, attn_documents *d) {
  for (int64_t b = 0; b < d->B; b++)
    for (int64_t t = 0; t < d->T; t++) {
      const double got = v[b * d->T + t], before = t ? v[b * d->T + t - 1] : 0;
      const bool begins = got == (double)t;
      if (!begins && got != before)
        return al_fail(c, AL_EVALUE,
                       "attention: documents: row %lld of %lld, place %lld (from 0): %.0f, where "
                       "the document before goes on, or %lld, where one begins, needed, got %.0f",
                       (long long)b + 1, (long long)d->B, (long long)t, before, (long long)t, got);
      if (begins) d->at[d->n++] = (document){.row = b, .start = t};
      d->at[d->n - 1].length++;
    }
  return AL_OK;
}

attn_documents *attn_documents_new(al_ctx *c, const al_tensor *starts) {
  if (al_error(c) != AL_OK) return NULL;
  if (al_type(starts) != AL_I32 || al_ndim(starts) != 2) {
    al_fail(c, al_type(starts) != AL_I32 ? AL_ETYPE : AL_ESHAPE,
            "attention: documents: i32 of shape (B,T) needed, got %s of %s",
            al_dtype_name(al_type(starts)), al_shape_str(starts, (char[96]){0}, 96));
    return NULL;
  }
  const int64_t n = al_numel(starts);
  attn_documents *d = calloc(1, sizeof *d);
  double *v = malloc((size_t)n * sizeof *v + 1);
  if (d) d->at = malloc((size_t)n * sizeof *d->at + 1);
  if (!d || !d->at || !v) {
    al_fail(c, AL_ENOMEM, "out of memory (documents of %lld tokens)", (long long)n);
  } else {
    d->c = c, d->B = al_size(starts, 0), d->T = al_size(starts, 1);
    const al_turn turn = al_turn_begin(c, ""); /* waits, whoever has the turn */
    if (al_read(starts, v, n) == AL_OK) read_starts(c, v, d);
    al_turn_end(c, &turn);
  }
  free(v);
  if (al_error(c) == AL_OK) return d;
  attn_documents_free(d);
  return NULL;
}

static void forget_tensors(layout *l) {
  for (int i = 0; i < l->n_groups; i++) {
    group *g = &l->g[i];
    al_release(g->ids), al_release(g->back), al_release(g->lengths);
    g->ids = g->back = g->lengths = NULL;
  }
  al_release(l->where), al_release(l->from);
  l->where = l->from = NULL;
  l->device = NULL;
}

static void forget_groups(layout *l) {
  forget_tensors(l);
  for (int i = 0; i < l->n_groups; i++) free(l->g[i].at);
  l->n_groups = 0;
}

void attn_documents_free(attn_documents *d) {
  for (int k = 0; d && k < N_LAYOUTS; k++) forget_groups(&d->by[k]);
  if (d) free(d->at);
  free(d);
}

bool attn_documents_packed(const attn_documents *d) { return d->n > d->B; }

void attn_documents_sizes(const attn_documents *d, int64_t *B, int64_t *T) { *B = d->B, *T = d->T; }

/* v, which it frees, as i32 (B,n). */
static al_tensor *by_token(al_ctx *c, const attn_documents *d, int64_t n, double *v) {
  if (!v) al_fail(c, AL_ENOMEM, "out of memory (positions)");
  al_tensor *t = v ? al_tensor_from(c, AL_I32, 2, (int64_t[]){d->B, n}, v, d->B * n) : NULL;
  free(v);
  return t;
}

al_tensor *attn_documents_positions(al_ctx *c, const attn_documents *d, int64_t before) {
  double *v = malloc((size_t)(d->B * d->T) * sizeof *v + 1);
  for (int64_t i = 0; v && i < d->n; i++)
    for (int64_t t = 0; t < d->at[i].length; t++)
      v[d->at[i].row * d->T + d->at[i].start + t] = (double)(d->at[i].start == 0 ? t + before : t);
  return by_token(c, d, d->T, v);
}

al_tensor *attn_documents_last(al_ctx *c, const attn_documents *d, int64_t n) {
  double *v = malloc((size_t)(d->B * n) * sizeof *v + 1);
  for (int64_t i = 0; v && i < d->n; i++) /* the last document of a row writes last */
    for (int64_t k = 0; k < n; k++)
      v[d->at[i].row * n + k] = d->at[i].start == 0 || d->T - n + k >= d->at[i].start;
  return by_token(c, d, n, v);
}

int64_t attn_documents_after(const attn_documents *d, int64_t before) {
  int64_t most = 0;
  for (int64_t i = 0; i < d->n; i++) {
    const document *x = &d->at[i];
    const int64_t seen = x->start == 0 ? before + x->length : x->length;
    if (x->start + x->length == d->T && seen > most) most = seen;
  }
  return most;
}

/* ---- groups ---------------------------------------------------------------------------------- */

static group *add_group(al_ctx *c, layout *l, int64_t room) {
  group *g = &l->g[l->n_groups];
  *g = (group){.at = calloc((size_t)room + 1, sizeof *g->at)};
  if (!g->at) al_fail(c, AL_ENOMEM, "out of memory (%lld documents)", (long long)room);
  else l->n_groups++;
  return g->at ? g : NULL;
}

static void add_document(group *g, document x) {
  g->at[g->n++] = x;
  if (x.length > g->longest) g->longest = x.length;
}

static int longer_first(const void *a, const void *b) {
  const document *x = a, *y = b;
  if (x->length != y->length) return x->length > y->length ? -1 : 1;
  return x->row != y->row ? (x->row < y->row ? -1 : 1) : x->start < y->start ? -1 : 1;
}

/* Longest first. Each group is a call, so it ends where padding would be more than an eighth of it, and
 * either it holds an eighth of the tokens or a document is half as long and padding no longer little. */
static void group_all(const attn_documents *d, layout *l, document *x, int64_t n) {
  const int64_t tokens = d->B * d->T;
  qsort(x, (size_t)n, sizeof *x, longer_first);
  group *g = NULL;
  int64_t padding = 0;
  for (int64_t i = 0; i < n; i++) {
    if (g && l->n_groups < MAX_GROUPS) {
      const int64_t size = g->n * g->longest, more = padding + g->longest - x[i].length;
      const bool full = 8 * size >= tokens,
                 shorter = 2 * x[i].length <= g->longest && 16 * more > tokens;
      if (8 * more > size + g->longest && (full || shorter)) g = NULL;
    }
    if (!g) padding = 0;
    if (!g && !(g = add_group(d->c, l, n - i))) return;
    add_document(g, x[i]);
    padding += g->longest - x[i].length;
  }
}

static void make_layout(attn_documents *d, layout_kind kind, layout *l) {
  document *rest = malloc((size_t)d->n * sizeof *rest + 1);
  group *last = kind == APART ? NULL : add_group(d->c, l, d->B),
        *first = kind == CONTINUED ? add_group(d->c, l, d->B) : NULL;
  int64_t n = 0;
  if (!rest) al_fail(d->c, AL_ENOMEM, "out of memory (%lld documents)", (long long)d->n);
  for (int64_t i = 0; al_error(d->c) == AL_OK && i < d->n; i++) {
    const document x = d->at[i];
    const bool ends = x.start + x.length == d->T;
    if (last && ends) add_document(last, x);
    else if (first && x.start == 0) add_document(first, x);
    else rest[n++] = x;
    if (first && ends && x.start == 0) add_document(first, (document){.row = x.row});
  }
  if (al_error(d->c) == AL_OK) group_all(d, l, rest, n);
  free(rest);
  l->made = al_error(d->c) == AL_OK;
  if (!l->made) forget_groups(l);
}

/* ---- their tensors --------------------------------------------------------------------------- */

/* Writes where the tokens of g lie, counted from 1: back of its own, and of all groups. */
static void make_tensors(const attn_documents *d, group *g, double *ids, double *back,
                         double *where, double *from, int64_t before) {
  al_ctx *c = d->c;
  const int64_t n = g->n, longest = g->longest, all = d->B * d->T;
  memset(ids, 0, (size_t)(n * longest) * sizeof *ids);
  memset(back, 0, (size_t)all * sizeof *back);
  for (int64_t i = 0; i < n; i++)
    for (int64_t t = 0; t < g->at[i].length; t++) {
      const int64_t token = g->at[i].row * d->T + g->at[i].start + t, at = i * longest + t;
      ids[at] = from[before + at] = (double)(token + 1);
      back[token] = (double)(at + 1);
      where[token] = (double)(before + at + 1);
    }
  g->ids = al_tensor_from(c, AL_I32, 2, (int64_t[]){n, longest}, ids, n * longest);
  g->back = al_tensor_from(c, AL_I32, 1, &all, back, all);
  for (int64_t i = 0; i < n; i++) ids[i] = (double)g->at[i].length;
  g->lengths = al_tensor_from(c, AL_I32, 1, &n, ids, n);
}

/* The layout with its tensors on the current device, made once; NULL with the error pending. */
static layout *layout_of(attn_documents *d, layout_kind kind) {
  al_ctx *c = d->c;
  layout *l = &d->by[kind];
  const char *here = al_on(c, NULL);
  if (l->device && strcmp(l->device, here) == 0) return l;
  forget_tensors(l);
  if (!l->made) make_layout(d, kind, l);
  int64_t P = 0, all = d->B * d->T;
  for (int i = 0; i < l->n_groups; i++) P += l->g[i].n * l->g[i].longest;
  const size_t most = (size_t)(P + all + d->n);
  double *v = calloc(3 * most + 1, sizeof *v);
  if (!v) al_fail(c, AL_ENOMEM, "out of memory (documents of %lld tokens)", (long long)all);
  const bool on = al_scope_mode(c, false); /* they outlive the scope of a call */
  double *from = v + 2 * most, *where = v + most;
  int64_t before = 0;
  for (int i = 0; al_error(c) == AL_OK && i < l->n_groups; i++) {
    make_tensors(d, &l->g[i], v, v + P + d->n, where, from, before);
    before += l->g[i].n * l->g[i].longest;
  }
  if (al_error(c) == AL_OK) {
    l->where = al_tensor_from(c, AL_I32, 2, (int64_t[]){d->B, d->T}, where, all);
    l->from = al_tensor_from(c, AL_I32, 1, &P, from, P);
  }
  al_scope_mode(c, on);
  free(v);
  if (al_error(c) == AL_OK) l->device = here;
  else forget_tensors(l);
  return al_error(c) == AL_OK ? l : NULL;
}

/* ---- running --------------------------------------------------------------------------------- */

/* Axes 0 and 1 of t as one. */
static al_tensor *joined(al_ctx *c, al_tensor *t) {
  int64_t shape[AL_MAX_DIMS];
  const int n = al_ndim(t) - 1;
  shape[0] = al_size(t, 0) * al_size(t, 1);
  for (int i = 1; i < n; i++) shape[i] = al_size(t, i + 1);
  return attn_reshape(c, t, n, shape);
}

/* The inputs as tokens one after another: once for all groups, whose gradients then add up in one. */
static attn_in tokens_of(al_ctx *c, const attn_in *in) {
  attn_in all = *in;
  all.q = joined(c, in->q), all.k = joined(c, in->k), all.v = joined(c, in->v);
  if (in->x) all.x = joined(c, in->x);
  return all;
}

static al_tensor *apart(al_ctx *c, al_tensor *t, const group *g) {
  return t ? al_run(c, "pick_rows", AL_IN(t, g->ids, g->back), "") : NULL;
}

static attn_in inputs_of(al_ctx *c, const attn_in *tokens, const group *g) {
  attn_in own = *tokens;
  own.q = apart(c, tokens->q, g), own.k = apart(c, tokens->k, g);
  own.v = apart(c, tokens->v, g), own.x = apart(c, tokens->x, g);
  own.lengths = g->lengths;
  return own;
}

/* Outputs of the groups, back in the rows. */
static al_tensor *together(al_ctx *c, const layout *l, al_tensor **o) {
  if (al_error(c) != AL_OK) return NULL;
  for (int i = 0; i < l->n_groups; i++) o[i] = joined(c, o[i]);
  al_tensor *all = l->n_groups > 1 && al_error(c) == AL_OK
                       ? al_run(c, "concat", o, l->n_groups, "axis=0")
                       : o[0];
  return al_run(c, "pick_rows", AL_IN(all, l->where, l->from), "");
}

static al_status check_call(al_ctx *c, const attn *a, const attn_in *in, const attn_documents *d) {
  AL_TRY(attn_check_inputs(c, a, in));
  const long long B = al_size(in->q, 0), T = al_size(in->q, 1), S = al_size(in->k, 1);
  if (d->B != B || d->T != T)
    return al_fail(c, AL_ESHAPE,
                   "attention: documents: starts of shape (%lld,%lld) needed to match q, got "
                   "(%lld,%lld)",
                   B, T, (long long)d->B, (long long)d->T);
  if (T != S || in->offset != 0)
    return al_fail(
        c, AL_ESHAPE,
        "attention: documents: rows that are the keys' own tokens needed, got %lld rows, "
        "%lld keys, offset %lld",
        T, S, (long long)in->offset);
  if (in->lengths)
    return al_fail(c, AL_EVALUE,
                   "attention: documents: no lengths beside them: padding at the end of a row is a "
                   "document of its own");
  if (in->sink)
    return al_fail(c, AL_EVALUE,
                   "attention: documents: taps of inner tensors need each document in a row of its "
                   "own");
  return AL_OK;
}

al_tensor *attn_forward_packed(al_ctx *c, attn *a, const attn_in *in, attn_documents *d) {
  if (check_call(c, a, in, d) != AL_OK) return NULL;
  if (!attn_documents_packed(d)) return attn_forward(c, a, in);
  al_tensor *o[MAX_GROUPS] = {0};
  const char *before = al_on(c, al_device_name(in->q));
  al_scope_begin(c);
  const layout *l = layout_of(d, APART);
  const attn_in all = tokens_of(c, in);
  for (int i = 0; l && i < l->n_groups && al_error(c) == AL_OK; i++) {
    const attn_in own = inputs_of(c, &all, &l->g[i]);
    o[i] = al_error(c) == AL_OK ? attn_forward(c, a, &own) : NULL;
  }
  al_tensor *y = l ? together(c, l, o) : NULL;
  y = al_scope_end(c, al_error(c) == AL_OK ? y : NULL);
  al_on(c, before);
  return y;
}

const char *attn_plan_packed(const attn *a, int64_t T, char *buf, size_t n) {
  attn_plan(a, T, buf, n);
  const size_t at = strlen(buf);
  if (at < n)
    snprintf(
        buf + at, n - at,
        "; packed rows: documents laid apart with lengths, each group by its longest, never by "
        "cuDNN");
  return buf;
}

/* ---- states ---------------------------------------------------------------------------------- */

/* A number a row, 1 axis for each of t's: `anew` where its last document does not begin at 0. */
static al_tensor *by_row(al_ctx *c, const attn_documents *d, int ndim, double anew) {
  int64_t shape[AL_MAX_DIMS] = {d->B, 1, 1, 1, 1};
  double *v = calloc((size_t)d->B + 1, sizeof *v);
  for (int64_t i = 0; v && i < d->n; i++)
    if (d->at[i].start > 0) v[d->at[i].row] = anew;
  if (!v) al_fail(c, AL_ENOMEM, "out of memory (%lld rows)", (long long)d->B);
  al_tensor *t = v ? al_tensor_from(c, AL_I32, ndim, shape, v, d->B) : NULL;
  free(v);
  return t;
}

static bool alike(const al_tensor *a, const al_tensor *b) {
  bool same = al_type(a) == al_type(b) && al_ndim(a) == al_ndim(b);
  for (int i = 0; same && i < al_ndim(a); i++) same = al_size(a, i) == al_size(b, i);
  return same;
}

/* st, but rows whose last document begins in this call have seen nothing. What grows stays: no row
 * looks behind its count. In a scope; the caller's. */
static attn_state *begun_anew(al_ctx *c, const attn *a, const attn_documents *d,
                              const attn_state *st) {
  attn_state *empty = st->replayed ? attn_state_replayed(c, a, d->B) : attn_state_new(c, a, d->B),
             *out = attn_state_after(c, st, 0);
  if (out) out->padded = true;
  for (int i = 0; empty && out && i < st->n; i++) {
    const attn_component *x = &st->at[i];
    al_tensor *none = attn_state_get(empty, x->name), *t = x->t;
    if (strcmp(x->name, "count") == 0)
      t = al_run(c, "add_i32", AL_IN(t, by_row(c, d, 1, -INT32_MAX)), "min=0");
    else if (alike(none, t) && al_type(t) == AL_I32)
      al_fail(
          c, AL_ESTATE,
          "attention: documents: family %s: component '%s' of the state is i32: it cannot begin "
          "anew with a document; give a state that has seen nothing",
          a->family->name, x->name);
    else if (alike(none, t))
      t = al_run(c, "select", AL_IN(by_row(c, d, al_ndim(t), 1), none, t), "");
    attn_state_put(c, out, x->name, t, x->doc);
  }
  attn_state_free(empty);
  if (al_error(c) == AL_OK) return out;
  attn_state_free(out);
  return NULL;
}

al_tensor *attn_continue_packed(al_ctx *c, attn *a, const attn_in *in, attn_documents *d,
                                const attn_state *st, bool detach, attn_state **next) {
  *next = NULL;
  if (check_call(c, a, in, d) != AL_OK) return NULL;
  if (!attn_documents_packed(d) || st->batch != d->B)
    return attn_continue(c, a, in, st, detach, next);
  const layout_kind kind = st->position ? CONTINUED : BEGUN;
  al_tensor *o[MAX_GROUPS] = {0};
  const char *before = al_on(c, al_device_name(in->q));
  al_scope_begin(c);
  attn_state *own = kind == CONTINUED ? begun_anew(c, a, d, st) : NULL;
  const layout *l = al_error(c) == AL_OK ? layout_of(d, kind) : NULL;
  const attn_in all = tokens_of(c, in);
  for (int i = 0; l && i < l->n_groups && al_error(c) == AL_OK; i++) {
    const attn_in part = inputs_of(c, &all, &l->g[i]);
    attn_state *after = NULL;
    if (al_error(c) != AL_OK) break;
    if (i == 0) o[i] = attn_continue(c, a, &part, own ? own : st, detach, next);
    else if (i == 1 && own) o[i] = attn_continue(c, a, &part, st, detach, &after);
    else o[i] = attn_forward(c, a, &part);
    attn_state_free(after);
  }
  al_tensor *y = l ? together(c, l, o) : NULL;
  if (*next) (*next)->position = attn_documents_after(d, st->position);
  if (al_error(c) != AL_OK) {
    attn_state_free(*next);
    *next = NULL;
  }
  attn_state_free(own);
  y = al_scope_end(c, al_error(c) == AL_OK ? y : NULL);
  al_on(c, before);
  return y;
}
