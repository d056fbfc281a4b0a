// Sums over space, and over samples too, of each channel: gradients of biases, global averages.
//
//   channel_sums   masked = x where y > 0, else 0;  partial sums of it over chunks of a sample's rows
//   fold           sums_nc = the sum of all chunks of sample n, the first first
//
// Where the samples are summed as well, all rows are those of one sample.
//
// Memory     x, y, masked (samples, rows, channels), channels innermost; partial (samples, chunks, channels); sums
//            (samples, channels)
// Threads    channel_sums: block (32, 8), grid (samples * chunks, channels / 32): a warp reads 32 neighbouring channels,
//            eight rows at a time; fold: any one-dimensional grid, step()
// Types      x, y, masked real; sums wide; what is added up is double, in one order: the same bits every time
// Caller     chunks * rows_of_a_chunk >= rows > 0; y and masked are null where there is no mask; masked may be x
// Reference  gridnn.compute.cpu.reference.pool.sum_space, gridnn.compute.cpu.reference.conv.bias_gradient
// Source     own
#include "common.cuh"

#define LANES 32
#define ROWS 8

extern "C" __global__ void channel_sums(const real* x, const real* y, real* masked, long long rows, int channels,
                                        long long rows_of_a_chunk, int chunks, double* partial) {
    __shared__ double held[ROWS][LANES];
    const int lane = threadIdx.x, row_of_threads = threadIdx.y, channel = blockIdx.y * LANES + lane;
    const index_t sample = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    const index_t begin = chunk * rows_of_a_chunk, end = min(rows, begin + rows_of_a_chunk);
    double sum = 0;
    if (channel < channels) {
        for (index_t row = begin + row_of_threads; row < end; row += ROWS) {
            const index_t i = (sample * rows + row) * channels + channel;
            const real value = y && !(widened(y[i]) > 0) ? rounded(0) : x[i];
            if (masked) masked[i] = value;
            sum += widened(value);
        }
    }
    held[row_of_threads][lane] = sum;
    __syncthreads();
    if (row_of_threads || channel >= channels) return;
    sum = 0;
    for (int r = 0; r < ROWS; ++r) sum += held[r][lane];
    partial[(index_t)blockIdx.x * channels + channel] = sum;
}

extern "C" __global__ void fold(const double* partial, int chunks, int channels, long long elements, wide* sums) {
    for (index_t i = first(); i < elements; i += step()) {
        const index_t start = i / channels * chunks * channels + i % channels;
        double sum = 0;
        for (int chunk = 0; chunk < chunks; ++chunk) sum += partial[start + (index_t)chunk * channels];
        sums[i] = (wide)sum;
    }
}
