// Dropout by global index: y = x / (1 - p) where the element's uniform number is at least p, else 0.
//
// The same kernel goes backward (dx from dy): nothing is kept, the numbers are made again.  Element i of the global array
// in C order owns output i % 4 of Philox4x64-10 at counter i / 4 + 1 (NumPy counts before it draws), so that the mask
// is bitwise that of the CPU and of every other grid.
//
// Memory     x, y dense, channels innermost: N D H W C; global strides are those of C order, N C D H W
// Threads    any one-dimensional grid; a thread takes every step()-th element
// Types      real; the number is 53 bits, as in NumPy
// Caller     0 <= p < 1; y may be x; key: 128 bits on the device, low word first (gridnn.compute.random): it changes from
//            pass to pass, and a captured launch keeps what it is given by value
// Reference  gridnn.compute.random.dropout_mask
// Source     own; Salmon et al. 2011
#include "common.cuh"

typedef unsigned long long word;

struct Block {
    long long stride[5];  // of the global array, N C D H W
    int lo[5];            // first element of the block
    int extent[5];
};

static __device__ word philox(word counter, int output, word key0, word key1) {
    word c[4] = {counter, 0, 0, 0};
    for (int round = 0; round < 10; ++round) {
        const word high0 = __umul64hi(0xD2E7470EE14C6C93ull, c[0]), low0 = 0xD2E7470EE14C6C93ull * c[0];
        const word high1 = __umul64hi(0xCA5A826395121157ull, c[2]), low1 = 0xCA5A826395121157ull * c[2];
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
    return output < 2 ? (output ? c[1] : c[0]) : (output == 2 ? c[2] : c[3]);
}

extern "C" __global__ void dropout(const real* x, real* y, long long count, Block block,
                                   const unsigned long long* key, double p) {
    const word key0 = key[0], key1 = key[1];
    const wide factor = (wide)(1.0 / (1.0 - p));
    const int order[5] = {1, 4, 3, 2, 0};  // C fastest, then W, H, D, N
    for (index_t i = first(); i < count; i += step()) {
        index_t left = i, global = 0;
        for (int k = 0; k < 5; ++k) {
            const int dim = order[k];
            global += (block.lo[dim] + left % block.extent[dim]) * block.stride[dim];
            left /= block.extent[dim];
        }
        const word bits = philox((word)global / 4 + 1, (int)(global % 4), key0, key1);
        const double uniform = (double)(bits >> 11) * (1.0 / 9007199254740992.0);
        y[i] = rounded(uniform >= p ? widened(x[i]) * factor : (wide)0);
    }
}
