/* fuzz_opts.c: any text as options (libFuzzer), of the ops, the optimisers and the families of
 * attention, which byte 0 picks: refused with a reason, or printed as a text that reads back as the
 * same options and prints the same. */
#include "fuzz.h"
#include "../../attention/attn.h"

static const char *const words[] = {" ",
                                    ",",
                                    "=",
                                    "axis=",
                                    "axes={1,2}",
                                    "true",
                                    "false",
                                    "none",
                                    "{0,1}",
                                    "(1,-1)",
                                    "{",
                                    "}",
                                    "'",
                                    "\"",
                                    "''",
                                    "'a'",
                                    "expr=",
                                    "expr='s'",
                                    "similarity=expr ",
                                    "order=",
                                    "orders={0,2}",
                                    "denominator=",
                                    "denominator.",
                                    "stat=",
                                    "floor=",
                                    "power=",
                                    "expr_params={t=1}",
                                    "expr_params.t=",
                                    "map_params.u=2",
                                    "input_gate=",
                                    "output_norm.kind=rms",
                                    "logit_scale=",
                                    "learned",
                                    "nan",
                                    "inf",
                                    "1e400",
                                    "-1",
                                    "0x10",
                                    "9007199254740993",
                                    "betas={0.9,0.95}",
                                    "offset=",
                                    "causal="};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  return fuzz_mutate(data, size, max, seed, FUZZ_WORDS(words), 1);
}

static const al_arg *rows_of(al_ctx *c, int k) {
  const int ops = al_op_count(), families = attn_family_count();
  k %= ops + families + 2;
  if (k < ops) return al_op_at(k)->args;
  if (k < ops + families) return attn_family_at(k - ops)->options;
  return al_optim_args(c, k == ops + families ? "adamw" : "sgd");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  al_ctx *c = fuzz_ctx();
  static char text[4096], first[1 << 15], second[1 << 15];
  if (size < 1 || size > sizeof text) return 0;
  memcpy(text, data + 1, size - 1);
  text[size - 1] = 0;
  const al_arg *rows = rows_of(c, data[0]);
  al_opts *o = al_opts_new(c, rows, "fuzz"), *again = al_opts_new(c, rows, "fuzz");
  HOLDS(o && again);
  if (al_opts_parse(c, o, text) == AL_OK) {
    for (int all = 0; all < 2; all++) {
      al_opts_text(o, all, first, sizeof first);
      if (al_opts_parse(c, again, first) != AL_OK) {
        fprintf(stderr, "printed: %s\n%s\n", first, al_error_message(c, NULL, NULL));
        abort();
      }
      al_opts_text(again, all, second, sizeof second);
      HOLDS(strcmp(first, second) == 0);
    }
    al_opts_text(o, true, first, size % 64); /* cut short, not overrun */
    HOLDS(size % 64 == 0 || strlen(first) < size % 64);
  }
  HOLDS(al_error(c) == AL_OK || strncmp(al_error_message(c, NULL, NULL), "fuzz: ", 6) == 0);
  al_error_clear(c);
  al_opts_release(o);
  al_opts_release(again);
  return 0;
}
