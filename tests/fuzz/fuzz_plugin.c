/* fuzz_plugin.c: attn_plugin_check over any bytes (libFuzzer). It may not read beyond them, must
 * give one answer, and what it accepts must be a stamp of this program with an identifier in it.
 *
 * The seed is made here: the smallest image that passes, a header, one segment, the stamp, a table
 * of three symbols and three sections, 696 bytes. Mutations are libFuzzer's, and besides them
 * fields set to the values that matter: 0, the end, one off it, what overflows when it is added or
 * multiplied. */
#include "../../attention/plugin.h"
#include <elf.h>
#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct image {
  Elf64_Ehdr head;
  Elf64_Phdr load;
  attn_plugin_stamp stamp;
  Elf64_Sym symbols[3];
  char names[32];
  Elf64_Shdr sections[3];
} image;

static size_t seed_image(uint8_t *data, size_t max) {
  static const char names[] = "\0attn_plugin\0attn_plugin_stamp";
  static const attn_plugin_stamp stamp = ATTN_STAMP(seed);
  image m = {
      .head = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
               .e_type = ET_DYN,
#if defined __aarch64__
               .e_machine = EM_AARCH64,
#else
               .e_machine = EM_X86_64,
#endif
               .e_version = EV_CURRENT,
               .e_phoff = offsetof(image, load),
               .e_shoff = offsetof(image, sections),
               .e_ehsize = sizeof(Elf64_Ehdr),
               .e_phentsize = sizeof(Elf64_Phdr),
               .e_phnum = 1,
               .e_shentsize = sizeof(Elf64_Shdr),
               .e_shnum = 3},
      .load = {.p_type = PT_LOAD, .p_vaddr = 0x1000, .p_filesz = sizeof m, .p_memsz = sizeof m},
      .stamp = stamp,
      .symbols = {{0},
                  {.st_name = 1, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_shndx = 1},
                  {.st_name = 13,
                   .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT),
                   .st_shndx = 1,
                   .st_value = 0x1000 + offsetof(image, stamp),
                   .st_size = sizeof stamp}},
      .sections = {
          {0},
          {.sh_type = SHT_DYNSYM,
           .sh_offset = offsetof(image, symbols),
           .sh_size = sizeof m.symbols,
           .sh_link = 2,
           .sh_entsize = sizeof(Elf64_Sym)},
          {.sh_type = SHT_STRTAB, .sh_offset = offsetof(image, names), .sh_size = sizeof names}}};
  memcpy(m.names, names, sizeof names);
  if (max < sizeof m) return 0;
  memcpy(data, &m, sizeof m);
  return sizeof m;
}

static void set_field(uint8_t *data, size_t size, unsigned seed) {
  const uint64_t n = size, values[] = {0,
                                       1,
                                       n,
                                       n - 1,
                                       n + 1,
                                       n - 64,
                                       n / 2,
                                       64,
                                       0x1000,
                                       1u << 31,
                                       UINT32_MAX,
                                       UINT64_MAX,
                                       UINT64_MAX - 63,
                                       UINT64_MAX / 64,
                                       UINT64_MAX / 24 + 1,
                                       (uint64_t)1 << 63};
  const size_t width = (size_t)1 << (seed >> 4 & 3);
  const size_t at = (seed >> 8) % (size / width) * width;
  memcpy(data + at, &values[seed & 15], width); /* little endian: the low part */
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
  if (size < 8 || seed % 61 == 0) return seed_image(data, max);
  if (seed % 3 == 0) {
    set_field(data, size, seed * 2654435761u);
    return size;
  }
  return LLVMFuzzerMutate(data, size, max);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  attn_plugin_stamp stamp, again;
  char why[200], same[200];
  const bool ok = attn_plugin_check(data, size, &stamp, why, sizeof why);
  if (ok != attn_plugin_check(data, size, &again, same, sizeof same)) abort();
  if (strcmp(why, same) != 0 || ok != (why[0] == 0)) abort();
  if (!ok) return 0;
  if (strcmp(stamp.magic, ATTN_MAGIC) != 0 || stamp.abi != ATTN_ABI) abort();
  if (!memchr(stamp.name, 0, sizeof stamp.name) || !stamp.name[0]) abort();
  if (strspn(stamp.name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") !=
      strlen(stamp.name))
    abort();
  return 0;
}
