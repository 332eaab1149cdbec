/* plugin.h: the parts of the plug-in loader: a check of a file's bytes, a check of a family's
 * tables, the registry that takes it in. */
#ifndef ATTN_PLUGIN_H
#define ATTN_PLUGIN_H
#include "attn.h"

/* Are these n bytes a plug-in of this machine and these headers? A pure function of the bytes, none
 * of which is trusted. True: *stamp is what the file holds. False: `why` says what was needed and
 * what came. */
bool attn_plugin_check(const void *bytes, size_t n, attn_plugin_stamp *stamp, char *why,
                       size_t n_why);

/* Are the tables of a family usable: abi and size, required members, option rows (names, kinds,
 * defaults), presets? `who` names the family's origin in errors. */
al_status attn_family_check(al_ctx *c, const attn_family *f, const char *who);

/* Where a family came from. */
typedef struct attn_origin {
  char *path; /* absolute */
  char hash[65];
} attn_origin;

/* Is there room for one more family and its presets? */
al_status attn_registry_room(al_ctx *c, const attn_family *f, const char *who);
/* Is a name of the family, or of its presets, taken? The error names both sides. A loaded family
 * may never change what a name meant before. f->presets may be NULL. */
al_status attn_registry_free(al_ctx *c, const attn_family *f, const char *who);
/* Takes the family in; cannot fail after attn_registry_room. `origin` now belongs to the
 * registry. */
void attn_registry_add(const attn_family *f, const attn_origin *origin);
#endif
