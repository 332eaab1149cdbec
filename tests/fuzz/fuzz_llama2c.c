/* fuzz_llama2c.c: any bytes as a llama2.c model (libFuzzer): refused with a reason, or every tensor
 * is there and they are no longer than the file.
 *
 * Byte 0 odd: the file is given the length that the refusal says its sizes need, where that is
 * small, so that reading gets past the header. Mutations set whole sizes. */
#include "fuzz.h"

enum { SIZES = 7, HEADER = 4 * SIZES, LATER = 256, LONGEST = 1 << 20 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  static const int32_t good[SIZES] = {8, 16, 2, 2, 1, 7, 9};
  static const int32_t values[] = {
      0, 1, -1, 2, 3, 4, 5, 6, 64, 1 << 12, 1 << 18, 1 << 24, INT32_MAX, INT32_MIN, -7, 0x616b3432};
  const unsigned h = seed * 2654435761u;
  if (size <= HEADER && max > LATER) {
    static const int32_t later[] = {0x616b3432, 1};
    const bool first = seed % 2;
    data[0] = 1;
    if (first) memcpy(data + 1, good, HEADER);
    else memset(data + 1, 0, LATER), memcpy(data + 1, later, 8), memcpy(data + 9, good, HEADER);
    return 1 + (first ? HEADER : LATER);
  }
  if (seed % 3 == 0 || size <= HEADER + 8) return LLVMFuzzerMutate(data, size, max);
  memcpy(data + 1 + 4 * (h % (SIZES + 2)), &values[(h >> 8) % (sizeof values / sizeof *values)], 4);
  return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  al_ctx *c = fuzz_ctx();
  if (size < 1 || size > 4096) return 0;
  const char *path = fuzz_file(data + 1, size - 1);
  long long bytes = (long long)size - 1;
  al_llama2c *m = al_llama2c_open(c, path);
  if (!m && data[0] & 1) {
    const char *says = strstr(al_error_message(c, NULL, NULL), "sizes has ");
    if (says && sscanf(says, "sizes has %lld bytes", &bytes) == 1 && bytes <= LONGEST) {
      al_error_clear(c);
      HOLDS(truncate(path, bytes) == 0);
      m = al_llama2c_open(c, path);
      HOLDS(m);
    }
  }
  if (fuzz_refused(c, m)) return 0;
  const al_llama2c_config *s = al_llama2c_sizes(m);
  HOLDS(s->n_heads % s->n_kv_heads == 0 && s->dim % s->n_heads == 0);
  int64_t read = HEADER;
  for (int i = 0; i < al_llama2c_count(m); i++) {
    al_tensor *t = al_llama2c_tensor(c, m, al_llama2c_name(m, i));
    HOLDS(t && al_ndim(t) >= 1 && al_ndim(t) <= 2);
    read += 4 * al_numel(t);
    al_release(t);
  }
  HOLDS(read <= bytes);
  HOLDS(fuzz_refused(c, al_llama2c_tensor(c, m, "no such tensor")));
  al_llama2c_close(m);
  return 0;
}
