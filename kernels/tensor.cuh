// Instructions of tensor cores and what goes with them, each with a twin for a CPU.
//
//     C (16 x 8) += A (16 x 8 words) B (8 words x 8)          of a warp
//
// Types      -DREAL=float: factors are rounded to TF32 (10 bits of mantissa, ties away from zero) as they are
//            taken; -DREAL=bfloat16: they are taken as they are (7 bits).  Sums are float
// Devices    compute capability 8.0 and later; below, the file compiles and its kernels trap
// On a CPU   a twin moves words by shuffles, between the lanes of the PTX ISA: a wrong lane is a wrong number there
//
// Both types are the same in words of 32 bits, of one element or two.  With g = lane / 4 and t = lane % 4 a lane has
//
//     A   word t + 4 (r / 2) of row g + 8 (r % 2)        r = 0 1 2 3
//     B   word t + 4 r of column g                       r = 0 1
//     C   row g + 8 (i / 2), column 2 t + i % 2          i = 0 1 2 3
#pragma once

#include "common.cuh"

static_assert(sizeof(real) <= 4, "tensor cores: REAL is float (TF32) or bfloat16");

constexpr bool TF32 = sizeof(real) == 4;
constexpr int VECTOR = 16 / (int)sizeof(real);  // elements that are moved at once
constexpr int STEP = 32 / (int)sizeof(real);    // of k in an instruction

struct alignas(16) Vector {
    real of[VECTOR];
};

static __device__ __forceinline__ int thread_number() { return threadIdx.y * 16 + threadIdx.x; }

// C += A B.
static __device__ __forceinline__ void multiply_add(float c[4], const unsigned a[4], const unsigned b[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (TF32)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
    __trap();
#else
    typedef unsigned long long Two;  // words s and s + 4 of a row or column, which one lane has
    const int g = thread_number() % 32 / 4, t = thread_number() % 4;
    Two row[2][4], column[2][4];
    for (int s = 0; s < 4; ++s)
        for (int i = 0; i < 2; ++i) {
            row[i][s] = __shfl_sync(~0u, a[i] | (Two)a[i + 2] << 32, 4 * g + s);
            column[i][s] = __shfl_sync(~0u, b[0] | (Two)b[1] << 32, 4 * (2 * t + i) + s);
        }
    for (int word = 0; word < 8; ++word)
        for (int i = 0; i < 4; ++i) {
            const unsigned left = (unsigned)(row[i / 2][word % 4] >> word / 4 * 32);
            const unsigned right = (unsigned)(column[i % 2][word % 4] >> word / 4 * 32);
            if (TF32) {  // the device does not look at the last 13 bits
                c[i] += __uint_as_float(left & ~0x1fffu) * __uint_as_float(right & ~0x1fffu);
            } else {
                c[i] += __uint_as_float(left << 16) * __uint_as_float(right << 16);
                c[i] += __uint_as_float(left & ~0xffffu) * __uint_as_float(right & ~0xffffu);
            }
        }
#endif
}

// Load four matrices of 8 rows of 16 bytes; lanes 8 i ... 8 i + 7 give the addresses of the rows of the i-th.  A lane
// gets word t of row g or, transposed (elements of 16 bits), the elements of rows 2 t and 2 t + 1 in column g.
template <bool TRANSPOSED>
static __device__ __forceinline__ void load_matrices(unsigned to[4], const real* row) {
#ifdef __CUDA_ARCH__
    const unsigned at = (unsigned)__cvta_generic_to_shared(row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
#else
    const int g = thread_number() % 32 / 4, t = thread_number() % 4;
    for (int i = 0; i < 4; ++i)
        if (TRANSPOSED) {
            const real* low = __shfl_sync(~0u, row, 8 * i + 2 * t);
            const real* high = __shfl_sync(~0u, row, 8 * i + 2 * t + 1);
            unsigned short two[2];
            memcpy(two, low + g, 2);
            memcpy(two + 1, high + g, 2);
            to[i] = two[0] | (unsigned)two[1] << 16;
        } else {
            const real* from = __shfl_sync(~0u, row, 8 * i + g);
            memcpy(&to[i], from + t * (4 / sizeof(real)), 4);
        }
#endif
}

// The nearest TF32 number, away from zero between two.
static __device__ __forceinline__ unsigned tf32(unsigned bits) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned found;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(found) : "f"(__uint_as_float(bits)));
    return found;
#else
    const bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
    return number ? (bits + 0x1000u) & ~0x1fffu : 0x7fffffffu;
#endif
}

// Start to copy a vector into shared memory, both aligned to 16: `count` elements of it, the others are zero.
static __device__ __forceinline__ void start_copy(real* to, const real* from, int count) {
    const int bytes = max(0, min(count, VECTOR)) * (int)sizeof(real);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const unsigned at = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
#elif defined(__CUDA_ARCH__)
    __trap();
#else
    __pipeline_memcpy_async(to, from, 16, 16 - bytes);
#endif
}

// Wait until what this thread started to copy is there.
static __device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#elif !defined(__CUDA_ARCH__)
    __pipeline_commit();
    __pipeline_wait_prior(0);
#endif
}
