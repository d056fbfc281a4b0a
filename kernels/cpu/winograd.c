/* Convolution by Winograd's method: windows of 3x3 and 5x5, stride 1, and its two gradients.
 *
 * The output is cut into tiles (4x4 or 2x2), each with the square of 6x6 inputs it needs; see winograd_points.h.
 *
 *     forward    U  [36][c][k]       of the window, once a call, in panels for the register tile
 *                V  [36][tile][c]    of a strip of tiles: squares of x, zeros where they hang over its edge
 *                M  [36][tile][k]    = V U, a matrix product a point, for BLOCK columns at a time
 *                y                   tiles, cropped, with bias and relu
 *     data       the forward of dy with the window mirrored and its channels exchanged: only w is read another way
 *     weights    V  [36][tile][c]    of a strip of x,  W [36][tile][k]  of the same tiles of dy
 *                D  [36][k][c]       += W^T V
 *                dw                  of D, once a call
 *
 * A strip's values stay in the nearer caches. Strips are dealt to threads; where there are too few of them, channels
 * are dealt too, and each thread makes the values it needs for itself: cheaper than to wait for another.
 *
 * memory     x, y N, H, W, C with any outer strides; w K, R, S, C with any. Only positions decide what is outside, so
 *            pads may be negative
 * scratch    as much as winograd_scratch says, for the same number of threads; 64-byte aligned
 * error      see winograd_points.h and tests/compute/test_winograd.py
 * reference  gridnn/compute/cpu/reference/conv.py
 */
#include "winograd_plan.h"
#include "winograd_points.h"
#include "winograd_products.h"

/* Elements of scratch for any of the three passes of a layer, with the threads there are now. */
EXPORT int64_t FN(winograd_scratch)(const array *given_x, const array *given_w, const array *given_y) {
    const block x = block_of(given_x), w = block_of(given_w), y = block_of(given_y);
    const tiling of_y = tiles_of(&y, w.h), of_x = tiles_of(&x, w.h);
    const plan passes[] = {plan_forward(of_y, w.c, w.n), plan_forward(of_x, w.n, w.c), plan_weights(of_y, w.c, w.n)};
    int64_t elements = 0;
    for (int i = 0; i < 3; i++)
        elements = most(elements, passes[i].zeros + passes[i].shared + passes[i].threads * passes[i].own);
    return elements;
}

/* ---- the values of a window ---- */

/* Elements of two vectors, dealt out one of each in turn. */
#if VB * 8 / REAL_BITS == 2
#define DEAL_LOW 0, 2
#define DEAL_HIGH 1, 3
#elif VB * 8 / REAL_BITS == 4
#define DEAL_LOW 0, 4, 1, 5
#define DEAL_HIGH 2, 6, 3, 7
#elif VB * 8 / REAL_BITS == 8
#define DEAL_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define DEAL_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define DEAL_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define DEAL_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif

/* VL vectors `row` apart, transposed: each round deals one half into the other, log2 VL rounds turn the square. */
INLINE void turn(const real *from, int64_t row, real *to) {
    enum { N = VB / sizeof(real) };
    vec a[N], b[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) a[i] = load(from + i * row);
#pragma GCC unroll 4
    for (int round = 1; round < N; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < N / 2; i++) {
            b[2 * i] = __builtin_shuffle(a[i], a[i + N / 2], (ivec){DEAL_LOW});
            b[2 * i + 1] = __builtin_shuffle(a[i], a[i + N / 2], (ivec){DEAL_HIGH});
        }
        memcpy(a, b, sizeof a);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) store(to + i * N, a[i]);
}

/* U of VL columns k and VL rows c of a window as it is: in w, k are far apart, so squares of VL x VL are turned. */
static void turned_windows(const block *w, int64_t v, int64_t c0, real *u, int64_t point) {
    const int64_t k0 = v * VL, ks = least(VL, w->n - k0), cs = least(VL, w->c - c0), taps = w->h * w->w;
    real turned[MOST_TAPS][VL][VL] __attribute__((aligned(64))), *from[MOST_TAPS];
    for (int64_t tap = 0; tap < taps; tap++) {
        const real *line = w->at + k0 * w->sn + tap / w->w * w->sh + tap % w->w * w->sw + c0;
        if (ks == VL && cs == VL)
            turn(line, w->sn, turned[tap][0]);
        else
            for (int64_t k = 0; k < VL; k++)
                for (int64_t c = 0; c < cs; c++) turned[tap][c][k] = k < ks ? line[k * w->sn + c] : 0;
    }
    for (int64_t c = 0; c < cs; c++) {
        for (int64_t tap = 0; tap < taps; tap++) from[tap] = turned[tap][c];
        (w->h == 3 ? window_3 : window_5)(from, VL, in_panel(u, w->c, c0 + c, vectors(w->n), v), point, 1, 0);
    }
}

/* U of one row k of a window mirrored, channels exchanged: its columns c lie side by side in w. */
static void mirrored_windows(const block *w, int64_t k, real *u, int64_t point) {
    const int64_t taps = w->h * w->w;
    real *from[MOST_TAPS];
    for (int64_t tap = 0; tap < taps; tap++)
        from[taps - 1 - tap] = w->at + k * w->sn + tap / w->w * w->sh + tap % w->w * w->sw;
    (w->h == 3 ? window_3 : window_5)(from, w->c, u, point, w->n, k);
}

/* ---- the passes ---- */

/* y = x * w (+ bias, relu); or, mirrored, x is the gradient of y, and y becomes that of x.
 *
 * lo_h, lo_w     rows and columns of zeros before x; so many are skipped if negative
 */
EXPORT void FN(winograd_forward)(const array *given_x, const array *given_w, const array *given_bias, const array *given_y, int64_t lo_h,
                                 int64_t lo_w, int64_t relu, int64_t mirrored, const array *scratch) {
    const block source = block_of(given_x), window = block_of(given_w), target = block_of(given_y);
    const block *x = &source, *w = &window, *y = &target;
    const real *bias = data_of(given_bias);
    const tiling tiles = tiles_of(y, w->h);
    const int64_t c = x->c, k = y->c;
    const plan p = plan_forward(tiles, c, k);
    real *zeros = scratch->data, *u = zeros + p.zeros;
    memset(zeros, 0, (size_t)p.zeros * sizeof(real));
#pragma omp parallel num_threads((int)p.threads) if (p.threads > 1)
    {
        if (mirrored) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < w->n; i++) mirrored_windows(w, i, u, p.u_point);
        } else {
#pragma omp for schedule(static) collapse(2)
            for (int64_t v = 0; v < vectors(w->n); v++)
                for (int64_t c0 = 0; c0 < w->c; c0 += VL) turned_windows(w, v, c0, u, p.u_point);
        }
        real *sink = u + p.shared + omp_get_thread_num() * p.own; /* takes what hangs over the edge of y */
        real *v = sink + p.zeros, *m = v + POINTS * p.v_point, *at[POINTS];
#pragma omp for schedule(static)
        for (int64_t task = 0; task < p.strips * p.groups; task++) {
            const int64_t first = task / p.groups * p.strip, count = least(p.strip, tiles.count - first);
            const int64_t k0 = task % p.groups * p.group, end = least(k0 + p.group, k);
            for (int64_t t = 0; t < count && k0 < end; t++) {
                square_of(tiles, first + t, x, SIDE, lo_h, lo_w, zeros, at);
                input(at, c, v + t * p.v_row, p.v_point, 1, 0);
            }
            for (int64_t k1 = k0; k1 < end; k1 += BLOCK) {
                block part = *y;
                part.at += k1, part.c = least(BLOCK, end - k1);
                for (int64_t q = 0; q < POINTS; q++)
                    for (int64_t j = 0; j < part.c; j += NR)
                        products[vectors(least(NR, part.c - j)) - 1](count, c, v + q * p.v_point, p.v_row,
                                                                     u + q * p.u_point + (k1 + j) * c,
                                                                     m + q * p.m_point + j, p.m_row);
                for (int64_t t = 0; t < count; t++) {
                    square_of(tiles, first + t, &part, tiles.m, 0, 0, sink, at);
                    (tiles.m == 4 ? output_4 : output_2)(m + t * p.m_row, p.m_point, part.c, at,
                                                         (finish){0, bias ? bias + k1 : NULL, (int)relu});
                }
            }
        }
    }
}

/* D (+)= W^T V of one strip, for the rows of D that are the channels of dy. */
static void add_strip(const plan *p, const block *x, const block *dy, tiling tiles, int64_t lo_h, int64_t lo_w,
                      int64_t first, real *zeros, real *own, real *d, int add) {
    const int64_t count = least(p->strip, tiles.count - first), c = x->c;
    real *v = own, *w = v + POINTS * p->v_point, *at[POINTS];
    for (int64_t t = 0; t < count; t++) {
        square_of(tiles, first + t, x, SIDE, lo_h, lo_w, zeros, at);
        input(at, c, v, p->v_point, count, t);
        square_of(tiles, first + t, dy, tiles.m, 0, 0, zeros, at);
        (tiles.m == 4 ? spread_4 : spread_2)(at, dy->c, w + t * p->m_row, p->m_point, 1, 0);
    }
    for (int64_t q = 0; q < POINTS; q++)
        for (int64_t j = 0; j < c; j += NR)
            for (int64_t i = 0; i < dy->c; i += MR)
                sums[vectors(least(NR, c - j)) - 1][least(MR, dy->c - i) - 1](
                    count, w + q * p->m_point + i, p->m_row, v + q * p->v_point + j * count,
                    d + q * p->u_point + i * p->v_row + j, p->v_row, add);
}

/* dw (+)= the gradient of x * w by w, of which y = x * w has the gradient dy. */
EXPORT void FN(winograd_weights)(const array *given_x, const array *given_dy, const array *given_dw, int64_t lo_h, int64_t lo_w,
                                 int64_t add, const array *scratch) {
    const block source = block_of(given_x), target = block_of(given_dy), window = block_of(given_dw);
    const block *x = &source, *dy = &target, *dw = &window;
    const tiling tiles = tiles_of(dy, dw->h);
    const plan p = plan_weights(tiles, x->c, dy->c);
    const int64_t copies = p.threads / p.groups, copy = POINTS * p.u_point;
    real *zeros = scratch->data, *d = zeros + p.zeros;
    memset(zeros, 0, (size_t)p.zeros * sizeof(real));
    if (tiles.count == 0) memset(d, 0, (size_t)copy * sizeof(real));
#pragma omp parallel num_threads((int)p.threads) if (p.threads > 1)
    {
        real *own = d + p.shared + omp_get_thread_num() * p.own;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < p.threads; task++) {
            const int64_t i = task / p.groups, k0 = task % p.groups * p.group;
            const int64_t from = p.strips * i / copies, until = p.strips * (i + 1) / copies;
            block part = *dy;
            part.at += k0, part.c = least(p.group, dy->c - k0);
            for (int64_t s = from; s < until && part.c > 0; s++)
                add_strip(&p, x, &part, tiles, lo_h, lo_w, s * p.strip, zeros, own, d + i * copy + k0 * p.v_row,
                          s > from);
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < dy->c; k++) {
            real *row = d + k * p.v_row, *to[MOST_TAPS];
            for (int64_t q = 0; q < POINTS; q++, row += p.u_point)
                for (int64_t other = 1; other < copies; other++)
                    for (int64_t j = 0; j < p.v_row; j += VL)
                        store(row + j, load(row + j) + load(row + other * copy + j));
            for (int64_t tap = 0; tap < dw->h * dw->w; tap++)
                to[tap] = dw->at + k * dw->sn + tap / dw->w * dw->sh + tap % dw->w * dw->sw;
            (dw->h == 3 ? shrink_3 : shrink_5)(d + k * p.v_row, p.u_point, x->c, to, (finish){(int)add, NULL, 0});
        }
    }
}
