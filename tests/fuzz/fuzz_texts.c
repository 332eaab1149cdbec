/* fuzz_texts.c: any bytes as texts to come (libFuzzer). Byte 0: bit 0 reads jsonl, bit 1 splits at
 * marks, bits 2 and 3 pack the bytes first (gzip, zstd, cut off anywhere by byte 1). Refused with a
 * place, or each text is UTF-8; texts of a file without marks are the file, and how it is packed
 * changes nothing. */
#include "fuzz.h"
#include <zlib.h>
#include <zstd.h>

enum { FIXED = 2, MOST = 1 << 14 };

static const char *const words[] = {"<E>",
                                    "\n<E>\n",
                                    "{\"text\":\"",
                                    "\"}\n",
                                    "\\u00e9",
                                    "\\ud800",
                                    "\\u0000",
                                    "\n",
                                    "\xc3\xa9",
                                    "\xff",
                                    "\x1f\x8b\x08",
                                    "\x28\xb5\x2f\xfd",
                                    "null",
                                    "[",
                                    "{",
                                    "\r\n",
                                    ","};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  return fuzz_mutate(data, size, max, seed, FUZZ_WORDS(words), FIXED);
}

/* How many texts a file has and a sum over their bytes; -1: refused. */
static int64_t read_all(al_ctx *c, const uint8_t *data, size_t n, const char *format,
                        const char *mark, uint64_t *sum) {
  al_texts *t = al_texts_open(c, fuzz_file(data, n), format, "text", mark);
  HOLDS(t); /* what is there opens */
  int64_t count = 0;
  const char *text;
  size_t len;
  *sum = 0;
  while (al_texts_next(c, t, &text, &len)) {
    HOLDS(len > 0 && (!mark || !memmem(text, len, mark, strlen(mark))));
    for (size_t i = 0; i < len; i++) *sum = *sum * 31 + (uint8_t)text[i];
    *sum = *sum * 31 + 256;
    count++;
  }
  int64_t size;
  HOLDS(al_texts_taken(t, &size) <= size && size == (int64_t)n);
  const bool refused = al_error(c) != AL_OK;
  if (refused) HOLDS(strstr(al_error_message(c, NULL, NULL), "/proc/self/fd/") != NULL);
  al_error_clear(c);
  al_texts_close(t);
  return refused ? -1 : count;
}

static size_t pack(int kind, const uint8_t *data, size_t n, uint8_t *to, size_t room) {
  if (kind == 2) {
    const size_t k = ZSTD_compress(to, room, data, n, 1);
    HOLDS(!ZSTD_isError(k));
    return k;
  }
  z_stream z = {0};
  HOLDS(deflateInit2(&z, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  z.next_in = (uint8_t *)(uintptr_t)data;
  z.avail_in = (unsigned)n;
  z.next_out = to;
  z.avail_out = (unsigned)room;
  HOLDS(deflate(&z, Z_FINISH) == Z_STREAM_END);
  const size_t k = room - z.avail_out;
  deflateEnd(&z);
  return k;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t packed[4 * MOST];
  al_ctx *c = fuzz_ctx();
  if (size < FIXED || size > MOST) return 0;
  const char *format = data[0] & 1 ? "jsonl" : "text", *mark = (data[0] & 3) == 2 ? "<E>" : NULL;
  const int kind = data[0] >> 2 & 3;
  const uint8_t *bytes = data + FIXED;
  const size_t n = size - FIXED;
  uint64_t sum, other;
  const int64_t count = read_all(c, bytes, n, format, mark, &sum);
  const bool plain = !(n >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b) &&
                     !(n >= 4 && memcmp(bytes, "\x28\xb5\x2f\xfd", 4) == 0);
  if (!plain || kind == 0 || kind == 3) return 0;
  const size_t k = pack(kind, bytes, n, packed, sizeof packed);
  const size_t cut = data[1] ? k * data[1] / 256 : k;
  const int64_t again = read_all(c, packed, cut, format, mark, &other);
  if (cut == k) HOLDS(again == count && (count < 0 || sum == other));
  else if (cut >= 4) HOLDS(again == -1); /* what is cut off is not taken for whole */
  return 0;
}
