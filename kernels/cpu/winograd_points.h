/* Winograd's transforms: between small squares of an image and their values at six points a side.
 *
 * An output tile of m x m and a window of r x r, m + r = 7, meet a square of 6 x 6 inputs. Read as polynomials, a
 * convolution is a product, and a product of polynomials is a product of values: six points a side, so 36.
 *
 *     INPUT    6 -> 6   B^T  d B     x to its 36 values         values of y  =  values of x times values of w,
 *     WINDOW   r -> 6   G    w G^T   w to its 36 values         summed over the channels: a matrix product
 *     OUTPUT   6 -> m   A^T  v A     36 values to y             for each of the 36 points
 *
 *     SPREAD   m -> 6   A    d A^T   the adjoint of OUTPUT: dy to its 36 values
 *     SHRINK   6 -> r   G^T  v G     the adjoint of WINDOW: 36 values to dw
 *
 * 36 products do the work of m^2 r^2: 144 for F(4x4, 3x3), 100 for F(2x2, 5x5). INPUT is the same for both.
 *
 * The points are 0, a, -a, b, -b and infinity. Which a and b is a matter of rounding errors alone; the largest error
 * over that of max |y|, in float, over eight layers of known networks:
 *
 *     a      b         forward    data      weights
 *     1      2         1e-5       2e-5      5e-6        the usual choice
 *     1/2    3/2       6e-6       8e-6      3e-6
 *     5/8    3/2       3e-6       5e-6      2e-6
 *     1/r2   r2        2e-6       4e-6      1.2e-6      r2 = sqrt 2: here, and a^2 b^2 = 1 saves work
 *
 * method     Lavin & Gray, Fast algorithms for convolutional neural networks, 2016; a side is Cook and Toom's
 */
#ifndef GRIDNN_WINOGRAD_POINTS_H
#define GRIDNN_WINOGRAD_POINTS_H

#include "micro.h"

enum { SIDE = 6, POINTS = SIDE * SIDE, MOST_TAPS = 25 };

#define POINT_A 0.70710678118654752440
#define POINT_B 1.41421356237309504880
#define A2 0.5
#define B2 2.0

static const real a1 = (real)POINT_A, a2 = (real)A2, a3 = (real)(A2 * POINT_A), a4 = (real)(A2 * A2);
static const real b1 = (real)POINT_B, b2 = (real)B2, b3 = (real)(B2 * POINT_B), b4 = (real)(B2 * B2);
/* m(t) = t (t^2 - a^2) (t^2 - b^2) is zero at the points: its coefficients, and 1 / m'(t) at 0, +-a and +-b. */
static const real m1 = (real)(A2 * B2), m3 = (real)(A2 + B2);
static const real at_0 = (real)(1 / (A2 * B2)), at_a = (real)(1 / (2 * A2 * (A2 - B2)));
static const real at_b = (real)(1 / (2 * B2 * (B2 - A2)));

enum { INPUT, WINDOW, SPREAD, OUTPUT, SHRINK };

/* One side, n elements of it that are not six. Even and odd powers are apart: a point and its negative share them. */
INLINE void side(const int kind, const int n, const vec *d, vec *v) {
    if (kind == INPUT) {
        const vec even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
        const vec even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
        v[0] = m1 * d[0] + (d[4] - m3 * d[2]);
        v[1] = even_a + a1 * odd_a;
        v[2] = even_a - a1 * odd_a;
        v[3] = even_b + b1 * odd_b;
        v[4] = even_b - b1 * odd_b;
        v[5] = m1 * d[1] + (d[5] - m3 * d[3]);
    } else if (kind == WINDOW) {
        vec even_a = d[0] + a2 * d[2], odd_a = a1 * d[1], even_b = d[0] + b2 * d[2], odd_b = b1 * d[1];
        if (n == 5) even_a += a4 * d[4], odd_a += a3 * d[3], even_b += b4 * d[4], odd_b += b3 * d[3];
        v[0] = at_0 * d[0];
        v[1] = at_a * (even_a + odd_a);
        v[2] = at_a * (even_a - odd_a);
        v[3] = at_b * (even_b + odd_b);
        v[4] = at_b * (even_b - odd_b);
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
        v[0] = d[0] + (even_a + even_b);
        v[1] = a1 * odd_a + b1 * odd_b;
        if (n == 4) v[2] = a2 * even_a + b2 * even_b, v[3] = a3 * odd_a + b3 * odd_b;
        v[n - 1] += d[5];
    } else {
        const vec even_a = at_a * (d[1] + d[2]), odd_a = at_a * (d[1] - d[2]);
        const vec even_b = at_b * (d[3] + d[4]), odd_b = at_b * (d[3] - d[4]);
        v[0] = at_0 * d[0] + (even_a + even_b);
        v[1] = a1 * odd_a + b1 * odd_b;
        v[2] = a2 * even_a + b2 * even_b;
        if (n == 5) v[3] = a3 * odd_a + b3 * odd_b, v[4] = a4 * even_a + b4 * even_b;
        v[n - 1] += d[5];
    }
}

/* A square of n x n, one vector of channels, to its values.
 *
 * from     where each element of the square lies; the vector is `at` elements behind it
 * to       the 36 values, `point` elements apart
 */
INLINE void enter(const int kind, const int n, real *const *from, int64_t at, real *to, int64_t point) {
    vec half[SIDE][SIDE];
    for (int j = 0; j < n; j++) {
        vec d[SIDE], v[SIDE];
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) d[i] = load(from[i * n + j] + at);
        side(kind, n, d, v);
#pragma GCC unroll 8
        for (int i = 0; i < SIDE; i++) half[i][j] = v[i];
    }
    for (int i = 0; i < SIDE; i++) {
        vec v[SIDE];
        side(kind, n, half[i], v);
#pragma GCC unroll 8
        for (int j = 0; j < SIDE; j++, to += point) store(to, v[j]);
    }
}

/* 36 values back to a square of n x n, one vector of channels. The loops stay rolled: unrolled they spill. */
INLINE void leave(const int kind, const int n, const real *from, int64_t point, real *const *to, int64_t at, vec bias,
                  int add, int relu) {
    vec half[SIDE][SIDE];
#pragma GCC unroll 1
    for (int j = 0; j < SIDE; j++, from += point) {
        vec d[SIDE], v[SIDE];
#pragma GCC unroll 8
        for (int i = 0; i < SIDE; i++) d[i] = load(from + i * SIDE * point);
        side(kind, n, d, v);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) half[i][j] = v[i];
    }
#pragma GCC unroll 1
    for (int i = 0; i < n; i++, to += n) {
        vec v[SIDE];
        side(kind, n, half[i], v);
#pragma GCC unroll 8
        for (int j = 0; j < n; j++) {
            v[j] += bias;
            if (add) v[j] += load(to[j] + at);
            if (relu) v[j] = larger((vec){0}, v[j]);
            store(to[j] + at, v[j]);
        }
    }
}

/* Vectors that hold so many channels. */
INLINE int64_t vectors(int64_t channels) { return (channels + VL - 1) / VL; }

/* Where vector v of `count` is, on line `at` of panels `depth` lines deep; of depth 1: in a plain row. */
INLINE real *in_panel(real *base, int64_t depth, int64_t at, int64_t count, int64_t v) {
    const int64_t panel = v / NV;
    return base + panel * NR * depth + (at * least(NV, count - panel * NV) + v % NV) * VL;
}

/* A square, all channels, to line `at` of the panels of each point; what fills the last vector is zero. */
INLINE void enter_line(const int kind, const int n, real *const *from, int64_t channels, real *to, int64_t point,
                       int64_t depth, int64_t at) {
    const int64_t whole = channels / VL, rest = channels % VL, count = vectors(channels);
    for (int64_t v = 0; v < whole; v++) enter(kind, n, from, v * VL, in_panel(to, depth, at, count, v), point);
    if (rest) {
        real last[POINTS][VL], *patch[POINTS];
        for (int i = 0; i < n * n; i++) {
            for (int64_t c = 0; c < VL; c++) last[i][c] = c < rest ? from[i][whole * VL + c] : 0;
            patch[i] = last[i];
        }
        enter(kind, n, patch, 0, in_panel(to, depth, at, count, whole), point);
    }
}

/* Values to a square, all channels, finished as `f` says. */
INLINE void leave_line(const int kind, const int n, const real *from, int64_t point, int64_t channels, real *const *to,
                       finish f) {
    const int64_t whole = channels / VL * VL, rest = channels - whole;
    for (int64_t c = 0; c < whole; c += VL)
        leave(kind, n, from + c, point, to, c, f.bias ? load(f.bias + c) : (vec){0}, f.add, f.relu);
    if (rest) {
        real last[POINTS][VL], *patch[POINTS], bias[VL];
        for (int64_t c = 0; c < VL; c++) bias[c] = f.bias && c < rest ? f.bias[whole + c] : 0;
        for (int i = 0; i < n * n; i++) {
            for (int64_t c = 0; c < VL; c++) last[i][c] = f.add && c < rest ? to[i][whole + c] : 0;
            patch[i] = last[i];
        }
        leave(kind, n, from + whole, point, patch, 0, load(bias), f.add, f.relu);
        for (int i = 0; i < n * n; i++)
            for (int64_t c = 0; c < rest; c++) to[i][whole + c] = last[i][c];
    }
}

#define ENTER(name, kind, n)                                                                                    \
    static void name(real *const *from, int64_t channels, real *to, int64_t point, int64_t depth, int64_t at) { \
        enter_line(kind, n, from, channels, to, point, depth, at);                                              \
    }
#define LEAVE(name, kind, n)                                                                                   \
    static void name(const real *from, int64_t point, int64_t channels, real *const *to, finish f) {           \
        leave_line(kind, n, from, point, channels, to, f);                                                     \
    }
ENTER(input, INPUT, 6)
ENTER(window_3, WINDOW, 3)
ENTER(window_5, WINDOW, 5)
ENTER(spread_4, SPREAD, 4)
ENTER(spread_2, SPREAD, 2)
LEAVE(output_4, OUTPUT, 4)
LEAVE(output_2, OUTPUT, 2)
LEAVE(shrink_3, SHRINK, 3)
LEAVE(shrink_5, SHRINK, 5)

#endif
