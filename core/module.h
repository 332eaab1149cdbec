/* module.h: devices that a module brings, which is opened when the first of them is asked for. */
#ifndef AL_MODULE_H
#define AL_MODULE_H
#include "device.h"

/* The device "cuda" or "cuda:N" of this context, new; NULL with the error pending. */
al_device *al_module_device(al_ctx *c, const char *name);
#endif
