/* core.h: what the core files share and nobody else sees: context, storages, tensors, graph
 * nodes. */
#ifndef AL_CORE_H
#define AL_CORE_H
#include "device.h"

typedef struct al_block al_block;

typedef struct al_storage {
  int64_t refs, bytes;
  al_device *device;
  al_block *block;
  void *data;
  uint64_t writes; /* how often it was written to after it was made */
  int64_t ends;    /* of one that grows: entries of axis 1 that were given out; else 0 (grow.c) */
} al_storage;

typedef struct al_node al_node;

struct al_tensor {
  al_ctx *ctx;
  int64_t refs;
  al_storage *storage;
  int64_t offset; /* elements */
  al_dtype dtype;
  int ndim;
  int64_t shape[AL_MAX_DIMS], stride[AL_MAX_DIMS];
  bool requires_grad; /* leaf whose gradient is wanted */
  al_tensor *grad;
  al_node *node;    /* what made it; NULL for a leaf */
  int node_out;     /* which output of the node it is */
  uint64_t read_at; /* of what a graph keeps: storage->writes when it was read */
};

/* One recorded op. It holds what its backward reads and where gradients go, nothing else; edges
 * point to earlier nodes or to leaves, never forward, so plain reference counts suffice. */
typedef struct al_edge {
  al_node *node; /* the input's node, or NULL */
  int out;
  al_tensor *leaf; /* or a leaf that requires a gradient */
} al_edge;

struct al_node {
  al_ctx *ctx;
  int64_t refs;
  uint64_t seq; /* creation order: consumers have larger numbers */
  const al_op *op;
  al_opts *opts;
  void *plan;
  bool narrow; /* ran in bf16 */
  int n_in, n_out;
  al_meta *in_meta, *out_meta;
  al_edge *edges;
  al_tensor **saved_in, **saved_out;
  al_tensor **grads; /* gradients of the outputs, while a backward runs */
  bool spent;        /* its backward ran; what it held is gone */
  bool marked;
  al_node *next; /* work lists */
};

enum { AL_DEVICES = 12 };
enum { AL_MAX_SCOPES = 64 };

struct al_ctx {
  al_status error;
  char message[1024];
  const char *running; /* the op that runs, or NULL */
  al_turn turn;        /* whose turn it is, or nobody's */
  const char *error_file;
  int error_line;
  int axis_base;                    /* of axes in error texts */
  al_device cpu, counting, *device; /* the current one */
  al_device *devices[AL_DEVICES];   /* all, NULL behind the last */
  int64_t fail_at;
  bool poison;
  al_place places[ALK_DTYPES];
  double jitter; /* see al_jitter */
  uint64_t jitter_at;
  bool record; /* grad mode */
  uint64_t seq;
  /* open scopes: one stack of tensors, marks say where each scope begins */
  al_tensor **pool;
  int64_t n_pool, pool_cap;
  int64_t marks[AL_MAX_SCOPES];
  int n_marks;
  bool scope_off; /* inside an op: what it makes is its own */
  uint64_t seed, drawn;
  al_tape tape_mode; /* what al_detach does besides */
  al_tensor **tape;
  int64_t n_tape, tape_at;
};

/* alloc.c */
al_storage *al_storage_new(al_ctx *c, al_device *d, int64_t bytes);
void al_storage_release(al_storage *s);
/* The context ends: what it keeps goes back. What a device has of the system it keeps for the next
 * context, as a card takes its time to map memory. */
void al_memory_end(al_ctx *c);
int64_t al_memory_of_host(void); /* bytes; 0: not known */
/* Another storage of the same data, which is copied when either is first written. Whoever writes
 * into a tensor that was there before calls al_storage_own before it takes the data's address: it
 * counts the write, too. */
al_storage *al_storage_fork(al_ctx *c, const al_storage *s);
bool al_storage_shared(const al_storage *s);
al_status al_storage_own(al_ctx *c, al_storage *s);
/* Zeroed host memory for bookkeeping; counts for al_memory_fail_at. free() it. */
void *al_calloc(al_ctx *c, int64_t n, size_t size);

/* tensor.c */
/* The most elements of a shape, its sizes of 0 taken as 1: every product of sizes, in any order and
 * times the bytes of an element, is exact in int64_t, and every size in a double. */
#define AL_MAX_NUMEL ((int64_t)1 << 53)
al_status al_shape_check(al_ctx *c, const char *owner, int ndim, const int64_t *shape);
al_tensor *al_tensor_alias(al_ctx *c, const al_tensor *t); /* same storage, no history */
al_meta al_meta_of(const al_tensor *t);
/* *t, which it takes, as a packed copy of that type where it is of another; NULL stays NULL. */
al_status al_retype(al_ctx *c, al_tensor **t, al_dtype dtype);
/* What al_jitter asks for, of a packed tensor of numbers whose storage is its own. */
void al_jitter_apply(al_ctx *c, al_tensor *t);

/* scope.c */
al_tensor *al_scope_own(al_ctx *c,
                        al_tensor *t); /* hand a new reference to the open scope, if any */

/* autograd.c */
/* Takes the plan. origin: inputs as the caller passed them; made: outputs before they were rounded,
 * which the backward reads. */
al_status al_record(al_ctx *c, al_call *k, al_tensor *const *origin, al_tensor *const *made);
void al_node_release(al_node *n);

/* op.c */
al_status al_op_check_table(al_ctx *c); /* names are unique, and there was room for all */

/* opts.c */
al_opts *al_opts_retain(const al_opts *o);
#endif
