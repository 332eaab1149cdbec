/* table.h: the kernels of a device as one table, a slot for each contract, typed by it. The build
 * reads the contracts and writes the rows: alk_rows.inc has ALK_TYPED(name) for each ALK_KERNEL and
 * ALK_ROOM, ALK_UNTYPED(name) for each ALK_ANY. */
#ifndef ALK_TABLE_H
#define ALK_TABLE_H
#include "alk_contracts.inc"

typedef struct alk_table {
#define ALK_TYPED(name) alk_##name##_fn name[ALK_DTYPES];
#define ALK_UNTYPED(name) alk_##name##_fn name;
#include "alk_rows.inc"
#undef ALK_TYPED
#undef ALK_UNTYPED
} alk_table;

/* From now on this device's kernels are these, which must outlive all use; NULL: it has none. */
void alk_table_set(alk_device device, const alk_table *table);
#endif
