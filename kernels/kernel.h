/* kernel.h: what every kernel contract shares: element types, strided views, how one is chosen.
 *
 * A CPU kernel source is compiled once per element type (ALK_REAL = float, double) and, for float,
 * once per instruction set; ALK_KERNEL declares all of them and a selector by place. Of a contract
 * and of the data it points to, what is `void *` lies at the place (on a device: in its memory); a
 * pointer with a type is read on the host before the call returns. Kernels know no tensors and
 * allocate nothing. Sizes, strides and index products are int64_t; strides count elements. In
 * bf16, which devices alone have, arithmetic is f32, and so is what a contract calls a statistic
 * or a sum. Unless a contract says otherwise, outputs are written (=), inputs may not alias
 * outputs, and results do not depend on the number of threads.
 */
#ifndef ALK_KERNEL_H
#define ALK_KERNEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define ALK_BOTH __host__ __device__ /* on the card, too */
#else
#define ALK_BOTH
#endif

/* ORDER dtype: dtype.c has names and sizes in this order. */
typedef enum alk_dtype { ALK_F64, ALK_F32, ALK_BF16, ALK_I32 } alk_dtype;
enum { ALK_DTYPES = ALK_I32 + 1 };

#define ALK_MAX_DIMS 8

typedef struct alk_view {
  void *data;
  int64_t size[ALK_MAX_DIMS], stride[ALK_MAX_DIMS];
  int ndim;
  alk_dtype dtype;
} alk_view;

/* Instruction sets a float kernel is compiled for. */
typedef enum alk_isa { ALK_ISA_BASE, ALK_ISA_V3, ALK_ISA_V4, ALK_ISAS } alk_isa;
alk_isa alk_cpu_best(void); /* that this machine runs */
alk_isa alk_cpu_isa(void);  /* that kernels use: the best, or a lower one by alk_isa_use */
const char *alk_isa_name(alk_isa isa); /* "x86-64", "x86-64-v3", "x86-64-v4" */
/* From now on kernels and products use this set, by its name or without "x86-64-". Returns it, or
 * ALK_ISAS for a name of none; one above the machine's best changes nothing. */
alk_isa alk_isa_use(const char *name);

#if defined(__x86_64__) && !defined(ALK_ONE_ISA) /* by the build: the base set alone */
#define ALK_PICK(name)                                                                             \
  (alk_cpu_isa() == ALK_ISA_V4   ? alk_##name##_f32_v4                                             \
   : alk_cpu_isa() == ALK_ISA_V3 ? alk_##name##_f32_v3                                             \
                                 : alk_##name##_f32)
#else
#define ALK_PICK(name) alk_##name##_f32
#endif

/* What a kernel says when its work is queued or done. */
typedef enum alk_status { ALK_OK, ALK_FAILED } alk_status;

/* The CPU, and what brings a table of its own kernels (table.h). */
typedef enum alk_device { ALK_CPU, ALK_CUDA, ALK_PRETENDED, ALK_DEVICES } alk_device;

/* Where a kernel runs and on which numbers. On a device work is put into the queue; the CPU has
 * none (NULL) and is done when the call returns. */
typedef struct alk_place {
  alk_dtype dtype;
  alk_device device;
  int threads; /* of the CPU, at most */
  void *queue;
} alk_place;

/* Declares alk_<name>_f64, alk_<name>_f32 (and its _v3, _v4 builds), whose first parameter is the
 * place, and alk_<name>(at), which returns the right one, NULL where there is none.
 * alk_<name>_has(at): does a device bring one for that type? */
#define ALK_AT(name, ret, ...)                                                                     \
  typedef ret (*alk_##name##_fn)(const alk_place *at, __VA_ARGS__);                                \
  ret alk_##name##_f64(const alk_place *at, __VA_ARGS__);                                          \
  ret alk_##name##_f32(const alk_place *at, __VA_ARGS__);                                          \
  ret alk_##name##_f32_v3(const alk_place *at, __VA_ARGS__);                                       \
  ret alk_##name##_f32_v4(const alk_place *at, __VA_ARGS__);                                       \
  alk_##name##_fn alk_##name##_slot(const alk_place *at); /* table.h */                            \
  bool alk_##name##_has(const alk_place *at);                                                      \
  static inline alk_##name##_fn alk_##name(const alk_place *at) {                                  \
    return at->device != ALK_CPU  ? alk_##name##_slot(at)                                          \
           : at->dtype == ALK_F64 ? alk_##name##_f64                                               \
           : at->dtype == ALK_F32 ? ALK_PICK(name)                                                 \
                                  : NULL;                                                          \
  }
#define ALK_KERNEL(name, ...) ALK_AT(name, alk_status, __VA_ARGS__)
/* Room of kernel `name` at that place, in bytes: one block that the caller hands over. Whatever is
 * void * in its parameters is not read. */
#define ALK_ROOM(name, ...) ALK_AT(name##_room, int64_t, __VA_ARGS__)
/* A kernel that is compiled once and takes numbers of any type: alk_<name>_any. */
#define ALK_ANY(name, ...)                                                                         \
  typedef alk_status (*alk_##name##_fn)(const alk_place *at, __VA_ARGS__);                         \
  alk_status alk_##name##_any(const alk_place *at, __VA_ARGS__);                                   \
  alk_##name##_fn alk_##name##_slot(const alk_place *at);                                          \
  static inline alk_##name##_fn alk_##name(const alk_place *at) {                                  \
    return at->device != ALK_CPU ? alk_##name##_slot(at) : alk_##name##_any;                       \
  }

/* Parts of CPU kernels, which run on the thread that calls them: params in parentheses;
 * alk_<name>(dtype) returns the function, dtype must be ALK_F32 or ALK_F64. */
#define ALK_PART(name, ret, params)                                                                \
  typedef ret(*alk_##name##_fn) params;                                                            \
  ret alk_##name##_f64 params;                                                                     \
  ret alk_##name##_f32 params;                                                                     \
  ret alk_##name##_f32_v3 params;                                                                  \
  ret alk_##name##_f32_v4 params;                                                                  \
  static inline alk_##name##_fn alk_##name(alk_dtype dtype) {                                      \
    return dtype == ALK_F64 ? alk_##name##_f64 : ALK_PICK(name);                                   \
  }

/* In kernels/cpu/<op>.c: alk_status ALK_NAME(softmax_fwd)(at, ...). The build defines ALK_REAL,
 * ALK_SUFFIX. */
#define ALK_PASTE_(a, b) alk_##a##b
#define ALK_PASTE(a, b) ALK_PASTE_(a, b)
#define ALK_NAME(name) ALK_PASTE(name, ALK_SUFFIX)

/* Number of elements of a view. */
static inline int64_t alk_numel(const alk_view *v) {
  int64_t n = 1;
  for (int i = 0; i < v->ndim; i++) n *= v->size[i];
  return n;
}
#endif
