/* device.h: a device made of the CPU's kernels, whose memory nobody can read but them: outside
 * ALK_RUN and copies its pages are protected, so a host read ends the process with the name of the
 * op that runs. */
#ifndef PRETENDED_DEVICE_H
#define PRETENDED_DEVICE_H
#include "../../core/core.h"

/* From now on every new context has the device "pretended". */
void pretended_offer(void);
/* A new context; the environment's ATTNLAB_TEST_DEVICE, "pretended" or "cuda", makes
 * that device current. */
al_ctx *test_context(void);
#endif
