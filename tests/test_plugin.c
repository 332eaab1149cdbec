/* test_plugin.c: what the loader refuses, and that nothing of it is left behind; that one source
 * gives the same variant built in and loaded. */
#define _GNU_SOURCE /* memmem */
#include "../attention/plugin.h"
#include "scratch.h"
#include <check.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEAN AL_FIXTURE_DIR "/mean.so"

/* ---- the check of bytes -------------------- */

typedef struct bytes {
  char *p;
  size_t n;
} bytes;

static bytes read_bytes(const char *path) {
  bytes b = {0};
  ck_assert_msg(al_file_read(c, path, 1 << 28, &b.p, &b.n) == AL_OK, "%s",
                al_error_message(c, NULL, NULL));
  return b;
}

static void refuses(const bytes *b, size_t n, const char *why) {
  attn_plugin_stamp stamp;
  char text[256];
  ck_assert_msg(!attn_plugin_check(b->p, n, &stamp, text, sizeof text), "accepted; wanted: %s",
                why);
  ck_assert_msg(strstr(text, why) != NULL, "'%s' wanted in '%s'", why, text);
}

static Elf64_Ehdr *head(const bytes *b) { return (Elf64_Ehdr *)(void *)b->p; }

/* The stamp in the file, found by its magic. */
static attn_plugin_stamp *stamp_in(const bytes *b) {
  attn_plugin_stamp *s = memmem(b->p, b->n, ATTN_MAGIC, sizeof ATTN_MAGIC);
  ck_assert_msg(s != NULL, "no stamp");
  return s;
}

START_TEST(a_plugin_is_recognised) {
  bytes b = read_bytes(MEAN);
  attn_plugin_stamp stamp;
  char text[256];
  ck_assert_msg(attn_plugin_check(b.p, b.n, &stamp, text, sizeof text), "%s", text);
  ck_assert_str_eq(stamp.name, "mean");
  ck_assert_uint_eq(stamp.abi, ATTN_ABI);
  free(b.p);
}
END_TEST

START_TEST(headers_are_checked) {
  bytes b = read_bytes(MEAN);
  refuses(&b, 0, "this file is empty");
  refuses(&b, 3, "no ELF file");
  refuses(&b, 20, "cut short: 20 bytes");
  refuses(&(bytes){(char[]){"#include <stdio.h>\n"}, 19}, 19, "this is a text");
  refuses(&(bytes){(char[]){"\1\2\3\4"}, 4}, 4, "it begins with 01 02 03 04");
  Elf64_Ehdr keep = *head(&b);
#define WITH(field, value, why)                                                                    \
  head(&b)->field = (value);                                                                       \
  refuses(&b, b.n, why);                                                                           \
  *head(&b) = keep
  WITH(e_ident[EI_CLASS], ELFCLASS32, "64-bit shared object is needed, this is a 32-bit");
  WITH(e_ident[EI_DATA], keep.e_ident[EI_DATA] ^ 3, "other byte order");
  WITH(e_type, ET_REL, "link it with -shared");
  WITH(e_type, ET_EXEC, "ELF file of type 2");
  WITH(e_machine, EM_SPARC, "another machine: ELF machine 2");
  WITH(e_phnum, 0, "0 program headers");
  WITH(e_phentsize, 8, "of 8 bytes");
  WITH(e_phoff, b.n - 8, "program headers end beyond");
  WITH(e_phoff, UINT64_MAX - 16, "program headers end beyond");
  WITH(e_shnum, 0, "section table is missing");
  WITH(e_shentsize, 63, "section table is missing");
  WITH(e_shoff, b.n, "section table ends beyond");
  WITH(e_shoff, UINT64_MAX - 64, "section table ends beyond");
#undef WITH
  free(b.p);
}
END_TEST

START_TEST(stamps_are_checked) {
  bytes b = read_bytes(MEAN);
  attn_plugin_stamp *s = stamp_in(&b), keep = *s;
#define WITH(change, why)                                                                          \
  change;                                                                                          \
  refuses(&b, b.n, why);                                                                           \
  *s = keep
  WITH(s->magic[0] = 'A', "does not begin with 'attnlab'");
  WITH(s->abi = ATTN_ABI + 6, "made for plug-in ABI 10, this program has 4");
  WITH(s->sizes[0] -= 8, "its attn_family has");
  WITH(s->sizes[1] += 8, "its attn_in has");
  WITH(s->sizes[6] = 0, "its attn_sizes has 0 bytes");
  WITH(s->name[0] = 0, "is no name");
  WITH(s->name[0] = '4', "is no name");
  WITH(s->name[1] = '/', "is no name");
  WITH(memset(s->name, 'x', sizeof s->name), "is no name");
#undef WITH
  free(b.p);
}
END_TEST

/* No prefix of the file is a plug-in, and none is read beyond its end (each has an allocation of
 * its own, for the sanitizer to watch). */
START_TEST(no_part_of_a_file_passes) {
  bytes b = read_bytes(MEAN);
  for (size_t n = 0; n < b.n; n += n < 256 || n + 4096 > b.n ? 1 : 61) {
    bytes part = {malloc(n ? n : 1), n};
    memcpy(part.p, b.p, n);
    refuses(&part, n, "");
    free(part.p);
  }
  free(b.p);
}
END_TEST

/* ---- the loader -------------------- */

static bool mapped(const char *path) {
  FILE *f = fopen("/proc/self/maps", "r");
  char line[4096];
  bool found = false;
  while (f && fgets(line, sizeof line, f)) found = found || strstr(line, path);
  if (f) fclose(f);
  return found;
}

/* Refused with each of the texts in the message; families, presets and names are as before. */
static void refuses_file(const char *path, const char *const *texts) {
  const int families = attn_family_count(), presets = attn_preset_count();
  ck_assert_msg(attn_plugin_load(c, path, NULL) == NULL, "%s was loaded", path);
  const char *file, *message = al_error_message(c, &file, NULL);
  ck_assert_msg(al_error(c) != AL_OK && *file, "%.100s: refused without an error", path);
  for (; *texts; texts++)
    ck_assert_msg(strstr(message, *texts) != NULL, "%.100s: '%s' wanted in '%s'", path, *texts,
                  message);
  al_error_clear(c);
  ck_assert_int_eq(attn_family_count(), families);
  ck_assert_int_eq(attn_preset_count(), presets);
  ck_assert_msg(!*path || !mapped(path), "%s is still mapped", path);
  const attn_family *f;
  const attn_preset *p;
  al_opts *o;
  ck_assert_int_eq(attn_find(c, "fault", &f, &p, &o), AL_ENAME);
  al_error_clear(c);
  ck_assert_int_eq(attn_find(c, "softmax", &f, &p, &o), AL_OK);
  ck_assert_str_eq(p->name, "p1/softmax");
  al_opts_release(o);
}
#define REFUSES(path, ...) refuses_file(path, (const char *const[]){__VA_ARGS__, NULL})

static const struct {
  const char *fault, *why, *other; /* other: text of the other side */
  bool runs;                       /* its code runs before the fault can be seen */
} faults[] = {
    {"STAMP_ABI", "made for plug-in ABI 3, this program has 4", "build it again", false},
    {"NO_SYMBOL", "exports no function attn_plugin", "", false},
    {"NO_STAMP", "exports no attn_plugin_stamp", "", false},
    {"NAME_TAKEN", "the family's name 'kernel_attention' is taken", "of this program", false},
    {"NAME_SHORT", "the family's name 'cottention' is taken", "preset 'p2/cottention' of family",
     false},
    {"UNDEFINED", "undefined symbol: al_ctx_new", "ATTN_HOST_CALLS", false},
    {"ADDRESS", "undefined symbol: al_host", "ATTN_HOST_CALLS", false},
    {"GIVES_NULL", "gave NULL", "", true},
    {"STAMP_NAME", "stamp names the family 'other', its table 'fault'", "", true},
    {"FAMILY_SIZE", "build it again", "its family has ABI 4 and", true},
    {"NO_FORWARD", "its family has no forward", "", true},
    {"DEFAULT", "a default: fault: option 'mode': one of: left middle right expected",
     "did you mean 'middle'", true},
    {"RANGE", "option 'n': an integer in 1..5 expected, got '7'", "", true},
    {"LIST", "option 'list': the list of its default is not closed", "", true},
    {"CHOICES", "option 'mode': words are allowed, but no choices are listed", "", true},
    {"OPTION_NAME", "option 'a=b'", "", true},
    {"OPTION_TWICE", "option 'n' is declared twice", "", true},
    {"RECORD", "option 'r': a record without fields", "", true},
    {"PRESET_TAKEN", "the preset 'p1/softmax' is taken", "of family 'kernel_attention'", true},
    {"PRESET_SHORT", "the preset 'softmax' is taken", "preset 'p1/softmax' of", true},
    {"PRESET_OPTIONS", "preset fault/second: fault: unknown option 'gian'", "did you mean 'gain'",
     true},
    {"PRESET_TWICE", "preset 'fault/first' is there twice", "", true},
    {"PRESET_NULL", "preset 'fault/second': options, layer, source and note", "", true},
    {"PRESET_NAME", "preset 'two words': a name of at most", "", true},
    {"TAP_NAME", "tap 'two words': a name of letters, a shape and a doc are needed", "", true},
    {"TAP_TWICE", "tap 'gate' is declared twice", "", true},
    {"INIT", "its init failed: no moon today", "", true},
    {"INIT_SILENT", "its init failed: status", "without a message", true},
    {"INIT_PENDING", "its init failed: said and forgotten", "", true},
};
enum { N_FAULTS = sizeof faults / sizeof *faults };

START_TEST(faults_are_refused) {
  char path[512];
  snprintf(path, sizeof path, AL_FIXTURE_DIR "/fault_%s.so", faults[_i].fault);
  unsetenv("FAULT_RAN");
  REFUSES(path, path, faults[_i].why, faults[_i].other);
  ck_assert_msg(faults[_i].runs == (getenv("FAULT_RAN") != NULL), "%s: its code %s", path,
                faults[_i].runs ? "did not run" : "ran");
  REFUSES(path, path, faults[_i].why, faults[_i].other); /* again, and still */
  ck_assert_msg(attn_plugin_load(c, MEAN, NULL) != NULL, "%s", al_error_message(c, NULL, NULL));
}
END_TEST

START_TEST(names_of_other_plugins_are_refused) {
  ck_assert_msg(attn_plugin_load(c, MEAN, NULL) != NULL, "%s", al_error_message(c, NULL, NULL));
  REFUSES(AL_FIXTURE_DIR "/fault_NAME_MEAN.so", "fault_NAME_MEAN.so",
          "the family's name 'mean' is taken: family 'mean' of plug-in '" MEAN "'", "starts again");
  REFUSES(AL_FIXTURE_DIR "/fault_PRESET_MEAN.so", "fault_PRESET_MEAN.so",
          "the preset 'test/twice_the_mean' is taken", "family 'mean' of plug-in '" MEAN "'");
}
END_TEST

START_TEST(what_is_no_file_is_refused) {
  REFUSES("/nowhere/a.so", "'/nowhere/a.so': No such file");
  REFUSES(AL_FIXTURE_DIR, "Is a directory");
  REFUSES(AL_TEST_DIR "/plugins/mean.c", "this is a text", "`build-plugin` makes a plug-in");
  REFUSES("", "No such file");
  char longer[6000];
  memset(longer, 'x', sizeof longer - 1);
  longer[sizeof longer - 1] = 0;
  REFUSES(longer, "File name too long");
}
END_TEST

START_TEST(the_same_contents_are_the_same_family) {
  bytes b = read_bytes(MEAN);
  const char *copy = in_folder("copy.so");
  ck_assert_int_eq(al_file_write(c, copy, b.p, b.n), AL_OK);
  const int families = attn_family_count();
  const attn_family *f = attn_plugin_load(c, MEAN, NULL);
  ck_assert_msg(f != NULL, "%s", al_error_message(c, NULL, NULL));
  ck_assert_ptr_eq(attn_plugin_load(c, MEAN, NULL), f);
  ck_assert_ptr_eq(attn_plugin_load(c, copy, NULL), f);
  ck_assert_int_eq(attn_family_count(), families + 1);
  const char *path, *hash;
  ck_assert(attn_plugin_of(f, &path, &hash));
  ck_assert_str_eq(path, MEAN);
  ck_assert_uint_eq(strlen(hash), 64);
  ck_assert(!attn_plugin_of(attn_family_at(0), &path, &hash));
  free(b.p);
}
END_TEST

static void copy_file(const char *from, const char *to) {
  bytes b = read_bytes(from);
  ck_assert_msg(al_file_write(c, to, b.p, b.n) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  free(b.p);
}

/* What runs is what the file holds now, not what the system remembers under that name. */
START_TEST(a_path_whose_file_is_another_one) {
  const char *path = in_folder("p.so");
  copy_file(AL_FIXTURE_DIR "/fault_INIT.so", path);
  ck_assert_ptr_null(attn_plugin_load(c, path, NULL));
  al_error_clear(c);
  const char *const from[] = {MEAN, AL_PLUGIN_DIR "/my_variant.so",
                              AL_PLUGIN_DIR "/sigmoid_attention.so"};
  const char *const names[] = {"mean", "my_variant", "sigmoid_attention"};
  for (int i = 0; i < 3; i++) {
    copy_file(from[i], path);
    const attn_family *f = attn_plugin_load(c, path, NULL);
    ck_assert_msg(f != NULL, "%s", al_error_message(c, NULL, NULL));
    ck_assert_str_eq(f->name, names[i]);
  }
}
END_TEST

/* ---- what a loaded family is ----------------------------------------------------------------- */

START_TEST(a_loaded_family_is_found_by_name) {
  const attn_family *mean = attn_plugin_load(c, MEAN, NULL), *f;
  const attn_preset *p;
  al_opts *o;
  for (int i = 1; i < attn_preset_count(); i++)
    ck_assert_int_lt(strcmp(attn_preset_at(i - 1, NULL)->name, attn_preset_at(i, NULL)->name), 0);
  const char *names[] = {"mean", "test/twice_the_mean", "twice_the_mean"};
  for (int i = 0; i < 3; i++) {
    ck_assert_msg(attn_find(c, names[i], &f, &p, &o) == AL_OK, "%s",
                  al_error_message(c, NULL, NULL));
    ck_assert_ptr_eq(f, mean);
    ck_assert_int_eq(p != NULL, i > 0);
    ck_assert_double_eq(al_opt_num(o, "gain"), i ? 2 : 1);
    al_opts_release(o);
  }
  ck_assert_int_eq(attn_find(c, "meen", &f, &p, &o), AL_ENAME);
  ck_assert_msg(strstr(al_error_message(c, NULL, NULL), "did you mean 'mean'"), "%s",
                al_error_message(c, NULL, NULL));
  al_error_clear(c);
  char *text = attn_describe(c, "mean");
  ck_assert_msg(text && strstr(text, MEAN), "%s", text);
  free(text);
}
END_TEST

/* What is asked of a plug-in's tables holds for our own. */
START_TEST(built_in_families_pass) {
  ck_assert_int_gt(attn_family_count(), 1);
  for (int i = 0; i < attn_family_count(); i++) {
    const attn_family *f = attn_family_at(i);
    ck_assert_msg(attn_family_check(c, f, f->name) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  }
}
END_TEST

extern const attn_family attn_family_my_variant; /* the template, compiled as a built-in */

static double *outputs(const attn_family *f, const char *options, int64_t *n) {
  const attn_sizes s = {4, 2, 8, 6, 0};
  al_opts *o = al_opts_new(c, f->options, f->name);
  al_opts_parse(c, o, options);
  attn *a = attn_new(c, f, o, &s, AL_F64, 7, "t");
  al_tensor *t[3];
  const int64_t shapes[3][4] = {{2, 9, 4, 8}, {2, 9, 2, 8}, {2, 9, 2, 6}};
  for (int i = 0; i < 3; i++) {
    t[i] = al_tensor_new(c, AL_F64, 4, shapes[i]);
    al_fill_normal(t[i], al_stream(3, "qkv") + (uint64_t)i, 0, 1);
  }
  const attn_in in = {.size = sizeof in, .q = t[0], .k = t[1], .v = t[2], .causal = true};
  al_tensor *y = attn_forward(c, a, &in);
  ck_assert_msg(y != NULL, "%s", al_error_message(c, NULL, NULL));
  *n = al_numel(y);
  double *out = malloc((size_t)*n * sizeof *out);
  al_read(y, out, *n);
  al_release(y);
  for (int i = 0; i < 3; i++) al_release(t[i]);
  attn_free(a);
  al_opts_release(o);
  return out;
}

START_TEST(one_source_built_in_and_loaded) {
  ck_assert_int_eq(attn_family_check(c, &attn_family_my_variant, "the template"), AL_OK);
  const attn_family *f = attn_plugin_load(c, AL_PLUGIN_DIR "/my_variant.so", NULL);
  ck_assert_msg(f != NULL, "%s", al_error_message(c, NULL, NULL));
  ck_assert_ptr_ne(f, &attn_family_my_variant);
  const char *options[] = {"", "sink=learned", "temperature=none sink=0.5"};
  for (int i = 0; i < 3; i++) {
    int64_t n, m;
    double *a = outputs(&attn_family_my_variant, options[i], &n);
    double *b = outputs(f, options[i], &m);
    ck_assert_int_eq(n, m);
    ck_assert_mem_eq(a, b, (size_t)n * sizeof *a);
    free(a);
    free(b);
  }
  /* and without its own parts it is softmax */
  const attn_family *softmax;
  const attn_preset *p;
  al_opts *o;
  ck_assert_int_eq(attn_find(c, "p1/softmax", &softmax, &p, &o), AL_OK);
  int64_t n;
  double *a = outputs(f, "temperature=none", &n), *b = outputs(softmax, "", &n);
  for (int64_t i = 0; i < n; i++) ck_assert_double_eq_tol(a[i], b[i], 1e-14);
  double *d = outputs(f, "temperature=none sink=0.5", &n);
  double *e = outputs(softmax, "denominator.sink=0.5", &n);
  for (int64_t i = 0; i < n; i++) ck_assert_double_eq_tol(d[i], e[i], 1e-14);
  free(a), free(b), free(d), free(e);
  al_opts_release(o);
}
END_TEST

/* A family without a state is replayed: what it then carries is known without its help. */
START_TEST(bytes_of_a_replayed_family) {
  const attn_sizes s = {4, 2, 8, 6, 10};
  al_opts *o = al_opts_new(c, attn_family_my_variant.options, "my_variant");
  attn *a = attn_new(c, &attn_family_my_variant, o, &s, AL_F32, 7, "t");
  const int64_t shapes[4][4] = {{1, 9, 4, 8}, {1, 9, 2, 8}, {1, 9, 2, 6}, {1, 9, 10}};
  al_tensor *t[4];
  for (int i = 0; i < 4; i++) t[i] = al_tensor_full(c, AL_F32, i < 3 ? 4 : 3, shapes[i], 0.5);
  const attn_in in = {
      .size = sizeof in, .q = t[0], .k = t[1], .v = t[2], .x = t[3], .causal = true};
  attn_state *st = attn_state_new(c, a, 1), *next = NULL;
  al_tensor *y = attn_continue(c, a, &in, st, false, &next);
  ck_assert_msg(y != NULL, "%s", al_error_message(c, NULL, NULL));
  ck_assert_int_eq(attn_state_bytes(a, 9), 9 * (32 + 16 + 12 + 10) * 4);
  ck_assert_int_eq(attn_state_bytes(a, 9), attn_state_size(next) - 4); /* but for the count */
  al_release(y);
  attn_state_free(st);
  attn_state_free(next);
  for (int i = 0; i < 4; i++) al_release(t[i]);
  attn_free(a);
  al_opts_release(o);
}
END_TEST

Suite *suite_test_plugin(void) {
  Suite *s = suite_create("plug-ins");
  TCase *t = tcase_create("files");
  tcase_add_checked_fixture(t, scratch_begin, scratch_end);
  tcase_add_test(t, a_plugin_is_recognised);
  tcase_add_test(t, headers_are_checked);
  tcase_add_test(t, stamps_are_checked);
  tcase_add_test(t, no_part_of_a_file_passes);
  suite_add_tcase(s, t);
  t = tcase_create("loading");
  tcase_add_checked_fixture(t, scratch_begin, scratch_end);
  tcase_add_loop_test(t, faults_are_refused, 0, N_FAULTS);
  tcase_add_test(t, names_of_other_plugins_are_refused);
  tcase_add_test(t, what_is_no_file_is_refused);
  tcase_add_test(t, the_same_contents_are_the_same_family);
  tcase_add_test(t, a_path_whose_file_is_another_one);
  suite_add_tcase(s, t);
  t = tcase_create("families");
  tcase_add_checked_fixture(t, scratch_begin, scratch_end);
  tcase_add_test(t, a_loaded_family_is_found_by_name);
  tcase_add_test(t, built_in_families_pass);
  tcase_add_test(t, one_source_built_in_and_loaded);
  tcase_add_test(t, bytes_of_a_replayed_family);
  suite_add_tcase(s, t);
  return s;
}
