/* test_tokens.c: token sets in files, rows of them, their order, and texts as they come. */
#include "scratch.h"
#include "../core/data/shards.h"
#include <fcntl.h>
#include <stdint.h>
#include <zlib.h>
#include <zstd.h>

/* ---- shards --------------------------------------------------------------------------------- */

/* A shard of ids first, first + 1, .. (mod `mod`), with those header words. */
static size_t make_shard(unsigned char *to, int32_t magic, int32_t version, int32_t n, int width,
                         int first, int mod) {
  memset(to, 0, 1024);
  memcpy(to, (int32_t[]){magic, version, n}, 12);
  for (int i = 0; i < n; i++) {
    const uint32_t id = (uint32_t)((first + i) % mod);
    memcpy(to + 1024 + i * width, &id, (size_t)width);
  }
  return 1024 + (size_t)(n * width);
}

static const char *put_shard(const char *name, int n, int width, int first, int mod) {
  unsigned char bytes[1 << 14];
  const char *path = in_folder(name);
  put_file(path, bytes,
           make_shard(bytes, width == 2 ? 20240520 : 20240801, width == 2 ? 1 : 7, n, width, first,
                      mod));
  return path;
}

static al_shards *open_one(const char *path, const char *format, int64_t vocab) {
  return al_shards_open(c, 1, &path, format, vocab);
}

START_TEST(shards_are_one_sequence) {
  const char *paths[] = {put_shard("a", 100, 2, 0, 1000), put_shard("b", 1, 4, 100, 1000),
                         put_shard("c", 300, 4, 101, 1000)};
  al_shards *s = al_shards_open(c, 3, paths, "llmc", 1000);
  expect_ok();
  ck_assert_int_eq(al_shards_count(s), 401);
  int32_t ids[401];
  for (int at = 0; at < 401; at += 7)
    for (int n = 0; n <= 401 - at; n += 13) {
      ck_assert_int_eq(al_shards_read(c, s, at, n, ids), AL_OK);
      for (int i = 0; i < n; i++) ck_assert_int_eq(ids[i], at + i);
    }
  al_shards_read(c, s, 400, 2, ids);
  expect(AL_EVALUE, "tokens [400,402)", "of 401");
  al_shards_release(s);
  const uint16_t raw[] = {7, 65535, 0};
  put_file(in_folder("raw"), raw, sizeof raw);
  s = open_one(in_folder("raw"), "raw_u16", 65536);
  ck_assert_int_eq(al_shards_read(c, s, 0, 3, ids), AL_OK);
  ck_assert(ids[0] == 7 && ids[1] == 65535 && ids[2] == 0);
  al_shards_release(s);
}
END_TEST

START_TEST(what_is_no_shard_is_named) {
  unsigned char bytes[4096];
  static const struct {
    int32_t magic, version, n;
    int cut; /* bytes fewer, or more */
    const char *one, *two;
  } bad[] = {
      {1234, 1, 10, 0, "magic 20240520 or 20240801", "got 1234"},
      {20240520, 7, 10, 0, "byte 4: version 1 expected", "got 7"},
      {20240801, 1, 10, 0, "version 7 expected", "got 1"},
      {20240520, 1, 0, 0, "byte 8: 0 tokens", "bad"},
      {20240520, 1, -5, 50, "byte 8: -5 tokens", "bad"},
      {20240520, 1, 10, -1, "1044 bytes expected for 10 tokens, got 1043", "cut off"},
      {20240520, 1, 10, 2, "got 1046", "bytes after the last token"},
      {20240801, 7, 10, -20, "1064 bytes expected", "cut off"},
      {20240520, 1, INT32_MAX, 0, "4294968318 bytes expected", "cut off"},
      {20240520, 1, 10, -1020, "24 bytes, a header of 1024 expected", "bad"},
  };
  const char *path = in_folder("bad");
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const int width = bad[i].magic == 20240801 ? 4 : 2, n = bad[i].n == 10 ? 10 : 0;
    size_t size = make_shard(bytes, bad[i].magic, bad[i].version, n, width, 0, 100);
    memcpy(bytes + 8, &bad[i].n, 4);
    size += (size_t)bad[i].cut;
    put_file(path, bytes, size);
    ck_assert_ptr_null(open_one(path, "llmc", 1000));
    expect(AL_EFORMAT, bad[i].one, bad[i].two);
  }
  put_file(path, "abc", 3);
  ck_assert_ptr_null(open_one(path, "raw_u16", 1000));
  expect(AL_EFORMAT, "bad: 3 bytes", "whole number of uint16");
  ck_assert_ptr_null(open_one(path, "raw_u32", 1000));
  expect(AL_EVALUE, "llmc or raw_u16", "raw_u32");
  ck_assert_ptr_null(open_one(in_folder("none"), "llmc", 1000));
  expect(AL_EIO, "none", "No such file");
}
END_TEST

START_TEST(ids_beyond_the_vocabulary_are_refused_when_read) {
  al_shards *s = open_one(put_shard("a", 100, 2, 0, 1000), "llmc", 60);
  expect_ok();
  int32_t ids[100];
  ck_assert_int_eq(al_shards_read(c, s, 0, 60, ids), AL_OK);
  al_shards_read(c, s, 10, 80, ids);
  expect(AL_EFORMAT, "/a: token 60 (byte 1144): id 60", "vocabulary of 60");
  al_shards_release(s);
  s = al_shards_memory(c, 5);
  ck_assert_int_eq(al_shards_put(c, s, (int32_t[]){4, 0}, 2), AL_OK);
  al_shards_put(c, s, (int32_t[]){1, -1}, 2);
  expect(AL_EVALUE, "token 3: id -1", "vocabulary of 5");
  al_shards_release(s);
}
END_TEST

/* A mapping would end the process here. */
START_TEST(a_file_that_shrinks_is_an_error) {
  const char *path = put_shard("a", 5000, 2, 0, 1000);
  al_shards *s = open_one(path, "llmc", 1000);
  ck_assert_int_eq(truncate(path, 3000), 0);
  int32_t ids[100];
  ck_assert_int_eq(al_shards_read(c, s, 0, 100, ids), AL_OK);
  al_shards_read(c, s, 950, 100, ids);
  expect(AL_EFORMAT, "no byte 3000 any more", "cut off meanwhile");
  al_rows *r = al_rows_new(c, s, 0, 5000, "stream", 50, -1);
  al_batch b;
  int refused = 0;
  for (int k = 0; k < 20; k++) { /* what the thread met is told with its batch */
    if (al_rows_shuffled(c, r, 4, 1, k, &b) != AL_OK) {
      expect(AL_EFORMAT, "any more", "cut off meanwhile");
      refused++;
      continue;
    }
    al_release(b.x);
    al_release(b.y);
  }
  ck_assert_int_gt(refused, 10);
  al_rows_free(r);
  al_shards_release(s);
}
END_TEST

START_TEST(beyond_two_gibibytes) {
  /* sparse: 2^30 + 2^20 tokens of 16 bits, of which the last are written */
  const int32_t n = (1 << 30) + (1 << 20);
  unsigned char bytes[2048];
  const char *path = in_folder("big");
  make_shard(bytes, 20240520, 1, 0, 2, 0, 1);
  memcpy(bytes + 8, &n, 4);
  put_file(path, bytes, 1024);
  if (truncate(path, 1024 + 2 * (off_t)n) != 0) return; /* no such files here */
  const int fd = open(path, O_WRONLY);
  for (int i = 0; i < 64; i++) {
    const uint16_t id = (uint16_t)(900 + i);
    ck_assert_int_eq(pwrite(fd, &id, 2, 1024 + 2 * ((off_t)n - 64 + i)), 2);
  }
  close(fd);
  al_shards *s = open_one(path, "llmc", 1000);
  expect_ok();
  al_rows *r = al_rows_new(c, s, 0, n, "stream", 32, -1);
  al_batch b;
  ck_assert_int_eq(al_rows_even(c, r, 1, 1, 2, &b), AL_OK); /* the last row */
  const int64_t at = (al_rows_count(r) - 1) * 32;
  const int32_t *x = al_host(b.x), *y = al_host(b.y);
  for (int t = 0; t < 32; t++) {
    const int64_t k = at + t - ((int64_t)n - 64);
    ck_assert_int_eq(x[t], k < 0 ? 0 : 900 + k);
    ck_assert_int_eq(y[t], k + 1 < 0 ? 0 : 901 + k);
  }
  al_release(b.x);
  al_release(b.y);
  char hex[65], other[65];
  ck_assert_int_eq(al_shards_hash(c, s, hex), AL_OK);
  al_rows_free(r);
  al_shards_release(s);
  const int again = open(path, O_WRONLY); /* its last block is among those that count */
  ck_assert_int_eq(pwrite(again, "\1", 1, 1024 + 2 * (off_t)n - 2), 1);
  close(again);
  s = open_one(path, "llmc", 1000);
  ck_assert_int_eq(al_shards_hash(c, s, other), AL_OK);
  ck_assert_str_ne(hex, other);
  al_shards_release(s);
}
END_TEST

START_TEST(written_and_read) {
  for (int wide = 0; wide < 2; wide++) {
    const char *path = in_folder("w");
    al_shard_writer *w = al_shard_create(c, path, wide);
    expect_ok();
    static int32_t ids[70000];
    for (int i = 0; i < 70000; i++) ids[i] = i % 65536 * (wide ? 3 : 1);
    ck_assert_int_eq(al_shard_put(c, w, ids, 3), AL_OK);
    ck_assert_int_eq(al_shard_put(c, w, ids + 3, 70000 - 3), AL_OK);
    ck_assert_int_eq(access(path, F_OK), wide ? 0 : -1); /* not there before it is whole */
    ck_assert_int_eq(al_shard_commit(c, w), AL_OK);
    al_shards *s = open_one(path, "llmc", 1 << 18);
    expect_ok();
    static int32_t back[70000];
    ck_assert_int_eq(al_shards_count(s), 70000);
    ck_assert_int_eq(al_shards_read(c, s, 0, 70000, back), AL_OK);
    ck_assert_mem_eq(ids, back, sizeof ids);
    al_shards_release(s);
  }
  const int before = files_in_folder();
  al_shard_writer *w = al_shard_create(c, in_folder("x"), false);
  al_shard_put(c, w, (int32_t[]){1, 65536}, 2);
  expect(AL_EVALUE, "x: token 1: id 65536", "16 bits");
  al_shard_abort(w);
  w = al_shard_create(c, in_folder("x"), false);
  al_shard_commit(c, w);
  expect(AL_EVALUE, "x: no tokens", "shard");
  ck_assert_int_eq(files_in_folder(), before);
}
END_TEST

/* ---- rows ----------------------------------------------------------------------------------- */

START_TEST(a_permutation_is_one_to_one) {
  static char seen[5000];
  for (int64_t n = 1; n < 5000; n = n * 2 + 1) {
    int64_t moved = 0, same = 0;
    memset(seen, 0, sizeof seen);
    for (int64_t i = 0; i < n; i++) {
      const int64_t p = al_permuted(7, n, i);
      ck_assert(p >= 0 && p < n && !seen[p]);
      seen[p] = 1;
      moved += p != i;
      same += al_permuted(8, n, i) == p;
    }
    if (n > 60) ck_assert(moved > n - 20 && same < 20); /* one place of n stays, on average */
  }
  const int64_t most = ((int64_t)1 << 62) - 3;
  ck_assert_int_lt(al_permuted(1, most, most - 1), most);
}
END_TEST

/* Places of neighbours in the order are spread as those of a random one: chi squared over a 16 by
 * 16 table of (place of i, place of i + 1) has 255 degrees of freedom, 330 once in 1000. */
START_TEST(an_order_shows_no_pattern) {
  enum { N = 20000, K = 16 };
  int table[K * K] = {0};
  int64_t last = al_permuted(3, N, 0);
  for (int64_t i = 1; i < N; i++) {
    const int64_t p = al_permuted(3, N, i);
    table[last * K / N * K + p * K / N]++;
    last = p;
  }
  double chi2 = 0;
  const double expected = (double)N / (K * K);
  for (int i = 0; i < K * K; i++) chi2 += (table[i] - expected) * (table[i] - expected) / expected;
  ck_assert_double_lt(chi2, 330);
}
END_TEST

static al_shards *memory_of(const int32_t *ids, int n) {
  al_shards *s = al_shards_memory(c, 100000);
  ck_assert_int_eq(al_shards_put(c, s, ids, n), AL_OK);
  return s;
}

static void let_go(al_batch *b) {
  al_release(b->x);
  al_release(b->y);
  al_release(b->starts);
}

/* Each epoch has every row once, in another order; a batch is the same asked for in any order, by
 * another reader, and whatever was read ahead. */
START_TEST(epochs_and_batches) {
  enum { N = 4001, T = 40, ROWS = (N - 1) / T, B = 10 };
  int32_t ids[N], order[3][ROWS];
  for (int i = 0; i < N; i++) ids[i] = i;
  al_shards *s = memory_of(ids, N);
  al_rows *r = al_rows_new(c, s, 0, N, "stream", T, -1);
  expect_ok();
  ck_assert_int_eq(al_rows_count(r), ROWS);
  al_batch b;
  for (int epoch = 0; epoch < 3; epoch++) {
    int seen[ROWS] = {0};
    for (int k = 0; k < ROWS / B; k++) {
      ck_assert_int_eq(al_rows_shuffled(c, r, B, 5, epoch * (ROWS / B) + k, &b), AL_OK);
      const int32_t *x = al_host(b.x), *y = al_host(b.y);
      for (int i = 0; i < B; i++) {
        ck_assert_int_eq(x[i * T] % T, 0);
        for (int t = 0; t < T; t++)
          ck_assert(x[i * T + t] == x[i * T] + t && y[i * T + t] == x[i * T] + t + 1);
        order[epoch][k * B + i] = x[i * T] / T;
        ck_assert_int_eq(seen[x[i * T] / T]++, 0);
      }
      let_go(&b);
    }
  }
  ck_assert_mem_ne(order[0], order[1], sizeof order[0]);
  ck_assert_mem_ne(order[1], order[2], sizeof order[0]);
  al_rows *other = al_rows_new(c, s, 0, N, "stream", T, -1);
  for (int k = 29; k >= 0; k -= 7) {
    ck_assert_int_eq(al_rows_shuffled(c, k % 2 ? r : other, B, 5, k, &b), AL_OK);
    for (int i = 0; i < B; i++)
      ck_assert_int_eq(((int32_t *)al_host(b.x))[i * T] / T, order[k * B / ROWS][k * B % ROWS + i]);
    let_go(&b);
  }
  /* two workers that share each batch of ten see what one sees */
  for (int half = 0; half < 2; half++) {
    ck_assert_int_eq(al_rows_shuffled(c, other, B / 2, 5, 6 + half, &b), AL_OK);
    for (int i = 0; i < B / 2; i++)
      ck_assert_int_eq(((int32_t *)al_host(b.x))[i * T] / T, order[0][30 + 5 * half + i]);
    let_go(&b);
  }
  al_rows_free(r);
  al_rows_free(other);
  al_shards_release(s);
}
END_TEST

/* Documents 0 1 2 3 4 | 0 5 | 0 | 0 6 .. 16 with 0 in front of each. */
static const int32_t documents[] = {0, 1, 2, 3,  4,  0,  5,  0,  0,  6,
                                    7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
enum { N_DOCUMENTS = sizeof documents / sizeof *documents };

START_TEST(packed_rows_say_where_documents_begin) {
  al_shards *s = memory_of(documents, N_DOCUMENTS);
  al_rows *r = al_rows_new(c, s, 0, N_DOCUMENTS, "packed", 9, 0);
  ck_assert_int_eq(al_rows_count(r), 2);
  al_batch b;
  ck_assert_int_eq(al_rows_even(c, r, 2, 0, 2, &b), AL_OK);
  const int32_t starts[] = {0, 0, 0, 0, 0, 5, 5, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  ck_assert_mem_eq(al_host(b.starts), starts, sizeof starts);
  ck_assert_mem_eq(al_host(b.x), documents, 18 * sizeof(int32_t));
  ck_assert_mem_eq(al_host(b.y), documents + 1, 18 * sizeof(int32_t));
  let_go(&b);
  al_rows_free(r);
  ck_assert_ptr_null(al_rows_new(c, s, 0, N_DOCUMENTS, "packed", 9, -1));
  expect(AL_EVALUE, "packed: the id", "begin with");
  ck_assert_ptr_null(al_rows_new(c, s, 0, N_DOCUMENTS, "packed", 20, 0));
  expect(AL_EVALUE, "20 tokens here", "one more");
  ck_assert_ptr_null(al_rows_new(c, s, 5, 4, "stream", 2, 0));
  expect(AL_EVALUE, "[5,4)", "20 tokens");
  al_shards_release(s);
}
END_TEST

START_TEST(documents_one_a_row) {
  al_shards *s = memory_of(documents, N_DOCUMENTS);
  al_rows *r = al_rows_new(c, s, 0, N_DOCUMENTS, "documents", 5, 0);
  ck_assert_int_eq(al_rows_count(r), 6); /* the last one has 12 tokens: three rows */
  al_batch b;
  ck_assert_int_eq(al_rows_even(c, r, 6, 0, 6, &b), AL_OK);
  const int32_t _ = -100, x[] = {0, 1, 2, 3, 4, 0,  5,  0,  0,  0,  0,  0,  0, 0, 0,
                                 0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0, 0, 0},
                y[] = {1, 2, 3, 4, 0,  5,  0,  _,  _,  _,  0,  _, _, _, _,
                       6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0, _, _, _};
  ck_assert_mem_eq(al_host(b.x), x, sizeof x);
  ck_assert_mem_eq(al_host(b.y), y, sizeof y);
  ck_assert_ptr_null(b.starts);
  let_go(&b);
  al_rows_free(r);
  al_shards_release(s);
}
END_TEST

/* ---- texts ---------------------------------------------------------------------------------- */

static al_texts *texts_of(const void *data, size_t n, const char *format, const char *mark) {
  put_file(in_folder("t"), data, n);
  al_texts *t = al_texts_open(c, in_folder("t"), format, "text", mark);
  expect_ok();
  return t;
}

/* The texts joined by '|'; "" when the reading failed, with the error pending. */
static const char *all_of(al_texts *t) {
  static char out[1 << 16];
  size_t n = 0, k;
  const char *text;
  while (al_texts_next(c, t, &text, &k)) {
    memcpy(out + n, text, k);
    n += k;
    out[n++] = '|';
  }
  out[n] = 0;
  al_texts_close(t);
  return out;
}

static const char *read_text(const char *data, const char *format, const char *mark) {
  return all_of(texts_of(data, strlen(data), format, mark));
}

START_TEST(texts_are_split_at_their_marks) {
  ck_assert_str_eq(read_text("one\n<E>\ntwo\nmore\n<E>\n", "text", "<E>"), "one\n|two\nmore\n|");
  ck_assert_str_eq(read_text("one<E>two<E>\nthree", "text", "<E>"), "one|two|\nthree|");
  ck_assert_str_eq(read_text("<E>\n<E>\n \n<E>x", "text", "<E>"), "x|");
  ck_assert_str_eq(read_text("one <E> two", "text", NULL), "one <E> two|");
  ck_assert_str_eq(read_text("", "text", NULL), "");
  ck_assert_str_eq(read_text("a<E", "text", "<E>"), "a<E|");
  ck_assert_str_eq(read_text("{\"text\": \"a\\nb\"}\n\n{\"x\": 1, \"text\": \"c\"}", "jsonl", NULL),
                   "a\nb|c|");
  expect_ok();
}
END_TEST

START_TEST(what_is_no_text_is_named) {
  static const struct {
    const char *data, *format, *one, *two;
  } bad[] = {
      {"a\nb\n\xff\n", "text", "line 3 (byte 4)", "not UTF-8"},
      {"a\n<E>\n\nx\xc3(", "text", "line 4 (byte 8)", "not UTF-8"},
      {"{\"text\": \"a\"}\n{\"text\": }\n", "jsonl", "line 2, column 10", "t: "},
      {"{\"text\": \"a\"}\n\n{\"tex\": \"a\"}\n", "jsonl", "line 3: 'text'", "no such field"},
      {"{\"text\": 5}", "jsonl", "line 1: 'text'", "a string expected"},
      {"[1]", "jsonl", "line 1: 'text'", "an object"},
      {"{\"text\": \"\xff\"}", "jsonl", "line 1", "decode"},
      {"{\"text\": \"a\", \"text\": \"b\"}", "jsonl", "line 1", "uplicate"},
      {"{\"text\": \"\\ud800\"}", "jsonl", "line 1", "t: "},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    read_text(bad[i].data, bad[i].format, *bad[i].format == 't' ? "<E>" : NULL);
    expect(AL_EFORMAT, bad[i].one, bad[i].two);
  }
  ck_assert_ptr_null(al_texts_open(c, in_folder("t"), "jsonl", "text", "<E>"));
  expect(AL_EVALUE, "document_end", "jsonl");
  ck_assert_ptr_null(al_texts_open(c, in_folder("none"), "text", "text", NULL));
  expect(AL_EIO, "none", "No such file");
}
END_TEST

START_TEST(lines_of_100_MB_are_refused) {
  const size_t n = 100000000;
  char *line = malloc(n);
  memset(line, 'a', n);
  memcpy(line, "{\"text\":\"b\"}\n{\"text\":\"", 22);
  put_file(in_folder("t"), line, n);
  for (int jsonl = 0; jsonl < 2; jsonl++) {
    al_texts *t = al_texts_open(c, in_folder("t"), jsonl ? "jsonl" : "text", "text", NULL);
    all_of(t);
    expect(AL_EFORMAT, jsonl ? "line 2: more than 67108864 bytes" : "begins in line 1", "t: ");
  }
  free(line);
}
END_TEST

/* Members and frames one behind the other, cut anywhere: what is whole is read, what is cut off is
 * said to be. */
START_TEST(packed_texts) {
  static char data[300000], packed[600000];
  size_t n = 0;
  for (int i = 0; n + 100 < sizeof data; i++)
    n += (size_t)sprintf(data + n, "document %d %d\n<E>\n", i, i * i % 7919);
  put_file(in_folder("t"), data, n);
  al_texts *t = al_texts_open(c, in_folder("t"), "text", "text", "<E>");
  size_t count = 0, k;
  const char *text;
  while (al_texts_next(c, t, &text, &k)) count++;
  al_texts_close(t);
  ck_assert_uint_gt(count, 10000);
  for (int kind = 0; kind < 2; kind++) {
    size_t size = 0, first = 0;
    for (size_t at = 0, part; at < n; at += part) {
      part = n - at < 100000 ? n - at : 100000;
      if (kind == 0) {
        z_stream z = {0};
        ck_assert_int_eq(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        z.next_in = (unsigned char *)data + at;
        z.avail_in = (unsigned)part;
        z.next_out = (unsigned char *)packed + size;
        z.avail_out = (unsigned)(sizeof packed - size);
        ck_assert_int_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
        size = sizeof packed - z.avail_out;
        deflateEnd(&z);
      } else size += ZSTD_compress(packed + size, sizeof packed - size, data + at, part, 3);
      if (!first) first = size;
    }
    put_file(in_folder("t"), packed, size);
    t = al_texts_open(c, in_folder("t"), "text", "text", "<E>");
    size_t found = 0;
    while (al_texts_next(c, t, &text, &k)) found++;
    expect_ok();
    int64_t whole;
    ck_assert_int_eq(al_texts_taken(t, &whole), (int64_t)size);
    ck_assert_int_eq(whole, (int64_t)size);
    al_texts_close(t);
    ck_assert_uint_eq(found, count);
    for (size_t cut = size - 1; cut > size - 12; cut--) {
      t = texts_of(packed, cut, "text", "<E>");
      while (al_texts_next(c, t, &text, &k)) found++;
      al_texts_close(t);
      expect(AL_EFORMAT, "cut off", "t: byte");
    }
    packed[first + 40] ^= 0x55;
    t = texts_of(packed, size, "text", "<E>");
    while (al_texts_next(c, t, &text, &k)) found++;
    al_texts_close(t);
    ck_assert_int_eq(al_error(c), AL_EFORMAT);
    al_error_clear(c);
  }
}
END_TEST

Suite *suite_test_tokens(void) {
  Suite *s = suite_create("tokens");
  TCase *t = tcase_create("tokens");
  tcase_add_checked_fixture(t, scratch_begin, scratch_end);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, shards_are_one_sequence);
  tcase_add_test(t, what_is_no_shard_is_named);
  tcase_add_test(t, ids_beyond_the_vocabulary_are_refused_when_read);
  tcase_add_test(t, a_file_that_shrinks_is_an_error);
  tcase_add_test(t, beyond_two_gibibytes);
  tcase_add_test(t, written_and_read);
  tcase_add_test(t, a_permutation_is_one_to_one);
  tcase_add_test(t, an_order_shows_no_pattern);
  tcase_add_test(t, epochs_and_batches);
  tcase_add_test(t, packed_rows_say_where_documents_begin);
  tcase_add_test(t, documents_one_a_row);
  tcase_add_test(t, texts_are_split_at_their_marks);
  tcase_add_test(t, what_is_no_text_is_named);
  tcase_add_test(t, lines_of_100_MB_are_refused);
  tcase_add_test(t, packed_texts);
  suite_add_tcase(s, t);
  return s;
}
