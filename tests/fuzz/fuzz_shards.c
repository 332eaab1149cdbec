/* fuzz_shards.c: any bytes as a shard of llm.c or as raw ids (libFuzzer). Byte 0: bit 0 makes the
 * count in the header right, bit 1 reads raw ids, bits 2 and 3 say which rows; byte 1 their length,
 * byte 2 the id that documents begin with, byte 3 the vocabulary. What opens has the file's size,
 * each id is below the vocabulary or refused, and rows of all kinds are of its tokens. */
#include "fuzz.h"

enum { FIXED = 4, MOST = 1 << 14, HEADER = 1024, IGNORED = -100 };

static const char *const words[] = {
    "\x28\xe6\x34\x01", "\x41\xe7\x34\x01", "\x01", "\x07",
    "\xff\xff",         "\x7f\xff\xff\xff", "\x80", "\x02\x02\x02\x02"};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  return fuzz_mutate(data, size, max, seed, FUZZ_WORDS(words), FIXED);
}

/* Every target is the token behind, where a document or the range does not end. */
static void check_batch(const al_batch *b, int64_t T, bool packed, int32_t separator) {
  const int32_t *x = al_host(b->x), *y = al_host(b->y),
                *starts = b->starts ? al_host(b->starts) : NULL;
  HOLDS(packed == (starts != NULL));
  for (int64_t i = 0; i < al_numel(b->x); i++) {
    const bool last = i % T == T - 1;
    HOLDS(y[i] == IGNORED || last || y[i + 1] == IGNORED || y[i] == x[i + 1]);
    HOLDS(!starts || (starts[i] >= 0 && starts[i] <= i % T));
    HOLDS(!starts || i % T == 0 || starts[i] == (x[i] == separator ? i % T : starts[i - 1]));
  }
}

static void try_rows(al_ctx *c, al_shards *s, const char *kind, int64_t T, int32_t separator) {
  al_rows *r = al_rows_new(c, s, 0, al_shards_count(s), kind, T, separator);
  if (fuzz_refused(c, r)) return;
  const int64_t n = al_rows_count(r), B = n < 3 ? n : 3;
  const bool packed = strcmp(kind, "packed") == 0;
  HOLDS(n > 0);
  for (int k = 0; k < 2; k++) {
    al_batch b;
    const al_status st =
        k ? al_rows_shuffled(c, r, B, 1, n, &b) : al_rows_even(c, r, B, n - B, n, &b);
    if (fuzz_refused(c, st == AL_OK ? &b : NULL)) continue;
    check_batch(&b, T, packed, separator);
    al_release(b.x);
    al_release(b.y);
    al_release(b.starts);
  }
  al_rows_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t bytes[MOST];
  static const char *const kinds[] = {"stream", "packed", "documents", "packed"};
  al_ctx *c = fuzz_ctx();
  if (size < FIXED || size > MOST) return 0;
  const size_t n = size - FIXED;
  const bool raw = data[0] & 2;
  memcpy(bytes, data + FIXED, n);
  if (data[0] & 1 && n > HEADER) {
    const int width = bytes[0] == 0x41 ? 4 : 2;
    const int32_t tokens = (int32_t)(n - HEADER) / width;
    memcpy(bytes + 8, &tokens, 4);
  }
  const char *path = fuzz_file(bytes, n);
  const int64_t vocab = 1 + (int64_t)data[3] * 257;
  al_shards *s = al_shards_open(c, 1, &path, raw ? "raw_u16" : "llmc", vocab);
  if (fuzz_refused(c, s)) return 0;
  const int64_t count = al_shards_count(s);
  HOLDS(raw ? n == (size_t)count * 2
            : n == HEADER + (size_t)count * 2 || n == HEADER + (size_t)count * 4);
  static int32_t ids[MOST];
  const bool read = al_shards_read(c, s, 0, count, ids) == AL_OK;
  if (!fuzz_refused(c, read ? ids : NULL))
    for (int64_t i = 0; i < count; i++) HOLDS(ids[i] >= 0 && ids[i] < vocab);
  char hex[65];
  HOLDS(al_shards_hash(c, s, hex) == AL_OK && strlen(hex) == 64);
  try_rows(c, s, kinds[data[0] >> 2 & 3], 1 + data[1] % 40, data[2]);
  al_shards_release(s);
  return 0;
}
