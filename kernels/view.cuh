// Where the elements of a block lie: what kernels of convolution are given besides numbers.
//
// A View is read: up to 27 regions (low halo, own, high halo in D, H and W), each with its own strides, channels
// innermost; outside all of them it is zero, which is padding.  An Output is one array, channels innermost; it is written,
// or read where halos have no part in it.
#pragma once

#include "common.cuh"

struct Region {
    const real* base;     // of coordinate (0, 0, 0, 0) of the view, were it inside; null where there is nothing
    long long stride[4];  // N D H W
};

struct View {
    Region region[27];
    int own_lo[3], own_hi[3], extent[3];
};

struct Output {
    real* base;
    long long stride[4];
    int extent[3];
};

struct Shape {
    int batch, channels, outputs, groups;
    int kernel[3], stride[3], dilation[3], pad[3];
    int rectify;
};

struct Point {
    int n, at[3];
};

// The i-th point of an extent, the last dim the fastest; divisions are those of the type of i.
template <class Index>
static __device__ __forceinline__ Point point(Index i, const int extent[3]) {
    Point p;
    for (int dim = 2; dim >= 0; --dim) {
        p.at[dim] = (int)(i % (Index)extent[dim]);
        i /= (Index)extent[dim];
    }
    p.n = (int)i;
    return p;
}

static __device__ __forceinline__ index_t volume(const int extent[3]) {
    return (index_t)extent[0] * extent[1] * extent[2];
}

// The first channel at a coordinate, or null where the view is zero.
static __device__ __forceinline__ const real* locate(const View& x, int n, const int at[3]) {
    int number = 0;
    for (int dim = 0; dim < 3; ++dim) {
        if (at[dim] < 0 || at[dim] >= x.extent[dim]) return nullptr;
        number = 3 * number + (at[dim] >= x.own_lo[dim]) + (at[dim] >= x.own_hi[dim]);
    }
    const Region& r = x.region[number];
    if (!r.base) return nullptr;
    return r.base + n * r.stride[0] + at[0] * r.stride[1] + at[1] * r.stride[2] + at[2] * r.stride[3];
}

static __device__ __forceinline__ index_t offset(const Output& y, const Point& p) {
    return p.n * y.stride[0] + p.at[0] * y.stride[1] + p.at[1] * y.stride[2] + p.at[2] * y.stride[3];
}
