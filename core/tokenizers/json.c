/* json.c: values of a JSON file by key, refused with their place. */
#include "json.h"
#include "pipeline.h"
#include <stdio.h>
#include <string.h>

json_t *al_json_read(al_ctx *c, const al_source *file) {
  json_error_t e;
  const size_t bom = file->n >= 3 && memcmp(file->data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
  json_t *root =
      json_loadb(file->data + bom, file->n - bom, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
  if (!root) {
    al_fail(c, AL_EFORMAT, "tokenizer: %s: line %d, column %d: %s", file->name, e.line, e.column,
            e.text);
    return NULL;
  }
  if (json_is_object(root)) return root;
  json_decref(root);
  al_fail(c, AL_EFORMAT, "tokenizer: %s: an object expected", file->name);
  return NULL;
}

static const char *kind_of(const json_t *v) {
  switch (json_typeof(v)) {
  case JSON_OBJECT:
    return "an object";
  case JSON_ARRAY:
    return "an array";
  case JSON_STRING:
    return "a text";
  case JSON_INTEGER:
    return "a whole number";
  case JSON_REAL:
    return "a number";
  case JSON_NULL:
    return "null";
  default:
    return "true or false";
  }
}

/* The member, NULL where it is absent or null. */
static const json_t *member(const al_json *j, const char *key) {
  const json_t *v = json_object_get(j->at, key);
  return v && !json_is_null(v) ? v : NULL;
}

static al_status wrong(al_ctx *c, const al_json *j, const char *key, const char *want,
                       const json_t *got) {
  return al_fail(c, AL_EFORMAT, "tokenizer: %s: '%s': %s expected, got %s", j->place, key, want,
                 kind_of(got));
}

static al_status inner(al_ctx *c, const al_json *j, const char *key, json_type type,
                       const char *want, al_json *out) {
  const json_t *v = member(j, key);
  if (v && json_typeof(v) != type) return wrong(c, j, key, want, v);
  al_json made = {.at = v};
  snprintf(made.place, sizeof made.place, "%.200s: %.40s", j->place, key);
  *out = made;
  return AL_OK;
}

al_status al_json_object(al_ctx *c, const al_json *j, const char *key, al_json *out) {
  return inner(c, j, key, JSON_OBJECT, "an object", out);
}

al_status al_json_array(al_ctx *c, const al_json *j, const char *key, al_json *out) {
  return inner(c, j, key, JSON_ARRAY, "an array", out);
}

al_status al_json_item(al_ctx *c, const al_json *j, size_t i, al_json *out) {
  const json_t *v = json_array_get(j->at, i);
  al_json made = {.at = v};
  snprintf(made.place, sizeof made.place, "%.220s[%zu]", j->place, i);
  if (!json_is_object(v))
    return al_fail(c, AL_EFORMAT, "tokenizer: %s: an object expected, got %s", made.place,
                   kind_of(v));
  *out = made;
  return AL_OK;
}

al_status al_json_text(al_ctx *c, const al_json *j, const char *key, const char **s, int64_t *n) {
  const json_t *v = member(j, key);
  *s = NULL, *n = 0;
  if (!v) return AL_OK;
  if (!json_is_string(v)) return wrong(c, j, key, "a text", v);
  *s = json_string_value(v), *n = (int64_t)json_string_length(v);
  return AL_OK;
}

al_status al_json_bool(al_ctx *c, const al_json *j, const char *key, bool without, bool *out) {
  const json_t *v = member(j, key);
  if (v && !json_is_boolean(v)) return wrong(c, j, key, "true or false", v);
  *out = v ? json_is_true(v) : without;
  return AL_OK;
}

al_status al_json_int(al_ctx *c, const al_json *j, const char *key, int64_t without, int64_t *out) {
  const json_t *v = member(j, key);
  if (v && !json_is_integer(v)) return wrong(c, j, key, "a whole number", v);
  *out = v ? json_integer_value(v) : without;
  return AL_OK;
}

al_status al_json_need(al_ctx *c, const al_json *j, const char *key) {
  if (member(j, key)) return AL_OK;
  return al_fail(c, AL_EFORMAT, "tokenizer: %s: '%s' is missing", j->place, key);
}

al_status al_json_ids(al_ctx *c, const al_json *j, al_token_list *l) {
  const char *key;
  json_t *id;
  json_object_foreach((json_t *)(uintptr_t)j->at, key, id) {
    if (!json_is_integer(id))
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: '%.60s': an id expected", j->place, key);
    AL_TRY(al_token_put(c, l, j->place, json_integer_value(id), key, (int64_t)strlen(key)));
  }
  return AL_OK;
}

al_status al_json_known(al_ctx *c, const al_json *j, const char *words) {
  const char *key;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)j->at, key, v) {
    const size_t n = strlen(key);
    bool known = json_is_null(v) || json_is_false(v);
    for (const char *w = words; *w && !known; w += strcspn(w, " "), w += *w == ' ')
      known = strcspn(w, " ") == n && memcmp(w, key, n) == 0;
    if (!known)
      return al_fail(c, AL_EFORMAT, "tokenizer: %s: unknown key '%.60s' (known: %s)", j->place, key,
                     words);
  }
  return AL_OK;
}
