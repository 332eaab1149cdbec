/* check.c: the conformance driver: its parts in order, and the rows they find. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include "check_run.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *attn_verdict_name(attn_verdict v) {
  static const char *const names[] = {"pass", "FAIL", "refused", "exempt"};
  return names[v];
}

/* ---- rows ----------------------------------------------------------------------------------- */

attn_check_row *check_row(attn_check *k, const char *check, const char *form, const char *dtype,
                          attn_verdict v, const char *fmt, ...) {
  static attn_check_row spare; /* where memory ends: written to and not kept */
  if (k->n_rows == k->cap) {
    const int cap = k->cap ? 2 * k->cap : 64;
    attn_check_row *more = realloc(k->rows, (size_t)cap * sizeof *more);
    if (!more) {
      k->out_of_memory = true;
      return &spare;
    }
    k->rows = more, k->cap = cap;
  }
  attn_check_row *r = &k->rows[k->n_rows++];
  *r = (attn_check_row){.check = check, .dtype = dtype, .error = NAN, .limit = NAN, .verdict = v};
  snprintf(r->form, sizeof r->form, "%s", form);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(r->text, sizeof r->text, fmt, ap);
  va_end(ap);
  return r;
}

attn_check_row *check_measured(attn_check *k, const char *check, const way *w, al_dtype dtype,
                               double error, double limit) {
  attn_check_row *r = check_row(k, check, w->label, al_dtype_name(dtype),
                                error <= limit ? ATTN_PASS : ATTN_FAIL, "");
  r->error = error;
  r->limit = limit;
  return r;
}

void check_say(attn_check_row *r, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(r->text, sizeof r->text, fmt, ap);
  va_end(ap);
}

/* What a family refuses it says itself: "<family>: ..."; anything else is a fault. */
bool check_is_refusal(const attn_check *k) {
  const char *m = al_error_message(k->c, NULL, NULL), *name = k->family->name;
  const size_t n = strlen(name);
  return al_error(k->c) != AL_ENOMEM && strncmp(m, name, n) == 0 && m[n] == ':';
}

void check_error(attn_check *k, const char *check, const char *form, const char *dtype) {
  const bool refused = check_is_refusal(k);
  check_row(k, check, form, dtype, refused ? ATTN_REFUSED : ATTN_FAIL, "%s%s",
            refused ? "" : "does not run: ", al_error_message(k->c, NULL, NULL));
  al_error_clear(k->c);
}

/* ---- places --------------------------------------------------------------------------------- */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What was queued has been read by then: rows are made of numbers. */
static void go(attn_check *k, const char *device, bool at_truth) {
  const double t = now();
  k->spent[!k->at_truth] += t - k->since;
  k->since = t, k->at_truth = at_truth;
  al_on(k->c, device);
}

void check_truth(attn_check *k) { go(k, "cpu", true); }
void check_there(attn_check *k) { go(k, k->device, false); }
bool check_elsewhere(const attn_check *k) { return strcmp(k->device, "cpu") != 0; }

const char *attn_check_device(const attn_check *k) { return k->device; }
double attn_check_seconds(const attn_check *k, bool there) {
  return check_elsewhere(k) ? k->spent[there] : there ? k->spent[0] + k->spent[1] : 0;
}

static int64_t live(attn_check *k) {
  check_truth(k);
  int64_t n = al_memory(k->c).live;
  check_there(k);
  if (check_elsewhere(k)) n += al_memory(k->c).live;
  return n;
}

/* ---- parts ---------------------------------------------------------------------------------- */

/* Forms come first: what is refused there is left out later. */
static const struct {
  const char *name;
  void (*run)(attn_check *k);
} parts[] = {{"ways to run it", check_ways},
             {"forms", check_forms},
             {"sizes", check_sizes},
             {"gradients", check_gradients},
             {"gradients of a state", check_state_gradients},
             {"causality", check_causality},
             {"batch rows", check_batch},
             {"padding", check_padding},
             {"gradients of what is hidden", check_hidden},
             {"packed documents", check_documents},
             {"state", check_state},
             {"claims", check_claims},
             {"large scores", check_scores},
             {"two runs", check_repeat},
             {"taps", check_taps},
             {"refusals", check_refusals}};
enum { N_PARTS = sizeof parts / sizeof *parts };

attn_check *attn_check_new(al_ctx *c, const attn_family *f, const al_opts *o) {
  if (al_error(c) != AL_OK) return NULL;
  attn_check *k = calloc(1, sizeof *k);
  if (k) k->c = al_ctx_new();
  const bool there = k && k->c && al_on(k->c, al_on(c, NULL));
  if (there) k->device = al_on(k->c, NULL);
  if (there) k->opts = al_opts_copy(k->c, o);
  if (!there || !k->opts) {
    if (k && k->c && !there) al_fail(c, al_error(k->c), "%s", al_error_message(k->c, NULL, NULL));
    attn_check_free(k);
    al_fail(c, AL_ENOMEM, "out of memory (check)");
    return NULL;
  }
  k->family = f;
  al_memory_poison(k->c, true); /* what is read before it is written is not a number */
  return k;
}

void attn_check_free(attn_check *k) {
  if (!k) return;
  for (int i = 0; i < k->n_ways; i++) al_opts_release(k->ways[i].opts);
  al_opts_release(k->opts);
  if (k->c) al_ctx_free(k->c);
  free(k->rows);
  free(k);
}

const char *attn_check_part(const attn_check *k, int *done, int *of) {
  if (done) *done = k->part;
  if (of) *of = N_PARTS;
  return k->part < N_PARTS ? parts[k->part].name : NULL;
}

const char *attn_check_case(const attn_check *k) { return k->doing; }
const char *attn_check_error(const attn_check *k) {
  return al_error(k->c) == AL_OK ? "" : al_error_message(k->c, NULL, NULL);
}

bool attn_check_step(attn_check *k) {
  AL_PLAIN_NUMBERS;
  if (k->part >= N_PARTS) return false;
  const char *name = parts[k->part].name;
  k->running = name;
  k->since = now();
  parts[k->part++].run(k);
  if (al_error(k->c) != AL_OK) check_error(k, name, "", "");
  const int64_t left = live(k);
  if (left) {
    check_row(k, name, "", "", ATTN_FAIL,
              "%lld bytes of tensors were not released: the variant keeps references that are not "
              "its own",
              (long long)left);
    k->part = N_PARTS;
  }
  if (k->n_ways > 0 && k->ways[0].refused) k->part = N_PARTS; /* nothing to hold others to */
  return true;
}

const attn_check_row *attn_check_at(const attn_check *k, int i) {
  return i >= 0 && i < k->n_rows ? &k->rows[i] : NULL;
}

bool attn_check_passed(const attn_check *k) {
  bool ok = k->part == N_PARTS && k->n_ways > 0 && !k->ways[0].refused && !k->out_of_memory;
  for (int i = 0; i < k->n_rows; i++) ok = ok && k->rows[i].verdict != ATTN_FAIL;
  return ok;
}
