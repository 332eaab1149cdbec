/* attn_slots.h: the functions of one number, the statistics and the norms, and what of them can
 * stand in the slots of attention: the enums, their words in options, and how a text writes them,
 * each once for kernels, ops and families. All follows from pointwise.def, statistics.def and
 * norms.def. */
#ifndef ALK_ATTN_SLOTS_H
#define ALK_ATTN_SLOTS_H
#include <stdbool.h>
#include <stddef.h>

/* ---- functions of one number ----------------------------------------------------------------- */

typedef enum alk_pointwise {
#define POINTWISE(name, ...) ALK_PW_##name,
#include "pointwise.def"
#undef POINTWISE
  ALK_PW_COUNT
} alk_pointwise;

/* In texts {x} stands for the argument, {a} and {b} for the parameters. */
typedef struct alk_function {
  const char *word, *torch, *latex;
  bool nonnegative;      /* never below 0 */
  const char *parameter; /* the option that is the first parameter, or "" */
} alk_function;

#define ALK_SIGN_NONNEGATIVE true
#define ALK_SIGN_ANY false
#define ALK_FIRST(x, ...) x
#define NUM(name, value, text) name
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  {#name, torch, latex, ALK_SIGN_##sign, ALK_FIRST(__VA_ARGS__ __VA_OPT__(, ) "")},
static const alk_function alk_functions[ALK_PW_COUNT] = {
#include "pointwise.def"
};
#undef POINTWISE
#undef NUM

/* An entry's `slots`, and what is kept of it for one kind. */
#define ALK_IF_MAP_MAP(x) x
#define ALK_IF_MAP_GATE(x)
#define ALK_IF_MAP_BOTH(x) x
#define ALK_IF_MAP_OP(x)
#define ALK_IF_GATE_MAP(x)
#define ALK_IF_GATE_GATE(x) x
#define ALK_IF_GATE_BOTH(x) x
#define ALK_IF_GATE_OP(x)
#define ALK_COMMA(x) x,

/* ---- feature maps: entries, and l2 (cpu/rows.h) ---------------------------------------------- */

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(ALK_COMMA(ALK_MAP_##name))
typedef enum alk_map {
#include "pointwise.def"
  ALK_MAP_l2,
  ALK_MAP_COUNT,
  ALK_MAP_expr = ALK_MAP_COUNT /* of families: an expression, which no kernel of attention reads */
} alk_map;
#undef POINTWISE

/* In the order of the enum. */
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(" " #name)
static const char alk_map_entries[] =
#include "pointwise.def"
    ;
static const char alk_map_kernels[] =
#include "pointwise.def"
    " l2";
static const char alk_map_families[] =
#include "pointwise.def"
    " l2 expr";
/* Entries alone; what kernels take; what families may take. */
#define ALK_MAP_ENTRIES (&alk_map_entries[1])
#define ALK_MAP_WORDS (&alk_map_kernels[1])
#define ALK_MAP_OR_EXPR (&alk_map_families[1])
#undef POINTWISE

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(ALK_COMMA(ALK_PW_##name))
/* Of a map other than an expression. */
static inline alk_function alk_map_text(alk_map map) {
  static const alk_pointwise entry[ALK_MAP_COUNT] = {
#include "pointwise.def"
  };
  const alk_function l2 = {"l2", "unit({x}, 1e-12)", "{x} / \\lVert {x} \\rVert", false, ""};
  return map == ALK_MAP_l2 ? l2 : alk_functions[entry[map]];
}
#undef POINTWISE

/* ---- activations of gates -------------------------------------------------------------------- */

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_GATE_##slots(ALK_COMMA(ALK_GATE_##name))
typedef enum alk_gate {
  ALK_GATE_none,
#include "pointwise.def"
  ALK_GATE_expr, /* an expression */
  ALK_GATE_COUNT
} alk_gate;
#undef POINTWISE

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_GATE_##slots(" " #name)
static const char alk_gate_words[] = "none"
#include "pointwise.def"
                                     " expr";
#undef POINTWISE

/* Of an activation that is an entry. */
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_GATE_##slots(ALK_COMMA(ALK_PW_##name))
static inline const alk_function *alk_gate_text(alk_gate gate) {
  static const alk_pointwise entry[ALK_GATE_COUNT] = {
      ALK_PW_COUNT, /* none */
#include "pointwise.def"
  };
  return &alk_functions[entry[gate]];
}
#undef POINTWISE

/* ---- statistics of weights ------------------------------------------------------------------- */

typedef enum alk_stat {
  ALK_STAT_none,
#define STATISTIC(word, ...) ALK_STAT_##word,
#include "statistics.def"
#undef STATISTIC
  ALK_STAT_COUNT
} alk_stat;
_Static_assert(ALK_STAT_sum == 1, "the ops that have none and sum alone read them as 0 and 1");

/* All but none, and with it, in the order of the enum; and what they are. */
#define STATISTIC(word, ...) " " #word
static const char alk_stat_words[] = "none"
#include "statistics.def"
    ;
#undef STATISTIC
#define STATISTIC(word, inner, p, outer, q, doc) "; " #word ": " doc
static const char alk_stat_doc[] = "W; none: nothing"
#include "statistics.def"
    ;
#undef STATISTIC

typedef struct alk_statistic {
  const char *word;
  alk_pointwise inner, outer;
  double p, q;
} alk_statistic;
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  [ALK_STAT_##word] = {#word, ALK_PW_##inner, ALK_PW_##outer, p, q},
static const alk_statistic alk_statistics[ALK_STAT_COUNT] = {
    [ALK_STAT_none] = {"none", ALK_PW_identity, ALK_PW_identity, 0, 0},
#include "statistics.def"
};
#undef STATISTIC

/* Whether the backward needs the inner sum beside W. */
static inline bool alk_stat_inner(alk_stat stat) {
  return alk_statistics[stat].outer != ALK_PW_identity;
}

/* ---- norms ----------------------------------------------------------------------------------- */

typedef enum alk_norm {
  ALK_NORM_none,
#define NORM(word, ...) ALK_NORM_##word,
#include "norms.def"
#undef NORM
  ALK_NORM_COUNT
} alk_norm;

#define NORM(word, ...) " " #word
static const char alk_norm_words[] = "none"
#include "norms.def"
    ;
#undef NORM

typedef struct alk_norm_row {
  const char *word;
  bool mean, gain, homogeneous;
  double eps; /* of attention */
  const char *latex, *torch;
} alk_norm_row;
#define ALK_MEAN_MEAN true
#define ALK_MEAN_PLAIN false
#define ALK_GAIN_GAIN true
#define ALK_GAIN_BARE false
#define ALK_HOMOGENEOUS_YES true
#define ALK_HOMOGENEOUS_NO false
#define NORM(word, mean, gain, homogeneous, op_eps, eps, doc, eps_doc, latex, torch)               \
  [ALK_NORM_##word] = {                                                                            \
      #word, ALK_MEAN_##mean, ALK_GAIN_##gain, ALK_HOMOGENEOUS_##homogeneous, eps, latex, torch},
static const alk_norm_row alk_norms[ALK_NORM_COUNT] = {
    [ALK_NORM_none] = {.word = "none"},
#include "norms.def"
};
#undef NORM
#endif
