// What all kernels share: the types of elements, and the walk of a grid over a range.
//
// Every file is compiled once for each type of the arrays between layers:
//
//     -DREAL=              real, what is stored     wide, what is computed in: parameters, sums, numbers by value
//     float (the default)  float                    float
//     double               double                   double
//     bfloat16             the upper half of a      float
//                          float: 7 of 23 bits of
//                          the mantissa
//
// To the compiler a bfloat16 is no number: what is read goes through `widened`, what is written through `rounded`, and
// one that is forgotten does not compile.  Arrays are dense with channels innermost: logical (N, C, *S), memory
// (N, *S, C).  Indices are 64 bit where an array may have 2^31 elements.  CuPy compiles with -ftz=true: in arithmetic of
// float, numbers below 1.2e-38 are zero; what is only moved, and double, is not touched.
#pragma once

#ifndef REAL
#define REAL float
#endif

struct bfloat16 {
    unsigned short bits;
};

template <class T>
struct Wide {
    typedef T type;
};
template <>
struct Wide<bfloat16> {
    typedef float type;
};

typedef REAL real;
typedef Wide<real>::type wide;
typedef long long index_t;

static __device__ __forceinline__ float widened(float x) { return x; }
static __device__ __forceinline__ double widened(double x) { return x; }
static __device__ __forceinline__ float widened(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

static __device__ __forceinline__ void round_to(float& found, float x) { found = x; }
static __device__ __forceinline__ void round_to(double& found, double x) { found = x; }

// The nearest one, the even one between two; what is no number stays none.
static __device__ __forceinline__ void round_to(bfloat16& found, float x) {
    const unsigned bits = __float_as_uint(x);
    const bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
    found.bits = (unsigned short)(number ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : 0x7fffu);
}

static __device__ __forceinline__ real rounded(wide x) {
    real found;
    round_to(found, x);
    return found;
}

// Elements first(), first() + step(), ... are those of a thread of a one-dimensional grid.
static __device__ __forceinline__ index_t first() { return (index_t)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ __forceinline__ index_t step() { return (index_t)gridDim.x * blockDim.x; }

// Minus infinity, for which NVRTC has no name.
static __device__ __forceinline__ wide least() { return (wide)__int_as_float(0xff800000); }
