/* op_case.h: what a sample beside an op stands for, for the generic op tests: its inputs in several
 * layouts and types, and a run of the op on them. */
#ifndef OP_CASE_H
#define OP_CASE_H
#include "../core/op.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 16, MAX_OUT = 8 };
enum { LARGE = 2000 }; /* elements above which differences and failing allocations take too long */
/* How inputs lie in memory. AS_WRITTEN: PACKED, or SWAPPED where the sample has a 't'. SWAPPED:
 * last two axes exchanged. SPREAD: every second element of a larger storage whose gaps hold NaN. */
typedef enum layout { AS_WRITTEN, PACKED, SWAPPED, SPREAD } layout;
/* How the gradient of the output lies: weights spread over a larger storage; ones, packed or a
 * single one that repeats with strides of 0, as the gradient of a sum may. ALONE: WEIGHTS, and what the
 * op reads is its graph's alone, packed: a backward may write over it. */
typedef enum seeding { WEIGHTS, ONES, REPEATED, ALONE } seeding;

typedef struct word { /* one input of a sample */
  char kind;          /* f float, i integer, p positive, - absent */
  bool swapped;
  int ndim;
  int64_t shape[AL_MAX_DIMS], n;
  int below;
} word;

typedef struct sample_case {
  const al_sample *sample;
  int n;
  int64_t total; /* elements of all inputs */
  word w[MAX_WORDS];
} sample_case;

typedef struct result {
  int64_t n_y, n_g; /* all outputs in a row; the gradients of all inputs in a row */
  double *y, *g;
  bool graded;
} result;

extern al_ctx *c;
extern const al_op *op; /* of the running test */
extern int sample_index;

#define expect(cond, ...)                                                                          \
  do {                                                                                             \
    char expect_text[2048];                                                                        \
    snprintf(expect_text, sizeof expect_text, __VA_ARGS__);                                        \
    ck_assert_msg(cond, "%s: %s", where(), expect_text);                                           \
  } while (0)
#define expect_ok() expect(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL))

const char *where(void); /* op, number and text of the running sample */

int count_rows(const al_row *r);
const al_row *row_of(int i); /* the row input i belongs to: members of a list share the last */
int visible_outputs(void);
sample_case parse(const al_sample *s);
/* Input i as a new leaf; NULL where the sample has it absent. */
al_tensor *make(const sample_case *k, int i, al_dtype dtype, layout l);
al_opts *options(const sample_case *k); /* new; NULL and an error when its text is wrong */
/* Forward, backward from visible output `which`, all numbers read back. On failure the error is
 * left pending; no tensor is kept in any case. */
result run(const sample_case *k, al_dtype dtype, layout l, int which, seeding how);
void result_free(result *r);
/* check(sample) for all samples of an op, in a context of its own. */
void each_sample(int op_index, void (*check)(const sample_case *k));

#define FOR_EACH_SAMPLE(name)                                                                      \
  START_TEST(name) { each_sample(_i, check_##name); }                                              \
  END_TEST
#endif
