/* opts_text.c: options as canonical text: what differs from the defaults, in the order in which it
 * is declared; parsing it gives the same options. */
#include "opts.h"
#include <string.h>

/* In the quotes that do not occur in it, or with those doubled that do. */
static void put_text(al_text *t, const char *w) {
  const char mark = strchr(w, '\'') && !strchr(w, '"') ? '"' : '\'';
  al_put(t, "%c", mark);
  for (; *w; w++) al_put(t, *w == mark ? "%c%c" : "%c", *w, *w);
  al_put(t, "%c", mark);
}

static void put_value(al_text *t, const al_value *v) {
  switch (v->kind) {
  case AL_T_BOOL:
    al_put(t, "%s", v->b ? "true" : "false");
    break;
  case AL_T_NUM:
    al_put(t, "%.17g", v->num);
    break;
  case AL_T_WORD:
    al_put(t, "%s", v->word);
    break;
  case AL_T_TEXT:
    put_text(t, v->word);
    break;
  case AL_T_LIST:
    al_put(t, "{");
    for (int i = 0; i < v->n_list; i++) al_put(t, i ? ",%.17g" : "%.17g", v->list[i]);
    al_put(t, "}");
    break;
  case AL_T_NAMED: {
    const char *w = v->word;
    al_put(t, "{");
    for (int i = 0; i < v->n_list; i++) {
      const size_t k = strcspn(w, " ");
      al_put(t, "%s%.*s=%.17g", i ? "," : "", (int)k, w, v->list[i]);
      w += k + strspn(w + k, " ");
    }
    al_put(t, "}");
    break;
  }
  default:
    break;
  }
}

static bool same(const al_value *a, const al_value *b) {
  if (a->kind != b->kind || a->b != b->b || a->num != b->num || a->n_list != b->n_list)
    return false;
  for (int i = 0; i < a->n_list; i++)
    if (a->list[i] != b->list[i]) return false;
  return !a->word || strcmp(a->word, b->word) == 0;
}

static void put_all(al_text *t, const al_opts *o, const al_opts *defaults, const char *prefix) {
  for (int i = 0; i < o->n; i++) {
    const al_value *v = &o->v[i];
    char name[160];
    snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", o->rows[i].name);
    if (v->kind == AL_T_RECORD) {
      put_all(t, v->record, defaults ? defaults->v[i].record : NULL, name);
    } else if (v->kind && (!defaults || !same(v, &defaults->v[i]))) {
      al_put(t, t->at ? " %s=" : "%s=", name);
      put_value(t, v);
    }
  }
}

void al_opts_text(const al_opts *o, bool all, char *buf, size_t n) {
  AL_PLAIN_NUMBERS;
  al_text t = {buf, n, 0};
  if (n) buf[0] = 0;
  al_ctx *c = all ? NULL : al_ctx_new();
  al_opts *d = c ? al_opts_new(c, o->rows, o->owner) : NULL;
  put_all(&t, o, d, "");
  al_opts_release(d);
  al_ctx_free(c);
}
