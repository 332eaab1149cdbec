/* sentencepiece.h: the library SentencePiece, as C sees it. No exception comes out: what fails is
 * false (or NULL) with the reason in `why`, of SP_WHY bytes. */
#ifndef AL_SENTENCEPIECE_H
#define AL_SENTENCEPIECE_H
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SP_WHY = 512 };
enum sp_type { SP_NORMAL, SP_UNKNOWN, SP_CONTROL, SP_BYTE, SP_UNUSED };

typedef struct sp_model sp_model;
sp_model *sp_open(const char *data, size_t n, char *why); /* nothing of data is kept */
void sp_close(sp_model *m);
int sp_size(const sp_model *m);
const char *sp_piece(const sp_model *m, int id, size_t *n, enum sp_type *type); /* of the model */
int sp_find(const sp_model *m, const char *piece, size_t n);                    /* -1: none */
int sp_known(const sp_model *m, char role); /* 'b'os, 'e'os, 'u'nk, 'p'ad; -1: none */

/* The ids of a text, or the text of ids: `put` is given them once; its false ends with false. */
bool sp_encode(const sp_model *m, const char *text, size_t n,
               bool (*put)(void *to, const int *ids, size_t n), void *to, char *why);
bool sp_decode(const sp_model *m, const int *ids, size_t n,
               bool (*put)(void *to, const char *text, size_t n), void *to, char *why);

/* Trains on the lines that `next` gives until it is false. args: "--vocab_size=.. ..", as the
 * library's program takes them. `put` is given the bytes of the model. */
bool sp_train(const char *args, bool (*next)(void *from, const char **line, size_t *n), void *from,
              bool (*put)(void *to, const char *text, size_t n), void *to, char *why);

#ifdef __cplusplus
}
#endif
#endif
