/* attnlab.h: the public face of the core: context and errors, tensors, options, ops, autograd,
 * random streams, optimisers, files and token data.
 *
 * Rules that hold everywhere:
 * - A function that can fail returns al_status, or a pointer that is NULL on failure. The text is
 * in the context; the first error wins and stays until al_error_clear. While an error is pending
 * every op returns NULL at once, and a NULL for a required input gives NULL, so compositions read
 * as formulas and are checked once at the end.
 * - Tensors are reference-counted. "new reference" = the caller releases it; "borrowed" = it does
 * not. Inside an al_scope the scope owns what ops return (see there).
 * - Shapes and sizes are int64_t; axes here are 0-based, negative from the end (Lua is 1-based).
 */
#ifndef ATTNLAB_H
#define ATTNLAB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AL_VERSION "0.1.0"
#define AL_MAX_DIMS 8
#define AL_API __attribute__((visibility("default")))

/* ---- context and errors --------------------------------------------------------------------- */

typedef enum al_status {
  AL_OK,
  AL_ENOMEM,  /* allocation failed */
  AL_ESHAPE,  /* shapes do not fit */
  AL_ETYPE,   /* wrong dtype or kind of value */
  AL_EVALUE,  /* value out of range */
  AL_ENAME,   /* unknown name: op, option, preset, key */
  AL_EIO,     /* the system refused a file operation */
  AL_EFORMAT, /* a file is not what it should be */
  AL_ESTATE   /* call not possible now */
} al_status;

typedef struct al_ctx al_ctx;

/* NULL when out of memory; owned by the caller. An error is pending where two ops have one name,
 * and where the environment asks for an instruction set (ATTNLAB_ISA) that is unknown or not there.
 */
AL_API al_ctx *al_ctx_new(void);
AL_API void al_ctx_free(al_ctx *c);

/* Report an error: returns `st`, so `return al_fail(c, AL_ESHAPE, "matmul: b: ...")`.
 * Message = function: argument: what was needed, what came, what to do. */
#define al_fail(c, st, ...) al_fail_at((c), __FILE__, __LINE__, (st), __VA_ARGS__)
AL_API al_status al_fail_at(al_ctx *c, const char *file, int line, al_status st, const char *fmt,
                            ...) __attribute__((format(printf, 5, 6)));
#define AL_TRY(call)                                                                               \
  do {                                                                                             \
    al_status al_try_ = (call);                                                                    \
    if (al_try_ != AL_OK) return al_try_;                                                          \
  } while (0)
AL_API al_status al_error(const al_ctx *c); /* pending status or AL_OK */
AL_API const char *al_error_message(const al_ctx *c, const char **file, int *line);
AL_API void al_error_clear(al_ctx *c);
AL_API void al_axes_from(al_ctx *c,
                         int base); /* error texts count axes from base: 0 at first, 1 for Lua */

/* The name in `names` (n of them, NULL entries skipped) nearest to `word`, or NULL if none is
 * near. */
AL_API const char *al_nearest(const char *word, const char *const *names, int n);

/* ---- numbers as text ------------------------------------------------------------------------- */

/* Numbers in texts have a point, whatever locale the host program has set: from this declaration to
 * the end of its block the calling thread has the C locale, after it the host's again. They nest.
 * Whatever writes or reads a number that somebody reads back begins with it. */
typedef struct al_plain {
  void *host;
} al_plain;
AL_API al_plain al_plain_begin(void);
AL_API void al_plain_end(al_plain *p);
#define AL_PLAIN_NUMBERS                                                                           \
  al_plain al_plain_ __attribute__((unused, cleanup(al_plain_end))) = al_plain_begin()

/* ---- memory --------------------------------------------------------------------------------- */

typedef struct al_mem {
  int64_t live, peak, cached; /* bytes in storages, their high-water mark, bytes kept for reuse */
  int64_t n_alloc;            /* storages allocated so far */
  int64_t spare;              /* bytes that may lie unused for a while */
} al_mem;
AL_API al_mem al_memory(const al_ctx *c);
AL_API void al_memory_reset_peak(al_ctx *c);
/* The current device's storages take that many bytes at most; 0 = as many as it has. */
AL_API void al_memory_limit(al_ctx *c, int64_t bytes);
AL_API void al_memory_trim(al_ctx *c); /* give cached blocks back to the system */
AL_API void al_memory_fail_at(al_ctx *c,
                              int64_t n);         /* the n-th allocation from now fails; 0 = off */
AL_API void al_memory_poison(al_ctx *c, bool on); /* fill new storages with NaN */
/* To see what a result is made of: each number that an op or its backward makes is multiplied by
 * 1 + by or 1 - by, drawn from `stream`. 0 = off. */
AL_API void al_jitter(al_ctx *c, double by, uint64_t stream);
AL_API int al_threads(void); /* threads that kernels use */
AL_API void al_set_threads(int n);
AL_API const char *
al_cpu(void); /* "x86-64-v4"; by ATTNLAB_ISA a lower one: "x86-64 of x86-64-v4" */
/* "NVIDIA H100 .." with its versions, and how many cards there are; else why there is none. */
AL_API const char *al_cuda(int *cards);
/* Card i from 0 on in words, and its bytes of memory in all; NULL where there are others alone. */
AL_API const char *al_cuda_card(int i, int64_t *bytes);
AL_API const char *al_libraries(void);  /* "cpu x86-64-v4, products by oneDNN 2.6.3" */
AL_API const char *al_build_info(void); /* the same with "cuda: ..", opening no card */

/* ---- tensors -------------------------------------------------------------------------------- */

typedef enum al_dtype { AL_F64, AL_F32, AL_BF16, AL_I32 } al_dtype; /* ORDER dtype */
AL_API const char *al_dtype_name(al_dtype t);
AL_API int64_t al_dtype_size(al_dtype t);
/* Of what is made of numbers of that type and must not be rounded to it, gradients and statistics:
 * f32 for bf16, else the same. */
AL_API al_dtype al_statistic_type(al_dtype t);
AL_API al_status al_dtype_parse(al_ctx *c, const char *name, al_dtype *out);

typedef struct al_tensor al_tensor;

/* New contiguous tensor, contents undefined. 0-dimensional = scalar; sizes of 0 are allowed. */
AL_API al_tensor *al_tensor_new(al_ctx *c, al_dtype t, int ndim, const int64_t *shape);
AL_API al_tensor *al_tensor_full(al_ctx *c, al_dtype t, int ndim, const int64_t *shape,
                                 double value);
/* From n doubles in row-major order, converted to `t`. n must equal the product of shape. */
AL_API al_tensor *al_tensor_from(al_ctx *c, al_dtype t, int ndim, const int64_t *shape,
                                 const double *data, int64_t n);
AL_API al_tensor *al_retain(al_tensor *t); /* NULL is allowed in both */
AL_API void al_release(al_tensor *t);

/* Of NULL, which a failed op gives: AL_F32, no axes, sizes and strides of 0, no numbers. So what is
 * composed of ops reads as a formula to its end, where the first error is still pending. */
AL_API al_dtype al_type(const al_tensor *t);
AL_API int al_ndim(const al_tensor *t);
AL_API int64_t al_size(const al_tensor *t, int axis); /* negative axis counts from the end */
AL_API const int64_t *al_shape(const al_tensor *t);
AL_API const int64_t *al_stride(const al_tensor *t);
AL_API int64_t al_numel(const al_tensor *t);
AL_API bool al_contiguous(const al_tensor *t);
/* The first element, wherever it lies: for kernels and nobody else, so the type is incomplete. */
typedef struct al_numbers al_numbers;
AL_API al_numbers *al_data(const al_tensor *t);
/* The same where the numbers lie on the host, in al_type(t)'s own C type. Else, and of NULL: NULL
 * with the error pending. Borrowed from t. */
AL_API void *al_host(const al_tensor *t);
AL_API int64_t al_storage_bytes(const al_tensor *t); /* of the storage behind it */
AL_API al_status al_read(const al_tensor *t, double *out,
                         int64_t n); /* row-major copy as doubles */
AL_API al_status al_write(al_tensor *t, const double *in, int64_t n); /* in place; not recorded */
AL_API al_status al_copy_into(al_ctx *c, al_tensor *dst,
                              const al_tensor *src); /* same shape; converts */
/* A leaf with t's values whose memory is t's until either is written: then the one that is written
 * gets its own. New reference. al_fork_into makes that of an existing dst (a view: a plain copy).
 */
AL_API al_tensor *al_fork(al_ctx *c, al_tensor *t);
AL_API al_status al_fork_into(al_ctx *c, al_tensor *dst, const al_tensor *src);
/* Of what the op append made: all of its memory as a packed tensor (B,capacity,..), of which only
 * t's entries are defined; any other t itself. New reference. And how many bytes that is. */
AL_API al_tensor *al_growing_whole(al_ctx *c, al_tensor *t);
AL_API int64_t al_growing_bytes(const al_tensor *t);
AL_API double al_item(const al_tensor *t); /* the value of a one-element tensor, else NaN */
/* "(2,8,64)" into buf; returns buf. */
AL_API const char *al_shape_str(const al_tensor *t, char *buf, size_t n);

/* One number of t, wherever it lies, at `index` (one an axis); NaN with the error pending. */
AL_API double al_number(const al_tensor *t, const int64_t *index);

/* ---- devices -------------------------------------------------------------------------------- */

/* A device has memory and kernels. Ops run where their inputs lie, all of them in one place; what
 * has no inputs is made on the context's current device, "cpu" at first. "counting" has no memory:
 * there tensors are counted (al_memory) as the device that was current before would hold them, no
 * kernel runs, and every number reads as 0. */
AL_API const char *al_on(al_ctx *c, const char *device); /* makes it current, NULL: changes nothing;
                                                            returns the one before, or NULL */
AL_API const char *al_device_name(const al_tensor *t);
/* Does that op run in bf16 on the current device, which has the kernels? Else it is composed of
 * f32. */
AL_API bool al_in_bf16(al_ctx *c, const char *op);
/* t itself where it lies there, else a copy without history; new reference. */
AL_API al_tensor *al_to(al_ctx *c, al_tensor *t, const char *device);
/* The turn of a layer or a family: what it does is queued, and the host may not wait for numbers
 * of a device meanwhile: reading one is an error that names who has the turn. Turns nest. */
typedef struct al_turn {
  char who[64]; /* of the one before */
} al_turn;
AL_API al_turn al_turn_begin(al_ctx *c, const char *who);
AL_API void al_turn_end(al_ctx *c, const al_turn *t);
/* On the current device so far: multiply-adds of matrix products and attention, the bytes of the
 * operands and results of the former, and a sum of numbers that the names and types of kernels
 * make: what adds as much to it ran the same kernels as often. */
typedef struct al_work {
  int64_t products, bytes;
  uint64_t kernels;
} al_work;
AL_API al_work al_work_done(const al_ctx *c);

/* How products on a device are computed, which decides how they round: a plan for each shape, made
 * when the shape first comes. While timing is on it is the fastest of several, which need not be
 * the same again. All plans so far as text, free() it, NULL on failure; and plans from such a
 * text, beside those there are: all of them, or none where they are of another card or library or
 * not sound. A device whose products are computed in one way, as on the CPU, has the text "". */
AL_API al_status al_plans_time(al_ctx *c, const char *device, bool on);
AL_API char *al_plans_save(al_ctx *c, const char *device);
AL_API al_status al_plans_load(al_ctx *c, const char *device, const char *text);

/* ---- scopes --------------------------------------------------------------------------------- */

/* While a scope is open, the references that ops and tensor constructors return belong to it: the
 * caller must not release them. al_scope_end releases them all but `keep` (may be NULL), which it
 * returns: to the enclosing scope if there is one, else as a new reference of the caller's. */
AL_API void al_scope_begin(al_ctx *c);
AL_API al_tensor *al_scope_end(al_ctx *c, al_tensor *keep);
/* Off: what ops return is the caller's again, though a scope is open: for code of somebody else
 * that is called from inside. Returns the old mode. */
AL_API bool al_scope_mode(al_ctx *c, bool on);

/* ---- autograd ------------------------------------------------------------------------------- */

AL_API void al_requires_grad(al_tensor *t, bool on); /* leaves only */
AL_API bool al_needs_grad(const al_tensor *t);
AL_API al_tensor *al_grad(const al_tensor *t);       /* borrowed; NULL before the first backward */
AL_API void al_set_grad(al_tensor *t, al_tensor *g); /* takes a reference of its own; NULL clears */
AL_API al_tensor *al_detach(al_ctx *c, al_tensor *t); /* new reference, same storage, no history */
/* For differences of a function that detaches: RECORD keeps a copy of each value that al_detach
 * returns, REPLAY returns those again from the first on (more of them, or another shape, is an
 * error), OFF drops them. */
typedef enum al_tape { AL_TAPE_OFF, AL_TAPE_RECORD, AL_TAPE_REPLAY } al_tape;
AL_API void al_detach_tape(al_ctx *c, al_tape mode);
AL_API bool al_grad_mode(al_ctx *c, bool on); /* returns the old mode; off records nothing */
/* Adds d t / d leaf to the gradient of each leaf that requires it and frees the graph. `seed` has
 * t's shape, or NULL for ones (t must then have one element). Gradients of bf16 tensors are f32,
 * the seed may be either. */
AL_API al_status al_backward(al_ctx *c, al_tensor *t, al_tensor *seed);

/* ---- options -------------------------------------------------------------------------------- */

/* One row declares an option once; parsing, defaults, help, completion and errors come from it.
 *   type      one or more AL_T_ bits (a union such as false | number | word is allowed)
 *   def       default as text: "-1", "false", "exp", "{0,1}", "" for none
 *   choices   words allowed, separated by spaces (AL_T_WORD)
 *   min, max  for numbers, inclusive; both 0: unbounded
 *   fields    rows of a record (AL_T_RECORD), whose first field may be given alone
 * A table of rows ends with {0}. */
enum {
  AL_T_BOOL = 1,
  AL_T_INT = 2,
  AL_T_NUM = 4,
  AL_T_WORD = 8,
  AL_T_LIST = 16, /* of numbers */
  AL_T_TEXT = 32, /* free text */
  AL_T_AXIS = 64, /* an axis, or with AL_T_LIST a list of axes: 1-based in Lua */
  AL_T_RECORD = 128,
  AL_T_NAMED = 256 /* numbers under names that the caller chooses: {t=1,u=0.5} */
};
typedef struct al_arg {
  const char *name;
  unsigned type;
  const char *def;
  const char *choices;
  double min, max;
  const char *doc;
  const struct al_arg *fields;
} al_arg;

typedef struct al_opts al_opts; /* values for a table of rows; reference-counted */
AL_API al_opts *al_opts_new(al_ctx *c, const al_arg *rows,
                            const char *owner); /* defaults; owner = name for errors */
AL_API al_opts *al_opts_copy(al_ctx *c, const al_opts *o);
AL_API void al_opts_release(al_opts *o);
AL_API const al_arg *al_opts_rows(const al_opts *o);
/* Setters: key is a name or a dotted path ("denominator.floor"). Unknown keys, kinds and ranges are
 * errors that name the nearest key and what was expected. Setting a record by bool, number or word
 * sets its first field. */
AL_API al_status al_opts_set_bool(al_ctx *c, al_opts *o, const char *key, bool v);
AL_API al_status al_opts_set_num(al_ctx *c, al_opts *o, const char *key, double v); /* ints too */
AL_API al_status al_opts_set_word(al_ctx *c, al_opts *o, const char *key, const char *v);
AL_API al_status al_opts_set_list(al_ctx *c, al_opts *o, const char *key, int n, const double *v);
/* All numbers of an AL_T_NAMED option; a dotted key (expr_params.t) sets one, beside the others. */
AL_API al_status al_opts_set_named(al_ctx *c, al_opts *o, const char *key, int n,
                                   const char *const *names, const double *v);
/* "causal=true axis=-1 orders={0,2} similarity=exp denominator.stat=length expr='log(1+exp(s))'";
 * in quotes, ' or ", a doubled one stands for one. */
AL_API al_status al_opts_parse(al_ctx *c, al_opts *o, const char *text);
AL_API bool al_opts_has(const al_opts *o, const char *key);   /* key exists */
AL_API bool al_opts_given(const al_opts *o, const char *key); /* set by a caller, not the default */
/* Getters; the key must exist in the table. A getter of another kind than the value's gives the
 * neutral answer: false, 0, "", an empty list. */
AL_API unsigned al_opt_kind(const al_opts *o,
                            const char *key); /* the AL_T_ bit of the value held */
AL_API bool al_opt_bool(const al_opts *o, const char *key);
AL_API int64_t al_opt_int(const al_opts *o, const char *key);
AL_API double al_opt_num(const al_opts *o, const char *key);
AL_API const char *al_opt_word(const al_opts *o,
                               const char *key); /* WORD or TEXT; lives as long as o */
AL_API bool al_opt_is(const al_opts *o, const char *key, const char *word);
/* Which of its row's choices the word is, from 0; -1 where something else than a word is held. An
 * enum in the order of the choices reads an option. */
AL_API int al_opt_choice(const al_opts *o, const char *key);
/* What `read` makes of the values, `size` bytes that begin as zeros: made at the first call, held
 * until a value is set. Always the same `read` for the same rows. NULL without memory. */
AL_API const void *al_opts_read(const al_opts *o, size_t size,
                                void (*read)(const al_opts *o, void *into));
/* How many numbers. Those of an AL_T_NAMED option are in the order of their names, which
 * al_opt_word gives, sorted, separated by spaces. */
AL_API int al_opt_list(const al_opts *o, const char *key, const double **v);
/* Canonical text of the options that differ from the defaults (all = every one), sorted as
 * declared; al_opts_parse reads it back. */
AL_API void al_opts_text(const al_opts *o, bool all, char *buf, size_t n);

/* ---- ops ------------------------------------------------------------------------------------ */

enum { AL_MAX_INPUTS = 64 }; /* of one op, members of a list counted, but where it joins them */
enum {                       /* input row flags */
       AL_IN_OPTIONAL = 1,
       AL_IN_NODIFF = 2,  /* no gradient flows to it */
       AL_IN_LIST = 4,    /* last input only: one or more tensors */
       AL_IN_I32 = 8,     /* must be i32 (else a floating type equal to the other inputs') */
       AL_IN_ANY = 16,    /* any dtype */
       AL_OUT_SAVED = 32, /* output row: kept for backward, not returned */
       AL_STAT = 64 /* either row: a statistic, of al_statistic_type of the other inputs' type */
};
typedef struct al_row {
  const char *name;
  unsigned flags;
  const char *doc;
} al_row;

typedef struct al_op_info { /* what a caller may know of an op */
  const char *name, *doc;
  const al_row *inputs, *outputs; /* end with {0} */
  const al_arg *args;
} al_op_info;

AL_API int al_op_count(void);
AL_API const al_op_info *al_op_at(int i);                         /* sorted by name */
AL_API const al_op_info *al_op_find(al_ctx *c, const char *name); /* NULL + nearest name */
/* Run an op. in[i] NULL = absent optional. opts NULL = defaults. out receives the visible outputs
 * (new references; n_out of them at most), all NULL on failure. */
AL_API al_status al_op_run(al_ctx *c, const al_op_info *op, al_tensor *const *in, int n_in,
                           al_opts *opts, al_tensor **out, int n_out);
/* The form for C: y = al_run(c, "matmul", AL_IN(a, b), "transpose_b=true alpha=%.17g", s);
 * returns the first visible output. Options as for al_opts_parse, after printf. */
AL_API al_tensor *al_run(al_ctx *c, const char *name, al_tensor *const *in, int n_in,
                         const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The same for ops of several outputs: the first n_out of them into out, all NULL on failure. */
AL_API al_status al_run_into(al_ctx *c, const char *name, al_tensor *const *in, int n_in,
                             al_tensor **out, int n_out, const char *fmt, ...)
    __attribute__((format(printf, 7, 8)));
#define AL_IN(...)                                                                                 \
  (al_tensor *const[]){__VA_ARGS__},                                                               \
      (int)(sizeof((al_tensor *const[]){__VA_ARGS__}) / sizeof(al_tensor *))

/* ---- expressions ---------------------------------------------------------------------------- */

/* A function of a logit s written as text: numbers, s, i and j (positions of row and key, counted
 * from 1), pi, named scalars, + - * / ^, parentheses and the functions exp expm1 log log1p sqrt abs
 * relu tanh sinh cosh sin cos erf sigmoid softplus min max. At a kink abs and relu have the
 * derivative 0, min and max that of their first argument. */
typedef struct al_expr al_expr;
/* Parsed, differentiated and checked against every limit; owned by the caller. names: the scalars
 * that may stand in it, separated by spaces. `owner` begins the error texts, which show the place.
 * c may be NULL: no error text. */
AL_API al_expr *al_expr_new(al_ctx *c, const char *owner, const char *text, const char *names);
AL_API void al_expr_free(al_expr *e);
AL_API const char *al_expr_text(const al_expr *e);                   /* as it was given */
AL_API bool al_expr_reads(const al_expr *e, const char *name);       /* stands this scalar in it? */
AL_API bool al_expr_positive(const al_expr *e);                      /* provably never below 0 */
AL_API bool al_expr_exponent(const al_expr *e, char *buf, size_t n); /* exp(g): true, g as text */
/* out[0] = value, out[1] = d/ds, out[2 + k] = d/d scalar k, in f64. */
AL_API void al_expr_eval(const al_expr *e, double s, double i, double j, const double *scalars,
                         double *out);
/* The same as a complete C function void name(s, i, j, t, y), in AL_REAL. Returns its length, as
 * snprintf does. */
AL_API size_t al_expr_c(const al_expr *e, const char *name, char *buf, size_t n);

/* ---- gradient check ------------------------------------------------------------------------- */

/* y = f(c, in, user) computes a scalar or any tensor from in[0..n) (f64 leaves) in a scope of the
 * caller's making. Compares reverse-mode gradients of sum(y * w), w fixed random, with central
 * differences. *worst = max |a-b| / (1 + |b|). Inputs that do not require a gradient are skipped.
 */
typedef al_tensor *(*al_fn)(al_ctx *c, al_tensor *const *in, int n, void *user);
AL_API al_status al_gradcheck(al_ctx *c, al_fn f, al_tensor *const *in, int n, void *user,
                              double step, double *worst);

/* ---- random numbers ------------------------------------------------------------------------- */

/* Philox4x32-10 streams: element i of stream (seed, name) is a pure function of the three. */
AL_API void al_seed(al_ctx *c, uint64_t seed);             /* for draws that name no stream */
AL_API uint64_t al_draw_key(al_ctx *c);                    /* next key of that sequence */
AL_API void al_seed_state(const al_ctx *c, uint64_t s[2]); /* seed and how many keys were drawn */
AL_API void al_seed_restore(al_ctx *c, const uint64_t s[2]);
AL_API uint64_t al_stream(uint64_t seed, const char *name);
AL_API al_status al_fill_uniform(al_tensor *t, uint64_t stream, double lo, double hi);
AL_API al_status al_fill_normal(al_tensor *t, uint64_t stream, double mean, double deviation);

/* ---- optimisers ----------------------------------------------------------------------------- */

typedef struct al_optim al_optim;
AL_API const al_arg *al_optim_args(al_ctx *c, const char *kind); /* "adamw", "sgd" */
AL_API al_optim *al_optim_new(al_ctx *c, const char *kind, al_opts *opts);
AL_API void al_optim_free(al_optim *o);
/* Retains p. The parameters are a set: a tensor that was added under another name stays as it is,
 * under its first name. Two tensors that lie in the same memory (views, detached ones) are refused:
 * each would get a part of the gradient. */
AL_API al_status al_optim_add(al_optim *o, const char *name, al_tensor *p, bool decay);
AL_API void al_optim_zero_grad(al_optim *o);
/* One update with this learning rate, queued where the parameters lie. *norm (may be NULL): the
 * global gradient norm before clipping, new, one number of f64. Where it is not finite nothing is
 * changed, no step is counted and AL_OK is returned: the caller looks at it when it likes. */
AL_API al_status al_optim_step(al_optim *o, double lr, al_tensor **norm);
/* The same behind a step whose norm nobody has read: where `after` is not finite, or NaN by the
 * one it came after, this one changes nothing either and its norm is NaN. NULL: behind none. */
AL_API al_status al_optim_step_after(al_optim *o, double lr, const al_tensor *after,
                                     al_tensor **norm);
AL_API int64_t al_optim_steps(const al_optim *o);
AL_API void al_optim_set_steps(al_optim *o, int64_t n);
/* State tensors for checkpoints: i-th name ("m.<param>", "v.<param>", of a parameter in bf16 its
 * f32 master "w.<param>") and tensor, borrowed; NULL past the end. */
AL_API al_tensor *al_optim_state(al_optim *o, int i, const char **name);

/* ---- files ---------------------------------------------------------------------------------- */

/* A path may have a border, "//": what stands before it is a folder (which may be a link), what
 * stands behind lies in it. Each part is opened below the one before it, no link is followed, ".."
 * is refused and files are regular files, so that a folder that somebody else made reaches nothing
 * outside itself. All functions that take a path know it. Without a border a path is what it is for
 * the system. */
typedef struct al_at {
  int fd;           /* folder of `name`, or AT_FDCWD */
  const char *name; /* borrowed from the path */
  int nofollow;     /* O_NOFOLLOW behind a border, else 0 */
} al_at;
AL_API bool al_at_open(al_at *at, const char *path); /* false: errno says why */
AL_API void al_at_close(al_at *at);                  /* keeps errno */
/* The path as messages have it, without the border: al_path_shown(path).text in the call. */
typedef struct al_shown {
  char text[4096];
} al_shown;
AL_API al_shown al_path_shown(const char *path);
/* open(2), close-on-exec; -1 and errno on failure. */
AL_API int al_file_open(const char *path, int flags, unsigned mode);
AL_API const char *al_file_reason(int err); /* strerror, with words for a link behind a border */

/* Writes a temporary file beside path, syncs, renames, syncs the folder. On failure path is
 * untouched. */
AL_API al_status al_file_write(al_ctx *c, const char *path, const void *data, size_t n);
AL_API al_status al_file_read(al_ctx *c, const char *path, size_t max, char **data,
                              size_t *n); /* free() it; NUL added */
AL_API al_status al_file_sha256(al_ctx *c, const char *path, char hex[65]); /* of its bytes */

/* safetensors. Reading checks the header to the byte: duplicate names, holes, overlaps, overflowing
 * sizes, absurd lengths, bytes after the end are refused with the name of what is wrong. */
typedef struct al_st al_st;
AL_API al_st *al_st_open(al_ctx *c, const char *path);
AL_API void al_st_close(al_st *s);
AL_API int al_st_count(const al_st *s);
AL_API const char *al_st_name(const al_st *s, int i);
/* Of tensor i as the file has it: the word for its type ("I64"), its axes and their sizes, and
 * whether al_st_tensor can load it: other types and more than AL_MAX_DIMS axes are listed only. */
AL_API const char *al_st_type(const al_st *s, int i);
AL_API int al_st_ndim(const al_st *s, int i);
AL_API int64_t al_st_size(const al_st *s, int i, int axis);
AL_API bool al_st_loads(const al_st *s, int i);
AL_API al_tensor *al_st_tensor(al_ctx *c, const al_st *s,
                               const char *name); /* new; F64 F32 BF16 I32 kept, F16 -> f32 */
AL_API int al_st_meta_count(const al_st *s);
AL_API const char *al_st_meta(const al_st *s, int i,
                              const char **value); /* key; NULL past the end */
/* The name of the tensor in the file to which metadata pair i gives its key as one more name, or
 * NULL: any other pair. */
AL_API const char *al_st_alias(const al_st *s, int i);
/* n tensors and n_meta key/value pairs (format=pt is added). Atomic like al_file_write. A tensor
 * under several names is written once, under the first of them in order; each other name becomes a
 * metadata pair (other name, first name). */
AL_API al_status al_st_save(al_ctx *c, const char *path, int n, const char *const *names,
                            al_tensor *const *tensors, int n_meta, const char *const *keys,
                            const char *const *values);

/* ---- token data ----------------------------------------------------------------------------- */

/* Language-model windows of a token sequence (1-D i32): x (B,T) and y (B,T) = x shifted by one.
 * Batch k is a pure function of (seed, k), row by row; starts are uniform over [lo, hi - T). */
AL_API al_status al_windows_random(al_ctx *c, const al_tensor *tokens, int64_t lo, int64_t hi,
                                   int64_t B, int64_t T, uint64_t seed, uint64_t k, al_tensor **x,
                                   al_tensor **y);
/* Fixed windows first, first + 1, ... of n_total spread evenly over [lo, hi). */
AL_API al_status al_windows_even(al_ctx *c, const al_tensor *tokens, int64_t lo, int64_t hi,
                                 int64_t B, int64_t T, int64_t first, int64_t n_total,
                                 al_tensor **x, al_tensor **y);

/* How a next token is chosen, in the order in which it counts: Hugging Face transformers' logits
 * processors. Each filter is told what the ones before it left, and leaves one token at least. */
typedef struct al_sampling {
  double repetition_penalty; /* > 0: divides positive logits of seen ids, times negative; 1: none */
  double temperature;        /* divides the logits; 0: the likeliest, of equals the lowest id */
  int64_t top_k;             /* none less likely than the k-th; 0: all */
  double top_p; /* in 0..1: the likeliest, to the first with which they have that share; 1: all */
  double min_p; /* in 0..1: none below this part of the likeliest's probability; 0: all */
} al_sampling;
/* The id of n logits, which are used up, for a number u of [0,1): the first, from the likeliest on,
 * with which the probabilities exceed u; AL_EVALUE names an id whose logit is no finite number.
 * seen: the ids that the penalty is for, each counted once. */
AL_API al_status al_next_token(al_ctx *c, const al_sampling *s, const int32_t *seen, int64_t n_seen,
                               double u, double *logits, int64_t n, int64_t *id);

/* A tokenizer of any kind: text to ids and back. kind names what the files are: "characters" (one
 * text: its distinct characters), "bytes" (none), "llama2c" (a table), "sentencepiece" (a .model),
 * "huggingface" (tokenizer.json), "gpt2" (merges; vocab.json), "tiktoken" (ranks; JSON of pattern
 * and special tokens), "tekken", "wordpiece" (vocab.txt). Nothing of the files is kept by
 * reference; their names are for messages. */
typedef struct al_vocab al_vocab;
typedef struct al_source {
  const char *name, *data;
  size_t n; /* bytes of data */
} al_source;
AL_API al_vocab *al_vocab_new(al_ctx *c, const char *kind, const al_source *files, int n_files);
AL_API void al_vocab_free(al_vocab *v);
AL_API int64_t al_vocab_size(const al_vocab *v); /* number of ids, 0 to this - 1 */
/* The bytes that an id stands for in a text (of a special one its name); NULL: there is none. */
AL_API const char *al_vocab_piece(const al_vocab *v, int64_t id, size_t *n);
AL_API int64_t al_vocab_id(const al_vocab *v, const char *piece, size_t n); /* -1: none */
/* The id of a role, "bos", "eos", "unk" or "pad"; -1: the tokenizer has none. */
AL_API int64_t al_vocab_known(const al_vocab *v, const char *role);
/* The i-th special token: its name of *n bytes and its id; NULL past the end. */
AL_API const char *al_vocab_special(const al_vocab *v, int64_t i, int64_t *id, size_t *n);
/* Trains a SentencePiece model on the lines of texts; args as its program takes them,
 * "--vocab_size=4096 --model_type=bpe ..". No line is left out: what the library would drop is
 * refused with its place. *model: its bytes, to be freed. */
AL_API al_status al_vocab_train(al_ctx *c, const char *args, const al_source *texts, int n_texts,
                                char **model, size_t *n_model);
enum {
  AL_ENCODE_SPECIAL = 1, /* special strings in the text are their ids; decode: and back */
  AL_ENCODE_PLAIN = 2    /* no start and end tokens around the text */
};
/* 1-D i32. Refuses what is not UTF-8 where the kind reads characters, with the place. */
AL_API al_tensor *al_vocab_encode(al_ctx *c, const al_vocab *v, const char *text, size_t n,
                                  int flags);
AL_API char *al_vocab_decode(al_ctx *c, const al_vocab *v, const int32_t *ids, int64_t n, int flags,
                             size_t *len); /* free() it; NUL added */

/* llama2.c's checkpoint (versions 0 and 1, float32): sizes, and tensors under Hugging Face names
 * (model.embed_tokens.weight, model.layers.0.self_attn.q_proj.weight, ..., lm_head.weight unless
 * tied). Query and key rows are as stored: rope pairs are adjacent (2i, 2i+1). */
typedef struct al_llama2c_config {
  int64_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len;
  bool tied; /* the output head is the embedding */
} al_llama2c_config;
typedef struct al_llama2c al_llama2c;
AL_API al_llama2c *al_llama2c_open(al_ctx *c, const char *path);
AL_API void al_llama2c_close(al_llama2c *m);
AL_API const al_llama2c_config *al_llama2c_sizes(const al_llama2c *m);
AL_API int al_llama2c_count(const al_llama2c *m);
AL_API const char *al_llama2c_name(const al_llama2c *m, int i); /* NULL past the end */
AL_API al_tensor *al_llama2c_tensor(al_ctx *c, const al_llama2c *m,
                                    const char *name); /* new, f32 */

/* ---- token sets ----------------------------------------------------------------------------- */

/* One sequence of token ids in files: format "llmc" (llm.c's shards, of any size) or "raw_u16", one
 * file after another; or in memory, put there one after another. Headers and sizes are checked
 * here, ids (below vocab) when they are read. A file that shrinks is an error of the reading. */
typedef struct al_shards al_shards;
AL_API al_shards *al_shards_open(al_ctx *c, int n, const char *const *paths, const char *format,
                                 int64_t vocab); /* new reference */
AL_API al_shards *al_shards_memory(al_ctx *c, int64_t vocab);
AL_API al_status al_shards_put(al_ctx *c, al_shards *s, const int32_t *ids, int64_t n);
AL_API void al_shards_release(al_shards *s);
AL_API int64_t al_shards_count(const al_shards *s); /* tokens */
AL_API al_status al_shards_read(al_ctx *c, const al_shards *s, int64_t at, int64_t n, int32_t *ids);
/* SHA-256 that stands for the contents: of all bytes of sets of up to 64 MiB, else of each file's
 * size and 16 blocks of 16 KiB, its first and last ones and others evenly between. */
AL_API al_status al_shards_hash(al_ctx *c, const al_shards *s, char hex[65]);

/* A shard of llm.c's that is there whole after commit, or not at all: ids of 16 bits, wide: 32. */
typedef struct al_shard_writer al_shard_writer;
AL_API al_shard_writer *al_shard_create(al_ctx *c, const char *path, bool wide);
AL_API al_status al_shard_put(al_ctx *c, al_shard_writer *w, const int32_t *ids, int64_t n);
AL_API int64_t al_shard_count(const al_shard_writer *w);
AL_API al_status al_shard_commit(al_ctx *c, al_shard_writer *w); /* frees w, as abort does */
AL_API void al_shard_abort(al_shard_writer *w);

/* Rows of T tokens of the positions [lo, hi) of a set, x and their targets y, i32 (B,T); `kind`:
 *   stream     row i is the tokens from lo + i T on; a tail shorter than T is left out
 *   packed     the same, and starts (B,T): of each token the place in its row where its document
 *              begins, at its latest `separator` or at the row's first token
 *   documents  each document from its separator on, in rows of its own: a longer one goes on in the
 *              next row; behind its end x is the separator and y is -100, which no loss counts. The
 *              target of its last token is the separator. This kind reads the range once, to find
 *              where documents begin. */
typedef struct al_rows al_rows;
typedef struct al_batch { /* new references; starts: NULL but where packed */
  al_tensor *x, *y, *starts;
} al_batch;
AL_API al_rows *al_rows_new(al_ctx *c, al_shards *s, int64_t lo, int64_t hi, const char *kind,
                            int64_t T, int32_t separator); /* retains s; separator: -1 = none */
AL_API void al_rows_free(al_rows *r);
AL_API int64_t al_rows_count(const al_rows *r);
/* Batch k = 0, 1, .. of all rows again and again, each time in an order of its own: a pure function
 * of (seed, k, B). A thread reads batch k + 1 meanwhile. */
AL_API al_status al_rows_shuffled(al_ctx *c, al_rows *r, int64_t B, uint64_t seed, int64_t k,
                                  al_batch *out);
/* Rows first, first + 1, .. of n_total spread evenly over all. */
AL_API al_status al_rows_even(al_ctx *c, al_rows *r, int64_t B, int64_t first, int64_t n_total,
                              al_batch *out);

/* Texts one after another, of a file or "-", standard input; gzip and zstd are found by content.
 * format "text": what lies between two marks `document_end` (NULL: the file is one), without the
 * end of the line that a mark alone on its line has; "jsonl": the string `field` of the object on
 * each line. Texts are UTF-8 and have at most 64 MiB, a line of jsonl too; what is not so is
 * refused with file, line and byte. Blank texts are passed over. */
typedef struct al_texts al_texts;
AL_API al_texts *al_texts_open(al_ctx *c, const char *path, const char *format, const char *field,
                               const char *document_end);
AL_API void al_texts_close(al_texts *t);
/* False at the end, or with the error pending. *text is good until the next call. */
AL_API bool al_texts_next(al_ctx *c, al_texts *t, const char **text, size_t *n);
/* Bytes of the file taken so far, and its size, -1 where that is not known. */
AL_API int64_t al_texts_taken(const al_texts *t, int64_t *size);
#endif
