// A tile of a matrix product whose factors are computed as they are read: what the kernels of convolution share.
//
//     C (64 x 64) += A (64 x k) B (k x 64)        block (16, 16): a thread has 4 x 4 elements of C, 16 apart
//
// A and B are functions (row, k) and (k, column) that return zero outside; each step of 16 of k goes through shared
// memory once.
#pragma once

#include "common.cuh"

#define TILE 64
#define DEPTH 16
#define SIDE 16
#define EACH (TILE / SIDE)

// How neighbouring threads read a factor: along k, or along the other index, whichever is contiguous in memory.
enum Along { ALONG_K, ALONG_TILE };

template <Along ALONG_A, Along ALONG_B, class A, class B>
static __device__ void tile_product(index_t row, index_t column, index_t k_begin, index_t k_end, A a, B b,
                                    wide sum[EACH][EACH]) {
    __shared__ wide held_a[DEPTH][TILE + 1], held_b[DEPTH][TILE + 1];
    const int thread = threadIdx.y * SIDE + threadIdx.x;
    for (int i = 0; i < EACH; ++i)
        for (int j = 0; j < EACH; ++j) sum[i][j] = 0;
    for (index_t k = k_begin; k < k_end; k += DEPTH) {
        for (int i = thread; i < TILE * DEPTH; i += SIDE * SIDE) {
            const int ka = ALONG_A == ALONG_K ? i % DEPTH : i / TILE, ra = ALONG_A == ALONG_K ? i / DEPTH : i % TILE;
            const int kb = ALONG_B == ALONG_K ? i % DEPTH : i / TILE, cb = ALONG_B == ALONG_K ? i / DEPTH : i % TILE;
            held_a[ka][ra] = k + ka < k_end ? a(row + ra, k + ka) : (wide)0;
            held_b[kb][cb] = k + kb < k_end ? b(k + kb, column + cb) : (wide)0;
        }
        __syncthreads();
        for (int d = 0; d < DEPTH; ++d) {
            wide left[EACH], right[EACH];
            for (int i = 0; i < EACH; ++i) left[i] = held_a[d][threadIdx.y + SIDE * i];
            for (int j = 0; j < EACH; ++j) right[j] = held_b[d][threadIdx.x + SIDE * j];
            for (int i = 0; i < EACH; ++i)
                for (int j = 0; j < EACH; ++j) sum[i][j] += left[i] * right[j];
        }
        __syncthreads();
    }
}
