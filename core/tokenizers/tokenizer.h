/* tokenizer.h: what one kind of tokenizer is: a table of functions over a struct that begins with
 * al_vocab; and what the kinds share: arrays that grow, UTF-8, tables of pieces. */
#ifndef AL_TOKENIZER_H
#define AL_TOKENIZER_H
#include "../core.h"

enum { AL_MAX_TEXT = 1 << 30, AL_MAX_PIECES = 1 << 22 };

typedef struct al_idlist { /* ids of the caller's, which frees .id */
  int32_t *id;
  int64_t n, cap;
} al_idlist;

typedef struct al_buffer { /* bytes of the caller's, which frees .s; {0} to begin */
  char *s;
  int64_t n, cap;
} al_buffer;

al_status al_idlist_put(al_ctx *c, al_idlist *l, int32_t id);
al_status al_buffer_put(al_ctx *c, al_buffer *b, const char *s, int64_t n);
/* Room for n more elements of `size` bytes behind those of *p: *cap grows, p may move. */
al_status al_room(al_ctx *c, void *p, int64_t *cap, int64_t used, int64_t more, size_t size);

/* Pieces by id and ids by piece. Zeroed to begin; of two equal pieces the lower id is found. */
typedef struct al_pieces {
  al_buffer bytes;
  int64_t *start; /* n + 1 offsets into bytes */
  int64_t n, cap;
  int32_t *slots; /* hash table of ids, -1 = empty; n_slots a power of 2 */
  int64_t n_slots;
} al_pieces;
al_status al_pieces_add(al_ctx *c, al_pieces *p, const char *s, int64_t n);
al_status al_pieces_index(al_ctx *c, al_pieces *p, int64_t first); /* from this id on findable */
al_status al_pieces_room(al_ctx *c, al_pieces *p);                 /* or: room for all, */
void al_pieces_note(al_pieces *p, int64_t id); /* then one by one: the first is found */
int32_t al_pieces_find(const al_pieces *p, const char *s, int64_t n); /* -1: none */
const char *al_pieces_get(const al_pieces *p, int64_t id, int64_t *n);
void al_pieces_free(al_pieces *p);

typedef struct al_special {
  int32_t id;
  char *name;
  int64_t n;
} al_special;

/* What encode, decode and piece of a kind get is in range: ids below n, texts of AL_MAX_TEXT. */
typedef struct al_vocab_kind {
  const char *name;
  bool splits; /* encode finds the special strings itself */
  /* Reads files into a new al_vocab (or NULL) and fills n, bos .. pad and the specials. */
  al_vocab *(*make)(al_ctx *c, const al_source *files, int n_files);
  void (*free)(al_vocab *v); /* what make took beyond al_vocab itself; of a half-made one, too */
  const char *(*piece)(const al_vocab *v, int32_t id, int64_t *n);
  int32_t (*find)(const al_vocab *v, const char *s, int64_t n); /* -1: none */
  /* Appends the ids of a text without start and end tokens. */
  al_status (*encode)(al_ctx *c, const al_vocab *v, const char *text, int64_t n, bool special,
                      al_idlist *out);
  al_status (*decode)(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n, bool special,
                      al_buffer *out);
} al_vocab_kind;

struct al_vocab {
  const al_vocab_kind *kind;
  int64_t n;
  int32_t bos, eos, unk, pad; /* -1: none */
  al_idlist prefix, suffix;   /* what encode puts around a text unless told not to */
  al_special *specials;       /* strings that are ids where the caller asks for it */
  int64_t n_specials, cap_specials;
};

/* A zeroed struct of `size` bytes that begins with al_vocab, without special ids. */
void *al_vocab_alloc(al_ctx *c, const al_vocab_kind *kind, size_t size);
al_status al_vocab_add_special(al_ctx *c, al_vocab *v, int32_t id, const char *name, int64_t n);
const al_special *al_vocab_special_of(const al_vocab *v, int32_t id); /* NULL: is none */

/* Bytes of the character at s, of which n remain, and its code point; 0 when it is not UTF-8
 * (overlong forms and surrogates included). */
int al_utf8(const char *s, int64_t n, uint32_t *code);
int al_put_utf8(uint32_t code, char *out); /* its bytes, 1 to 4 */
/* Characters of a text; -1 with the place where it is not UTF-8. */
int64_t al_utf8_count(al_ctx *c, const char *who, const char *text, int64_t n);

extern const al_vocab_kind al_kind_characters, al_kind_bytes, al_kind_llama2c,
    al_kind_sentencepiece, al_kind_huggingface, al_kind_gpt2, al_kind_tiktoken, al_kind_tekken,
    al_kind_wordpiece;
#endif
