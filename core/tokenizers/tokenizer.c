/* tokenizer.c: the functions of attnlab.h over any kind of tokenizer, and the list of kinds. What
 * is the same in all is here: limits, the tokens around a text, special strings as ids. */
#include "tokenizer.h"
#include <stdlib.h>
#include <string.h>

static const al_vocab_kind *const kinds[] = {
    &al_kind_characters,    &al_kind_bytes,       &al_kind_llama2c,
    &al_kind_sentencepiece, &al_kind_huggingface, &al_kind_gpt2,
    &al_kind_tiktoken,      &al_kind_tekken,      &al_kind_wordpiece};

al_vocab *al_vocab_new(al_ctx *c, const char *kind, const al_source *files, int n_files) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(kinds[i]->name, kind) != 0) continue;
    al_vocab *v = kinds[i]->make(c, files, n_files);
    if (v && al_error(c) == AL_OK) return v;
    al_vocab_free(v);
    return NULL;
  }
  al_fail(c, AL_EVALUE, "tokenizer: unknown kind '%s'", kind);
  return NULL;
}

void *al_vocab_alloc(al_ctx *c, const al_vocab_kind *kind, size_t size) {
  al_vocab *v = al_calloc(c, 1, size);
  if (v) v->kind = kind, v->bos = v->eos = v->unk = v->pad = -1;
  return v;
}

void al_vocab_free(al_vocab *v) {
  if (!v) return;
  if (v->kind->free) v->kind->free(v);
  for (int64_t i = 0; i < v->n_specials; i++) free(v->specials[i].name);
  free(v->specials);
  free(v->prefix.id);
  free(v->suffix.id);
  free(v);
}

al_status al_vocab_add_special(al_ctx *c, al_vocab *v, int32_t id, const char *name, int64_t n) {
  AL_TRY(al_room(c, &v->specials, &v->cap_specials, v->n_specials, 1, sizeof *v->specials));
  char *copy = al_calloc(c, n + 1, 1);
  if (!copy) return al_error(c);
  memcpy(copy, name, (size_t)n);
  v->specials[v->n_specials++] = (al_special){id, copy, n};
  return AL_OK;
}

const al_special *al_vocab_special_of(const al_vocab *v, int32_t id) {
  for (int64_t i = 0; i < v->n_specials; i++)
    if (v->specials[i].id == id) return &v->specials[i];
  return NULL;
}

int64_t al_vocab_size(const al_vocab *v) { return v->n; }

const char *al_vocab_piece(const al_vocab *v, int64_t id, size_t *n) {
  if (id < 0 || id >= v->n) return NULL;
  int64_t len;
  const char *s = v->kind->piece(v, (int32_t)id, &len);
  if (n) *n = (size_t)len;
  return s;
}

int64_t al_vocab_id(const al_vocab *v, const char *piece, size_t n) {
  for (int64_t i = 0; i < v->n_specials; i++)
    if (v->specials[i].n == (int64_t)n && memcmp(v->specials[i].name, piece, n) == 0)
      return v->specials[i].id;
  return n > AL_MAX_TEXT ? -1 : v->kind->find(v, piece, (int64_t)n);
}

int64_t al_vocab_known(const al_vocab *v, const char *role) {
  return strcmp(role, "bos") == 0   ? v->bos
         : strcmp(role, "eos") == 0 ? v->eos
         : strcmp(role, "unk") == 0 ? v->unk
         : strcmp(role, "pad") == 0 ? v->pad
                                    : -1;
}

const char *al_vocab_special(const al_vocab *v, int64_t i, int64_t *id, size_t *n) {
  if (i < 0 || i >= v->n_specials) return NULL;
  *id = v->specials[i].id;
  *n = (size_t)v->specials[i].n;
  return v->specials[i].name;
}

/* ---- encode --------------------------------------------------------------------------------- */

/* The longest special string at s, of which n bytes remain, or NULL. */
static const al_special *special_at(const al_vocab *v, const char *s, int64_t n) {
  const al_special *best = NULL;
  for (int64_t i = 0; i < v->n_specials; i++) {
    const al_special *k = &v->specials[i];
    if (k->n > 0 && k->n <= n && (!best || k->n > best->n) && memcmp(s, k->name, (size_t)k->n) == 0)
      best = k;
  }
  return best;
}

static al_status encode_around(al_ctx *c, const al_vocab *v, const char *text, int64_t n,
                               al_idlist *out) {
  bool begins[256] = {false};
  for (int64_t i = 0; i < v->n_specials; i++)
    if (v->specials[i].n > 0) begins[(unsigned char)v->specials[i].name[0]] = true;
  int64_t from = 0;
  for (int64_t at = 0; at < n;) {
    const al_special *k = begins[(unsigned char)text[at]] ? special_at(v, text + at, n - at) : NULL;
    if (!k) {
      at++;
      continue;
    }
    if (at > from) AL_TRY(v->kind->encode(c, v, text + from, at - from, true, out));
    AL_TRY(al_idlist_put(c, out, k->id));
    from = at += k->n;
  }
  return n > from ? v->kind->encode(c, v, text + from, n - from, true, out) : AL_OK;
}

static al_status encode(al_ctx *c, const al_vocab *v, const char *text, int64_t n, int flags,
                        al_idlist *out) {
  const bool special = (flags & AL_ENCODE_SPECIAL) != 0, plain = (flags & AL_ENCODE_PLAIN) != 0;
  if (!plain)
    for (int64_t i = 0; i < v->prefix.n; i++) AL_TRY(al_idlist_put(c, out, v->prefix.id[i]));
  if (special && !v->kind->splits) AL_TRY(encode_around(c, v, text, n, out));
  else if (n > 0) AL_TRY(v->kind->encode(c, v, text, n, special, out));
  if (!plain)
    for (int64_t i = 0; i < v->suffix.n; i++) AL_TRY(al_idlist_put(c, out, v->suffix.id[i]));
  return AL_OK;
}

/* The list as a 1-D i32 tensor of the caller's. */
static al_tensor *tensor_of(al_ctx *c, const al_idlist *l) {
  const bool off = c->scope_off;
  c->scope_off = true;
  al_tensor *t = al_tensor_new(c, AL_I32, 1, &l->n);
  c->scope_off = off;
  al_stage g;
  if (!t || !al_stage_begin(&g, t, false)) {
    al_release(t);
    return NULL;
  }
  if (l->n > 0) memcpy(g.bytes, l->id, (size_t)l->n * sizeof *l->id);
  al_stage_end(&g, true);
  if (al_error(c) == AL_OK) return t;
  al_release(t);
  return NULL;
}

al_tensor *al_vocab_encode(al_ctx *c, const al_vocab *v, const char *text, size_t n, int flags) {
  if (n > AL_MAX_TEXT) {
    al_fail(c, AL_EVALUE, "encode: at most %d bytes at once, got %zu", AL_MAX_TEXT, n);
    return NULL;
  }
  al_idlist ids = {0};
  al_tensor *t = encode(c, v, text, (int64_t)n, flags, &ids) == AL_OK ? tensor_of(c, &ids) : NULL;
  free(ids.id);
  return t ? al_scope_own(c, t) : NULL;
}

/* ---- decode --------------------------------------------------------------------------------- */

char *al_vocab_decode(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n, int flags,
                      size_t *len) {
  for (int64_t i = 0; i < n; i++) {
    if (ids[i] >= 0 && ids[i] < v->n) continue;
    al_fail(c, AL_EVALUE, "decode: id %d at position %lld: 0 to %lld possible", ids[i],
            (long long)(i + 1), (long long)v->n - 1);
    return NULL;
  }
  al_buffer out = {0};
  if (v->kind->decode(c, v, ids, n, (flags & AL_ENCODE_SPECIAL) != 0, &out) != AL_OK ||
      al_buffer_put(c, &out, "", 1) != AL_OK) {
    free(out.s);
    return NULL;
  }
  if (len) *len = (size_t)out.n - 1;
  return out.s;
}
