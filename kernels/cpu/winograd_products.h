/* The two matrix products of Winograd's method, for one of the 36 points and one panel of columns.
 *
 *     product   M [tile][k]     = sum over c      V [tile][c]  U [c][k]       the register tile of micro.h
 *     sum       D [k][c]      (+)= sum over tiles  W [tile][k]  V [tile][c]   the same, its rows read down columns of W
 *
 * The right factor lies in panels, NV vectors a line (the last as many as it needs), the left one in rows.
 */
#ifndef GRIDNN_WINOGRAD_PRODUCTS_H
#define GRIDNN_WINOGRAD_PRODUCTS_H

#include "micro.h"

INLINE void product_of(const int nv, int64_t rows, int64_t depth, const real *v, int64_t v_row, const real *panel,
                       real *m, int64_t m_row) {
    const finish none = {0, NULL, 0};
    const real *from[MR];
    real *to[MR];
    for (; rows >= MR; rows -= MR, v += MR * v_row, m += MR * m_row) {
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++) from[i] = v + i * v_row, to[i] = m + i * m_row;
        tile_of(MR, nv, from, 1, depth, panel, to, nv * VL, none);
    }
    if (rows) {
        for (int i = 0; i < rows; i++) from[i] = v + i * v_row, to[i] = m + i * m_row;
        tile((int)rows, nv * VL, from, 1, depth, panel, to, none);
    }
}

INLINE void sum_of(const int rows, const int nv, int64_t depth, const real *w, int64_t w_row, const real *panel,
                   real *d, int64_t d_row, int add) {
    vec sum[MR][NV];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) sum[i][j] = (vec){0};
    for (int64_t t = 0; t < depth; t++, w += w_row, panel += nv * VL) {
        vec line[NV];
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) line[j] = load(panel + j * VL);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const vec x = splat(w[i]);
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++) sum[i][j] += x * line[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) {
            real *to = d + i * d_row + j * VL;
            if (add) sum[i][j] += load(to);
            store(to, sum[i][j]);
        }
}

typedef void product_kernel(int64_t, int64_t, const real *, int64_t, const real *, real *, int64_t);
typedef void sum_kernel(int64_t, const real *, int64_t, const real *, real *, int64_t, int);

#define PRODUCT(nv)                                                                                           \
    static void product_##nv(int64_t rows, int64_t depth, const real *v, int64_t v_row, const real *panel,    \
                             real *m, int64_t m_row) {                                                        \
        product_of(nv, rows, depth, v, v_row, panel, m, m_row);                                               \
    }
#define SUM(rows, nv)                                                                                         \
    static void sum_##rows##_##nv(int64_t depth, const real *w, int64_t w_row, const real *panel, real *d,    \
                                  int64_t d_row, int add) {                                                   \
        sum_of(rows, nv, depth, w, w_row, panel, d, d_row, add);                                              \
    }
#define PRODUCTS(nv) PRODUCT(nv) SUM(1, nv) SUM(2, nv) SUM(3, nv) SUM(4, nv) SUM(5, nv) SUM(6, nv)
#define SUM_ROW(nv) {sum_1_##nv, sum_2_##nv, sum_3_##nv, sum_4_##nv, sum_5_##nv, sum_6_##nv}
PRODUCTS(1)
PRODUCTS(2)
#if NV == 4
PRODUCTS(3)
PRODUCTS(4)
static product_kernel *const products[NV] = {product_1, product_2, product_3, product_4};
static sum_kernel *const sums[NV][MR] = {SUM_ROW(1), SUM_ROW(2), SUM_ROW(3), SUM_ROW(4)};
#else
static product_kernel *const products[NV] = {product_1, product_2};
static sum_kernel *const sums[NV][MR] = {SUM_ROW(1), SUM_ROW(2)};
#endif

#endif
