// Convolution of a block on tensor cores: the passes of conv.cu, called alike, in TF32 or bfloat16.
//
//   forward           y[n, o, k]   = sum_{t, c} w[k, t, c] x[n, o s - p + t d, c]  (+ bias_k, rectified if asked)
//   backward_data     dx[n, i, c]  = sum_{t, k} w[k, t, c] dy[n, (i + p - t d) / s, k]        where that is whole
//   backward_weights  dw[k, t, c]  = sum_{n, o} dy[n, o, k] x[n, o s - p + t d, c]            partial sums, then `fold`
//
//                       | product  rows        columns         depth
//     forward           |          n o         k of a group    t c'
//     backward_data     |          n i         c of a group    t k'
//     backward_weights  |          k of group  t c'            n o of a chunk
//
//   c', k': channels or outputs of a group, filled up with zeros to a multiple of VECTOR (4 floats, 8 bfloat16), so
//   that what is moved at once belongs to one tap: 16 bytes where they are aligned, else elements
//
// Memory     as in conv.cu: x, and dy of backward_data, a View; y, dx, else dy: Output; w (K, T, C / groups); partial (chunks, elements of dw)
// Threads    block (16, 16); grid (rows / 128, columns / COLUMNS, groups), of backward_weights (k / 128,
//            t c' / COLUMNS, groups x chunks); COLUMNS is 128, or 64 with -DCOLUMNS=64
// Types      x, w, y, dy, dx real: float (products of TF32) or bfloat16; bias, partial, dw float.
//            Sums are float; y and dx are rounded once.  A sum has one order: the same bits every time
// Devices    compute capability 8.0 and later; below, kernels trap
// Caller     as in conv.cu; batch x points, t c' and t k' are below 2^31 - 128
// Reference  gridnn.compute.cpu.reference.conv
// Source     own; fragments and lanes: PTX ISA, warp-level matrix instructions
#include "view.cuh"
#include "tensor_product.cuh"

struct Tap {
    int number, shift[3];  // dilated
    int channel, count;    // the first one, and how many of a vector are inside
};

static __device__ __forceinline__ Piece nothing() { return {nullptr, 0}; }

static __device__ __forceinline__ int filled(int channels) { return (channels + VECTOR - 1) / VECTOR * VECTOR; }

// Which tap and channels the k-th element of t c' and those after it are.
static __device__ __forceinline__ Tap tap(int k, int channels, const Shape& s) {
    const unsigned wide = filled(channels);
    const Point t = point((unsigned)k / wide, s.kernel);
    Tap found;
    found.number = (unsigned)k / wide;
    found.channel = (unsigned)k % wide;
    found.count = t.n == 0 ? min(channels - found.channel, VECTOR) : 0;  // of taps that are not there, nothing
    for (int dim = 0; dim < 3; ++dim) found.shift[dim] = t.at[dim] * s.dilation[dim];
    return found;
}

static __device__ __forceinline__ Point nowhere() { return {-1, {0, 0, 0}}; }

// Where the window of an output begins.
static __device__ __forceinline__ Point origin(int i, int points, const Output& y, const Shape& s) {
    if (i >= points) return nowhere();
    Point p = point((unsigned)i, y.extent);
    for (int dim = 0; dim < 3; ++dim) p.at[dim] = p.at[dim] * s.stride[dim] - s.pad[dim];
    return p;
}

// The channels of the i-th point of y, from `channel` on, or null behind the last point.
static __device__ __forceinline__ real* channels_at(const Output& y, int i, int points, int channel) {
    return i < points ? y.base + offset(y, point((unsigned)i, y.extent)) + channel : nullptr;
}

// Elements of x in a window, from `channel` on.
static __device__ __forceinline__ Piece in_window(const View& x, const Point& begin, const Tap& t, int channel) {
    if (begin.n < 0 || t.count <= 0) return nothing();
    int at[3];
    for (int dim = 0; dim < 3; ++dim) at[dim] = begin.at[dim] + t.shift[dim];
    const real* found = locate(x, begin.n, at);
    return found ? Piece{found + channel + t.channel, t.count} : nothing();
}

// Elements of dy that an input p met by a tap; `p` is padded.
static __device__ __forceinline__ Piece met(const View& dy, const Point& p, const Tap& t, int channel,
                                            const Shape& s) {
    if (p.n < 0 || t.count <= 0) return nothing();
    int out[3];
    for (int dim = 0; dim < 3; ++dim) {
        const int at = p.at[dim] - t.shift[dim], stride = s.stride[dim];
        out[dim] = stride == 1 ? at : at / stride;  // most are 1, and a division is some twenty instructions
        if (at < 0 || out[dim] * stride != at) return nothing();
    }
    const real* found = locate(dy, p.n, out);
    return found ? Piece{found + channel + t.channel, t.count} : nothing();
}

extern "C" __global__ __launch_bounds__(256, 2) void forward(View x, const real* w, const float* bias, Output y,
                                                             Shape s) {
    const int points = s.batch * (int)volume(y.extent), taps = (int)volume(s.kernel);
    const int channels = s.channels / s.groups, outputs = s.outputs / s.groups, group = blockIdx.z;
    const int row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS;
    const real* mine = w + (index_t)group * outputs * taps * channels;
    Sums sum;
    tensor_product<ALONG_K, ALONG_K>(
        row, column, 0, taps * filled(channels),
        factor([&](int r) { return origin(r, points, y, s); }, [&](int k) { return tap(k, channels, s); },
               [&](const Point& p, const Tap& t) { return in_window(x, p, t, group * channels); }),
        factor([&](int c) { return c < outputs ? mine + (index_t)c * taps * channels : nullptr; },
               [&](int k) { return tap(k, channels, s); },
               [&](const real* filter, const Tap& t) {
                   return filter ? Piece{filter + t.number * channels + t.channel, t.count} : nothing();
               }),
        sum);
    give(
        row, column, sum,
        [&](int r) { return channels_at(y, r, points, group * outputs); },
        [&](real* to, int c, float first, float second) {
            const int count = outputs - c;
            if (!to || count <= 0) return;
            if (bias) first += bias[group * outputs + c];
            if (bias && count > 1) second += bias[group * outputs + c + 1];
            if (s.rectify && first < 0) first = 0;
            if (s.rectify && second < 0) second = 0;
            write(to + c, count, first, second);
        });
}

extern "C" __global__ __launch_bounds__(256, 2) void backward_data(View dy, const real* w, Output dx, Shape s) {
    const int points = s.batch * (int)volume(dx.extent), taps = (int)volume(s.kernel);
    const int channels = s.channels / s.groups, outputs = s.outputs / s.groups, group = blockIdx.z;
    const int row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS;
    const real* mine = w + (index_t)group * outputs * taps * channels;
    Sums sum;
    tensor_product<ALONG_K, ALONG_TILE>(
        row, column, 0, taps * filled(outputs),
        factor(
            [&](int r) {
                if (r >= points) return nowhere();
                Point p = point((unsigned)r, dx.extent);
                for (int dim = 0; dim < 3; ++dim) p.at[dim] += s.pad[dim];
                return p;
            },
            [&](int k) { return tap(k, outputs, s); },
            [&](const Point& p, const Tap& t) { return met(dy, p, t, group * outputs, s); }),
        factor([&](int c) { return c; },
               [&](int k) {
                   const Tap t = tap(k, outputs, s);
                   return t.count > 0 ? mine + ((index_t)t.channel * taps + t.number) * channels : nullptr;
               },
               [&](int c, const real* filter) { return filter ? Piece{filter + c, channels - c} : nothing(); }),
        sum);
    give(
        row, column, sum,
        [&](int r) { return channels_at(dx, r, points, group * channels); },
        [&](real* to, int c, float first, float second) {
            if (to) write(to + c, channels - c, first, second);
        });
}

extern "C" __global__ __launch_bounds__(256, 2) void backward_weights(View x, Output dy, Shape s,
                                                                      long long points_of_a_chunk, float* partial) {
    const int points = s.batch * (int)volume(dy.extent), taps = (int)volume(s.kernel);
    const int channels = s.channels / s.groups, outputs = s.outputs / s.groups;
    const int group = blockIdx.z % s.groups, chunk = blockIdx.z / s.groups;
    const int row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS;
    const int begin = (int)min((index_t)points, chunk * points_of_a_chunk);
    const int end = (int)min((index_t)points, begin + points_of_a_chunk);
    Sums sum;
    tensor_product<ALONG_TILE, ALONG_TILE>(
        row, column, begin, end,
        factor([&](int k) { return k; },
               [&](int p) { return channels_at(dy, p, end, group * outputs); },
               [&](int k, const real* at) { return at ? Piece{at + k, outputs - k} : nothing(); }),
        factor([&](int c) { return tap(c, channels, s); }, [&](int p) { return origin(p, end, dy, s); },
               [&](const Tap& t, const Point& p) { return in_window(x, p, t, group * channels); }),
        sum);
    const index_t width = (index_t)taps * channels;
    float* mine = partial + ((index_t)chunk * s.groups + group) * outputs * width;
    const int wide = filled(channels);
    give(
        row, column, sum, [&](int k) { return k < outputs ? mine + k * width : nullptr; },
        [&](float* to, int c, float first, float second) {
            const int channel = c % wide;
            if (!to || c >= taps * wide) return;
            to += c / wide * channels + channel;
            if (channel < channels) to[0] = first;
            if (channel + 1 < channels) to[1] = second;
        });
}

// Add up the chunks, the first first.
extern "C" __global__ void fold(const float* partial, long long chunks, long long elements, float* dw) {
    for (index_t i = first(); i < elements; i += step()) {
        float sum = 0;
        for (index_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * elements + i];
        dw[i] = sum;
    }
}
