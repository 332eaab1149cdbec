/* check_variants.c: every preset and family, by the conformance driver: forms, gradients,
 * causality, batch rows, padding, claims, state, large scores. The formula has an oracle besides:
 * attn_case.c.
 */
#include "attn_case.h"
#include "../attention/check.h"
#include <stdlib.h>
#include <string.h>

START_TEST(holds) {
  const char *name = attn_case_variant(_i);
  al_ctx *c = al_ctx_new();
  const attn_family *f;
  const attn_preset *preset;
  al_opts *o;
  ck_assert_msg(attn_find(c, name, &f, &preset, &o) == AL_OK, "%s",
                al_error_message(c, NULL, NULL));
  attn_check *k = attn_check_new(c, f, o);
  al_opts_release(o);
  ck_assert_ptr_nonnull(k);
  while (attn_check_step(k)) continue;
  const attn_check_row *r;
  for (int i = 0; (r = attn_check_at(k, i)); i++)
    ck_assert_msg(r->verdict != ATTN_FAIL, "%s: %s (%s %s): %s", name, r->check, r->form, r->dtype,
                  r->text);
  ck_assert_msg(attn_check_passed(k), "%s", name);
  attn_check_free(k);
  al_ctx_free(c);
}
END_TEST

/* What the driver left out, with its reason: a reason that appears or goes is a change to look
 * at. */
START_TEST(what_is_exempt_is_known) {
  al_ctx *c = al_ctx_new();
  for (int i = 0; i < attn_family_count(); i++) {
    const attn_family *f = attn_family_at(i);
    al_opts *o = al_opts_new(c, f->options, f->name);
    ck_assert_msg(!f->exempt || !f->exempt(o), "%s is exempt from gradients: %s", f->name,
                  f->exempt(o));
    ck_assert_msg(f->state != NULL, "%s declares no state", f->name);
    al_opts_release(o);
  }
  al_ctx_free(c);
}
END_TEST

START_TEST(describes_itself) {
  al_ctx *c = al_ctx_new();
  char *text = attn_describe(c, attn_case_variant(_i));
  ck_assert_msg(text != NULL, "%s", al_error_message(c, NULL, NULL));
  ck_assert_msg(strncmp(text, attn_case_variant(_i), strlen(attn_case_variant(_i))) == 0, "%s",
                text);
  free(text);
  al_ctx_free(c);
}
END_TEST

Suite *suite_check_variants(void);
Suite *suite_check_variants(void) {
  Suite *s = suite_create("attention: families of any kind");
  TCase *t = tcase_create("variants");
  tcase_set_timeout(t, 600);
  tcase_add_loop_test(t, holds, 0, attn_case_variants());
  tcase_add_loop_test(t, describes_itself, 0, attn_case_variants());
  tcase_add_test(t, what_is_exempt_is_known);
  suite_add_tcase(s, t);
  return s;
}
