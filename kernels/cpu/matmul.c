/* matmul.c: folds, splits and dispatches batched products; the only place that knows oneDNN.
 *
 * Folding: a batch axis along which B repeats continues the rows of A and C (M grows), one along
 * which A repeats continues the columns (N grows), one that C sums continues the inner axis (K
 * grows). What remains is cut into pieces = outputs x strips of the longer side, and each piece
 * runs on one thread: measured faster than oneDNN's own threading for every shape of the main job.
 * Only a product too small to cut is given to oneDNN whole.
 */
#include "../matmul_fold.h"
#include "product.h"
#include <omp.h>
#include <stdio.h>
#include <string.h>
#ifdef ALK_DNNL
#include <dnnl.h>
#endif

enum {
  MIN_STRIP = 48,    /* rows or columns below which a strip runs at half speed or less */
  BIAS_BLOCK = 65536 /* elements of C that are still in L2 when the bias is added */
};
static const double MIN_WORK =
    4e5; /* 2mnk below which waking a thread costs more than it saves (2 us) */

static const char plain[] = "plain blocked product";

static int64_t item_size(alk_dtype t) { return t == ALK_F64 ? 8 : 4; }
static const void *at(const void *p, int64_t i, alk_dtype t) {
  return (const char *)p + i * item_size(t);
}

#ifdef ALK_DNNL
static const struct {
  dnnl_cpu_isa_t isa;
  const char *name;
} dnnl_sets[ALK_ISAS] = {[ALK_ISA_BASE] = {dnnl_cpu_isa_sse41, "sse41"},
                         [ALK_ISA_V3] = {dnnl_cpu_isa_avx2, "avx2"},
                         [ALK_ISA_V4] = {dnnl_cpu_isa_avx512_core, "avx512_core"}};
static const char *dnnl_most; /* NULL: whatever it likes */
static bool dnnl_off;

void alk_matmul_limit(alk_isa isa) {
  dnnl_off = dnnl_set_max_cpu_isa(dnnl_sets[isa].isa) != dnnl_success;
  dnnl_most = dnnl_sets[isa].name;
}

static bool dnnl_product(const alk_matmul_task *t) {
  bool ta, tb;
  if (dnnl_off) return false;
  int64_t lda, ldb, ldc = t->m == 1 ? t->n : t->c_row;
  if (t->dtype != ALK_F32 || ldc < t->n ||
      !alk_operand(t->m, t->k, t->a_row, t->a_col, &ta, &lda) ||
      !alk_operand(t->k, t->n, t->b_row, t->b_col, &tb, &ldb))
    return false;
  return dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', t->m, t->n, t->k, (float)t->alpha, t->a, lda,
                    t->b, ldb, t->add ? 1 : 0, t->c, ldc) == dnnl_success;
}

bool alk_matmul_direct(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
  bool trans;
  int64_t ld;
  return alk_operand(rows, cols, row_stride, col_stride, &trans, &ld);
}

const char *alk_matmul_version(void) {
  static _Thread_local char text[64];
  const dnnl_version_t *v = dnnl_version();
  snprintf(text, sizeof text, "oneDNN %d.%d.%d%s%s", v->major, v->minor, v->patch,
           dnnl_most ? ", at most " : "", dnnl_most ? dnnl_most : "");
  return dnnl_off ? plain : text;
}
#else
static bool dnnl_product(const alk_matmul_task *t) { return (void)t, false; }

bool alk_matmul_direct(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
  return (void)rows, (void)cols, (void)row_stride, (void)col_stride, true; /* packed either way */
}

const char *alk_matmul_version(void) { return plain; }
void alk_matmul_limit(alk_isa isa) { (void)isa; }
#endif

static void zero(const alk_matmul_task *t) {
  for (int64_t i = 0; i < t->m; i++)
    memset((char *)t->c + i * t->c_row * item_size(t->dtype), 0,
           (size_t)(t->n * item_size(t->dtype)));
}

static void one_product(const alk_matmul_task *t) {
  if (t->k == 0) {
    if (!t->add) zero(t);
  } else if (!dnnl_product(t)) {
    alk_product(t->dtype)(t);
  }
}

/* Rows m0..m1 and columns n0..n1 of output entry `out`, all summed entries, then the bias. The
 * first n_kept batch axes are C's own, the others are summed. */
static void piece(const alk_matmul_task *t, int n_kept, int64_t out, int64_t m0, int64_t m1,
                  int64_t n0, int64_t n1) {
  int64_t a = 0, b = 0, c = 0, n_sum = 1;
  for (int i = n_kept - 1; i >= 0; i--) {
    int64_t x = out % t->batch[i];
    out /= t->batch[i];
    a += x * t->a_batch[i], b += x * t->b_batch[i], c += x * t->c_batch[i];
  }
  for (int i = n_kept; i < t->n_batch; i++) n_sum *= t->batch[i];
  int64_t width = n1 - n0, step = t->bias && width > 0 ? BIAS_BLOCK / width + 1 : m1 - m0;
  alk_matmul_task p = *t;
  p.n = width;
  for (int64_t r = m0; r < m1; r += step) {
    p.m = m1 - r < step ? m1 - r : step;
    p.c = (char *)t->c + (c + r * t->c_row + n0) * item_size(t->dtype);
    p.add = t->add;
    if (n_sum == 0 && !t->add) zero(&p);
    for (int64_t s = 0; s < n_sum; s++, p.add = true) {
      int64_t as = a + r * t->a_row, bs = b + n0 * t->b_col, rest = s;
      for (int i = t->n_batch - 1; i >= n_kept; i--) {
        int64_t x = rest % t->batch[i];
        rest /= t->batch[i];
        as += x * t->a_batch[i], bs += x * t->b_batch[i];
      }
      p.a = at(t->a, as, t->dtype);
      p.b = at(t->b, bs, t->dtype);
      one_product(&p);
    }
    if (t->bias) alk_bias_add(t->dtype)(p.c, at(t->bias, n0, t->dtype), p.m, width, t->c_row);
  }
}

alk_status alk_matmul_any(const alk_place *place, const alk_matmul_task *task) {
  alk_matmul_task t = *task;
  if (t.m == 0 || t.n == 0) return ALK_OK;
  alk_fold(&t);
  int n_kept = alk_sort_axes(&t);
  int64_t n_out = 1, n_all = 1;
  for (int i = 0; i < t.n_batch; i++) n_all *= t.batch[i];
  for (int i = 0; i < n_kept; i++) n_out *= t.batch[i];

  int64_t n_threads = omp_in_parallel() ? 1 : place->threads;
  if (2.0 * (double)t.m * (double)t.n * (double)t.k * (double)n_all < MIN_WORK) n_threads = 1;
  bool by_rows = t.m >= t.n;
  int64_t side = by_rows ? t.m : t.n, strips = 1;
  bool even = n_out >= 4 * n_threads || n_out % n_threads == 0;
  if (!even && side / n_threads >= MIN_STRIP) strips = n_threads;

  int64_t n_pieces = n_out * strips;
  if (n_pieces < n_threads || n_threads == 1) { /* oneDNN may still use threads inside */
    for (int64_t o = 0; o < n_out; o++) piece(&t, n_kept, o, 0, t.m, 0, t.n);
    return ALK_OK;
  }
  int64_t strip = (side + strips - 1) / strips;
  strip = (strip + 15) / 16 * 16;
#pragma omp parallel for num_threads((int)n_threads) schedule(static)
  for (int64_t i = 0; i < n_pieces; i++) {
    int64_t s0 = i % strips * strip, s1 = s0 + strip < side ? s0 + strip : side;
    if (strips == 1) s1 = side;
    if (s0 >= s1) continue;
    if (by_rows) piece(&t, n_kept, i / strips, s0, s1, 0, t.n);
    else piece(&t, n_kept, i / strips, 0, t.m, s0, s1);
  }
  return ALK_OK;
}
