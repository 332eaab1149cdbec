/* test_data.c: windows of tokens and llama2.c's models; memory of all token data. */
#include "scratch.h"
#include "../core/op.h"
#include <limits.h>
#include <math.h>
#include <time.h>

#define MODELS AL_SOURCE_DIR "/experiments/models/"
#define MODEL MODELS "stories260K.bin"
#define TOKENS MODELS "tok512.bin"
#define SHAKESPEARE AL_SOURCE_DIR "/experiments/data/shakespeare.txt"

/* ---- windows -------------------------------------------------------------------------------- */

static al_tensor *counting(int64_t n) {
  al_tensor *t = al_tensor_new(c, AL_I32, 1, &n);
  for (int64_t i = 0; i < n; i++) ((int32_t *)al_host(t))[i] = (int32_t)i;
  return t;
}

/* Rows are runs of consecutive tokens, y one further; returns the start of row b. */
static int64_t start_of(const al_tensor *x, const al_tensor *y, int64_t b) {
  const int64_t T = al_size(x, 1);
  const int32_t *px = (int32_t *)al_host(x) + b * T, *py = (int32_t *)al_host(y) + b * T;
  for (int64_t t = 0; t < T; t++) {
    ck_assert_int_eq(px[t], px[0] + t);
    ck_assert_int_eq(py[t], px[t] + 1);
  }
  return px[0];
}

START_TEST(random_windows) {
  enum { N = 100, LO = 20, HI = 60, T = 9, B = 7, K = 600, STARTS = HI - LO - T };
  al_tensor *tokens = counting(N), *x, *y;
  int64_t seen[N] = {0};
  for (uint64_t k = 0; k < K; k++) {
    ck_assert_int_eq(al_windows_random(c, tokens, LO, HI, B, T, 5, k, &x, &y), AL_OK);
    for (int64_t b = 0; b < B; b++) seen[start_of(x, y, b)]++;
    al_release(x);
    al_release(y);
  }
  double chi2 = 0;
  const double expected = (double)B * K / STARTS;
  for (int i = 0; i < N; i++) {
    const bool allowed = i >= LO && i < HI - T;
    ck_assert(allowed || seen[i] == 0);
    if (allowed) chi2 += ((double)seen[i] - expected) * ((double)seen[i] - expected) / expected;
  }
  ck_assert_double_lt(chi2, 60); /* 30 degrees of freedom: exceeded by chance once in 1000 */
  al_release(tokens);
}
END_TEST

/* Row b of batch k is a function of (seed, k, b), whatever the batch size. */
START_TEST(windows_are_pure) {
  al_tensor *tokens = counting(1000), *x[4], *y[4];
  ck_assert_int_eq(al_windows_random(c, tokens, 0, 1000, 4, 16, 9, 3, &x[0], &y[0]), AL_OK);
  ck_assert_int_eq(al_windows_random(c, tokens, 0, 1000, 2, 16, 9, 3, &x[1], &y[1]), AL_OK);
  ck_assert_int_eq(al_windows_random(c, tokens, 0, 1000, 4, 16, 9, 4, &x[2], &y[2]), AL_OK);
  ck_assert_int_eq(al_windows_random(c, tokens, 0, 1000, 4, 16, 10, 3, &x[3], &y[3]), AL_OK);
  ck_assert(memcmp(al_host(x[0]), al_host(x[1]), 2 * 16 * 4) == 0);
  ck_assert(memcmp(al_host(x[0]), al_host(x[2]), 4 * 16 * 4) != 0);
  ck_assert(memcmp(al_host(x[0]), al_host(x[3]), 4 * 16 * 4) != 0);
  for (int i = 0; i < 4; i++) al_release(x[i]), al_release(y[i]);
  al_release(tokens);
}
END_TEST

START_TEST(even_windows) {
  al_tensor *tokens = counting(500), *x, *y, *px, *py;
  ck_assert_int_eq(al_windows_even(c, tokens, 100, 400, 10, 32, 0, 10, &x, &y), AL_OK);
  ck_assert_int_eq(start_of(x, y, 0), 100);
  ck_assert_int_eq(start_of(x, y, 9), 400 - 33);
  for (int64_t b = 1; b < 10; b++) {
    const int64_t gap = start_of(x, y, b) - start_of(x, y, b - 1);
    ck_assert(gap == 29 || gap == 30); /* 267 / 9 = 29.7 */
  }
  for (int64_t first = 0; first < 10; first += 5) { /* in two batches: the same windows */
    ck_assert_int_eq(al_windows_even(c, tokens, 100, 400, 5, 32, first, 10, &px, &py), AL_OK);
    ck_assert(memcmp(al_host(px), (int32_t *)al_host(x) + first * 32, 5 * 32 * 4) == 0);
    al_release(px);
    al_release(py);
  }
  al_release(x);
  al_release(y);
  ck_assert_int_eq(al_windows_even(c, tokens, 7, 500, 1, 8, 0, 1, &x, &y), AL_OK);
  ck_assert_int_eq(start_of(x, y, 0), 7);
  al_release(x);
  al_release(y);
  al_release(tokens);
}
END_TEST

START_TEST(least_text_and_strides) {
  al_tensor *tokens = counting(40), *x, *y;
  for (uint64_t k = 0; k < 20; k++) { /* T + 1 tokens: one window */
    ck_assert_int_eq(al_windows_random(c, tokens, 3, 12, 2, 8, k, k, &x, &y), AL_OK);
    ck_assert_int_eq(start_of(x, y, 0), 3);
    ck_assert_int_eq(start_of(x, y, 1), 3);
    al_release(x);
    al_release(y);
  }
  al_tensor *odd = al_tensor_view(c, tokens, 1, (const int64_t[]){20}, (const int64_t[]){2}, 1);
  ck_assert_int_eq(al_windows_even(c, odd, 0, 20, 1, 3, 0, 1, &x, &y), AL_OK);
  ck_assert_int_eq(((int32_t *)al_host(x))[2], 5);
  ck_assert_int_eq(((int32_t *)al_host(y))[2], 7);
  al_release(x);
  al_release(y);
  al_release(odd);
  al_release(tokens);
}
END_TEST

static void no_windows(const al_tensor *t, int64_t lo, int64_t hi, int64_t B, int64_t T,
                       al_status st, const char *one, const char *two) {
  al_tensor *x = NULL, *y = NULL;
  ck_assert_int_eq(al_windows_random(c, t, lo, hi, B, T, 1, 1, &x, &y), st);
  ck_assert(!x && !y);
  expect(st, one, two);
  ck_assert_int_eq(al_windows_even(c, t, lo, hi, B, T, 0, B, &x, &y), st);
  expect(st, one, two);
}

START_TEST(refused_windows) {
  al_tensor *tokens = counting(100), *x, *y;
  al_tensor *floats = al_tensor_full(c, AL_F32, 1, (const int64_t[]){100}, 1);
  al_tensor *table = al_tensor_full(c, AL_I32, 2, (const int64_t[]){10, 10}, 1);
  no_windows(tokens, 0, 100, 1, 100, AL_EVALUE, "100 tokens", "context of 100");
  no_windows(tokens, 20, 52, 1, 64, AL_EVALUE, "32 tokens", "context of 64");
  no_windows(tokens, 5, 5, 1, 1, AL_EVALUE, "0 tokens", "context of 1");
  no_windows(tokens, 0, 100, 1, INT64_MAX, AL_EVALUE, "100 tokens",
             "context of 9223372036854775807");
  no_windows(tokens, 0, 101, 1, 8, AL_EVALUE, "[0,101)", "100 tokens");
  no_windows(tokens, -1, 50, 1, 8, AL_EVALUE, "[-1,50)", "100 tokens");
  no_windows(tokens, 60, 50, 1, 8, AL_EVALUE, "[60,50)", "100 tokens");
  no_windows(tokens, 0, 100, 0, 8, AL_EVALUE, "batch", "got 0 and 8");
  no_windows(tokens, 0, 100, 1, 0, AL_EVALUE, "context", "got 1 and 0");
  no_windows(tokens, 0, 100, INT64_MAX / 4, 50, AL_ESHAPE, "too large", "");
  no_windows(floats, 0, 100, 1, 8, AL_ETYPE, "i32", "f32 (100)");
  no_windows(table, 0, 10, 1, 8, AL_ETYPE, "one axis", "(10,10)");
  no_windows(NULL, 0, 10, 1, 8, AL_EVALUE, "tokens", "tensor");
  ck_assert_int_ne(al_windows_even(c, tokens, 0, 100, 2, 8, 3, 4, &x, &y), AL_OK);
  expect(AL_EVALUE, "2 windows from number 3", "of 4");
  ck_assert_int_ne(al_windows_even(c, tokens, 0, 100, 2, 8, -1, 4, &x, &y), AL_OK);
  expect(AL_EVALUE, "from number -1", "of 4");
  ck_assert_int_ne(al_windows_even(c, tokens, 0, 100, 2, 8, INT64_MAX, 4, &x, &y), AL_OK);
  expect(AL_EVALUE, "of 4", "");
  al_release(tokens);
  al_release(floats);
  al_release(table);
}
END_TEST

/* ---- llama2.c's models ---------------------------------------------------------------------- */

START_TEST(stories) {
  al_llama2c *m = al_llama2c_open(c, MODEL);
  expect_ok();
  const al_llama2c_config *s = al_llama2c_sizes(m);
  ck_assert(s->dim == 64 && s->hidden_dim == 172 && s->n_layers == 5 && s->n_heads == 8);
  ck_assert(s->n_kv_heads == 4 && s->vocab_size == 512 && s->max_seq_len == 512 && s->tied);
  ck_assert_int_eq(al_llama2c_count(m), 2 + 9 * 5);
  int64_t total = 0;
  for (int i = 0; i < al_llama2c_count(m); i++) {
    al_tensor *t = al_llama2c_tensor(c, m, al_llama2c_name(m, i));
    expect_ok();
    total += al_numel(t);
    for (int64_t k = 0; k < al_numel(t); k++) ck_assert(fabsf(((float *)al_host(t))[k]) < 10);
    al_release(t);
  }
  ck_assert_int_eq(total, 264128 - 512 * 8); /* all but the rotary tables */
  ck_assert_ptr_null(al_llama2c_name(m, -1));
  ck_assert_ptr_null(al_llama2c_name(m, al_llama2c_count(m)));
  ck_assert_ptr_null(al_llama2c_tensor(c, m, "lm_head.weight"));
  expect(AL_ENAME, "lm_head.weight", "stories260K.bin");
  al_llama2c_close(m);
}
END_TEST

/* Processor time to load every tensor of a model of that many tiny layers. */
static double seconds_of(int layers) {
  const int32_t sizes[] = {2, 1, layers, 1, 1, 1, 1};
  const char *path = in_folder("many.bin");
  put_file(path, sizes, sizeof sizes);
  ck_assert_int_eq(truncate(path, 28 + 4 * (2 + layers * 26 + 2 + 2)), 0);
  const clock_t began = clock();
  al_llama2c *m = al_llama2c_open(c, path);
  expect_ok();
  ck_assert_int_eq(al_llama2c_count(m), 2 + 9 * layers);
  for (int i = 0; i < al_llama2c_count(m); i++) {
    al_tensor *t = al_llama2c_tensor(c, m, al_llama2c_name(m, i));
    ck_assert_ptr_nonnull(t);
    al_release(t);
  }
  al_llama2c_close(m);
  return (double)(clock() - began) / CLOCKS_PER_SEC;
}

/* As many layers as are believed: a search through all names for each would take the square. */
START_TEST(many_layers) {
  double few = 1e9;
  for (int i = 0; i < 5; i++) few = fmin(few, seconds_of(512));
  const double many = seconds_of(4096);
  ck_assert_msg(many < 24 * few, "512 layers %g s, 4096 layers %g s", few, many);
}
END_TEST

enum { SIZES = 7, FLOATS = 8000 };
static const int32_t small_sizes[SIZES] = {4, 6, 2, 2, 1, -3, 5};
/* Names with their place among the floats and their shape, counted by hand from the layout. */
static const struct {
  const char *name;
  int at, rows, columns;
} places[] = {
    {"model.embed_tokens.weight", 0, 3, 4},
    {"model.layers.0.input_layernorm.weight", 12, 4, 0},
    {"model.layers.1.input_layernorm.weight", 16, 4, 0},
    {"model.layers.0.self_attn.q_proj.weight", 20, 4, 4},
    {"model.layers.1.self_attn.q_proj.weight", 36, 4, 4},
    {"model.layers.0.self_attn.k_proj.weight", 52, 2, 4},
    {"model.layers.1.self_attn.k_proj.weight", 60, 2, 4},
    {"model.layers.0.self_attn.v_proj.weight", 68, 2, 4},
    {"model.layers.1.self_attn.v_proj.weight", 76, 2, 4},
    {"model.layers.0.self_attn.o_proj.weight", 84, 4, 4},
    {"model.layers.1.self_attn.o_proj.weight", 100, 4, 4},
    {"model.layers.0.post_attention_layernorm.weight", 116, 4, 0},
    {"model.layers.1.post_attention_layernorm.weight", 120, 4, 0},
    {"model.layers.0.mlp.gate_proj.weight", 124, 6, 4},
    {"model.layers.1.mlp.gate_proj.weight", 148, 6, 4},
    {"model.layers.0.mlp.down_proj.weight", 172, 4, 6},
    {"model.layers.1.mlp.down_proj.weight", 196, 4, 6},
    {"model.layers.0.mlp.up_proj.weight", 220, 6, 4},
    {"model.layers.1.mlp.up_proj.weight", 244, 6, 4},
    {"model.norm.weight", 268, 4, 0}, /* then 2 x 5 x 1 rotary numbers */
    {"lm_head.weight", 282, 3, 4},
};
enum { PLACES = sizeof places / sizeof *places, SMALL = 294 };

/* A model of those sizes whose i-th float is i; `n` floats are written. */
static const char *small_model(const int32_t *sizes, int n) {
  static float data[FLOATS];
  for (int i = 0; i < FLOATS; i++) data[i] = (float)i;
  char all[4 * (SIZES + FLOATS)];
  memcpy(all, sizes, 4 * SIZES);
  memcpy(all + 4 * SIZES, data, sizeof data);
  const char *path = in_folder("m.bin");
  put_file(path, all, (size_t)(4 * (SIZES + n)));
  return path;
}

START_TEST(every_place) {
  al_llama2c *m = al_llama2c_open(c, small_model(small_sizes, SMALL));
  expect_ok();
  ck_assert(!al_llama2c_sizes(m)->tied);
  ck_assert_int_eq(al_llama2c_sizes(m)->vocab_size, 3);
  ck_assert_int_eq(al_llama2c_count(m), PLACES);
  for (int i = 0; i < PLACES; i++) {
    al_tensor *t = al_llama2c_tensor(c, m, places[i].name);
    expect_ok();
    ck_assert_int_eq(al_ndim(t), places[i].columns ? 2 : 1);
    ck_assert_int_eq(al_size(t, 0), places[i].rows);
    if (places[i].columns) ck_assert_int_eq(al_size(t, 1), places[i].columns);
    for (int64_t k = 0; k < al_numel(t); k++)
      ck_assert(((float *)al_host(t))[k] == (float)(places[i].at + k));
    al_release(t);
  }
  al_llama2c_close(m);
}
END_TEST

/* The same model as version 1 has it: a longer header, the norms first, no rotary numbers. */
static const char *later_model(const int32_t *sizes, int32_t version, unsigned char tied, int n) {
  static const int order[PLACES] = {1, 2, 11, 12, 19, 0,  3,  4,  5,  6, 7,
                                    8, 9, 10, 13, 14, 15, 16, 17, 18, 20};
  char all[256 + 4 * SMALL] = {0};
  const int32_t head[2] = {0x616b3432, version};
  memcpy(all, head, sizeof head);
  memcpy(all + 8, sizes, 4 * SIZES);
  all[36] = (char)tied;
  int at = 0;
  for (int i = 0; i < PLACES; i++) {
    const int size =
        places[order[i]].rows * (places[order[i]].columns ? places[order[i]].columns : 1);
    for (int k = 0; k < size; k++, at++) {
      const float v = (float)(places[order[i]].at + k);
      memcpy(all + 256 + 4 * at, &v, 4);
    }
  }
  const char *path = in_folder("later.bin");
  put_file(path, all, (size_t)(256 + 4 * at + n));
  return path;
}

START_TEST(version_1) {
  int32_t sizes[SIZES];
  memcpy(sizes, small_sizes, sizeof sizes);
  sizes[5] = 3;
  al_llama2c *m = al_llama2c_open(c, later_model(sizes, 1, 0, 0));
  expect_ok();
  ck_assert(!al_llama2c_sizes(m)->tied);
  ck_assert_int_eq(al_llama2c_count(m), PLACES);
  for (int i = 0; i < PLACES; i++) {
    al_tensor *t = al_llama2c_tensor(c, m, places[i].name);
    expect_ok();
    for (int64_t k = 0; k < al_numel(t); k++)
      ck_assert(((float *)al_host(t))[k] == (float)(places[i].at + k));
    al_release(t);
  }
  al_llama2c_close(m);
  m = al_llama2c_open(c, later_model(sizes, 1, 1, -4 * 12)); /* tied: without the head */
  expect_ok();
  ck_assert(al_llama2c_sizes(m)->tied);
  al_llama2c_close(m);
}
END_TEST

static void bad_model(const char *path, const char *one, const char *two) {
  ck_assert_ptr_null(al_llama2c_open(c, path));
  ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL), path));
  expect(AL_EFORMAT, one, two);
}

START_TEST(bad_models) {
  static const struct {
    int i;
    int32_t value;
    const char *one, *two;
  } wrong[] = {
      {0, 0, "dim", "got 0"},
      {0, -4, "dim", "got -4"},
      {0, INT32_MAX, "dim", "got 2147483647"},
      {0, 5, "dim 5", "n_heads 2"},
      {0, 6, "dim 6", "n_heads 2"},
      {1, 0, "hidden_dim", "got 0"},
      {1, INT32_MIN, "hidden_dim", "got -2147483648"},
      {2, 0, "n_layers", "got 0"},
      {2, 1 << 30, "n_layers", "got 1073741824"},
      {3, 0, "n_heads", "got 0"},
      {3, -1, "n_heads", "got -1"},
      {4, 0, "n_kv_heads", "got 0"},
      {4, 3, "n_heads 2", "n_kv_heads 3"},
      {5, 0, "vocab_size", "got 0"},
      {5, INT32_MIN, "vocab_size", "got -2147483648"},
      {5, INT32_MAX, "vocab_size", "got 2147483647"},
      {6, 0, "max_seq_len", "got 0"},
      {6, INT32_MAX, "max_seq_len", "got 2147483647"},
      {0, 0x616b3432, "version 6", "versions 0 and 1"},
      {5, 3, "has 1156 bytes", "the file has 1204"}, /* tied: 12 floats fewer */
      {0, 8, "a model of these sizes has", "cut short?"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    int32_t sizes[SIZES];
    memcpy(sizes, small_sizes, sizeof sizes);
    sizes[wrong[i].i] = wrong[i].value;
    bad_model(small_model(sizes, SMALL), wrong[i].one, wrong[i].two);
  }
  /* the largest sizes believed: no overflow on the way to the refusal */
  static const int32_t most[SIZES] = {1 << 18, 1 << 20,    1 << 12, 1 << 14,
                                      1 << 14, -(1 << 24), 1 << 24};
  bad_model(small_model(most, SMALL), "cut short?", "");
  for (int n = 0; n < SMALL; n++) bad_model(small_model(small_sizes, n), "cut short?", "");
  bad_model(small_model(small_sizes, SMALL + 1), "another format?", "1208");
  const char *path = in_folder("m.bin");
  char bytes[28] = {4};
  for (size_t n = 0; n < sizeof bytes; n++) {
    put_file(path, bytes, n);
    bad_model(path, "too few", "");
  }
  int32_t later[SIZES];
  memcpy(later, small_sizes, sizeof later);
  bad_model(later_model(later, 1, 0, 0), "vocab_size", "got -3");
  later[5] = 3;
  bad_model(later_model(later, 2, 0, 0), "version 2", "versions 0 and 1");
  bad_model(later_model(later, 1, 2, 0), "byte 36", "got 2");
  bad_model(later_model(later, 1, 1, 0), "another format?", "");
  bad_model(later_model(later, 1, 0, -1), "cut short?", "");
  bad_model(later_model(later, 1, 0, -4 * SMALL), "too few", "");
  bad_model(SHAKESPEARE, "dim", "not a llama2.c model");
  bad_model(TOKENS, "dim", "");
  ck_assert_ptr_null(al_llama2c_open(c, in_folder("no")));
  expect(AL_EIO, "/no", "No such file");
  ck_assert_ptr_null(al_llama2c_open(c, folder));
  expect(AL_EIO, folder, "is a folder");
}
END_TEST

/* ---- memory --------------------------------------------------------------------------------- */

static al_vocab *table_of(const char *path) {
  al_source f = {.name = path};
  char *data = NULL;
  if (al_file_read(c, path, 1 << 28, &data, &f.n) != AL_OK) return NULL;
  f.data = data;
  al_vocab *v = al_vocab_new(c, "llama2c", &f, 1);
  free(data);
  return v;
}

static bool all_of_it(al_tensor *tokens, const char *text, size_t n) {
  bool ok = false;
  al_tensor *x = NULL, *y = NULL, *ids = NULL, *w = NULL;
  char *back = NULL;
  al_vocab *chars = al_vocab_new(c, "characters", &(al_source){"text", text, n}, 1),
           *table = chars ? table_of(TOKENS) : NULL;
  al_llama2c *m = table ? al_llama2c_open(c, MODEL) : NULL;
  if (!m || al_windows_random(c, tokens, 0, 100, 2, 8, 1, 1, &x, &y) != AL_OK) goto done;
  al_release(x);
  al_release(y);
  x = y = NULL;
  if (al_windows_even(c, tokens, 0, 100, 2, 8, 0, 2, &x, &y) != AL_OK) goto done;
  if (!(ids = al_vocab_encode(c, chars, text, n, 0))) goto done;
  al_release(ids);
  if (!(ids = al_vocab_encode(c, table, text, n, 0))) goto done;
  if (!(back = al_vocab_decode(c, table, al_host(ids), al_numel(ids), 0, NULL))) goto done;
  ok = (w = al_llama2c_tensor(c, m, "model.norm.weight")) != NULL;
done:
  al_release(x);
  al_release(y);
  al_release(ids);
  al_release(w);
  free(back);
  al_vocab_free(chars);
  al_vocab_free(table);
  al_llama2c_close(m);
  return ok;
}

START_TEST(allocation_fails) {
  al_tensor *tokens = counting(100);
  const int64_t live = al_memory(c).live;
  int64_t n = 1;
  for (;; n++) {
    al_memory_fail_at(c, n);
    const bool ok = all_of_it(tokens, "Once upon a time", 16);
    al_memory_fail_at(c, 0);
    ck_assert_int_eq(al_memory(c).live, live);
    if (ok) break;
    expect(AL_ENOMEM, "memory", "");
  }
  ck_assert_int_gt(n, 25);
  al_release(tokens);
}
END_TEST

/* Inside a scope the scope owns what comes, also when half of a pair could not be made. */
START_TEST(scopes) {
  al_tensor *tokens = counting(100), *x, *y;
  al_vocab *v = table_of(TOKENS);
  for (int64_t n = 1; n < 6; n++) {
    al_scope_begin(c);
    al_memory_fail_at(c, n);
    const al_status st = al_windows_random(c, tokens, 0, 100, 2, 8, 1, 1, &x, &y);
    al_memory_fail_at(c, 0);
    ck_assert_int_eq(st, n < 5 ? AL_ENOMEM : AL_OK); /* a tensor takes two allocations */
    al_error_clear(c);
    ck_assert_ptr_nonnull(al_vocab_encode(c, v, "abc", 3, 0));
    al_tensor *kept = al_scope_end(c, st == AL_OK ? y : NULL);
    ck_assert(kept == (st == AL_OK ? y : NULL));
    al_release(kept);
  }
  al_vocab_free(v);
  al_release(tokens);
}
END_TEST

Suite *suite_test_data(void);
Suite *suite_test_data(void) {
  Suite *s = suite_create("data");
  TCase *t = tcase_create("data");
  tcase_add_checked_fixture(t, scratch_begin, scratch_end);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, random_windows);
  tcase_add_test(t, windows_are_pure);
  tcase_add_test(t, even_windows);
  tcase_add_test(t, least_text_and_strides);
  tcase_add_test(t, refused_windows);
  tcase_add_test(t, stories);
  tcase_add_test(t, many_layers);
  tcase_add_test(t, every_place);
  tcase_add_test(t, version_1);
  tcase_add_test(t, bad_models);
  tcase_add_test(t, allocation_fails);
  tcase_add_test(t, scopes);
  suite_add_tcase(s, t);
  return s;
}
