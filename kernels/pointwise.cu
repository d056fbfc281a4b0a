// Operations on each element: nonlinearities, their gradients, sums of arrays, bias.
//
//   relu            y = max(x, 0)                      add          y = a + b, rectified if asked
//   relu_backward   dx = dy where y > 0, else 0        add_bias     y = y + b_c, rectified if asked
//   smooth          y = f(x)                           smooth_backward   dx = f' dy, from y (tanh, sigmoid) or x
//
// Memory     all arrays of a call in the same dense order; channels innermost where there is a bias (C,)
// Threads    any one-dimensional grid; a thread takes every step()-th element
// Types      real; nothing is accumulated
// Caller     count = elements of an array; y may be x (or a); channels > 0; `name` is the number of a smooth function
// Reference  gridnn.compute.cpu.reference.activation, gridnn.compute.cpu.reference.conv.add_bias
// Source     own
#include "common.cuh"

// A NaN stays one, as in NumPy's maximum.
static __device__ __forceinline__ real rectified(real x) { return x < 0 ? (real)0 : x; }

#define TANH 0
#define SIGMOID 1
#define SILU 2
#define GELU 3

static __device__ __forceinline__ real sigmoid(real x) { return (real)1 / ((real)1 + exp(-x)); }

// The normal distribution and its density; erfc, unlike 1 + erf, keeps the small values of the left tail.
static __device__ __forceinline__ real normal(real x) { return (real)0.5 * erfc(x * (real)-0.70710678118654752440); }
static __device__ __forceinline__ real density(real x) {
    return (real)0.39894228040143267794 * exp((real)-0.5 * x * x);
}

extern "C" __global__ void relu(const real* x, real* y, long long count) {
    for (index_t i = first(); i < count; i += step()) y[i] = rectified(x[i]);
}

extern "C" __global__ void relu_backward(const real* y, const real* dy, real* dx, long long count) {
    for (index_t i = first(); i < count; i += step()) dx[i] = y[i] > 0 ? dy[i] : (real)0;
}

extern "C" __global__ void add(const real* a, const real* b, real* y, long long count, int rectify) {
    for (index_t i = first(); i < count; i += step()) {
        const real sum = a[i] + b[i];
        y[i] = rectify ? rectified(sum) : sum;
    }
}

extern "C" __global__ void add_bias(real* y, const real* bias, long long count, int channels, int rectify) {
    for (index_t i = first(); i < count; i += step()) {
        const real sum = y[i] + bias[i % channels];
        y[i] = rectify ? rectified(sum) : sum;
    }
}

extern "C" __global__ void smooth(const real* x, real* y, long long count, int name) {
    for (index_t i = first(); i < count; i += step()) {
        const real at = x[i];
        y[i] = name == TANH ? tanh(at) : name == SIGMOID ? sigmoid(at) : at * (name == SILU ? sigmoid(at) : normal(at));
    }
}

extern "C" __global__ void smooth_backward(const real* kept, const real* dy, real* dx, long long count, int name) {
    for (index_t i = first(); i < count; i += step()) {
        const real at = kept[i];
        real slope;
        if (name == TANH) {
            slope = 1 - at * at;
        } else if (name == SIGMOID) {
            slope = at * (1 - at);
        } else if (name == SILU) {
            const real s = sigmoid(at);
            slope = s * (1 + at * (1 - s));
        } else {
            slope = normal(at) + at * density(at);
        }
        dx[i] = dy[i] * slope;
    }
}
