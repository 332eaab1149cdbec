/* check.h: the conformance driver. It knows no formula: it holds a variant (a family and options)
 * against itself, form against form, f32 against f64, gradients against differences, and against
 * what the variant declares. What it finds are rows; a row that failed names the fault.
 */
#ifndef ATTN_CHECK_H
#define ATTN_CHECK_H
#include "attn.h"

typedef enum attn_verdict {
  ATTN_PASS,
  ATTN_FAIL,
  ATTN_REFUSED, /* the variant says that it does not do this, and why */
  ATTN_EXEMPT   /* by design there is nothing to compare; the text has the reason */
} attn_verdict;
AL_API const char *attn_verdict_name(attn_verdict v);

enum { ATTN_BLOCKS = 8 };
typedef struct attn_check_row {
  const char *check;   /* "forms", "gradient", "causality", ... */
  char form[48];       /* what ran: "chunked fused", "by tokens", ... */
  const char *dtype;   /* "f64", "f32" or "" */
  double error, limit; /* of what was measured; NaN where a row is a yes or no */
  attn_verdict verdict;
  int n_growth; /* errors in blocks of the longest sequence, first tokens first; 0 = none */
  double growth[ATTN_BLOCKS];
  char text[640];
} attn_check_row;

typedef struct attn_check attn_check;

/* A check of family `f` with options `o`, in a context of its own on c's device. Off the CPU, outputs and gradients are
 * held to the CPU's f64, which central differences are for. NULL: the error is in c. */
AL_API attn_check *attn_check_new(al_ctx *c, const attn_family *f, const al_opts *o);
AL_API void attn_check_free(attn_check *k);
/* Name of the part that attn_check_step runs next, NULL when all are done; *done of *of parts. */
AL_API const char *attn_check_part(const attn_check *k, int *done, int *of);
/* The case that runs or ran last, and the pending error ("" = none): for whoever reports a crash, so
 * from a signal handler, too. */
AL_API const char *attn_check_case(const attn_check *k);
AL_API const char *attn_check_error(const attn_check *k);
/* Runs the next part; false when there was none. */
AL_API bool attn_check_step(attn_check *k);
/* The device that it runs on, and the seconds it took there or, where `there` is false, for the
 * truth on the CPU; on the CPU all are there. */
AL_API const char *attn_check_device(const attn_check *k);
AL_API double attn_check_seconds(const attn_check *k, bool there);
/* What has been found so far. */
AL_API const attn_check_row *attn_check_at(const attn_check *k, int i); /* NULL past the end */
AL_API bool attn_check_passed(const attn_check *k); /* all parts ran and no row failed */
#endif
