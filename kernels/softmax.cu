// Softmax and cross-entropy in pieces, so that the classes may be cut over ranks.
//
//   block_max    top_p = max_k x_pk                                              [max over ranks]
//   block_sums   sum_k e^(x_pk - top_p),  x_p,label - top_p,  sum_k (x_pk - top_p)   [sum over ranks]
//   gradient     dx_pk = weight_p ( e^(x_pk - top_p) / Z_p - (1 - s) [k = label_p] - s / classes )
//
// Memory     x (positions, classes of the block), classes innermost; sums (3, positions); labels global class ids
// Threads    blocks of whole warps, one-dimensional grid: a warp takes a position, its lanes every 32nd class; `gradient`
//            any grid, step()
// Types      x, dx real; top wide; sums are double.  A warp adds up in one order: the same bits every time
// Caller     positions > 0; a block may have no class: then top is minus infinity
// Reference  gridnn.compute.cpu.reference.softmax
// Source     own
#include "common.cuh"

#define ALL 0xffffffffu

static __device__ double sum_of_warp(double value) {
    for (int by = 16; by; by >>= 1) value += __shfl_xor_sync(ALL, value, by);
    return value;
}

extern "C" __global__ void block_max(const real* x, long long positions, int classes, wide* top) {
    const int lane = threadIdx.x & 31;
    for (index_t p = first() >> 5; p < positions; p += step() >> 5) {
        wide best = least();
        for (int k = lane; k < classes; k += 32) {
            const wide value = widened(x[p * classes + k]);
            if (value > best || value != value) best = value;  // a NaN stays: nothing is above it
        }
        for (int by = 16; by; by >>= 1) {
            const wide other = __shfl_xor_sync(ALL, best, by);
            if (other > best || other != other) best = other;
        }
        if (lane == 0) top[p] = best;
    }
}

extern "C" __global__ void block_sums(const real* x, const wide* top, const long long* labels, long long positions,
                                      int classes, long long first_class, double* sums) {
    const int lane = threadIdx.x & 31;
    for (index_t p = first() >> 5; p < positions; p += step() >> 5) {
        double powers = 0, plain = 0;
        for (int k = lane; k < classes; k += 32) {
            const wide below = widened(x[p * classes + k]) - top[p];
            powers += exp(below);
            plain += below;
        }
        powers = sum_of_warp(powers);
        plain = sum_of_warp(plain);
        if (lane == 0) {
            const index_t label = labels[p] - first_class;
            sums[p] = powers;
            const bool here = label >= 0 && label < classes;
            sums[positions + p] = here ? (double)(widened(x[p * classes + label]) - top[p]) : 0.0;
            sums[2 * positions + p] = plain;
        }
    }
}

extern "C" __global__ void gradient(const real* x, const wide* top, const double* sum_exp, const long long* labels,
                                    const double* weight, long long positions, int classes, long long first_class,
                                    wide others, wide own, real* dx) {
    for (index_t i = first(); i < positions * classes; i += step()) {
        const index_t p = i / classes;
        wide found = exp(widened(x[i]) - top[p]) * (wide)(1 / sum_exp[p]) - others;
        if (labels[p] - first_class == i % classes) found -= own;
        dx[i] = rounded(found * (wide)weight[p]);
    }
}
