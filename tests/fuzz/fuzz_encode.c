/* fuzz_encode.c: any text through tokenizers that are right (libFuzzer). Byte 0 says which, its
 * upper bit whether special strings are ids. What is not UTF-8 is refused; else ids are in range,
 * and what keeps every byte decodes to the text. */
#include "fuzz.h"

static const struct file {
  const char *kind, *name, *settings;
  bool whole; /* decoding gives the text back */
} files[] = {{"huggingface", "gpt2.json", NULL, true},
             {"huggingface", "llama3.json", NULL, true},
             {"huggingface", "qwen2.json", NULL, false},
             {"huggingface", "llama2.json", NULL, false},
             {"huggingface", "metaspace.json", NULL, false},
             {"huggingface", "digits.json", NULL, false},
             {"huggingface", "bert.json", NULL, false},
             {"huggingface", "fused.json", NULL, false},
             {"sentencepiece", "tok512.model", NULL, false},
             {"tiktoken", "small.tiktoken",
              "{\"pattern\": \" ?\\\\p{L}+|\\\\s+|.\", \"special\": {\"<|endoftext|>\": 500}}",
              true}};
enum { N = sizeof files / sizeof *files };

static const char *const words[] = {
    "<|endoftext|>", "<s>",       "word",         "fox jumps",
    "\xc3\xa9",      "e\xcc\x81", "\xe2\x96\x81", "  ",
    "\n\n",          "'ll",       "123",          "<tool>",
    "[SEP]",         " the",      "\xe5\x8c\x97", "\xf0\x9f\x98\x80",
    "<0x41>"};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  return fuzz_mutate(data, size, max, seed, FUZZ_WORDS(words), 1);
}

static const al_vocab *vocab(al_ctx *c, int i) {
  static al_vocab *kept[N];
  if (kept[i]) return kept[i];
  char path[4096], *data;
  al_source s[2] = {
      {.name = files[i].name},
      {"settings", files[i].settings, files[i].settings ? strlen(files[i].settings) : 0}};
  snprintf(path, sizeof path, "%s/tests/golden/tokenizers/%s", AL_SOURCE_DIR, files[i].name);
  HOLDS(al_file_read(c, path, 1 << 24, &data, &s[0].n) == AL_OK);
  s[0].data = data;
  HOLDS((kept[i] = al_vocab_new(c, files[i].kind, s, files[i].settings ? 2 : 1)) != NULL);
  free(data);
  return kept[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  al_ctx *c = fuzz_ctx();
  if (size < 1 || size > 1 << 13) return 0;
  const int i = data[0] % 128 % N, flags = (data[0] >> 7 ? AL_ENCODE_SPECIAL : 0) | AL_ENCODE_PLAIN;
  const al_vocab *v = vocab(c, i);
  const char *text = (const char *)data + 1;
  const size_t n = size - 1;
  al_tensor *ids = al_vocab_encode(c, v, text, n, flags);
  if (fuzz_refused(c, ids)) return 0;
  const int32_t *id = al_host(ids);
  for (int64_t k = 0; k < al_numel(ids); k++) HOLDS(id[k] >= 0 && id[k] < al_vocab_size(v));
  size_t len;
  char *back = al_vocab_decode(c, v, id, al_numel(ids), flags, &len);
  HOLDS(back);
  if (files[i].whole) HOLDS(len == n && memcmp(back, text, n) == 0);
  free(back);
  al_release(ids);
  return 0;
}
