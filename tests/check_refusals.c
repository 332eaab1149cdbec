/* check_refusals.c: every registered op, every sample: wrong types, shapes, counts and options are
 * refused with a message that names the op and the argument; empty inputs do no harm. */
#include "op_case.h"

/* The pending error begins with the op's name, and names `arg` (any input or option when NULL). */
static void expect_refusal(const char *arg, const char *what) {
  char text[1024], begin[64], named[64];
  expect(al_error(c) != AL_OK, "%s: accepted", what);
  snprintf(text, sizeof text, "%s", al_error_message(c, NULL, NULL));
  snprintf(begin, sizeof begin, "%s: ", op->info.name);
  expect(strncmp(text, begin, strlen(begin)) == 0, "%s: message must begin with the op: %s", what,
         text);
  bool found = !arg && strstr(text, "option '");
  for (const al_row *r = op->info.inputs; r->name; r++) {
    snprintf(named, sizeof named, ": %s: ", r->name);
    if (!arg || strcmp(arg, r->name) == 0) found |= strstr(text, named) != NULL;
  }
  expect(found, "%s: message must name the argument%s%s: %s", what, arg ? " " : "", arg ? arg : "",
         text);
  al_error_clear(c);
}

/* Runs the op with input i replaced by t (taken); true when it was accepted. */
static bool accepts(const sample_case *k, int i, al_tensor *t) {
  al_tensor *in[MAX_WORDS] = {0}, *out[MAX_OUT] = {0};
  for (int j = 0; j < k->n; j++) in[j] = j == i ? t : make(k, j, AL_F64, AS_WRITTEN);
  al_opts *o = options(k);
  al_op_run(c, &op->info, in, k->n, o, out, visible_outputs());
  al_opts_release(o);
  for (int j = 0; j < MAX_OUT; j++) al_release(out[j]);
  for (int j = 0; j < k->n; j++) al_release(in[j]);
  return al_error(c) == AL_OK;
}

static void check_wrong_types(const sample_case *k) {
  int floats = 0, seen = 0;
  for (int i = 0; i < k->n; i++)
    floats += k->w[i].kind != '-' && !(row_of(i)->flags & (AL_IN_ANY | AL_IN_I32));
  for (int i = 0; i < k->n; i++) {
    const word *w = &k->w[i];
    if (w->kind == '-' || row_of(i)->flags & AL_IN_ANY) continue;
    const bool ids = row_of(i)->flags & AL_IN_I32;
    for (al_dtype t = AL_F64; t <= AL_I32; t++) {
      /* another type among f64 is refused where the second of them stands */
      if (ids ? t == AL_I32 : t == AL_F64 || (t != AL_I32 && (floats == 1 || seen == 0))) continue;
      if (!accepts(k, i, al_tensor_full(c, t, w->ndim, w->shape, 0)))
        expect(al_error(c) == AL_ETYPE, "not a type error: %s", al_error_message(c, NULL, NULL));
      expect_refusal(row_of(i)->name, al_dtype_name(t));
    }
    seen += !ids;
  }
  for (int i = 0; i < k->n; i++)
    if (!(row_of(i)->flags & AL_IN_OPTIONAL)) {
      accepts(k, i, NULL);
      expect_refusal(row_of(i)->name, "missing input");
    }
}

static void check_wrong_shapes(const sample_case *k) {
  static const struct {
    int ndim;
    int64_t shape[AL_MAX_DIMS];
  } odd[] = {{0, {0}},
             {1, {13}},
             {2, {13, 17}},
             {3, {3, 13, 17}},
             {2, {0, 13}},
             {4, {2, 3, 13, 17}},
             {8, {1, 1, 1, 1, 1, 1, 13, 17}}};
  int refused = 0, present = 0;
  if (k->total > LARGE) return;
  for (int i = 0; i < k->n; i++) {
    if (k->w[i].kind == '-') continue;
    present++;
    for (size_t s = 0; s < sizeof odd / sizeof odd[0]; s++) {
      const al_dtype t = k->w[i].kind == 'i' ? AL_I32 : AL_F64;
      if (accepts(k, i, al_tensor_full(c, t, odd[s].ndim, odd[s].shape, 1))) continue;
      expect(al_error(c) == AL_ESHAPE || al_error(c) == AL_EVALUE, "%s",
             al_error_message(c, NULL, NULL));
      expect_refusal(NULL, "odd shape");
      refused++;
    }
  }
  expect(present < 2 || refused > 0, "no wrong shape was refused");
}

/* Inputs whose first axis is empty: a result or a proper refusal, never a crash or a leak. */
static void check_empty(const sample_case *k) {
  sample_case e = *k;
  for (int i = 0; i < k->n; i++)
    if (e.w[i].ndim > 0) e.w[i].shape[0] = 0, e.w[i].n = 0;
  const int64_t live = al_memory(c).live;
  result r = run(&e, AL_F32, AS_WRITTEN, 0, WEIGHTS);
  result_free(&r);
  expect(al_memory(c).live == live, "empty input: %lld bytes leaked",
         (long long)(al_memory(c).live - live));
  if (al_error(c) != AL_OK) expect_refusal(NULL, "empty input");
}

/* ---- what holds for an op ---- */

static void check_description(const sample_case *k) {
  if (sample_index > 0) return;
  expect(op->info.doc && *op->info.doc, "no doc");
  for (const al_row *r = op->info.inputs; r->name; r++)
    expect(r->doc && *r->doc, "input %s: no doc", r->name);
  for (const al_row *r = op->info.outputs; r->name; r++)
    expect(r->doc && *r->doc, "output %s: no doc", r->name);
  expect(al_op_find(c, op->info.name) == &op->info, "not found by its name: is it declared twice?");
  for (const al_arg *a = op->info.args; a && a->name; a++)
    expect(a->doc && *a->doc, "option %s: no doc", a->name);
  al_opts *o = options(k);
  expect_ok();
  char key[80];
  for (const al_arg *a = op->info.args; a && a->name; a++) {
    snprintf(key, sizeof key, "%sx", a->name);
    al_opts_set_num(c, o, key, 1);
    const char *text = al_error_message(c, NULL, NULL);
    snprintf(key, sizeof key, "'%s'", a->name);
    expect(al_error(c) == AL_ENAME && strstr(text, key) && strstr(text, op->info.name),
           "option %sx: %s", a->name, text);
    al_error_clear(c);
  }
  al_opts_set_num(c, o, "qqqqqqqq", 1);
  expect(al_error(c) == AL_ENAME && strstr(al_error_message(c, NULL, NULL), op->info.name),
         "unknown option accepted");
  al_error_clear(c);
  al_opts_release(o);

  if (row_of(k->n - 1)->flags & AL_IN_LIST) return;
  al_tensor *in[MAX_WORDS + 1] = {0}, *out[MAX_OUT] = {0};
  al_op_run(c, &op->info, in, count_rows(op->info.inputs) + 1, NULL, out, visible_outputs());
  expect(al_error(c) != AL_OK && strstr(al_error_message(c, NULL, NULL), op->info.name),
         "one input too many: accepted");
}

FOR_EACH_SAMPLE(description)
FOR_EACH_SAMPLE(wrong_types)
FOR_EACH_SAMPLE(wrong_shapes)
FOR_EACH_SAMPLE(empty)

Suite *suite_check_refusals(void);
Suite *suite_check_refusals(void) {
  static const struct {
    const char *name;
    const TTest **test;
  } tests[] = {{"description", &description},
               {"wrong types", &wrong_types},
               {"wrong shapes", &wrong_shapes},
               {"empty", &empty}};
  Suite *s = suite_create("refusals");
  for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
    TCase *t = tcase_create(tests[i].name);
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, *tests[i].test, 0, al_op_count());
    suite_add_tcase(s, t);
  }
  return s;
}
