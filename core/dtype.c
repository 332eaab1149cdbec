/* dtype.c: element types. ORDER dtype */
#include "attnlab.h"
#include <string.h>

static const struct {
  const char *name;
  int64_t size;
} types[] = {
    [AL_F64] = {"f64", 8}, [AL_F32] = {"f32", 4}, [AL_BF16] = {"bf16", 2}, [AL_I32] = {"i32", 4}};

const char *al_dtype_name(al_dtype t) { return types[t].name; }
int64_t al_dtype_size(al_dtype t) { return types[t].size; }

al_dtype al_statistic_type(al_dtype t) { return t == AL_BF16 ? AL_F32 : t; }

al_status al_dtype_parse(al_ctx *c, const char *name, al_dtype *out) {
  for (int i = 0; i < 4; i++)
    if (strcmp(types[i].name, name) == 0) {
      *out = (al_dtype)i;
      return AL_OK;
    }
  return al_fail(c, AL_ENAME, "dtype: one of f64 f32 bf16 i32 expected, got '%s'", name);
}
