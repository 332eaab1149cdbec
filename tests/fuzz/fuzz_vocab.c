/* fuzz_vocab.c: any bytes as text and as a llama2.c tokenizer table (libFuzzer). Byte 0 says which:
 * 0 the characters of the rest; 1 the rest as a table; else a table that is right
 * up to its byte pieces, whose others are made of the rest: length, score, bytes. What is encoded
 * decodes to the same bytes. */
#include "fuzz.h"

enum { FIXED = 259, MOST = 1 << 14 };

static const char *const words[] = {"\x01",
                                    "a",
                                    "ab",
                                    "aba",
                                    " ",
                                    "\xc3\xa9",
                                    "\xc0\x80",
                                    "\xe0\x80",
                                    "\xed\xa0\x80",
                                    "\xef\xbf\xbf",
                                    "\xf4\x8f\xbf\xbf",
                                    "\xf4\x90\x80\x80",
                                    "\xff",
                                    "\xf0\x9f\x98\x80",
                                    "<s>",
                                    "<0x41>",
                                    "\n",
                                    "\x7f\x7f"};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  return fuzz_mutate(data, size, max, seed, FUZZ_WORDS(words), 2);
}

/* Every text can be encoded by a table; by characters, what is made of them. */
static void round_trip(al_ctx *c, const al_vocab *v, const char *text, size_t n, bool possible) {
  al_tensor *ids = al_vocab_encode(c, v, text, n, 0);
  HOLDS(ids || !possible);
  if (fuzz_refused(c, ids)) return;
  const int32_t *id = al_host(ids);
  for (int64_t i = 0; i < al_numel(ids); i++) HOLDS(id[i] >= 0 && id[i] < al_vocab_size(v));
  size_t len;
  char *back = al_vocab_decode(c, v, id, al_numel(ids), 0, &len);
  HOLDS(back && len == n && memcmp(back, text, n) == 0);
  free(back);
  al_release(ids);
}

static void any_ids(al_ctx *c, const al_vocab *v, const uint8_t *data, size_t n) {
  int32_t ids[64];
  for (size_t i = 0; i < 64; i++) ids[i] = (int32_t)data[i % n] - 2;
  size_t len;
  char *text = al_vocab_decode(c, v, ids, 64, 0, &len);
  if (fuzz_refused(c, text)) return;
  HOLDS(strlen(text) <= len);
  free(text);
}

static void characters(al_ctx *c, const char *text, size_t n) {
  al_vocab *v = al_vocab_new(c, "characters", &(al_source){"text", text, n}, 1);
  if (fuzz_refused(c, v)) return;
  round_trip(c, v, text, n, true);
  round_trip(c, v, text, n / 2, false); /* it may end in a character */
  size_t k, sum = 0;
  for (int64_t i = -1; i <= al_vocab_size(v); i++) {
    const char *piece = al_vocab_piece(v, i, &k);
    HOLDS((piece != NULL) == (i >= 0 && i < al_vocab_size(v)));
    HOLDS(!piece || (k >= 1 && k <= 4));
    if (piece) sum += k;
  }
  HOLDS(sum <= n);
  if (n) any_ids(c, v, (const uint8_t *)text, n);
  al_vocab_free(v);
}

typedef struct table {
  uint8_t bytes[1 << 17];
  size_t n;
} table;

static void put(table *t, const void *data, size_t n) {
  memcpy(t->bytes + t->n, data, n);
  t->n += n;
}

static void put_piece(table *t, float score, int32_t length, const char *piece) {
  put(t, &score, 4);
  put(t, &length, 4);
  put(t, piece, (size_t)length);
}

static void made_table(al_ctx *c, const char *text, size_t n, int pieces) {
  static table t;
  const int32_t longest = 64;
  t.n = 0;
  put(&t, &longest, 4);
  put_piece(&t, 0, 5, "<unk>");
  put_piece(&t, 0, 5, "\n<s>\n");
  put_piece(&t, 0, 6, "\n</s>\n");
  for (int i = 0; i < 256; i++) {
    char byte[8];
    snprintf(byte, sizeof byte, "<0x%02X>", i);
    put_piece(&t, 0, 6, byte);
  }
  int made = 0;
  size_t at = 0;
  for (; made < pieces && at + 2 <= n; made++) {
    const size_t most = n - at - 2, length = (size_t)text[at] & 15;
    const signed char s = (signed char)text[at + 1];
    const float score = s == 127 ? 3e38f : (float)s;
    put_piece(&t, score, (int32_t)(length < most ? length : most), text + at + 2);
    at += 2 + (length < most ? length : most);
  }
  al_vocab *v = al_vocab_new(c, "llama2c", &(al_source){"t", (char *)t.bytes, t.n}, 1);
  if (fuzz_refused(c, v)) return;
  round_trip(c, v, text + at, n - at, true);
  round_trip(c, v, text, n, true);
  if (n) any_ids(c, v, (const uint8_t *)text, n);
  al_vocab_free(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  al_ctx *c = fuzz_ctx();
  if (size < 2 || size > MOST) return 0;
  const char *text = (const char *)data + 2;
  const size_t n = size - 2;
  if (data[0] % 4 == 0) characters(c, text, n);
  if (data[0] % 4 >= 2) made_table(c, text, n, data[1] % 128);
  if (data[0] % 4 == 1) {
    al_vocab *v = al_vocab_new(c, "llama2c", &(al_source){"t", text, n}, 1);
    if (fuzz_refused(c, v)) return 0;
    round_trip(c, v, text, n, true);
    al_vocab_free(v);
  }
  return 0;
}
