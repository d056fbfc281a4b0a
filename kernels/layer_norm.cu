// Layer normalisation of a block, in the pieces between which statistics are summed over ranks.
//
//   moments              sums_n = ( sum x,  sum x^2 )                         partial sums, then `fold`
//   apply                y = (x - mean_n) inv_std_n gamma_e + beta_e
//   backward_sums        sums_n = ( sum g,  sum g xhat )                      partial sums, then `fold`
//   backward_apply       dx = inv_std_n (g - sums_0n / M - xhat sums_1n / M)
//   parameter_gradients  sums_e = ( sum_n dy,  sum_n dy xhat )                partial sums, then `fold`
//
// with xhat = (x - mean_n) inv_std_n and g = dy gamma_e; e: an element of a sample, which has M over all ranks.
//
//   x   | sample 0            | sample 1            |      moments, backward_sums: a block of threads adds up a chunk
//       | chunk 0  | chunk 1  | chunk 0  | chunk 1  |      parameter_gradients: a thread goes down a column of samples
//
// Memory     x, dy, y, dx (samples, size), size being space and channels, channels innermost; gamma, beta (size) in the
//            same order; partial (chunks, 2, samples), of parameter_gradients (chunks, 2, size); statistics (samples)
// Threads    moments, backward_sums: one to eight whole warps, grid (samples * chunks); parameter_gradients: block
//            (32, 8), grid (size / 32, chunks of samples); the others: any one-dimensional grid, step()
// Types      x, dy, y, dx real; gamma, beta wide; statistics, products and sums double.  Sums are made in one order: the
//            same bits every time
// Caller     chunks * elements_of_a_chunk >= size > 0; M > 0
// Reference  gridnn.compute.cpu.reference.norm
// Source     own; Ba et al. 2016, equation 3
#include "columns.cuh"

#define ALL 0xffffffffu
#define WARPS 8

static __device__ double sum_of_warp(double value) {
    for (int by = 16; by; by >>= 1) value += __shfl_xor_sync(ALL, value, by);
    return value;
}

// Add up what all threads of a block have, the first warp first, and leave it to the block's chunk of its sample.
static __device__ void leave_chunk(double one, double two, double* partial, int chunks) {
    __shared__ double held[2][WARPS];
    const int warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    one = sum_of_warp(one);
    two = sum_of_warp(two);
    if (threadIdx.x % LANES == 0) {
        held[0][warp] = one;
        held[1][warp] = two;
    }
    __syncthreads();
    if (threadIdx.x >= 2) return;  // thread 0 adds up the first sum, thread 1 the second
    double sum = 0;
    for (int w = 0; w < warps; ++w) sum += held[threadIdx.x][w];
    const index_t samples = gridDim.x / chunks, sample = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    partial[(chunk * 2 + threadIdx.x) * samples + sample] = sum;
}

extern "C" __global__ void moments(const real* x, long long size, long long elements_of_a_chunk, int chunks,
                                   double* partial) {
    const index_t begin = blockIdx.x % chunks * elements_of_a_chunk, end = min(size, begin + elements_of_a_chunk);
    const real* sample = x + blockIdx.x / chunks * size;
    double sum = 0, squares = 0;
    for (index_t e = begin + threadIdx.x; e < end; e += blockDim.x) {
        const double value = widened(sample[e]);
        sum += value;
        squares += value * value;
    }
    leave_chunk(sum, squares, partial, chunks);
}

extern "C" __global__ void backward_sums(const real* x, const real* dy, const double* mean, const double* inv_std,
                                         const wide* gamma, long long size, long long elements_of_a_chunk, int chunks,
                                         double* partial) {
    const index_t begin = blockIdx.x % chunks * elements_of_a_chunk, end = min(size, begin + elements_of_a_chunk);
    const index_t n = blockIdx.x / chunks, at = n * size;
    double sum = 0, products = 0;
    for (index_t e = begin + threadIdx.x; e < end; e += blockDim.x) {
        const double g = (double)widened(dy[at + e]) * gamma[e];
        sum += g;
        products += g * (widened(x[at + e]) - mean[n]);
    }
    leave_chunk(sum, products * inv_std[n], partial, chunks);
}

extern "C" __global__ void parameter_gradients(const real* x, const real* dy, const double* mean, const double* inv_std,
                                               long long samples, long long size, long long samples_of_a_chunk,
                                               double* partial) {
    const index_t e = (index_t)blockIdx.x * LANES + threadIdx.x;
    const index_t begin = blockIdx.y * samples_of_a_chunk, end = min(samples, begin + samples_of_a_chunk);
    double sum = 0, products = 0;
    if (e < size) {
        for (index_t n = begin + threadIdx.y; n < end; n += ROWS) {
            const double value = widened(dy[n * size + e]);
            sum += value;
            products += value * ((widened(x[n * size + e]) - mean[n]) * inv_std[n]);
        }
    }
    leave(sum, products, partial, size);
}

extern "C" __global__ void apply(const real* x, const double* mean, const double* inv_std, const wide* gamma,
                                 const wide* beta, real* y, long long count, long long size) {
    for (index_t i = first(); i < count; i += step()) {
        const index_t n = i / size, e = i - n * size;
        y[i] = rounded((widened(x[i]) - (wide)mean[n]) * (wide)inv_std[n] * gamma[e] + beta[e]);
    }
}

extern "C" __global__ void backward_apply(const real* x, const real* dy, const double* mean, const double* inv_std,
                                          const wide* gamma, const double* sums, double m, real* dx, long long count,
                                          long long size) {
    const index_t samples = count / size;
    for (index_t i = first(); i < count; i += step()) {
        const index_t n = i / size, e = i - n * size;
        const double g = (double)widened(dy[i]) * gamma[e], xhat = (widened(x[i]) - mean[n]) * inv_std[n];
        dx[i] = rounded((wide)(inv_std[n] * (g - sums[n] / m - xhat * (sums[samples + n] / m))));
    }
}
