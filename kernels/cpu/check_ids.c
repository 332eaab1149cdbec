/* check_ids.c: control numbers (contract: ../check_ids.h). */
#include "../check_ids.h"

alk_status alk_check_ids_any(const alk_place *at, int64_t n, int64_t hi, int64_t other,
                             bool besides, const void *ids, void *clean, void *notes, int entry) {
  const int32_t *v = ids;
  int32_t *to = clean, *first = (int32_t *)notes + 2 * entry;
  for (int64_t i = 0; i < n; i++) {
    const bool fine = (v[i] >= 0 && v[i] <= hi) || (besides && v[i] == other);
    to[i] = fine ? v[i] : (int32_t)other;
    if (!fine && first[0] < 0) first[0] = (int32_t)i, first[1] = v[i];
  }
  return ALK_OK;
}
