/* op.h: the op descriptor, for core/ops/ and the tests: one op, one place.
 *
 * From a descriptor come the C call, the Lua function and method, help, completion, error texts,
 * the gradient check and the CPU = CUDA test. A file core/ops/<stem>.c ends with AL_OPS(<stem>,
 * &op_a, &op_b) and the build finds it by its name.
 */
#ifndef AL_OP_H
#define AL_OP_H
#include "attnlab.h"
#include "../kernels/kernel.h"

typedef struct al_device al_device;

typedef struct al_meta { /* what an output will be, or what an input was */
  al_device *device;     /* NULL: the context's current one */
  al_dtype dtype;
  int ndim;
  int64_t shape[AL_MAX_DIMS];
} al_meta;

/* One run of an op. In forward: in, out, opts. In backward: in and out hold only what the
 * descriptor declares as read (else NULL), in_meta is always filled; dout[i] is NULL where no
 * gradient came; din[i] must be set to a new reference for every i with need[i]. All tensors
 * handed to forward and backward are contiguous unless the op has AL_OP_STRIDED. Inputs of bf16
 * are f32, but for those of any type, unless the op runs in bf16 (`bf16` below): then dout is
 * bf16, too, but for statistics, and a din bf16 or, better for what is summed over much, f32. */
typedef struct al_call {
  const struct al_op *op;
  bool narrow; /* runs in bf16 */
  al_opts *opts;
  void *plan; /* what shape derived from options and shapes, for forward and backward; it may point
                 into itself and holds no address of a tensor's numbers: other ones may come */
  int n_in, n_out; /* n_in counts list members one by one */
  al_tensor **in, **out;
  al_meta *in_meta, *out_meta;
  al_tensor **dout, **din;
  bool *need;
  bool recorded; /* forward: a backward may follow */
  /* backward: sum[i] NULL, or the gradient input i has so far, packed, of a type that din[i] may
   * have and seen by nobody else: adding to it and giving a reference as din[i] saves a pass */
  al_tensor **sum;
} al_call;

/* A case for check_ops: inputs as shapes, one word an input, and options.
 *   "(2,3) (3)"    uniform in [lo, hi] (lo = hi = 0: N(0,1));  "-" absent optional
 *   "i(4,5)<7"     i32 below 7;  "d(3)" i32 3, 2, 1;  "p(3)" uniform in [0.5, 1.5]
 *   "(2,3)t"       stored with its last two axes swapped (a strided view)
 * exempt: why the gradient of this case is not checked (counted and printed), else NULL. */
typedef struct al_sample {
  const char *inputs, *args;
  double lo, hi;
  const char *exempt;
} al_sample;

enum {
  AL_OP_STRIDED = 1, /* takes inputs with any strides */
  AL_OP_VIEW = 2,    /* forward makes out[] itself (shares storage with an input) */
  AL_OP_RANDOM = 4,  /* forward draws a key when opts has key < 0; the drawn key is set in opts */
  AL_OP_JOINS = 8    /* its one input is a list, and f(f(a, b), f(c)) is f(a, b, c): lists of any
                      * length are taken in parts of AL_MAX_INPUTS */
};

typedef bool (*al_has)(const alk_place *at); /* alk_<kernel>_has: is it there for that type? */
#define AL_KERNELS(...) ((const al_has[]){__VA_ARGS__, NULL})

typedef struct al_op {
  al_op_info info;
  unsigned flags;
  /* Where the place brings all of these for bf16, the op runs in it: they are what forward and
   * backward call. Elsewhere, or with NULL, it is composed of f32 (op.c). */
  const al_has *bf16;
  /* Checks inputs and options, fills out_meta and the plan: plan_size bytes that begin as zeros. */
  al_status (*shape)(al_ctx *c, al_call *k);
  al_status (*forward)(al_ctx *c, al_call *k);
  /* NULL: not differentiable. Runs with recording off. */
  al_status (*backward)(al_ctx *c, al_call *k);
  size_t plan_size;
  unsigned reads_in, reads_out; /* bit i: backward reads in[i], out[i] (a list is its first bit) */
  const al_sample *samples;     /* end with {0} */
} al_op;

#define AL_OPS(stem, ...) const al_op *const al_ops_##stem[] = {__VA_ARGS__, NULL}

/* Where kernels run on numbers of that type, and whose error a failure is. */
typedef struct al_place {
  alk_place k;
  al_device *device;
  al_ctx *c;
} al_place;
const al_place *al_here(al_ctx *c, alk_dtype dtype);    /* of the context's current device */
const al_place *al_where(const al_tensor *t);           /* where t lies, with its type */
bool al_shares(const al_tensor *a, const al_tensor *b); /* both look at one storage */
bool al_at_hand(const al_tensor *t); /* what t holds is had without waiting for a queue */
/* Runs a kernel at an al_place, which goes to it first. A failure, or that there is no such kernel,
 * is the context's error, with the kernel's name; the status is al_error's. */
#define ALK_RUN(at, name, ...)                                                                     \
  (!al_runs(at)           ? al_error((at)->c)                                                      \
   : alk_##name(&(at)->k) ? al_ran(at, #name, alk_##name(&(at)->k)(&(at)->k, __VA_ARGS__))         \
                          : al_no_kernel(at, #name))
/* False where nothing runs: an error is pending, or the device only counts. */
bool al_runs(const al_place *at);
al_status al_ran(const al_place *at, const char *kernel, alk_status st);
al_status al_no_kernel(const al_place *at, const char *kernel);
/* The bytes that a kernel asks for; 0 with the error pending. AL_ROOM: a block of them, or NULL. */
#define AL_BYTES(at, name, ...)                                                                    \
  (alk_##name##_room(&(at)->k) ? alk_##name##_room(&(at)->k)(&(at)->k, __VA_ARGS__)                \
                               : (al_no_kernel(at, #name), 0))
#define AL_ROOM(at, name, ...) al_room_new(at, AL_BYTES(at, name, __VA_ARGS__))
al_tensor *al_room_new(const al_place *at, int64_t bytes);

/* Note work on the current device: al_work_done. */
void al_count(al_ctx *c, int64_t multiply_adds);
void al_count_bytes(al_ctx *c, int64_t n);

/* A kernel view of a tensor. */
alk_view al_view(const al_tensor *t);
/* New contiguous tensor with that meta: for gradients. Contents undefined. */
al_tensor *al_new_meta(al_ctx *c, const al_meta *m);
al_tensor *al_new_meta_full(al_ctx *c, const al_meta *m, double value);
/* New reference to t itself when contiguous, else to a contiguous copy. */
al_tensor *al_contiguous_ref(al_ctx *c, al_tensor *t);
/* New reference to t itself where it is packed and nobody else sees it, so that backward may write
 * over it, else a new tensor like it. For gradients of outputs. */
al_tensor *al_overwrite(al_ctx *c, al_tensor *t);
/* The same of an input that the graph keeps, k->in[i], which is NULL from then on. For gradients of
 * inputs, where a kernel reads all of a number's own before it writes it. */
al_tensor *al_take_over(al_ctx *c, al_tensor **t);
/* New tensor with that meta, contents undefined, with room for `capacity` entries on its axis 1:
 * al_growing_more gives it `more` there. NULL without an error where it cannot (grow.c). */
al_tensor *al_growing_new(al_ctx *c, const al_meta *m, int64_t capacity);
al_tensor *al_growing_more(al_ctx *c, const al_tensor *t, int64_t more);
/* New view of t's storage; offset in elements, relative to t's first element. No history. */
al_tensor *al_tensor_view(al_ctx *c, const al_tensor *t, int ndim, const int64_t *shape,
                          const int64_t *stride, int64_t offset);
/* Resolves a 0-based, possibly negative axis against ndim; error names the op. */
al_status al_axis(al_ctx *c, const al_call *k, const char *key, int ndim, int *axis);
/* Checks input i, packed i32 or absent, which may then be another tensor in k->in: each number
 * lies in 0..hi, or is `other` where the option of that name, `besides` (or NULL), allows it. */
al_status al_check_ids(al_ctx *c, al_call *k, int i, int64_t hi, const char *besides,
                       int64_t other);
/* "(2,8,64)" */
const char *al_meta_str(const al_meta *m, char *buf, size_t n);
/* The program (kernels/program.h) of an expression with the scalars `names`, separated by spaces.
 * `owner` begins the errors. */
struct alk_program;
al_status al_program_from(al_ctx *c, const char *owner, const char *text, const char *names,
                          struct alk_program *p);
const al_op *const *al_op_table(int *n); /* sorted by name; for the tests */
#define AL_STR(t) al_shape_str((t), (char[96]){0}, 96)
#endif
