/* llama2c.c: reads llama2.c's checkpoints (versions 0 and 1, float32, little-endian).
 *
 * Version 0: seven int32, dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (negative: the
 * output head is not the embedding), max_seq_len. Then the matrices, [out][in], each kind for all
 * layers before the next kind, in the order of `kinds` below; before the head lie two rotary tables
 * that nobody reads.
 * Version 1: "ak42" as an int32, the version, the seven sizes, one byte that is 1 where the head is
 * the embedding, zeros up to 256 bytes; then the norms, and the matrices.
 * The file's length must be what the sizes say, to the byte. Tensors are read when asked for. Not
 * here: version 2, which is quantised. */
#include "file.h"
#include "../core.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  N_SIZES = 7,
  HEADER = 4 * N_SIZES,
  MAGIC_LATER = 0x616b3432, /* "ak42" */
  HEADER_LATER = 256,
  AT_SIZES = 8,
  AT_TIED = AT_SIZES + HEADER
};

/* Sizes of the header in their order in the file, and the largest believed. The products of these
 * bounds fit in int64. */
static const struct {
  const char *name;
  int32_t most;
} bounds[N_SIZES] = {
    {"dim", 1 << 18},         {"hidden_dim", 1 << 20}, {"n_layers", 1 << 12},
    {"n_heads", 1 << 14},     {"n_kv_heads", 1 << 14}, {"vocab_size", 1 << 24},
    {"max_seq_len", 1 << 24},
};

/* Letters of a shape: d dim, h hidden_dim, q heads * head size (= dim), k key heads * head size,
 * v vocabulary, r one rotary table. */
static const struct kind {
  const char *name; /* %d: the layer; NULL: skipped */
  bool per_layer, head;
  char rows, columns; /* columns 0: one axis */
} kinds[] = {
    {"model.embed_tokens.weight", false, false, 'v', 'd'},
    {"model.layers.%d.input_layernorm.weight", true, false, 'd', 0},
    {"model.layers.%d.self_attn.q_proj.weight", true, false, 'q', 'd'},
    {"model.layers.%d.self_attn.k_proj.weight", true, false, 'k', 'd'},
    {"model.layers.%d.self_attn.v_proj.weight", true, false, 'k', 'd'},
    {"model.layers.%d.self_attn.o_proj.weight", true, false, 'd', 'q'},
    {"model.layers.%d.post_attention_layernorm.weight", true, false, 'd', 0},
    {"model.layers.%d.mlp.gate_proj.weight", true, false, 'h', 'd'},
    {"model.layers.%d.mlp.down_proj.weight", true, false, 'd', 'h'},
    {"model.layers.%d.mlp.up_proj.weight", true, false, 'h', 'd'},
    {"model.norm.weight", false, false, 'd', 0},
    {NULL, false, false, 'r', 0},
    {NULL, false, false, 'r', 0},
    {"lm_head.weight", false, true, 'v', 'd'},
};
/* Numbers of kinds in the order in which version 1 has them. */
static const int later[] = {1, 6, 10, 0, 2, 3, 4, 5, 7, 8, 9, 13};
enum {
  N_KINDS = sizeof kinds / sizeof *kinds,
  N_LATER = sizeof later / sizeof *later,
  NAME_ROOM = 64
};

typedef struct entry {
  char name[NAME_ROOM];
  int64_t offset; /* bytes, in the file */
  int ndim;
  int64_t shape[2];
} entry;

struct al_llama2c {
  al_in in;
  al_llama2c_config sizes;
  int version, n;
  entry *entries; /* sorted by name */
};

static int by_name(const void *a, const void *b) {
  return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static al_status read_sizes(al_ctx *c, al_llama2c *m) {
  const char *path = m->in.path;
  int32_t v[N_SIZES];
  if (m->in.size < HEADER)
    return al_fail(c, AL_EFORMAT, "llama2c: %s: %lld bytes are too few for a model", path,
                   (long long)m->in.size);
  AL_TRY(al_in_read(c, &m->in, 0, v, HEADER, "the header"));
  bool tied = v[5] > 0;
  if (v[0] == MAGIC_LATER) {
    unsigned char shared;
    if (v[1] != 1)
      return al_fail(c, AL_EFORMAT,
                     "llama2c: %s: version %d of the format; versions 0 and 1 can be read", path,
                     v[1]);
    if (m->in.size < HEADER_LATER)
      return al_fail(c, AL_EFORMAT, "llama2c: %s: %lld bytes are too few for a model", path,
                     (long long)m->in.size);
    AL_TRY(al_in_read(c, &m->in, AT_SIZES, v, HEADER, "the header"));
    AL_TRY(al_in_read(c, &m->in, AT_TIED, &shared, 1, "the header"));
    if (shared > 1)
      return al_fail(
          c, AL_EFORMAT,
          "llama2c: %s: byte %d: 1 where the head is the embedding or 0 expected, got %d", path,
          AT_TIED, shared);
    m->version = 1;
    tied = shared;
  } else if (v[5] < 0 && v[5] > INT32_MIN) {
    v[5] = -v[5];
  }
  for (int i = 0; i < N_SIZES; i++)
    if (v[i] < 1 || v[i] > bounds[i].most)
      return al_fail(c, AL_EFORMAT,
                     "llama2c: %s: %s: 1 to %d expected, got %d: not a llama2.c model", path,
                     bounds[i].name, bounds[i].most, v[i]);
  if (v[0] % v[3] != 0 || v[0] / v[3] % 2 != 0)
    return al_fail(c, AL_EFORMAT, "llama2c: %s: dim %d must be n_heads %d times an even head size",
                   path, v[0], v[3]);
  if (v[3] % v[4] != 0)
    return al_fail(c, AL_EFORMAT, "llama2c: %s: n_heads %d must be a multiple of n_kv_heads %d",
                   path, v[3], v[4]);
  m->sizes = (al_llama2c_config){v[0], v[1], v[2], v[3], v[4], v[5], v[6], tied};
  return AL_OK;
}

static int64_t extent(const al_llama2c_config *s, char letter) {
  const int64_t head_size = s->dim / s->n_heads;
  switch (letter) {
  case 'd':
  case 'q':
    return s->dim;
  case 'h':
    return s->hidden_dim;
  case 'k':
    return s->n_kv_heads * head_size;
  case 'v':
    return s->vocab_size;
  case 'r':
    return s->max_seq_len * (head_size / 2);
  default:
    return 1;
  }
}

/* Fills the entries, or only counts when there are none; returns the bytes the file must have. */
static int64_t lay_out(al_llama2c *m) {
  const al_llama2c_config *s = &m->sizes;
  int64_t at = m->version == 1 ? HEADER_LATER : HEADER;
  m->n = 0;
  for (int k = 0; k < (m->version == 1 ? (int)N_LATER : (int)N_KINDS); k++) {
    const struct kind *d = &kinds[m->version == 1 ? later[k] : k];
    if (d->head && s->tied) continue;
    const int64_t rows = extent(s, d->rows), columns = extent(s, d->columns);
    const int copies = d->per_layer ? (int)s->n_layers : 1;
    for (int i = 0; i < copies; i++, at += rows * columns * (int64_t)sizeof(float)) {
      if (!d->name) continue;
      entry *e = m->entries ? &m->entries[m->n] : NULL;
      m->n++;
      if (!e) continue;
      const char *hole = strstr(d->name, "%d");
      const int before = hole ? (int)(hole - d->name) : 0;
      if (hole) snprintf(e->name, sizeof e->name, "%.*s%d%s", before, d->name, i, hole + 2);
      else snprintf(e->name, sizeof e->name, "%s", d->name);
      e->offset = at;
      e->ndim = d->columns ? 2 : 1;
      e->shape[0] = rows;
      e->shape[1] = columns;
    }
  }
  return at;
}

al_llama2c *al_llama2c_open(al_ctx *c, const char *path) {
  al_llama2c *m = al_calloc(c, 1, sizeof *m);
  if (!m) return NULL;
  if (al_in_open(c, &m->in, path) != AL_OK || read_sizes(c, m) != AL_OK) goto fail;
  const int64_t bytes = lay_out(m);
  if (bytes != m->in.size) {
    al_fail(c, AL_EFORMAT,
            "llama2c: %s: a model of these sizes has %lld bytes, the file has %lld (%s)", path,
            (long long)bytes, (long long)m->in.size,
            m->in.size < bytes ? "cut short?" : "another format?");
    goto fail;
  }
  m->entries = al_calloc(c, m->n, sizeof *m->entries);
  if (!m->entries) goto fail;
  lay_out(m);
  qsort(m->entries, (size_t)m->n, sizeof *m->entries, by_name);
  return m;
fail:
  al_llama2c_close(m);
  return NULL;
}

void al_llama2c_close(al_llama2c *m) {
  if (!m) return;
  al_in_close(&m->in);
  free(m->entries);
  free(m);
}

const al_llama2c_config *al_llama2c_sizes(const al_llama2c *m) { return &m->sizes; }
int al_llama2c_count(const al_llama2c *m) { return m->n; }
const char *al_llama2c_name(const al_llama2c *m, int i) {
  return i >= 0 && i < m->n ? m->entries[i].name : NULL;
}

al_tensor *al_llama2c_tensor(al_ctx *c, const al_llama2c *m, const char *name) {
  entry key;
  snprintf(key.name, sizeof key.name, "%s", name);
  const entry *e = bsearch(&key, m->entries, (size_t)m->n, sizeof *m->entries, by_name);
  if (!e || strcmp(e->name, name) != 0) {
    al_fail(c, AL_ENAME, "llama2c: %s: no tensor '%.200s' in it", m->in.path, name);
    return NULL;
  }
  const bool off = c->scope_off;
  c->scope_off = true; /* the scope gets the tensor when it is whole */
  al_tensor *t = al_tensor_new(c, AL_F32, e->ndim, e->shape);
  c->scope_off = off;
  if (!t) return NULL;
  al_stage g;
  if (al_stage_begin(&g, t, false)) {
    al_in_read(c, &m->in, e->offset, g.bytes, al_numel(t) * (int64_t)sizeof(float), name);
    al_stage_end(&g, true);
  }
  if (al_error(c) == AL_OK) return al_scope_own(c, t);
  al_release(t);
  return NULL;
}
