// Upsampling of a block of up to three dims, nearest and linear, and the adjoints.
//
//   nearest_forward    y_o = x_i,  i = o / factor                          o, i: global rows, dim by dim
//   nearest_backward   dx_i = sum of dy_o over the rows o of the block with o / factor = i
//   linear_forward     y_o = (1 - w_o) x_i + w_o x_i+1,  i + w_o = max((2 o + 1) in - out, 0) / (2 out)
//   linear_backward    dx_i = sum over the rows o of the block that mix i of their weight of i times dy_o
//
//   in 4, out 8    o        0     1     2     3     4     5     6     7
//                  i        0 1   0 1   0 1   1 2   1 2   2 3   2 3   3 3      the row after the last is the last
//                  w        0     1/4   3/4   1/4   3/4   1/4   3/4   1/4
//
// Memory     x, dx (N, S, C) and y, dy (N, O, C), S and O of three dims, the missing ones 1; channels innermost
// Threads    any one-dimensional grid; a thread takes every step()-th output (forward) or input (backward).  Backward
//            gathers, so that no two threads add to one element: the same bits every time
// Types      real; sums and weights are wide; rows and weights are found with integers, so that every grid has the same
// Caller     the block of the input holds every row that the block of the output reads
// Reference  gridnn.compute.cpu.reference.upsample
// Source     own
#include "view.cuh"

struct Rows {
    int in[3], out[3];              // extents of the blocks
    int in_start[3], out_start[3];  // their first rows
    int in_size[3], out_size[3];    // extents of the whole
    int factor[3];                  // of nearest
    int channels;
};

static __device__ index_t element(const Point& p, int channel, int channels, const int extent[3]) {
    return (((index_t)p.n * extent[0] + p.at[0]) * extent[1] + p.at[1]) * extent[2] * channels +
           (index_t)p.at[2] * channels + channel;
}

extern "C" __global__ void nearest_forward(const real* x, real* y, long long count, Rows r) {
    for (index_t i = first(); i < count; i += step()) {
        Point p = point(i / r.channels, r.out);
        for (int dim = 0; dim < 3; ++dim)
            p.at[dim] = (p.at[dim] + r.out_start[dim]) / r.factor[dim] - r.in_start[dim];
        y[i] = x[element(p, (int)(i % r.channels), r.channels, r.in)];
    }
}

// Rows lo to before hi of the block of the output.
struct Span {
    int lo, hi;
};

static __device__ Span within(const Rows& r, int dim, index_t lo, index_t hi) {
    const index_t start = r.out_start[dim], extent = r.out[dim];
    return {(int)min(max(lo - start, (index_t)0), extent), (int)min(max(hi - start, (index_t)0), extent)};
}

extern "C" __global__ void nearest_backward(const real* dy, real* dx, long long count, Rows r) {
    for (index_t i = first(); i < count; i += step()) {
        const Point p = point(i / r.channels, r.in);
        Span rows[3];
        for (int dim = 0; dim < 3; ++dim) {
            const index_t begin = (index_t)(p.at[dim] + r.in_start[dim]) * r.factor[dim];
            rows[dim] = within(r, dim, begin, begin + r.factor[dim]);
        }
        wide sum = 0;
        Point o = p;
        for (o.at[0] = rows[0].lo; o.at[0] < rows[0].hi; ++o.at[0])
            for (o.at[1] = rows[1].lo; o.at[1] < rows[1].hi; ++o.at[1])
                for (o.at[2] = rows[2].lo; o.at[2] < rows[2].hi; ++o.at[2])
                    sum += widened(dy[element(o, (int)(i % r.channels), r.channels, r.out)]);
        dx[i] = rounded(sum);
    }
}

// What an output mixes in one dim: two rows of the block of the input, which may be one, and the weight of the second.
struct Mix {
    int row[2];
    wide weight;
};

// Where an output lies in the input, in parts of 1 / period of a row.
static __device__ __forceinline__ index_t period(const Rows& r, int dim) { return 2 * (index_t)r.out_size[dim]; }
static __device__ __forceinline__ index_t place(const Rows& r, int dim, int out) {
    const index_t o = out + r.out_start[dim];
    return max((2 * o + 1) * r.in_size[dim] - r.out_size[dim], (index_t)0);
}

static __device__ Mix mix(const Rows& r, int dim, int out) {
    const index_t at = place(r, dim, out), row = at / period(r, dim), rest = at - row * period(r, dim);
    const int local = (int)row - r.in_start[dim];
    return {{local, rest && row + 1 < r.in_size[dim] ? local + 1 : local}, (wide)rest / (wide)period(r, dim)};
}

static __device__ __forceinline__ wide mixed(wide one, wide other, wide weight) { return one + (other - one) * weight; }

// The input mixed in the dims before `Dim` at the point p; a row that weighs nothing, or is the same, is not read.
template <int Dim>
static __device__ wide read(const real* x, const Rows& r, const Mix m[3], Point p, int channel) {
    if constexpr (Dim == 0) {
        return widened(x[element(p, channel, r.channels, r.in)]);
    } else {
        const Mix& here = m[Dim - 1];
        p.at[Dim - 1] = here.row[0];
        const wide one = read<Dim - 1>(x, r, m, p, channel);
        if (here.row[1] == here.row[0]) return one;
        p.at[Dim - 1] = here.row[1];
        return mixed(one, read<Dim - 1>(x, r, m, p, channel), here.weight);
    }
}

extern "C" __global__ void linear_forward(const real* x, real* y, long long count, Rows r) {
    for (index_t i = first(); i < count; i += step()) {
        const Point p = point(i / r.channels, r.out);
        const Mix m[3] = {mix(r, 0, p.at[0]), mix(r, 1, p.at[1]), mix(r, 2, p.at[2])};
        y[i] = rounded(read<3>(x, r, m, p, (int)(i % r.channels)));
    }
}

// The first output at row i of the input or behind it: the least o with (2 o + 1) in - out >= 2 out i; `within` cuts off
// what is before the block.  Outputs that `place` moves to row 0 mix no other row.
static __device__ index_t first_at(const Rows& r, int dim, index_t i) {
    const index_t ahead = period(r, dim) * i + r.out_size[dim] - r.in_size[dim], two = 2 * (index_t)r.in_size[dim];
    return (ahead + two - 1) / two;
}

// The outputs of the block that mix a row of the input: places between the row before it and the row after it.
static __device__ Span mixers(const Rows& r, int dim, int in) {
    const index_t i = in + r.in_start[dim];
    return within(r, dim, first_at(r, dim, i - 1), first_at(r, dim, i + 1));
}

// What an input weighs in one of its mixers.
static __device__ wide weight(const Rows& r, int dim, int in, int out) {
    const index_t i = in + r.in_start[dim], off = place(r, dim, out) - i * period(r, dim);
    if (off < 0) return (wide)(off + period(r, dim)) / (wide)period(r, dim);
    return i + 1 < r.in_size[dim] ? 1 - (wide)off / (wide)period(r, dim) : (wide)1;
}

extern "C" __global__ void linear_backward(const real* dy, real* dx, long long count, Rows r) {
    for (index_t i = first(); i < count; i += step()) {
        const Point p = point(i / r.channels, r.in);
        const Span rows[3] = {mixers(r, 0, p.at[0]), mixers(r, 1, p.at[1]), mixers(r, 2, p.at[2])};
        wide sum = 0;
        Point o = p;
        for (o.at[0] = rows[0].lo; o.at[0] < rows[0].hi; ++o.at[0]) {
            const wide of_depth = weight(r, 0, p.at[0], o.at[0]);
            for (o.at[1] = rows[1].lo; o.at[1] < rows[1].hi; ++o.at[1]) {
                const wide of_row = of_depth * weight(r, 1, p.at[1], o.at[1]);
                for (o.at[2] = rows[2].lo; o.at[2] < rows[2].hi; ++o.at[2]) {
                    const index_t at = element(o, (int)(i % r.channels), r.channels, r.out);
                    sum += of_row * weight(r, 2, p.at[2], o.at[2]) * widened(dy[at]);
                }
            }
        }
        dx[i] = rounded(sum);
    }
}
