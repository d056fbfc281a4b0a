/* Convolution by Winograd's method: 3x3 and 5x5 windows, stride 1, and its two gradients.
 *
 * The output is cut into tiles (4x4 or 2x2), each with the 6x6 square of inputs it needs; see winograd_points.h.
 *
 *     forward    window values    U  [36][c][k]       once a call, packed in panels for the register tile
 *                a strip of tiles V  [36][tile][c]    squares of x, zeros where they hang over its edge
 *                                 M  [36][tile][k]    = V U, a matrix product a point
 *                                 y                   tiles, cropped, with bias and relu
 *     data       the forward of dy with the window mirrored and its channels exchanged: only U is read another way
 *     weights    a strip of tiles V  [36][tile][c],  W  [36][tile][k]   of x and of dy
 *                                 D  [36][k][c]      += W^T V
 *                                 dw                  when all strips are summed
 *
 * A strip's values stay in the nearer caches. Strips are dealt to threads; where there are too few of them,
 * channels of the output are dealt too, and each thread transforms the inputs it needs for itself.
 *
 * memory     x, y N, H, W, C with any outer strides, pads of either sign (only positions decide what is outside); w K, R, S, C
 * scratch    as winograd_scratch says, for the same number of threads
 * error      see gridnn/compute/cpu/native/winograd.py
 * reference  gridnn/compute/cpu/reference/conv.py
 */
#include "micro.h"
#include "winograd_points.h"

#ifndef STRIP_BYTES
#define STRIP_BYTES (768 << 10)
#endif
#ifndef SUM_BYTES
#define SUM_BYTES (2 << 20)
#endif
enum { LEAST_STRIP = 4 * MR, MOST_STRIP = 32 * MR };

INLINE int64_t up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }
INLINE int64_t vectors(int64_t channels) { return (channels + VL - 1) / VL; }

/* An odd number of cache lines: what is written at 36 points, or read along a column, then meets different sets. */
INLINE int64_t odd_lines(int64_t elements) {
    const int64_t line = 64 / sizeof(real);
    return ((elements + line - 1) / line | 1) * line;
}

/* Where vector v of a line of so many is, line `at` of panels `depth` lines deep; of depth 1: of a plain row. */
INLINE real *in_panel(real *base, int64_t depth, int64_t at, int64_t count, int64_t v) {
    const int64_t panel = v / NV;
    return base + panel * NR * depth + (at * least(NV, count - panel * NV) + v % NV) * VL;
}

/* ---- squares of an image ---- */

typedef struct {
    int64_t m, high, wide, count; /* side of a tile of the output; tiles a sample, and in all */
} tiling;

INLINE tiling tiles_of(const block *y, int64_t r) {
    const int64_t m = SIDE + 1 - r, high = (y->h + m - 1) / m, wide = (y->w + m - 1) / m;
    return (tiling){m, high, wide, y->n * high * wide};
}

/* Where the elements of a square are, for tile t: `size` a side, `lo` before the tile's first output. */
INLINE void square_of(tiling tiles, int64_t t, const block *x, int64_t size, int64_t lo_h, int64_t lo_w, real *outside,
                      real **at) {
    const int64_t j = t % tiles.wide, i = t / tiles.wide % tiles.high, n = t / tiles.wide / tiles.high;
    const int64_t h0 = i * tiles.m - lo_h, w0 = j * tiles.m - lo_w;
    for (int64_t h = h0; h < h0 + size; h++) {
        real *row = x->at + n * x->sn + h * x->sh;
        const int real_row = h >= 0 && h < x->h;
        for (int64_t w = w0; w < w0 + size; w++) *at++ = real_row && w >= 0 && w < x->w ? row + w * x->sw : outside;
    }
}

/* ---- one square, all its channels ---- */

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

INLINE void leave_line(const int kind, const int n, const real *from, int64_t point, int64_t channels, real *const *to,
                       finish f) {
    for (int64_t c = 0; c < channels; c += VL) {
        const int64_t count = least(VL, channels - c);
        vec v[SIDE * SIDE];
        leave(kind, n, from + c, point, v);
        if (count == VL) {
            const vec bias = f.bias ? load(f.bias + c) : (vec){0};
#pragma GCC unroll 32
            for (int i = 0; i < n * n; i++) {
                v[i] += bias;
                if (f.add) v[i] += load(to[i] + c);
                if (f.relu) v[i] = larger(v[i], (vec){0});
                store(to[i] + c, v[i]);
            }
        } else {
            for (int i = 0; i < n * n; i++)
                for (int64_t j = 0; j < count; j++) {
                    real x = v[i][j] + (f.bias ? f.bias[c + j] : 0);
                    if (f.add) x += to[i][c + j];
                    to[i][c + j] = f.relu && !(x > 0) ? 0 : x;
                }
        }
    }
}

#define ENTER(name, kind, n)                                                                                    \
    static void name(real *const *from, int64_t channels, real *to, int64_t point, int64_t depth, int64_t at) { \
        enter_line(kind, n, from, channels, to, point, depth, at);                                              \
    }
#define LEAVE(name, kind, n)                                                                                     \
    static void name(const real *from, int64_t point, int64_t channels, real *const *to, finish f) {             \
        leave_line(kind, n, from, point, channels, to, f);                                                       \
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

/* ---- products ---- */

/* M = V U for one point and one panel: rows of tiles. */
INLINE void product_of(const int nv, int64_t rows, int64_t depth, const real *v, int64_t v_row, const real *panel, real *m,
                       int64_t m_row) {
    const finish none = {0, NULL, 0};
    const real *from[MR];
    real *to[MR];
    for (int64_t i = 0; i < rows; i += MR) {
        const int now = (int)least(MR, rows - i);
        for (int j = 0; j < now; j++) from[j] = v + (i + j) * v_row, to[j] = m + (i + j) * m_row;
        if (now == MR)
            tile_of(MR, nv, from, 1, depth, panel, to, nv * VL, none);
        else
            tile(now, nv * VL, from, 1, depth, panel, to, none);
    }
}

#define PRODUCT(nv)                                                                                              \
    static void product_##nv(int64_t rows, int64_t depth, const real *v, int64_t v_row, const real *panel, real *m, \
                             int64_t m_row) {                                                                    \
        product_of(nv, rows, depth, v, v_row, panel, m, m_row);                                                  \
    }
typedef void product_kernel(int64_t, int64_t, const real *, int64_t, const real *, real *, int64_t);
PRODUCT(1)
PRODUCT(2)
#if NV == 4
PRODUCT(3)
PRODUCT(4)
static product_kernel *const products[] = {product_1, product_2, product_3, product_4};
#else
static product_kernel *const products[] = {product_1, product_2};
#endif

/* D (+)= W^T V for a few rows and one panel: the register tile of micro.h, its rows read down columns of W. */
INLINE void sum_of(const int rows, const int nv, int64_t depth, const real *w, int64_t w_row, const real *panel, real *d,
                   int64_t d_row, int add) {
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

typedef void sum_kernel(int64_t, const real *, int64_t, const real *, real *, int64_t, int);
#define SUM(rows, nv)                                                                                              \
    static void sum_##rows##_##nv(int64_t depth, const real *w, int64_t w_row, const real *panel, real *d, int64_t d_row, \
                                  int add) {                                                                       \
        sum_of(rows, nv, depth, w, w_row, panel, d, d_row, add);                                                   \
    }
#define SUMS(nv) SUM(1, nv) SUM(2, nv) SUM(3, nv) SUM(4, nv) SUM(5, nv) SUM(6, nv)
#define SUM_ROW(nv) {sum_1_##nv, sum_2_##nv, sum_3_##nv, sum_4_##nv, sum_5_##nv, sum_6_##nv}
SUMS(1)
SUMS(2)
#if NV == 4
SUMS(3)
SUMS(4)
static sum_kernel *const sum_kernels[NV][MR] = {SUM_ROW(1), SUM_ROW(2), SUM_ROW(3), SUM_ROW(4)};
#else
static sum_kernel *const sum_kernels[NV][MR] = {SUM_ROW(1), SUM_ROW(2)};
#endif

/* ---- plans: how a call is cut, and what it needs ---- */

typedef struct {
    int64_t threads, strip, strips; /* tiles of a strip */
    int64_t groups, group;          /* columns of the product (forward) or rows (weights) a thread has at once */
    int64_t u_point, v_row, v_point, m_row, m_point;
    int64_t zeros, shared, own, total; /* elements of the parts of the scratch */
} plan;

INLINE int64_t even_share(int64_t count, int64_t most_at_once, int64_t unit) {
    const int64_t parts = most(1, (count + most_at_once - 1) / most_at_once);
    return most(unit, up((count + parts - 1) / parts, unit));
}

static plan plan_forward(tiling tiles, int64_t c, int64_t k) {
    plan p;
    p.threads = WORTH(tiles.count * POINTS * (c + k)) ? omp_get_max_threads() : 1;
    const int64_t fit = STRIP_BYTES / (POINTS * (packed(c) + packed(k)) * (int64_t)sizeof(real)) / MR * MR;
    const int64_t at_most = least(MOST_STRIP, most(LEAST_STRIP, fit));
    const int64_t lots = most(1, least(p.threads, tiles.count / LEAST_STRIP));
    p.strip = even_share((tiles.count + lots - 1) / lots, at_most, MR);
    p.strips = (tiles.count + p.strip - 1) / p.strip;
    p.groups = most(1, least(p.threads / lots, (k + NR - 1) / NR));
    p.group = up((k + p.groups - 1) / p.groups, NR);
    p.u_point = odd_lines(packed(k) * c);
    p.v_row = packed(c);
    p.v_point = odd_lines(p.strip * p.v_row);
    p.m_row = packed(least(k, p.group));
    p.m_point = odd_lines(p.strip * p.m_row);
    p.zeros = up(packed(most(c, k)), 16);
    p.shared = POINTS * p.u_point;
    p.own = p.zeros + POINTS * (p.v_point + p.m_point);
    p.total = 16 + p.zeros + p.shared + p.threads * p.own;
    return p;
}

static plan plan_weights(tiling tiles, int64_t c, int64_t k) {
    plan p;
    const int64_t threads = WORTH(tiles.count * POINTS * (c + k)) ? omp_get_max_threads() : 1;
    p.groups = most(1, least(threads, k / 64));
    while (threads % p.groups) p.groups--;
    p.group = up((k + p.groups - 1) / p.groups, MR);
    const int64_t row = packed(c) + packed(p.group), copies = threads / p.groups;
    const int64_t at_most = least(MOST_STRIP, most(LEAST_STRIP, SUM_BYTES / (POINTS * row * (int64_t)sizeof(real))));
    p.strip = even_share((tiles.count + copies - 1) / copies, at_most, 1);
    p.strips = (tiles.count + p.strip - 1) / p.strip;
    p.threads = p.groups * most(1, least(copies, p.strips));
    p.v_row = packed(c);
    p.v_point = odd_lines(p.strip * p.v_row);
    p.m_row = odd_lines(p.group);
    p.m_point = odd_lines(p.strip * p.m_row);
    p.u_point = odd_lines(k * p.v_row);
    p.zeros = up(packed(most(c, k)), 16);
    p.shared = POINTS * p.u_point * (p.threads / p.groups);
    p.own = POINTS * (p.v_point + p.m_point);
    p.total = 16 + p.zeros + p.shared + p.threads * p.own;
    return p;
}

/* Elements of scratch that any of the three passes of a layer may need. */
EXPORT void FN(winograd_scratch)(const block *x, const block *w, const block *y, int64_t *elements) {
    const tiling of_y = tiles_of(y, w->h), of_x = tiles_of(x, w->h);
    const int64_t forward = plan_forward(of_y, w->c, w->n).total, data = plan_forward(of_x, w->n, w->c).total;
    *elements = most(plan_weights(of_y, w->c, w->n).total, most(forward, data));
}

static real *aligned(real *scratch) { return (real *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63); }

/* ---- forward and data ---- */

/* U of a window as it is: k lies side by side in the panels but far apart in w, so squares of VL x VL are turned. */
static void turned_windows(const block *w, int64_t v, int64_t c0, real *u, int64_t point) {
    const int64_t k0 = v * VL, ks = least(VL, w->n - k0), cs = least(VL, w->c - c0);
    real turned[25][VL][VL] __attribute__((aligned(64)));
    real *from[25];
    for (int64_t tap = 0; tap < w->h * w->w; tap++)
        for (int64_t k = 0; k < VL; k++) {
            const real *line = w->at + (k0 + k) * w->sn + tap / w->w * w->sh + tap % w->w * w->sw + c0;
            for (int64_t c = 0; c < cs; c++) turned[tap][c][k] = k < ks ? line[c] : 0;
        }
    for (int64_t c = 0; c < cs; c++) {
        for (int64_t tap = 0; tap < w->h * w->w; tap++) from[tap] = turned[tap][c];
        (w->h == 3 ? window_3 : window_5)(from, VL, in_panel(u, w->c, c0 + c, vectors(w->n), v), point, 1, 0);
    }
}

/* U of a mirrored window, channels exchanged: w holds it as the panels want it. */
static void mirrored_windows(const block *w, int64_t k, real *u, int64_t point) {
    real *from[25];
    const int64_t taps = w->h * w->w;
    for (int64_t tap = 0; tap < taps; tap++)
        from[taps - 1 - tap] = w->at + k * w->sn + tap / w->w * w->sh + tap % w->w * w->sw;
    (w->h == 3 ? window_3 : window_5)(from, w->c, u, point, w->n, k);
}

/* y = x * w (+ bias, relu), or, mirrored, x the gradient of y and y that of x.
 *
 * lo_h, lo_w     rows and columns of zeros before x; negative ones are skipped
 */
EXPORT void FN(winograd_forward)(const block *x, const block *w, const real *bias, const block *y, int64_t lo_h, int64_t lo_w,
                                 int64_t relu, int64_t mirrored, real *scratch) {
    const tiling tiles = tiles_of(y, w->h);
    const int64_t c = x->c, k = y->c;
    const plan p = plan_forward(tiles, c, k);
    real *zeros = aligned(scratch), *u = zeros + p.zeros;
    memset(zeros, 0, (size_t)p.zeros * sizeof(real));
#pragma omp parallel num_threads((int)p.threads) if (p.threads > 1)
    {
        if (mirrored) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < w->n; i++) mirrored_windows(w, i, u, p.u_point);
        } else {
#pragma omp for schedule(static) collapse(2)
            for (int64_t i = 0; i < vectors(w->n); i++)
                for (int64_t c0 = 0; c0 < w->c; c0 += VL) turned_windows(w, i, c0, u, p.u_point);
        }
        real *sink = u + p.shared + omp_get_thread_num() * p.own, *v = sink + p.zeros, *m = v + POINTS * p.v_point;
        real *at[POINTS];
#pragma omp for schedule(static)
        for (int64_t task = 0; task < p.strips * p.groups; task++) {
            const int64_t first = task / p.groups * p.strip, k0 = task % p.groups * p.group;
            const int64_t count = least(p.strip, tiles.count - first), columns = least(p.group, k - k0);
            if (columns <= 0) continue;
            for (int64_t t = 0; t < count; t++) {
                square_of(tiles, first + t, x, SIDE, lo_h, lo_w, zeros, at);
                input(at, c, v + t * p.v_row, p.v_point, 1, 0);
            }
            for (int64_t q = 0; q < POINTS; q++)
                for (int64_t j = 0; j < columns; j += NR)
                    products[vectors(least(NR, columns - j)) - 1](count, c, v + q * p.v_point, p.v_row,
                                                                  u + q * p.u_point + (k0 + j) * c, m + q * p.m_point + j,
                                                                  p.m_row);
            block part = *y;
            part.at += k0;
            for (int64_t t = 0; t < count; t++) {
                square_of(tiles, first + t, &part, tiles.m, 0, 0, sink, at);
                (tiles.m == 4 ? output_4 : output_2)(m + t * p.m_row, p.m_point, columns, at,
                                                     (finish){0, bias ? bias + k0 : NULL, (int)relu});
            }
        }
    }
}

/* ---- weights ---- */

/* One strip into D: rows [k0, k0 + rows) of it. */
static void add_strip(const plan *p, const block *x, const block *dy, tiling tiles, int64_t lo_h, int64_t lo_w, int64_t first,
                      real *zeros, real *v, real *w, real *d, int add) {
    const int64_t count = least(p->strip, tiles.count - first), c = x->c;
    real *at[POINTS];
    for (int64_t t = 0; t < count; t++) {
        square_of(tiles, first + t, x, SIDE, lo_h, lo_w, zeros, at);
        input(at, c, v, p->v_point, count, t);
        square_of(tiles, first + t, dy, tiles.m, 0, 0, zeros, at);
        (tiles.m == 4 ? spread_4 : spread_2)(at, dy->c, w + t * p->m_row, p->m_point, 1, 0);
    }
    for (int64_t q = 0; q < POINTS; q++)
        for (int64_t j = 0; j < c; j += NR) {
            sum_kernel *const *kernels = sum_kernels[vectors(least(NR, c - j)) - 1];
            for (int64_t i = 0; i < dy->c; i += MR)
                kernels[least(MR, dy->c - i) - 1](count, w + q * p->m_point + i, p->m_row, v + q * p->v_point + j * count,
                                                  d + q * p->u_point + i * p->v_row + j, p->v_row, add);
        }
}

/* dw (+)= the gradient of x * w by w. */
EXPORT void FN(winograd_weights)(const block *x, const block *dy, const block *dw, int64_t lo_h, int64_t lo_w, int64_t add,
                                 real *scratch) {
    const tiling tiles = tiles_of(dy, dw->h);
    const int64_t c = x->c, k = dy->c;
    const plan p = plan_weights(tiles, c, k);
    const int64_t copies = p.threads / p.groups, copy = POINTS * p.u_point;
    real *zeros = aligned(scratch), *sums = zeros + p.zeros;
    memset(zeros, 0, (size_t)p.zeros * sizeof(real));
    if (!tiles.count) memset(sums, 0, (size_t)copy * sizeof(real));
#pragma omp parallel num_threads((int)p.threads) if (p.threads > 1)
    {
        real *v = sums + p.shared + omp_get_thread_num() * p.own, *w = v + POINTS * p.v_point;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < p.threads; task++) {
            const int64_t mine = task / p.groups, k0 = task % p.groups * p.group;
            const int64_t from = p.strips * mine / copies, until = p.strips * (mine + 1) / copies;
            block part = *dy;
            part.at += k0, part.c = least(p.group, k - k0);
            if (part.c <= 0) continue;
            for (int64_t s = from; s < until; s++)
                add_strip(&p, x, &part, tiles, lo_h, lo_w, s * p.strip, zeros, v, w, sums + mine * copy + k0 * p.v_row, s > from);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < k; i++) {
            for (int64_t q = 0; q < POINTS; q++)
                for (int64_t other = 1; other < copies; other++) {
                    real *to = sums + q * p.u_point + i * p.v_row;
                    for (int64_t j = 0; j < p.v_row; j += VL)
                        store(to + j, load(to + j) + load(to + other * copy + j));
                }
            real *to[25];
            for (int64_t tap = 0; tap < dw->h * dw->w; tap++)
                to[tap] = dw->at + i * dw->sn + tap / dw->w * dw->sh + tap % dw->w * dw->sw;
            (dw->h == 3 ? shrink_3 : shrink_5)(sums + i * p.v_row, p.u_point, c, to, (finish){(int)add, NULL, 0});
        }
    }
}
