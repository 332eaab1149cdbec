/* device.c: devices and the places on them, how numbers get there and back; what this build and
 * this machine can compute on, in words. */
#include "core.h"
#include "module.h"
#include "../kernels/kernel.h"
#include "../kernels/matmul.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *al_cpu(void) {
  static _Thread_local char text[96];
  const alk_isa isa = alk_cpu_isa(), best = alk_cpu_best();
  snprintf(text, sizeof text, "%s%s%s", alk_isa_name(isa), isa == best ? "" : " of ",
           isa == best ? "" : alk_isa_name(best));
  return text;
}

const char *al_libraries(void) {
  static _Thread_local char text[256];
  snprintf(text, sizeof text, "cpu %s, products by %s", al_cpu(), alk_matmul_version());
  return text;
}

const char *al_build_info(void) {
  static _Thread_local char text[768];
  int cards;
  snprintf(text, sizeof text, "%s, cuda: %s", al_libraries(), al_cuda(&cards));
  return text;
}

/* ---- places ---------------------------------------------------------------------------------- */

enum { OFFERS = 2 };
static al_device *(*offers[OFFERS])(al_ctx *c);

void al_device_offer(al_device *(*make)(al_ctx *c)) {
  for (int i = 0; i < OFFERS; i++)
    if (!offers[i] || offers[i] == make) {
      offers[i] = make;
      return;
    }
}

/* The types that run there, the room that kernels ask for and what may lie unused are those of
 * another device. */
static void count_like(al_device *d, const al_device *other) {
  d->like = other, d->kernels = other->kernels, d->queue = other->queue;
  d->mem.spare = other->mem.spare;
}

void al_device_init(al_ctx *c) {
  const al_mem mem = {.spare = 32 << 20};
  c->cpu = (al_device){
      .name = "cpu", .kernels = ALK_CPU, .host = true, .mem = mem, .room = al_memory_of_host()};
  c->counting = (al_device){.name = "counting", .counts = true};
  count_like(&c->counting, &c->cpu);
  c->device = c->devices[0] = &c->cpu;
  c->devices[1] = &c->counting;
  for (int i = 0, n = 2; i < OFFERS && offers[i] && n < AL_DEVICES; i++) {
    al_device *d = offers[i](c);
    if (d) c->devices[n++] = d;
  }
}

void al_device_end(al_ctx *c) {
  for (int i = 0; i < AL_DEVICES && c->devices[i]; i++) {
    al_device *d = c->devices[i];
    if (d->notes) d->give(d, d->notes, AL_CHECKS * (int64_t)sizeof(int32_t[2]));
    if (d->close) d->close(d);
  }
}

static al_device *device_named(al_ctx *c, const char *name) {
  const char *names[AL_DEVICES + 1] = {0};
  int n = 0;
  if (strcmp(name, "cuda:0") == 0) name = "cuda";
  for (; n < AL_DEVICES && c->devices[n]; n++) {
    if (strcmp(c->devices[n]->name, name) == 0) return c->devices[n];
    names[n] = c->devices[n]->name;
  }
  if (strncmp(name, "cuda", 4) == 0 && n < AL_DEVICES && (!name[4] || name[4] == ':'))
    return c->devices[n] = al_module_device(c, name);
  names[n] = "cuda";
  const char *near = al_nearest(name, names, AL_DEVICES + 1);
  al_fail(c, AL_ENAME, "no device '%s' here%s%s%s (%s)", name, near ? ", did you mean '" : "",
          near ? near : "", near ? "'?" : "", al_build_info());
  return NULL;
}

const char *al_on(al_ctx *c, const char *device) {
  const char *before = c->device->name;
  al_device *d = device ? device_named(c, device) : c->device;
  if (!d) return NULL;
  if (d->counts && !c->device->counts) count_like(d, c->device);
  c->device = d;
  return before;
}

const char *al_device_name(const al_tensor *t) { return t ? t->storage->device->name : "cpu"; }

al_tensor *al_to(al_ctx *c, al_tensor *t, const char *device) {
  al_device *d = t && al_error(c) == AL_OK ? device_named(c, device) : NULL;
  if (!d) return NULL;
  if (d == t->storage->device) return al_scope_own(c, al_retain(t));
  const bool off = c->scope_off;
  c->scope_off = true;
  al_device *before = al_device_use(c, d);
  al_tensor *copy = al_tensor_new(c, t->dtype, t->ndim, t->shape);
  al_device_use(c, before);
  c->scope_off = off;
  if (copy && al_copy_into(c, copy, t) == AL_OK) return al_scope_own(c, copy);
  al_release(copy);
  return NULL;
}

al_status al_plans_time(al_ctx *c, const char *device, bool on) {
  al_device *d = al_error(c) == AL_OK ? device_named(c, device) : NULL;
  if (d && d->plans_time && !d->plans_time(d, on)) al_device_settle(c, d, "matmul");
  return al_error(c);
}

char *al_plans_save(al_ctx *c, const char *device) {
  char why[512];
  al_device *d = al_error(c) == AL_OK ? device_named(c, device) : NULL;
  if (!d) return NULL;
  char *text = d->plans_save ? d->plans_save(d, why, sizeof why) : calloc(1, 1);
  if (!text) al_fail(c, AL_ESTATE, "device %s: %s", d->name, d->plans_save ? why : "out of memory");
  return text;
}

al_status al_plans_load(al_ctx *c, const char *device, const char *text) {
  char why[1024] = "products have no plans here: an empty text needed";
  al_device *d = al_error(c) == AL_OK ? device_named(c, device) : NULL;
  if (!d || (d->plans_load ? d->plans_load(d, text, why, sizeof why) : !*text)) return al_error(c);
  return al_fail(c, AL_EVALUE, "device %s: %s", d->name, why);
}

al_turn al_turn_begin(al_ctx *c, const char *who) {
  const al_turn before = c->turn;
  snprintf(c->turn.who, sizeof c->turn.who, "%s", who);
  return before;
}

void al_turn_end(al_ctx *c, const al_turn *t) { c->turn = *t; }

void al_count(al_ctx *c, int64_t n) { c->device->work.products += n; }
void al_count_bytes(al_ctx *c, int64_t n) { c->device->work.bytes += n; }
al_work al_work_done(const al_ctx *c) { return c->device->work; }

al_device *al_device_use(al_ctx *c, al_device *d) {
  al_device *before = c->device;
  if (d) c->device = d;
  return before;
}

static const al_place *place(al_ctx *c, al_device *d, alk_dtype dtype) {
  al_place *at = &c->places[dtype];
  *at = (al_place){
      .k = {.dtype = dtype, .device = d->kernels, .threads = al_threads(), .queue = d->queue},
      .device = d,
      .c = c};
  return at;
}

const al_place *al_here(al_ctx *c, alk_dtype dtype) { return place(c, c->device, dtype); }
const al_place *al_where(const al_tensor *t) {
  return place(t->ctx, t->storage->device, (alk_dtype)t->dtype);
}

bool al_runs(const al_place *at) {
  if (al_error(at->c) != AL_OK || at->device->counts) return false;
  if (at->device->dead[0]) return al_device_settle(at->c, at->device, NULL), false;
  if (at->device->open) at->device->open(at->device);
  return true;
}

al_status al_ran(const al_place *at, const char *kernel, alk_status st) {
  uint64_t h = 1469598103934665603u + at->k.dtype; /* FNV */
  for (const char *p = kernel; *p; p++) h = (h ^ (unsigned char)*p) * 1099511628211u;
  at->device->work.kernels += h;
  if (at->device->shut) at->device->shut(at->device);
  al_device_settle(at->c, at->device, kernel);
  if (st != ALK_OK) al_fail(at->c, AL_ESTATE, "kernel %s: failed", kernel);
  return al_error(at->c);
}

al_status al_device_settle(al_ctx *c, al_device *d, const char *kernel) {
  if (kernel) d->last = kernel;
  if (kernel && !d->first) d->first = kernel;
  bool dead = false;
  const char *why = d->failure && !d->dead[0] ? d->failure(d, &dead) : NULL;
  if (why && dead)
    snprintf(d->dead, sizeof d->dead,
             "a kernel of %s .. %s, queued in this order: %s; this process can use %s no more",
             d->first ? d->first : "(none)", d->last ? d->last : "(none)", why, d->name);
  else if (why) al_fail(c, AL_ESTATE, "kernel %s: %s", d->last ? d->last : "(none)", why);
  if (d->dead[0]) al_fail(c, AL_ESTATE, "%s", d->dead);
  return al_error(c);
}

al_status al_no_kernel(const al_place *at, const char *kernel) {
  if (at->device->shut) at->device->shut(at->device);
  return al_fail(at->c, AL_ETYPE, "kernel %s: none for %s on %s", kernel,
                 al_dtype_name((al_dtype)at->k.dtype), at->device->name);
}

void al_put_packed(al_tensor *t, const void *from) {
  al_device *d = t->storage->device;
  const int64_t bytes = al_numel(t) * al_dtype_size(t->dtype);
  if (d->counts || bytes == 0) return;
  if (d->host) memcpy(al_data(t), from, (size_t)bytes);
  else if (!d->dead[0]) {
    d->from_host(d, al_data(t), from, bytes);
    al_device_settle(t->ctx, d, NULL);
  } else al_device_settle(t->ctx, d, NULL);
}

void al_get_packed(const al_tensor *t, void *to) {
  al_device *d = t->storage->device;
  const int64_t bytes = al_numel(t) * al_dtype_size(t->dtype);
  if (bytes == 0) return;
  if (d->counts) memset(to, 0, (size_t)bytes);
  else if (d->host) memcpy(to, al_data(t), (size_t)bytes);
  else {
    if (!d->dead[0]) d->to_host(d, to, al_data(t), bytes);
    if (al_device_settle(t->ctx, d, NULL) == AL_OK) d->first = NULL;
    if (al_error(t->ctx) == AL_OK) al_ids_report(t->ctx, d);
  }
}

bool al_stage_begin(al_stage *g, al_tensor *t, bool filled) {
  *g = (al_stage){.t = t};
  if (t->storage->device->host) g->bytes = al_host(t);
  else g->bytes = al_calloc(t->ctx, al_numel(t), (size_t)al_dtype_size(t->dtype));
  if (g->bytes && filled && !t->storage->device->host) al_get_packed(t, g->bytes);
  return g->bytes != NULL;
}

void al_stage_end(al_stage *g, bool back) {
  if (g->t->storage->device->host) return;
  if (back && g->bytes) al_put_packed(g->t, g->bytes);
  free(g->bytes);
}

al_tensor *al_room_new(const al_place *at, int64_t bytes) {
  const int64_t n = (bytes + 7) / 8;
  if (al_error(at->c) != AL_OK) return NULL;
  return al_tensor_new(at->c, AL_F64, 1, &n);
}
