/* opts.c: options declared once as al_arg rows: defaults, parsing, checking, error texts. */
#include "opts.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double EXACT = 0x1p53; /* integers up to it are each a double */
enum { MAX_WORD = 511 };            /* characters of a word or text, however it is set */

static bool has_word(const char *choices, const char *w) {
  const size_t n = strlen(w);
  for (const char *p = choices; p && *p;) {
    p += strspn(p, " ");
    const size_t k = strcspn(p, " ");
    if (k == n && strncmp(p, w, n) == 0) return n > 0;
    p += k;
  }
  return false;
}

/* What a row accepts, for error texts: "true, false, a number in 0..1 or one of: exp cosh". */
static const char *expected(const al_arg *r, char *buf, size_t n) {
  al_text t = {buf, n, 0};
  if (r->type & AL_T_RECORD && r->fields) return expected(r->fields, buf, n);
  const char *sep = "";
  if (r->type & AL_T_BOOL) al_put(&t, "true or false"), sep = ", ";
  if (r->type & (AL_T_LIST | AL_T_INT | AL_T_NUM | AL_T_AXIS)) {
    const char *what = r->type & AL_T_NUM ? "a number" : "an integer";
    al_put(&t, "%s%s", sep, r->type & AL_T_LIST ? "a list of numbers" : what), sep = ", ";
    if (r->min != 0 || r->max != 0) {
      if (r->max >= 1e300) al_put(&t, " of at least %g", r->min);
      else if (r->min <= -1e300) al_put(&t, " of at most %g", r->max);
      else al_put(&t, " in %g..%g", r->min, r->max);
    }
  }
  if (r->type & AL_T_WORD) al_put(&t, "%sone of: %s", sep, r->choices), sep = ", ";
  if (r->type & AL_T_TEXT) al_put(&t, "%sa text", sep), sep = ", ";
  if (r->type & AL_T_NAMED) al_put(&t, "%snumbers by name, as {t=1}", sep);
  return buf;
}

static al_status mismatch(al_ctx *c, const al_opts *o, const char *key, const al_arg *r,
                          const char *got) {
  AL_PLAIN_NUMBERS;
  char want[512];
  char near[128] = "";
  if (r->type & AL_T_WORD) {
    char words[512];
    const char *list[64];
    int n = 0;
    snprintf(words, sizeof words, "%s", r->choices);
    for (char *save, *w = strtok_r(words, " ", &save); w && n < 64; w = strtok_r(NULL, " ", &save))
      list[n++] = w;
    const char *hit = al_nearest(got, list, n);
    if (hit) snprintf(near, sizeof near, " (did you mean '%s'?)", hit);
  }
  return al_fail(c, AL_EVALUE, "%s: option '%s': %s expected, got '%s'%s", o->owner, key,
                 expected(r, want, sizeof want), got, near);
}

/* Whether a row takes the number: in its range, and where the row wants integers one that is exact,
 * so that whoever reads it as int64_t gets what was written. */
static al_status check_number(al_ctx *c, const al_opts *o, const char *key, const al_arg *r,
                              double x) {
  const bool whole = !(r->type & AL_T_NUM);
  if (!isnan(x) && !(whole && x != floor(x)) &&
      ((r->min == 0 && r->max == 0) || (x >= r->min && x <= r->max))) {
    if (!whole || fabs(x) <= EXACT) return AL_OK;
    return al_fail(c, AL_EVALUE, "%s: option '%s': an integer of at most 2^53 expected, got %.9g",
                   o->owner, key, x);
  }
  char got[40];
  snprintf(got, sizeof got, "%.9g", x);
  return mismatch(c, o, key, r, got);
}

static void value_clear(al_value *v) {
  free(v->word);
  free(v->list);
  al_opts_release(v->record);
  *v = (al_value){0};
}

void al_opts_release(al_opts *o) {
  if (!o || --o->refs > 0) return;
  for (int i = 0; i < o->n; i++) value_clear(&o->v[i]);
  free(o->read);
  free(o);
}

al_opts *al_opts_retain(const al_opts *o) {
  al_opts *m = (al_opts *)(uintptr_t)o; /* a reference count is not part of the al_value */
  if (m) m->refs++;
  return m;
}

const al_arg *al_opts_rows(const al_opts *o) { return o->rows; }

static int find_row(const al_opts *o, const char *name, size_t len) {
  for (int i = 0; i < o->n; i++) {
    const char *r = o->rows[i].name;
    if (r[0] == name[0] && strncmp(r, name, len) == 0 && r[len] == 0) return i;
  }
  return -1;
}

/* Resolves a dotted key to the record that holds it and the row there; -1 when unknown. */
static int locate(al_opts **o, const char *key) {
  for (;;) {
    const char *dot = strchr(key, '.');
    const int i = find_row(*o, key, dot ? (size_t)(dot - key) : strlen(key));
    if (i < 0 || !dot) return i;
    if (!(*o)->v[i].record) return -1;
    *o = (*o)->v[i].record;
    key = dot + 1;
  }
}

static al_status unknown(al_ctx *c, const al_opts *o, const char *key) {
  const char *names[512];
  char joined[256][64];
  int n = 0, m = 0;
  for (int i = 0; i < o->n && n < 256; i++) {
    names[n++] = o->rows[i].name;
    if (o->v[i].record)
      for (const al_arg *f = o->rows[i].fields; f->name && m < 256 && n < 512; f++) {
        snprintf(joined[m], sizeof joined[m], "%s.%s", o->rows[i].name, f->name);
        names[n++] = joined[m++];
      }
  }
  const char *near = al_nearest(key, names, n);
  if (near)
    return al_fail(c, AL_ENAME, "%s: unknown option '%s' (did you mean '%s'?)", o->owner, key,
                   near);
  char list[600];
  al_text t = {list, sizeof list, 0};
  for (int i = 0; i < o->n; i++) al_put(&t, " %s", o->rows[i].name);
  return al_fail(c, AL_ENAME, "%s: unknown option '%s'; it has:%s", o->owner, key,
                 o->n ? list : " none");
}

/* Finds the row and value for a setter; a record means its first field. */
static al_status target(al_ctx *c, al_opts *o, const char *key, const al_arg **row, al_value **v) {
  al_opts *at = o;
  int i = locate(&at, key);
  if (i < 0) return unknown(c, o, key);
  free(o->read);
  o->read = NULL;
  at->v[i].given = true;
  while (at->rows[i].type & AL_T_RECORD) {
    at = at->v[i].record;
    i = 0;
    at->v[0].given = true;
  }
  /* the records on the way to a dotted key count as given, too */
  const char *dot = strchr(key, '.');
  if (dot) {
    const int top = find_row(o, key, (size_t)(dot - key));
    if (top >= 0) o->v[top].given = true;
  }
  *row = &at->rows[i];
  *v = &at->v[i];
  return AL_OK;
}

static al_status put_word(al_ctx *c, al_value *v, unsigned kind, const char *w) {
  char *copy = strdup(w);
  if (!copy) return al_fail(c, AL_ENOMEM, "out of memory (option text)");
  const bool given = v->given;
  value_clear(v);
  *v = (al_value){.kind = kind, .given = given, .word = copy};
  return AL_OK;
}

/* ---- numbers by name ---- */

enum { MAX_NAMED = 64, MAX_NAME = 31 };

static bool identifier(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const bool letter = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || s[i] == '_';
    if (!letter && (i == 0 || s[i] < '0' || s[i] > '9')) return false;
  }
  return n > 0 && n <= MAX_NAME;
}

typedef struct named {
  char name[MAX_NAME + 1];
  double x;
} named;

static int by_name(const void *a, const void *b) {
  return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

/* Appends to list[*n]; a name that is there is an error, or with `replace` gets the new number. */
static al_status add_named(al_ctx *c, const al_opts *o, const char *key, const al_arg *r,
                           named *list, int *n, const char *name, size_t len, double x,
                           bool replace) {
  char got[96];
  snprintf(got, sizeof got, "%.*s=%.9g", (int)(len < 40 ? len : 40), name, x);
  if (!identifier(name, len) || !isfinite(x) ||
      ((r->min != 0 || r->max != 0) && (x < r->min || x > r->max)))
    return mismatch(c, o, key, r, got);
  int at = 0;
  while (at < *n && (strlen(list[at].name) != len || memcmp(list[at].name, name, len) != 0)) at++;
  if (at < *n && !replace)
    return al_fail(c, AL_EVALUE, "%s: option '%s': '%s' is there twice", o->owner, key,
                   list[at].name);
  if (at == MAX_NAMED)
    return al_fail(c, AL_EVALUE, "%s: option '%s': at most %d names expected", o->owner, key,
                   MAX_NAMED);
  if (at == *n) {
    memcpy(list[at].name, name, len);
    list[at].name[len] = 0;
    (*n)++;
  }
  list[at].x = x;
  return AL_OK;
}

static al_status put_named(al_ctx *c, al_value *v, named *list, int n) {
  qsort(list, (size_t)n, sizeof *list, by_name);
  char *word = calloc((size_t)n * (MAX_NAME + 1) + 1, 1);
  double *x = malloc((size_t)n * sizeof *x + 1);
  if (!word || !x) {
    free(word);
    free(x);
    return al_fail(c, AL_ENOMEM, "out of memory (named numbers)");
  }
  for (int i = 0; i < n; i++) {
    sprintf(word + strlen(word), i ? " %s" : "%s", list[i].name);
    x[i] = list[i].x;
  }
  const bool given = v->given;
  value_clear(v);
  *v = (al_value){.kind = AL_T_NAMED, .given = given, .word = word, .list = x, .n_list = n};
  return AL_OK;
}

al_status al_opts_set_named(al_ctx *c, al_opts *o, const char *key, int n, const char *const *names,
                            const double *x) {
  AL_PLAIN_NUMBERS;
  const al_arg *r;
  al_value *v;
  AL_TRY(target(c, o, key, &r, &v));
  if (!(r->type & AL_T_NAMED)) return mismatch(c, o, key, r, "numbers by name");
  named list[MAX_NAMED];
  int m = 0;
  for (int i = 0; i < n; i++)
    AL_TRY(add_named(c, o, key, r, list, &m, names[i], strlen(names[i]), x[i], false));
  return put_named(c, v, list, m);
}

/* The length of the option's name where key is one name of an AL_T_NAMED option, else 0. */
static size_t named_key(const al_opts *o, const char *key) {
  const char *dot = strrchr(key, '.');
  char path[160];
  if (!dot || (size_t)(dot - key) >= sizeof path) return 0;
  snprintf(path, sizeof path, "%.*s", (int)(dot - key), key);
  al_opts *at = (al_opts *)(uintptr_t)o; /* locate walks, it does not write */
  const int i = locate(&at, path);
  return i >= 0 && at->rows[i].type & AL_T_NAMED ? (size_t)(dot - key) : 0;
}

static bool is_named(const al_opts *o, const char *key) {
  al_opts *at = (al_opts *)(uintptr_t)o;
  const int i = locate(&at, key);
  return i >= 0 && at->rows[i].type & AL_T_NAMED;
}

/* Sets one of the numbers beside the others. */
static al_status set_one_named(al_ctx *c, al_opts *o, const char *key, size_t k, double x) {
  char path[160];
  const al_arg *r;
  al_value *v;
  snprintf(path, sizeof path, "%.*s", (int)k, key);
  AL_TRY(target(c, o, path, &r, &v));
  named list[MAX_NAMED];
  int n = 0;
  const char *w = v->kind == AL_T_NAMED ? v->word : "";
  for (int i = 0; *w; i++) {
    const size_t len = strcspn(w, " ");
    AL_TRY(add_named(c, o, path, r, list, &n, w, len, v->list[i], false));
    w += len + strspn(w + len, " ");
  }
  AL_TRY(add_named(c, o, path, r, list, &n, key + k + 1, strlen(key + k + 1), x, true));
  return put_named(c, v, list, n);
}

/* "t=1,u=0.5" up to end. */
static al_status parse_named(al_ctx *c, al_opts *o, const char *key, const char *s,
                             const char *end) {
  const al_arg *r;
  al_value *v;
  AL_TRY(target(c, o, key, &r, &v));
  named list[MAX_NAMED];
  int n = 0;
  for (;;) {
    s += strspn(s, " ,\t\n");
    if (s >= end) return put_named(c, v, list, n);
    const size_t k = strcspn(s, "=,} \t\n");
    char *stop;
    const double x = s[k] == '=' ? strtod(s + k + 1, &stop) : 0;
    if (s[k] != '=' || stop == s + k + 1) {
      char got[64];
      snprintf(got, sizeof got, "%.*s", (int)(end - s < 40 ? end - s : 40), s);
      return mismatch(c, o, key, r, got);
    }
    AL_TRY(add_named(c, o, key, r, list, &n, s, k, x, false));
    s = stop;
  }
}

/* ---- setters ---- */

/* A key that names one number, given something else. */
static al_status no_number(al_ctx *c, const al_opts *o, const char *key, const char *got) {
  return al_fail(c, AL_EVALUE, "%s: option '%s': a number expected, got '%s'", o->owner, key, got);
}

al_status al_opts_set_bool(al_ctx *c, al_opts *o, const char *key, bool b) {
  const al_arg *r;
  al_value *v;
  if (named_key(o, key)) return no_number(c, o, key, b ? "true" : "false");
  AL_TRY(target(c, o, key, &r, &v));
  if (r->type & AL_T_BOOL) {
    const bool given = v->given;
    value_clear(v);
    *v = (al_value){.kind = AL_T_BOOL, .given = given, .b = b};
    return AL_OK;
  }
  if (!b && r->type & AL_T_WORD && has_word(r->choices, "none"))
    return put_word(c, v, AL_T_WORD, "none");
  return mismatch(c, o, key, r, b ? "true" : "false");
}

al_status al_opts_set_num(al_ctx *c, al_opts *o, const char *key, double x) {
  AL_PLAIN_NUMBERS;
  const size_t one = named_key(o, key);
  if (one) return set_one_named(c, o, key, one, x);
  const al_arg *r;
  al_value *v;
  AL_TRY(target(c, o, key, &r, &v));
  if (r->type & AL_T_LIST) return al_opts_set_list(c, o, key, 1, &x);
  if (!(r->type & (AL_T_INT | AL_T_NUM | AL_T_AXIS))) {
    const bool text = r->type & AL_T_TEXT;
    char got[40];
    snprintf(got, sizeof got, text ? "%.17g" : "%.9g", x);
    return text ? put_word(c, v, AL_T_TEXT, got) : mismatch(c, o, key, r, got);
  }
  AL_TRY(check_number(c, o, key, r, x));
  const bool given = v->given;
  value_clear(v);
  *v = (al_value){.kind = AL_T_NUM, .given = given, .num = x};
  return AL_OK;
}

al_status al_opts_set_word(al_ctx *c, al_opts *o, const char *key, const char *w) {
  const al_arg *r;
  al_value *v;
  if (named_key(o, key)) return no_number(c, o, key, w);
  AL_TRY(target(c, o, key, &r, &v));
  if (r->type & AL_T_WORD && has_word(r->choices, w)) return put_word(c, v, AL_T_WORD, w);
  if (r->type & AL_T_TEXT && strlen(w) > MAX_WORD)
    return al_fail(c, AL_EVALUE, "%s: option '%s': at most %d characters expected, got %zu",
                   o->owner, key, MAX_WORD, strlen(w));
  if (r->type & AL_T_TEXT) return put_word(c, v, AL_T_TEXT, w);
  return mismatch(c, o, key, r, w);
}

al_status al_opts_set_list(al_ctx *c, al_opts *o, const char *key, int n, const double *x) {
  AL_PLAIN_NUMBERS;
  const al_arg *r;
  al_value *v;
  AL_TRY(target(c, o, key, &r, &v));
  if (!(r->type & AL_T_LIST)) return mismatch(c, o, key, r, "a list");
  for (int i = 0; i < n; i++) AL_TRY(check_number(c, o, key, r, x[i]));
  double *copy = malloc(n > 0 ? (size_t)n * sizeof *copy : 1);
  if (!copy) return al_fail(c, AL_ENOMEM, "out of memory (option list)");
  if (n > 0) memcpy(copy, x, (size_t)n * sizeof *copy);
  const bool given = v->given;
  value_clear(v);
  *v = (al_value){.kind = AL_T_LIST, .given = given, .list = copy, .n_list = n};
  return AL_OK;
}

/* ---- text ---- */

/* "{0,1,3}" or "(2,-1)" -> numbers; the closing bracket is at end. */
static al_status parse_list(al_ctx *c, al_opts *o, const char *key, const char *s,
                            const char *end) {
  double x[256];
  int n = 0;
  while (s < end) {
    s += strspn(s, " ,\t\n");
    if (s >= end) break;
    char *stop;
    const double d = strtod(s, &stop);
    if (stop == s || n == 256)
      return al_fail(c, AL_EVALUE,
                     "%s: option '%s': a list of at most 256 numbers expected, got '%.40s'",
                     o->owner, key, s);
    x[n++] = d;
    s = stop;
  }
  return al_opts_set_list(c, o, key, n, x);
}

static al_status parse_bare(al_ctx *c, al_opts *o, const char *key, const char *w) {
  if (strcmp(w, "true") == 0 || strcmp(w, "false") == 0)
    return al_opts_set_bool(c, o, key, w[0] == 't');
  char *end;
  errno = 0;
  const double d = strtod(w, &end);
  if (end != w && *end == 0 && !isnan(d)) return al_opts_set_num(c, o, key, d);
  return al_opts_set_word(c, o, key, w);
}

/* A value from s on into word[room]: in quotes, where a doubled quote stands for one, or up to the
 * next space or comma. Returns what follows, or NULL with the error set. */
static const char *read_value(al_ctx *c, const al_opts *o, const char *key, const char *s,
                              char *word, size_t room) {
  const char mark = *s == '\'' || *s == '"' ? *s : 0, *const start = s;
  const size_t bare = mark ? 0 : strcspn(s, " \t\n,");
  size_t n = 0;
  for (s += mark != 0; mark ? *s != mark || s[1] == mark : n < bare; s++) {
    if (!*s) {
      al_fail(c, AL_EVALUE, "%s: option '%s': the text %.60s is not closed", o->owner, key, start);
      return NULL;
    }
    if (n == room - 1) {
      al_fail(c, AL_EVALUE, "%s: option '%s': at most %zu characters expected, got more", o->owner,
              key, n);
      return NULL;
    }
    if (mark && *s == mark) s++;
    word[n++] = *s;
  }
  word[n] = 0;
  return s + (mark != 0);
}

al_status al_opts_parse(al_ctx *c, al_opts *o, const char *s) {
  AL_PLAIN_NUMBERS;
  if (c->error != AL_OK) return c->error;
  for (;;) {
    s += strspn(s, " \t\n,");
    if (!*s) return AL_OK;
    const size_t k = strcspn(s, "= \t\n");
    char key[128], word[MAX_WORD + 1];
    if (s[k] != '=' || k == 0 || k >= sizeof key)
      return al_fail(c, AL_EVALUE, "%s: options: key=value expected, got '%.60s'", o->owner, s);
    memcpy(key, s, k);
    key[k] = 0;
    s += k + 1;
    if (*s == '{' || *s == '(') {
      const char *end = strchr(s, *s == '{' ? '}' : ')');
      if (!end)
        return al_fail(c, AL_EVALUE, "%s: option '%s': the list '%.60s' is not closed", o->owner,
                       key, s);
      AL_TRY(is_named(o, key) ? parse_named(c, o, key, s + 1, end)
                              : parse_list(c, o, key, s + 1, end));
      s = end + 1;
      continue;
    }
    const bool quoted = *s == '\'' || *s == '"';
    if (!(s = read_value(c, o, key, s, word, sizeof word))) return al_error(c);
    AL_TRY(quoted ? al_opts_set_word(c, o, key, word) : parse_bare(c, o, key, word));
  }
}

static al_status set_default(al_ctx *c, al_opts *o, int i) {
  const al_arg *r = &o->rows[i];
  char *end = NULL;
  const double x = r->def ? strtod(r->def, &end) : NAN;
  if (!(r->type & ~(AL_T_INT | AL_T_NUM | AL_T_AXIS)) && end != r->def && !*end && !isnan(x)) {
    /* without a search for its name: every call of an op comes here for each row */
    AL_TRY(check_number(c, o, r->name, r, x));
    o->v[i] = (al_value){.kind = AL_T_NUM, .num = x};
    return AL_OK;
  }
  if (r->type & AL_T_RECORD) {
    o->v[i].record = al_opts_new(c, r->fields, o->owner);
    o->v[i].kind = AL_T_RECORD;
    return o->v[i].record ? AL_OK : AL_ENOMEM;
  }
  if (r->type & AL_T_NAMED && r->def && r->def[0] == '{')
    AL_TRY(parse_named(c, o, r->name, r->def + 1, strchr(r->def, '}')));
  else if (r->def && r->def[0] == '{')
    AL_TRY(parse_list(c, o, r->name, r->def + 1, strchr(r->def, '}')));
  else if (r->def && *r->def) AL_TRY(parse_bare(c, o, r->name, r->def));
  o->v[i].given = false;
  return AL_OK;
}

al_opts *al_opts_new(al_ctx *c, const al_arg *rows, const char *owner) {
  AL_PLAIN_NUMBERS;
  if (c->error != AL_OK) return NULL;
  int n = 0;
  while (rows && rows[n].name) n++;
  al_opts *o = al_calloc(c, 1, sizeof *o + (size_t)n * sizeof o->v[0]);
  if (!o) return NULL;
  *o = (al_opts){.refs = 1, .rows = rows, .owner = owner, .n = n};
  for (int i = 0; i < n; i++)
    if (set_default(c, o, i) != AL_OK) {
      al_opts_release(o);
      return NULL;
    }
  return o;
}

al_opts *al_opts_copy(al_ctx *c, const al_opts *o) {
  al_opts *d = al_calloc(c, 1, sizeof *d + (size_t)o->n * sizeof d->v[0]);
  if (!d) return NULL;
  *d = (al_opts){.refs = 1, .rows = o->rows, .owner = o->owner, .n = o->n};
  for (int i = 0; i < o->n; i++) {
    const al_value *s = &o->v[i];
    al_value *v = &d->v[i];
    *v = *s;
    v->word = NULL, v->list = NULL, v->record = NULL;
    if (s->word && !(v->word = strdup(s->word))) goto fail;
    if (s->list) {
      if (!(v->list = malloc((size_t)s->n_list * sizeof(double) + 1))) goto fail;
      memcpy(v->list, s->list, (size_t)s->n_list * sizeof(double));
    }
    if (s->record && !(v->record = al_opts_copy(c, s->record))) goto fail;
  }
  return d;
fail:
  al_opts_release(d);
  al_fail(c, AL_ENOMEM, "out of memory (options)");
  return NULL;
}

static const al_value *get(const al_opts *o, const char *key) {
  al_opts *at = (al_opts *)(uintptr_t)o; /* locate walks, it does not write */
  const int i = locate(&at, key);
  if (i < 0) return NULL;
  const al_value *v = &at->v[i];
  return v;
}

/* A record answers for its first field. */
static const al_value *leaf(const al_opts *o, const char *key) {
  static const al_value none;
  const al_value *v = get(o, key);
  while (v && v->kind == AL_T_RECORD) v = &v->record->v[0];
  return v ? v : &none;
}

bool al_opts_has(const al_opts *o, const char *key) { return get(o, key) != NULL; }
bool al_opts_given(const al_opts *o, const char *key) {
  const al_value *v = get(o, key);
  return v && v->given;
}
unsigned al_opt_kind(const al_opts *o, const char *key) { return leaf(o, key)->kind; }
bool al_opt_bool(const al_opts *o, const char *key) { return leaf(o, key)->b; }
double al_opt_num(const al_opts *o, const char *key) { return leaf(o, key)->num; }
/* A number that is no integer of 2^53 at most comes from a row that takes any number. */
int64_t al_opt_int(const al_opts *o, const char *key) {
  const double x = leaf(o, key)->num;
  return fabs(x) <= EXACT ? (int64_t)x : x > 0 ? INT64_MAX : x < 0 ? INT64_MIN : 0;
}
const char *al_opt_word(const al_opts *o, const char *key) {
  const al_value *v = leaf(o, key);
  return v->word ? v->word : "";
}
bool al_opt_is(const al_opts *o, const char *key, const char *word) {
  return strcmp(al_opt_word(o, key), word) == 0;
}
int al_opt_choice(const al_opts *o, const char *key) {
  al_opts *at = (al_opts *)(uintptr_t)o; /* locate walks, it does not write */
  int i = locate(&at, key);
  while (i >= 0 && at->v[i].kind == AL_T_RECORD) at = at->v[i].record, i = 0;
  if (i < 0 || at->v[i].kind != AL_T_WORD) return -1;
  const char *word = at->v[i].word, *p = at->rows[i].choices;
  for (int n = 0;; n++) {
    p += strspn(p, " ");
    const size_t k = strcspn(p, " ");
    if (!k) return -1;
    if (strlen(word) == k && strncmp(p, word, k) == 0) return n;
    p += k;
  }
}
const void *al_opts_read(const al_opts *o, size_t size,
                         void (*read)(const al_opts *o, void *into)) {
  al_opts *m = (al_opts *)(uintptr_t)o; /* what is made of the values is no part of them */
  if (!m->read && (m->read = calloc(1, size))) read(o, m->read);
  return m->read;
}
int al_opt_list(const al_opts *o, const char *key, const double **x) {
  const al_value *v = leaf(o, key);
  *x = v->list;
  return v->n_list;
}
