/* safetensors.c: the file format of named tensors: 8 bytes N (little-endian), N bytes of JSON,
 * data.
 *
 *   {"__metadata__": {"format": "pt", ...},
 *    "name": {"dtype": "F32", "shape": [2,3], "data_offsets": [begin, end]}, ...}
 *
 * Offsets count from the end of the header; the tensors must cover the data exactly. Reading opens
 * the file, checks the whole header and loads each tensor when it is asked for: one of a type we do
 * not compute with is listed with its type and sizes, and is no obstacle to the others. Offsets
 * need not be aligned: bytes are copied, never cast. Writing orders by size of the type (largest
 * first), then by name, pads the header with spaces so that data begin at a multiple of 8, and
 * streams: no second copy of a model is held. Not here: files split in shards, types below one
 * byte.
 *
 * A tensor under several names lies in the file once; the metadata pair (other name, name in the
 * file) says each other name. */
#include "file.h"
#include "../core.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the data are copied as they lie in the file");

enum { MAX_HEADER = 100000000, PREFIX = 8, CHUNK = 1 << 16 };

static const char METADATA[] = "__metadata__";

/* Types of the format and their bits; al = ours, or -1 when such a tensor cannot be loaded. */
enum { NOT_OURS = -1, HALF = -2 };
static const struct st_type {
  const char *name;
  int bits, al;
} types[] = {
    {"F64", 64, AL_F64},          {"F32", 32, AL_F32},      {"BF16", 16, AL_BF16},
    {"I32", 32, AL_I32},          {"F16", 16, HALF},        {"BOOL", 8, NOT_OURS},
    {"U8", 8, NOT_OURS},          {"I8", 8, NOT_OURS},      {"I16", 16, NOT_OURS},
    {"U16", 16, NOT_OURS},        {"U32", 32, NOT_OURS},    {"I64", 64, NOT_OURS},
    {"U64", 64, NOT_OURS},        {"C64", 64, NOT_OURS},    {"F8_E4M3", 8, NOT_OURS},
    {"F8_E5M2", 8, NOT_OURS},     {"F8_E8M0", 8, NOT_OURS}, {"F8_E4M3FNUZ", 8, NOT_OURS},
    {"F8_E5M2FNUZ", 8, NOT_OURS}, {"F4", 4, NOT_OURS},      {"F6_E2M3", 6, NOT_OURS},
    {"F6_E3M2", 6, NOT_OURS},
};

typedef struct entry {
  const char *name; /* owned by the header's JSON */
  const struct st_type *type;
  int64_t begin, end; /* in the data part */
  int64_t numel;
  size_t ndim;
  int64_t shape[AL_MAX_DIMS]; /* the first AL_MAX_DIMS of ndim */
  const json_t *sizes;        /* all of them; owned by the header */
} entry;

struct al_st {
  al_in in;
  json_t *header;
  int64_t data; /* offset of the data part in the file */
  int n;
  entry *entries; /* sorted by name */
  int n_meta;
  const char **meta; /* key, value, key, value, ... owned by header */
};

/* ---- reading -------------------------------------------------------------------------------- */

#define BAD(...) al_fail(c, AL_EFORMAT, "safetensors: " __VA_ARGS__)

static const struct st_type *find_type(const char *name) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (strcmp(types[i].name, name) == 0) return &types[i];
  return NULL;
}

static al_status read_shape(al_ctx *c, const char *path, entry *e, const json_t *shape) {
  if (!json_is_array(shape))
    return BAD("%s: tensor '%.200s': 'shape' must be a list", path, e->name);
  e->sizes = shape;
  e->ndim = json_array_size(shape);
  int64_t n = 1; /* as in al_shape_check: sizes of 0 must not hide what overflows */
  bool empty = false;
  for (size_t i = 0; i < e->ndim; i++) {
    const json_t *v = json_array_get(shape, i);
    const int64_t size = json_integer_value(v);
    if (!json_is_integer(v) || size < 0)
      return BAD("%s: tensor '%.200s': shape: size %zu must be a whole number from 0", path,
                 e->name, i + 1);
    if (__builtin_mul_overflow(n, size ? size : 1, &n) || n > AL_MAX_NUMEL)
      return BAD("%s: tensor '%.200s': the product of its shape overflows", path, e->name);
    empty |= size == 0;
    if (i < AL_MAX_DIMS) e->shape[i] = size;
  }
  e->numel = empty ? 0 : n;
  return AL_OK;
}

/* The place of the data: two offsets that fit the type and the shape, within `bytes` of data. */
static al_status read_offsets(al_ctx *c, const char *path, entry *e, const json_t *offsets,
                              int64_t bytes) {
  const json_t *b = json_array_get(offsets, 0), *f = json_array_get(offsets, 1);
  if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(f))
    return BAD("%s: tensor '%.200s': 'data_offsets' must be two whole numbers", path, e->name);
  e->begin = json_integer_value(b);
  e->end = json_integer_value(f);
  if (e->begin < 0 || e->end < e->begin || e->end > bytes)
    return BAD("%s: tensor '%.200s': data_offsets [%lld,%lld] do not lie in the %lld bytes of data",
               path, e->name, (long long)e->begin, (long long)e->end, (long long)bytes);
  const int64_t bits = e->numel * e->type->bits;
  if (bits % 8 != 0 || bits / 8 != e->end - e->begin)
    return BAD("%s: tensor '%.200s': %s of this shape needs %lld bytes, data_offsets [%lld,%lld] "
               "hold %lld",
               path, e->name, e->type->name, (long long)(bits / 8), (long long)e->begin,
               (long long)e->end, (long long)(e->end - e->begin));
  return AL_OK;
}

static al_status read_entry(al_ctx *c, const char *path, entry *e, json_t *v, int64_t bytes) {
  if (!json_is_object(v))
    return BAD("%s: tensor '%.200s': an object with dtype, shape and data_offsets expected", path,
               e->name);
  const char *key;
  json_t *field;
  json_object_foreach(v, key, field) {
    if (strcmp(key, "dtype") && strcmp(key, "shape") && strcmp(key, "data_offsets"))
      return BAD("%s: tensor '%.200s': unknown field '%.100s'", path, e->name, key);
  }
  const char *dtype = json_string_value(json_object_get(v, "dtype"));
  if (!dtype) return BAD("%s: tensor '%.200s': 'dtype' must be a word", path, e->name);
  e->type = find_type(dtype);
  if (!e->type) return BAD("%s: tensor '%.200s': unknown dtype '%.40s'", path, e->name, dtype);
  AL_TRY(read_shape(c, path, e, json_object_get(v, "shape")));
  return read_offsets(c, path, e, json_object_get(v, "data_offsets"), bytes);
}

static int by_place(const void *a, const void *b) {
  const entry *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

/* In order of place each tensor begins where the one before it ends, from 0 to the last byte. */
static al_status check_cover(al_ctx *c, const al_st *s, int64_t bytes) {
  int64_t at = 0;
  for (int i = 0; i < s->n; i++) {
    const entry *e = &s->entries[i];
    if (e->begin > at)
      return BAD("%s: tensor '%.200s': %lld bytes before it belong to no tensor", s->in.path,
                 e->name, (long long)(e->begin - at));
    if (e->begin < at)
      return BAD("%s: tensor '%.200s': overlaps tensor '%.200s'", s->in.path, e->name,
                 s->entries[i - 1].name);
    at = e->end;
  }
  if (at != bytes)
    return BAD("%s: %lld bytes after the last tensor", s->in.path, (long long)(bytes - at));
  return AL_OK;
}

/* Other writers put null where they have nothing to say. */
static al_status read_metadata(al_ctx *c, al_st *s, json_t *metadata) {
  if (json_is_null(metadata)) return AL_OK;
  if (!json_is_object(metadata))
    return BAD("%s: __metadata__ must be an object of texts", s->in.path);
  s->meta = al_calloc(c, 2 * (int64_t)json_object_size(metadata), sizeof *s->meta);
  if (!s->meta) return al_error(c);
  const char *key;
  json_t *v;
  json_object_foreach(metadata, key, v) {
    if (!json_is_string(v))
      return BAD("%s: __metadata__: '%.200s' must be a text", s->in.path, key);
    s->meta[2 * s->n_meta] = key;
    s->meta[2 * s->n_meta++ + 1] = json_string_value(v);
  }
  return AL_OK;
}

/* The header's bytes, parsed; checks what JSON leaves open: the first byte and the padding. */
static al_status parse_header(al_ctx *c, al_st *s, const char *text, int64_t n) {
  if (text[0] != '{') return BAD("%s: the header must begin with '{'", s->in.path);
  int64_t end = n;
  while (text[end - 1] == ' ') end--;
  if (text[end - 1] != '}') return BAD("%s: the header must end with '}' and spaces", s->in.path);
  json_error_t err;
  s->header = json_loadb(text, (size_t)end, JSON_REJECT_DUPLICATES, &err);
  if (!s->header && json_error_code(&err) == json_error_out_of_memory)
    return al_fail(c, AL_ENOMEM, "safetensors: %s: out of memory in the header", s->in.path);
  if (!s->header) return BAD("%s: header, byte %d: %s", s->in.path, err.position, err.text);
  return AL_OK;
}

static al_status read_header(al_ctx *c, al_st *s) {
  const char *path = s->in.path;
  unsigned char prefix[PREFIX];
  if (s->in.size < PREFIX + 2) /* "{}" */
    return BAD("%s: %lld bytes are too few for a safetensors file", path, (long long)s->in.size);
  AL_TRY(al_in_read(c, &s->in, 0, prefix, PREFIX, "the header length"));
  uint64_t n;
  memcpy(&n, prefix, sizeof n);
  if (n > MAX_HEADER || n > (uint64_t)(s->in.size - PREFIX) || n < 2)
    return BAD(
        "%s: header length %llu is impossible: 2 to %lld expected (is this a safetensors file?)",
        path, (unsigned long long)n,
        (long long)(s->in.size - PREFIX < MAX_HEADER ? s->in.size - PREFIX : MAX_HEADER));
  s->data = PREFIX + (int64_t)n;
  const int64_t bytes = s->in.size - s->data;
  char *text = al_calloc(c, (int64_t)n, 1);
  if (!text) return al_error(c);
  al_status st = al_in_read(c, &s->in, PREFIX, text, (int64_t)n, "the header");
  if (st == AL_OK) st = parse_header(c, s, text, (int64_t)n);
  free(text);
  AL_TRY(st);
  s->entries = al_calloc(c, (int64_t)json_object_size(s->header), sizeof *s->entries);
  if (!s->entries) return al_error(c);
  const char *key;
  json_t *v;
  json_object_foreach(s->header, key, v) {
    if (strcmp(key, METADATA) == 0) {
      AL_TRY(read_metadata(c, s, v));
      continue;
    }
    entry *e = &s->entries[s->n];
    e->name = key;
    AL_TRY(read_entry(c, path, e, v, bytes));
    s->n++;
  }
  qsort(s->entries, (size_t)s->n, sizeof *s->entries, by_place);
  AL_TRY(check_cover(c, s, bytes));
  qsort(s->entries, (size_t)s->n, sizeof *s->entries, by_name);
  return AL_OK;
}

al_st *al_st_open(al_ctx *c, const char *path) {
  al_st *s = al_calloc(c, 1, sizeof *s);
  if (!s) return NULL;
  if (al_in_open(c, &s->in, path) == AL_OK && read_header(c, s) == AL_OK) return s;
  al_st_close(s);
  return NULL;
}

void al_st_close(al_st *s) {
  if (!s) return;
  free(s->meta);
  free(s->entries);
  json_decref(s->header);
  al_in_close(&s->in);
  free(s);
}

int al_st_count(const al_st *s) { return s->n; }
const char *al_st_name(const al_st *s, int i) {
  return i >= 0 && i < s->n ? s->entries[i].name : NULL;
}
const char *al_st_type(const al_st *s, int i) {
  return i >= 0 && i < s->n ? s->entries[i].type->name : NULL;
}
int al_st_ndim(const al_st *s, int i) { return i >= 0 && i < s->n ? (int)s->entries[i].ndim : 0; }
int64_t al_st_size(const al_st *s, int i, int axis) {
  if (i < 0 || i >= s->n || axis < 0) return 0;
  return json_integer_value(json_array_get(s->entries[i].sizes, (size_t)axis));
}
bool al_st_loads(const al_st *s, int i) {
  return i >= 0 && i < s->n && s->entries[i].type->al != NOT_OURS &&
         s->entries[i].ndim <= AL_MAX_DIMS;
}
int al_st_meta_count(const al_st *s) { return s->n_meta; }

const char *al_st_meta(const al_st *s, int i, const char **value) {
  if (i < 0 || i >= s->n_meta) return NULL;
  if (value) *value = s->meta[2 * i + 1];
  return s->meta[2 * i];
}

static const entry *find(const al_st *s, const char *name) {
  const entry key = {.name = name};
  return bsearch(&key, s->entries, (size_t)s->n, sizeof *s->entries, by_name);
}

const char *al_st_alias(const al_st *s, int i) {
  const char *value, *key = al_st_meta(s, i, &value);
  return key && !find(s, key) && find(s, value) ? value : NULL;
}

static al_status fail_missing(al_ctx *c, const al_st *s, const char *name) {
  const char **names = al_calloc(c, s->n, sizeof *names);
  if (!names) return al_error(c);
  for (int i = 0; i < s->n; i++) names[i] = s->entries[i].name;
  const char *near = al_nearest(name, names, s->n);
  al_fail(c, AL_ENAME, "safetensors: %s: no tensor '%.200s' in it%s%.200s%s", s->in.path, name,
          near ? " (nearest: '" : "", near ? near : "", near ? "')" : "");
  free(names);
  return al_error(c);
}

/* IEEE half to single: exact. */
static float from_half(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, fraction = h & 0x3ffu;
  uint32_t exponent = (h >> 10) & 0x1fu, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | fraction << 13;
  } else if (exponent == 0) { /* fraction * 2^-24 */
    const float v = (float)fraction * 0x1p-24f;
    return sign ? -v : v;
  } else {
    bits = sign | (exponent + 112) << 23 | fraction << 13; /* bias 15 -> 127 */
  }
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

static al_status load_half(al_ctx *c, const al_st *s, const entry *e, float *out) {
  uint16_t part[4096];
  enum { ROOM = sizeof part / sizeof *part };
  for (int64_t at = 0; at < e->numel; at += ROOM) {
    const int64_t n = e->numel - at < ROOM ? e->numel - at : ROOM;
    AL_TRY(al_in_read(c, &s->in, s->data + e->begin + 2 * at, part, 2 * n, e->name));
    for (int64_t i = 0; i < n; i++) out[at + i] = from_half(part[i]);
  }
  return AL_OK;
}

al_tensor *al_st_tensor(al_ctx *c, const al_st *s, const char *name) {
  const entry *e = find(s, name);
  if (!e) {
    fail_missing(c, s, name);
    return NULL;
  }
  if (e->type->al == NOT_OURS) {
    al_fail(c, AL_ETYPE,
            "safetensors: %s: tensor '%.200s': F64, F32, BF16, F16 or I32 needed, got %s",
            s->in.path, name, e->type->name);
    return NULL;
  }
  if (e->ndim > AL_MAX_DIMS) {
    al_fail(c, AL_ESHAPE, "safetensors: %s: tensor '%.200s': at most %d axes possible, got %zu",
            s->in.path, name, AL_MAX_DIMS, e->ndim);
    return NULL;
  }
  const bool half = e->type->al == HALF, off = c->scope_off;
  c->scope_off = true; /* the scope gets the tensor when it is whole */
  al_tensor *t = al_tensor_new(c, half ? AL_F32 : (al_dtype)e->type->al, (int)e->ndim, e->shape);
  c->scope_off = off;
  if (!t) return NULL;
  al_stage g;
  if (al_stage_begin(&g, t, false)) {
    if (half) load_half(c, s, e, g.bytes);
    else al_in_read(c, &s->in, s->data + e->begin, g.bytes, e->end - e->begin, e->name);
    al_stage_end(&g, true);
  }
  if (al_error(c) == AL_OK) return al_scope_own(c, t);
  al_release(t);
  return NULL;
}

/* ---- writing -------------------------------------------------------------------------------- */

typedef struct item {
  const char *name;
  al_tensor *t;
} item;

static int by_size_and_name(const void *a, const void *b) {
  const item *x = a, *y = b;
  const int64_t m = al_dtype_size(al_type(x->t)), n = al_dtype_size(al_type(y->t));
  return m != n ? (m > n ? -1 : 1) : strcmp(x->name, y->name);
}

static const char *type_name(al_dtype t) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].al == (int)t) return types[i].name;
  return NULL;
}

/* Adds `key` to a part of the header; steals v. */
static al_status put(al_ctx *c, json_t *into, const char *path, const char *kind, const char *key,
                     json_t *v) {
  const bool twice = json_object_get(into, key) != NULL;
  if (!twice && v && json_object_set_new(into, key, v) == 0) return AL_OK;
  if (twice) json_decref(v);
  if (twice)
    return al_fail(c, AL_EVALUE, "safetensors: %s: %s '%.200s' is given twice", path, kind, key);
  /* jansson refuses what is not UTF-8 and says no more than that it failed */
  return al_fail(c, AL_EVALUE, "safetensors: %s: %s '%.200s': UTF-8 needed (or out of memory)",
                 path, kind, key);
}

static json_t *describe(const al_tensor *t, int64_t *at) {
  json_t *shape = json_array();
  for (int i = 0; i < al_ndim(t); i++) json_array_append_new(shape, json_integer(al_size(t, i)));
  const int64_t begin = *at;
  *at += al_numel(t) * al_dtype_size(al_type(t));
  return json_pack("{s:s, s:o, s:[I,I]}", "dtype", type_name(al_type(t)), "shape", shape,
                   "data_offsets", (json_int_t)begin, (json_int_t)*at);
}

typedef struct pair {
  const char *key, *value;
} pair;

static int by_key(const void *a, const void *b) {
  return strcmp(((const pair *)a)->key, ((const pair *)b)->key);
}

/* Of each tensor among the sorted items the first one stays; the others become pairs. Returns how
 * many stay. */
static int take_aliases(item *items, int n, pair *pairs, int *n_pairs) {
  int kept = 0;
  for (int i = 0, j; i < n; i++) {
    for (j = 0; j < kept && items[j].t != items[i].t; j++) {}
    if (j == kept || strcmp(items[j].name, items[i].name) == 0) items[kept++] = items[i];
    else pairs[(*n_pairs)++] = (pair){items[i].name, items[j].name};
  }
  return kept;
}

/* Adds the caller's pairs behind the aliases. One that would read as an alias is refused, but where
 * it is one: what was read from a file may be written again with its metadata. */
static al_status add_pairs(al_ctx *c, const char *path, const item *items, int kept, pair *pairs,
                           int *n_pairs, int n, const char *const *keys,
                           const char *const *values) {
  const int aliases = *n_pairs;
  for (int i = 0; i < n; i++) {
    bool tensor = false, reads = false, known = false;
    for (int j = 0; j < kept; j++) {
      tensor |= strcmp(items[j].name, keys[i]) == 0;
      reads |= strcmp(items[j].name, values[i]) == 0;
    }
    for (int j = 0; j < aliases; j++)
      known |= strcmp(pairs[j].key, keys[i]) == 0 && strcmp(pairs[j].value, values[i]) == 0;
    if (reads && !tensor && !known)
      return al_fail(c, AL_EVALUE,
                     "safetensors: %s: metadata '%.200s' = '%.200s' would read as another name of "
                     "the tensor '%.200s'",
                     path, keys[i], values[i], values[i]);
    if (!known) pairs[(*n_pairs)++] = (pair){keys[i], values[i]};
  }
  return AL_OK;
}

/* format=pt first (transformers refuses a file without it), then the pairs by key. */
static al_status put_metadata(al_ctx *c, json_t *header, const char *path, pair *pairs, int n) {
  json_t *meta = json_object();
  AL_TRY(put(c, header, path, "name", METADATA, meta));
  AL_TRY(put(c, meta, path, "metadata key", "format", json_string("pt")));
  qsort(pairs, (size_t)n, sizeof *pairs, by_key);
  for (int i = 0; i < n; i++) {
    if (strcmp(pairs[i].key, "format") == 0 && strcmp(pairs[i].value, "pt") == 0) continue;
    AL_TRY(put(c, meta, path, "metadata key", pairs[i].key, json_string(pairs[i].value)));
  }
  return AL_OK;
}

/* The elements in row-major order, whatever the strides. */
static al_status put_tensor(al_ctx *c, al_out *o, const al_tensor *t) {
  const size_t size = (size_t)al_dtype_size(al_type(t));
  const int64_t n = al_numel(t);
  if (al_contiguous(t)) {
    al_stage g;
    if (al_stage_begin(&g, (al_tensor *)(uintptr_t)t, true)) /* only read */
      al_out_put(c, o, g.bytes, (size_t)n * size);
    al_stage_end(&g, false);
    return al_error(c);
  }
  if (!t->storage->device->host) { /* packed on the way */
    al_scope_begin(c);
    const al_tensor *here = al_to(c, (al_tensor *)(uintptr_t)t, "cpu");
    const al_status st = here ? put_tensor(c, o, here) : al_error(c);
    al_scope_end(c, NULL);
    return st;
  }
  char part[CHUNK];
  const char *data = al_host(t);
  if (!data) return al_error(c);
  int64_t index[AL_MAX_DIMS] = {0}, at = 0; /* at: elements from the first */
  size_t fill = 0;
  for (int64_t i = 0; i < n; i++) {
    memcpy(part + fill, data + at * (int64_t)size, size);
    fill += size;
    if (fill == sizeof part || i == n - 1) {
      AL_TRY(al_out_put(c, o, part, fill));
      fill = 0;
    }
    for (int a = al_ndim(t) - 1; a >= 0; a--) {
      at += al_stride(t)[a];
      if (++index[a] < al_size(t, a)) break;
      at -= al_stride(t)[a] * al_size(t, a);
      index[a] = 0;
    }
  }
  return AL_OK;
}

static al_status write_file(al_ctx *c, const char *path, const char *header, const item *items,
                            int n) {
  static const char spaces[8] = "        ";
  const size_t len = strlen(header), pad = (8 - len % 8) % 8;
  const uint64_t total = len + pad;
  if (total > MAX_HEADER)
    return al_fail(c, AL_EVALUE,
                   "safetensors: %s: names and metadata take %zu bytes, at most %d possible",
                   al_path_shown(path).text, len, MAX_HEADER);
  al_out o;
  AL_TRY(al_out_open(c, &o, path));
  al_status st = al_out_put(c, &o, &total, sizeof total);
  if (st == AL_OK) st = al_out_put(c, &o, header, len);
  if (st == AL_OK) st = al_out_put(c, &o, spaces, pad);
  for (int i = 0; i < n && st == AL_OK; i++) st = put_tensor(c, &o, items[i].t);
  if (st == AL_OK) return al_out_commit(c, &o);
  al_out_abort(&o);
  return st;
}

al_status al_st_save(al_ctx *c, const char *path, int n, const char *const *names,
                     al_tensor *const *tensors, int n_meta, const char *const *keys,
                     const char *const *values) {
  const al_shown shown = al_path_shown(path);
  for (int i = 0; i < n; i++) {
    if (!names[i])
      return al_fail(c, AL_EVALUE, "safetensors: %s: tensor %d has no name", shown.text, i);
    if (strcmp(names[i], METADATA) == 0)
      return al_fail(c, AL_EVALUE, "safetensors: %s: no tensor can be called %s", shown.text,
                     METADATA);
    if (!tensors[i])
      return al_fail(c, AL_EVALUE, "safetensors: %s: '%.200s' is no tensor", shown.text, names[i]);
  }
  for (int i = 0; i < n_meta; i++)
    if (!keys[i] || !values[i])
      return al_fail(c, AL_EVALUE, "safetensors: %s: metadata pair %d is empty", shown.text, i);
  al_status st = AL_OK;
  char *text = NULL;
  json_t *header = json_object();
  item *items = al_calloc(c, n, sizeof *items);
  pair *pairs = al_calloc(c, n + n_meta, sizeof *pairs);
  if (!header || !items || !pairs) {
    st = al_fail(c, AL_ENOMEM, "safetensors: %s: out of memory", shown.text);
    goto done;
  }
  for (int i = 0; i < n; i++) items[i] = (item){names[i], tensors[i]};
  qsort(items, (size_t)n, sizeof *items, by_size_and_name);
  int n_pairs = 0;
  n = take_aliases(items, n, pairs, &n_pairs);
  st = add_pairs(c, shown.text, items, n, pairs, &n_pairs, n_meta, keys, values);
  if (st == AL_OK) st = put_metadata(c, header, shown.text, pairs, n_pairs);
  int64_t at = 0;
  for (int i = 0; i < n && st == AL_OK; i++)
    st = put(c, header, shown.text, "name", items[i].name, describe(items[i].t, &at));
  if (st != AL_OK) goto done;
  text = json_dumps(header, JSON_COMPACT);
  st = text ? write_file(c, path, text, items, n)
            : al_fail(c, AL_ENOMEM, "safetensors: %s: out of memory", shown.text);
done:
  free(text);
  free(pairs);
  free(items);
  json_decref(header);
  return st;
}
