// Squared norms of many arrays in two launches, and what an update is told of them.
//
//   squares    partial_b = the sum of x^2 over chunk b          arrays   | a                 | b     | c         |
//   gather     sums_r = the sum of partial over those           chunks   | 0     | 1     | 2 | 3     | 4     | 5 |
//              of array r, 0 where it has none                  starts     0                   3       4           6
//   factors    norm   = sqrt(sum of all gradients' sums)
//              scale  = min(1, most / (norm + 1e-6))
//              rate_p = trust w / (g + decay w + eps), 1 where w or g is 0; w and g the norms of parameter p, g scaled
//
// Memory     chunks: address and elements of each; partial, sums, told double.  sums: two a parameter, of its value and
//            of its gradient; told: norm, scale, a rate for each parameter
// Threads    blocks of 256: squares one a chunk, gather one an array, factors one
// Types      real is squared and added up in double, in one order: the same bits every time
// Caller     chunks hold at least an element and are those of array r from starts[r] to before starts[r + 1]
// Reference  gridnn.train.schedule.clip_scale, gridnn.compute.cpu.reference.update.lars_rate
// Source     own
#include "common.cuh"

#define THREADS 256

struct Chunk {
    const real* x;
    long long count;
};

// The sum over the threads of a block, on all of them: halves are added to halves.
static __device__ double added(double mine, double* held) {
    const int thread = threadIdx.x;
    held[thread] = mine;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (thread < half) held[thread] += held[thread + half];
    }
    __syncthreads();
    return held[0];
}

extern "C" __global__ void squares(const Chunk* chunks, double* partial) {
    __shared__ double held[THREADS];
    const Chunk chunk = chunks[blockIdx.x];
    double sum = 0;
    for (index_t i = threadIdx.x; i < chunk.count; i += THREADS) {
        const double value = widened(chunk.x[i]);
        sum += value * value;
    }
    sum = added(sum, held);
    if (!threadIdx.x) partial[blockIdx.x] = sum;
}

extern "C" __global__ void gather(const double* partial, const int* starts, double* sums) {
    __shared__ double held[THREADS];
    double sum = 0;
    for (int b = starts[blockIdx.x] + threadIdx.x; b < starts[blockIdx.x + 1]; b += THREADS) sum += partial[b];
    sum = added(sum, held);
    if (!threadIdx.x) sums[blockIdx.x] = sum;
}

extern "C" __global__ void factors(const double* sums, int parameters, double most, double trust, double decay,
                                   double eps, double* told) {
    __shared__ double held[THREADS];
    double sum = 0;
    for (int p = threadIdx.x; p < parameters; p += THREADS) sum += sums[2 * p + 1];
    const double norm = sqrt(added(sum, held)), down = most / (norm + 1e-6), scale = down < 1 ? down : 1;
    if (!threadIdx.x) {
        told[0] = norm;
        told[1] = scale;
    }
    for (int p = threadIdx.x; p < parameters; p += THREADS) {
        const double w = sqrt(sums[2 * p]), g = scale * sqrt(sums[2 * p + 1]);
        told[2 + p] = w == 0 || g == 0 ? 1 : trust * w / (g + decay * w + eps);
    }
}
