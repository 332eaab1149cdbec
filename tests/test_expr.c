/* test_expr.c: expressions of a logit: grammar, errors and limits, derivatives against central
 * differences, programs and printed C against the numbers of the graph. */
#include "../core/expr.h"
#define _GNU_SOURCE /* mkstemp, popen */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static al_ctx *c;
static void setup(void) { c = al_ctx_new(); }
static void teardown(void) { al_ctx_free(c); }

static al_expr *parse(const char *text) {
  al_expr *e = al_expr_new(c, "expr", text, "t u");
  ck_assert_msg(e != NULL, "%s", al_error_message(c, NULL, NULL));
  return e;
}

static double value(const char *text, double s) {
  const double t[] = {0.7, -1.3};
  double out[AL_EXPR_OUTPUTS];
  al_expr *e = parse(text);
  al_expr_eval(e, s, 5, 3, t, out);
  al_expr_free(e);
  return out[0];
}

START_TEST(grammar) {
  static const struct {
    const char *text;
    double want; /* at s = 2, i = 5, j = 3, t = 0.7, u = -1.3 */
  } cases[] = {{"1+2*3", 7},
               {"(1+2)*3", 9},
               {"2^3^2", 512},
               {"-2^2", -4},
               {"(-2)^2", 4},
               {"2^-1", 0.5},
               {"7-2-1", 4},
               {"8/4/2", 1},
               {"--s", 2},
               {"+s", 2},
               {" s * i - j ", 7},
               {"t*s", 1.4},
               {"u", -1.3},
               {"min(s,1)+max(s,3)", 4},
               {"abs(-s)", 2},
               {"relu(-s)", 0},
               {"1.5e1", 15},
               {".5", 0.5},
               {"2.", 2},
               {"1E-2", 0.01},
               {"cos(pi)", -1},
               {"s^0", 1},
               {"s^40", 1099511627776},
               {"exp(0)", 1},
               {"sqrt(16)", 4},
               {"0*s", 0},
               {"s--1", 3}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    const double got = value(cases[k].text, 2);
    ck_assert_msg(fabs(got - cases[k].want) < 1e-12, "%s: %.17g needed, got %.17g", cases[k].text,
                  cases[k].want, got);
  }
}
END_TEST

START_TEST(errors) {
  static const struct {
    const char *text, *want;
  } cases[] = {
      {"", "expr: character 1: a number, a name, a function or '(' expected, got the end\n  \n  ^"},
      {"log(1+ex(s))",
       "character 7: unknown function 'ex' (did you mean 'exp'?)\n  log(1+ex(s))\n        ^"},
      {"1+tt", "unknown name 'tt' (did you mean 't'?)\n  1+tt\n    ^"},
      {"s+zebra", "unknown name 'zebra'; there are: exp "},
      {"(s", "character 3: an operator or ')' expected, got the end\n  (s\n    ^"},
      {"s)", "character 2: an operator expected, got ')'"},
      {"2s", "an operator expected between a number and a name"},
      {"s t", "character 3: an operator expected, got 't'"},
      {"exp s", "'(' expected after the function exp, got 's'"},
      {"exp(s", "',' or ')' expected inside exp(, got the end"},
      {"min(s)", "min takes 2 arguments, got 1"},
      {"exp(s,1)", "exp takes 1 argument, got 2"},
      {"max(1,2,3)", "max takes 2 arguments, got 3"},
      {"s**2", "character 3: a number, a name, a function or '(' expected, got '*'"},
      {"1.2.3", "a number has one point"},
      {"1e", "digits expected after the e of a number"},
      {".", "a number needs digits"},
      {"1e999", "a number in double precision expected"},
      {"1/0", "a constant part of '1/0' is inf, a finite number expected"},
      {"s+log(-1)", "is -nan"},
      {"s\x80", "an operator expected, got byte 128\n  s?\n   ^"},
      {"gate(s,1)", "unknown function 'gate'"},
      {"nan", "unknown name 'nan'"},
      {"0x10", "an operator expected between a number and a name"}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    al_expr *e = al_expr_new(c, "expr", cases[k].text, "t u");
    const char *got = al_error_message(c, NULL, NULL), *nan = strstr(got, "is nan");
    ck_assert_msg(!e && (strstr(got, cases[k].want) || (nan && strstr(cases[k].want, "nan"))),
                  "'%s': wanted '%s', got: %s", cases[k].text, cases[k].want, got);
    al_error_clear(c);
  }
}
END_TEST

static void refused(const char *text, const char *names, const char *want) {
  ck_assert_ptr_null(al_expr_new(c, "expr", text, names));
  ck_assert_msg(strstr(al_error_message(c, NULL, NULL), want) != NULL, "wanted '%s', got: %s", want,
                al_error_message(c, NULL, NULL));
  al_error_clear(c);
}

START_TEST(limits) {
  char text[4096] = "";
  for (int k = 0; k < 100; k++) strcat(text, "(");
  refused(text, "", "nested deeper than 64 levels");
  text[0] = 0;
  for (int k = 0; k < 100; k++) strcat(text, "-");
  refused(text, "", "nested deeper than 64 levels");
  text[0] = 0;
  for (int k = 0; k < 100; k++) strcat(text, "s^");
  refused(text, "", "nested deeper than 64 levels");
  memset(text, ' ', 1000);
  text[1000] = 0;
  refused(text, "", "at most 480 characters expected, got 1000");
  strcpy(text, "sin(s)"); /* every derivative needs cos of another argument */
  for (int k = 2; k < 48; k++) sprintf(text + strlen(text), "*sin(%d*s)", k);
  refused(text, "", "values at once");
  /* far place: the text is cut around it */
  memset(text, ' ', 300);
  strcpy(text + 300, "1+*2 + 3 + 4 + 5 + 6 + 7 + 8 + 9 + 10");
  refused(text, "", "got '*'\n  ...");
  refused("s", "a b c d e f g h k", "at most 8 scalars expected, 'k' is one more");
  refused("s", "exp", "scalar 'exp': the name is taken");
  refused("s", "s", "scalar 's': the name is taken");
  refused("s", "a  a", "scalar 'a': the name is taken");
  refused("s", "2a", "scalar '2a': a name of letters");
  refused("s", "a23456789012345678901234567890123", "a name of letters, digits and _, at most 31");
  ck_assert_ptr_null(al_expr_new(NULL, "expr", "1+", "")); /* without a context */
  al_expr *e = al_expr_new(NULL, "expr", "1+s", "");
  ck_assert_str_eq(al_expr_text(e), "1+s");
  al_expr_free(e);
}
END_TEST

START_TEST(properties) {
  char g[512];
  al_expr *e = parse(" ( exp(t * s) )");
  ck_assert(al_expr_exponent(e, g, sizeof g) && al_expr_reads(e, "t") && !al_expr_reads(e, "u"));
  ck_assert_str_eq(g, "t * s");
  al_expr_free(e);
  static const struct {
    const char *text;
    bool exponent, positive;
  } cases[] = {
      {"exp(s)", true, true},     {"2*exp(s)", false, true},      {"s", false, false},
      {"s^2", false, true},       {"s^3", false, false},          {"1+s+s^2/2", false, false},
      {"cosh(s)", false, true},   {"log(1+exp(s))", false, true}, {"exp(s)+exp(j)", false, true},
      {"exp(s)-1", false, false}, {"abs(s)^1.5", false, true},    {"max(s,0)", false, true},
      {"min(s,0)", false, false}, {"exp(exp(s))", true, true},    {"exp(s)*t", false, false},
      {"1/(1+s^2)", false, true}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    e = parse(cases[k].text);
    ck_assert_msg(al_expr_exponent(e, g, sizeof g) == cases[k].exponent, "%s", cases[k].text);
    ck_assert_msg(al_expr_positive(e) == cases[k].positive, "%s", cases[k].text);
    al_expr_free(e);
  }
}
END_TEST

/* ---- derivatives ----------------------------------------------------------------------------- */

static const char *const smooth[] = {
    "s",
    "exp(s)",
    "s^2",
    "s^3",
    "1+s+s^2/2",
    "cosh(s)",
    "sinh(s)*t",
    "log(1+exp(s))",
    "exp(t*s)",
    "exp(t*s)/(1+exp(u*s))",
    "tanh(s/t)*u",
    "sigmoid(t*s+u)",
    "softplus(s)^t",
    "sqrt(1+s^2)",
    "1/(1+s^2)",
    "sin(s)*cos(t*s)",
    "erf(s)+expm1(s/3)+log1p(s^2)",
    "abs(s-5)*relu(s+5)",
    "min(s,9)+max(s,-9)*t",
    "min(9,s)+max(-9,s)",
    "(2+s^2)^-1.5",
    "(2+s^2)^-2",
    "(3+sin(s))^(t*s)",
    "2^s",
    "t^2*s^7/(u^2+3)",
    "exp(-t*abs(i-j))*s",
    "exp(-(s-t)^2/2)",
    "s*sigmoid(1.702*s)",
    "log(2+s^2)*j/i",
    "-s^2+t-u",
    "(s+t)*(s-t)*(s*t)/(4+s^2)",
    "exp(sin(t*s)+cos(u*s))",
    "cosh(s)/cosh(t)",
    "(1+exp(-s))^-0.5",
    "i*s+j*t",
};
enum { N_SMOOTH = sizeof smooth / sizeof *smooth };

START_TEST(derivatives) {
  al_expr *e = parse(smooth[_i]);
  for (int n = 0; n < 64; n++) {
    const double s = -3.03 + 0.097 * n, i = 7, j = 1 + n % 7, h = 1e-5;
    double t[] = {0.6 + 0.01 * n, -1.1 + 0.02 * n}, out[AL_EXPR_OUTPUTS], up[AL_EXPR_OUTPUTS],
           down[AL_EXPR_OUTPUTS];
    al_expr_eval(e, s, i, j, t, out);
    al_expr_eval(e, s + h, i, j, t, up);
    al_expr_eval(e, s - h, i, j, t, down);
    for (int k = 0;; k++) {
      const double want = (up[0] - down[0]) / (2 * h);
      ck_assert_msg(fabs(out[1 + k] - want) <= 1e-7 * (1 + fabs(want)),
                    "%s at s = %g: derivative %d: %.12g needed, got %.12g", smooth[_i], s, k, want,
                    out[1 + k]);
      if (k == 2) break;
      const double at = t[k];
      t[k] = at + h, al_expr_eval(e, s, i, j, t, up);
      t[k] = at - h, al_expr_eval(e, s, i, j, t, down);
      t[k] = at;
    }
  }
  al_expr_free(e);
}
END_TEST

START_TEST(kinks) {
  static const struct {
    const char *text;
    double s, slope;
  } cases[] = {{"abs(s)", 0, 0},
               {"relu(s)", 0, 0},
               {"max(s,0)", 0, 1},
               {"max(0,s)", 0, 0},
               {"min(s,2)", 2, 1},
               {"min(2,s)", 2, 0},
               {"sqrt(relu(s))", -1, 0},
               {"sqrt(relu(s))", 0, 0},
               {"relu(s)^0.5", -3, 0},
               {"abs(s)^0.3", 0, 0},
               {"log(1+exp(s))", 900, 1},
               {"log(1+exp(s))", -900, 0},
               {"s^2", 0, 0},
               {"max(log(s),-3)", 1e-9, 0}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    double out[AL_EXPR_OUTPUTS];
    al_expr *e = parse(cases[k].text);
    al_expr_eval(e, cases[k].s, 1, 1, (const double[]){1, 1}, out);
    ck_assert_msg(out[1] == cases[k].slope && isfinite(out[0]), "%s at %g: slope %g, got %g",
                  cases[k].text, cases[k].s, cases[k].slope, out[1]);
    al_expr_free(e);
  }
  double out[AL_EXPR_OUTPUTS];
  al_expr *e = parse("abs(s)^t"); /* d/dt = 0 at 0, not 0 log 0 */
  al_expr_eval(e, 0, 1, 1, (const double[]){1.5, 1}, out);
  ck_assert(out[0] == 0 && out[1] == 0 && out[2] == 0);
  al_expr_free(e);
}
END_TEST

/* ---- printed C ------------------------------------------------------------------------------- */

START_TEST(c_text) {
  char file[] = "/tmp/attnlab_expr_XXXXXX", command[256], *text = malloc(1 << 16);
  const int fd = mkstemp(file);
  ck_assert(fd >= 0);
  FILE *f = fdopen(fd, "w");
  for (int k = 0; k < N_SMOOTH; k++) {
    char name[16];
    al_expr *e = parse(smooth[k]);
    sprintf(name, "f%d", k);
    const size_t n = al_expr_c(e, name, text, 1 << 16);
    ck_assert(n < 1 << 16 && n == strlen(text));
    char few[20];
    ck_assert(al_expr_c(e, name, few, sizeof few) == n && strlen(few) == 19);
    fputs(text, f);
    al_expr_free(e);
  }
  fprintf(f, "#include <stdio.h>\nint main(void) {\n  double t[] = {0.6, -1.1}, y[4];\n");
  for (int k = 0; k < N_SMOOTH; k++)
    fprintf(f,
            "  for (int n = -3; n < 4; n++) f%d(n + 0.3, 7, 3, t, y), "
            "printf(\"%%.17g %%.17g %%.17g %%.17g\\n\", y[0], y[1], y[2], y[3]);\n",
            k);
  fprintf(f, "}\n");
  fclose(f);
  snprintf(command, sizeof command, "cc -x c -std=c11 -Wall -Wextra -Werror -o %s.out %s -lm", file,
           file);
  ck_assert_int_eq(system(command), 0);
  snprintf(command, sizeof command, "%s.out", file);
  FILE *p = popen(command, "r");
  for (int k = 0; k < N_SMOOTH; k++) {
    al_expr *e = parse(smooth[k]);
    for (int n = -3; n < 4; n++) {
      double want[AL_EXPR_OUTPUTS], got[4];
      al_expr_eval(e, n + 0.3, 7, 3, (const double[]){0.6, -1.1}, want);
      for (int q = 0; q < 4; q++) {
        ck_assert_int_eq(fscanf(p, "%lf", &got[q]), 1);
        ck_assert_msg(fabs(got[q] - want[q]) <= 1e-13 * (1 + fabs(want[q])),
                      "%s: output %d: %.17g needed, the C text gives %.17g", smooth[k], q, want[q],
                      got[q]);
      }
    }
    al_expr_free(e);
  }
  pclose(p);
  remove(command);
  remove(file);
  free(text);
}
END_TEST

Suite *suite_test_expr(void);
Suite *suite_test_expr(void) {
  Suite *s = suite_create("expr");
  TCase *t = tcase_create("expr");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, grammar);
  tcase_add_test(t, errors);
  tcase_add_test(t, limits);
  tcase_add_test(t, properties);
  tcase_add_loop_test(t, derivatives, 0, N_SMOOTH);
  tcase_add_test(t, kinks);
  tcase_add_test(t, c_text);
  suite_add_tcase(s, t);
  return s;
}
