/* What every CPU kernel shares: the element type, the vector, and blocks with strides.
 *
 * Each source is compiled for float and double (REAL_BITS) and for each instruction set (VB, bytes of a vector).
 * Vectors are GCC's generic ones: the same source is AVX-512, AVX2, NEON or SSE, and a vector wider than the
 * machine's is still correct, which is how the widest code is tested anywhere.
 *
 * arrays     as NumPy keeps them, so that a caller hands over addresses only; NULL where one is missing
 * memory     N, D, H, W, C with unit stride along C; other strides are free (a block may be the middle of a buffer)
 * threads    OpenMP, as many as gridnn_set_threads was told; a parallel region only where there is work for it
 * guarantee  results do not depend on strides; sums over samples and space are made in double
 */
#ifndef GRIDNN_COMMON_H
#define GRIDNN_COMMON_H

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef REAL_BITS
#define REAL_BITS 32
#endif
#ifndef VB
#if defined(__AVX512F__)
#define VB 64
#elif defined(__AVX__)
#define VB 32
#else
#define VB 16
#endif
#endif

#if REAL_BITS == 64
typedef double real;
typedef int64_t sint; /* the integer of an element's width: what comparisons of vectors give */
#define FN(name) gridnn_##name##_f64
#else
typedef float real;
typedef int32_t sint;
#define FN(name) gridnn_##name##_f32
#endif

#define VL ((int64_t)(VB / sizeof(real)))
typedef real vec __attribute__((vector_size(VB), aligned(sizeof(real)), may_alias));
typedef sint ivec __attribute__((vector_size(VB), aligned(sizeof(real)), may_alias));

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* A NumPy array behind the head that it has as a Python object; strides in bytes.
 *
 * These fields are NumPy's binary interface (PyArrayObject): what is compiled against it reads them here too.
 */
typedef struct {
    void *data;
    int dims;
    const intptr_t *extents, *strides;
} array;

INLINE void *data_of(const array *a) { return a ? a->data : NULL; }

/* An array (N, C, *S) in memory, *S being the last of D, H, W; missing space dims are 1. Strides in elements. */
typedef struct {
    real *at;
    int64_t n, d, h, w, c;
    int64_t sn, sd, sh, sw;
} block;

static inline block block_of_bytes(const array *a, int64_t each) {
    const intptr_t *extent = a->extents + a->dims, *stride = a->strides + a->dims;
    block b = {.at = a->data, .n = a->extents[0], .d = 1, .h = 1, .w = 1, .c = a->extents[1], .sn = a->strides[0] / each};
    if (a->dims > 2) b.w = extent[-1], b.sw = stride[-1] / each;
    if (a->dims > 3) b.h = extent[-2], b.sh = stride[-2] / each;
    if (a->dims > 4) b.d = extent[-3], b.sd = stride[-3] / each;
    return b;
}

static inline block block_of(const array *a) { return block_of_bytes(a, sizeof(real)); }

INLINE vec load(const real *p) { return *(const vec *)p; }
INLINE void store(real *p, vec v) { *(vec *)p = v; }
INLINE vec splat(real x) { return x - (vec){0}; }
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Whether a parallel region pays: below this many elements touched, starting it costs more than it saves. */
#define WORTH(elements) ((elements) > 16384 && omp_get_max_threads() > 1)

#endif
