/* sentencepiece.h: the library SentencePiece, as C sees it. No exception comes out: what fails is
 * false (or NULL) with the reason in `why`, of AL_SP_WHY bytes. */
#ifndef AL_SENTENCEPIECE_H
#define AL_SENTENCEPIECE_H
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { AL_SP_WHY = 512 };
enum al_sp_type { AL_SP_NORMAL, AL_SP_UNKNOWN, AL_SP_CONTROL, AL_SP_BYTE, AL_SP_UNUSED };

typedef struct al_sp_model al_sp_model;
al_sp_model *al_sp_open(const char *data, size_t n, char *why); /* nothing of data is kept */
void al_sp_close(al_sp_model *m);
int al_sp_size(const al_sp_model *m);
const char *al_sp_piece(const al_sp_model *m, int id, size_t *n,
                        enum al_sp_type *type);                    /* of the model */
int al_sp_find(const al_sp_model *m, const char *piece, size_t n); /* -1: none */
int al_sp_known(const al_sp_model *m, char role); /* 'b'os, 'e'os, 'u'nk, 'p'ad; -1: none */

/* The ids of a text, or the text of ids: `put` is given them once; its false ends with false. */
bool al_sp_encode(const al_sp_model *m, const char *text, size_t n,
                  bool (*put)(void *to, const int *ids, size_t n), void *to, char *why);
bool al_sp_decode(const al_sp_model *m, const int *ids, size_t n,
                  bool (*put)(void *to, const char *text, size_t n), void *to, char *why);

/* Trains on the lines that `next` gives until it is false. args: "--vocab_size=.. ..", as the
 * library's program takes them. `put` is given the bytes of the model. */
bool al_sp_train(const char *args, bool (*next)(void *from, const char **line, size_t *n),
                 void *from, bool (*put)(void *to, const char *text, size_t n), void *to,
                 char *why);

#ifdef __cplusplus
}
#endif
#endif
