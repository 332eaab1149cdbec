/* texts.c: texts one after another out of a file as it comes: plain, gzip or zstd, as text with
 * marks between documents or as jsonl. Memory holds one text and 128 KiB besides.
 *
 * The bytes come through three layers: the file, what unpacks it (found by its first bytes; members
 * and frames may follow one another), and a buffer that grows to the text at hand and no further
 * than MOST. UTF-8 is checked whole text by whole text, before anything reads it as characters. */
#define _GNU_SOURCE /* memmem */
#include "../core.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>
#include <zlib.h>
#include <zstd.h>

enum { MOST = 64 << 20, PART = 64 << 10 };

typedef enum packing { PLAIN, GZIP, ZSTD } packing;

struct al_texts {
  al_shown path;
  int fd;
  int64_t taken, size; /* bytes of the file; size -1: not known */
  packing packing;
  unsigned char in[PART]; /* packed bytes, or plain ones */
  size_t in_at, in_n;
  bool ended; /* the file has no more */
  z_stream gz;
  ZSTD_DStream *zst;
  bool gz_open, whole; /* whole: what was unpacked so far ends a member or frame */
  char *buf;           /* [at, n) is there and not given out */
  size_t at, n, cap;
  size_t seen;    /* of what is there, this much holds no end of a text */
  bool end;       /* nothing comes behind buf */
  int64_t before; /* bytes of the text, unpacked, in front of buf */
  int64_t line;   /* of buf[at], from 1 */
  bool inside;    /* buf[at] is not the first of its line */
  char *mark, *field;
  size_t n_mark;
  bool jsonl;
  json_t *value; /* whose string was given out */
};

/* ---- bytes ---------------------------------------------------------------------------------- */

static al_status fail_read(al_ctx *c, const al_texts *t, const char *why) {
  return al_fail(c, AL_EFORMAT, "texts: %s: byte %lld: %s", t->path.text, (long long)t->taken, why);
}

/* More of the file behind what `in` holds. */
static al_status take_more(al_ctx *c, al_texts *t) {
  ssize_t k;
  do k = read(t->fd, t->in + t->in_n, PART - t->in_n);
  while (k < 0 && errno == EINTR);
  if (k < 0) return al_fail(c, AL_EIO, "texts: %s: %s", t->path.text, al_file_reason(errno));
  t->in_n += (size_t)k;
  t->taken += k;
  t->ended = k == 0;
  return AL_OK;
}

/* More of the file into `in`, all of which was used. */
static al_status take_part(al_ctx *c, al_texts *t) {
  t->in_at = t->in_n = 0;
  return take_more(c, t);
}

static al_status find_packing(al_ctx *c, al_texts *t) {
  while (t->in_n < 4 && !t->ended) AL_TRY(take_more(c, t)); /* a pipe may give single bytes */
  if (t->in_n >= 2 && memcmp(t->in, "\x1f\x8b", 2) == 0) {
    if (inflateInit2(&t->gz, 16 + MAX_WBITS) != Z_OK)
      return al_fail(c, AL_ENOMEM, "texts: %s: out of memory for zlib", t->path.text);
    t->gz_open = true;
    t->packing = GZIP;
  } else if (t->in_n >= 4 && memcmp(t->in, "\x28\xb5\x2f\xfd", 4) == 0) {
    if (!(t->zst = ZSTD_createDStream()))
      return al_fail(c, AL_ENOMEM, "texts: %s: out of memory for zstd", t->path.text);
    t->packing = ZSTD;
  }
  return AL_OK;
}

/* Unpacks into the free end of buf; *k bytes, 0 where more has to be read first. */
static al_status unpack(al_ctx *c, al_texts *t, size_t *k) {
  unsigned char *to = (unsigned char *)t->buf + t->n;
  const size_t room = t->cap - t->n, have = t->in_n - t->in_at;
  if (t->packing == PLAIN) {
    *k = have < room ? have : room;
    memcpy(to, t->in + t->in_at, *k);
    t->in_at += *k;
    t->whole = true;
    return AL_OK;
  }
  *k = 0;
  if (t->whole && have == 0) return AL_OK; /* nothing is begun */
  if (t->packing == ZSTD) {
    ZSTD_inBuffer in = {t->in, t->in_n, t->in_at};
    ZSTD_outBuffer out = {to, room, 0};
    const size_t r = ZSTD_decompressStream(t->zst, &out, &in);
    if (ZSTD_isError(r)) return fail_read(c, t, ZSTD_getErrorName(r));
    t->in_at = in.pos;
    *k = out.pos;
    t->whole = r == 0;
    return AL_OK;
  }
  if (t->whole) inflateReset(&t->gz); /* one more member */
  t->gz.next_in = t->in + t->in_at;
  t->gz.avail_in = (unsigned)have;
  t->gz.next_out = to;
  t->gz.avail_out = (unsigned)room;
  const int r = inflate(&t->gz, Z_NO_FLUSH);
  if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
    return fail_read(c, t, t->gz.msg ? t->gz.msg : "damaged gzip data");
  t->in_at = t->in_n - t->gz.avail_in;
  *k = room - t->gz.avail_out;
  t->whole = r == Z_STREAM_END;
  return AL_OK;
}

/* Room at the end of buf: what was given out goes, then it grows. */
static al_status make_room(al_ctx *c, al_texts *t) {
  if (t->at > 0) {
    memmove(t->buf, t->buf + t->at, t->n - t->at);
    t->before += (int64_t)t->at;
    t->n -= t->at;
    t->at = 0;
  }
  if (t->n < t->cap) return AL_OK;
  const size_t cap = t->cap ? 2 * t->cap : 2 * PART;
  char *more = realloc(t->buf, cap);
  if (!more)
    return al_fail(c, AL_ENOMEM, "texts: %s: out of memory at %zu bytes", t->path.text, cap);
  t->buf = more;
  t->cap = cap;
  return AL_OK;
}

/* More bytes behind buf, or t->end. */
static al_status more(al_ctx *c, al_texts *t) {
  AL_TRY(make_room(c, t));
  for (size_t k = 0; !t->end;) {
    AL_TRY(unpack(c, t, &k));
    t->n += k;
    if (k > 0) return AL_OK;
    if (t->in_at < t->in_n) continue; /* a new member or frame begins */
    if (t->ended && !t->whole)
      return fail_read(c, t, "the packed data end too early: it is cut off");
    if (t->ended) t->end = true;
    else AL_TRY(take_part(c, t));
  }
  return AL_OK;
}

/* ---- texts ---------------------------------------------------------------------------------- */

static void count_lines(al_texts *t, size_t n) {
  const char *p = t->buf + t->at;
  for (const char *e = p + n; (p = memchr(p, '\n', (size_t)(e - p))); p++) t->line++;
}

/* The next text is [at, at + *n), and *behind bytes go after it; false at the end. */
static al_status find_end(al_ctx *c, al_texts *t, const char *mark, size_t n_mark, size_t *n,
                          size_t *behind) {
  for (t->seen = 0;;) {
    const size_t have = t->n - t->at;
    const char *p = t->buf ? t->buf + t->at : NULL;
    const char *found = n_mark && have ? memmem(p + t->seen, have - t->seen, mark, n_mark) : NULL;
    if (found || t->end) {
      *n = found ? (size_t)(found - p) : have;
      *behind = found ? n_mark : 0;
      if (*n <= MOST) return AL_OK;
    }
    if (have > MOST + n_mark) {
      if (t->jsonl)
        return al_fail(c, AL_EFORMAT, "texts: %s: line %lld: more than %d bytes", t->path.text,
                       (long long)t->line, MOST);
      return al_fail(c, AL_EFORMAT,
                     "texts: %s: the document that begins in line %lld has more than %d bytes: "
                     "document_end= names what ends one",
                     t->path.text, (long long)t->line, MOST);
    }
    t->seen = have >= n_mark ? have - n_mark + 1 : 0;
    AL_TRY(more(c, t));
  }
}

/* Line and byte of what is wrong at buf[i]. */
static al_status fail_at(al_ctx *c, al_texts *t, size_t i, const char *what) {
  const int64_t byte = t->before + (int64_t)i;
  if (i >= t->at) count_lines(t, i - t->at);
  return al_fail(c, AL_EFORMAT, "texts: %s: line %lld (byte %lld): %s", t->path.text,
                 (long long)t->line, (long long)byte, what);
}

static al_status check_utf8(al_ctx *c, al_texts *t, size_t n) {
  const char *p = t->buf + t->at;
  for (size_t i = 0; i < n;) {
    int32_t code;
    if ((unsigned char)p[i] < 0x80) {
      i++;
      continue;
    }
    const utf8proc_ssize_t k =
        utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &code);
    if (k < 1) return fail_at(c, t, t->at + i, "not UTF-8");
    i += (size_t)k;
  }
  return AL_OK;
}

static bool blank(const char *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!strchr(" \t\r\n", p[i]) || !p[i]) return false;
  return true;
}

/* Bytes of the line's end that p begins with. */
static size_t line_end(const char *p, size_t n) {
  return n >= 2 && memcmp(p, "\r\n", 2) == 0 ? 2 : n >= 1 && *p == '\n';
}

/* The string of `field` on a line, which begins `from` bytes on. */
static al_status read_line(al_ctx *c, al_texts *t, size_t from, size_t n, const char **text,
                           size_t *len) {
  json_error_t e;
  json_decref(t->value);
  t->value = NULL;
  json_t *o = json_loadb(t->buf + t->at + from, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
  if (!o)
    return al_fail(c, AL_EFORMAT, "texts: %s: line %lld, column %d: %s", t->path.text,
                   (long long)t->line, e.column, e.text);
  json_t *v = json_object_get(o, t->field);
  if (!json_is_string(v)) {
    al_fail(c, AL_EFORMAT, "texts: %s: line %lld: '%s': %s", t->path.text, (long long)t->line,
            t->field,
            !json_is_object(o) ? "an object with this field expected"
            : v                ? "a string expected"
                               : "there is no such field");
    json_decref(o);
    return al_error(c);
  }
  t->value = json_incref(v);
  json_decref(o);
  *text = json_string_value(v);
  *len = json_string_length(v);
  return AL_OK;
}

bool al_texts_next(al_ctx *c, al_texts *t, const char **text, size_t *n) {
  for (;;) {
    size_t len = 0, behind = 0;
    const char *mark = t->jsonl ? "\n" : t->mark;
    if (find_end(c, t, mark, t->jsonl ? 1 : t->n_mark, &len, &behind) != AL_OK) return false;
    if (len == 0 && behind == 0 && t->end) return false;
    /* of a mark that is alone on its line the line's end goes, too */
    const bool begins = len == 0 ? !t->inside : t->buf[t->at + len - 1] == '\n';
    if (!t->jsonl && behind && begins) {
      while (t->at + len + behind + 2 > t->n && !t->end)
        if (more(c, t) != AL_OK) return false;
      behind += line_end(t->buf + t->at + len + behind, t->n - t->at - len - behind);
    }
    const char *p = t->buf + t->at;
    bool given = false;
    const size_t bom =
        t->jsonl && t->before + (int64_t)t->at == 0 && len >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0
            ? 3
            : 0; /* some editors' first character, no JSON */
    if (t->jsonl && !blank(p + bom, len - bom)) {
      if (read_line(c, t, bom, len - bom, text, n) != AL_OK) return false;
      given = !blank(*text, *n);
    } else if (!t->jsonl && !blank(p, len)) {
      if (check_utf8(c, t, len) != AL_OK) return false;
      *text = p;
      *n = len;
      given = true;
    }
    count_lines(t, len + behind);
    t->at += len + behind;
    t->inside = t->buf[t->at - 1] != '\n';
    if (given) return true;
  }
}

int64_t al_texts_taken(const al_texts *t, int64_t *size) {
  *size = t->size;
  return t->taken;
}

/* ---- made ----------------------------------------------------------------------------------- */

static al_status open_file(al_ctx *c, al_texts *t, const char *path) {
  struct stat info;
  t->size = -1;
  if (strcmp(path, "-") == 0) {
    strcpy(t->path.text, "standard input");
    t->fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
  } else {
    t->path = al_path_shown(path);
    t->fd = al_file_open(path, O_RDONLY, 0);
  }
  if (t->fd < 0 || fstat(t->fd, &info) != 0)
    return al_fail(c, AL_EIO, "texts: %s: %s", t->path.text, al_file_reason(errno));
  if (S_ISDIR(info.st_mode)) return al_fail(c, AL_EIO, "texts: %s: is a folder", t->path.text);
  if (S_ISREG(info.st_mode)) t->size = info.st_size;
  return AL_OK;
}

static char *copied(al_ctx *c, const char *s) {
  char *own = al_calloc(c, (int64_t)strlen(s) + 1, 1);
  return own ? strcpy(own, s) : NULL;
}

al_texts *al_texts_open(al_ctx *c, const char *path, const char *format, const char *field,
                        const char *document_end) {
  const bool jsonl = strcmp(format, "jsonl") == 0;
  if (!jsonl && strcmp(format, "text") != 0) {
    al_fail(c, AL_EVALUE, "texts: format text or jsonl expected, got '%s'", format);
    return NULL;
  }
  if (document_end && (jsonl || !*document_end)) {
    al_fail(c, AL_EVALUE,
            jsonl ? "texts: document_end: a line of jsonl is a document of its own"
                  : "texts: document_end: a text expected, got an empty one");
    return NULL;
  }
  al_texts *t = al_calloc(c, 1, sizeof *t);
  if (!t) return NULL;
  *t = (al_texts){
      .fd = -1, .line = 1, .jsonl = jsonl, .n_mark = document_end ? strlen(document_end) : 0};
  if ((t->field = copied(c, field)) && (t->mark = copied(c, document_end ? document_end : "")) &&
      open_file(c, t, path) == AL_OK && find_packing(c, t) == AL_OK)
    return t;
  al_texts_close(t);
  return NULL;
}

void al_texts_close(al_texts *t) {
  if (!t) return;
  if (t->fd >= 0) close(t->fd);
  if (t->gz_open) inflateEnd(&t->gz);
  ZSTD_freeDStream(t->zst);
  json_decref(t->value);
  free(t->buf);
  free(t->mark);
  free(t->field);
  free(t);
}
