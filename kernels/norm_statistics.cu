// From sums over all ranks to what normalisation is made of: mean and 1 / standard deviation, in one launch.
//
//   batch    d_c = sums_0c / M     v_c = max(sums_1c / M - d_c^2, 0)     sums: those of x - running mean
//            now_c = running mean + d_c, 1 / sqrt(v_c + eps)
//            running mean += momentum d_c     running variance += momentum (v_c M / (M - 1) - running variance)
//   layer    now_n = sums_0n / M, 1 / sqrt(max(sums_1n / M - mean_n^2, 0) + eps)
//
// Memory     sums, now (2, statistics): channels of batch norm, samples of layer norm; mean, variance (channels)
// Threads    any one-dimensional grid; a thread takes every step()-th statistic
// Types      all double, whatever `real`
// Caller     M > 0; `unbias` is M / max(1, M - 1); the running ones move in place
// Reference  gridnn.compute.cpu.reference.norm.statistics, gridnn.compute.cpu.layer_norm.statistics
// Source     own; Ioffe and Szegedy 2015, Algorithm 1; Ba et al. 2016, equation 3
#include "common.cuh"

// Rounding may take it below zero, where its root is no number; no number stays none.
static __device__ __forceinline__ double spread(double squares, double mean) {
    const double found = squares - mean * mean;
    return found < 0 ? 0.0 : found;
}

extern "C" __global__ void batch(const double* sums, double m, double unbias, double* mean, double* variance,
                                 double momentum, double eps, double* now, int channels) {
    for (index_t c = first(); c < channels; c += step()) {
        const double off = sums[c] / m, v = spread(sums[channels + c] / m, off);
        now[c] = mean[c] + off;
        now[channels + c] = 1 / sqrt(v + eps);
        mean[c] += momentum * off;
        variance[c] += momentum * (v * unbias - variance[c]);
    }
}

extern "C" __global__ void layer(const double* sums, double m, double eps, double* now, int samples) {
    for (index_t n = first(); n < samples; n += step()) {
        const double mean = sums[n] / m;
        now[n] = mean;
        now[samples + n] = 1 / sqrt(spread(sums[samples + n] / m, mean) + eps);
    }
}
