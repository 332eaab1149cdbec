/* json.h: reading JSON files of tokenizers: values by key, with an error that names the place. */
#ifndef AL_TOKENIZERS_JSON_H
#define AL_TOKENIZERS_JSON_H
#include "tokenizer.h"
#include <jansson.h>

/* An object and where it stands: `place` for messages, "tokenizer.json: model". */
typedef struct al_json {
  const json_t *at;
  char place[256];
} al_json;

json_t *al_json_read(al_ctx *c, const al_source *file); /* json_decref it; an object */
/* A member that is an object (or array); at NULL and no error where it is absent or null. */
al_status al_json_object(al_ctx *c, const al_json *j, const char *key, al_json *out);
al_status al_json_array(al_ctx *c, const al_json *j, const char *key, al_json *out);
/* i-th of an array of objects. */
al_status al_json_item(al_ctx *c, const al_json *j, size_t i, al_json *out);
/* Members of other types; absent or null: as without; *s NULL without. */
al_status al_json_text(al_ctx *c, const al_json *j, const char *key, const char **s, int64_t *n);
al_status al_json_bool(al_ctx *c, const al_json *j, const char *key, bool without, bool *out);
al_status al_json_int(al_ctx *c, const al_json *j, const char *key, int64_t without, int64_t *out);
al_status al_json_need(al_ctx *c, const al_json *j, const char *key); /* refuses its absence */
/* Appends each member as a token with its id (pipeline.h); anything but whole numbers is refused. */
struct al_token_list;
al_status al_json_ids(al_ctx *c, const al_json *j, struct al_token_list *l);
/* Refuses keys that are not among these words (null and false are nothing). */
al_status al_json_known(al_ctx *c, const al_json *j, const char *words);
#endif
