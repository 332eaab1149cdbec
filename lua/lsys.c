/* lsys.c: core.sys: clocks, the machine, the terminal, files, locks. Failures are Lua errors that
 * name the path and the reason. Processes and signals are in lproc.c and lsignal.c. */
#define _GNU_SOURCE
#include "lua_attnlab.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_TYPE "attnlab.file"
#define LOCK_TYPE "attnlab.lock"

static int fail(lua_State *L, const char *what, const char *path) {
  const int err = errno;
  return luaL_error(L, "%s: %s: %s", what, al_path_shown(path).text, al_file_reason(err));
}

/* A path argument: text without zero bytes, not empty. */
static const char *check_path(lua_State *L, int arg) {
  size_t n;
  const char *s = luaL_checklstring(L, arg, &n);
  luaL_argcheck(L, n > 0 && strlen(s) == n, arg, "a path expected");
  return s;
}

/* ---- clocks and the machine ---- */

static int push_clock(lua_State *L, clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  lua_pushnumber(L, (double)t.tv_sec + 1e-9 * (double)t.tv_nsec);
  return 1;
}
static int sys_time(lua_State *L) { return push_clock(L, CLOCK_REALTIME); }
static int sys_clock(lua_State *L) { return push_clock(L, CLOCK_MONOTONIC); }

/* Cores this process may run on, not those of the machine. */
static int sys_cores(lua_State *L) {
  cpu_set_t set;
  const long n =
      sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
  lua_pushinteger(L, n > 0 ? n : 1);
  return 1;
}

static int sys_host(lua_State *L) {
  char name[256] = "";
  if (gethostname(name, sizeof name - 1) != 0) return fail(L, "host", "gethostname");
  lua_pushstring(L, name);
  return 1;
}

static int sys_rss(lua_State *L) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  lua_pushinteger(L, (lua_Integer)u.ru_maxrss * 1024);
  return 1;
}

static int sys_setenv(lua_State *L) {
  const char *name = luaL_checkstring(L, 1), *value = luaL_optstring(L, 2, NULL);
  if ((value ? setenv(name, value, 1) : unsetenv(name)) != 0) return fail(L, "setenv", name);
  return 0;
}

static int sys_isatty(lua_State *L) {
  const lua_Integer fd = luaL_checkinteger(L, 1);
  lua_pushboolean(L, fd >= 0 && fd <= INT_MAX && isatty((int)fd));
  return 1;
}

static int sys_width(lua_State *L) {
  struct winsize w = {0};
  const char *columns = getenv("COLUMNS");
  int n = 0;
  if ((ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) ||
      (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0))
    n = w.ws_col;
  else if (columns) n = atoi(columns);
  lua_pushinteger(L, n > 0 ? n : 80);
  return 1;
}

static int sys_sha256(lua_State *L) {
  size_t n;
  const char *s = luaL_checklstring(L, 1, &n);
  char hex[SHA256_DIGEST_STRING_LENGTH];
  SHA256Data((const uint8_t *)s, n, hex);
  lua_pushstring(L, hex);
  return 1;
}

/* core.sys.sha256_file(path): of a file of any size, a part of which is in memory at a time. */
static int sys_sha256_file(lua_State *L) {
  char hex[SHA256_DIGEST_STRING_LENGTH];
  if (al_file_sha256(lal_ctx(L), check_path(L, 1), hex) != AL_OK) return lal_raise(L);
  lua_pushstring(L, hex);
  return 1;
}

/* ---- files and folders ---- */

/* stat through a border, where a link is a link. 0, or -1 and errno. */
static int stat_path(const char *path, struct stat *st) {
  al_at at;
  if (!al_at_open(&at, path)) return -1;
  const int r = fstatat(at.fd, at.name, st, at.nofollow ? AT_SYMLINK_NOFOLLOW : 0);
  al_at_close(&at);
  return r;
}

/* "file", "dir", "other" (behind a border a link, too), or nil: there is none, or none that may be
 * reached. What cannot be looked at is an error: taken for absence, a disk's hiccup would change
 * what a hash is made of, or start a run over. */
static int sys_exists(lua_State *L) {
  const char *path = check_path(L, 1);
  struct stat st;
  if (stat_path(path, &st) != 0) {
    if (errno != ENOENT && errno != ENOTDIR && errno != EACCES && errno != ELOOP &&
        errno != ENAMETOOLONG)
      return fail(L, "exists", path);
    lua_pushnil(L);
  } else lua_pushstring(L, S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "dir" : "other");
  return 1;
}

/* core.sys.read(path, most) -> text; a file of more than `most` bytes (default 2^40) is an
 * error. */
static int sys_read(lua_State *L) {
  const char *path = check_path(L, 1);
  const lua_Integer most = luaL_optinteger(L, 2, (lua_Integer)1 << 40);
  luaL_argcheck(L, most >= 0, 2, "a size of at least 0 expected");
  lal_guard *g = lal_guard_new(L, free);
  char *data = NULL;
  size_t n = 0;
  if (al_file_read(lal_ctx(L), path, (size_t)most, &data, &n) != AL_OK) return lal_raise(L);
  g->p = data;
  lua_pushlstring(L, data, n);
  lal_guard_free(g);
  return 1;
}

static int sys_write(lua_State *L) {
  const char *path = check_path(L, 1);
  size_t n;
  const char *text = luaL_checklstring(L, 2, &n);
  if (al_file_write(lal_ctx(L), path, text, n) != AL_OK) return lal_raise(L);
  return 0;
}

/* One folder, which may be there already. 0, or -1 and errno. */
static int make_folder(const char *path) {
  al_at at;
  struct stat st;
  if (!al_at_open(&at, path)) return -1;
  int r = mkdirat(at.fd, at.name, 0777);
  if (r != 0 && errno == EEXIST)
    r = fstatat(at.fd, at.name, &st, at.nofollow ? AT_SYMLINK_NOFOLLOW : 0);
  else st.st_mode = S_IFDIR;
  if (r == 0 && !S_ISDIR(st.st_mode)) errno = S_ISLNK(st.st_mode) ? ELOOP : ENOTDIR, r = -1;
  al_at_close(&at);
  return r;
}

static int sys_mkdir(lua_State *L) {
  const char *path = check_path(L, 1);
  char *part = lua_newuserdatauv(L, strlen(path) + 1, 0);
  strcpy(part, path);
  for (char *p = part + 1;; p++) {
    if (*p != '/' && *p != 0) continue;
    const char end = *p;
    *p = 0;
    if (make_folder(part) != 0) return fail(L, "mkdir", part);
    *p = end;
    if (end == 0) return 0;
  }
}

/* core.sys.private(path): a folder of this user's that nobody else can enter (mode 0700), made
 * where it is missing. An error where it is somebody else's. */
static int sys_private(lua_State *L) {
  const char *path = check_path(L, 1);
  struct stat st;
  sys_mkdir(L);
  const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int bad = fd < 0 || fstat(fd, &st) != 0;
  const bool other = !bad && st.st_uid != geteuid();
  const int closed = bad || other || (st.st_mode & 0777) == 0700 ? 0 : fchmod(fd, 0700);
  const int err = errno;
  if (fd >= 0) close(fd);
  errno = err;
  if (other) return luaL_error(L, "private: %s: it belongs to another user", path);
  return bad || closed != 0 ? fail(L, "private", path) : 0;
}

static int by_text(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

typedef struct names {
  char **at;
  size_t n, cap;
} names;

static void free_names(void *p) {
  names *l = p;
  for (size_t i = 0; i < l->n; i++) free(l->at[i]);
  free(l->at);
  free(l);
}

/* Collects the entries of path into a sorted list; errno on failure. */
static int read_names(const char *path, names *l) {
  al_at at;
  if (!al_at_open(&at, path)) return errno;
  const int fd = openat(at.fd, at.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | at.nofollow);
  al_at_close(&at);
  DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
  int err = d ? 0 : errno;
  if (!d && fd >= 0) close(fd);
  if (!d) return err;
  for (struct dirent *e; !err && (errno = 0, e = readdir(d));) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    if (l->n == l->cap) {
      const size_t cap = l->cap ? 2 * l->cap : 64;
      char **more = realloc(l->at, cap * sizeof *more);
      if (!more) {
        err = ENOMEM;
        break;
      }
      l->at = more;
      l->cap = cap;
    }
    if ((l->at[l->n] = strdup(e->d_name))) l->n++;
    else err = ENOMEM;
  }
  if (!err) err = errno;
  closedir(d);
  if (l->n) qsort(l->at, l->n, sizeof *l->at, by_text);
  return err;
}

static int sys_list(lua_State *L) {
  const char *path = check_path(L, 1);
  lal_guard *g = lal_guard_new(L, free_names);
  names *l = g->p = calloc(1, sizeof *l);
  errno = l ? read_names(path, l) : ENOMEM;
  if (errno) return fail(L, "list", path);
  lua_createtable(L, (int)l->n, 0);
  for (size_t i = 0; i < l->n; i++) {
    lua_pushstring(L, l->at[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lal_guard_free(g);
  return 1;
}

static int sys_remove(lua_State *L) {
  const char *path = check_path(L, 1);
  al_at at;
  if (!al_at_open(&at, path)) return fail(L, "remove", path);
  int r = unlinkat(at.fd, at.name, 0);
  if (r != 0 && errno == EISDIR) r = unlinkat(at.fd, at.name, AT_REMOVEDIR);
  al_at_close(&at);
  return r == 0 ? 0 : fail(L, "remove", path);
}

/* The absolute path without links, of what is there. */
static int sys_realpath(lua_State *L) {
  const char *path = check_path(L, 1);
  lal_guard *g = lal_guard_new(L, free);
  g->p = realpath(path, NULL);
  if (!g->p) return fail(L, "realpath", path);
  lua_pushstring(L, g->p);
  lal_guard_free(g);
  return 1;
}

static int sys_rename(lua_State *L) {
  const char *from = check_path(L, 1), *to = check_path(L, 2);
  al_at a, b;
  int r = -1;
  if (al_at_open(&a, from)) {
    if (al_at_open(&b, to)) {
      r = renameat(a.fd, a.name, b.fd, b.name);
      al_at_close(&b);
    }
    al_at_close(&a);
  }
  if (r == 0) return 0;
  const int err = errno;
  return luaL_error(L, "rename: %s to %s: %s", al_path_shown(from).text, al_path_shown(to).text,
                    al_file_reason(err));
}

static int sys_truncate(lua_State *L) {
  const char *path = check_path(L, 1);
  const lua_Integer n = luaL_checkinteger(L, 2);
  luaL_argcheck(L, n >= 0, 2, "a size of at least 0 expected");
  const int fd = al_file_open(path, O_WRONLY, 0);
  const int r = fd >= 0 ? ftruncate(fd, n) : -1, err = errno;
  if (fd >= 0) close(fd);
  errno = err;
  return r == 0 ? 0 : fail(L, "truncate", path);
}

static int sys_size(lua_State *L) {
  const char *path = check_path(L, 1);
  struct stat st;
  if (stat_path(path, &st) != 0) return fail(L, "size", path);
  lua_pushinteger(L, st.st_size);
  return 1;
}

/* ---- append-only files and locks ---- */

typedef struct handle {
  int fd;        /* -1: closed */
  al_shown name; /* for messages */
} handle;

static handle *check_handle(lua_State *L, const char *type) {
  handle *h = luaL_checkudata(L, 1, type);
  if (h->fd < 0) luaL_error(L, "%s: closed", h->name.text);
  return h;
}

static handle *new_handle(lua_State *L, const char *type, const char *path) {
  handle *h = lua_newuserdatauv(L, sizeof *h, 0);
  h->fd = -1;
  h->name = al_path_shown(path);
  luaL_setmetatable(L, type);
  return h;
}

static int close_handle(lua_State *L, const char *type) {
  handle *h = luaL_checkudata(L, 1, type);
  if (h->fd >= 0) close(h->fd); /* of a lock: gives it back */
  h->fd = -1;
  return 0;
}
static int file_close(lua_State *L) { return close_handle(L, FILE_TYPE); }
static int lock_close(lua_State *L) { return close_handle(L, LOCK_TYPE); }

/* Where the last whole line of a file ends; -1 with errno on failure. */
static off_t whole_lines(int fd) {
  char part[4096];
  off_t end = lseek(fd, 0, SEEK_END);
  while (end > 0) {
    const size_t n = end < (off_t)sizeof part ? (size_t)end : sizeof part;
    const ssize_t k = pread(fd, part, n, end - (off_t)n);
    if (k < 0 && errno == EINTR) continue;
    if (k != (ssize_t)n) return errno = k < 0 ? errno : EIO, -1;
    const char *newline = memrchr(part, '\n', n);
    if (newline) return end - (off_t)n + (newline - part) + 1;
    end -= (off_t)n;
  }
  return end;
}

/* core.sys.append(path) -> a file of lines to write at the end of. Half a line, left by a kill or a
 * full disk, is cut off first: the next record would run into it. */
static int sys_append(lua_State *L) {
  const char *path = check_path(L, 1);
  handle *h = new_handle(L, FILE_TYPE, path);
  h->fd = al_file_open(path, O_RDWR | O_APPEND | O_CREAT, 0666);
  if (h->fd < 0) return fail(L, "append", path);
  struct stat st;
  if (fstat(h->fd, &st) != 0) return fail(L, "append", path);
  if (!S_ISREG(st.st_mode)) return 1;
  const off_t end = whole_lines(h->fd);
  if (end < 0 || (end < st.st_size && ftruncate(h->fd, end) != 0)) return fail(L, "append", path);
  return 1;
}

/* One write call: a record is complete or, after an error, cut off when the file is opened next. */
static int file_write(lua_State *L) {
  const handle *h = check_handle(L, FILE_TYPE);
  size_t n;
  const char *s = luaL_checklstring(L, 2, &n);
  ssize_t k;
  do k = write(h->fd, s, n);
  while (k < 0 && errno == EINTR);
  if (k < 0) return fail(L, "write", h->name.text);
  if ((size_t)k != n)
    return luaL_error(L, "write: %s: only %d of %d bytes were written", h->name.text, (int)k,
                      (int)n);
  return 0;
}

/* The text as the file's beginning, in one call; what lies behind it stays. */
static int file_replace(lua_State *L) {
  const handle *h = check_handle(L, FILE_TYPE);
  size_t n;
  const char *s = luaL_checklstring(L, 2, &n);
  const int flags = fcntl(h->fd, F_GETFL); /* pwrite appends where O_APPEND is set */
  if (flags < 0 || fcntl(h->fd, F_SETFL, flags & ~O_APPEND) != 0)
    return fail(L, "write", h->name.text);
  const ssize_t k = pwrite(h->fd, s, n, 0);
  return k == (ssize_t)n ? 0 : fail(L, "write", h->name.text);
}

static int file_sync(lua_State *L) {
  const handle *h = check_handle(L, FILE_TYPE);
  return fdatasync(h->fd) == 0 ? 0 : fail(L, "sync", h->name.text);
}

static int file_tell(lua_State *L) {
  const handle *h = check_handle(L, FILE_TYPE);
  const off_t at = lseek(h->fd, 0, SEEK_END);
  if (at < 0) return fail(L, "tell", h->name.text);
  lua_pushinteger(L, at);
  return 1;
}

/* core.sys.lock(path) -> handle, or nil when another process has it. The kernel drops it with the
 * process. */
static int sys_lock(lua_State *L) {
  const char *path = check_path(L, 1);
  handle *h = new_handle(L, LOCK_TYPE, path);
  h->fd = al_file_open(path, O_RDWR | O_CREAT, 0666);
  if (h->fd < 0) return fail(L, "lock", path);
  if (flock(h->fd, LOCK_EX | LOCK_NB) == 0) return 1;
  if (errno != EWOULDBLOCK) return fail(L, "lock", path);
  lua_pushnil(L);
  return 1;
}

static int handle_tostring(lua_State *L) {
  const handle *h = lua_touserdata(L, 1);
  lua_pushfstring(L, "%s%s", h ? h->name.text : "?", h && h->fd < 0 ? " (closed)" : "");
  return 1;
}

static const luaL_Reg file_methods[] = {{"write", file_write}, {"replace", file_replace},
                                        {"sync", file_sync},   {"tell", file_tell},
                                        {"close", file_close}, {NULL, NULL}};
static const luaL_Reg lock_methods[] = {{"close", lock_close}, {NULL, NULL}};
static void handle_class(lua_State *L, const char *type, const luaL_Reg *methods,
                         lua_CFunction close_it) {
  const luaL_Reg meta[] = {
      {"__gc", close_it}, {"__close", close_it}, {"__tostring", handle_tostring}, {NULL, NULL}};
  luaL_newmetatable(L, type);
  luaL_setfuncs(L, meta, 0);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

static const luaL_Reg functions[] = {{"time", sys_time},         {"clock", sys_clock},
                                     {"cores", sys_cores},       {"host", sys_host},
                                     {"rss", sys_rss},           {"setenv", sys_setenv},
                                     {"isatty", sys_isatty},     {"width", sys_width},
                                     {"sha256", sys_sha256},     {"sha256_file", sys_sha256_file},
                                     {"exists", sys_exists},     {"read", sys_read},
                                     {"write", sys_write},       {"mkdir", sys_mkdir},
                                     {"list", sys_list},         {"remove", sys_remove},
                                     {"realpath", sys_realpath}, {"rename", sys_rename},
                                     {"truncate", sys_truncate}, {"size", sys_size},
                                     {"append", sys_append},     {"lock", sys_lock},
                                     {"private", sys_private},   {NULL, NULL}};

void lal_open_sys(lua_State *L) {
  luaL_newlib(L, functions);
  lua_setfield(L, -2, "sys");
  handle_class(L, FILE_TYPE, file_methods, file_close);
  handle_class(L, LOCK_TYPE, lock_methods, lock_close);
}
