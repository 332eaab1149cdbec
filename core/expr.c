/* expr.c: expressions of a logit: the grammar, and errors that point at their place.
 *
 *   sum     = product {("+" | "-") product}
 *   product = signed {("*" | "/") signed}
 *   signed  = ("-" | "+") signed | power
 *   power   = primary ["^" signed]                     -s^2 = -(s^2), 2^3^2 = 2^9
 *   primary = number | name | function "(" sum {"," sum} ")" | "(" sum ")"
 *
 * names: s the logit, i and j the positions of row and key counted from 1, pi, and scalars that the
 * caller declares.
 */
#include "expr.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  int op, operands;
} functions[] = {
#define PROGRAM(name, n, callable, value, text) {(callable) ? #name : NULL, ALK_PG_##name, n},
#include "../kernels/program.def"
#undef PROGRAM
};
enum { N_FUNCTIONS = sizeof functions / sizeof *functions };

typedef struct parser {
  al_ctx *c;
  const char *owner;
  al_expr *e;
  int at, depth;
} parser;

/* ---- errors ---------------------------------------------------------------------------------- */

/* The text around the place and a caret under it. */
static void show(const char *text, int at, char *buf, size_t n) {
  enum { BEFORE = 48, WIDTH = 72 };
  const int len = (int)strlen(text), from = at > BEFORE ? at - BEFORE : 0;
  const int to = len - from > WIDTH ? from + WIDTH : len;
  char line[WIDTH + 1];
  for (int k = from; k < to; k++) {
    const unsigned char ch = (unsigned char)text[k];
    line[k - from] = ch < 32 ? ' ' : ch < 127 ? (char)ch : '?';
  }
  line[to - from] = 0;
  const char *lead = from > 0 ? "..." : "";
  snprintf(buf, n, "\n  %s%s%s\n  %*s^", lead, line, to < len ? "..." : "",
           (int)strlen(lead) + at - from, "");
}

static __attribute__((format(printf, 3, 4))) int fail(parser *p, int at, const char *fmt, ...) {
  char what[400], place[200];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  show(p->e->text, at, place, sizeof place);
  al_fail(p->c, AL_EVALUE, "%s: character %d: %s%s", p->owner, at + 1, what, place);
  return -1;
}

/* What stands at a place, for "got ...". */
static const char *found(const parser *p, int at, char *buf) {
  const unsigned char ch = (unsigned char)p->e->text[at];
  if (!ch) return "the end";
  if (ch < 32 || ch > 126) sprintf(buf, "byte %d", ch);
  else sprintf(buf, "'%c'", ch);
  return buf;
}
#define FOUND(p) found(p, (p)->at, (char[16]){0})

/* ---- words ----------------------------------------------------------------------------------- */

static bool digit(char ch) { return ch >= '0' && ch <= '9'; }
static bool letter(char ch) {
  return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || ch == '_';
}

static char peek(parser *p) {
  while (p->e->text[p->at] && strchr(" \t\r\n", p->e->text[p->at])) p->at++;
  return p->e->text[p->at];
}

static bool accept(parser *p, char ch) {
  if (peek(p) != ch) return false;
  p->at++;
  return true;
}

static int number(parser *p) {
  const char *t = p->e->text;
  const int from = p->at;
  int at = from, digits = 0;
  for (; digit(t[at]); at++) digits++;
  if (t[at] == '.')
    for (at++; digit(t[at]); at++) digits++;
  if (!digits) return fail(p, from, "a number needs digits");
  if (t[at] == 'e' || t[at] == 'E') {
    int x = at + 1 + (t[at + 1] == '-' || t[at + 1] == '+');
    if (!digit(t[x])) return fail(p, at, "digits expected after the %c of a number", t[at]);
    while (digit(t[x])) x++;
    at = x;
  }
  if (letter(t[at])) return fail(p, at, "an operator expected between a number and a name");
  if (t[at] == '.') return fail(p, at, "a number has one point");
  char copy[AL_EXPR_TEXT + 1];
  memcpy(copy, t + from, (size_t)(at - from));
  copy[at - from] = 0;
  const double v = strtod(copy, NULL);
  if (!isfinite(v)) return fail(p, from, "a number in double precision expected");
  p->at = at;
  return al_expr_const(p->e, v);
}

/* All names that may stand in the text; returns how many. */
static int known(const al_expr *e, bool calls, const char **list) {
  int n = 0;
  for (int f = 0; f < N_FUNCTIONS; f++)
    if (functions[f].name) list[n++] = functions[f].name;
  if (calls) return n;
  static const char *const fixed[] = {"s", "i", "j", "pi"};
  for (int k = 0; k < 4; k++) list[n++] = fixed[k];
  for (int k = 0; k < e->n_names; k++) list[n++] = e->names[k];
  return n;
}

static int unknown(parser *p, int at, const char *word, bool call) {
  const char *list[N_FUNCTIONS + 4 + ALK_PROGRAM_SCALARS];
  const int n = known(p->e, call, list);
  const char *near = word[1] ? al_nearest(word, list, n) : NULL; /* any letter is near another */
  if (near)
    return fail(p, at, "unknown %s '%s' (did you mean '%s'?)", call ? "function" : "name", word,
                near);
  char all[320] = "";
  size_t k = 0;
  for (int m = 0; m < n && k < sizeof all; m++)
    k += (size_t)snprintf(all + k, sizeof all - k, " %s", list[m]);
  return fail(p, at, "unknown %s '%s'; there are:%s%s%s", call ? "function" : "name", word, all,
              k < sizeof all ? "" : "...", call ? "" : ", and scalars that are declared");
}

/* ---- grammar --------------------------------------------------------------------------------- */

static int sum(parser *p);

static int call(parser *p, int f, int at) {
  int arg[2] = {-1, -1}, n = 0;
  if (!accept(p, '('))
    return fail(p, p->at, "'(' expected after the function %s, got %s", functions[f].name,
                FOUND(p));
  const int from = p->at;
  do {
    const int a = sum(p);
    if (a < 0) return -1;
    if (n < 2) arg[n] = a;
    n++;
  } while (accept(p, ','));
  const int to = p->at;
  if (!accept(p, ')'))
    return fail(p, p->at, "',' or ')' expected inside %s(, got %s", functions[f].name, FOUND(p));
  if (n != functions[f].operands)
    return fail(p, at, "%s takes %d argument%s, got %d", functions[f].name, functions[f].operands,
                functions[f].operands == 1 ? "" : "s", n);
  const int y = al_expr_make(p->e, functions[f].op, arg[0], arg[1], -1);
  if (functions[f].op == ALK_PG_exp && p->e->node[y].op == ALK_PG_exp)
    p->e->root = y, p->e->inner = arg[0], p->e->from = from, p->e->to = to; /* the last so far */
  return y;
}

static int name(parser *p) {
  al_expr *e = p->e;
  const int at = p->at;
  int len = 0;
  while (letter(e->text[at + len]) || digit(e->text[at + len])) len++;
  char word[AL_EXPR_NAME + 1];
  if (len > AL_EXPR_NAME)
    return fail(p, at, "a name has at most %d letters, got %d", AL_EXPR_NAME, len);
  memcpy(word, e->text + at, (size_t)len);
  word[len] = 0;
  p->at += len;
  for (int f = 0; f < N_FUNCTIONS; f++)
    if (functions[f].name && strcmp(functions[f].name, word) == 0) return call(p, f, at);
  for (int k = 0; k < e->n_names; k++)
    if (strcmp(e->names[k], word) == 0) {
      e->reads[k] = true;
      return al_expr_leaf(e, AL_EXPR_SCALAR, k);
    }
  if (strcmp(word, "s") == 0) return al_expr_leaf(e, AL_EXPR_S, -1);
  if (strcmp(word, "i") == 0) return al_expr_leaf(e, AL_EXPR_I, -1);
  if (strcmp(word, "j") == 0) return al_expr_leaf(e, ALK_PG_j, -1);
  if (strcmp(word, "pi") == 0) return al_expr_const(e, 3.14159265358979323846);
  return unknown(p, at, word, peek(p) == '(');
}

static int primary(parser *p) {
  const char ch = peek(p);
  if (digit(ch) || ch == '.') return number(p);
  if (letter(ch)) return name(p);
  if (!accept(p, '('))
    return fail(p, p->at, "a number, a name, a function or '(' expected, got %s", FOUND(p));
  const int y = sum(p);
  if (y >= 0 && !accept(p, ')'))
    return fail(p, p->at, "an operator or ')' expected, got %s", FOUND(p));
  return y;
}

static int sign(parser *p) {
  if (p->depth >= AL_EXPR_DEPTH)
    return fail(p, p->at, "nested deeper than %d levels", AL_EXPR_DEPTH);
  p->depth++;
  int y;
  if (accept(p, '-')) {
    y = sign(p);
    if (y >= 0) y = al_expr_make(p->e, ALK_PG_neg, y, -1, -1);
  } else if (accept(p, '+')) {
    y = sign(p);
  } else {
    y = primary(p);
    if (y >= 0 && accept(p, '^')) {
      const int n = sign(p);
      y = n < 0 ? -1 : al_expr_make(p->e, ALK_PG_pow, y, n, -1);
    }
  }
  p->depth--;
  return y;
}

static int product(parser *p) {
  int y = sign(p);
  for (;;) {
    if (y < 0) return -1;
    const int op = accept(p, '*') ? ALK_PG_mul : accept(p, '/') ? ALK_PG_div : -1;
    if (op < 0) return y;
    const int b = sign(p);
    y = b < 0 ? -1 : al_expr_make(p->e, op, y, b, -1);
  }
}

static int sum(parser *p) {
  int y = product(p);
  for (;;) {
    if (y < 0) return -1;
    const int op = accept(p, '+') ? ALK_PG_add : accept(p, '-') ? ALK_PG_sub : -1;
    if (op < 0) return y;
    const int b = product(p);
    y = b < 0 ? -1 : al_expr_make(p->e, op, y, b, -1);
  }
}

/* ---- expressions ----------------------------------------------------------------------------- */

/* One scalar: the first len letters of w. */
static al_status declare(al_ctx *c, const char *owner, al_expr *e, const char *w, size_t len) {
  bool ok = len <= AL_EXPR_NAME && letter(w[0]);
  for (size_t k = 0; k < len; k++) ok = ok && (letter(w[k]) || digit(w[k]));
  if (!ok)
    return al_fail(c, AL_EVALUE,
                   "%s: scalar '%.*s': a name of letters, digits and _, at most %d, expected",
                   owner, (int)(len < 60 ? len : 60), w, AL_EXPR_NAME);
  if (e->n_names == ALK_PROGRAM_SCALARS)
    return al_fail(c, AL_EVALUE, "%s: at most %d scalars expected, '%.*s' is one more", owner,
                   ALK_PROGRAM_SCALARS, (int)len, w);
  char *name = e->names[e->n_names];
  memcpy(name, w, len);
  name[len] = 0;
  const char *list[N_FUNCTIONS + 4 + ALK_PROGRAM_SCALARS];
  const int n = known(e, false, list);
  for (int f = 0; f < n; f++)
    if (strcmp(list[f], name) == 0)
      return al_fail(c, AL_EVALUE, "%s: scalar '%s': the name is taken", owner, name);
  e->n_names++;
  return AL_OK;
}

static al_status declare_all(al_ctx *c, const char *owner, al_expr *e, const char *names) {
  for (names += strspn(names, " "); *names; names += strspn(names, " ")) {
    const size_t len = strcspn(names, " ");
    AL_TRY(declare(c, owner, e, names, len));
    names += len;
  }
  return AL_OK;
}

static al_status parse(al_ctx *c, const char *owner, al_expr *e) {
  parser p = {.c = c, .owner = owner, .e = e};
  int y = sum(&p);
  if (y >= 0 && peek(&p)) y = fail(&p, p.at, "an operator expected, got %s", FOUND(&p));
  if (y < 0) return c->error;
  if (e->full)
    return al_fail(c, AL_EVALUE, "%s: at most %d operations expected", owner, AL_EXPR_NODES);
  for (int n = 0; n < e->n; n++)
    if (e->node[n].op == AL_EXPR_CONST && !isfinite(e->node[n].value))
      return al_fail(c, AL_EVALUE, "%s: a constant part of '%s' is %g, a finite number expected",
                     owner, e->text, e->node[n].value);
  if (e->root != y) e->inner = -1;
  e->root = y;
  return AL_OK;
}

al_expr *al_expr_parse(al_ctx *c, const char *owner, const char *text, const char *names) {
  AL_PLAIN_NUMBERS;
  if (c->error != AL_OK) return NULL;
  const size_t len = strlen(text);
  if (len > AL_EXPR_TEXT) {
    al_fail(c, AL_EVALUE, "%s: at most %d characters expected, got %zu", owner, AL_EXPR_TEXT, len);
    return NULL;
  }
  al_expr *e = al_calloc(c, 1, sizeof *e);
  if (!e) return NULL;
  memcpy(e->text, text, len + 1);
  e->root = e->inner = -1;
  if (declare_all(c, owner, e, names) == AL_OK && parse(c, owner, e) == AL_OK) return e;
  free(e);
  return NULL;
}

al_expr *al_expr_new(al_ctx *c, const char *owner, const char *text, const char *names) {
  al_ctx quiet = {0};
  if (!c) c = &quiet;
  al_expr *e = al_expr_parse(c, owner, text, names);
  alk_program *p = e ? al_calloc(c, 1, sizeof *p) : NULL;
  /* attention runs the exponent alone, and what cannot run is refused here */
  bool ok = p && al_expr_program(c, owner, e, e->inner >= 0 ? e->inner : e->root, p) == AL_OK;
  if (ok && !al_expr_derive(e, e->root, e->out)) {
    al_fail(c, AL_EVALUE, "%s: at most %d operations with all derivatives expected", owner,
            AL_EXPR_NODES);
    ok = false;
  }
  free(p);
  if (ok) return e;
  free(e);
  return NULL;
}

void al_expr_free(al_expr *e) { free(e); }
const char *al_expr_text(const al_expr *e) { return e->text; }

bool al_expr_reads(const al_expr *e, const char *name) {
  for (int k = 0; k < e->n_names; k++)
    if (strcmp(e->names[k], name) == 0) return e->reads[k];
  return false;
}

bool al_expr_exponent(const al_expr *e, char *buf, size_t n) {
  if (e->inner < 0) return false;
  snprintf(buf, n, "%.*s", e->to - e->from, e->text + e->from);
  return true;
}
