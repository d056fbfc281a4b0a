/* What a process asks once: which instruction set it may load, whether it was built for these callers, and how many threads it may use. */
#include "common.h"

#if REAL_BITS == 32

/* 2: AVX-512 (F, BW, DQ, VL), 1: AVX2 and FMA, 0: neither. */
EXPORT int gridnn_instruction_set(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

/* What callers must pass, as a number: that of library.py when this was built. */
EXPORT int gridnn_interface(void) { return INTERFACE; }

EXPORT int gridnn_vector_bytes(void) { return VB; }

EXPORT void gridnn_set_threads(int threads) { omp_set_num_threads(threads); }

EXPORT int gridnn_threads(void) { return omp_get_max_threads(); }

/* Whether an array of two dims of bytes is seen as it is: its address, extents and strides. */
EXPORT int gridnn_sees(const array *a, const void *data, int64_t rows, int64_t columns, int64_t row_bytes) {
    return a->data == data && a->dims == 2 && a->extents[0] == rows && a->extents[1] == columns && a->strides[0] == row_bytes &&
           a->strides[1] == 1;
}

#endif
