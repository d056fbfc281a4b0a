// What all kernels share: the type of elements, and the walk of a grid over a range.
//
// Every file is compiled once for each type: -DREAL=float (the default) or double.  Arrays are dense with channels
// innermost: logical (N, C, *S), memory (N, *S, C).  Indices are 64 bit where an array may have 2^31 elements.
#pragma once

#ifndef REAL
#define REAL float
#endif

typedef REAL real;
typedef long long index_t;

// Elements first(), first() + step(), ... are those of a thread of a one-dimensional grid.
static __device__ __forceinline__ index_t first() { return (index_t)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ __forceinline__ index_t step() { return (index_t)gridDim.x * blockDim.x; }

// Minus infinity, for which NVRTC has no name.
static __device__ __forceinline__ real least() { return (real)__int_as_float(0xff800000); }
