/* check_driver.c: the conformance driver can fail. Each source of tests/broken/ has one fault, and
 * the driver names it; the sound one passes. */
#include "../attention/check.h"
#include <check.h>
#include <stdio.h>
#include <string.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#else
#define __lsan_disable() ((void)0)
#endif

/* says: what a failed row of that check must hold. only: no other check may fail. */
static const struct {
  const char *stem, *check, *says;
  bool only;
} broken[] = {
    {"wrong_shape", "sizes",
     "heads 1, kv_heads 1, head_dim 1, value_dim 2: attention: family wrong_shape: forward must "
     "return f64 of shape (",
     false},
    {"no_result", "forms", "family no_result: forward returned NULL and no error", false},
    {"looks_ahead", "causality",
     "looks ahead: the output at token 129 changes when tokens from 130", false},
    {"row_sums", "rowsum1", "claims weights that sum to one, but v = 3 everywhere gives", true},
    {"gate_gradient", "gradient", "the gradient of parameter gate.weight is wrong", false},
    {"no_denominator", "forms", "a denominator or another factor a row is lost", false},
    {"no_denominator", "forms", "the state (numerator, count) does not hold all", false},
    {"state_grows", "state bytes", "the state grows: declared to stay at", true},
    {"after_300", "forms", "from token 301 on (of 500)", true},
    {"batch_leaks", "batch rows", "batch rows leak: row 1 changes at token 1 when row 2 holds NaN",
     false},
    {"padding_leaks", "padding", "padding leaks", false},
    {"short_row", "documents", "is not that of rows of their own", true},
    {"hidden_gradient", "hidden gradient",
     "the gradient of x at token 42 of row 2, which is padding, is", false},
    {"f32_far", "forms", "f32 is 0.001 from f64 from token 1 on", false},
    {"state_changed", "state", "changes the state that it was given", false},
    {"wrong_bytes", "state bytes", "state_bytes declares", true},
    {"not_repeatable", "two runs", "not deterministic: the same call twice differs at token 1",
     false},
    {"history_cut", "gradient", "differs from that of 'whole' in f64", false},
    {"shift_claim", "shift_invariant", "claims that one vector added to every key changes nothing",
     true},
    {"keeps_reference", "ways to run it", "were not released", false},
    {"naive_exp", "scores", "take the row maximum out before exp", true},
    {"tap_lost", "taps", "tap 'gate' is declared, but forward does not hand it out", true},
    {"tap_moves", "taps", "asked for its taps the variant gives another output", true},
    {"tap_twice", "taps", "a tap that is handed back as it was changes the output", true},
};

static attn_check *checked(al_ctx *c, const char *stem) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s.so", AL_BROKEN_DIR, stem);
  const attn_family *f = attn_plugin_load(c, path, NULL);
  ck_assert_msg(f != NULL, "%s: %s", path, al_error_message(c, NULL, NULL));
  al_opts *o = al_opts_new(c, f->options, f->name);
  attn_check *k = attn_check_new(c, f, o);
  al_opts_release(o);
  ck_assert_ptr_nonnull(k);
  while (attn_check_step(k)) continue;
  return k;
}

START_TEST(a_fault_is_named) {
  if (strcmp(broken[_i].stem, "keeps_reference") == 0) __lsan_disable(); /* leaks, by its fault */
  al_ctx *c = al_ctx_new();
  attn_check *k = checked(c, broken[_i].stem);
  const attn_check_row *r;
  char seen[1 << 14] = "";
  bool named = false;
  for (int i = 0; (r = attn_check_at(k, i)); i++) {
    if (r->verdict != ATTN_FAIL) continue;
    const bool there = strcmp(r->check, broken[_i].check) == 0;
    named = named || (there && strstr(r->text, broken[_i].says));
    const size_t at = strlen(seen);
    snprintf(seen + at, sizeof seen - at, "\n  %s (%s %s): %s", r->check, r->form, r->dtype,
             r->text);
    ck_assert_msg(there || !broken[_i].only, "%s also fails:%s", broken[_i].stem, seen);
  }
  ck_assert_msg(!attn_check_passed(k), "%s passed", broken[_i].stem);
  ck_assert_msg(named, "%s: '%s' is not among:%s", broken[_i].stem, broken[_i].says, seen);
  attn_check_free(k);
  al_ctx_free(c);
}
END_TEST

START_TEST(the_sound_one_passes) {
  al_ctx *c = al_ctx_new();
  attn_check *k = checked(c, "sound");
  const attn_check_row *r;
  for (int i = 0; (r = attn_check_at(k, i)); i++)
    ck_assert_msg(r->verdict == ATTN_PASS, "%s (%s %s): %s", r->check, r->form, r->dtype, r->text);
  ck_assert(attn_check_passed(k));
  attn_check_free(k);
  al_ctx_free(c);
}
END_TEST

Suite *suite_check_driver(void);
Suite *suite_check_driver(void) {
  Suite *s = suite_create("attention: the conformance driver");
  TCase *t = tcase_create("driver");
  tcase_set_timeout(t, 300);
  tcase_add_test(t, the_sound_one_passes);
  tcase_add_loop_test(t, a_fault_is_named, 0, sizeof broken / sizeof *broken);
  suite_add_tcase(s, t);
  return s;
}
