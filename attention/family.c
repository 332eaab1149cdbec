/* family.c: the tables of a family that came from elsewhere: what the rest of the program takes for
 * granted of option rows and presets is checked here, once, with the row named. */
#include "plugin.h"
#include <ctype.h>
#include <string.h>

enum { MAX_ROWS = 256, MAX_DEPTH = 3, MAX_TEXT = 512 };

/* An option's name is a word that can stand before '=' and after '.'. */
static bool option_name(const char *s) {
  if (!isalpha((unsigned char)*s) && *s != '_') return false;
  for (; *s; s++)
    if (!isalnum((unsigned char)*s) && *s != '_') return false;
  return true;
}

static al_status check_row(al_ctx *c, const al_arg *r, const char *who) {
  if (!option_name(r->name))
    return al_fail(c, AL_ENAME,
                   "%s: option '%s': a name of letters, digits and _ is needed (as '%s' is "
                   "written in key=value)",
                   who, r->name, r->name);
  if (strcmp(r->name, "preset") == 0)
    return al_fail(c, AL_ENAME, "%s: option 'preset': that word chooses a preset", who);
  if (!r->doc) return al_fail(c, AL_EVALUE, "%s: option '%s': it has no doc", who, r->name);
  if (!r->type) return al_fail(c, AL_EVALUE, "%s: option '%s': it has no type", who, r->name);
  if (r->type & AL_T_WORD && (!r->choices || !r->choices[strspn(r->choices, " ")]))
    return al_fail(c, AL_EVALUE, "%s: option '%s': words are allowed, but no choices are listed",
                   who, r->name);
  if (r->type & AL_T_RECORD && (!r->fields || !r->fields[0].name))
    return al_fail(c, AL_EVALUE, "%s: option '%s': a record without fields", who, r->name);
  if (r->def && strlen(r->def) >= MAX_TEXT)
    return al_fail(c, AL_EVALUE, "%s: option '%s': its default is longer than %d characters", who,
                   r->name, MAX_TEXT - 1);
  if (r->def && r->def[0] == '{' && !strchr(r->def, '}'))
    return al_fail(c, AL_EVALUE, "%s: option '%s': the list of its default is not closed: '%s'",
                   who, r->name, r->def);
  return AL_OK;
}

static al_status check_rows(al_ctx *c, const al_arg *rows, const char *who, int depth) {
  if (depth > MAX_DEPTH)
    return al_fail(c, AL_EVALUE, "%s: options: records nested deeper than %d", who, MAX_DEPTH);
  for (int i = 0; rows[i].name; i++) {
    if (i == MAX_ROWS)
      return al_fail(c, AL_EVALUE, "%s: options: more than %d rows: does the table end with {0}?",
                     who, MAX_ROWS);
    AL_TRY(check_row(c, &rows[i], who));
    for (int j = 0; j < i; j++)
      if (strcmp(rows[i].name, rows[j].name) == 0)
        return al_fail(c, AL_ENAME, "%s: option '%s' is declared twice", who, rows[i].name);
    if (rows[i].type & AL_T_RECORD) AL_TRY(check_rows(c, rows[i].fields, who, depth + 1));
  }
  return AL_OK;
}

/* Reports the pending error again, as one of the family's. */
static al_status because(al_ctx *c, const char *who, const char *what, const char *name) {
  char text[1024] = "";
  const al_status st = al_error(c);
  strncat(text, al_error_message(c, NULL, NULL), sizeof text - 1);
  al_error_clear(c);
  return al_fail(c, st, "%s: %s%s%s: %s", who, what, *name ? " " : "", name, text);
}

/* A preset's name is one word: it stands in preset=NAME and in lists. */
static al_status check_preset(al_ctx *c, const attn_family *f, const attn_preset *p,
                              const char *who) {
  bool ok = *p->name != 0 && strlen(p->name) < 64;
  for (const char *s = p->name; *s; s++)
    ok = ok && (isalnum((unsigned char)*s) || strchr("_/.+-", *s));
  const size_t n = strlen(p->name);
  if (!ok || p->name[n - 1] == '/')
    return al_fail(c, AL_ENAME,
                   "%s: preset '%s': a name of at most 63 letters, digits, _ / . + - is needed",
                   who, p->name);
  if (!p->options || !p->layer || !p->source || !p->note)
    return al_fail(c, AL_EVALUE,
                   "%s: preset '%s': options, layer, source and note are texts, \"\" where there "
                   "is nothing to say; one of them is NULL",
                   who, p->name);
  for (const attn_preset *q = f->presets; q < p; q++)
    if (strcmp(p->name, q->name) == 0)
      return al_fail(c, AL_ENAME, "%s: preset '%s' is there twice", who, p->name);
  al_opts *o = al_opts_new(c, f->options, f->name);
  if (o) al_opts_parse(c, o, p->options);
  al_opts_release(o);
  return al_error(c) == AL_OK ? AL_OK : because(c, who, "preset", p->name);
}

al_status attn_family_check(al_ctx *c, const attn_family *f, const char *who) {
  if (f->abi != ATTN_ABI || f->size != sizeof *f)
    return al_fail(c, AL_EFORMAT,
                   "%s: its family has ABI %u and %u bytes, this program ABI %d and %zu: build it "
                   "again",
                   who, f->abi, f->size, ATTN_ABI, sizeof *f);
  const char *missing = !f->name      ? "name"
                        : !f->doc     ? "doc"
                        : !f->options ? "options"
                        : !f->forward ? "forward"
                                      : NULL;
  if (missing) return al_fail(c, AL_EVALUE, "%s: its family has no %s", who, missing);
  if (!option_name(f->name))
    return al_fail(c, AL_ENAME, "%s: '%s': the name of a family is a C identifier", who, f->name);
  AL_TRY(check_rows(c, f->options, who, 0));
  al_opts *o = al_opts_new(c, f->options, f->name);
  al_opts_release(o);
  if (!o) return because(c, who, "a default", "");
  for (int i = 0; f->taps && f->taps[i].name; i++) {
    const attn_tap_row *r = &f->taps[i];
    if (i == ATTN_MAX_TAPS)
      return al_fail(c, AL_EVALUE, "%s: more than %d taps: does the table end with {0}?", who,
                     ATTN_MAX_TAPS);
    if (!option_name(r->name) || !r->shape || !r->doc)
      return al_fail(c, AL_EVALUE, "%s: tap '%s': a name of letters, a shape and a doc are needed",
                     who, r->name);
    for (int j = 0; j < i; j++)
      if (strcmp(r->name, f->taps[j].name) == 0)
        return al_fail(c, AL_ENAME, "%s: tap '%s' is declared twice", who, r->name);
  }
  for (int i = 0; f->presets && f->presets[i].name; i++) {
    if (i == MAX_ROWS)
      return al_fail(c, AL_EVALUE, "%s: more than %d presets: does the table end with {0}?", who,
                     MAX_ROWS);
    AL_TRY(check_preset(c, f, &f->presets[i], who));
  }
  return AL_OK;
}
