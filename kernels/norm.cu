// Batch normalisation of a block, in the pieces between which statistics are summed over ranks.
//
//   moments         sums_c = ( sum (x - shift_c),  sum (x - shift_c)^2 )     partial sums, then `fold`
//   apply           y = (x - mean_c) inv_std_c gamma_c + beta_c, rectified if asked
//   backward_sums   sums_c = ( sum dy,  sum dy xhat )                        partial sums, then `fold`
//   backward_apply  dx = inv_std_c gamma_c (dy - sums_0c / M - xhat sums_1c / M)
//
// with xhat = (x - mean_c) inv_std_c; where y is given, dy counts only where y > 0 (the rectifier after it).
//
// Memory     x, dy, y (rows, channels), channels innermost; partial (chunks, 2, channels); sums (2, channels)
// Threads    sums: block (32, 8), grid (channels / 32, chunks): a warp reads 32 neighbouring channels, eight rows at a
//            time; a chunk of rows is a block's.  The others: any one-dimensional grid, step()
// Types      x, dy, y, dx real; gamma, beta wide; statistics and sums double.  Sums are made in one order: the same bits
//            every time
// Caller     y is null or of x's shape; M > 0
// Reference  gridnn.compute.cpu.reference.norm
// Source     own; Ioffe and Szegedy 2015
#include "columns.cuh"

extern "C" __global__ void moments(const real* x, const double* shift, long long rows, int channels,
                                   long long rows_of_a_chunk, double* partial) {
    const int channel = blockIdx.x * LANES + threadIdx.x;
    const index_t begin = blockIdx.y * rows_of_a_chunk, end = min(rows, begin + rows_of_a_chunk);
    double sum = 0, squares = 0;
    if (channel < channels) {
        const double mean = shift[channel];
        for (index_t row = begin + threadIdx.y; row < end; row += ROWS) {
            const double centred = widened(x[row * channels + channel]) - mean;
            sum += centred;
            squares += centred * centred;
        }
    }
    leave(sum, squares, partial, channels);
}

extern "C" __global__ void backward_sums(const real* x, const real* dy, const real* y, const double* mean,
                                         const double* inv_std, long long rows, int channels,
                                         long long rows_of_a_chunk, double* partial) {
    const int channel = blockIdx.x * LANES + threadIdx.x;
    const index_t begin = blockIdx.y * rows_of_a_chunk, end = min(rows, begin + rows_of_a_chunk);
    double sum = 0, products = 0;
    if (channel < channels) {
        for (index_t row = begin + threadIdx.y; row < end; row += ROWS) {
            const index_t i = row * channels + channel;
            if (y && !(widened(y[i]) > 0)) continue;
            sum += widened(dy[i]);
            products += widened(dy[i]) * (widened(x[i]) - mean[channel]);
        }
        products *= inv_std[channel];
    }
    leave(sum, products, partial, channels);
}

extern "C" __global__ void apply(const real* x, const double* mean, const double* inv_std, const wide* gamma,
                                 const wide* beta, real* y, long long count, int channels, int rectify) {
    for (index_t i = first(); i < count; i += step()) {
        const int c = (int)(i % channels);
        const wide found = (widened(x[i]) - (wide)mean[c]) * (wide)(inv_std[c] * gamma[c]) + beta[c];
        y[i] = rounded(rectify && found < 0 ? (wide)0 : found);
    }
}

extern "C" __global__ void backward_apply(const real* x, const real* dy, const real* y, const double* mean,
                                          const double* inv_std, const wide* gamma, const double* sums, double m,
                                          real* dx, long long count, int channels) {
    for (index_t i = first(); i < count; i += step()) {
        const int c = (int)(i % channels);
        const double g = y && !(widened(y[i]) > 0) ? 0.0 : (double)widened(dy[i]);
        const double xhat = (widened(x[i]) - mean[c]) * inv_std[c];
        dx[i] = rounded((wide)(inv_std[c] * gamma[c] * (g - sums[c] / m - xhat * (sums[channels + c] / m))));
    }
}
