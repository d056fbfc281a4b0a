// A tile of a matrix product on tensor cores whose factors are fetched as they are needed: product.cuh with tensor.cuh.
//
//     C (ROWS x COLUMNS) = A (ROWS x k) B (k x COLUMNS)     block (16, 16): 8 warps, each a part of C in fragments
//
// DEPTH of k are multiplied while the next DEPTH are on their way to shared memory; one barrier for each, and one order
// of sums, along k.  -DCOLUMNS=64 where a matrix has no more: a tile of 128 columns would be half empty.
#pragma once

#include "tensor.cuh"

#ifndef COLUMNS
#define COLUMNS 128
#endif

constexpr int THREADS = 256, ROWS = 128;
constexpr int DEPTH = 64 / (int)sizeof(real);
constexpr int WARP_ROWS = COLUMNS / 2, WARP_COLUMNS = 32;      // of C: a warp's part
constexpr int TALL = WARP_ROWS / 16, WIDE = WARP_COLUMNS / 8;  // and in fragments
static_assert(ROWS / WARP_ROWS * (COLUMNS / WARP_COLUMNS) == THREADS / 32, "COLUMNS is 64 or 128");

typedef float Sums[TALL][WIDE][4];

// Elements that lie one after the other, the first VECTOR of which are meant; fewer are filled up with zeros.
struct Piece {
    const real* at;
    int count;
};

static __device__ __forceinline__ void bring(real* to, const Piece& piece) {
    if (!((unsigned long long)piece.at & 15)) return start_copy(to, piece.at, piece.count);
#pragma unroll 2  // more would take registers from all
    for (int i = 0; i < VECTOR; ++i) to[i] = i < piece.count ? piece.at[i] : rounded(0);
}

// How a factor lies in memory: contiguous along k, or along the other index.
enum Along { ALONG_K, ALONG_TILE };

// A factor in shared memory, lying as it does in memory; the pitch keeps the reads of a warp on different banks.
template <Along ALONG, int TILE>
struct Held {
    static constexpr int LINES = ALONG == ALONG_K ? TILE : DEPTH, LENGTH = ALONG == ALONG_K ? DEPTH : TILE;
    static constexpr int PITCH = LENGTH + (ALONG == ALONG_K ? VECTOR : 8);
    static constexpr int ACROSS = LENGTH / VECTOR, EACH = LINES * ACROSS / THREADS;  // vectors: of a line, of a thread
    static constexpr int OF_TILE = ALONG == ALONG_K ? EACH : 1;                      // indices of the tile of a thread
    static_assert(LINES * ACROSS % THREADS == 0 && EACH > 0, "each thread brings as many vectors");

    Vector memory[LINES * PITCH / VECTOR];

    __device__ __forceinline__ real* line(int i) { return (real*)memory + i * PITCH; }
    __device__ __forceinline__ const real* at(int tile, int k) const {
        return (const real*)memory + (ALONG == ALONG_K ? tile * PITCH + k : k * PITCH + tile);
    }
};

// A factor of a product, as three functions: what is known of an index of the tile, what of a k, and the Piece that
// begins where the two meet.
template <class Tile, class Depth, class Meet>
struct Factor {
    Tile tile;
    Depth depth;
    Meet meet;
};

template <class Tile, class Depth, class Meet>
static __device__ __forceinline__ Factor<Tile, Depth, Meet> factor(Tile tile, Depth depth, Meet meet) {
    return {tile, depth, meet};
}

template <Along ALONG, int TILE, class F, class T>
static __device__ __forceinline__ void fill(Held<ALONG, TILE>& held, const F& f, const T* known, int k) {
    typedef Held<ALONG, TILE> H;
    const int line = thread_number() / H::ACROSS, at = thread_number() % H::ACROSS * VECTOR;
#pragma unroll
    for (int i = 0; i < H::EACH; ++i) {
        const int number = line + i * (THREADS / H::ACROSS);
        bring(held.line(number) + at, f.meet(known[i % H::OF_TILE], f.depth(k + (ALONG == ALONG_K ? at : number))));
    }
}

// The fragments of 16 rows of A.
template <Along ALONG>
static __device__ __forceinline__ void take_rows(unsigned to[4], const Held<ALONG, ROWS>& held, int row, int k) {
    const int lane = thread_number() % 32, low = lane % 8, middle = lane / 8 % 2 * 8, high = lane / 16;
    if (ALONG == ALONG_K)
        load_matrices<false>(to, held.at(row + low + middle, k + high * VECTOR));
    else if (!TF32)
        load_matrices<true>(to, held.at(row + middle, k + low + high * 8));
    else
        for (int r = 0; r < 4; ++r)
            to[r] = __float_as_uint(widened(*held.at(row + lane / 4 + r % 2 * 8, k + lane % 4 + r / 2 * 4)));
    for (int r = 0; TF32 && r < 4; ++r) to[r] = tf32(to[r]);
}

// The fragments of 16 columns of B: those of 8, then those of the next 8.
template <Along ALONG>
static __device__ __forceinline__ void take_columns(unsigned to[4], const Held<ALONG, COLUMNS>& held, int column,
                                                    int k) {
    const int lane = thread_number() % 32, low = lane % 8, middle = lane / 8 % 2, high = lane / 16 * 8;
    if (ALONG == ALONG_K)
        load_matrices<false>(to, held.at(column + low + high, k + middle * VECTOR));
    else if (!TF32)
        load_matrices<true>(to, held.at(column + high, k + low + middle * 8));
    else
        for (int r = 0; r < 4; ++r)
            to[r] = __float_as_uint(widened(*held.at(column + lane / 4 + r / 2 * 8, k + lane % 4 + r % 2 * 4)));
    for (int r = 0; TF32 && r < 4; ++r) to[r] = tf32(to[r]);
}

constexpr int BESIDE = COLUMNS / WARP_COLUMNS;  // warps
static __device__ __forceinline__ int warp_row() { return thread_number() / 32 / BESIDE * WARP_ROWS; }
static __device__ __forceinline__ int warp_column() { return thread_number() / 32 % BESIDE * WARP_COLUMNS; }

template <Along ALONG_A, Along ALONG_B, class A, class B>
static __device__ __forceinline__ void tensor_product(int row, int column, int k_begin, int k_end, const A& a,
                                                      const B& b, Sums& sum) {
    typedef Held<ALONG_A, ROWS> HeldA;
    typedef Held<ALONG_B, COLUMNS> HeldB;
    __shared__ HeldA held_a[2];
    __shared__ HeldB held_b[2];
    decltype(a.tile(0)) rows[HeldA::OF_TILE];
    decltype(b.tile(0)) columns[HeldB::OF_TILE];
    const int thread = thread_number();
#pragma unroll
    for (int i = 0; i < HeldA::OF_TILE; ++i)
        rows[i] = a.tile(row + (ALONG_A == ALONG_K ? thread / HeldA::ACROSS + i * (THREADS / HeldA::ACROSS)
                                                   : thread % HeldA::ACROSS * VECTOR));
#pragma unroll
    for (int i = 0; i < HeldB::OF_TILE; ++i)
        columns[i] = b.tile(column + (ALONG_B == ALONG_K ? thread / HeldB::ACROSS + i * (THREADS / HeldB::ACROSS)
                                                         : thread % HeldB::ACROSS * VECTOR));
    for (int m = 0; m < TALL; ++m)
        for (int n = 0; n < WIDE; ++n)
            for (int i = 0; i < 4; ++i) sum[m][n][i] = 0;
    fill(held_a[0], a, rows, k_begin);
    fill(held_b[0], b, columns, k_begin);
    for (int k = k_begin, now = 0; k < k_end; k += DEPTH, now ^= 1) {
        wait_for_copies();
        __syncthreads();  // all is there, and nobody reads what is filled next any more
        if (k + DEPTH < k_end) {
            fill(held_a[now ^ 1], a, rows, k + DEPTH);
            fill(held_b[now ^ 1], b, columns, k + DEPTH);
        }
#pragma unroll
        for (int inner = 0; inner < DEPTH; inner += STEP) {
            unsigned right[WIDE / 2][4];
#pragma unroll
            for (int n = 0; n < WIDE / 2; ++n) take_columns(right[n], held_b[now], warp_column() + 16 * n, inner);
#pragma unroll
            for (int m = 0; m < TALL; ++m) {
                unsigned left[4];
                take_rows(left, held_a[now], warp_row() + 16 * m, inner);
#pragma unroll
                for (int n = 0; n < WIDE; ++n) multiply_add(sum[m][n], left, right[n / 2] + n % 2 * 2);
            }
        }
    }
}

// Give each pair of neighbouring sums away: place(row) is asked once for each row of a lane, put(place, column, two
// sums) takes them.
template <class Place, class Put>
static __device__ __forceinline__ void give(int row, int column, const Sums& sum, const Place& place, const Put& put) {
    const int g = thread_number() % 32 / 4, t = thread_number() % 4;
#pragma unroll
    for (int m = 0; m < TALL; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const auto where = place(row + warp_row() + 16 * m + g + 8 * half);
#pragma unroll
            for (int n = 0; n < WIDE; ++n)
                put(where, column + warp_column() + 8 * n + 2 * t, sum[m][n][2 * half], sum[m][n][2 * half + 1]);
        }
}

// Write two elements, or what is inside of them.
static __device__ __forceinline__ void write(real* to, int count, float first, float second) {
    struct alignas(2 * sizeof(real)) Pair {
        real of[2];
    };
    const Pair both = {{rounded(first), rounded(second)}};
    if (count >= 2 && !((unsigned long long)to % sizeof(Pair))) {
        *(Pair*)to = both;
    } else {
        if (count >= 1) to[0] = both.of[0];
        if (count >= 2) to[1] = both.of[1];
    }
}
