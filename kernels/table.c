/* table.c: the choice of a kernel by the place of a device. */
#include "table.h"

static const alk_table *tables[ALK_DEVICES];

void alk_table_set(alk_device device, const alk_table *table) { tables[device] = table; }

#define ALK_TYPED(name)                                                                            \
  alk_##name##_fn alk_##name##_slot(const alk_place *at) {                                         \
    return tables[at->device] ? tables[at->device]->name[at->dtype] : NULL;                        \
  }                                                                                                \
  bool alk_##name##_has(const alk_place *at) { return alk_##name##_slot(at) != NULL; }
#define ALK_UNTYPED(name)                                                                          \
  alk_##name##_fn alk_##name##_slot(const alk_place *at) {                                         \
    return tables[at->device] ? tables[at->device]->name : NULL;                                   \
  }
#include "alk_rows.inc"
