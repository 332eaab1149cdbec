/* fault.c: plug-ins that must be refused; the build makes one of each FAULT_. The constructor
 * leaves a mark in the environment, so that a test can tell whether any code of the file ran. */
#include "attn.h"
#include <stdlib.h>

static __attribute__((constructor)) void leave_mark(void) { setenv("FAULT_RAN", "1", 1); }

static __attribute__((unused)) al_tensor *forward(al_ctx *c, const al_opts *o, const attn_sizes *s,
                                                  al_tensor *const *p, const attn_in *in) {
  (void)o, (void)s, (void)p;
#ifdef FAULT_READS /* numbers while it runs: found on a device */
  double first[64];
  if (al_numel(in->v) <= 64) al_read(in->v, first, al_numel(in->v));
#endif
  return al_run(c, "neg", AL_IN(in->v), "");
}

#ifdef FAULT_UNDEFINED /* not in ATTN_HOST_CALLS */
#define INIT init
static al_status init(al_ctx *c) { return al_ctx_new() == c ? AL_OK : AL_ESTATE; }
#elif defined FAULT_ADDRESS /* of numbers: they may lie where no plug-in reaches */
#define INIT init
static al_status init(al_ctx *c) { return (void)c, al_host(NULL) ? AL_ESTATE : AL_OK; }
#elif defined FAULT_INIT
#define INIT init
static al_status init(al_ctx *c) { return al_fail(c, AL_ESTATE, "no %s today", "moon"); }
#elif defined FAULT_INIT_SILENT
#define INIT init
static al_status init(al_ctx *c) {
  (void)c;
  return AL_ESTATE;
}
#elif defined FAULT_INIT_PENDING
#define INIT init
static al_status init(al_ctx *c) {
  al_fail(c, AL_EVALUE, "said and forgotten");
  return AL_OK;
}
#else
#define INIT NULL
#endif

static const al_arg options[] = {
#ifdef FAULT_DEFAULT
    {"mode", AL_T_WORD, "middel", "left middle right", 0, 0, "where", NULL},
#elif defined FAULT_RANGE
    {"n", AL_T_INT, "7", NULL, 1, 5, "how many", NULL},
#elif defined FAULT_LIST
    {"list", AL_T_LIST, "{1,2", NULL, 0, 0, "numbers", NULL},
#elif defined FAULT_CHOICES
    {"mode", AL_T_WORD, "", " ", 0, 0, "where", NULL},
#elif defined FAULT_OPTION_NAME
    {"a=b", AL_T_NUM, "0", NULL, 0, 0, "no word", NULL},
#elif defined FAULT_OPTION_TWICE
    {"n", AL_T_NUM, "0", NULL, 0, 0, "one", NULL},
    {"n", AL_T_NUM, "0", NULL, 0, 0, "again", NULL},
#elif defined FAULT_RECORD
    {"r", AL_T_RECORD, "", NULL, 0, 0, "of nothing", NULL},
#endif
    {"gain", AL_T_NUM, "1", NULL, 0, 0, "none", NULL},
    {0}};

static const attn_preset presets[] = {{"fault/first", "gain=2", "", "a test", ""},
#ifdef FAULT_PRESET_TAKEN
                                      {"p1/softmax", "", "", "", ""},
#elif defined FAULT_PRESET_SHORT /* "softmax" means p1/softmax already */
                                      {"softmax", "", "", "", ""},
#elif defined FAULT_PRESET_MEAN
                                      {"test/twice_the_mean", "", "", "", ""},
#elif defined FAULT_PRESET_OPTIONS
                                      {"fault/second", "gian=3", "", "", ""},
#elif defined FAULT_PRESET_TWICE
                                      {"fault/first", "", "", "", ""},
#elif defined FAULT_PRESET_NULL
                                      {"fault/second", "", NULL, "", ""},
#elif defined FAULT_PRESET_NAME
                                      {"two words", "", "", "", ""},
#endif
                                      {0}};

#ifdef FAULT_TAP_NAME
static const attn_tap_row taps[] = {{"two words", "(B,T,H)", "none", false, NULL}, {0}};
#elif defined FAULT_TAP_TWICE
static const attn_tap_row taps[] = {
    {"gate", "(B,T,H)", "one", false, NULL}, {"gate", "(B,T,H)", "again", false, NULL}, {0}};
#else
static const attn_tap_row taps[] = {{0}};
#endif

#define REST .doc = "a fault", .options = options, .presets = presets, .taps = taps
#ifdef FAULT_NAME_TAKEN
ATTN_FAMILY(kernel_attention, REST, .forward = forward);
#elif defined FAULT_NAME_SHORT
ATTN_FAMILY(cottention, REST, .forward = forward);
#elif defined FAULT_NAME_MEAN
ATTN_FAMILY(mean, REST, .forward = forward);
#elif defined FAULT_NO_FORWARD
ATTN_FAMILY(fault, REST);
#elif defined FAULT_NO_SYMBOL || defined FAULT_NO_STAMP || defined FAULT_STAMP_NAME ||             \
    defined FAULT_STAMP_ABI || defined FAULT_GIVES_NULL || defined FAULT_FAMILY_SIZE
/* The parts of ATTN_FAMILY one by one. */
#ifdef FAULT_FAMILY_SIZE
static const attn_family attn_family_fault = {
    .abi = ATTN_ABI, .size = sizeof(attn_family) - 8, .name = "fault", REST, .forward = forward};
#else
static ATTN_FAMILY_TABLE(fault, REST, .forward = forward);
#endif
#ifndef FAULT_NO_STAMP
AL_API extern const attn_plugin_stamp stamp;
AL_API const attn_plugin_stamp stamp __asm__("attn_plugin_stamp") =
#ifdef FAULT_STAMP_NAME
    ATTN_STAMP(other);
#elif defined FAULT_STAMP_ABI
    {ATTN_MAGIC, ATTN_ABI - 1, {0}, "fault"};
#else
    ATTN_STAMP(fault);
#endif
#endif
#ifdef FAULT_NO_SYMBOL
#define attn_plugin attn_plugin_of_another_name
#endif
AL_API attn_plugin_fn attn_plugin;
const attn_family *attn_plugin(const attn_host *host) {
  attn_host_ = host;
#ifdef FAULT_GIVES_NULL
  return NULL;
#endif
  return &attn_family_fault;
}
#else
ATTN_FAMILY(fault, REST, .forward = forward, .init = INIT);
#endif
