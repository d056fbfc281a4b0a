// Pooling over windows of up to three dims.
//
//   max_forward       y_o = max of the window, saved_o = which of its elements; the first of equals; padding never wins
//   max_backward      dx_i = sum of dy_o over the windows o that i won
//   average_forward   y_o = sum of the window / R, or / the real elements where padding does not count
//   average_backward  dx_i = sum over the windows o with i of dy_o / the same
//
// Memory     x (N, S, C) and y (N, O, C), S and O of three dims, the missing ones 1; saved like y, one byte
// Threads    any one-dimensional grid; a thread takes every step()-th output (forward) or input (backward).  Backward
//            gathers, so that no two threads add to one element: the same bits every time
// Types      real; sums are wide
// Caller     product of kernel <= 256; the outs are those of the window
// Reference  gridnn.compute.cpu.reference.pool
// Source     own
#include "common.cuh"

struct Window {
    int kernel[3], stride[3], dilation[3], pad[3];  // pad: before the first element; negative crops
    int in[3], out[3];
    int channels;
};

// The element of the input that a tap of an output reads in one dim; outside [0, in) it is padding.
static __device__ __forceinline__ int reads(const Window& w, int dim, int out, int tap) {
    return out * w.stride[dim] - w.pad[dim] + tap * w.dilation[dim];
}

// The output that reads an element of the input with a tap, -1 if there is none.
static __device__ __forceinline__ int reader(const Window& w, int dim, int in, int tap) {
    const int at = in + w.pad[dim] - tap * w.dilation[dim];
    return at >= 0 && at % w.stride[dim] == 0 && at / w.stride[dim] < w.out[dim] ? at / w.stride[dim] : -1;
}

static __device__ int real_elements(const Window& w, const int out[3]) {
    int count = 1;
    for (int dim = 0; dim < 3; ++dim) {
        int here = 0;
        for (int tap = 0; tap < w.kernel[dim]; ++tap) {
            const int at = reads(w, dim, out[dim], tap);
            here += at >= 0 && at < w.in[dim];
        }
        count *= here;
    }
    return count;
}

// Channel, coordinates and sample of an element of (N, extent, C).
struct Place {
    int channel, at[3];
    index_t sample;
};

static __device__ Place place(index_t i, int channels, const int extent[3]) {
    Place p;
    p.channel = (int)(i % channels);
    i /= channels;
    for (int dim = 2; dim >= 0; --dim) {
        p.at[dim] = (int)(i % extent[dim]);
        i /= extent[dim];
    }
    p.sample = i;
    return p;
}

static __device__ index_t element(const Place& p, int channels, const int extent[3], const int at[3]) {
    return (((p.sample * extent[0] + at[0]) * extent[1] + at[1]) * extent[2] + at[2]) * channels + p.channel;
}

extern "C" __global__ void max_forward(const real* x, real* y, unsigned char* saved, long long count, Window w) {
    for (index_t i = first(); i < count; i += step()) {
        const Place p = place(i, w.channels, w.out);
        wide best = least();
        int won = 0, tap = 0;
        bool any = false;
        for (int a = 0; a < w.kernel[0]; ++a)
            for (int b = 0; b < w.kernel[1]; ++b)
                for (int c = 0; c < w.kernel[2]; ++c, ++tap) {
                    const int at[3] = {reads(w, 0, p.at[0], a), reads(w, 1, p.at[1], b), reads(w, 2, p.at[2], c)};
                    if (at[0] < 0 || at[0] >= w.in[0] || at[1] < 0 || at[1] >= w.in[1] || at[2] < 0 || at[2] >= w.in[2])
                        continue;
                    const wide value = widened(x[element(p, w.channels, w.in, at)]);
                    if (!any || value > best || (value != value && best == best)) {
                        best = value;
                        won = tap;
                    }
                    any = true;
                }
        y[i] = rounded(best);
        saved[i] = (unsigned char)won;
    }
}

extern "C" __global__ void max_backward(const real* dy, const unsigned char* saved, real* dx, long long count,
                                        Window w) {
    for (index_t i = first(); i < count; i += step()) {
        const Place p = place(i, w.channels, w.in);
        wide sum = 0;
        int tap = 0;
        for (int a = 0; a < w.kernel[0]; ++a)
            for (int b = 0; b < w.kernel[1]; ++b)
                for (int c = 0; c < w.kernel[2]; ++c, ++tap) {
                    const int at[3] = {reader(w, 0, p.at[0], a), reader(w, 1, p.at[1], b), reader(w, 2, p.at[2], c)};
                    if (at[0] < 0 || at[1] < 0 || at[2] < 0) continue;
                    const index_t o = element(p, w.channels, w.out, at);
                    if (saved[o] == tap) sum += widened(dy[o]);
                }
        dx[i] = rounded(sum);
    }
}

extern "C" __global__ void average_forward(const real* x, real* y, long long count, Window w, int count_pad) {
    for (index_t i = first(); i < count; i += step()) {
        const Place p = place(i, w.channels, w.out);
        wide sum = 0;
        for (int a = 0; a < w.kernel[0]; ++a)
            for (int b = 0; b < w.kernel[1]; ++b)
                for (int c = 0; c < w.kernel[2]; ++c) {
                    const int at[3] = {reads(w, 0, p.at[0], a), reads(w, 1, p.at[1], b), reads(w, 2, p.at[2], c)};
                    if (at[0] < 0 || at[0] >= w.in[0] || at[1] < 0 || at[1] >= w.in[1] || at[2] < 0 || at[2] >= w.in[2])
                        continue;
                    sum += widened(x[element(p, w.channels, w.in, at)]);
                }
        const int elements = count_pad ? w.kernel[0] * w.kernel[1] * w.kernel[2] : max(1, real_elements(w, p.at));
        y[i] = rounded(sum * ((wide)1 / (wide)elements));
    }
}

extern "C" __global__ void average_backward(const real* dy, real* dx, long long count, Window w, int count_pad) {
    for (index_t i = first(); i < count; i += step()) {
        const Place p = place(i, w.channels, w.in);
        wide sum = 0;
        for (int a = 0; a < w.kernel[0]; ++a)
            for (int b = 0; b < w.kernel[1]; ++b)
                for (int c = 0; c < w.kernel[2]; ++c) {
                    const int at[3] = {reader(w, 0, p.at[0], a), reader(w, 1, p.at[1], b), reader(w, 2, p.at[2], c)};
                    if (at[0] < 0 || at[1] < 0 || at[2] < 0) continue;
                    const int elements =
                        count_pad ? w.kernel[0] * w.kernel[1] * w.kernel[2] : max(1, real_elements(w, at));
                    sum += widened(dy[element(p, w.channels, w.out, at)]) * ((wide)1 / (wide)elements);
                }
        dx[i] = rounded(sum);
    }
}
