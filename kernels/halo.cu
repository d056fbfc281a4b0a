// Boxes of a block to and from one buffer, all neighbours in one launch.
//
//   pack         buffer[start_p + i] = array[box_p, i]       what is sent to neighbour p, or borrowed by it
//   unpack       array[box_p, i] = buffer[start_p + i]       halo: boxes do not meet
//   accumulate   array[e] += sum_p buffer[start_p + i_p(e)]  given back: boxes meet at corners
//
// Memory     array: any strides (in elements) of up to five dims N C D H W; a box in the buffer: N D H W C, C fastest
// Threads    grid (any, pieces): a thread takes every step()-th element of the piece blockIdx.y
// Types      real; a sum is wide, made in the order of the pieces, whatever the schedule, and rounded once
// Caller     pieces on the device; lo + extent within the array; starts of pieces so that they do not meet in the buffer
// Reference  gridnn.comm.mover.Pending._unpack (what it does with slices)
// Source     own; one launch for all neighbours as in DistConv (Dryden et al. 2019)
#include "common.cuh"

struct Strides {
    long long of[5];  // N C D H W
};

struct Piece {
    long long start;   // in the buffer
    int lo[5];         // first element of the box in the array, N C D H W
    int extent[5];
};

static __device__ index_t volume(const Piece& p) {
    return (index_t)p.extent[0] * p.extent[1] * p.extent[2] * p.extent[3] * p.extent[4];
}

// Coordinates in the array of element i of a piece.
static __device__ void locate(const Piece& p, index_t i, int at[5]) {
    const int order[5] = {1, 4, 3, 2, 0};  // C fastest, then W, H, D, N
    for (int k = 0; k < 5; ++k) {
        const int dim = order[k];
        at[dim] = p.lo[dim] + (int)(i % p.extent[dim]);
        i /= p.extent[dim];
    }
}

// Element of a piece at some coordinates of the array, -1 if it holds none there.
static __device__ index_t number(const Piece& p, const int at[5]) {
    const int order[5] = {0, 2, 3, 4, 1};
    index_t i = 0;
    for (int k = 0; k < 5; ++k) {
        const int dim = order[k], local = at[dim] - p.lo[dim];
        if (local < 0 || local >= p.extent[dim]) return -1;
        i = i * p.extent[dim] + local;
    }
    return i;
}

static __device__ index_t offset(const Strides& s, const int at[5]) {
    index_t found = 0;
    for (int dim = 0; dim < 5; ++dim) found += at[dim] * s.of[dim];
    return found;
}

extern "C" __global__ void pack(const real* array, Strides strides, const Piece* pieces, real* buffer) {
    const Piece piece = pieces[blockIdx.y];
    const index_t count = volume(piece);
    for (index_t i = first(); i < count; i += step()) {
        int at[5];
        locate(piece, i, at);
        buffer[piece.start + i] = array[offset(strides, at)];
    }
}

extern "C" __global__ void unpack(real* array, Strides strides, const Piece* pieces, const real* buffer) {
    const Piece piece = pieces[blockIdx.y];
    const index_t count = volume(piece);
    for (index_t i = first(); i < count; i += step()) {
        int at[5];
        locate(piece, i, at);
        array[offset(strides, at)] = buffer[piece.start + i];
    }
}

// The first piece that holds an element adds those of all: nobody else writes it, and the order is that of the pieces.
extern "C" __global__ void accumulate(real* array, Strides strides, const Piece* pieces, int pieces_count,
                                      const real* buffer) {
    const int mine = blockIdx.y;
    const Piece piece = pieces[mine];
    const index_t count = volume(piece);
    for (index_t i = first(); i < count; i += step()) {
        int at[5];
        locate(piece, i, at);
        bool theirs = false;
        for (int p = 0; p < mine && !theirs; ++p) theirs = number(pieces[p], at) >= 0;
        if (theirs) continue;
        real* element = array + offset(strides, at);
        wide sum = widened(*element) + widened(buffer[piece.start + i]);
        for (int p = mine + 1; p < pieces_count; ++p) {
            const index_t there = number(pieces[p], at);
            if (there >= 0) sum += widened(buffer[pieces[p].start + there]);
        }
        *element = rounded(sum);
    }
}
