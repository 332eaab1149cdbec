/* regex.c: patterns of pre-tokenizers, by PCRE2 with its just-in-time compiler where it works.
 *
 * In these patterns \s is Unicode's White_Space. PCRE2's own holds U+180E besides, so \s and \S are
 * written out before the pattern is compiled. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pipeline.h"
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define SPACES                                                                                     \
  "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"          \
  "\\x{205f}\\x{3000}"

struct al_regex {
  pcre2_code *code;
  char *what;
};

/* The pattern with \s and \S written out. Within a class \S cannot be, and stays what PCRE2 has. */
static al_status written_out(al_ctx *c, const char *p, int64_t n, al_buffer *out) {
  bool in_class = false;
  for (int64_t i = 0; i < n; i++) {
    if (p[i] == '\\' && i + 1 < n) {
      const char *by = p[i + 1] == 's'                ? (in_class ? SPACES : "[" SPACES "]")
                       : p[i + 1] == 'S' && !in_class ? "[^" SPACES "]"
                                                      : NULL;
      AL_TRY(by ? al_buffer_put(c, out, by, (int64_t)strlen(by)) : al_buffer_put(c, out, p + i, 2));
      i++;
      continue;
    }
    if (p[i] == '[' && !in_class) {
      in_class = true;
      AL_TRY(al_buffer_put(c, out, p + i, 1));
      if (i + 1 < n && p[i + 1] == '^') AL_TRY(al_buffer_put(c, out, p + ++i, 1));
      if (i + 1 < n && p[i + 1] == ']') AL_TRY(al_buffer_put(c, out, p + ++i, 1));
      continue;
    }
    if (p[i] == ']') in_class = false;
    AL_TRY(al_buffer_put(c, out, p + i, 1));
  }
  return AL_OK;
}

al_regex *al_regex_new(al_ctx *c, const char *what, const char *pattern, int64_t n, bool literal) {
  al_buffer text = {0};
  al_regex *r = al_calloc(c, 1, sizeof *r);
  int code = 0;
  PCRE2_SIZE at = 0;
  if (!r || !(r->what = al_calloc(c, (int64_t)strlen(what) + 1, 1))) goto fail;
  strcpy(r->what, what);
  if (n > 1 << 16) {
    al_fail(c, AL_EFORMAT, "tokenizer: %s: a pattern of %lld bytes", what, (long long)n);
    goto fail;
  }
  if ((literal ? al_buffer_put(c, &text, pattern, n) : written_out(c, pattern, n, &text)) != AL_OK)
    goto fail;
  const uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_DOLLAR_ENDONLY);
  r->code = pcre2_compile((PCRE2_SPTR)(text.s ? text.s : ""), (PCRE2_SIZE)text.n, options, &code,
                          &at, NULL);
  if (!r->code) {
    PCRE2_UCHAR why[256];
    pcre2_get_error_message(code, why, sizeof why);
    al_fail(c, AL_EFORMAT, "tokenizer: %s: pattern '%.*s': %s at character %zu", what,
            (int)(n < 200 ? n : 200), pattern, (const char *)why, (size_t)at);
    goto fail;
  }
  pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it, matching is slower and the same */
  free(text.s);
  return r;
fail:
  free(text.s);
  al_regex_free(r);
  return NULL;
}

void al_regex_free(al_regex *r) {
  if (!r) return;
  pcre2_code_free(r->code);
  free(r->what);
  free(r);
}

al_status al_spans_put(al_ctx *c, al_spans *s, int64_t from, int64_t to, bool match) {
  if (s->n == s->cap) AL_TRY(al_room(c, &s->at, &s->cap, s->n, 1, sizeof *s->at));
  s->at[s->n++] = (struct al_span){(int32_t)from, (int32_t)to, match};
  return AL_OK;
}

static al_status split(al_ctx *c, const al_regex *r, const char *s, int64_t n,
                       pcre2_match_data *data, pcre2_match_context *limits, al_spans *out) {
  int64_t done = 0;
  for (int64_t at = 0; at <= n;) {
    const int k = pcre2_match(r->code, (PCRE2_SPTR)s, (PCRE2_SIZE)n, (PCRE2_SIZE)at,
                              PCRE2_NO_UTF_CHECK, data, limits);
    if (k == PCRE2_ERROR_NOMATCH) break;
    if (k < 0) {
      PCRE2_UCHAR why[256];
      pcre2_get_error_message(k, why, sizeof why);
      return al_fail(c, AL_EVALUE, "encode: %s: the pattern gives up at byte %lld: %s", r->what,
                     (long long)at, (const char *)why);
    }
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(data);
    const int64_t from = (int64_t)found[0], to = (int64_t)found[1];
    if (from < done || to < from) /* \K and look-behind can ask for it */
      return al_fail(c, AL_EVALUE, "encode: %s: the pattern matches backwards at byte %lld",
                     r->what, (long long)at);
    if (from > done) AL_TRY(al_spans_put(c, out, done, from, false));
    if (to > from) AL_TRY(al_spans_put(c, out, from, to, true));
    done = at = to;
    if (to > from) continue;
    if (at == n) break;
    uint32_t u;
    at += al_utf8(s + at, n - at, &u); /* an empty match: on behind the next character */
  }
  return n > done ? al_spans_put(c, out, done, n, false) : AL_OK;
}

al_status al_regex_split(al_ctx *c, const al_regex *r, const char *s, int64_t n, al_spans *out) {
  pcre2_match_data *data = pcre2_match_data_create(1, NULL);
  pcre2_match_context *limits = pcre2_match_context_create(NULL);
  if (!data || !limits) al_fail(c, AL_ENOMEM, "encode: out of memory");
  else {
    pcre2_set_match_limit(limits, 20000000); /* a pattern that never ends is an error in seconds */
    split(c, r, s, n, data, limits, out);
  }
  pcre2_match_data_free(data);
  pcre2_match_context_free(limits);
  return al_error(c);
}

al_status al_regex_replace(al_ctx *c, const al_regex *r, const al_buffer *by, const char *s,
                           int64_t n, al_buffer *out) {
  al_spans spans = {0};
  al_status st = al_regex_split(c, r, s, n, &spans);
  for (int64_t i = 0; i < spans.n && st == AL_OK; i++) {
    const struct al_span *x = &spans.at[i];
    st = x->match ? al_buffer_put(c, out, by->s, by->n)
                  : al_buffer_put(c, out, s + x->from, x->to - x->from);
  }
  free(spans.at);
  return st;
}
