/* plugin_file.c: what can be known of a plug-in before any of its code runs.
 *
 * A plug-in is an ELF shared object that exports the function `attn_plugin` and the data object
 * `attn_plugin_stamp`. Both are looked up in .dynsym, and the stamp's bytes are read from the
 * segment that the loader would map them from. Every offset, size and index comes from the file, so
 * each is compared with the file's length before use, and every struct is copied out (the file need
 * not be aligned). A file that passes may still be refused by dlopen, which knows more. */
#include "plugin.h"
#include <elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#if defined __x86_64__
#define HERE EM_X86_64
#elif defined __aarch64__
#define HERE EM_AARCH64
#elif defined __riscv
#define HERE EM_RISCV
#elif defined __powerpc64__
#define HERE EM_PPC64
#elif defined __s390x__
#define HERE EM_S390
#else
#define HERE EM_NONE /* left to dlopen */
#endif

typedef struct image {
  const unsigned char *bytes;
  size_t n;
  char *why;
  size_t n_why;
  Elf64_Ehdr head;
} image;

static __attribute__((format(printf, 2, 3))) bool refuse(image *f, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(f->why, f->n_why, fmt, ap);
  va_end(ap);
  return false;
}

static bool within(const image *f, uint64_t offset, uint64_t size) {
  return offset <= f->n && size <= f->n - offset;
}

/* Copies size bytes at offset; false where the file does not hold them. */
static bool fetch(const image *f, uint64_t offset, void *out, size_t size) {
  if (!within(f, offset, size)) return false;
  memcpy(out, f->bytes + offset, size);
  return true;
}

/* The beginning of a file that is no ELF, so that it can be recognised. */
static bool refuse_kind(image *f) {
  char seen[3 * 8 + 1] = "";
  bool text = f->n > 0;
  for (size_t i = 0; i < f->n && i < 8; i++) {
    const unsigned char b = f->bytes[i];
    text = text && (b == '\t' || b == '\n' || b == '\r' || (b >= 32 && b < 127));
    snprintf(seen + 3 * i, sizeof seen - 3 * i, "%02x ", b);
  }
  if (f->n == 0) return refuse(f, "a shared object is needed, this file is empty");
  if (text) return refuse(f, "a shared object is needed, this is a text");
  return refuse(f, "a shared object is needed, this is no ELF file (it begins with %.*s)",
                (int)strlen(seen) - 1, seen);
}

static bool check_head(image *f) {
  if (f->n < SELFMAG || memcmp(f->bytes, ELFMAG, SELFMAG) != 0) return refuse_kind(f);
  if (f->n < EI_NIDENT || f->bytes[EI_CLASS] != ELFCLASS64)
    return refuse(f, "a 64-bit shared object is needed, this is %s",
                  f->n > EI_CLASS && f->bytes[EI_CLASS] == ELFCLASS32 ? "a 32-bit ELF file"
                                                                      : "no valid ELF header");
  const int ours = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB;
  if (f->bytes[EI_DATA] != ours) return refuse(f, "made for a machine of the other byte order");
  if (!fetch(f, 0, &f->head, sizeof f->head))
    return refuse(f, "cut short: %zu bytes, the ELF header alone has %zu", f->n, sizeof f->head);
  if (f->head.e_type == ET_REL)
    return refuse(f, "a shared object is needed, this is an object file: link it with -shared");
  if (f->head.e_type != ET_DYN)
    return refuse(f, "a shared object is needed, this is an ELF file of type %u", f->head.e_type);
  if (HERE != EM_NONE && f->head.e_machine != HERE)
    return refuse(f, "made for another machine: ELF machine %u, this one is %u", f->head.e_machine,
                  HERE);
  return true;
}

/* Every byte the loader maps must be in the file, or touching it later would end the process. */
static bool check_segments(image *f) {
  const Elf64_Ehdr *h = &f->head;
  if (h->e_phnum == 0 || h->e_phentsize != sizeof(Elf64_Phdr))
    return refuse(f, "damaged: %u program headers of %u bytes", h->e_phnum, h->e_phentsize);
  Elf64_Phdr p;
  if (!within(f, h->e_phoff, (uint64_t)h->e_phnum * sizeof p))
    return refuse(f, "cut short: the program headers end beyond the end, at %zu", f->n);
  for (unsigned i = 0; i < h->e_phnum && fetch(f, h->e_phoff + i * sizeof p, &p, sizeof p); i++) {
    if (p.p_type == PT_LOAD && !within(f, p.p_offset, p.p_filesz))
      return refuse(f, "cut short: a segment of %llu bytes at %llu, the file has %zu",
                    (unsigned long long)p.p_filesz, (unsigned long long)p.p_offset, f->n);
  }
  return true;
}

static bool section(const image *f, uint64_t i, Elf64_Shdr *s) {
  return i < f->head.e_shnum && fetch(f, f->head.e_shoff + i * sizeof *s, s, sizeof *s);
}

static bool find_symbols(image *f, Elf64_Shdr *symbols, Elf64_Shdr *strings) {
  const Elf64_Ehdr *h = &f->head;
  if (h->e_shnum == 0 || h->e_shentsize != sizeof(Elf64_Shdr))
    return refuse(f, "its section table is missing (%u entries of %u bytes)", h->e_shnum,
                  h->e_shentsize);
  if (!within(f, h->e_shoff, (uint64_t)h->e_shnum * sizeof(Elf64_Shdr)))
    return refuse(f, "cut short: the section table ends beyond the end, at %zu", f->n);
  for (unsigned i = 0; section(f, i, symbols); i++) {
    if (symbols->sh_type != SHT_DYNSYM) continue;
    if (symbols->sh_entsize != sizeof(Elf64_Sym) ||
        !within(f, symbols->sh_offset, symbols->sh_size))
      return refuse(f, "damaged: its table of exported names is not in the file");
    if (!section(f, symbols->sh_link, strings) || strings->sh_type != SHT_STRTAB ||
        !within(f, strings->sh_offset, strings->sh_size))
      return refuse(f, "damaged: the texts of its exported names are not in the file");
    return true;
  }
  return refuse(f, "it exports nothing (no .dynsym)");
}

/* The exported symbol `name`, or false. */
static bool find_symbol(const image *f, const Elf64_Shdr *symbols, const Elf64_Shdr *strings,
                        const char *name, Elf64_Sym *out) {
  const size_t len = strlen(name) + 1; /* with the NUL */
  for (uint64_t i = 0; i < symbols->sh_size / sizeof *out; i++) {
    if (!fetch(f, symbols->sh_offset + i * sizeof *out, out, sizeof *out)) return false;
    const int bind = ELF64_ST_BIND(out->st_info), visible = ELF64_ST_VISIBILITY(out->st_other);
    if (out->st_shndx == SHN_UNDEF || (bind != STB_GLOBAL && bind != STB_WEAK) ||
        (visible != STV_DEFAULT && visible != STV_PROTECTED) || out->st_name > strings->sh_size ||
        len > strings->sh_size - out->st_name)
      continue;
    if (memcmp(f->bytes + strings->sh_offset + out->st_name, name, len) == 0) return true;
  }
  return false;
}

/* Copies what the loader would map at `address`; false where that is not in the file. */
static bool fetch_mapped(const image *f, uint64_t address, void *out, size_t size) {
  for (unsigned i = 0; i < f->head.e_phnum; i++) {
    Elf64_Phdr p;
    if (!fetch(f, f->head.e_phoff + i * sizeof p, &p, sizeof p)) return false;
    if (p.p_type != PT_LOAD || address < p.p_vaddr || address - p.p_vaddr > p.p_filesz ||
        size > p.p_filesz - (address - p.p_vaddr))
      continue;
    return fetch(f, p.p_offset + (address - p.p_vaddr), out, size);
  }
  return false;
}

/* ORDER stamp sizes */
static const char *const SIZE_NAMES[ATTN_STAMP_SIZES] = {
    "attn_family", "attn_in", "attn_host", "al_arg", "attn_preset", "attn_param", "attn_sizes"};

static bool check_stamp(image *f, const Elf64_Sym *symbol, attn_plugin_stamp *stamp) {
  static const attn_plugin_stamp ours = ATTN_STAMP(ours);
  const size_t head = offsetof(attn_plugin_stamp, sizes); /* magic and abi stay where they are */
  if (ELF64_ST_TYPE(symbol->st_info) != STT_OBJECT)
    return refuse(f, "its attn_plugin_stamp is no data object");
  memset(stamp, 0, sizeof *stamp);
  if (symbol->st_size < head || !fetch_mapped(f, symbol->st_value, stamp, head))
    return refuse(f, "the bytes of its attn_plugin_stamp are not in the file");
  if (memcmp(stamp->magic, ours.magic, sizeof ours.magic) != 0)
    return refuse(f, "its attn_plugin_stamp does not begin with '%s'", ATTN_MAGIC);
  if (stamp->abi != ATTN_ABI)
    return refuse(f, "made for plug-in ABI %u, this program has %d: build it again", stamp->abi,
                  ATTN_ABI);
  if (symbol->st_size != sizeof *stamp || !fetch_mapped(f, symbol->st_value, stamp, sizeof *stamp))
    return refuse(f, "its attn_plugin_stamp has %llu bytes, %zu are needed: build it again",
                  (unsigned long long)symbol->st_size, sizeof *stamp);
  for (int i = 0; i < ATTN_STAMP_SIZES; i++)
    if (stamp->sizes[i] != ours.sizes[i])
      return refuse(f,
                    "made with other headers: its %s has %u bytes, this program's %u: build it "
                    "again",
                    SIZE_NAMES[i], stamp->sizes[i], ours.sizes[i]);
  const char *name = stamp->name;
  if (!memchr(name, 0, sizeof stamp->name) || !*name || (*name >= '0' && *name <= '9'))
    return refuse(f, "the family's name in its stamp is no name");
  for (const char *p = name; *p; p++)
    if (!(*p == '_' || (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') ||
          (*p >= 'A' && *p <= 'Z')))
      return refuse(f, "the family's name in its stamp is no name");
  return true;
}

bool attn_plugin_check(const void *bytes, size_t n, attn_plugin_stamp *stamp, char *why,
                       size_t n_why) {
  image f = {.bytes = bytes, .n = n, .why = why, .n_why = n_why};
  Elf64_Shdr symbols, strings;
  Elf64_Sym symbol;
  if (n_why) why[0] = 0;
  if (!check_head(&f) || !check_segments(&f) || !find_symbols(&f, &symbols, &strings)) return false;
  if (!find_symbol(&f, &symbols, &strings, "attn_plugin", &symbol) ||
      ELF64_ST_TYPE(symbol.st_info) != STT_FUNC)
    return refuse(&f, "it exports no function attn_plugin: is it a plug-in of attnlab, compiled "
                      "with -DATTN_PLUGIN and ended by ATTN_FAMILY?");
  if (!find_symbol(&f, &symbols, &strings, "attn_plugin_stamp", &symbol))
    return refuse(&f, "it exports no attn_plugin_stamp: end the file with ATTN_FAMILY");
  return check_stamp(&f, &symbol, stamp);
}
