/* stages.h: what a text passes on its way through a tokenizer and back: patterns, characters,
 * normalisers, pre-tokenizers, decoders, as Hugging Face's tokenizers library names them. */
#ifndef AL_STAGES_H
#define AL_STAGES_H
#include "tokenizer.h"

/* ---- regex.c: PCRE2 in UTF-8 with Unicode properties ----------------------------------------- */

typedef struct al_regex al_regex;
/* literal: the text itself. \s is Unicode's White_Space, as in Rust, Oniguruma and Python's regex.
 * NULL with the place in the pattern; `what` names it. */
al_regex *al_regex_new(al_ctx *c, const char *what, const char *pattern, int64_t n, bool literal);
void al_regex_free(al_regex *r);
/* GPT-2's, which ByteLevel of a tokenizer.json uses unless it says otherwise. */
#define AL_GPT2_PATTERN                                                                            \
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

typedef struct al_spans { /* stretches of a text, in order; the caller frees .at */
  struct al_span {
    int32_t from, to;
    bool match;
  } * at;
  int64_t n, cap;
} al_spans;
al_status al_spans_put(al_ctx *c, al_spans *s, int64_t from, int64_t to, bool match);
/* The matches in s[0..n), which is UTF-8, and what lies between them: all of it. */
al_status al_regex_split(al_ctx *c, const al_regex *r, const char *s, int64_t n, al_spans *out);
/* Appends s[0..n) with `by` in the place of each match. */
al_status al_regex_replace(al_ctx *c, const al_regex *r, const al_buffer *by, const char *s,
                           int64_t n, al_buffer *out);

/* ---- characters (unicode.c) ------------------------------------------------------------------ */

bool al_is_space(uint32_t u);          /* White_Space */
bool al_is_number(uint32_t u);         /* categories Nd, Nl, No */
bool al_is_punct(uint32_t u);          /* ASCII's signs that are no letters, and categories P* */
bool al_is_mark(uint32_t u, bool all); /* Mn; all: any of M* */
bool al_is_word(uint32_t u);           /* letters, marks, digits and connectors */
/* Categories Cc and Cf; all: any of C*, but what is not assigned. */
bool al_is_control(uint32_t u, bool all);
bool al_is_chinese(uint32_t u); /* CJK ideographs, as BERT counts them */
/* Appends a form of the text: "NFC", "NFD", "NFKC" or "NFKD". */
al_status al_normal_form(al_ctx *c, const char *form, const char *s, int64_t n, al_buffer *out);
al_status al_lower(al_ctx *c, const char *s, int64_t n,
                   al_buffer *out); /* character by character */

/* ---- normalisers (normalize.c) --------------------------------------------------------------- */

typedef enum al_norm_type {
  AL_NORM_FORM, /* a: the form */
  AL_NORM_LOWER,
  AL_NORM_PREPEND, /* b before a text that is not empty */
  AL_NORM_REPLACE, /* each match of re by b */
  AL_NORM_STRIP,   /* white space at the left, right */
  AL_NORM_ACCENTS, /* Mn goes; all: M* */
  AL_NORM_BERT     /* control characters go, white space is " ", " " around CJK */
} al_norm_type;

typedef struct al_norm {
  al_norm_type type;
  const char *form;
  al_regex *re;
  al_buffer text;
  bool left, right;    /* strip */
  bool clean, chinese; /* BERT; only_cf: of C* only Cc and Cf are control characters */
  bool only_cf;
  bool all; /* accents */
} al_norm;
al_status al_normalize(al_ctx *c, const al_norm *steps, int64_t n_steps, const char *s, int64_t n,
                       al_buffer *out);

/* ---- pre-tokenizers (split.c) ---------------------------------------------------------------- */

typedef enum al_split_type {
  AL_SPLIT_REGEX,
  AL_SPLIT_NUMBERS,
  AL_SPLIT_PUNCT,
  AL_SPLIT_SPACES,
  AL_SPLIT_BYTES, /* add_prefix; re may be NULL; then each byte is one of GPT-2's alphabet */
  AL_SPLIT_META   /* U+2581 for spaces: prefix 'a'lways, 'f'irst, 'n'ever; cut: a word each */
} al_split_type;

typedef enum al_behavior {
  AL_REMOVED,
  AL_ISOLATED,
  AL_CONTIGUOUS,
  AL_MERGED_PREVIOUS,
  AL_MERGED_NEXT
} al_behavior;

typedef struct al_split {
  al_split_type type;
  al_behavior behavior;
  bool invert, cut;
  char prefix; /* 'a', 'f' or 'n' */
  al_regex *re;
  char mark[4]; /* what META puts for a space */
  int mark_n;
} al_split;

typedef struct al_words { /* a text and the words it is split into; free with al_words_free */
  al_buffer text;
  al_spans spans;
  bool begins; /* the first word begins the whole text */
} al_words;
void al_words_free(al_words *w);
/* Splits w by the steps; `spare` is room of the caller's. */
al_status al_split_words(al_ctx *c, const al_split *steps, int64_t n_steps, al_words *w,
                         al_words *spare);

/* ---- decoders (decode.c) --------------------------------------------------------------------- */

typedef enum al_decode_type {
  AL_DECODE_BYTES,    /* ByteLevel */
  AL_DECODE_META,     /* Metaspace */
  AL_DECODE_FALLBACK, /* <0x41> */
  AL_DECODE_FUSE,
  AL_DECODE_REPLACE,  /* re by text */
  AL_DECODE_STRIP,    /* up to left and right times text */
  AL_DECODE_WORDPIECE /* prefix text; cleanup */
} al_decode_type;

typedef struct al_decode {
  al_decode_type type;
  al_regex *re;
  al_buffer text;
  int64_t left, right;
  bool cleanup;
  char mark[4], prefix; /* META */
  int mark_n;
} al_decode;
/* The tokens of w (its spans) to the text: spans of the result, one after the other. */
al_status al_decode_words(al_ctx *c, const al_decode *steps, int64_t n_steps, al_words *w,
                          al_words *spare);
#endif
