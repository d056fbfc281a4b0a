/* The one inner loop of every product: a tile of rows x columns kept in registers.
 *
 *     out[i][j] (+)= sum over taps t, depth k of  row(t, i)[k] * panel[t, k][j]      (+ bias[j], relu)
 *
 *        row pointers, one a tap and a row            panel: columns side by side, as wide as the tile
 *        ind[t * MR + i] -> k contiguous              t, k slowest; NV vectors a line
 *
 * Rows are read where they lie, one element broadcast at a time, so a convolution needs no gathered copy of its input:
 * a tap is another set of row pointers, padding a pointer to zeros ("indirect" convolution, Dukhan 2019).
 * Only the panel is packed: it is the smaller operand, and it is used by every tile of rows.
 *
 *     registers    16 x 32 bytes (AVX2)     6 x 2 vectors of sums, 2 of the panel, 1 broadcast
 *                  32 x 64 bytes (AVX-512)  6 x 4 of sums, 4 of the panel, broadcasts from memory
 */
#ifndef GRIDNN_MICRO_H
#define GRIDNN_MICRO_H

#include "common.h"

#define MR 6
#if VB == 64 || defined(__aarch64__)
#define NV 4
#else
#define NV 2
#endif
#define NR (NV * VL)

/* What happens to a tile after its sum. */
typedef struct {
    int add;          /* to what out holds, instead of replacing it */
    const real *bias; /* of the first column of the tile, or NULL */
    int relu;
} finish;

INLINE void tile_of(const int rows, const int nv, const real *const *ind, int64_t taps, int64_t depth,
                    const real *panel, real *const *out, int64_t columns, finish f) {
    vec sum[MR][NV];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) sum[i][j] = (vec){0};
    for (int64_t t = 0; t < taps; t++, ind += MR) {
        const real *row[MR];
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) row[i] = ind[i];
        for (int64_t k = 0; k < depth; k++, panel += nv * VL) {
            vec line[NV];
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++) line[j] = load(panel + j * VL);
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) {
                const vec x = splat(row[i][k]);
#pragma GCC unroll 4
                for (int j = 0; j < nv; j++) sum[i][j] += x * line[j];
            }
        }
    }
    const int whole = columns == nv * VL;
    real bias[NR];
    if (f.bias && !whole) {
        for (int64_t j = 0; j < columns; j++) bias[j] = f.bias[j];
        for (int64_t j = columns; j < nv * VL; j++) bias[j] = 0;
        f.bias = bias;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        real part[NR], *to = out[i];
        if (!whole) {
            for (int64_t j = 0; j < nv * VL; j++) part[j] = f.add && j < columns ? to[j] : 0;
            to = part;
        }
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) {
            vec v = sum[i][j];
            if (f.add) v += load(to + j * VL);
            if (f.bias) v += load(f.bias + j * VL);
            if (f.relu) v = larger((vec){0}, v);
            store(to + j * VL, v);
        }
        if (!whole)
            for (int64_t j = 0; j < columns; j++) out[i][j] = part[j];
    }
}

typedef void tile_kernel(const real *const *, int64_t, int64_t, const real *, real *const *, int64_t, finish);

#define TILE(rows, nv)                                                                                          \
    static void tile_##rows##_##nv(const real *const *ind, int64_t taps, int64_t depth, const real *panel,      \
                                   real *const *out, int64_t columns, finish f) {                               \
        tile_of(rows, nv, ind, taps, depth, panel, out, columns, f);                                            \
    }
#define TILES(nv) TILE(1, nv) TILE(2, nv) TILE(3, nv) TILE(4, nv) TILE(5, nv) TILE(6, nv)
#define ROW(nv) {tile_1_##nv, tile_2_##nv, tile_3_##nv, tile_4_##nv, tile_5_##nv, tile_6_##nv}
TILES(1)
TILES(2)
#if NV == 4
TILES(3)
TILES(4)
static tile_kernel *const tile_kernels[NV][MR] = {ROW(1), ROW(2), ROW(3), ROW(4)};
#else
static tile_kernel *const tile_kernels[NV][MR] = {ROW(1), ROW(2)};
#endif

/* One tile: rows 1..MR, columns 1..NR; the panel is packed as wide as the vectors that hold the columns. */
INLINE void tile(int rows, int64_t columns, const real *const *ind, int64_t taps, int64_t depth, const real *panel,
                 real *const *out, finish f) {
    tile_kernels[(columns + VL - 1) / VL - 1][rows - 1](ind, taps, depth, panel, out, columns, f);
}

/* Elements of a packed line for `columns` columns: whole panels, the last as wide as it must be. */
INLINE int64_t packed(int64_t columns) { return (columns + VL - 1) / VL * VL; }

#endif
