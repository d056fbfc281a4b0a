/* Winograd's transforms: between small squares of an image and their values at six points a side.
 *
 * An output tile of m x m and a window of r x r, m + r = 7, meet a square of 6 x 6 inputs. All are polynomials, and
 * a product of polynomials is a product of values: at the points 0, a, -a, b, -b and infinity of each side.
 *
 *     INPUT    6 -> 6   B^T  d B     x to its 36 values         values of y  =  values of x times values of w,
 *     WINDOW   r -> 6   G    w G^T   w to its 36 values         a product of matrices over the channels
 *     OUTPUT   6 -> m   A^T  v A     36 values to y             for each of the 36 points
 *
 *     SPREAD   m -> 6   A    d A^T   the adjoint of OUTPUT: dy to its 36 values
 *     SHRINK   6 -> r   G^T  v G     the adjoint of WINDOW: 36 values to dw
 *
 * 36 products make m^2 r^2: 144 for F(4x4, 3x3), 100 for F(2x2, 5x5). INPUT is the same for both.
 * The points are chosen for small rounding errors: see the table in gridnn/compute/cpu/native/winograd.py.
 *
 * method     Lavin & Gray 2016; each side is Cook and Toom's, with m(t) = t (t^2 - a^2) (t^2 - b^2)
 */
#ifndef GRIDNN_WINOGRAD_POINTS_H
#define GRIDNN_WINOGRAD_POINTS_H

#include "common.h"

enum { SIDE = 6, POINTS = SIDE * SIDE };

#ifndef POINT_A
#define POINT_A 1.0
#define POINT_B 2.0
#endif
#define NUMBER(name, value) static const real name = (real)(value)
NUMBER(a1, POINT_A);
NUMBER(a2, POINT_A *POINT_A);
NUMBER(a3, POINT_A *POINT_A *POINT_A);
NUMBER(a4, POINT_A *POINT_A *POINT_A *POINT_A);
NUMBER(b1, POINT_B);
NUMBER(b2, POINT_B *POINT_B);
NUMBER(b3, POINT_B *POINT_B *POINT_B);
NUMBER(b4, POINT_B *POINT_B *POINT_B *POINT_B);
NUMBER(ab, POINT_A *POINT_A + POINT_B * POINT_B);
NUMBER(aabb, POINT_A *POINT_A *POINT_B *POINT_B);
/* 1 / m'(t) at 0, at +-a and at +-b */
NUMBER(n0, 1 / (POINT_A * POINT_A * POINT_B * POINT_B));
NUMBER(na, 1 / (2 * POINT_A * POINT_A * (POINT_A * POINT_A - POINT_B * POINT_B)));
NUMBER(nb, 1 / (2 * POINT_B * POINT_B * (POINT_B * POINT_B - POINT_A * POINT_A)));

enum { INPUT, WINDOW, SPREAD, OUTPUT, SHRINK };

/* One side. Even and odd powers are apart, so that a point and its negative share their work. */
INLINE void side(const int kind, const int n, const vec *d, vec *v) {
    if (kind == INPUT) {
        const vec even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
        const vec even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
        v[0] = aabb * d[0] + (d[4] - ab * d[2]);
        v[1] = even_a + a1 * odd_a;
        v[2] = even_a - a1 * odd_a;
        v[3] = even_b + b1 * odd_b;
        v[4] = even_b - b1 * odd_b;
        v[5] = aabb * d[1] + (d[5] - ab * d[3]);
    } else if (kind == WINDOW) {
        vec even_a = d[0] + a2 * d[2], odd_a = a1 * d[1], even_b = d[0] + b2 * d[2], odd_b = b1 * d[1];
        if (n == 5) even_a += a4 * d[4], odd_a += a3 * d[3], even_b += b4 * d[4], odd_b += b3 * d[3];
        v[0] = n0 * d[0];
        v[1] = na * (even_a + odd_a);
        v[2] = na * (even_a - odd_a);
        v[3] = nb * (even_b + odd_b);
        v[4] = nb * (even_b - odd_b);
        v[5] = d[n - 1];
    } else if (kind == SPREAD) {
        vec even_a = d[0], odd_a = a1 * d[1], even_b = d[0], odd_b = b1 * d[1];
        if (n == 4) even_a += a2 * d[2], odd_a += a3 * d[3], even_b += b2 * d[2], odd_b += b3 * d[3];
        v[0] = d[0];
        v[1] = even_a + odd_a;
        v[2] = even_a - odd_a;
        v[3] = even_b + odd_b;
        v[4] = even_b - odd_b;
        v[5] = d[n - 1];
    } else if (kind == OUTPUT) {
        const vec even_a = d[1] + d[2], odd_a = d[1] - d[2], even_b = d[3] + d[4], odd_b = d[3] - d[4];
        v[0] = d[0] + even_a + even_b;
        v[1] = a1 * odd_a + b1 * odd_b;
        if (n == 4) v[2] = a2 * even_a + b2 * even_b, v[3] = a3 * odd_a + b3 * odd_b;
        v[n - 1] += d[5];
    } else {
        const vec even_a = na * (d[1] + d[2]), odd_a = na * (d[1] - d[2]);
        const vec even_b = nb * (d[3] + d[4]), odd_b = nb * (d[3] - d[4]);
        v[0] = n0 * d[0] + (even_a + even_b);
        v[1] = a1 * odd_a + b1 * odd_b;
        v[2] = a2 * even_a + b2 * even_b;
        if (n == 5) v[3] = a3 * odd_a + b3 * odd_b, v[4] = a4 * even_a + b4 * even_b;
        v[n - 1] += d[5];
    }
}

/* An n x n square, one vector of channels of it, to its 36 values.
 *
 * from     where each element of the square lies; a vector is read `at` elements behind it
 * to       the values, `point` elements apart
 */
INLINE void enter(const int kind, const int n, real *const *from, int64_t at, real *to, int64_t point) {
    vec half[SIDE][SIDE];
#pragma GCC unroll 8
    for (int j = 0; j < n; j++) {
        vec d[SIDE], v[SIDE];
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) d[i] = load(from[i * n + j] + at);
        side(kind, n, d, v);
#pragma GCC unroll 8
        for (int i = 0; i < SIDE; i++) half[i][j] = v[i];
    }
#pragma GCC unroll 8
    for (int i = 0; i < SIDE; i++) {
        vec v[SIDE];
        side(kind, n, half[i], v);
#pragma GCC unroll 8
        for (int j = 0; j < SIDE; j++, to += point) store(to, v[j]);
    }
}

/* 36 values back to an n x n square, one vector of channels. */
INLINE void leave(const int kind, const int n, const real *from, int64_t point, vec *to) {
    vec half[SIDE][SIDE];
#pragma GCC unroll 8
    for (int j = 0; j < SIDE; j++) {
        vec d[SIDE], v[SIDE];
#pragma GCC unroll 8
        for (int i = 0; i < SIDE; i++) d[i] = load(from + (i * SIDE + j) * point);
        side(kind, n, d, v);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) half[i][j] = v[i];
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) side(kind, n, half[i], to + i * n);
}

#endif
