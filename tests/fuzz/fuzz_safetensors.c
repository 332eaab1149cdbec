/* fuzz_safetensors.c: any bytes as a safetensors file (libFuzzer): refused with a reason, or
 * listed, and each tensor loaded or refused. What was loaded is written and read again.
 *
 * Byte 0: 0 mod 8, the rest is the file; else the rest is the header, its length is made right, and
 * byte 1 says how many bytes of data follow. */
#include "fuzz.h"

static const char *const words[] = {
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}",
    "{\"__metadata__\":{\"format\":\"pt\"},",
    "\"b\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]}}",
    "\"__metadata__\":null",
    "\"__metadata__\":{\"k\":\"v\"}",
    "\"x\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[24,26]}",
    "\"dtype\":",
    "\"shape\":[",
    "\"data_offsets\":[",
    "F64",
    "F32",
    "BF16",
    "F16",
    "I32",
    "I64",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F4",
    "C64",
    "[0,0]",
    "[0]",
    "4611686018427387904",
    "9223372036854775807",
    "4294967296",
    "-1",
    "1,",
    ",",
    "\\u0000",
    "{",
    "}",
    "        "};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  return fuzz_mutate(data, size, max, seed, FUZZ_WORDS(words), 2);
}

enum { MOST = 64 };

static void write_and_read(al_ctx *c, const char *path, int n, const char *const *names,
                           al_tensor *const *t) {
  if (al_st_save(c, path, n, names, t, 0, NULL, NULL) != AL_OK) {
    HOLDS(*al_error_message(c, NULL, NULL));
    al_error_clear(c);
    return;
  }
  al_st *s = al_st_open(c, path);
  HOLDS(s && al_st_count(s) == n);
  for (int i = 0; i < n; i++) {
    al_tensor *u = al_st_tensor(c, s, names[i]);
    HOLDS(u && al_type(u) == al_type(t[i]) && al_numel(u) == al_numel(t[i]));
    HOLDS(al_numel(u) == 0 || memcmp(al_host(u), al_host(t[i]),
                                     (size_t)(al_numel(u) * al_dtype_size(al_type(u)))) == 0);
    al_release(u);
  }
  al_st_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  al_ctx *c = fuzz_ctx();
  static uint8_t file[1 << 16];
  char out[128];
  snprintf(out, sizeof out, "%s/out.safetensors", fuzz_folder());
  if (size < 2 || size + 8 + 255 > sizeof file) return 0;
  size_t n = size - 1;
  if (data[0] % 8) {
    const uint64_t header = size - 2;
    memcpy(file, &header, 8);
    memcpy(file + 8, data + 2, header);
    memset(file + 8 + header, 0x3c, data[1]);
    n = 8 + header + data[1];
  } else {
    memcpy(file, data + 1, n);
  }
  al_st *s = al_st_open(c, fuzz_file(file, n));
  if (fuzz_refused(c, s)) return 0;
  const char *names[MOST];
  al_tensor *t[MOST];
  int kept = 0;
  for (int i = 0; i < al_st_count(s); i++) {
    const char *name = al_st_name(s, i);
    HOLDS(name && al_st_type(s, i));
    for (int a = 0; a < al_st_ndim(s, i); a++) HOLDS(al_st_size(s, i, a) >= 0);
    al_tensor *x = al_st_tensor(c, s, name);
    HOLDS(!x || al_st_loads(s, i));
    if (fuzz_refused(c, x)) continue;
    HOLDS(al_ndim(x) == al_st_ndim(s, i));
    for (int a = 0; a < al_ndim(x); a++) HOLDS(al_size(x, a) == al_st_size(s, i, a));
    HOLDS(al_numel(x) * (al_dtype_size(al_type(x)) > 4 ? 8 : 1) <= 2 * (int64_t)n);
    if (kept < MOST) names[kept] = name, t[kept++] = x;
    else al_release(x);
  }
  const char *value;
  for (int i = 0; i < al_st_meta_count(s); i++) HOLDS(al_st_meta(s, i, &value) && value);
  HOLDS(fuzz_refused(c, al_st_tensor(c, s, "\xff"))); /* no UTF-8: no tensor is called so */
  if (data[1] % 16 == 0) write_and_read(c, out, kept, names, t); /* it syncs: seldom */
  for (int i = 0; i < kept; i++) al_release(t[i]);
  al_st_close(s);
  return 0;
}
