/* test_opts.c: options: parsed, printed, refused. */
#include "../core/attnlab.h"
#include <check.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static al_ctx *c;
static void setup(void) { c = al_ctx_new(); }
static void teardown(void) { al_ctx_free(c); }

static void says(al_status st, const char *text) {
  ck_assert_msg(al_error(c) == st && strstr(al_error_message(c, NULL, NULL), text),
                "wanted '%s', got: %s", text, al_error_message(c, NULL, NULL));
  al_error_clear(c);
}

static const al_arg inner[] = {
    {"stat", AL_T_WORD, "sum", "sum none length", 0, 0, "", NULL},
    {"floor", AL_T_NUM, "0", NULL, 0, 10, "", NULL},
    {"sink", AL_T_BOOL | AL_T_NUM | AL_T_WORD, "false", "learned", 0, 0, "", NULL},
    {0}};
static const al_arg rows[] = {
    {"axis", AL_T_AXIS, "-1", NULL, 0, 0, "", NULL},
    {"rate", AL_T_NUM, "0.5", NULL, 0, 1, "", NULL},
    {"causal", AL_T_BOOL, "true", NULL, 0, 0, "", NULL},
    {"orders", AL_T_WORD | AL_T_LIST | AL_T_INT, "all", "all", 0, 0, "", NULL},
    {"denominator", AL_T_RECORD, NULL, NULL, 0, 0, "", inner},
    {"expr", AL_T_TEXT, "", NULL, 0, 0, "", NULL},
    {"numbers", AL_T_NAMED, "{}", NULL, -100, 100, "", NULL},
    {0}};

START_TEST(options_parse_and_print) {
  al_opts *o = al_opts_new(c, rows, "demo");
  char text[512];
  ck_assert_int_eq(
      al_opts_parse(
          c, o,
          "denominator=length, denominator.sink=learned orders={0,2} axis=3 expr='a b' rate=1 "
          "numbers={u=0.5, t=1} numbers.a=-2 numbers.t=3"),
      AL_OK);
  al_opts_text(o, false, text, sizeof text);
  ck_assert_str_eq(
      text,
      "axis=3 rate=1 orders={0,2} denominator.stat=length denominator.sink=learned expr='a b' "
      "numbers={a=-2,t=3,u=0.5}");
  const double *x;
  ck_assert_str_eq(al_opt_word(o, "numbers"), "a t u");
  ck_assert(al_opt_list(o, "numbers", &x) == 3 && x[0] == -2 && x[1] == 3 && x[2] == 0.5);
  ck_assert(al_opt_kind(o, "numbers") == AL_T_NAMED && al_opts_given(o, "numbers"));
  al_opts *copy = al_opts_copy(c, o);
  ck_assert_int_eq(al_opts_set_named(c, copy, "numbers", 0, NULL, NULL), AL_OK);
  ck_assert(al_opt_list(copy, "numbers", &x) == 0 && al_opt_list(o, "numbers", &x) == 3);
  al_opts_release(copy);
  al_opts *again = al_opts_new(c, rows, "demo"); /* what is printed parses back */
  char twice[512];
  ck_assert_int_eq(al_opts_parse(c, again, text), AL_OK);
  al_opts_text(again, false, twice, sizeof twice);
  ck_assert_str_eq(text, twice);
  ck_assert(al_opts_given(o, "denominator") && al_opts_given(o, "denominator.sink") &&
            !al_opts_given(o, "denominator.floor"));
  ck_assert(al_opt_is(o, "denominator", "length") && al_opt_int(o, "axis") == 3);
  ck_assert_int_eq(al_opts_set_bool(c, o, "denominator", false),
                   AL_OK); /* false is none where there is one */
  ck_assert(al_opt_is(o, "denominator.stat", "none"));
  al_opts_release(o);
  al_opts_release(again);
}
END_TEST

/* What a reader makes of the values: how often it was called, and one of them. */
static int reads;
typedef struct view {
  int stat, times;
} view;
static void read_view(const al_opts *o, void *into) {
  view *v = into;
  ck_assert(v->stat == 0 && v->times == 0);
  v->stat = al_opt_choice(o, "denominator");
  v->times = ++reads;
}

START_TEST(options_are_read_once) {
  reads = 0;
  al_opts *o = al_opts_new(c, rows, "demo");
  ck_assert(al_opt_choice(o, "denominator") == 0 && al_opt_choice(o, "orders") == 0 &&
            al_opt_choice(o, "rate") == -1 && al_opt_choice(o, "denominator.sink") == -1 &&
            al_opt_choice(o, "none.such") == -1);
  const view *v = al_opts_read(o, sizeof *v, read_view);
  ck_assert(v->stat == 0 && v->times == 1 && al_opts_read(o, sizeof *v, read_view) == v);
  ck_assert_int_eq(al_opts_parse(c, o, "denominator=length denominator.sink=learned"), AL_OK);
  v = al_opts_read(o, sizeof *v, read_view);
  ck_assert(v->stat == 2 && v->times == 2 && al_opt_choice(o, "denominator.sink") == 0);
  al_opts *copy = al_opts_copy(c, o);
  ck_assert_int_eq(al_opts_set_word(c, copy, "denominator.stat", "none"), AL_OK);
  const view *other = al_opts_read(copy, sizeof *v, read_view);
  ck_assert(other->stat == 1 && other->times == 3 && al_opts_read(o, sizeof *v, read_view) == v);
  al_opts_release(copy);
  al_opts_release(o);
}
END_TEST

/* A text comes back from what is printed, whatever is in it; one that would not is refused. */
START_TEST(texts_read_back_as_printed) {
  static const char *const texts[] = {"",    "'",    "\"",           "''",     "'\"",
                                      "a'b", "\"a'", "it''s \"so\"", "a\n\tb", "a=b,c={}"};
  char text[1200], longest[513];
  for (size_t i = 0; i < sizeof texts / sizeof *texts + 1; i++) {
    memset(longest, i % 2 ? '\'' : '"', 511);
    longest[511] = 0, longest[0] = '"', longest[1] = '\'';
    const char *want = i < sizeof texts / sizeof *texts ? texts[i] : longest;
    al_opts *o = al_opts_new(c, rows, "demo"), *again = al_opts_new(c, rows, "demo");
    ck_assert_int_eq(al_opts_set_word(c, o, "expr", want), AL_OK);
    ck_assert_int_eq(al_opts_set_num(c, o, "axis", 3), AL_OK);
    ck_assert_int_eq(al_opts_set_num(c, o, "numbers.t", 1), AL_OK);
    al_opts_text(o, true, text, sizeof text);
    ck_assert_msg(al_opts_parse(c, again, text) == AL_OK, "%s", al_error_message(c, NULL, NULL));
    ck_assert_str_eq(al_opt_word(again, "expr"), want);
    ck_assert_int_eq(al_opt_int(again, "axis"), 3);
    ck_assert_int_eq(al_opts_given(again, "numbers"), true);
    al_opts_release(o);
    al_opts_release(again);
  }
  al_opts *o = al_opts_new(c, rows, "demo");
  memset(longest, 'a', 512);
  longest[512] = 0;
  ck_assert_int_ne(al_opts_set_word(c, o, "expr", longest), AL_OK);
  says(al_error(c), "option 'expr': at most 511 characters expected, got 512");
  snprintf(text, sizeof text, "expr=%s", longest);
  ck_assert_int_ne(al_opts_parse(c, o, text), AL_OK);
  says(al_error(c), "option 'expr': at most 511 characters expected, got more");
  al_opts_release(o);
}
END_TEST

/* A thread may have a locale of its own; test_locale.lua has locales with other decimal signs. */
START_TEST(the_locale_is_the_hosts_again) {
  const locale_t own = duplocale(LC_GLOBAL_LOCALE), before = uselocale(own);
  {
    AL_PLAIN_NUMBERS;
    const locale_t plain = uselocale((locale_t)0);
    ck_assert(plain != own);
    al_plain nested = al_plain_begin();
    al_plain_end(&nested);
    ck_assert(uselocale((locale_t)0) == plain);
  }
  ck_assert(uselocale((locale_t)0) == own);
  al_opts *o = al_opts_new(c, rows, "demo");
  al_opts_parse(c, o, "rate=0.25 zebra=1"); /* leaves by an error */
  ck_assert(uselocale((locale_t)0) == own);
  al_error_clear(c);
  al_opts_release(o);
  uselocale(before);
  freelocale(own);
}
END_TEST

static const struct {
  const char *text, *says;
} wrong_options[] = {{"axsi=1", "unknown option 'axsi' (did you mean 'axis'?)"},
                     {"denominator.flor=1", "did you mean 'denominator.floor'"},
                     {"rate=2", "a number in 0..1 expected, got '2'"},
                     {"rate=nan", "a number in 0..1 expected"},
                     {"axis=1.5", "an integer expected, got '1.5'"},
                     {"axis=inf", "an integer of at most 2^53 expected, got inf"},
                     {"axis=-1e300", "an integer of at most 2^53 expected, got -1e+300"},
                     {"axis=9007199254740994", "an integer of at most 2^53 expected"},
                     {"orders={1,1e300}", "an integer of at most 2^53 expected, got 1e+300"},
                     {"orders={-inf}", "an integer of at most 2^53 expected, got -inf"},
                     {"orders={nan}", "a list of numbers"},
                     {"causal=1", "true or false expected"},
                     {"denominator=lenght", "(did you mean 'length'?)"},
                     {"orders={1,x}", "a list of at most 256 numbers"},
                     {"orders={1,2", "is not closed"},
                     {"orders={1.5}", "a list of numbers"},
                     {"expr='abc", "is not closed"},
                     {"expr='abc''", "is not closed"},
                     {"causal", "key=value expected"},
                     {"numbers=1", "numbers by name, as {t=1} expected, got '1'"},
                     {"numbers={1,2}", "numbers by name, as {t=1} expected, got '1,2'"},
                     {"numbers={t=1,t=2}", "'t' is there twice"},
                     {"numbers={t}", "expected, got 't'"},
                     {"numbers={2t=1}", "expected, got '2t=1'"},
                     {"numbers={t=101}", "expected, got 't=101'"},
                     {"numbers={t=inf}", "expected, got 't=inf'"},
                     {"numbers.t=x", "option 'numbers.t': a number expected, got 'x'"},
                     {"numbers.t=true", "option 'numbers.t': a number expected, got 'true'"},
                     {"numbers.t.u=1", "unknown option 'numbers.t.u'"},
                     {"rate={t=1}", "at most 256 numbers expected"},
                     {"zebra=1", "it has: axis rate causal orders denominator expr"}};

START_TEST(wrong_options_are_named) {
  al_opts *o = al_opts_new(c, rows, "demo");
  ck_assert_int_ne(al_opts_parse(c, o, wrong_options[_i].text), AL_OK);
  says(al_error(c), wrong_options[_i].says);
  al_opts_release(o);
}
END_TEST

Suite *suite_test_opts(void);
Suite *suite_test_opts(void) {
  Suite *s = suite_create("options");
  TCase *t = tcase_create("options");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, options_parse_and_print);
  tcase_add_test(t, options_are_read_once);
  tcase_add_test(t, texts_read_back_as_printed);
  tcase_add_test(t, the_locale_is_the_hosts_again);
  tcase_add_loop_test(t, wrong_options_are_named, 0, sizeof wrong_options / sizeof *wrong_options);
  suite_add_tcase(s, t);
  return s;
}
