/* attn.h: what an attention variant is, for whoever writes one, and how it is created and run.
 *
 * A family is one file in attention/variants/ that ends with ATTN_FAMILY(<stem>, ...); the build
 * finds it by its name. Its options are al_arg rows, its named presets are rows. It computes its
 * output by ops (al_op), so gradients, f64 and every check come for free.
 *
 * Layout: q (B,T,H,D), k (B,S,Hkv,D), v (B,S,Hkv,E), x (B,T,width), output (B,T,H,E).
 */
#ifndef ATTN_H
#define ATTN_H
#include "../core/attnlab.h"

#define ATTN_ABI 1

typedef struct attn_sizes {
  int64_t heads, kv_heads, head_dim, value_dim; /* H, Hkv (divides H), D, E */
  int64_t width;                                /* of x; 0 where no part of the variant reads x */
} attn_sizes;

/* A parameter as the family declares it. init: zeros, ones, value, uniform = U(+-1/sqrt(value)). */
typedef struct attn_param {
  const char *name;
  int ndim;
  int64_t shape[4];
  enum { ATTN_ZEROS, ATTN_ONES, ATTN_VALUE, ATTN_UNIFORM } init;
  double value;
  const char *doc;
} attn_param;
#define ATTN_MAX_PARAMS 24

/* What one call sees. size = sizeof(attn_in) of the caller; grows only at the end. */
typedef struct attn_in {
  size_t size;
  al_tensor *q, *k, *v, *x; /* x may be NULL where the options read none */
  al_tensor *lengths;       /* (B) i32: keys at and after it are absent; NULL = all present */
  bool causal;
  int64_t offset; /* query row i stands at key position i + offset */
  bool training;  /* dropout is active */
  /* since ABI 1 up to here */
} attn_in;

/* Claims that the conformance tests hold a variant to. */
enum {
  ATTN_CAUSAL = 1,  /* causal=true is honoured */
  ATTN_ROWSUM1 = 2, /* a constant v comes back as that constant */
  ATTN_POSITIVE_WEIGHTS =
      4, /* outputs lie in the cone of v: non-negative v gives non-negative output */
  ATTN_SHIFT_INVARIANT = 8, /* one vector added to every key changes nothing */
  ATTN_SCALE_FREE = 16      /* v scaled by a > 0 gives the same output */
};

typedef struct attn_preset {
  const char *name;    /* "p1/softmax" */
  const char *options; /* text for al_opts_parse */
  const char *layer;   /* options of the layer around it ("rope=none conv=2"), or "" */
  const char *source;  /* paper and place */
  const char *note; /* what a user must know; where the authors' code errs, what is done instead */
} attn_preset;

typedef struct attn_family {
  uint32_t abi;  /* ATTN_ABI */
  uint32_t size; /* sizeof(attn_family) */
  const char *name, *doc;
  const al_arg *options;      /* ends with {0} */
  const attn_preset *presets; /* ends with {0}; may be NULL */
  /* Refuses combinations that have no meaning, with the reason. May be NULL. */
  al_status (*check)(al_ctx *c, const al_opts *o, const attn_sizes *s);
  /* Fills rows (at most ATTN_MAX_PARAMS), returns how many. May be NULL. */
  int (*params)(const al_opts *o, const attn_sizes *s, attn_param *rows);
  /* New reference or scope-owned tensor (B,T,H,E). p[i] belongs to the i-th declared parameter.
   * Shapes and dtypes were checked by attn_forward, which also opened a scope. */
  al_tensor *(*forward)(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                        const attn_in *in);
  unsigned (*claims)(const al_opts *o);
  /* Bytes one sequence carries from token to token when decoding at position t (elements of
   * `dtype`, statistics in f32). */
  int64_t (*state_bytes)(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype);
  /* The options as a one-line formula. May be NULL. */
  void (*formula)(const al_opts *o, char *buf, size_t n);
  /* What runs for T tokens that attend to themselves, and why: "chunked, fused: ...". May be NULL.
   */
  void (*plan)(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
               size_t n);
  /* ABI 1 ends here */
} attn_family;

#define ATTN_FAMILY(stem, ...)                                                                     \
  const attn_family attn_family_##stem = {                                                         \
      .abi = ATTN_ABI, .size = sizeof(attn_family), .name = #stem, __VA_ARGS__}

/* ---- registry ------------------------------------------------------------------------------- */

AL_API int attn_family_count(void);
AL_API const attn_family *attn_family_at(int i);
AL_API int attn_preset_count(void);
AL_API const attn_preset *attn_preset_at(int i, const attn_family **family); /* sorted by name */

/* Finds a preset ("p1/softmax", or "softmax" where unambiguous) or a family by name, or "" for the
 * formula's family. *opts = its options with the preset applied (new reference; change it before
 * attn_new). *preset may be NULL for a family. Unknown and ambiguous names are errors. */
AL_API al_status attn_find(al_ctx *c, const char *name, const attn_family **family,
                           const attn_preset **preset, al_opts **opts);

/* ---- instances ------------------------------------------------------------------------------ */

typedef struct attn attn; /* options, sizes and parameters of one attention */

/* Parameters are created in `dtype` from the streams (seed, tag.<name>) and require gradients. opts
 * is copied. */
AL_API attn *attn_new(al_ctx *c, const attn_family *f, const al_opts *opts, const attn_sizes *s,
                      al_dtype dtype, uint64_t seed, const char *tag);
AL_API void attn_free(attn *a);
AL_API const attn_family *attn_family_of(const attn *a);
AL_API const al_opts *attn_opts(const attn *a);
AL_API const attn_sizes *attn_sizes_of(const attn *a);
AL_API unsigned attn_claims(const attn *a);
AL_API int64_t attn_state_bytes(const attn *a, int64_t t);
AL_API const char *attn_plan(const attn *a, int64_t T, char *buf,
                             size_t n); /* family.plan into buf; "" without one */
AL_API al_tensor *attn_param_at(const attn *a, int i,
                                const char **name); /* borrowed; NULL past the end */
AL_API al_status attn_param_set(al_ctx *c, attn *a, int i,
                                al_tensor *t); /* same shape and dtype; takes a reference */
/* Checks every input at the border (argument named, both shapes shown), then runs the family. New
 * reference, or NULL. */
AL_API al_tensor *attn_forward(al_ctx *c, attn *a, const attn_in *in);
/* Formula, options, parameters, claims, source and note as text for people. free() it. */
AL_API char *attn_describe(al_ctx *c, const char *name);
#endif
