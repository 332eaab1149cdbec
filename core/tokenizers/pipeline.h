/* pipeline.h: tokenizers made of stages, as Hugging Face's tokenizers library names them: added
 * tokens are cut out, the text between is normalised, split into words, each word becomes ids by a
 * model (BPE or WordPiece), and back by a chain of decoders. tokenizer.json says which stages;
 * GPT-2's, tiktoken's, tekken's and BERT's files fill the same struct. */
#ifndef AL_PIPELINE_H
#define AL_PIPELINE_H
#include "stages.h"

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
