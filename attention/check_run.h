/* check_run.h: what the files of the conformance driver share: ways to run a variant, one run, and
 * how two outputs differ. */
#ifndef ATTN_CHECK_RUN_H
#define ATTN_CHECK_RUN_H
#include "check.h"

/* WHOLE: one call. TOKENS: from state to state, one token at a time. PARTS: from state to state in
 * parts of odd lengths. */
typedef enum way_how { WHOLE, TOKENS, PARTS } way_how;
typedef struct way {
  char label[48];
  way_how how;
  al_opts *opts;
  bool refused;
  char why[400];
  uint64_t ran[2]; /* in f64, f32: the kernels of its forms and gradients, and the bits they made */
} way;

static const double f32_rounding = 0x1p-23; /* twice what one operation may be off */

enum { MAX_WAYS = 24, N_IN = 4, MAX_TENSORS = N_IN + ATTN_MAX_PARAMS };
struct attn_check {
  al_ctx *c;              /* of its own */
  const char *device;     /* where it runs; the truth is made on the CPU */
  bool at_truth;          /* now on the CPU */
  double since, spent[2]; /* clock when that began; seconds of the truth, of the device */
  const attn_family *family;
  al_opts *opts;
  attn_sizes sizes;
  int n_ways; /* way[0] is what the others are held to */
  way ways[MAX_WAYS];
  int part;
  int n_rows, cap;
  attn_check_row *rows;
  bool out_of_memory;
  const char *running; /* the part */
  char doing[160];     /* the case of it */
};

/* One instance with its inputs. */
typedef struct probe {
  attn_check *k;
  const way *w;
  attn *a;
  al_dtype dtype;
  int64_t B, T;
  al_tensor *in[N_IN], *lengths; /* q, k, v, x */
  int32_t len[4];                /* valid when lengths is set */
  bool causal;
} probe;

/* Other contents of inputs. */
typedef enum poison_kind { NANS, VALUES, N_POISONS } poison_kind;
const char *probe_poison_name(poison_kind kind);

/* How two outputs (B,T,row) differ, `limit` given: ratios of RMS, of everything and of blocks of
 * positions; the first position beyond the limit, or -1. A NaN counts as beyond. */
typedef struct differs {
  double overall, worst; /* worst: of the blocks */
  int n;
  double block[ATTN_BLOCKS];
  int64_t from;
} differs;

/* Inputs N(0, scale^2) (q and k; v and x N(0,1)), the same numbers in f64 and f32, parameters off
 * their special values. lens NULL = all present. False: a row or the way's refusal says why. */
bool probe_open(attn_check *k, probe *p, const way *w, const attn_sizes *s, al_dtype dtype,
                int64_t B, int64_t T, double scale, const int32_t *lens);
void probe_close(probe *p);
/* Output (B,T,H,E), new reference; NULL with the error pending. */
al_tensor *probe_run(const probe *p);
/* Tokens [from, from + n) of the inputs, in the open scope. */
attn_in probe_part(const probe *p, int64_t from, int64_t n);
/* Other contents for the tokens [from, to) of batch row `batch` (-1: of all), in every input. */
void probe_poison(probe *p, poison_kind kind, int64_t batch, int64_t from, int64_t to);
double *probe_values(const al_tensor *t); /* malloc'd; NULL for NULL or out of memory */
double *probe_try(const probe *p);        /* run and read; NULL with the error pending */
/* The same; NULL: an error row was written (or, where a state cannot follow, a refused one). */
double *probe_output(probe *p, const char *check);
int64_t probe_row(const probe *p); /* numbers a token: H E */

differs probe_differ(const double *got, const double *want, int64_t B, int64_t T, int64_t row,
                     double limit);
double probe_rms(const double *x, int64_t n);

/* What runs until check_there, runs on the CPU. */
void check_truth(attn_check *k);
void check_there(attn_check *k);
bool check_elsewhere(const attn_check *k); /* it runs on another device than the CPU */

/* Rows. A measured one passes when error <= limit; NaN fails. */
attn_check_row *check_row(attn_check *k, const char *check, const char *form, const char *dtype,
                          attn_verdict v, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
attn_check_row *check_measured(attn_check *k, const char *check, const way *w, al_dtype dtype,
                               double error, double limit);
void check_say(attn_check_row *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The pending error as a row: a refusal of the family's, else a fault; clears it. */
void check_error(attn_check *k, const char *check, const char *form, const char *dtype);
/* Does an error that is pending come from the family's own refusal? */
bool check_is_refusal(const attn_check *k);
/* After a run of `w` since `before`, which made n numbers (NULL: none). */
void way_note(attn_check *k, const way *w, al_dtype dtype, const al_work *before, const double *v,
              int64_t n);
/* Off the CPU, where launches take the time: has a way before w run the same kernels to the same
 * bits each time? It stands for w in the parts that run a way often; an exempt row says so. The
 * CPU's check runs each. */
bool way_stands(attn_check *k, const way *w, al_dtype dtype, const char *check);
bool way_replayed(const attn_check *k, const way *w); /* a state that keeps all inputs */
bool way_takes_lengths(const attn_check *k, const way *w);
int64_t way_most(const attn_check *k, const way *w, int64_t T); /* at most T tokens */

/* The parts: of check_run.c, check_forms.c, check_gradient.c, check_rules.c, check_hidden.c,
 * check_documents.c, check_claims.c, check_state.c and check_taps.c. */
void check_ways(attn_check *k);
void check_forms(attn_check *k);
void check_sizes(attn_check *k);
void check_gradients(attn_check *k);
void check_state_gradients(attn_check *k);
void check_causality(attn_check *k);
void check_batch(attn_check *k);
void check_padding(attn_check *k);
void check_hidden(attn_check *k);
void check_documents(attn_check *k);
void check_repeat(attn_check *k);
void check_claims(attn_check *k);
void check_scores(attn_check *k);
void check_refusals(attn_check *k);
void check_state(attn_check *k);
void check_taps(attn_check *k);
#endif
