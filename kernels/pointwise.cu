// Operations on each element: nonlinearities, their gradients, sums of arrays, bias.
//
//   relu            y = max(x, 0)                      add          y = a + b, rectified if asked
//   relu_backward   dx = dy where y > 0, else 0        add_bias     y = y + b_c, rectified if asked
//   smooth          y = f(x)                           smooth_backward   dx = f' dy, from y (tanh, sigmoid) or x
//   activate_biased z = x + b_c as add_bias rounds it, y = f(z), rectified too; z is written where it is kept
//
// Memory     all arrays of a call in the same dense order; channels innermost where there is a bias (C,)
// Threads    any one-dimensional grid; a thread takes every step()-th element
// Types      real, bias wide; nothing is accumulated
// Caller     count = elements of an array; y may be x (or a), kept none or x, not y; channels > 0; `name` is the number
//            of a function
// Reference  gridnn.compute.cpu.reference.activation, gridnn.compute.cpu.reference.conv.add_bias
// Source     own
#include "common.cuh"

// A NaN stays one, as in NumPy's maximum.
static __device__ __forceinline__ wide rectified(wide x) { return x < 0 ? (wide)0 : x; }

#define TANH 0
#define SIGMOID 1
#define SILU 2
#define GELU 3
#define RELU 4

static __device__ __forceinline__ wide sigmoid(wide x) { return (wide)1 / ((wide)1 + exp(-x)); }

// The normal distribution and its density; erfc, unlike 1 + erf, keeps the small values of the left tail.
static __device__ __forceinline__ wide normal(wide x) { return (wide)0.5 * erfc(x * (wide)-0.70710678118654752440); }
static __device__ __forceinline__ wide density(wide x) {
    return (wide)0.39894228040143267794 * exp((wide)-0.5 * x * x);
}

static __device__ __forceinline__ wide smooth_of(wide x, int name) {
    if (name == TANH) return tanh(x);
    const wide found = name == GELU ? normal(x) : sigmoid(x);
    return name == SIGMOID ? found : found * x;
}

extern "C" __global__ void relu(const real* x, real* y, long long count) {
    for (index_t i = first(); i < count; i += step()) y[i] = rounded(rectified(widened(x[i])));
}

extern "C" __global__ void relu_backward(const real* y, const real* dy, real* dx, long long count) {
    for (index_t i = first(); i < count; i += step()) dx[i] = widened(y[i]) > 0 ? dy[i] : rounded(0);
}

extern "C" __global__ void add(const real* a, const real* b, real* y, long long count, int rectify) {
    for (index_t i = first(); i < count; i += step()) {
        const wide sum = widened(a[i]) + widened(b[i]);
        y[i] = rounded(rectify ? rectified(sum) : sum);
    }
}

extern "C" __global__ void add_bias(real* y, const wide* bias, long long count, int channels, int rectify) {
    for (index_t i = first(); i < count; i += step()) {
        const wide sum = widened(y[i]) + bias[i % channels];
        y[i] = rounded(rectify ? rectified(sum) : sum);
    }
}

extern "C" __global__ void smooth(const real* x, real* y, long long count, int name) {
    for (index_t i = first(); i < count; i += step()) y[i] = rounded(smooth_of(widened(x[i]), name));
}

// The sum is rounded before the function reads it: the bits of add_bias and smooth, and what backward will see.
extern "C" __global__ void activate_biased(const real* x, const wide* bias, real* kept, real* y, long long count,
                                           int channels, int name) {
    for (index_t i = first(); i < count; i += step()) {
        const real sum = rounded(widened(x[i]) + bias[i % channels]);
        const wide at = widened(sum);
        if (kept) kept[i] = sum;
        y[i] = rounded(name == RELU ? rectified(at) : smooth_of(at, name));
    }
}

extern "C" __global__ void smooth_backward(const real* kept, const real* dy, real* dx, long long count, int name) {
    for (index_t i = first(); i < count; i += step()) {
        const wide at = widened(kept[i]);
        wide slope;
        if (name == TANH) {
            slope = 1 - at * at;
        } else if (name == SIGMOID) {
            slope = at * (1 - at);
        } else if (name == SILU) {
            const wide s = sigmoid(at);
            slope = s * (1 + at * (1 - s));
        } else {
            slope = normal(at) + at * density(at);
        }
        dx[i] = rounded(widened(dy[i]) * slope);
    }
}
