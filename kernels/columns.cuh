// Two sums of each column of a matrix (rows, columns), by blocks of 32 columns and eight rows of threads.
//
//         lane 0 .. 31        a warp reads 32 neighbouring columns of one row, the block eight rows at a time;
//   row 0  + + + + +  `       the rows of a chunk are a block's, chunk blockIdx.y
//   ...    + + + + +   > leave: partial (chunks, 2, columns) -> fold: sums (2, columns)
//   row 7  + + + + +  /
//
// Everything is added up in one order: the same bits every time.
#pragma once

#include "common.cuh"

#define LANES 32
#define ROWS 8

// Add up what the eight rows of threads have of each column, and leave it to the block's chunk.
static __device__ void leave(double one, double two, double* partial, index_t columns) {
    __shared__ double held[2][ROWS][LANES];
    const int lane = threadIdx.x, row = threadIdx.y;
    const index_t column = (index_t)blockIdx.x * LANES + lane;
    held[0][row][lane] = one;
    held[1][row][lane] = two;
    __syncthreads();
    if (row >= 2 || column >= columns) return;  // row 0 adds up the first sum, row 1 the second
    double sum = 0;
    for (int r = 0; r < ROWS; ++r) sum += held[row][r][lane];
    partial[((index_t)blockIdx.y * 2 + row) * columns + column] = sum;
}

// Add up the chunks, the first first; `sums` and a chunk of `partial` have as many elements.
extern "C" __global__ void fold(const double* partial, long long chunks, long long elements, double* sums) {
    for (index_t i = first(); i < elements; i += step()) {
        double sum = 0;
        for (index_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * elements + i];
        sums[i] = sum;
    }
}
