/* test_vocab.c: tokenizers in C: characters, llama2.c's table, memory that fails in any of them. */
#define _GNU_SOURCE /* memmem */
#include "scratch.h"
#include <jansson.h>
#include <limits.h>

#define MODELS AL_SOURCE_DIR "/experiments/models/"
#define TOKENS MODELS "tok512.bin"
#define SHAKESPEARE AL_SOURCE_DIR "/experiments/data/shakespeare.txt"

static al_vocab *characters_of(const char *text, size_t n) {
  return al_vocab_new(c, "characters", &(al_source){"text", text, n}, 1);
}

static al_vocab *table_of(const char *path) {
  al_source f = {.name = path};
  char *data = NULL;
  if (al_file_read(c, path, 1 << 28, &data, &f.n) != AL_OK) return NULL;
  f.data = data;
  al_vocab *v = al_vocab_new(c, "llama2c", &f, 1);
  free(data);
  return v;
}

static void expect_ids(const al_vocab *v, const char *text, const json_t *ids) {
  al_tensor *t = al_vocab_encode(c, v, text, strlen(text), 0);
  expect_ok();
  ck_assert_int_eq(al_numel(t), (int64_t)json_array_size(ids));
  for (int64_t i = 0; i < al_numel(t); i++)
    ck_assert_int_eq(((int32_t *)al_host(t))[i],
                     json_integer_value(json_array_get(ids, (size_t)i)));
  al_release(t);
}

/* Encoding and decoding n bytes gives them back; returns the number of ids. */
static int64_t there_and_back(const al_vocab *v, const char *text, size_t n) {
  al_tensor *t = al_vocab_encode(c, v, text, n, 0);
  expect_ok();
  size_t len = 0;
  char *back = al_vocab_decode(c, v, al_host(t), al_numel(t), 0, &len);
  ck_assert_uint_eq(len, n);
  ck_assert(memcmp(back, text, n) == 0);
  const int64_t n_ids = al_numel(t);
  free(back);
  al_release(t);
  return n_ids;
}

START_TEST(characters) {
  size_t n;
  const char *text = "h\xc3\xa9llo \xf0\x9f\x8c\x8d\n\xe2\x82\xac";
  al_vocab *v = characters_of(text, strlen(text));
  static const char *const order[] = {
      "\n", " ", "h", "l", "o", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8c\x8d"};
  ck_assert_int_eq(al_vocab_size(v), 8);
  for (int i = 0; i < 8; i++) {
    const char *piece = al_vocab_piece(v, i, &n);
    ck_assert(n == strlen(order[i]) && memcmp(piece, order[i], n) == 0);
  }
  ck_assert_ptr_null(al_vocab_piece(v, 8, &n));
  ck_assert_ptr_null(al_vocab_piece(v, -1, &n));
  ck_assert_int_eq(there_and_back(v, text, strlen(text)), 9);
  ck_assert_int_eq(there_and_back(v, "", 0), 0);
  ck_assert_ptr_null(al_vocab_encode(c, v,
                                     "\xc3\xa9"
                                     "lxo",
                                     5, 0));
  expect(AL_EVALUE, "character 3 (byte 3)", "'x' (U+0078)");
  ck_assert_ptr_null(al_vocab_encode(c, v, "o\xe2\x82\xad", 4, 0));
  expect(AL_EVALUE, "character 2 (byte 1)", "U+20AD");
  ck_assert_ptr_null(al_vocab_encode(c, v, "hel\xff", 4, 0));
  expect(AL_EFORMAT, "UTF-8", "byte 3 (0xFF)");
  ck_assert_ptr_null(al_vocab_decode(c, v, (const int32_t[]){0, 8}, 2, 0, &n));
  expect(AL_EVALUE, "id 8 at position 2", "0 to 7");
  ck_assert_ptr_null(al_vocab_decode(c, v, (const int32_t[]){-1}, 1, 0, &n));
  expect(AL_EVALUE, "id -1 at position 1", "");
  al_vocab_free(v);
  v = characters_of("a\0b", 3); /* a zero is a character like any other */
  ck_assert_int_eq(al_vocab_size(v), 3);
  ck_assert_int_eq(there_and_back(v, "\0a\0", 3), 3);
  al_vocab_free(v);
  ck_assert_ptr_null(characters_of("", 0));
  expect(AL_EVALUE, "text", "got 0");
}
END_TEST

START_TEST(not_utf8) {
  static const struct {
    const char *text;
    int at;
  } texts[] = {
      {"\x80", 0},
      {"ab\xc3", 2},
      {"ab\xc3z", 2},
      {"a\xc0\x80", 1},
      {"\xc1\xbf", 0},
      {"a\xe0\x80\x80", 1},
      {"\xed\xa0\x80", 0},
      {"\xed\xbf\xbf", 0},
      {"abc\xe2\x82", 3},
      {"\xf0\x80\x80\x80", 0},
      {"\xf4\x90\x80\x80", 0},
      {"\xf5\x80\x80\x80", 0},
      {"\xf0\x9f\x8c", 0},
      {"a\xfe", 1},
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    char where[32];
    snprintf(where, sizeof where, "byte %d (", texts[i].at);
    ck_assert_ptr_null(characters_of(texts[i].text, strlen(texts[i].text)));
    expect(AL_EFORMAT, "UTF-8", where);
  }
  static const char *const edges = "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef"
                                   "\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf";
  al_vocab *v = characters_of(edges, strlen(edges));
  ck_assert_int_eq(al_vocab_size(v), 9);
  ck_assert_int_eq(there_and_back(v, edges, strlen(edges)), 9);
  al_vocab_free(v);
}
END_TEST

START_TEST(shakespeare) {
  size_t n;
  char *text = get_file(SHAKESPEARE, &n);
  al_vocab *v = characters_of(text, n);
  ck_assert_int_eq(al_vocab_size(v), 65);
  ck_assert_int_eq(there_and_back(v, text, n), 1115394);
  al_vocab_free(v);
  free(text);
}
END_TEST

START_TEST(published_ids) {
  json_error_t e;
  json_t *golden = json_load_file(AL_TEST_DIR "/golden/stories260K.json", 0, &e);
  al_vocab *v = table_of(TOKENS);
  expect_ok();
  size_t i, k;
  json_t *row, *id;
  json_array_foreach(json_object_get(golden, "prompts"), i, row) {
    json_t *ids = json_object_get(row, "ids");
    expect_ids(v, json_string_value(json_object_get(row, "text")), ids);
    /* the prompt and its continuation as text */
    int32_t all[512];
    int64_t n = 0;
    json_array_foreach(ids, k, id) all[n++] = (int32_t)json_integer_value(id);
    json_array_foreach(json_object_get(row, "greedy_new_ids"), k, id) all[n++] =
        (int32_t)json_integer_value(id);
    char *text = al_vocab_decode(c, v, all, n, 0, NULL);
    ck_assert_str_eq(text, json_string_value(json_object_get(row, "decoded")));
    free(text);
  }
  ck_assert_uint_eq(i, 3);
  json_array_foreach(json_object_get(golden, "texts"), i, row)
      expect_ids(v, json_string_value(json_object_get(row, "text")), json_object_get(row, "ids"));
  ck_assert_uint_eq(i, 2);
  al_vocab_free(v);
  json_decref(golden);
}
END_TEST

static bool is_piece(const al_vocab *v, int64_t id, const char *s, size_t n) {
  size_t len;
  const char *piece = al_vocab_piece(v, id, &len);
  return len == n && memcmp(piece, s, n) == 0;
}

/* The definition: scan all neighbours, join the best, again. Scores of this table are 259 - id. */
static int64_t encode_slowly(const al_vocab *v, const char *text, int32_t *ids) {
  struct {
    const char *s;
    size_t n;
    int32_t id;
  } p[256];
  int64_t n = 0, left;
  for (const char *s = text; *s; s++) {
    p[n].s = s;
    p[n].n = 1;
    for (p[n].id = 511; p[n].id > 258 && !is_piece(v, p[n].id, s, 1);) p[n].id--;
    if (p[n].id == 258) p[n].id = 3 + (unsigned char)*s;
    n++;
  }
  do {
    int32_t best = INT32_MAX;
    left = -1;
    for (int64_t i = 0; i + 1 < n; i++)
      for (int32_t id = 259; id < 512 && id < best; id++)
        if (p[i].id > 258 && p[i + 1].id > 258 && is_piece(v, id, p[i].s, p[i].n + p[i + 1].n))
          best = id, left = i;
    if (left < 0) break;
    p[left].n += p[left + 1].n;
    p[left].id = best;
    memmove(&p[left + 1], &p[left + 2], (size_t)(n - left - 2) * sizeof *p);
    n--;
  } while (n > 1);
  for (int64_t i = 0; i < n; i++) ids[i] = p[i].id;
  return n;
}

START_TEST(joins_as_defined) {
  static const char letters[] = "  aaeehhhnttddsswwoiu.,T\"\n%";
  al_vocab *v = table_of(TOKENS);
  uint32_t r = 1;
  for (int round = 0; round < 300; round++) {
    char text[64] = " ";
    const int n = 2 + round % 50;
    for (int i = 1; i < n; i++) {
      r = r * 1664525u + 1013904223u;
      text[i] = letters[(r >> 16) % (sizeof letters - 1)];
    }
    text[n] = 0;
    int32_t ids[64];
    const int64_t count = encode_slowly(v, text, ids);
    al_tensor *t = al_vocab_encode(c, v, text + 1, (size_t)n - 1, 0);
    ck_assert_int_eq(al_numel(t), count + 1);
    ck_assert_int_eq(*(int32_t *)al_host(t), 1);
    ck_assert_msg(memcmp((int32_t *)al_host(t) + 1, ids, (size_t)count * 4) == 0, "'%s'", text + 1);
    al_release(t);
  }
  al_vocab_free(v);
}
END_TEST

START_TEST(any_bytes) {
  al_vocab *v = table_of(TOKENS);
  ck_assert_int_eq(al_vocab_size(v), 512);
  char all[256], mixed[5000];
  for (int i = 0; i < 256; i++) all[i] = (char)i;
  there_and_back(v, all, sizeof all);
  uint32_t r = 7;
  for (size_t i = 0; i < sizeof mixed; i++) {
    r = r * 1664525u + 1013904223u;
    mixed[i] = (r >> 30) ? "the and a "[(r >> 16) % 10] : (char)(r >> 16);
  }
  there_and_back(v, mixed, sizeof mixed);
  ck_assert_int_eq(there_and_back(v, "", 0), 1); /* BOS alone */
  there_and_back(v, " ", 1);
  there_and_back(v, "  two before, two after  ", 25);
  there_and_back(v, "\n<s>\n<0x41><unk>", 16);
  al_tensor *t =
      al_vocab_encode(c, v, "\xf0\x9f\x8c\x8d", 4, 0); /* no such piece: BOS, space, four bytes */
  ck_assert_int_eq(al_numel(t), 6);
  ck_assert_int_eq(((int32_t *)al_host(t))[2], 3 + 0xf0);
  al_release(t);
  t = al_vocab_encode(c, v, "<0x41>", 6, 0); /* text, not a byte */
  for (int64_t i = 0; i < al_numel(t); i++) ck_assert_int_ne(((int32_t *)al_host(t))[i], 3 + 0x41);
  al_release(t);
  ck_assert_ptr_null(al_vocab_decode(c, v, (const int32_t[]){1, 512}, 2, 0, NULL));
  expect(AL_EVALUE, "id 512 at position 2", "511");
  al_vocab_free(v);
}
END_TEST

/* In a table without a piece for the space, the space put first is a byte piece and goes all the
 * same. */
START_TEST(no_space_piece) {
  size_t n;
  char *data = get_file(TOKENS, &n);
  char *space = memmem(data, n, "\1\0\0\0 ", 5); /* its length, 1, and itself */
  ck_assert_ptr_nonnull(space);
  space[4] = '\1';
  put_file(in_folder("t.bin"), data, n);
  free(data);
  al_vocab *v = table_of(in_folder("t.bin"));
  expect_ok();
  there_and_back(v, "% %", 3);
  al_vocab_free(v);
}
END_TEST

/* A megabyte takes well under a second, where a scan a merge would take hours. */
START_TEST(long_texts) {
  size_t n;
  char *text = get_file(SHAKESPEARE, &n);
  al_vocab *v = table_of(TOKENS);
  const int64_t n_ids = there_and_back(v, text, n);
  ck_assert(n_ids > 400000 && n_ids < 700000);
  memset(text, 'e', n); /* one long run of ties */
  there_and_back(v, text, n);
  al_vocab_free(v);
  free(text);
}
END_TEST

static void bad_table(const char *data, size_t n, al_status st, const char *one, const char *two) {
  const char *path = in_folder("t.bin");
  put_file(path, data, n);
  ck_assert_ptr_null(table_of(path));
  ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL), path));
  expect(st, one, two);
}

START_TEST(bad_tables) {
  size_t n;
  char *data = get_file(TOKENS, &n), *copy = malloc(n + 1);
  for (size_t k = 0; k < 3600; k += k < 40 ? 1 : 97) /* all of them before the last byte piece */
    bad_table(data, k, AL_EFORMAT, "tokenizer", "");
  bad_table(data, n - 1, AL_EFORMAT, "ends in piece 511", "");
  memcpy(copy, data, n);
  copy[n] = 0;
  bad_table(copy, n + 1, AL_EFORMAT, "ends in piece 512", "");
  static const struct {
    int at; /* the first piece: score at 4, length at 8, bytes from 12 to 16 */
    int32_t value;
    const char *one;
  } wrong[] = {{0, -1, "longest piece of -1"},        {0, 0, "longest piece of 0"},
               {0, INT32_MAX, "longest piece"},       {0, 6, "piece 374: length 0 to 6"},
               {4, 0x7fc00000, "piece 0: its score"}, {4, 0x7f800000, "piece 0: its score"},
               {8, -5, "piece 0: length 0 to 7"},     {8, INT32_MIN, "piece 0: length"},
               {8, INT32_MAX, "piece 0: length"},     {8, 4, ""}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    memcpy(copy, data, n);
    memcpy(copy + wrong[i].at, &wrong[i].value, 4);
    bad_table(copy, n, AL_EFORMAT, wrong[i].one, "");
  }
  memcpy(copy, data, n);
  char *byte = memmem(copy, n, "<0x41>", 6);
  byte[3] = '5';
  bad_table(copy, n, AL_EFORMAT, "piece 68 must be <0x41>", "llama2.c");
  free(copy);
  free(data);
  ck_assert_ptr_null(table_of(SHAKESPEARE));
  expect(AL_EFORMAT, "shakespeare.txt", "not a llama2.c tokenizer");
  ck_assert_ptr_null(table_of(MODELS "stories260K.bin"));
  expect(AL_EFORMAT, "stories260K.bin", "");
  ck_assert_ptr_null(table_of(in_folder("no")));
  expect(AL_EIO, "/no", "No such file");
}
END_TEST

/* ---- files of other people's ----------------------------------------------------------------- */

#define GOLDEN AL_SOURCE_DIR "/tests/golden/tokenizers/"

static const struct file {
  const char *kind, *name, *second;
} published[] = {{"huggingface", "qwen2.json", NULL},
                 {"huggingface", "llama2.json", NULL},
                 {"huggingface", "digits.json", NULL},
                 {"huggingface", "bert.json", NULL},
                 {"huggingface", "fused.json", NULL},
                 {"sentencepiece", "tok512.model", NULL},
                 {"tiktoken", "small.tiktoken",
                  "{\"pattern\": \" ?\\\\p{L}+|.\", \"special\": {\"<x>\": 500}}"}};

/* Reads, encodes and decodes; NULL where a step failed. The text is the caller's. */
static char *all_of(const struct file *f, const char *text, int flags, size_t *len) {
  al_source files[2] = {{.name = f->name},
                        {"settings", f->second, f->second ? strlen(f->second) : 0}};
  char path[512], *data = NULL, *back = NULL;
  snprintf(path, sizeof path, GOLDEN "%s", f->name);
  if (al_file_read(c, path, 1 << 20, &data, &files[0].n) != AL_OK) return NULL;
  files[0].data = data;
  al_vocab *v = al_vocab_new(c, f->kind, files, f->second ? 2 : 1);
  al_tensor *ids = v ? al_vocab_encode(c, v, text, strlen(text), flags) : NULL;
  if (ids) back = al_vocab_decode(c, v, al_host(ids), al_numel(ids), flags, len);
  al_release(ids);
  al_vocab_free(v);
  free(data);
  return back;
}

/* Each allocation fails in turn: refused for want of memory, nothing is left behind. */
START_TEST(memory) {
  const char *text =
      "<s>The caf\xc3\xa9 word fox <|sep|> 12345 \xe5\x8c\x97\xf0\x9f\x98\x80 [SEP] ";
  for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
    size_t len;
    const int64_t live = al_memory(c).live;
    char *want = all_of(&published[i], text, AL_ENCODE_SPECIAL, &len);
    expect_ok();
    char *back = NULL;
    for (int64_t n = 1; !back; n += n < 400 ? 1 : 7) {
      al_memory_fail_at(c, n);
      back = all_of(&published[i], text, AL_ENCODE_SPECIAL, &len);
      al_memory_fail_at(c, 0);
      ck_assert_int_eq(al_memory(c).live, live);
      if (!back) expect(AL_ENOMEM, "memory", "");
    }
    ck_assert_str_eq(back, want);
    free(back);
    free(want);
  }
}
END_TEST

Suite *suite_test_vocab(void);
Suite *suite_test_vocab(void) {
  Suite *s = suite_create("vocab");
  TCase *t = tcase_create("vocab");
  tcase_add_checked_fixture(t, scratch_begin, scratch_end);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, characters);
  tcase_add_test(t, not_utf8);
  tcase_add_test(t, shakespeare);
  tcase_add_test(t, published_ids);
  tcase_add_test(t, joins_as_defined);
  tcase_add_test(t, any_bytes);
  tcase_add_test(t, no_space_piece);
  tcase_add_test(t, long_texts);
  tcase_add_test(t, bad_tables);
  tcase_add_test(t, memory);
  suite_add_tcase(s, t);
  return s;
}
