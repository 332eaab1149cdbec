/* expr.h: expressions of a logit as a graph of nodes: what parser, derivatives and compiler share.
 *
 * Nodes are hash-consed: equal ones are one, and each stands after its operands, so every pass is a
 * loop over indices. Sizes are fixed, and whatever exceeds them is refused.
 */
#ifndef AL_EXPR_H
#define AL_EXPR_H
#include "core.h"
#include "../kernels/program.h"

enum {
  AL_EXPR_TEXT = 480, /* characters; an option given as text holds 511 */
  AL_EXPR_DEPTH = 64, /* parentheses, signs and powers inside one another */
  AL_EXPR_NODES = 2048,
  AL_EXPR_HASH = 4096,
  AL_EXPR_NAME = 31, /* letters of a scalar's name */
  AL_EXPR_OUTPUTS = 2 + ALK_PROGRAM_SCALARS
};

enum { /* kinds of node beside the instructions */
       AL_EXPR_CONST = ALK_PG_COUNT,
       AL_EXPR_S,
       AL_EXPR_I,
       AL_EXPR_SCALAR /* a = which */
};

typedef struct al_expr_node {
  uint8_t op;
  int16_t a, b, g; /* operands; -1 */
  double value;    /* of a constant */
} al_expr_node;

struct al_expr {
  char text[AL_EXPR_TEXT + 1];
  int n_names;
  char names[ALK_PROGRAM_SCALARS][AL_EXPR_NAME + 1];
  bool reads[ALK_PROGRAM_SCALARS]; /* written in the text */
  int root;                        /* of the text */
  int out[AL_EXPR_OUTPUTS];        /* its value and derivatives */
  int inner, from, to;             /* where the root is exp(g): g and its place in text; else -1 */
  int n;
  bool full; /* a node did not fit; nodes made since are void */
  al_expr_node node[AL_EXPR_NODES];
  int16_t hash[AL_EXPR_HASH]; /* node + 1 */
};

/* A node of that kind, simplified: constants folded, x + 0, x 1, x 0, x^1 and the like gone. */
int al_expr_make(al_expr *e, int op, int a, int b, int g);
int al_expr_const(al_expr *e, double value);
int al_expr_leaf(al_expr *e, int op, int which);
static inline bool al_expr_is(const al_expr *e, int n, double value) {
  return e->node[n].op == AL_EXPR_CONST && e->node[n].value == value;
}
/* Value of one instruction in f64. */
double al_expr_apply(int op, double a, double b, double g);
/* out[0] = root, out[1] = d root / ds, out[2 + k] = d root / d scalar k, with powers written as
 * products where they are short. False where they do not fit. */
bool al_expr_derive(al_expr *e, int root, int *out);
/* Marks what `out` depends on in live[0, e->n). */
void al_expr_live(const al_expr *e, const int *out, int n_out, bool *live);
/* The program of a node of the text (e->root, e->inner). `owner` for errors. */
al_status al_expr_program(al_ctx *c, const char *owner, al_expr *e, int root, alk_program *p);
/* Parsed, and no more. */
al_expr *al_expr_parse(al_ctx *c, const char *owner, const char *text, const char *names);
#endif
