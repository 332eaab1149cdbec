/* file.c: files written whole or not at all, and read with a limit.
 *
 * A file is written under the name <path>.tmp, synced, renamed over <path>, and the folder is
 * synced: after a crash at any moment <path> holds either the old contents or the new. The
 * temporary is locked while it is written, so two writers of one path take turns, and one left by a
 * killed process is taken over by the next writer instead of staying for good. */
#define _GNU_SOURCE /* O_PATH */
#include "file.h"
#include "../core.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The system takes at most 2^31 - 4096 bytes a call. */
enum { AT_ONCE = 1 << 30 };

static al_status fail_io(al_ctx *c, const char *doing, const char *path) {
  const int e = errno;
  return al_fail(c, e == ENOMEM ? AL_ENOMEM : AL_EIO, "%s: %s: %s", doing, al_path_shown(path).text,
                 al_file_reason(e));
}

const char *al_file_reason(int err) {
  return err == ELOOP ? "a link, which is not followed here" : strerror(err);
}

/* ---- paths ---------------------------------------------------------------------------------- */

/* openat of the first n bytes of name. */
static int open_part(int fd, const char *name, size_t n, int flags) {
  char part[PATH_MAX];
  struct stat info;
  if (n >= sizeof part) return errno = ENAMETOOLONG, -1;
  memcpy(part, name, n);
  part[n] = 0;
  const int below = openat(fd, part, flags | O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (below >= 0 || errno != ENOTDIR || !(flags & O_NOFOLLOW)) return below;
  const bool link = fstatat(fd, part, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
  return errno = link ? ELOOP : ENOTDIR, -1;
}

static bool is_up(const char *s, size_t n) { return n == 2 && s[0] == '.' && s[1] == '.'; }

bool al_at_open(al_at *at, const char *path) {
  *at = (al_at){.fd = AT_FDCWD, .name = path};
  const char *border = strstr(path, "//");
  if (!border) return true;
  at->nofollow = O_NOFOLLOW;
  at->fd = border == path ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)
                          : open_part(AT_FDCWD, path, (size_t)(border - path), 0);
  at->name = border + strspn(border, "/");
  for (const char *slash; at->fd >= 0; at->name = slash + strspn(slash, "/")) {
    const size_t n = strcspn(at->name, "/");
    if (is_up(at->name, n)) {
      al_at_close(at);
      errno = ELOOP;
      return false;
    }
    slash = at->name + n;
    if (!slash[strspn(slash, "/")]) { /* the last part */
      if (n == 0) at->name = ".";
      return true;
    }
    const int below = open_part(at->fd, at->name, n, O_NOFOLLOW);
    al_at_close(at);
    at->fd = below;
  }
  at->fd = AT_FDCWD;
  return false;
}

void al_at_close(al_at *at) {
  const int e = errno;
  if (at->fd >= 0) close(at->fd);
  at->fd = AT_FDCWD;
  errno = e;
}

al_shown al_path_shown(const char *path) {
  al_shown s;
  size_t n = 0;
  for (; *path && n + 1 < sizeof s.text; path++)
    if (path[0] != '/' || path[1] != '/') s.text[n++] = *path;
  s.text[n] = 0;
  return s;
}

/* open(2) through a border. What lies behind one is a regular file, or it is not opened: a pipe
 * would hang, a device could do anything. */
int al_file_open(const char *path, int flags, unsigned mode) {
  al_at at;
  if (!al_at_open(&at, path)) return -1;
  const int guard = at.nofollow ? at.nofollow | O_NONBLOCK : 0;
  int fd = openat(at.fd, at.name, flags | guard | O_CLOEXEC, (mode_t)mode);
  struct stat info;
  if (fd >= 0 && guard && fstat(fd, &info) == 0 && !S_ISREG(info.st_mode)) {
    close(fd);
    fd = -1;
    errno = S_ISDIR(info.st_mode) ? EISDIR : EACCES;
  }
  al_at_close(&at);
  return fd;
}

/* ---- writing -------------------------------------------------------------------------------- */

static char *joined(al_ctx *c, const char *a, const char *b) {
  const size_t n = strlen(a), m = strlen(b);
  char *s = al_calloc(c, (int64_t)(n + m + 1), 1);
  if (s) memcpy(s, a, n), memcpy(s + n, b, m);
  return s;
}

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Opens and locks the temporary; sets o->fd. */
static al_status lock_temporary(al_ctx *c, al_out *o) {
  for (;;) {
    const int fd =
        openat(o->at.fd, o->tmp, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (fd < 0) return fail_io(c, "write", o->path);
    struct stat mine, named;
    int failed = fstat(fd, &mine);
    if (!failed && !S_ISREG(mine.st_mode)) {
      close(fd);
      return al_fail(c, AL_EIO, "write: %s: in the way: not a regular file (remove it)", o->tmp);
    }
    while (!failed && flock(fd, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      if (errno == ENOLCK || errno == EOPNOTSUPP || errno == EINVAL)
        break; /* no locks on this system */
      failed = 1;
    }
    if (failed) {
      fail_io(c, "write", o->path);
      close(fd);
      return al_error(c);
    }
    /* While we waited, the lock's last owner may have renamed or removed this very file. */
    if (fstatat(o->at.fd, o->tmp, &named, 0) == 0 && same_file(&mine, &named)) {
      o->fd = fd;
      return AL_OK;
    }
    close(fd);
  }
}

al_status al_out_open(al_ctx *c, al_out *o, const char *path) {
  *o = (al_out){.path = path, .at = {.fd = AT_FDCWD}, .fd = -1};
  if (!*path) return al_fail(c, AL_EVALUE, "write: a file name is needed, got an empty one");
  if (!al_at_open(&o->at, path)) return fail_io(c, "write", path);
  const char *name = o->at.name;
  struct stat old;
  const bool exists = fstatat(o->at.fd, name, &old, o->at.nofollow ? AT_SYMLINK_NOFOLLOW : 0) == 0;
  if (exists && !S_ISREG(old.st_mode)) {
    al_at_close(&o->at);
    return al_fail(c, AL_EIO, "write: %s: %s", al_path_shown(path).text,
                   S_ISLNK(old.st_mode)   ? al_file_reason(ELOOP)
                   : S_ISDIR(old.st_mode) ? "is a folder"
                                          : "not a regular file");
  }
  /* rename would replace a link, not its target */
  char *real = exists && !o->at.nofollow ? realpath(path, NULL) : NULL;
  o->target = joined(c, real ? real : name, "");
  o->tmp = o->target ? joined(c, o->target, ".tmp") : NULL;
  free(real);
  if (!o->tmp || lock_temporary(c, o) != AL_OK) goto fail;
  if (ftruncate(o->fd, 0) != 0) {
    fail_io(c, "write", path);
    goto fail;
  }
  if (exists && fchmod(o->fd, old.st_mode & 0777) != 0)
    errno = 0; /* not every file system has modes */
  return AL_OK;
fail:
  al_out_abort(o);
  return al_error(c);
}

al_status al_out_put(al_ctx *c, al_out *o, const void *data, size_t n) {
  const char *p = data;
  while (n > 0) {
    const ssize_t k = write(o->fd, p, n < AT_ONCE ? n : AT_ONCE);
    if (k < 0 && errno == EINTR) continue;
    if (k == 0) errno = ENOSPC;
    if (k <= 0) return fail_io(c, "write", o->path);
    p += k;
    n -= (size_t)k;
  }
  return AL_OK;
}

al_status al_out_put_at(al_ctx *c, al_out *o, int64_t offset, const void *data, size_t n) {
  const char *p = data;
  while (n > 0) {
    const ssize_t k = pwrite(o->fd, p, n < AT_ONCE ? n : AT_ONCE, offset);
    if (k < 0 && errno == EINTR) continue;
    if (k == 0) errno = ENOSPC;
    if (k <= 0) return fail_io(c, "write", o->path);
    p += k;
    n -= (size_t)k;
    offset += k;
  }
  return AL_OK;
}

/* Makes the rename itself durable. Some file systems cannot sync a folder and say EINVAL. */
static int sync_folder(const al_at *at, const char *path) {
  char folder[PATH_MAX];
  const char *slash = strrchr(path, '/');
  const size_t n = slash ? (size_t)(slash - path) : 0;
  if (n >= sizeof folder) return errno = ENAMETOOLONG, -1;
  memcpy(folder, path, n);
  folder[n] = 0;
  const int fd =
      openat(at->fd, slash ? (n ? folder : "/") : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno == EACCES ? 0 : -1; /* a folder may be writable and not readable */
  const int failed = fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP;
  const int e = errno;
  close(fd);
  errno = e;
  return failed ? -1 : 0;
}

al_status al_out_commit(al_ctx *c, al_out *o) {
  /* The lock goes with the descriptor, so it stays open across the rename. Network file systems
   * report a full disk only at close; fsync makes them say so here. */
  if (fsync(o->fd) != 0 || renameat(o->at.fd, o->tmp, o->at.fd, o->target) != 0) {
    fail_io(c, "write", o->path);
    al_out_abort(o);
    return al_error(c);
  }
  close(o->fd);
  o->fd = -1;
  const al_status st = sync_folder(&o->at, o->target) == 0
                           ? AL_OK
                           : fail_io(c, "write: sync of the folder", o->path);
  al_out_abort(o);
  return st;
}

void al_out_abort(al_out *o) {
  if (o->fd >= 0) {
    unlinkat(o->at.fd, o->tmp, 0);
    close(o->fd);
  }
  al_at_close(&o->at);
  free(o->tmp);
  free(o->target);
  *o = (al_out){.path = o->path, .at = {.fd = AT_FDCWD}, .fd = -1};
}

al_status al_file_write(al_ctx *c, const char *path, const void *data, size_t n) {
  al_out o;
  AL_TRY(al_out_open(c, &o, path));
  const al_status st = al_out_put(c, &o, data, n);
  if (st == AL_OK) return al_out_commit(c, &o);
  al_out_abort(&o);
  return st;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Reads to the end and not to the size the system names: pipes have none, and a file may grow. */
al_status al_file_read(al_ctx *c, const char *path, size_t max, char **data, size_t *n) {
  const al_shown shown = al_path_shown(path);
  const int fd = al_file_open(path, O_RDONLY, 0);
  if (fd < 0) return fail_io(c, "read", path);
  char *buf = NULL;
  al_status st = AL_OK;
  struct stat info;
  if (fstat(fd, &info) != 0) {
    st = fail_io(c, "read", path);
    goto done;
  }
  size_t len = 0,
         cap = S_ISREG(info.st_mode) && info.st_size > 0 ? (size_t)info.st_size + 2 : 65536;
  if (S_ISREG(info.st_mode) && (uintmax_t)info.st_size > max) {
    st = al_fail(c, AL_EFORMAT, "read: %s: %lld bytes, at most %zu expected", shown.text,
                 (long long)info.st_size, max);
    goto done;
  }
  if (!(buf = al_calloc(c, (int64_t)cap, 1))) {
    st = AL_ENOMEM;
    goto done;
  }
  for (;;) {
    const size_t room = cap - len - 1; /* never 0 */
    const ssize_t k = read(fd, buf + len, room < AT_ONCE ? room : AT_ONCE);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) {
      st = fail_io(c, "read", path);
      goto done;
    }
    if (k == 0) break;
    len += (size_t)k;
    if (len > max) {
      st = al_fail(c, AL_EFORMAT, "read: %s: more than %zu bytes", shown.text, max);
      goto done;
    }
    if (cap - len > 1) continue;
    char *more = realloc(buf, 2 * cap);
    if (!more) {
      st = al_fail(c, AL_ENOMEM, "read: %s: out of memory after %zu bytes", shown.text, len);
      goto done;
    }
    buf = more;
    cap *= 2;
  }
  buf[len] = 0;
  *data = buf;
  *n = len;
  buf = NULL;
done:
  free(buf);
  close(fd);
  return st;
}

al_status al_in_open(al_ctx *c, al_in *f, const char *path) {
  *f = (al_in){.fd = -1};
  struct stat info;
  if (!(f->path = joined(c, al_path_shown(path).text, ""))) return al_error(c);
  f->fd = al_file_open(path, O_RDONLY | O_NONBLOCK, 0); /* a pipe must not hang the open */
  if (f->fd < 0 || fstat(f->fd, &info) != 0) {
    fail_io(c, "read", path);
  } else if (!S_ISREG(info.st_mode)) {
    al_fail(c, AL_EIO, "read: %s: %s", f->path,
            S_ISDIR(info.st_mode) ? "is a folder" : "not a regular file");
  } else {
    f->size = info.st_size;
    return AL_OK;
  }
  al_in_close(f);
  return al_error(c);
}

int64_t al_in_part(const al_in *f, int64_t offset, void *data, int64_t n) {
  int64_t got = 0;
  while (got < n) {
    const int64_t rest = n - got;
    const ssize_t k =
        pread(f->fd, (char *)data + got, rest < AT_ONCE ? (size_t)rest : AT_ONCE, offset + got);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return -errno;
    if (k == 0) break;
    got += k;
  }
  return got;
}

al_status al_in_read(al_ctx *c, const al_in *f, int64_t offset, void *data, int64_t n,
                     const char *what) {
  const int64_t got = al_in_part(f, offset, data, n);
  if (got < 0) {
    errno = (int)-got;
    return fail_io(c, "read", f->path);
  }
  if (got == n) return AL_OK;
  return al_fail(c, AL_EFORMAT, "read: %s: ends in %s, %lld bytes short", f->path, what,
                 (long long)(n - got));
}

void al_in_close(al_in *f) {
  if (f->fd >= 0) close(f->fd);
  free(f->path);
  *f = (al_in){.fd = -1};
}

al_status al_file_sha256(al_ctx *c, const char *path, char hex[65]) {
  uint8_t part[1 << 16];
  SHA2_CTX h;
  al_in f;
  AL_TRY(al_in_open(c, &f, path));
  SHA256Init(&h);
  int64_t got;
  for (int64_t at = 0; (got = al_in_part(&f, at, part, sizeof part)) > 0; at += got)
    SHA256Update(&h, part, (size_t)got);
  SHA256End(&h, hex);
  if (got < 0) {
    errno = (int)-got;
    fail_io(c, "read", path);
  }
  al_in_close(&f);
  return al_error(c);
}
