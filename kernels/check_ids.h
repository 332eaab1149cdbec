/* check_ids.h: control numbers that lie where the host does not look: lengths, token numbers. */
#ifndef ALK_CHECK_IDS_H
#define ALK_CHECK_IDS_H
#include "kernel.h"

/* clean (n) = ids (n), both i32, where they lie in 0..hi or, with `besides`, are `other`; else
 * `other`. notes (..,2), i32, number `entry`: the first position of such a one and what stood
 * there, else as it was. */
ALK_ANY(check_ids, int64_t n, int64_t hi, int64_t other, bool besides, const void *ids, void *clean,
        void *notes, int entry)
#endif
