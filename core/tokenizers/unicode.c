/* unicode.c: what kinds of characters tokenizers tell apart, and forms of a text (utf8proc). */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

bool al_is_space(uint32_t u) {
  return (u >= 9 && u <= 13) || u == 0x20 || u == 0x85 || u == 0xa0 || u == 0x1680 ||
         (u >= 0x2000 && u <= 0x200a) || u == 0x2028 || u == 0x2029 || u == 0x202f || u == 0x205f ||
         u == 0x3000;
}

bool al_is_number(uint32_t u) {
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)u);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool al_is_punct(uint32_t u) {
  if (u < 128)
    return (u >= 33 && u <= 47) || (u >= 58 && u <= 64) || (u >= 91 && u <= 96) || u >= 123;
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)u);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool al_is_mark(uint32_t u, bool all) {
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)u);
  return k == UTF8PROC_CATEGORY_MN ||
         (all && k > UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_ME);
}

/* Rust's \w: Alphabetic (circled letters are), marks, Nd, Pc; the other numbers with them. */
bool al_is_word(uint32_t u) {
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)u);
  const bool circled = (u >= 0x24b6 && u <= 0x24e9) || (u >= 0x1f130 && u <= 0x1f149) ||
                       (u >= 0x1f150 && u <= 0x1f169) || (u >= 0x1f170 && u <= 0x1f189);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC ||
         circled;
}

bool al_is_control(uint32_t u, bool all) {
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)u);
  return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF ||
         (all && (k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CS));
}

bool al_is_chinese(uint32_t u) {
  return (u >= 0x4e00 && u <= 0x9fff) || (u >= 0x3400 && u <= 0x4dbf) ||
         (u >= 0x20000 && u <= 0x2a6df) || (u >= 0x2a700 && u <= 0x2b73f) ||
         (u >= 0x2b740 && u <= 0x2b81f) || (u >= 0x2b820 && u <= 0x2ceaf) ||
         (u >= 0xf900 && u <= 0xfaff) || (u >= 0x2f800 && u <= 0x2fa1f);
}

static bool is_ascii(const char *s, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if ((unsigned char)s[i] >= 128) return false;
  return true;
}

al_status al_normal_form(al_ctx *c, const char *form, const char *s, int64_t n, al_buffer *out) {
  if (is_ascii(s, n)) return al_buffer_put(c, out, s, n);
  int options = UTF8PROC_STABLE;
  if (strchr(form, 'K')) options |= UTF8PROC_COMPAT;
  options |= form[strlen(form) - 1] == 'C' ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  utf8proc_uint8_t *made = NULL;
  const utf8proc_ssize_t k =
      utf8proc_map((const utf8proc_uint8_t *)s, n, &made, (utf8proc_option_t)options);
  if (k < 0)
    return al_fail(c, k == UTF8PROC_ERROR_NOMEM ? AL_ENOMEM : AL_EVALUE, "encode: %s: %s", form,
                   utf8proc_errmsg(k));
  al_buffer_put(c, out, (const char *)made, k);
  free(made);
  return al_error(c);
}

al_status al_lower(al_ctx *c, const char *s, int64_t n, al_buffer *out) {
  for (int64_t at = 0; at < n;) {
    uint32_t u = 0;
    char low[8];
    at += al_utf8(s + at, n - at, &u);
    int len = 0;
    if (u == 0x130) /* the one letter whose lower case is two characters wherever it stands */
      len = al_put_utf8('i', low), u = 0x307;
    else u = (uint32_t)utf8proc_tolower((utf8proc_int32_t)u);
    len += al_put_utf8(u, low + len);
    AL_TRY(al_buffer_put(c, out, low, len));
  }
  return AL_OK;
}

/* ---- GPT-2's alphabet ------------------------------------------------------------------------ */

/* Bytes that are printable as Latin-1 stand for themselves, the others for U+0100 and up. */
static bool printable(unsigned b) {
  return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

uint32_t al_byte_char(unsigned char byte) {
  if (printable(byte)) return byte;
  return 0x100u + (byte <= 32 ? byte : byte <= 160 ? byte - 127u + 33u : 33u + 34u);
}

int al_char_byte(uint32_t u) {
  if (u < 256) return printable(u) ? (int)u : -1;
  const uint32_t k = u - 256;
  return k <= 32 ? (int)k : k < 67 ? (int)(k - 33 + 127) : k == 67 ? 173 : -1;
}

al_status al_bytes_spelt(al_ctx *c, const char *s, int64_t n, al_buffer *out) {
  for (int64_t i = 0; i < n; i++) {
    char u[4];
    AL_TRY(al_buffer_put(c, out, u, al_put_utf8(al_byte_char((unsigned char)s[i]), u)));
  }
  return AL_OK;
}

bool al_bytes_meant(const char *s, int64_t n, char *out, int64_t *n_out) {
  *n_out = 0;
  for (int64_t at = 0, len; at < n; at += len) {
    uint32_t u = 0;
    len = al_utf8(s + at, n - at, &u);
    const int byte = len ? al_char_byte(u) : -1;
    if (byte < 0) return false;
    out[(*n_out)++] = (char)byte;
  }
  return true;
}
