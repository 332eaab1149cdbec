/* program.h: an expression of one logit as plain data, and its evaluation over rows of a tile.
 *
 *   y = p(s, i, j, t_0 ..)   with dy/ds and every dy/dt_k
 *
 * A register machine without jumps: an instruction runs over a whole row of entries before the next
 * one starts. A register holds one number an entry. What does not depend on s and j (constants,
 * scalars, i, and all that is made of them) is uniform: one number a row, computed beforehand.
 *
 * An operand below ALK_PROGRAM_UNIFORM is a register, register 0 being s itself, which nothing
 * writes; from there on it is a uniform. i and j are positions counted from 1.
 */
#ifndef ALK_PROGRAM_H
#define ALK_PROGRAM_H
#include "visible.h"

enum {           /* ORDER program: program.def, after the one that has no operand */
       ALK_PG_j, /* the positions of the row's keys */
#define PROGRAM(name, n, callable, value, text) ALK_PG_##name,
#include "program.def"
#undef PROGRAM
       ALK_PG_COUNT
};

enum {
  ALK_PROGRAM_LENGTH = 256,   /* instructions */
  ALK_PROGRAM_REGISTERS = 24, /* beside s */
  ALK_PROGRAM_UNIFORM = 128,  /* first operand that is a uniform */
  ALK_PROGRAM_UNIFORMS = 96,
  ALK_PROGRAM_SCALARS = 8,
  ALK_PROGRAM_LANES = 256 /* entries evaluated at once, at most */
};

typedef struct alk_instruction {
  uint8_t op, to, a, b, g;
} alk_instruction;

typedef struct alk_program {
  int n_scalars;
  int n_registers; /* with s */
  int n_uniforms;  /* 0: i; 1..n_scalars: the scalars; then constants; then what `prelude` makes */
  int n_prelude, n_value, n_code; /* instructions; code[0, n_value) give y alone */
  bool reads_i, reads_j;
  uint8_t value, slope, scalar[ALK_PROGRAM_SCALARS]; /* registers of y, dy/ds, dy/dt_k */
  alk_instruction prelude[ALK_PROGRAM_UNIFORMS], code[ALK_PROGRAM_LENGTH];
  double uniform[ALK_PROGRAM_UNIFORMS]; /* constants at their places */
} alk_program;

/* y (B,H,T,S) = p of the limited logits, hidden entries 0. Of spec, the limits, the program and its
 * scalars are read. */
ALK_KERNEL(program_fwd, const alk_visible *g, const alk_weight_spec *spec, const void *s, void *y)
/* ds (B,H,T,S), hidden entries 0, and dscalars (B,H,n_scalars), each head's part, either of which
 * may be NULL. An entry whose dy is 0 adds nothing, whatever its derivatives are. */
ALK_KERNEL(program_bwd, const alk_visible *g, const alk_weight_spec *spec, const void *s,
           const void *dy, void *ds, void *dscalars)
#endif
