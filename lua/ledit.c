/* ledit.c: attnlab.edit, the line editor of the prompt, on libedit. Part of the program alone, not
 * of the module that stock Lua loads.
 *
 *   e = edit.open(complete)          on the terminal; one a process
 *   text = e:read(signals, prompt, initial)   a line; with a paste several, "\n" between them. nil:
 *                                    a signal came, since there were so many. false: the end
 *   e:remember(line)                 an entry of the history
 *   e:close()                        the terminal as it was; after it no more is read
 *   edit.wait(signals)               without an editor: true: there is input; false as nil above
 *
 * complete(line, cursor) -> what Tab inserts there, and a text that is shown above, or nil. */
#define _GNU_SOURCE
#include "lua_attnlab.h"
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY = 5000, MOST_PASTE = 1 << 20 };
#define PASTE_ON "\033[?2004h"
#define PASTE_OFF "\033[?2004l"
#define PASTE_BEGIN "\033[200~"
#define PASTE_END "\033[201~"
#define FILL "\033[9~" /* we push it ourselves: puts `initial` into the line */

/* libedit hands callbacks no more than its own object. */
static struct {
  EditLine *el;
  History *history;
  lua_State *L;
  const char *prompt, *initial;
  char *rest; /* of a paste, behind its first line */
  int signals;
} edit;

static volatile sig_atomic_t resized, continued;

static void on_terminal(int sig) {
  if (sig == SIGCONT) continued = 1;
  else resized = 1;
}

/* ---- characters ---- */

/* Waits for input: 1, or -1 where a signal came that somebody else has to see. Signals come to this
 * thread in the wait alone, so that none is missed between a look and a read; one that another
 * thread took in its place is seen with the next beat. */
static int await(void) {
  static const int ours[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT};
  static const struct timespec beat = {.tv_nsec = 500000000};
  sigset_t block, old;
  sigemptyset(&block);
  for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) sigaddset(&block, ours[i]);
  for (;;) {
    sigprocmask(SIG_BLOCK, &block, &old);
    int n = 0;
    if (lal_signals() == edit.signals) {
      struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
      n = ppoll(&in, 1, &beat, &old);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    if (lal_signals() != edit.signals) return -1;
    if (edit.el && continued) {
      el_set(edit.el, EL_PREP_TERM, 1);
      el_set(edit.el, EL_REFRESH);
    }
    if (edit.el && resized) el_resize(edit.el);
    continued = resized = 0;
    if (n > 0) return 1;
  }
}

/* One byte; -1: a signal that somebody else has to see, 0: the end. */
static int next_byte(unsigned char *byte) {
  for (;;) {
    if (await() < 0) return -1;
    const ssize_t k = read(STDIN_FILENO, byte, 1);
    if (k >= 0) return (int)k;
    if (errno != EINTR && errno != EAGAIN) return 0; /* the terminal is gone */
  }
}

static int next_char(EditLine *el, wchar_t *out) {
  (void)el;
  mbstate_t state = {0};
  for (;;) {
    unsigned char byte;
    const int n = next_byte(&byte);
    if (n <= 0) {
      if (n < 0) errno = EINTR;
      return n;
    }
    const size_t k = mbrtowc(out, (char *)&byte, 1, &state);
    if (k == (size_t)-2) continue;
    if (k == (size_t)-1) { /* what is no text is passed over */
      state = (mbstate_t){0};
      continue;
    }
    return 1;
  }
}

/* ---- keys ---- */

/* Takes out what is no character here: libedit would drop the whole line. */
static void keep_characters(char *text) {
  char *to = text;
  mbstate_t state = {0};
  for (const char *from = text; *from;) {
    const size_t k = mbrtowc(NULL, from, MB_CUR_MAX, &state);
    if (k == (size_t)-1 || k == (size_t)-2) {
      state = (mbstate_t){0};
      from++;
      continue;
    }
    memmove(to, from, k);
    to += k, from += k;
  }
  *to = '\0';
}

/* Reads a paste up to its end: its text, to be freed; NULL: errno says why, 0 for the end of input.
 * A paste that there is no room for is read to its end all the same: no part of it is typed. */
static char *read_paste(void) {
  static const size_t n_end = sizeof PASTE_END - 1;
  char tail[sizeof PASTE_END] = "", *text = NULL;
  size_t n = 0, room = 0;
  bool fits = true;
  while (strcmp(tail, PASTE_END) != 0) {
    unsigned char byte;
    const int got = next_byte(&byte);
    if (got <= 0) {
      free(text);
      errno = got < 0 ? EINTR : 0;
      return NULL;
    }
    if (fits && n + 2 > room) {
      room = room ? 2 * room : 256;
      char *more = room > MOST_PASTE ? NULL : realloc(text, room);
      if (more) text = more;
      else fits = false;
    }
    if (byte == '\0') byte = ' '; /* libedit's lines end there */
    if (fits) text[n++] = (char)(byte == '\r' ? '\n' : byte);
    size_t k = strlen(tail);
    if (k == n_end) memmove(tail, tail + 1, k--);
    tail[k] = (char)byte, tail[k + 1] = '\0';
  }
  if (!fits) {
    free(text);
    errno = E2BIG;
    return NULL;
  }
  text[n - n_end] = '\0';
  keep_characters(text);
  return text;
}

/* What is pasted, up to its end, is text: a tab in it completes nothing, a line end runs nothing
 * before all of it is there. */
static unsigned char paste(EditLine *el, int key) {
  (void)key;
  char *text = read_paste();
  if (!text) {
    if (errno == E2BIG) fputs("\na paste of less than 1 MiB expected: nothing was taken\n", stdout);
    return errno == 0 ? CC_EOF : errno == E2BIG ? CC_REDISPLAY : CC_ERROR;
  }
  char *end = strchr(text, '\n'), *rest = end ? strdup(end + 1) : NULL;
  if (end) *end = '\0';
  if (end && !rest) {
    free(text);
    return CC_ERROR;
  }
  el_insertstr(el, text);
  free(text);
  if (!end) return CC_REFRESH;
  free(edit.rest);
  edit.rest = rest;
  el_push(el, "\r"); /* libedit's own end of a line, which leaves the cursor below it */
  return CC_REFRESH;
}

static unsigned char fill(EditLine *el, int key) {
  (void)key;
  el_insertstr(el, edit.initial);
  return CC_REFRESH;
}

static void set_line(EditLine *el, const char *text) {
  const LineInfo *line = el_line(el);
  el_cursor(el, (int)(line->lastchar - line->cursor));
  line = el_line(el);
  el_deletestr(el, (int)(line->lastchar - line->buffer));
  if (*text) el_insertstr(el, text);
}

/* The entry of the history that has `needle`, of those the one that `skip` came after, or NULL. */
static const char *find(const char *needle, int skip) {
  HistEvent event;
  for (int r = history(edit.history, &event, H_FIRST); r >= 0;
       r = history(edit.history, &event, H_NEXT))
    if (strstr(event.str, needle) && skip-- == 0) return event.str;
  return NULL;
}

/* Looks for what is typed in the history, later lines first; the same key again goes further back,
 * Ctrl-G puts the line back, any other key of control takes what was found. (libedit's own search
 * loses the line at the second letter.) */
static unsigned char search(EditLine *el, int key) {
  const LineInfo *line = el_line(el);
  char *before = strndup(line->buffer, (size_t)(line->lastchar - line->buffer));
  const char *prompt = edit.prompt;
  char needle[128] = "", shown[192];
  size_t n = 0;
  int skip = 0, got;
  unsigned char answer = CC_REFRESH;
  if (!before) return CC_ERROR;
  for (;;) {
    const char *hit = n > 0 ? find(needle, skip) : NULL;
    if (hit) set_line(el, hit);
    snprintf(shown, sizeof shown, "%s '%s': ", n > 0 && !hit ? "not in the history" : "search",
             needle);
    edit.prompt = shown;
    el_set(el, EL_REFRESH);
    wchar_t c;
    got = next_char(el, &c);
    if (got <= 0) {
      answer = got == 0 ? CC_EOF : CC_ERROR;
      break;
    }
    if (c == (wchar_t)key) {
      if (hit && find(needle, skip + 1)) skip++;
    } else if (c == 127 || c == '\b') {
      while (n > 0 && (needle[--n] & 0xc0) == 0x80) {}
      needle[n] = '\0', skip = 0;
    } else if (c == 'G' - '@') {
      set_line(el, before);
      break;
    } else if (c < ' ') {
      el_push(el, (char[]){(char)c, 0});
      break;
    } else if (n + MB_CUR_MAX < sizeof needle) {
      mbstate_t state = {0};
      const size_t k = wcrtomb(needle + n, c, &state);
      if (k != (size_t)-1) n += k;
      needle[n] = '\0', skip = 0;
    }
  }
  edit.prompt = prompt;
  free(before);
  return answer;
}

/* (editor): what its function says to the line, as texts or nil. */
static int ask(lua_State *L) {
  const LineInfo *line = el_line(edit.el);
  lua_getiuservalue(L, 1, 1);
  lua_pushlstring(L, line->buffer, (size_t)(line->lastchar - line->buffer));
  lua_pushinteger(L, line->cursor - line->buffer);
  lua_call(L, 2, 2);
  for (int i = -2; i < 0; i++)
    if (!lua_isnil(L, i)) luaL_checkstring(L, i);
  return 2;
}

/* An error of Lua must not pass libedit, so all is asked for in a call of its own; there is nothing
 * to insert then. */
static unsigned char complete(EditLine *el, int key) {
  (void)key;
  lua_State *L = edit.L;
  const int top = lua_gettop(L);
  unsigned char answer = CC_ERROR;
  lua_pushcfunction(L, ask);
  lua_pushvalue(L, 1);
  if (lua_pcall(L, 1, 2, 0) == LUA_OK) {
    const char *insert = lua_tostring(L, -2), *shown = lua_tostring(L, -1);
    if (shown) {
      fprintf(stdout, "\n%s\n", shown);
      fflush(stdout);
      answer = CC_REDISPLAY;
    }
    if (insert && *insert && el_insertstr(el, insert) == 0)
      answer = shown ? CC_REDISPLAY : CC_REFRESH;
  }
  lua_settop(L, top);
  return answer;
}

static char *show_prompt(EditLine *el) {
  (void)el;
  return (char *)edit.prompt;
}

/* ---- from Lua ---- */

#define TYPE "attnlab.edit"

static int edit_close(lua_State *L) {
  (void)L;
  if (edit.el) el_end(edit.el);
  if (edit.history) history_end(edit.history);
  free(edit.rest);
  edit.el = NULL, edit.history = NULL, edit.rest = NULL;
  return 0;
}

static int edit_open(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  if (edit.el) return luaL_error(L, "edit: it is open already");
  lua_newuserdatauv(L, 0, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, TYPE);
  setlocale(LC_CTYPE, ""); /* what characters are; numbers keep their point */
  HistEvent event;
  edit.el = el_init("attnlab", stdin, stdout, stderr);
  edit.history = history_init();
  if (!edit.el || !edit.history) {
    edit_close(L);
    return luaL_error(L, "edit: the terminal cannot be edited on");
  }
  history(edit.history, &event, H_SETSIZE, HISTORY);
  history(edit.history, &event, H_SETUNIQUE, 1);
  EditLine *el = edit.el;
  el_set(el, EL_PROMPT, show_prompt);
  el_set(el, EL_EDITOR, "emacs");
  el_set(el, EL_HIST, history, edit.history);
  el_set(el, EL_SIGNAL, 0);
  el_set(el, EL_GETCFN, next_char);
  el_set(el, EL_ADDFN, "attnlab-complete", "completes a name", complete);
  el_set(el, EL_ADDFN, "attnlab-paste", "takes what is pasted as text", paste);
  el_set(el, EL_ADDFN, "attnlab-fill", "puts a text into the line", fill);
  el_set(el, EL_ADDFN, "attnlab-search", "finds a line of the history", search);
  el_set(el, EL_BIND, "^I", "attnlab-complete", NULL);
  el_set(el, EL_BIND, "^R", "attnlab-search", NULL);
  el_set(el, EL_BIND, PASTE_BEGIN, "attnlab-paste", NULL);
  el_set(el, EL_BIND, FILL, "attnlab-fill", NULL);
  return 1;
}

/* What was read, as Lua has it: without its line end, the rest of a paste behind it. */
static void push_text(lua_State *L, const char *line, int n) {
  luaL_Buffer b;
  while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
  luaL_buffinit(L, &b);
  luaL_addlstring(&b, line, (size_t)n);
  if (edit.rest) {
    luaL_addchar(&b, '\n');
    luaL_addstring(&b, edit.rest);
  }
  luaL_pushresult(&b);
}

static int edit_read(lua_State *L) {
  luaL_checkudata(L, 1, TYPE);
  edit.signals = (int)luaL_checkinteger(L, 2);
  edit.prompt = luaL_checkstring(L, 3);
  edit.initial = luaL_optstring(L, 4, "");
  if (!edit.el) return luaL_error(L, "edit: it was closed");
  edit.L = L;
  free(edit.rest);
  edit.rest = NULL;
  struct sigaction a = {.sa_handler = on_terminal}, window, going;
  sigemptyset(&a.sa_mask);
  sigaction(SIGWINCH, &a, &window);
  sigaction(SIGCONT, &a, &going);
  if (*edit.initial) el_push(edit.el, FILL);
  el_set(edit.el, EL_PREP_TERM, 1); /* before the prompt says that keys are taken */
  fputs(PASTE_ON, stdout);
  fflush(stdout);
  int n = 0;
  errno = 0;
  const char *line = el_gets(edit.el, &n);
  el_set(edit.el, EL_PREP_TERM, 0);
  fputs(PASTE_OFF, stdout);
  fflush(stdout);
  sigaction(SIGWINCH, &window, NULL);
  sigaction(SIGCONT, &going, NULL);
  if (lal_signals() != edit.signals) {
    el_reset(edit.el); /* an interrupt leaves no half of a line for the next */
    lua_pushnil(L);
  } else if (!line || n <= 0) {
    lua_pushboolean(L, false);
  } else {
    push_text(L, line, n);
  }
  return 1;
}

static int edit_remember(lua_State *L) {
  luaL_checkudata(L, 1, TYPE);
  const char *line = luaL_checkstring(L, 2);
  HistEvent event;
  if (edit.history && *line) history(edit.history, &event, H_ENTER, line);
  return 0;
}

static int edit_wait(lua_State *L) {
  edit.signals = (int)luaL_checkinteger(L, 1);
  lua_pushboolean(L, await() > 0);
  return 1;
}

static const luaL_Reg functions[] = {{"open", edit_open}, {"wait", edit_wait}, {NULL, NULL}};
static const luaL_Reg methods[] = {
    {"read", edit_read}, {"remember", edit_remember}, {"close", edit_close}, {NULL, NULL}};

int luaopen_attnlab_edit(lua_State *L);
int luaopen_attnlab_edit(lua_State *L) {
  luaL_newmetatable(L, TYPE);
  lua_pushcfunction(L, edit_close);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
