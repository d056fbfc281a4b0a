// Convolution of a block as implicit products, the halo read where it was received: no concatenation, no im2col.
//
//   forward           y[n, o, k]   = sum_{t, c} w[k, t, c] x[n, o s - p + t d, c]  (+ bias_k, rectified if asked)
//   backward_data     dx[n, i, c]  = sum_{t, k} w[k, t, c] dy[n, (i + p - t d) / s, k]        where that is whole
//   backward_weights  dw[k, t, c]  = sum_{n, o} dy[n, o, k] x[n, o s - p + t d, c]            partial sums, then `fold`
//
//                       | product  rows        columns         depth
//     forward           |          n o         k of a group    t c
//     backward_data     |          n i         c of a group    t k
//     backward_weights  |          k of group  t c             n o of a chunk
//
// Memory     x is a View: up to 27 regions (low halo, own, high halo in D, H and W), each with its own strides, channels
//            innermost; outside all of them it is zero, which is padding.  So is dy of backward_data, which is the input
//            of a transposed convolution.  y, dx, else dy: Output, strides of N D H W, channels innermost.
//            w (K, T, C / groups), dw alike; partial (chunks, elements of dw)
// Threads    block (16, 16); grid (rows / 64, columns / 64, groups), of backward_weights (k / 64, t c / 64, groups x chunks)
// Types      x, w, y, dy, dx real; bias, partial, dw and sums wide; y and dx are rounded once.  A sum has one order: the
//            same bits every time
// Caller     coordinates of a View count from its origin; `outputs` and `channels` are those of the block, divisible by
//            groups; bias may be null
// Reference  gridnn.compute.cpu.reference.conv
// Source     own; implicit GEMM: Chetlur et al. 2014
#include "product.cuh"
#include "view.cuh"

// An element of x, or zero outside.
static __device__ wide load(const View& x, int n, const int at[3], int channel) {
    const real* found = locate(x, n, at);
    return found ? widened(found[channel]) : (wide)0;
}

// The element of x that tap t of an output reads.
static __device__ wide window(const View& x, const Shape& s, const Point& out, index_t tap, int channel) {
    const Point t = point(tap, s.kernel);
    int at[3];
    for (int dim = 0; dim < 3; ++dim) at[dim] = out.at[dim] * s.stride[dim] - s.pad[dim] + t.at[dim] * s.dilation[dim];
    return load(x, out.n, at, channel);
}

extern "C" __global__ void forward(View x, const real* w, const wide* bias, Output y, Shape s) {
    const index_t points = s.batch * volume(y.extent), taps = volume(s.kernel);
    const int channels = s.channels / s.groups, outputs = s.outputs / s.groups, group = blockIdx.z;
    const index_t row = (index_t)blockIdx.x * TILE, column = (index_t)blockIdx.y * TILE;
    const real* mine = w + (index_t)group * outputs * taps * channels;
    wide sum[EACH][EACH];
    tile_product<ALONG_K, ALONG_K>(
        row, column, 0, taps * channels,
        [&](index_t r, index_t k) -> wide {
            if (r >= points) return 0;
            return window(x, s, point(r, y.extent), k / channels, group * channels + (int)(k % channels));
        },
        [&](index_t k, index_t c) -> wide { return c < outputs ? widened(mine[c * taps * channels + k]) : (wide)0; },
        sum);
    for (int i = 0; i < EACH; ++i)
        for (int j = 0; j < EACH; ++j) {
            const index_t r = row + threadIdx.y + SIDE * i, c = column + threadIdx.x + SIDE * j;
            if (r >= points || c >= outputs) continue;
            const int k = group * outputs + (int)c;
            const wide found = sum[i][j] + (bias ? bias[k] : (wide)0);
            y.base[offset(y, point(r, y.extent)) + k] = rounded(s.rectify && found < 0 ? (wide)0 : found);
        }
}

extern "C" __global__ void backward_data(View dy, const real* w, Output dx, Shape s) {
    const index_t points = s.batch * volume(dx.extent), taps = volume(s.kernel);
    const int channels = s.channels / s.groups, outputs = s.outputs / s.groups, group = blockIdx.z;
    const index_t row = (index_t)blockIdx.x * TILE, column = (index_t)blockIdx.y * TILE;
    const real* mine = w + (index_t)group * outputs * taps * channels;
    wide sum[EACH][EACH];
    tile_product<ALONG_K, ALONG_TILE>(
        row, column, 0, taps * outputs,
        [&](index_t r, index_t k) -> wide {
            if (r >= points) return 0;
            const Point in = point(r, dx.extent), t = point(k / outputs, s.kernel);
            int out[3];
            for (int dim = 0; dim < 3; ++dim) {
                const int at = in.at[dim] + s.pad[dim] - t.at[dim] * s.dilation[dim];
                if (at < 0 || at % s.stride[dim]) return 0;
                out[dim] = at / s.stride[dim];
            }
            return load(dy, in.n, out, group * outputs + (int)(k % outputs));
        },
        [&](index_t k, index_t c) -> wide {
            return c < channels ? widened(mine[(k % outputs * taps + k / outputs) * channels + c]) : (wide)0;
        },
        sum);
    for (int i = 0; i < EACH; ++i)
        for (int j = 0; j < EACH; ++j) {
            const index_t r = row + threadIdx.y + SIDE * i, c = column + threadIdx.x + SIDE * j;
            if (r >= points || c >= channels) continue;
            dx.base[offset(dx, point(r, dx.extent)) + group * channels + c] = rounded(sum[i][j]);
        }
}

extern "C" __global__ void backward_weights(View x, Output dy, Shape s, long long points_of_a_chunk, wide* partial) {
    const index_t points = s.batch * volume(dy.extent), taps = volume(s.kernel);
    const int channels = s.channels / s.groups, outputs = s.outputs / s.groups;
    const int group = blockIdx.z % s.groups, chunk = blockIdx.z / s.groups;
    const index_t row = (index_t)blockIdx.x * TILE, column = (index_t)blockIdx.y * TILE, width = taps * channels;
    const index_t begin = chunk * points_of_a_chunk, end = min(points, begin + points_of_a_chunk);
    wide sum[EACH][EACH];
    tile_product<ALONG_TILE, ALONG_TILE>(
        row, column, begin, end,
        [&](index_t k, index_t p) -> wide {
            if (k >= outputs) return 0;
            return widened(dy.base[offset(dy, point(p, dy.extent)) + group * outputs + k]);
        },
        [&](index_t p, index_t c) -> wide {
            if (c >= width) return 0;
            return window(x, s, point(p, dy.extent), c / channels, group * channels + (int)(c % channels));
        },
        sum);
    wide* mine = partial + ((index_t)chunk * s.groups + group) * outputs * width;
    for (int i = 0; i < EACH; ++i)
        for (int j = 0; j < EACH; ++j) {
            const index_t r = row + threadIdx.y + SIDE * i, c = column + threadIdx.x + SIDE * j;
            if (r < outputs && c < width) mine[r * width + c] = sum[i][j];
        }
}

// Add up the chunks, the first first.
extern "C" __global__ void fold(const wide* partial, long long chunks, long long elements, wide* dw) {
    for (index_t i = first(); i < elements; i += step()) {
        wide sum = 0;
        for (index_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * elements + i];
        dw[i] = sum;
    }
}
