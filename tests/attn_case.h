/* attn_case.h: one attention with random inputs, for the suites that check variants. */
#ifndef TEST_ATTN_CASE_H
#define TEST_ATTN_CASE_H
#include "../attention/attn.h"
#include "oracle.h"
#include "pretended/device.h"

typedef struct attn_case {
  al_ctx *c;
  attn *a;
  al_dtype dtype;
  int64_t B, T, S, H, Hkv, D, E, C;
  al_tensor *q, *k, *v, *x, *lengths;
  int64_t len[8];
  bool causal;
  int64_t offset;
  struct {
    const al_tensor *of;
    double *v;
  } copy[4 + ATTN_MAX_PARAMS]; /* on the host, for the oracle */
} attn_case;

/* name: preset or family; options: applied on top; inputs are N(0, scale^2), parameters get noise
 * added so that none sits at a special value. lens NULL = all keys present. T == S here. */
attn_case attn_case_new(al_ctx *c, const char *name, const char *options, al_dtype dtype, int64_t B,
                        int64_t T, int64_t Hkv, bool causal, const int64_t *lens, double scale);
void attn_case_free(attn_case *k);
al_tensor *attn_case_run(const attn_case *k); /* new reference; fails the test on an error */
double *attn_case_values(const al_tensor *t); /* malloc'd doubles */
oracle_in attn_case_oracle(attn_case *k);     /* on copies of the case's f64 data */
double *attn_case_copy(attn_case *k,
                       const al_tensor *t); /* what that oracle reads for t, or NULL */
/* Does it refuse causal=false, saying that causal=true is needed? */
bool attn_case_needs_order(const char *name, const char *options);
/* What every variant is held to: all presets, then all families with their defaults. */
int attn_case_variants(void);
const char *attn_case_variant(int i);
/* The i-th preset of the formula, or NULL; *count of them. */
const char *attn_case_preset(int i, int *count);
/* Outputs against the oracle (skipped where order is needed and causal is not set), gradients
 * against its differences; both fail the test. */
void attn_case_check_oracle(const char *name, const char *options, bool causal, const int64_t *lens,
                            int64_t Hkv, int64_t T);
void attn_case_check_gradients(const char *name, const char *options);
/* f32 against f64 at N(0,1) inputs and odd sizes; fails the test. */
void attn_case_check_f32(const char *name, const char *options);
/* An instance with these options is refused, saying so, and leaves nothing behind; 2 heads of 4, no
 * x.
 */
void attn_case_refused(const char *name, const char *options, const char *says);
double rms_ratio(const double *got, const double *want, int64_t n);
#endif
