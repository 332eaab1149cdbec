/* wordpiece.c: BERT's WordPiece: of each word the longest piece that it begins with, then the
 * longest that the rest begins with ("##ing"), and so on; a word that comes out nowhere, or is
 * longer than `longest` characters, is the unknown token as a whole. */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>

al_status al_wordpiece_word(al_ctx *c, const al_wordpiece *m, const al_pieces *tokens,
                            const char *s, int64_t n, al_idlist *out) {
  int64_t characters = 0;
  for (int64_t i = 0; i < n; i++) characters += (s[i] & 0xc0) != 0x80;
  if (characters > m->longest) return al_idlist_put(c, out, m->unk);
  const int64_t before = out->n, n_prefix = (int64_t)strlen(m->prefix);
  al_buffer piece = {0};
  al_status st = AL_OK;
  for (int64_t at = 0; at < n && st == AL_OK;) {
    const int64_t head = at > 0 ? n_prefix : 0;
    piece.n = 0;
    st = al_buffer_put(c, &piece, m->prefix, head);
    if (st == AL_OK) st = al_buffer_put(c, &piece, s + at, n - at);
    int64_t len = n - at;
    int32_t id = -1;
    while (st == AL_OK && len > 0 && (id = al_pieces_find(tokens, piece.s, head + len)) < 0) do
        len--;
      while (len > 0 && (s[at + len] & 0xc0) == 0x80);
    if (st == AL_OK && id < 0) {
      out->n = before;
      st = al_idlist_put(c, out, m->unk);
      break;
    }
    if (st == AL_OK) st = al_idlist_put(c, out, id);
    at += len;
  }
  free(piece.s);
  return st;
}

/* ---- vocab.txt ------------------------------------------------------------------------------- */

/* A token a line, its id the line's number from 0. As google-research/bert reads text in lower case
 * (tokenization.py): control characters (Cc, Cf) go, spaces round CJK, lower case, accents go, cut
 * at white space and at signs. Whether a vocabulary has lower case only, its tokens say. */
static al_status read_lines(al_ctx *c, al_pipeline *p, const al_source *file, bool *upper) {
  if (al_utf8_count(c, file->name, file->data, (int64_t)file->n) < 0) return al_error(c);
  const char *at = file->data, *end = file->data + file->n;
  al_token_list seen = {0};
  for (int64_t line = 1; at < end; line++) {
    const char *nl = memchr(at, '\n', (size_t)(end - at)), *stop = nl ? nl : end;
    int64_t n = stop - at;
    while (n > 0 && (at[n - 1] == '\r' || at[n - 1] == ' ' || at[n - 1] == '\t')) n--;
    if (n == 0)
      al_fail(c, AL_EFORMAT, "tokenizer: %s: line %lld is empty, a token expected", file->name,
              (long long)line);
    else al_token_put(c, &seen, file->name, line - 1, at, n);
    if (al_error(c) != AL_OK) break;
    if (*at != '[')
      for (int64_t i = 0; i < n; i++) *upper |= at[i] >= 'A' && at[i] <= 'Z';
    at = nl ? nl + 1 : end;
  }
  if (al_error(c) == AL_OK) al_token_close(c, &seen, file->name, &p->tokens);
  free(seen.at);
  return al_error(c);
}

static al_status same_twice(al_ctx *c, const al_pipeline *p, const char *name) {
  for (int64_t id = 0; id < p->tokens.n; id++) {
    int64_t n;
    const char *s = al_pieces_get(&p->tokens, id, &n);
    const int32_t first = al_pieces_find(&p->tokens, s, n);
    if (first != id)
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: lines %d and %lld are one token, '%.*s'", name,
                     first + 1, (long long)id + 1, (int)(n < 60 ? n : 60), s);
  }
  return AL_OK;
}

static al_status put_norm(al_ctx *c, al_pipeline *p, al_norm k) {
  AL_TRY(al_room(c, &p->norms, &p->cap_norms, p->n_norms, 1, sizeof *p->norms));
  p->norms[p->n_norms++] = k;
  return AL_OK;
}

static al_status put_split(al_ctx *c, al_pipeline *p, al_split k) {
  AL_TRY(al_room(c, &p->splits, &p->cap_splits, p->n_splits, 1, sizeof *p->splits));
  p->splits[p->n_splits++] = k;
  return AL_OK;
}

static al_status read_vocab(al_ctx *c, al_pipeline *p, const al_source *file) {
  static const char *const specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  bool upper = false;
  AL_TRY(read_lines(c, p, file, &upper));
  AL_TRY(same_twice(c, p, file->name));
  AL_TRY(put_norm(
      c, p, (al_norm){.type = AL_NORM_BERT, .clean = true, .chinese = true, .only_cf = true}));
  if (!upper) {
    AL_TRY(put_norm(c, p, (al_norm){.type = AL_NORM_LOWER}));
    AL_TRY(put_norm(c, p, (al_norm){.type = AL_NORM_FORM, .form = "NFD"}));
    AL_TRY(put_norm(c, p, (al_norm){.type = AL_NORM_ACCENTS}));
  }
  AL_TRY(put_split(c, p, (al_split){.type = AL_SPLIT_SPACES, .behavior = AL_REMOVED}));
  AL_TRY(put_split(c, p, (al_split){.type = AL_SPLIT_PUNCT, .behavior = AL_ISOLATED}));
  p->wordpiece = (al_wordpiece){.longest = 100, .prefix = "##"};
  p->wordpiece.unk = al_pieces_find(&p->tokens, "[UNK]", 5);
  if (p->wordpiece.unk < 0)
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: no token [UNK]: not a WordPiece vocabulary",
                   file->name);
  for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
    al_added a = {.text = (char *)(uintptr_t)specials[i], .special = true};
    a.n = (int64_t)strlen(specials[i]), a.id = al_pieces_find(&p->tokens, a.text, a.n);
    if (a.id >= 0) AL_TRY(al_pipeline_add(c, p, &a));
    if (a.id >= 0 && i == 2) AL_TRY(al_idlist_put(c, &p->base.prefix, a.id));
    if (a.id >= 0 && i == 3) AL_TRY(al_idlist_put(c, &p->base.suffix, a.id));
  }
  AL_TRY(al_room(c, &p->decodes, &p->cap_decodes, 0, 1, sizeof *p->decodes));
  p->decodes[p->n_decodes++] = (al_decode){.type = AL_DECODE_WORDPIECE, .cleanup = true};
  AL_TRY(al_buffer_put(c, &p->decodes[0].text, "##", 2));
  return al_pipeline_finish(c, p);
}

static al_vocab *make(al_ctx *c, const al_source *files, int n_files) {
  if (n_files != 1) return al_fail(c, AL_EVALUE, "tokenizer: a vocabulary needed"), NULL;
  al_pipeline *p = al_vocab_alloc(c, &al_kind_wordpiece, sizeof *p);
  if (p) read_vocab(c, p, files);
  return (al_vocab *)p;
}

const al_vocab_kind al_kind_wordpiece = {.name = "wordpiece", .make = make, AL_PIPELINE};
