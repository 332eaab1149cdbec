/* ids.c: the one check of control tensors: lengths, counts, token numbers, targets. */
#include "core.h"
#include "../kernels/check_ids.h"
#include <stdio.h>
#include <string.h>

static al_ids_check check_of(const al_call *k, int i, int64_t hi, const char *besides,
                             int64_t other) {
  return (al_ids_check){.op = k->op->info.name,
                        .input = k->op->info.inputs[i].name,
                        .meta = k->in_meta[i],
                        .hi = hi,
                        .besides = besides,
                        .other = other};
}

static al_status refuse(al_ctx *c, const al_ids_check *k, int32_t got, int64_t at) {
  char or [64] = "";
  if (k->besides) snprintf(or, sizeof or, " (or %s = %lld)", k->besides, (long long)k->other);
  return al_fail(c, AL_EVALUE, "%s: %s: numbers in 0..%lld%s needed, got %d at position %lld of %s",
                 k->op, k->input, (long long)k->hi, or, got, (long long)at + c->axis_base,
                 al_meta_str(&k->meta, (char[96]){0}, 96));
}

/* Nothing noted: -1 in the place of each position. */
static void clear_notes(al_device *d) {
  int32_t none[AL_CHECKS][2];
  memset(none, 0xff, sizeof none);
  d->from_host(d, d->notes, none, (int64_t)sizeof none);
}

/* On a device nobody waits for an answer: a bad number is taken as the one that stands for nothing,
 * `other` or a 0, and noted there; al_ids_report tells at the next read. */
static al_status check_there(al_ctx *c, al_call *k, int i, int64_t hi, const char *besides,
                             int64_t other) {
  al_device *d = k->in[i]->storage->device;
  if (d->n_checks == AL_CHECKS) AL_TRY(al_ids_report(c, d));
  al_tensor *clean = al_new_meta(c, &k->in_meta[i]);
  if (!clean) return al_error(c);
  if (d->counts) goto done;
  if (!d->notes && (d->notes = d->take(d, AL_CHECKS * (int64_t)sizeof(int32_t[2])))) clear_notes(d);
  if (!d->notes) {
    al_release(clean);
    return al_fail(c, AL_ENOMEM, "out of memory (checks on %s)", d->name);
  }
  d->checks[d->n_checks] = check_of(k, i, hi, besides, other);
  ALK_RUN(al_where(clean), check_ids, al_numel(clean), hi, besides ? other : 0, besides != NULL,
          al_data(k->in[i]), al_data(clean), d->notes, d->n_checks++);
done:
  al_release(k->in[i]);
  k->in[i] = clean;
  return al_error(c);
}

al_status al_ids_report(al_ctx *c, al_device *d) {
  int32_t noted[AL_CHECKS][2];
  const int n = d->n_checks;
  if (n == 0) return al_error(c);
  d->n_checks = 0;
  d->to_host(d, noted, d->notes, (int64_t)sizeof noted);
  for (int i = 0; i < n; i++)
    if (noted[i][0] >= 0) refuse(c, &d->checks[i], noted[i][1], noted[i][0]);
  clear_notes(d);
  return al_error(c);
}

al_status al_check_ids(al_ctx *c, al_call *k, int i, int64_t hi, const char *besides,
                       int64_t other) {
  const al_tensor *t = k->in[i];
  const al_device *d = t ? t->storage->device : NULL;
  if (!t || (d->counts && d->like->host)) return AL_OK;
  if (!d->host) return check_there(c, k, i, hi, besides, other);
  const int32_t *v = al_host(t);
  for (int64_t at = 0, n = al_numel(t); at < n; at++) {
    if ((v[at] >= 0 && v[at] <= hi) || (besides && v[at] == other)) continue;
    const al_ids_check check = check_of(k, i, hi, besides, other);
    return refuse(c, &check, v[at], at);
  }
  return AL_OK;
}
