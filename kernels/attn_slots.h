/* attn_slots.h: what can stand in the slots of attention that kernels compute: the enums, their words
 * in options, and how a text writes them, each once for kernels, ops and families. An entry of
 * pointwise.def with a slot is here by itself. */
#ifndef ALK_ATTN_SLOTS_H
#define ALK_ATTN_SLOTS_H
#include <stdbool.h>
#include <stddef.h>

/* A function of one number in texts: {x} stands for its argument, {a} and {b} for its parameters. */
typedef struct alk_function {
  const char *word, *torch, *latex;
  bool nonnegative; /* never below 0 */
} alk_function;

/* An entry's `slots`, and what is kept of it for one kind. */
#define ALK_IF_MAP_MAP(x) x
#define ALK_IF_MAP_GATE(x)
#define ALK_IF_MAP_BOTH(x) x
#define ALK_IF_MAP_OP(x)
#define ALK_IF_GATE_MAP(x)
#define ALK_IF_GATE_GATE(x) x
#define ALK_IF_GATE_BOTH(x) x
#define ALK_IF_GATE_OP(x)
#define ALK_SIGN_NONNEGATIVE true
#define ALK_SIGN_ANY false
#define ALK_COMMA(x) x,

/* ---- feature maps: entries, and l2 (cpu/rows.h) ---------------------------------------------- */

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(ALK_COMMA(ALK_MAP_##name))
typedef enum alk_map {
#include "pointwise.def"
  ALK_MAP_l2,
  ALK_MAP_COUNT
} alk_map;
#undef POINTWISE

/* In the order of the enum. */
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(" " #name)
static const char alk_map_words[] =
#include "pointwise.def"
    " l2";
#undef POINTWISE

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(ALK_MAP_ROW(name, torch, latex, sign))
#define ALK_MAP_ROW(name, torch, latex, sign)                                                      \
  [ALK_MAP_##name] = {#name, torch, latex, ALK_SIGN_##sign},
static const alk_function alk_maps[ALK_MAP_COUNT] = {
#include "pointwise.def"
    [ALK_MAP_l2] = {"l2", "unit({x}, 1e-12)", "{x} / \\lVert {x} \\rVert", false}};
#undef POINTWISE

/* ---- activations of gates -------------------------------------------------------------------- */

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_GATE_##slots(ALK_COMMA(ALK_GATE_##name))
typedef enum alk_gate {
  ALK_GATE_none,
#include "pointwise.def"
  ALK_GATE_COUNT
} alk_gate;
#undef POINTWISE

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_GATE_##slots(" " #name)
static const char alk_gate_words[] = "none"
#include "pointwise.def"
    ;
#undef POINTWISE

#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_GATE_##slots(ALK_GATE_ROW(name, torch, latex, sign))
#define ALK_GATE_ROW(name, torch, latex, sign)                                                     \
  [ALK_GATE_##name] = {#name, torch, latex, ALK_SIGN_##sign},
static const alk_function alk_gates[ALK_GATE_COUNT] = {
#include "pointwise.def"
};
#undef POINTWISE
#endif
