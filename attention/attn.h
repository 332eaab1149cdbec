/* attn.h: what an attention variant is, for whoever writes one, and how it is created and run.
 *
 * A family is one file that ends with ATTN_FAMILY(<stem>, ...): in attention/variants/ the build
 * finds it by its name, elsewhere the same file compiled with -DATTN_PLUGIN is a plug-in (a shared
 * object, see "plug-ins" below). Its options are al_arg rows, its named presets are rows. It
 * computes its output by ops (al_run), so gradients, f64 and every check come for free.
 *
 * Layout: q (B,T,H,D), k (B,S,Hkv,D), v (B,S,Hkv,E), x (B,T,width), output (B,T,H,E).
 */
#ifndef ATTN_H
#define ATTN_H
#include "../core/attnlab.h"

#define ATTN_ABI 4

typedef struct attn_state attn_state; /* see "state" below */

typedef struct attn_sizes {
  int64_t heads, kv_heads, head_dim, value_dim; /* H, Hkv (divides H), D, E */
  int64_t width;                                /* of x; 0 where no part of the variant reads x */
} attn_sizes;

/* A parameter as the family declares it. init: zeros, ones, value, uniform = U(+-1/sqrt(value)). */
typedef struct attn_param {
  char name[48];
  int ndim;
  int64_t shape[4];
  enum { ATTN_ZEROS, ATTN_ONES, ATTN_VALUE, ATTN_UNIFORM } init;
  double value;
  const char *doc;
} attn_param;
#define ATTN_MAX_PARAMS 24

/* Who looks at inner tensors of one call, and may put others in their place. */
typedef struct attn_sink attn_sink;
struct attn_sink {
  bool (*asks)(const attn_sink *self, const char *name);
  /* t, or what is to stand for it, of its shape and type; the open scope owns it. NULL: an error is
   * pending. */
  al_tensor *(*take)(const attn_sink *self, al_ctx *c, const char *name, al_tensor *t);
};

/* What one call sees. size = sizeof(attn_in) of the caller; grows only at the end. */
typedef struct attn_in {
  size_t size;
  al_tensor *q, *k, *v, *x; /* x may be NULL where the options read none */
  al_tensor *lengths;       /* (B) i32: keys at and after it are absent; NULL = all present */
  bool causal;
  int64_t offset; /* query row i stands at key position i + offset */
  bool training;  /* dropout is active */
  /* Only where the family declares a state; then T = S, causal, offset 0. The tokens follow those
   * that `state` has seen, and the family puts every component of the state after them into `next`.
   * lengths count the keys of this call. NULL otherwise. */
  const attn_state *state;
  attn_state *next;
  /* since ABI 2 up to here */
  /* Not NULL where some of the family's taps are asked for: it makes these tensors, whatever that
   * costs, and `state` is NULL then. */
  const attn_sink *sink;
  /* since ABI 3 up to here */
} attn_in;

/* Whether somebody asked for this tap. */
static inline bool attn_asked(const attn_in *in, const char *name) {
  return in->sink && in->sink->asks(in->sink, name);
}
/* Hands the inner tensor `name`, one of the family's taps, to whoever asked for it; returns what to
 * go on with. Nothing happens where nobody asked. */
static inline al_tensor *attn_tap(al_ctx *c, const attn_in *in, const char *name, al_tensor *t) {
  return t && attn_asked(in, name) ? in->sink->take(in->sink, c, name, t) : t;
}

/* Claims that the conformance tests hold a variant to. */
enum {
  ATTN_CAUSAL = 1,  /* causal=true is honoured */
  ATTN_ROWSUM1 = 2, /* a constant v comes back as that constant */
  ATTN_POSITIVE_WEIGHTS =
      4, /* outputs lie in the cone of v: non-negative v gives non-negative output */
  ATTN_SHIFT_INVARIANT = 8, /* one vector added to every key changes nothing */
  ATTN_SCALE_FREE = 16,     /* v scaled by a > 0 gives the same output */
  ATTN_LIMITED_SCORES = 32  /* weights grow so fast that f32 overflows at scores of +-80 */
};
/* "rowsum1" for ATTN_ROWSUM1; NULL for what is no claim. attn_claim_at: the i-th bit and what it
 * says for people; false past the end. */
AL_API const char *attn_claim_name(unsigned bit);
AL_API bool attn_claim_at(int i, unsigned *bit, const char **doc);

/* An inner tensor that a family hands out by attn_tap. */
typedef struct attn_tap_row {
  const char *name, *shape, *doc; /* "weights", "(B,H,T,S)" */
  bool composed;                  /* asked for it the family takes its composed path */
  bool (*has)(const al_opts *o);  /* is it there with these options? NULL: always */
} attn_tap_row;
#define ATTN_MAX_TAPS 64

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
  /* All functions below run with the C locale: what they print or parse has a point. */
  /* Refuses combinations that have no meaning, with the reason. May be NULL. */
  al_status (*check)(al_ctx *c, const al_opts *o, const attn_sizes *s);
  /* Fills rows (at most ATTN_MAX_PARAMS), returns how many. May be NULL. */
  int (*params)(const al_opts *o, const attn_sizes *s, attn_param *rows);
  /* New reference or scope-owned tensor (B,T,H,E). p[i] belongs to the i-th declared parameter.
   * Shapes and dtypes were checked by attn_forward, which also opened a scope; parameters and inputs of
   * bf16 come as f32 but where in_bf16 wants them, and so does a state. What is made without inputs lies where q does. */
  al_tensor *(*forward)(al_ctx *c, const al_opts *o, const attn_sizes *s, al_tensor *const *p,
                        const attn_in *in);
  unsigned (*claims)(const al_opts *o);
  /* Bytes one sequence carries from token to token when decoding at position t (elements of
   * `dtype`, statistics in f32). */
  int64_t (*state_bytes)(const al_opts *o, const attn_sizes *s, int64_t t, al_dtype dtype);
  /* The options as a one-line formula. May be NULL. */
  void (*formula)(const al_opts *o, char *buf, size_t n);
  /* What runs for T tokens that attend to themselves, and why: "chunked, fused: ...". May be
   * NULL. */
  void (*plan)(const al_opts *o, const attn_sizes *s, al_dtype dtype, int64_t T, char *buf,
               size_t n);
  /* Puts the components of an empty state for `batch` sequences into st (attn_state_put). May
   * refuse, with the size and what would fit. NULL: forward never sees a state; decoding keeps all
   * inputs and runs forward on all of them again ("replay"), which is right and slow. */
  al_status (*state)(al_ctx *c, const al_opts *o, const attn_sizes *s, int64_t batch,
                     al_dtype dtype, attn_state *st);
  /* Why reverse-mode gradients of these options are not those of the values by design (rounding
   * with a straight-through gradient, say), else NULL. Detaching alone needs no exemption. */
  const char *(*exempt)(const al_opts *o);
  /* The variant written out: kind "latex" or "torch" (a self-contained function of q, k, v, x and
   * parameters) for every size: those of s may still be unknown, and are 1 then. False where it has
   * none. May be NULL. */
  bool (*source)(const al_opts *o, const attn_sizes *s, const char *kind, char *buf, size_t n);
  /* Runs once before the family is registered; an error refuses it. May be NULL. */
  al_status (*init)(al_ctx *c);
  /* ABI 2 ends here */
  const attn_tap_row *taps; /* ends with {0}; may be NULL */
  /* ABI 3 ends here */
  /* Whether forward takes parameters and inputs of bf16 as they are, where q lies, and returns bf16. May
   * be NULL: never. */
  bool (*in_bf16)(al_ctx *c, const al_opts *o, const attn_in *in);
  /* ABI 4 ends here */
} attn_family;

/* ---- state ---------------------------------------------------------------------------------- */

/* What a sequence carries from token to token, the same struct in training and in decoding: tensors
 * by name ("numerator", "denominator", "count", "k", "v"), the batch first. They may carry history,
 * so a backward pass goes through a state into what made it. A call never changes the state it was
 * given; it makes the next one, which may show the same memory and more of it (the op append): a
 * tensor of a state is not written to. */
AL_API al_tensor *attn_state_get(const attn_state *st, const char *name); /* borrowed, or NULL */
/* Adds or replaces a component; takes a reference of its own. doc is a constant,
 * or NULL: what it was. */
AL_API al_status attn_state_put(al_ctx *c, attn_state *st, const char *name, al_tensor *t,
                                const char *doc);
AL_API int64_t attn_state_batch(const attn_state *st);
AL_API int64_t attn_state_position(const attn_state *st); /* tokens seen */
/* Whether all rows have seen as many tokens, and how many (the position, where none was padded).
 * The host knows it of a state that never met lengths; else the counts are read, which waits for
 * them: ask only where it matters. */
AL_API bool attn_state_even(const attn_state *st, int64_t *seen);
AL_API int attn_state_count(const attn_state *st);
AL_API al_tensor *attn_state_at(const attn_state *st, int i, const char **name, const char **doc);
AL_API int64_t attn_state_size(const attn_state *st); /* bytes, measured from the tensors */
AL_API int64_t attn_state_held(const attn_state *st); /* with the room behind what grows */

/* ---- plug-ins ------------------------------------------------------------------------------- */

/* A plug-in reaches the program only through this table, so that it loads wherever the program's
 * symbols are not global (stock lua5.4). With ATTN_PLUGIN the same names go through it. There is no
 * address of numbers in it: they may lie where only kernels reach, so a plug-in is made of ops. */
/* clang-format off */
#define ATTN_HOST_CALLS(X) \
  X(al_fail_at) X(al_error) X(al_nearest) X(al_dtype_name) X(al_dtype_size) X(al_tensor_new) \
  X(al_tensor_full) X(al_tensor_from) X(al_retain) X(al_release) X(al_type) X(al_ndim) \
  X(al_size) X(al_shape) X(al_numel) X(al_read) X(al_shape_str) \
  X(al_scope_begin) X(al_scope_end) X(al_detach) X(al_grad_mode) X(al_opts_has) X(al_opts_given) \
  X(al_opt_kind) X(al_opt_bool) X(al_opt_int) X(al_opt_num) X(al_opt_word) X(al_opt_is) \
  X(al_opt_list) X(al_opts_text) X(al_run) X(al_run_into) X(attn_state_get) X(attn_state_put) \
  X(attn_state_batch) X(attn_state_position) X(attn_state_even) X(al_opt_choice)
/* clang-format on */
typedef struct attn_host {
  uint32_t abi, size; /* ATTN_ABI, sizeof(attn_host); grows only at the end */
#define ATTN_HOST_MEMBER(f) __typeof__(f) *f;
  ATTN_HOST_CALLS(ATTN_HOST_MEMBER)
#undef ATTN_HOST_MEMBER
} attn_host;

/* The data object `attn_plugin_stamp` of a plug-in: read from the file before any code of it runs.
 * sizes: of attn_family, attn_in, attn_host, al_arg, attn_preset, attn_param, attn_sizes. */
#define ATTN_MAGIC "attnlab"
enum { ATTN_STAMP_SIZES = 7 };
typedef struct attn_plugin_stamp {
  char magic[8];
  uint32_t abi, sizes[ATTN_STAMP_SIZES];
  char name[64]; /* of the family */
} attn_plugin_stamp;
#define ATTN_STAMP(stem)                                                                           \
  {                                                                                                \
    ATTN_MAGIC, ATTN_ABI,                                                                          \
        {sizeof(attn_family), sizeof(attn_in),    sizeof(attn_host), sizeof(al_arg),               \
         sizeof(attn_preset), sizeof(attn_param), sizeof(attn_sizes)},                             \
        #stem                                                                                      \
  }
/* The function `attn_plugin` of a plug-in: its family, or NULL where it cannot work with `host`. */
typedef const attn_family *attn_plugin_fn(const attn_host *host);

#define ATTN_FAMILY_TABLE(stem, ...)                                                               \
  const attn_family attn_family_##stem = {                                                         \
      .abi = ATTN_ABI, .size = sizeof(attn_family), .name = #stem, __VA_ARGS__}
#ifndef ATTN_PLUGIN
#define ATTN_FAMILY ATTN_FAMILY_TABLE
#else
#include "plugin_calls.h"
#define ATTN_FAMILY(stem, ...)                                                                     \
  static ATTN_FAMILY_TABLE(stem, __VA_ARGS__);                                                     \
  AL_API extern const attn_plugin_stamp attn_plugin_stamp_;                                        \
  AL_API const attn_plugin_stamp attn_plugin_stamp_ __asm__("attn_plugin_stamp") =                 \
      ATTN_STAMP(stem);                                                                            \
  AL_API attn_plugin_fn attn_plugin;                                                               \
  const attn_family *attn_plugin(const attn_host *host) {                                          \
    if (host->abi != ATTN_ABI || host->size < sizeof(attn_host)) return NULL;                      \
    attn_host_ = host;                                                                             \
    return &attn_family_##stem;                                                                    \
  }
#endif

/* Loads a plug-in and registers its family and presets for the rest of the process. Refused, with
 * both sides named and nothing registered: a file that is no shared object of this machine, has no
 * stamp, another ABI or other sizes; names that are taken; an init that fails. The same file again
 * is the same family. `reserved` (ended by NULL, or NULL) are words that the caller uses where
 * options stand, so that no option may be called so. */
AL_API const attn_family *attn_plugin_load(al_ctx *c, const char *path,
                                           const char *const *reserved);
/* File and SHA-256 (64 hexadecimal digits) of a family that came from a plug-in; false for
 * others. */
AL_API bool attn_plugin_of(const attn_family *f, const char **path, const char **hash);

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
 * is copied. tag NULL: none is made, whatever the sizes; the instance answers what its options mean
 * and does not run. */
AL_API attn *attn_new(al_ctx *c, const attn_family *f, const al_opts *opts, const attn_sizes *s,
                      al_dtype dtype, uint64_t seed, const char *tag);
AL_API void attn_free(attn *a);
AL_API const attn_family *attn_family_of(const attn *a);
AL_API const al_opts *attn_opts(const attn *a);
AL_API const attn_sizes *attn_sizes_of(const attn *a);
/* Whether the shape or the first value of a parameter depends on those sizes of `known` that are 0;
 * its name into `name`. */
AL_API bool attn_needs_sizes(const attn_family *f, const al_opts *o, const attn_sizes *known,
                             char name[48]);
/* Sizes with `n` for what is 0; of query heads n a key head. */
AL_API attn_sizes attn_sizes_filled(const attn_sizes *known, int64_t n);
/* Other sizes for an instance of options that do not need them. On an error nothing has changed. */
AL_API al_status attn_resize(al_ctx *c, attn *a, const attn_sizes *s);
AL_API al_dtype attn_dtype_of(const attn *a);
AL_API unsigned attn_claims(const attn *a);
AL_API int64_t attn_state_bytes(const attn *a,
                                int64_t t); /* of one sequence, as declared; all inputs where
                                               nothing is and the family has no state */
AL_API const char *attn_plan(const attn *a, int64_t T, char *buf,
                             size_t n); /* family.plan into buf, or what stands for it */
AL_API al_tensor *attn_param_at(const attn *a, int i,
                                const char **name); /* borrowed; NULL past the end */
AL_API al_status attn_param_set(al_ctx *c, attn *a, int i,
                                al_tensor *t); /* same shape and dtype; takes a reference */
/* The i-th of the family's taps that these options have; NULL past the end. */
AL_API const attn_tap_row *attn_tap_at(const attn *a, int i);
/* Checks every input at the border (argument named, both shapes shown), then runs the family. New
 * reference, or NULL. */
AL_API al_tensor *attn_forward(al_ctx *c, attn *a, const attn_in *in);
/* Changes the options of a living instance. Parameters whose name and shape stay keep their tensor;
 * new ones are made as attn_new makes them. On an error nothing has changed. */
AL_API al_status attn_set(al_ctx *c, attn *a, const al_opts *opts);
/* Empty state for `batch` sequences. Owned by the caller; attn_state_free. */
AL_API attn_state *attn_state_new(al_ctx *c, const attn *a, int64_t batch);
/* An empty state that keeps all inputs, as of a family that declares none: for calls with a sink. */
AL_API attn_state *attn_state_replayed(al_ctx *c, const attn *a, int64_t batch);
/* A state of `a` out of n components by name (as attn_state_at gave them), shapes checked. */
AL_API attn_state *attn_state_restore(al_ctx *c, const attn *a, int64_t position, int n,
                                      const char *const *names, al_tensor *const *t);
/* Whether `a`, with the options it has now, can go on from st. */
AL_API bool attn_state_fits(const attn *a, const attn_state *st);
AL_API attn_state *attn_state_copy(al_ctx *c, const attn_state *st); /* own storage, no history */
AL_API void attn_state_free(attn_state *st);
/* Output (B,T,H,E) of T further tokens after `st`, and the state after them in *next (owned by the
 * caller; NULL on failure). As attn_forward with causal = true and offset 0, T = S. `detach`: no
 * gradient flows into st. */
AL_API al_tensor *attn_continue(al_ctx *c, attn *a, const attn_in *in, const attn_state *st,
                                bool detach, attn_state **next);
/* attn_forward of a causal call one token at a time, from state to state: the recurrent form. */
AL_API al_tensor *attn_recur(al_ctx *c, attn *a, const attn_in *in);
/* The variant written out, kind "formula" (in one line), "latex" or "torch" (a self-contained
 * PyTorch function attention(q, k, v, x, p, causal, lengths), p a dict of the parameters by name).
 * free() it. An error for another kind and for a family that does not print itself. */
AL_API char *attn_source(al_ctx *c, const attn *a, const char *kind);
/* Formula, options, parameters, claims, source and note as text for people. free() it. */
AL_API char *attn_describe(al_ctx *c, const char *name);

/* ---- packed rows: several documents one behind the other in a row ---------------------------- */

typedef struct attn_documents attn_documents;
/* Of starts (B,T) i32, wherever it lies: of each token the place in its row at which its document
 * begins, so each is the one before it or its own place. It is read, which waits for a device:
 * once a batch, not once a layer. NULL: the error says which row and place. */
AL_API attn_documents *attn_documents_new(al_ctx *c, const al_tensor *starts);
AL_API void attn_documents_free(attn_documents *d);
AL_API bool attn_documents_packed(const attn_documents *d); /* does a row hold several? */
AL_API void attn_documents_sizes(const attn_documents *d, int64_t *B, int64_t *T);
/* i32 on the current device, new. (B,T): the place of each token in its document, `before` more in
 * those that begin at place 0. (B,n): 1 for each of the last n places of a row, or before it, that
 * its last document reaches, which one that begins at 0 does. */
AL_API al_tensor *attn_documents_positions(al_ctx *c, const attn_documents *d, int64_t before);
AL_API al_tensor *attn_documents_last(al_ctx *c, const attn_documents *d, int64_t n);
/* The most tokens that a state has seen after the last documents, of `before` seen before. */
AL_API int64_t attn_documents_after(const attn_documents *d, int64_t before);
/* attn_plan of such rows. */
AL_API const char *attn_plan_packed(const attn *a, int64_t T, char *buf, size_t n);
/* attn_forward and attn_continue with each document as if it stood in a row of its own; T = S,
 * offset 0, no lengths, no sink. From a state those that begin at place 0 go on with it; the next
 * state is that of the last document of each row. */
AL_API al_tensor *attn_forward_packed(al_ctx *c, attn *a, const attn_in *in, attn_documents *d);
AL_API al_tensor *attn_continue_packed(al_ctx *c, attn *a, const attn_in *in, attn_documents *d,
                                       const attn_state *st, bool detach, attn_state **next);
#endif
