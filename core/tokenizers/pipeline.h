/* pipeline.h: tokenizers made of stages, as Hugging Face's tokenizers library names them: added
 * tokens are cut out, the text between is normalised, split into words, each word becomes ids by a
 * model (BPE or WordPiece), and back by a chain of decoders. tokenizer.json says which stages;
 * GPT-2's, tiktoken's, tekken's and BERT's files fill the same struct. */
#ifndef AL_PIPELINE_H
#define AL_PIPELINE_H
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

/* ---- models ---------------------------------------------------------------------------------- */

/* GPT-2's alphabet: a printable character for each byte. */
uint32_t al_byte_char(unsigned char byte);
int al_char_byte(uint32_t u); /* -1: none */
al_status al_bytes_spelt(al_ctx *c, const char *s, int64_t n, al_buffer *out);
/* The bytes that a token in that alphabet stands for; false: it has other characters. */
bool al_bytes_meant(const char *s, int64_t n, char *out, int64_t *n_out);

typedef struct al_bpe al_bpe; /* bpe.c */
typedef struct al_bpe_options {
  bool byte_fallback, fuse_unk, ignore_merges;
  int32_t unk; /* -1: none */
} al_bpe_options;
/* tokens: borrowed; indexed. */
al_bpe *al_bpe_new(al_ctx *c, const al_pieces *tokens, al_bpe_options o, int64_t n_merges);
void al_bpe_free(al_bpe *m);
/* The next merge, of a lower rank than those before. what: "FILE: merge 7" for messages. */
al_status al_bpe_merge(al_ctx *c, al_bpe *m, const char *what, const char *a, int64_t n_a,
                       const char *b, int64_t n_b);
/* Merges by the ids of what they make, of n tokens from `first` on: each way to cut one in two. */
al_status al_bpe_by_rank(al_ctx *c, al_bpe *m, int64_t first, int64_t n_tokens);
al_status al_bpe_word(al_ctx *c, const al_bpe *m, const char *s, int64_t n, al_idlist *out);

typedef struct al_wordpiece { /* wordpiece.c */
  int64_t longest;            /* characters of a word; of a longer one, unk */
  char prefix[16];            /* of pieces within a word */
  int32_t unk;
} al_wordpiece;
al_status al_wordpiece_word(al_ctx *c, const al_wordpiece *m, const al_pieces *tokens,
                            const char *s, int64_t n, al_idlist *out);

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

/* ---- the tokenizer (pipeline.c) -------------------------------------------------------------- */

typedef struct al_added {
  int32_t id;
  char *text; /* as it is looked for: normalised where `normalized` says so */
  int64_t n;
  bool special, lstrip, rstrip, single_word, normalized;
} al_added;

enum { AL_TOKEN_SPECIAL = 1, AL_TOKEN_ADDED = 2, AL_TOKEN_BYTE = 4 };

typedef struct al_pipeline {
  al_vocab base;
  al_pieces tokens; /* all, by id, as the file writes them */
  al_pieces shown;  /* what they stand for */
  uint8_t *flags;   /* of each id: AL_TOKEN_* */
  al_added *added;
  int64_t n_added, cap_added;
  int64_t first[2][256]; /* in text as it is, normalised: 1 + the first of `added` with this byte */
  bool any[2], plain[2]; /* there is such a token; one that is not special */
  al_norm *norms;
  int64_t n_norms, cap_norms;
  al_split *splits;
  int64_t n_splits, cap_splits;
  al_decode *decodes;
  int64_t n_decodes, cap_decodes;
  al_bpe *bpe; /* or NULL: wordpiece */
  al_wordpiece wordpiece;
  bool joined; /* no decoder: tokens with a space between */
} al_pipeline;

al_status al_pipeline_add(al_ctx *c, al_pipeline *p, const al_added *a); /* copies the text */
/* What is left when the stages are there: pieces shown, tokens looked for, known roles by name. */
al_status al_pipeline_finish(al_ctx *c, al_pipeline *p);
void al_pipeline_free(al_vocab *v);
const char *al_pipeline_piece(const al_vocab *v, int32_t id, int64_t *n);
int32_t al_pipeline_find(const al_vocab *v, const char *s, int64_t n);
al_status al_pipeline_encode(al_ctx *c, const al_vocab *v, const char *text, int64_t n,
                             bool special, al_idlist *out);
al_status al_pipeline_decode(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n,
                             bool special, al_buffer *out);
#define AL_PIPELINE                                                                                \
  .splits = true, .free = al_pipeline_free, .piece = al_pipeline_piece, .find = al_pipeline_find,  \
  .encode = al_pipeline_encode, .decode = al_pipeline_decode

/* Token strings whose ids come in any order: put each, then close them into `tokens`. */
typedef struct al_token_list {
  struct al_token {
    const char *s; /* borrowed until close */
    int64_t n;
  } * at; /* by id; s NULL: none yet */
  int64_t n, cap;
} al_token_list;
/* what: the file, for messages. Refuses an id that is taken by another token. */
al_status al_token_put(al_ctx *c, al_token_list *l, const char *what, int64_t id, const char *s,
                       int64_t n);
al_status al_token_close(al_ctx *c, al_token_list *l, const char *what, al_pieces *tokens);
#endif
