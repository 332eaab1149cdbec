/* fuzz_expr.c: any bytes as an expression (libFuzzer): parsed, differentiated, compiled, evaluated
 * and printed, or refused with a place. What the programs of the kernels compute in f64 must be
 * what the graph gives, and f32 must run. The first byte picks the scalars.
 *
 * Mutations are libFuzzer's, and besides them whole words of the grammar put in. */
#include "fuzz.h"
#include "../../core/op.h"
#include "../../kernels/program.h"
#include <math.h>

static const char *const words[] = {"s",
                                    "i",
                                    "j",
                                    "t",
                                    "u",
                                    "pi",
                                    "1",
                                    "0",
                                    "-1",
                                    "2",
                                    "0.5",
                                    "1e9",
                                    "1e-9",
                                    "+",
                                    "-",
                                    "*",
                                    "/",
                                    "^",
                                    "^2",
                                    "^-0.5",
                                    "(",
                                    ")",
                                    ",",
                                    "exp(",
                                    "log(",
                                    "log1p(",
                                    "expm1(",
                                    "sqrt(",
                                    "abs(",
                                    "relu(",
                                    "tanh(",
                                    "sigmoid(",
                                    "softplus(",
                                    "sin(",
                                    "cos(",
                                    "min(",
                                    "max(",
                                    "erf(",
                                    "sinh(",
                                    "cosh(",
                                    "(s)",
                                    "exp(s)",
                                    "log(1+exp(s))",
                                    "s^2",
                                    "+s"};
enum { POINTS = 5 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  return fuzz_mutate(data, size, max, seed, FUZZ_WORDS(words), 1);
}

static bool close_to(double a, double b) {
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
  return a == b || fabs(a - b) <= 1e-9 * (fabs(a) + fabs(b)) + 1e-300;
}

/* One row of f64 and f32 through the kernels, forward and backward. */
static void run(al_ctx *c, const alk_program *p, const al_expr *e, const double *scalars) {
  static const double at[POINTS] = {-80, -0.7, 0, 1.3, 900};
  const alk_visible g = {.B = 1, .T = 1, .S = POINTS, .H = 1, .Hkv = 1, .offset = 6};
  const alk_weight_spec spec = {.clamp = INFINITY, .program = p, .scalars = scalars};
  double y[POINTS], ds[POINTS], dscalars[ALK_PROGRAM_SCALARS], out[2 + ALK_PROGRAM_SCALARS];
  const double one[POINTS] = {1, 1, 1, 1, 1};
  float s32[POINTS], y32[POINTS], ds32[POINTS];
  const float one32[POINTS] = {1, 1, 1, 1, 1};
  ALK_RUN(al_here(c, ALK_F64), program_fwd, &g, &spec, at, y);
  ALK_RUN(al_here(c, ALK_F64), program_bwd, &g, &spec, at, one, ds, dscalars);
  for (int k = 0; k < POINTS; k++) {
    al_expr_eval(e, at[k], 7, k + 1, scalars, out);
    if (!close_to(y[k], out[0]) || !close_to(ds[k], out[1])) abort();
    s32[k] = (float)at[k];
  }
  ALK_RUN(al_here(c, ALK_F32), program_fwd, &g, &spec, s32, y32);
  ALK_RUN(al_here(c, ALK_F32), program_bwd, &g, &spec, s32, one32, ds32, dscalars);
  if (al_error(c) != AL_OK) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const names[] = {"", "t", "t u", "t u v w a b c d", "t t", "2"};
  static const double scalars[ALK_PROGRAM_SCALARS] = {0.9, -1.4, 0, 2, 1e9, -1e-9, 3, 1};
  al_ctx *c = fuzz_ctx();
  char text[1024], code[200];
  if (size == 0 || size > sizeof text) return 0;
  const char *list = names[data[0] % 6];
  memcpy(text, data + 1, size - 1);
  text[size - 1] = 0;
  al_expr *e = al_expr_new(c, "fuzz", text, list);
  if (!e != (al_error(c) != AL_OK)) abort();
  if (!e) {
    if (strncmp(al_error_message(c, NULL, NULL), "fuzz: ", 6) != 0) abort();
    al_error_clear(c);
    return 0;
  }
  char exponent[600];
  al_expr_positive(e);
  if (al_expr_exponent(e, exponent, sizeof exponent)) {
    al_expr *inner = al_expr_new(c, "fuzz", exponent, list); /* what was printed parses */
    if (!inner) abort();
    al_expr_free(inner);
  }
  const size_t length = al_expr_c(e, "f", code, sizeof code); /* short: it counts on */
  char *whole = malloc(length + 1);
  if (!whole || al_expr_c(e, "f", whole, length + 1) != length || strlen(whole) != length) abort();
  free(whole);
  alk_program p;
  if (al_program_from(c, "fuzz", text, list, &p) == AL_OK) run(c, &p, e, scalars);
  al_error_clear(c);
  al_expr_free(e);
  return 0;
}
