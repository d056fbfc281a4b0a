// Operations on each element: rectifier, its gradient, sums of arrays, bias.
//
//   relu            y = max(x, 0)                      add          y = a + b, rectified if asked
//   relu_backward   dx = dy where y > 0, else 0        add_bias     y = y + b_c, rectified if asked
//
// Memory     all arrays of a call in the same dense order; channels innermost where there is a bias (C,)
// Threads    any one-dimensional grid; a thread takes every step()-th element
// Types      real; nothing is accumulated
// Caller     count = elements of an array; y may be x (or a); channels > 0
// Reference  gridnn.compute.cpu.reference.activation, gridnn.compute.cpu.reference.conv.add_bias
// Source     own
#include "common.cuh"

// A NaN stays one, as in NumPy's maximum.
static __device__ __forceinline__ real rectified(real x) { return x < 0 ? (real)0 : x; }

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
