/* test_safetensors.c: what is written comes back; what is not exactly right is refused by name. */
#define _GNU_SOURCE /* unshare */
#include "scratch.h"
#include "../core/op.h"
#include <math.h>
#include <sched.h>
#include <sys/mount.h>

/* A file of that header and n bytes of data; returns its path. */
static const char *make(const char *header, size_t n_header, const void *data, size_t n) {
  const char *path = in_folder("m.safetensors");
  char *all = malloc(8 + n_header + n);
  const uint64_t len = n_header;
  memcpy(all, &len, 8);
  memcpy(all + 8, header, n_header);
  if (data) memcpy(all + 8 + n_header, data, n);
  else memset(all + 8 + n_header, 0, n);
  put_file(path, all, 8 + n_header + n);
  free(all);
  return path;
}

/* Fails to open with a message that names the file and holds both texts. */
static void refused(const char *path, const char *one, const char *two) {
  ck_assert_ptr_null(al_st_open(c, path));
  ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL), path));
  expect(AL_EFORMAT, one, two);
}

static al_st *opened(const char *path) {
  al_st *s = al_st_open(c, path);
  ck_assert_msg(s != NULL, "%s", al_error_message(c, NULL, NULL));
  return s;
}

#define T(shape, begin, end)                                                                       \
  "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static const struct bad {
  const char *header;
  size_t bytes; /* of data */
  const char *one, *two;
} bad[] = {
    {" {}", 0, "begin with '{'", ""},
    {"[]", 0, "begin with '{'", ""},
    {"\xef\xbb\xbf{}", 0, "begin with '{'", ""},
    {"{}\n", 0, "end with '}'", ""},
    {"{} x ", 0, "end with '}'", ""},
    {"{ ", 0, "end with '}'", ""},
    {"{} {}", 0, "header", ""},
    {"{\"a\":}", 0, "header", ""},
    {"{\"a\xff\":1}", 0, "header", "decode byte 0xff"},
    {"{\"a\\u0000b\":1}", 0, "header", ""},
    {"{\"a\":" T("[1]", "0", "4") ",\"a\":" T("[1]", "4", "8") "}", 8, "duplicate", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "duplicate", "dtype"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "duplicate", "k"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__", "'k' must be a text"},
    {"{\"__metadata__\":{\"k\":null}}", 0, "__metadata__", "'k' must be a text"},
    {"{\"__metadata__\":[]}", 0, "__metadata__", "object"},
    {"{\"a\":null,\"__metadata__\":null}", 0, "'a'", "object"},
    {"{\"a\":1}", 0, "'a'", "object"},
    {"{\"a\":[]}", 0, "'a'", "object"},
    {"{\"a\":null}", 0, "'a'", "object"},
    {"{\"a\":{}}", 0, "'a'", "dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "'a'", "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'a'", "shape"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a'", "dtype"},
    {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a'", "dtype"},
    {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a'",
     "unknown dtype 'F31'"},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a'",
     "unknown dtype 'f32'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"extra\":0}}", 4, "'a'",
     "'extra'"},
    {"{\"a\":" T("1", "0", "4") "}", 4, "'a'", "shape"},
    {"{\"a\":" T("{}", "0", "4") "}", 4, "'a'", "shape"},
    {"{\"a\":" T("[-1]", "0", "4") "}", 4, "'a'", "size 1"},
    {"{\"a\":" T("[1,-1]", "0", "4") "}", 4, "'a'", "size 2"},
    {"{\"a\":" T("[1.5]", "0", "4") "}", 4, "'a'", "size 1"},
    {"{\"a\":" T("[1.0]", "0", "4") "}", 4, "'a'", "size 1"},
    {"{\"a\":" T("[1e0]", "0", "4") "}", 4, "'a'", "size 1"},
    {"{\"a\":" T("[\"1\"]", "0", "4") "}", 4, "'a'", "size 1"},
    {"{\"a\":" T("[true]", "0", "4") "}", 4, "'a'", "size 1"},
    {"{\"a\":" T("[[1]]", "0", "4") "}", 4, "'a'", "size 1"},
    {"{\"a\":" T("[18446744073709551616]", "0", "4") "}", 4, "header", "too big"},
    {"{\"a\":" T("[4294967296,4294967296]", "0", "0") "}", 0, "'a'", "overflows"},
    {"{\"a\":" T("[3037000500,3037000500]", "0", "0") "}", 0, "'a'", "overflows"},
    {"{\"a\":" T("[0,4611686018427387904,2]", "0", "0") "}", 0, "'a'", "overflows"},
    {"{\"a\":" T("[4611686018427387904,2,0]", "0", "0") "}", 0, "'a'", "overflows"},
    {"{\"a\":" T("[4611686018427387904,2,0,1,1,1,1,1,1,1]", "0", "0") "}", 0, "'a'", "overflows"},
    {"{\"a\":" T("[4611686018427387905]", "0", "4") "}", 4, "'a'", "overflows"},
    {"{\"a\":" T("[576460752303423489]", "0", "4") "}", 4, "'a'", "overflows"}, /* 2^59 + 1 */
    {"{\"a\":" T("[1]", "0", "5") "}", 5, "'a'", "needs 4"},
    {"{\"a\":" T("[1]", "0", "3") "}", 3, "'a'", "needs 4"},
    {"{\"a\":" T("[2]", "0", "4") "}", 4, "'a'", "needs 8"},
    {"{\"a\":" T("[]", "0", "0") "}", 0, "'a'", "needs 4"},
    {"{\"a\":" T("[0]", "0", "4") "}", 4, "'a'", "needs 0"},
    {"{\"a\":" T("[1]", "0", "4") "}", 3, "'a'", "do not lie in the 3 bytes"},
    {"{\"a\":" T("[1]", "4", "0") "}", 4, "'a'", "do not lie"},
    {"{\"a\":" T("[1]", "-4", "0") "}", 4, "'a'", "do not lie"},
    {"{\"a\":" T("[1]", "9223372036854775804", "9223372036854775807") "}", 4, "'a'", "do not lie"},
    {"{\"a\":" T("[1]", "0.0", "4") "}", 4, "'a'", "whole numbers"},
    {"{\"a\":" T("[1]", "0", "null") "}", 4, "'a'", "whole numbers"},
    {"{\"a\":" T("[1]", "0", "4,8") "}", 4, "'a'", "two whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "'a'",
     "two whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":4}}", 4, "'a'", "two whole numbers"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "'a'", "F4"},
    {"{\"a\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'a'",
     "I64 of this shape needs 16"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, "'a'",
     "do not lie in the 1 bytes"},
    {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[9223372036854775807,2],\"data_offsets\":[0,0]}}", 0,
     "'a'", "overflows"},
    {"{\"a\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[1,9]}}", 9, "'a'",
     "1 bytes before"},
    {"{}", 1, "1 bytes after", ""},
    {"{\"a\":" T("[1]", "0", "4") "}", 5, "1 bytes after", ""},
    {"{\"a\":" T("[1]", "1", "5") "}", 5, "'a'", "1 bytes before"},
    {"{\"a\":" T("[1]", "0", "4") ",\"b\":" T("[1]", "5", "9") "}", 9, "'b'", "1 bytes before"},
    {"{\"a\":" T("[1]", "0", "4") ",\"b\":" T("[1]", "0", "4") "}", 4, "overlaps", "'a'"},
    {"{\"a\":" T("[2]", "0", "8") ",\"b\":" T("[1]", "4", "8") "}", 8, "'b'",
     "overlaps tensor 'a'"},
    {"{\"a\":" T("[2]", "0", "8") ",\"b\":" T("[0]", "4", "4") "}", 8, "'b'",
     "overlaps tensor 'a'"},
};

START_TEST(malformed) {
  const struct bad *b = &bad[_i];
  refused(make(b->header, strlen(b->header), NULL, b->bytes), b->one, b->two);
}
END_TEST

START_TEST(absurd_lengths) {
  static const uint64_t lengths[] = {0,          1,          3,          100000001,
                                     1ull << 62, 1ull << 63, UINT64_MAX, UINT64_MAX - 7};
  const char *path = in_folder("m.safetensors");
  char bytes[10] = {0};
  for (size_t n = 0; n < 10; n++) {
    put_file(path, bytes, n);
    refused(path, "too few", "bytes");
  }
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    memcpy(bytes, &lengths[i], 8);
    memcpy(bytes + 8, "{}", 2);
    put_file(path, bytes, sizeof bytes);
    refused(path, "header length", "impossible");
  }
  /* the limit holds even where the file is that long (sparse here) */
  const uint64_t long_header = 100000001;
  put_file(path, &long_header, 8);
  ck_assert_int_eq(truncate(path, 100000100), 0);
  refused(path, "header length 100000001", "impossible");
}
END_TEST

START_TEST(deep_nesting) {
  enum { DEPTH = 200000 };
  static char header[2 * DEPTH + 8];
  memcpy(header, "{\"a\":", 5);
  memset(header + 5, '[', DEPTH);
  memset(header + 5 + DEPTH, ']', DEPTH);
  header[5 + 2 * DEPTH] = '}';
  refused(make(header, 2 * DEPTH + 6, NULL, 0), "depth", "header");
}
END_TEST

START_TEST(not_a_file) {
  ck_assert_ptr_null(al_st_open(c, folder));
  expect(AL_EIO, folder, "is a folder");
  ck_assert_ptr_null(al_st_open(c, in_folder("no")));
  expect(AL_EIO, "/no", "No such file");
  ck_assert_int_eq(mkfifo(in_folder("pipe"), 0600), 0); /* must not hang */
  ck_assert_ptr_null(al_st_open(c, in_folder("pipe")));
  expect(AL_EIO, "/pipe", "not a regular file");
}
END_TEST

START_TEST(least_files) {
  al_st *s = opened(make("{}", 2, NULL, 0));
  ck_assert_int_eq(al_st_count(s), 0);
  ck_assert_int_eq(al_st_meta_count(s), 0);
  ck_assert_ptr_null(al_st_name(s, 0));
  ck_assert_ptr_null(al_st_meta(s, 0, NULL));
  al_st_close(s);
  const char *padded = "{\"__metadata__\":{\"k\":\"v\"}}     ";
  s = opened(make(padded, strlen(padded), NULL, 0));
  const char *value = NULL;
  ck_assert_str_eq(al_st_meta(s, 0, &value), "k");
  ck_assert_str_eq(value, "v");
  al_st_close(s);
  const char *null = "{\"__metadata__\":null,\"a\":" T("[1]", "0", "4") "}";
  s = opened(make(null, strlen(null), NULL, 4));
  ck_assert_int_eq(al_st_count(s), 1);
  ck_assert_str_eq(al_st_name(s, 0), "a");
  ck_assert_int_eq(al_st_meta_count(s), 0);
  al_st_close(s);
}
END_TEST

/* One byte before, so that nothing lies aligned; a half for each kind of number; types we
 * refuse. */
START_TEST(foreign_types) {
  static const char header[] =
      "{\"flag\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[0,1]},"
      "\"half\":{\"dtype\":\"F16\",\"shape\":[3,3],\"data_offsets\":[1,19]},"
      "\"long\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[19,27]},"
      "\"deep\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[27,31]},"
      "\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[31,39]},"
      "\"tiny\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[39,41]},"
      "\"none\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[41,41]}}";
  static const uint16_t halves[9] = {0x3c00, 0xc000, 0x0000, 0x8000, 0x0001,
                                     0x03ff, 0x7bff, 0x7c00, 0x7e00};
  static const double value[9] = {1, -2, 0, -0.0, 0x1p-24, 1023 * 0x1p-24, 65504, INFINITY, NAN};
  const float x[2] = {1.5f, -2.5f};
  char data[41] = {1};
  memcpy(data + 1, halves, sizeof halves);
  memcpy(data + 31, x, sizeof x);
  al_st *s = opened(make(header, sizeof header - 1, data, sizeof data));
  ck_assert_int_eq(al_st_count(s), 7);
  ck_assert_str_eq(al_st_name(s, 0), "deep");
  al_tensor *t = al_st_tensor(c, s, "half");
  ck_assert_int_eq(al_type(t), AL_F32);
  ck_assert_int_eq(al_size(t, 1), 3);
  for (int i = 0; i < 9; i++) {
    const double v = ((float *)al_host(t))[i];
    ck_assert_msg(isnan(value[i]) ? isnan(v) : v == value[i] && signbit(v) == signbit(value[i]),
                  "half %d: %g", i, v);
  }
  al_release(t);
  t = al_st_tensor(c, s, "x");
  ck_assert(memcmp(al_host(t), x, sizeof x) == 0);
  al_release(t);
  t = al_st_tensor(c, s, "none");
  ck_assert_int_eq(al_numel(t), 0);
  ck_assert_int_eq(al_size(t, 1), 3);
  al_release(t);
  ck_assert_ptr_null(al_st_tensor(c, s, "flag"));
  expect(AL_ETYPE, "'flag'", "BOOL");
  ck_assert_ptr_null(al_st_tensor(c, s, "long"));
  expect(AL_ETYPE, "'long'", "I64");
  ck_assert_ptr_null(al_st_tensor(c, s, "deep"));
  expect(AL_ESHAPE, "'deep'", "got 9");
  const struct {
    const char *name, *type;
    int ndim;
    bool loads;
  } listed[] = {{"deep", "F32", 9, false}, {"flag", "BOOL", 1, false}, {"half", "F16", 2, true},
                {"long", "I64", 1, false}, {"none", "F32", 2, true},   {"tiny", "F4", 1, false},
                {"x", "F32", 1, true}};
  for (int i = 0; i < 7; i++) {
    ck_assert_str_eq(al_st_name(s, i), listed[i].name);
    ck_assert_str_eq(al_st_type(s, i), listed[i].type);
    ck_assert_int_eq(al_st_ndim(s, i), listed[i].ndim);
    ck_assert(al_st_loads(s, i) == listed[i].loads);
  }
  ck_assert(al_st_size(s, 0, 8) == 1 && al_st_size(s, 2, 1) == 3 && al_st_size(s, 5, 0) == 4);
  ck_assert(al_st_size(s, 2, 2) == 0 && al_st_size(s, 2, -1) == 0 && al_st_size(s, 7, 0) == 0);
  ck_assert(!al_st_type(s, 7) && !al_st_type(s, -1) && !al_st_ndim(s, 7) && !al_st_loads(s, 7));
  ck_assert_ptr_null(al_st_tensor(c, s, "hlaf"));
  expect(AL_ENAME, "'hlaf'", "nearest: 'half'");
  ck_assert_ptr_null(al_st_tensor(c, s, "nothing like it"));
  expect(AL_ENAME, "'nothing like it'", "m.safetensors");
  al_st_close(s);
}
END_TEST

/* Every half there is, against its definition. */
START_TEST(all_halves) {
  static const char header[] =
      "{\"h\":{\"dtype\":\"F16\",\"shape\":[65536],\"data_offsets\":[0,131072]}}";
  static uint16_t data[65536];
  for (int i = 0; i < 65536; i++) data[i] = (uint16_t)i;
  al_st *s = opened(make(header, sizeof header - 1, data, sizeof data));
  al_tensor *t = al_st_tensor(c, s, "h");
  for (int i = 0; i < 65536; i++) {
    const int e = (i >> 10) & 31, f = i & 1023;
    const double size = e == 31 ? (f ? NAN : INFINITY)
                        : e     ? ldexp(1024 + f, e - 25)
                                : ldexp(f, -24);
    const float v = ((float *)al_host(t))[i];
    ck_assert(isnan(size) ? isnan(v) : v == (float)(i >= 32768 ? -size : size));
  }
  al_release(t);
  al_st_close(s);
}
END_TEST

/* ---- writing -------------------------------------------------------------------------------- */

enum { N_TENSORS = 7 };
static const char *const names[N_TENSORS] = {"b",    "a",      "f64 \"\\\n\xc3\xa9", "i", "half",
                                             "none", "strided"};

static void make_tensors(al_tensor **t) {
  static const double v[24] = {1,  -2, 3.5, 1e30, -1e-30, 0,  7,  8,  9,  10, 11, 12,
                               13, 14, 15,  16,   17,     18, 19, 20, 21, 22, 23, 24};
  t[0] = al_tensor_from(c, AL_F32, 2, (const int64_t[]){2, 3}, v, 6);
  t[1] = al_tensor_from(c, AL_F32, 8, (const int64_t[]){1, 2, 1, 1, 1, 1, 3, 1}, v, 6);
  t[2] = al_tensor_from(c, AL_F64, 0, (const int64_t[]){0}, v + 3, 1);
  t[3] = al_tensor_from(c, AL_I32, 1, (const int64_t[]){5}, v + 5, 5);
  t[4] = al_tensor_from(c, AL_BF16, 1, (const int64_t[]){3}, v, 3);
  t[5] = al_tensor_new(c, AL_F64, 2, (const int64_t[]){0, 4});
  al_tensor *base = al_tensor_from(c, AL_F32, 3, (const int64_t[]){2, 3, 4}, v, 24);
  /* axes swapped, every second column, from column 1 */
  t[6] = al_tensor_view(c, base, 3, (const int64_t[]){3, 2, 2}, (const int64_t[]){4, 12, 2}, 1);
  al_release(base);
  expect_ok();
}

static void release_all(al_tensor **t) {
  for (int i = 0; i < N_TENSORS; i++) al_release(t[i]);
}

static void save(const char *path, al_tensor **t) {
  const char *const keys[] = {"step", "config"}, *const values[] = {"12", "{\"a\": 1}"};
  ck_assert_msg(al_st_save(c, path, N_TENSORS, names, t, 2, keys, values) == AL_OK, "%s",
                al_error_message(c, NULL, NULL));
}

START_TEST(round_trip) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t[N_TENSORS];
  make_tensors(t);
  save(path, t);
  al_st *s = opened(path);
  ck_assert_int_eq(al_st_count(s), N_TENSORS);
  for (int i = 0; i < N_TENSORS; i++) {
    al_tensor *u = al_st_tensor(c, s, names[i]);
    ck_assert_msg(u != NULL, "%s", al_error_message(c, NULL, NULL));
    ck_assert_int_eq(al_type(u), al_type(t[i]));
    ck_assert_int_eq(al_ndim(u), al_ndim(t[i]));
    for (int a = 0; a < al_ndim(u); a++) ck_assert_int_eq(al_size(u, a), al_size(t[i], a));
    double x[24], y[24];
    ck_assert_int_eq(al_read(u, x, al_numel(u)), AL_OK);
    ck_assert_int_eq(al_read(t[i], y, al_numel(u)), AL_OK);
    for (int64_t k = 0; k < al_numel(u); k++) ck_assert_double_eq(x[k], y[k]);
    al_release(u);
  }
  const char *value;
  ck_assert_int_eq(al_st_meta_count(s), 3);
  ck_assert_str_eq(al_st_meta(s, 0, &value), "format");
  ck_assert_str_eq(value, "pt");
  ck_assert_str_eq(al_st_meta(s, 1, &value), "config");
  ck_assert_str_eq(value, "{\"a\": 1}");
  ck_assert_str_eq(al_st_meta(s, 2, &value), "step");
  al_st_close(s);
  release_all(t);
}
END_TEST

/* One tensor under several names lies in the file once, and the metadata say the other names. */
START_TEST(one_tensor_two_names) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t = al_tensor_full(c, AL_F32, 1, (const int64_t[]){3}, 1),
            *d = al_tensor_full(c, AL_F64, 1, (const int64_t[]){3}, 2), *f = al_fork(c, t);
  al_tensor *const all[] = {t, d, t, f, t};
  const char *const four[] = {"c", "d", "b", "f", "e"}, *const keys[] = {"step", "c"},
                    *const values[] = {"d2", "b"};
  for (int pairs = 1; pairs <= 2; pairs++) { /* with what a file read before would say, too */
    ck_assert_msg(al_st_save(c, path, 5, four, all, pairs, keys, values) == AL_OK, "%s",
                  al_error_message(c, NULL, NULL));
    al_st *s = opened(path);
    ck_assert_int_eq(al_st_count(s), 3);
    ck_assert_str_eq(al_st_name(s, 0), "b");
    ck_assert_str_eq(al_st_name(s, 1), "d");
    ck_assert_str_eq(al_st_name(s, 2), "f");
    ck_assert_int_eq(al_st_meta_count(s), 4);
    const char *value;
    ck_assert_str_eq(al_st_meta(s, 1, &value), "c");
    ck_assert_str_eq(value, "b");
    ck_assert_str_eq(al_st_alias(s, 1), "b");
    ck_assert_str_eq(al_st_meta(s, 2, &value), "e");
    ck_assert_str_eq(al_st_alias(s, 2), "b");
    ck_assert_ptr_null(al_st_alias(s, 0));
    ck_assert_ptr_null(al_st_alias(s, 3));
    ck_assert_ptr_null(al_st_alias(s, 4));
    al_st_close(s);
  }
  const char *const other[] = {"x"}, *const name[] = {"d"};
  ck_assert_int_ne(al_st_save(c, path, 5, four, all, 1, other, name), AL_OK);
  expect(AL_EVALUE, path, "metadata 'x' = 'd' would read as another name of the tensor 'd'");
  al_release(t);
  al_release(d);
  al_release(f);
}
END_TEST

START_TEST(order_and_padding) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t[N_TENSORS];
  make_tensors(t);
  save(path, t);
  size_t n, again;
  char *data = get_file(path, &n);
  uint64_t header;
  memcpy(&header, data, 8);
  ck_assert_uint_eq(header % 8, 0);
  ck_assert_int_eq(data[8], '{');
  const char *at = data + 8;
  static const char *const order[] = {"{\"__metadata__\":{\"format\":\"pt\"",
                                      "\"f64 ",
                                      "\"none\"",
                                      "\"a\"",
                                      "\"b\"",
                                      "\"i\"",
                                      "\"strided\"",
                                      "\"half\""};
  for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
    const char *next = memmem(at, (size_t)(data + 8 + header - at), order[i], strlen(order[i]));
    ck_assert_msg(next != NULL, "%s is not in its place", order[i]);
    at = next + 1;
  }
  free(data);
  /* the same bytes whatever the order of the arguments */
  al_tensor *const ab[] = {t[1], t[0]}, *const ba[] = {t[0], t[1]};
  const char *const ab_names[] = {"a", "b"}, *const ba_names[] = {"b", "a"},
                    *const ones[] = {"1", "1"};
  ck_assert_int_eq(al_st_save(c, path, 2, ab_names, ab, 2, ab_names, ones), AL_OK);
  data = get_file(path, &n);
  ck_assert_int_eq(al_st_save(c, path, 2, ba_names, ba, 2, ba_names, ones), AL_OK);
  char *other = get_file(path, &again);
  ck_assert_uint_eq(n, again);
  ck_assert(memcmp(data, other, n) == 0);
  free(other);
  free(data);
  release_all(t);
}
END_TEST

START_TEST(large_strided) {
  enum { ROWS = 301, COLUMNS = 257 };
  al_tensor *a = al_tensor_new(c, AL_F32, 2, (const int64_t[]){ROWS, COLUMNS});
  for (int i = 0; i < ROWS * COLUMNS; i++) ((float *)al_host(a))[i] = (float)i;
  al_tensor *v =
      al_tensor_view(c, a, 2, (const int64_t[]){COLUMNS, ROWS}, (const int64_t[]){1, COLUMNS}, 0);
  const char *name = "v";
  ck_assert_int_eq(al_st_save(c, in_folder("a"), 1, &name, &v, 0, NULL, NULL), AL_OK);
  al_st *s = opened(in_folder("a"));
  al_tensor *u = al_st_tensor(c, s, "v");
  for (int i = 0; i < COLUMNS; i++)
    for (int k = 0; k < ROWS; k++)
      ck_assert(((float *)al_host(u))[i * ROWS + k] == (float)(k * COLUMNS + i));
  al_st_close(s);
  al_release(u);
  al_release(v);
  al_release(a);
}
END_TEST

START_TEST(bad_arguments) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t = al_tensor_full(c, AL_F32, 1, (const int64_t[]){3}, 1);
  al_tensor *d = al_tensor_full(c, AL_F64, 1, (const int64_t[]){3}, 1);
  al_tensor *const two[] = {t, d}, *const hole[] = {t, NULL};
  const char *const twice[] = {"a", "a"}, *const reserved[] = {"a", "__metadata__"},
                    *const latin[] = {"a", "\xe9"};
  const char *const nameless[] = {"a", NULL}, *const good[] = {"a", "b"}, *const pt[] = {"format"},
                    *const tf[] = {"tf"};
  ck_assert_int_ne(al_st_save(c, path, 2, twice, two, 0, NULL, NULL), AL_OK);
  expect(AL_EVALUE, path, "'a' is given twice");
  ck_assert_int_ne(al_st_save(c, path, 2, reserved, two, 0, NULL, NULL), AL_OK);
  expect(AL_EVALUE, path, "__metadata__");
  ck_assert_int_ne(al_st_save(c, path, 2, latin, two, 0, NULL, NULL), AL_OK);
  expect(AL_EVALUE, path, "UTF-8");
  ck_assert_int_ne(al_st_save(c, path, 2, nameless, two, 0, NULL, NULL), AL_OK);
  expect(AL_EVALUE, path, "no name");
  ck_assert_int_ne(al_st_save(c, path, 2, good, hole, 0, NULL, NULL), AL_OK);
  expect(AL_EVALUE, path, "'b' is no tensor");
  ck_assert_int_ne(al_st_save(c, path, 2, good, two, 2, twice, good), AL_OK);
  expect(AL_EVALUE, path, "'a' is given twice");
  ck_assert_int_ne(al_st_save(c, path, 2, good, two, 1, good, latin + 1), AL_OK);
  expect(AL_EVALUE, path, "UTF-8");
  ck_assert_int_ne(al_st_save(c, path, 2, good, two, 1, pt, tf), AL_OK);
  expect(AL_EVALUE, path, "format");
  ck_assert_int_ne(al_st_save(c, in_folder("no/a"), 2, good, two, 0, NULL, NULL), AL_OK);
  expect(AL_EIO, "no/a", "No such file");
  ck_assert_int_eq(files_in_folder(), 0);
  al_release(t);
  al_release(d);
}
END_TEST

/* Every shorter file, and one a byte longer, is refused. */
START_TEST(cut_anywhere) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t[N_TENSORS];
  make_tensors(t);
  save(path, t);
  release_all(t);
  size_t n;
  char *data = get_file(path, &n);
  for (size_t k = 0; k < n; k++) {
    put_file(path, data, k);
    ck_assert_msg(al_st_open(c, path) == NULL, "opened with %zu of %zu bytes", k, n);
    expect(AL_EFORMAT, path, "");
  }
  data = realloc(data, n + 1);
  data[n] = 0;
  put_file(path, data, n + 1);
  refused(path, "1 bytes after", "");
  free(data);
}
END_TEST

/* Whatever one wrong byte does, the file is refused or all of it can be read: nothing in
 * between. */
START_TEST(one_wrong_byte) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t[N_TENSORS];
  make_tensors(t);
  save(path, t);
  release_all(t);
  size_t n;
  char *data = get_file(path, &n);
  uint64_t header;
  memcpy(&header, data, 8);
  static const char wrong[] = {0,   ' ', '"', '-', '0', '9', ',',  ':',
                               '[', ']', '{', '}', 'e', '.', '\\', (char)0xff};
  for (size_t k = 0; k < 8 + header; k++)
    for (size_t w = 0; w < sizeof wrong; w++) {
      const char right = data[k];
      data[k] = wrong[w];
      put_file(path, data, n);
      data[k] = right;
      al_st *s = al_st_open(c, path);
      for (int i = 0; s && i < al_st_count(s); i++) {
        al_tensor *u = al_st_tensor(c, s, al_st_name(s, i));
        ck_assert(u || al_error(c) == AL_ETYPE);
        al_release(u);
        al_error_clear(c);
      }
      if (!s) expect(AL_EFORMAT, path, "");
      al_st_close(s);
    }
  free(data);
}
END_TEST

/* The file shrinks after it was opened. */
START_TEST(shrinks_while_open) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t[N_TENSORS];
  make_tensors(t);
  save(path, t);
  release_all(t);
  al_st *s = opened(path);
  ck_assert_int_eq(truncate(path, 100), 0);
  ck_assert_ptr_null(al_st_tensor(c, s, "b"));
  expect(AL_EFORMAT, path, "ends in b");
  al_scope_begin(c);
  ck_assert_ptr_null(al_st_tensor(c, s, "b"));
  al_scope_end(c, NULL);
  expect(AL_EFORMAT, path, "ends in b");
  al_st_close(s);
}
END_TEST

START_TEST(scopes_own_what_is_read) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t[N_TENSORS];
  make_tensors(t);
  save(path, t);
  release_all(t);
  al_st *s = opened(path);
  al_scope_begin(c);
  al_tensor *a = al_st_tensor(c, s, "a");
  ck_assert_ptr_nonnull(al_st_tensor(c, s, "b"));
  a = al_scope_end(c, a);
  ck_assert_int_eq(al_numel(a), 6);
  al_release(a);
  al_st_close(s);
}
END_TEST

START_TEST(full_disk) {
  if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return;
  if (mount("tmpfs", folder, "tmpfs", 0, "size=128k") != 0) return;
  const char *path = in_folder("a.safetensors"), *name = "w";
  al_tensor *small = al_tensor_full(c, AL_F32, 1, (const int64_t[]){64}, 1);
  al_tensor *large = al_tensor_full(c, AL_F32, 1, (const int64_t[]){100000}, 2);
  ck_assert_int_eq(al_st_save(c, path, 1, &name, &small, 0, NULL, NULL), AL_OK);
  ck_assert_int_eq(al_st_save(c, path, 1, &name, &large, 0, NULL, NULL), AL_EIO);
  expect(AL_EIO, path, "No space left");
  ck_assert_int_eq(files_in_folder(), 1);
  al_st *s = opened(path);
  al_tensor *t = al_st_tensor(c, s, "w");
  ck_assert_int_eq(al_numel(t), 64);
  al_st_close(s);
  ck_assert_int_eq(al_st_save(c, path, 1, &name, &small, 0, NULL, NULL), AL_OK);
  al_release(t);
  al_release(small);
  al_release(large);
  umount2(folder, MNT_DETACH);
}
END_TEST

START_TEST(allocation_fails) {
  const char *path = in_folder("a.safetensors");
  al_tensor *t[N_TENSORS];
  make_tensors(t);
  save(path, t);
  int64_t failed = 0;
  for (int64_t n = 1;; n++, failed++) {
    al_memory_fail_at(c, n);
    const al_status st = al_st_save(c, path, N_TENSORS, names, t, 0, NULL, NULL);
    al_memory_fail_at(c, 0);
    if (st == AL_OK) break;
    expect(AL_ENOMEM, "memory", "");
    ck_assert_int_eq(files_in_folder(), 1);
  }
  ck_assert_int_ge(failed, 4);
  release_all(t);
  for (int64_t n = 1;; n++) {
    al_memory_fail_at(c, n);
    al_st *s = al_st_open(c, path);
    al_tensor *u = s ? al_st_tensor(c, s, "a") : NULL;
    al_memory_fail_at(c, 0);
    al_st_close(s);
    if (u) {
      al_release(u);
      break;
    }
    expect(AL_ENOMEM, "memory", "");
    ck_assert_int_eq(al_memory(c).live, 0);
  }
}
END_TEST

Suite *suite_test_safetensors(void);
Suite *suite_test_safetensors(void) {
  Suite *s = suite_create("safetensors");
  TCase *t = tcase_create("safetensors");
  tcase_add_checked_fixture(t, scratch_begin, scratch_end);
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, malformed, 0, (int)(sizeof bad / sizeof *bad));
  tcase_add_test(t, absurd_lengths);
  tcase_add_test(t, deep_nesting);
  tcase_add_test(t, not_a_file);
  tcase_add_test(t, least_files);
  tcase_add_test(t, foreign_types);
  tcase_add_test(t, all_halves);
  tcase_add_test(t, round_trip);
  tcase_add_test(t, one_tensor_two_names);
  tcase_add_test(t, order_and_padding);
  tcase_add_test(t, large_strided);
  tcase_add_test(t, bad_arguments);
  tcase_add_test(t, cut_anywhere);
  tcase_add_test(t, one_wrong_byte);
  tcase_add_test(t, shrinks_while_open);
  tcase_add_test(t, scopes_own_what_is_read);
  tcase_add_test(t, full_disk);
  tcase_add_test(t, allocation_fails);
  suite_add_tcase(s, t);
  return s;
}
