/* Gradient of a convolution by its weights, from the arrays where they lie.
 *
 *     dw[k][t][c] (+)= sum over positions o of  dy[o][k] x[stride o + dilation t - pad][c]
 *
 * A tile of dw, some k by some c of one tap, stays in registers while positions pass: k broadcast, c in vectors.
 *
 *     for a strip of output positions        its dy, packed a few k wide, stays in the caches
 *       for a tap, a panel of c              its x, packed one line a position, zeros outside
 *         for a few k                        a product over the strip
 *
 * memory     x, dy N, D, H, W, C with any outer strides; dw K, T, R, S, C / G without gaps
 * threads    strips are dealt out, each thread sums into its own dw, added in the order of the threads; a large dw is shared out
 *            by panels instead, and then has the same bits for any number of threads
 * reference  gridnn/compute/cpu/reference/conv.py
 */
#include "micro.h"

#define STRIP (VB == 64 ? 128 : 256) /* positions of a strip: its panel of x fits the first cache beside dy's few k */

/* One dim: output extent, input extent, and how a tap t moves: x = stride o + dilation t - pad. */
typedef struct {
    int64_t out, in, kernel, stride, dilation, pad;
} axis;

INLINE void sum_tile(const int rows, const int nv, const real *x, const real *dy, int64_t count, real *to, int64_t row,
                     int64_t columns, int add) {
    vec sum[MR][NV];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) sum[i][j] = (vec){0};
    for (int64_t q = 0; q < count; q++, x += nv * VL, dy += rows) {
        vec line[NV];
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) line[j] = load(x + j * VL);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const vec g = splat(dy[i]);
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++) sum[i][j] += g * line[j];
        }
    }
    const int whole = columns == nv * VL;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++, to += row) {
        if (whole) {
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++) {
                if (add) sum[i][j] += load(to + j * VL);
                store(to + j * VL, sum[i][j]);
            }
        } else {
            real part[NR];
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++) store(part + j * VL, sum[i][j]);
            for (int64_t j = 0; j < columns; j++) to[j] = add ? to[j] + part[j] : part[j];
        }
    }
}

typedef void sum_kernel(const real *, const real *, int64_t, real *, int64_t, int64_t, int);

#define SUM(rows, nv)                                                                                               \
    static void sum_##rows##_##nv(const real *x, const real *dy, int64_t count, real *to, int64_t row, int64_t columns, \
                                  int add) {                                                                        \
        sum_tile(rows, nv, x, dy, count, to, row, columns, add);                                                    \
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

/* What the loops below share; lines are all output rows, positions all outputs. */
typedef struct {
    const block *x, *dy;
    axis d, h, w;
    int64_t taps, panels, positions;
    real *dw;
    int64_t row;
} task;

/* Where a position lies. */
typedef struct {
    int64_t n, d, h, w;
} place;

INLINE place place_of(const task *k, int64_t p) {
    const int64_t w = p % k->w.out, h = p / k->w.out % k->h.out, d = p / k->w.out / k->h.out % k->d.out;
    return (place){p / k->w.out / k->h.out / k->d.out, d, h, w};
}

INLINE void next_row(const task *k, place *at) {
    at->w = 0;
    if (++at->h == k->h.out) {
        at->h = 0;
        if (++at->d == k->d.out) at->d = 0, at->n++;
    }
}

/* Pack dy of positions [begin, end): MR channels side by side, position by position, then the next MR. */
static void pack_dy(const task *k, int64_t begin, int64_t end, real *to) {
    const block *dy = k->dy;
    place at = place_of(k, begin);
    for (int64_t p = begin; p < end; at.w++) {
        if (at.w == k->w.out) next_row(k, &at);
        const real *from = dy->at + at.n * dy->sn + at.d * dy->sd + at.h * dy->sh + at.w * dy->sw;
        int64_t c = 0;
        real *line = to + (p - begin) * MR;
        for (; c + MR <= dy->c; c += MR, line += (end - begin) * MR)
            for (int i = 0; i < MR; i++) line[i] = from[c + i];
        const int64_t left = dy->c - c;
        line = to + (end - begin) * c + (p - begin) * left;
        for (int64_t i = 0; i < left; i++) line[i] = from[c + i];
        p++;
    }
}

/* Pack x of one tap and one panel for positions [begin, end), zeros where the tap lies outside. */
static void pack_x(const task *k, int64_t tap, int64_t c0, int64_t begin, int64_t end, real *to) {
    const block *x = k->x;
    const int64_t s = tap % k->w.kernel, r = tap / k->w.kernel % k->h.kernel, t = tap / k->w.kernel / k->h.kernel;
    const int64_t columns = least(NR, x->c - c0), vectors = (columns + VL - 1) / VL;
    place at = place_of(k, begin);
    for (int64_t p = begin; p < end;) {
        const int64_t many = least(k->w.out - at.w, end - p);
        const int64_t xd = at.d * k->d.stride + t * k->d.dilation - k->d.pad, xh = at.h * k->h.stride + r * k->h.dilation - k->h.pad;
        const int out = (uint64_t)xd >= (uint64_t)x->d || (uint64_t)xh >= (uint64_t)x->h;
        const real *row = x->at + at.n * x->sn + xd * x->sd + xh * x->sh + c0;
        int64_t xw = at.w * k->w.stride + s * k->w.dilation - k->w.pad;
        for (int64_t q = 0; q < many; q++, xw += k->w.stride, to += vectors * VL) {
            const real *from = row + xw * x->sw;
            if (out || (uint64_t)xw >= (uint64_t)x->w)
                for (int64_t j = 0; j < vectors; j++) store(to + j * VL, (vec){0});
            else if (columns == NR)
#pragma GCC unroll 4
                for (int64_t j = 0; j < NV; j++) store(to + j * VL, load(from + j * VL));
            else
                for (int64_t j = 0; j < vectors * VL; j++) to[j] = j < columns ? from[j] : 0;
        }
        p += many;
        next_row(k, &at);
    }
}

/* Add the share of positions [begin, end) of one tap and one panel to dw, or begin dw with it. */
static void panel_of(const task *k, int64_t unit, int64_t begin, int64_t end, const real *dy, int add) {
    const int64_t tap = unit / k->panels, c0 = unit % k->panels * NR, columns = least(NR, k->x->c - c0);
    real x[STRIP * NR] __attribute__((aligned(64)));
    pack_x(k, tap, c0, begin, end, x);
    real *to = k->dw + tap * k->x->c + c0;
    for (int64_t i = 0; i < k->dy->c; i += MR) {
        const int64_t rows = least(MR, k->dy->c - i);
        sum_kernels[(columns + VL - 1) / VL - 1][rows - 1](x, dy + i * (end - begin), end - begin, to + i * k->row, k->row, columns, add);
    }
}

/* The groups from `first` to `last`, by one thread: dw rows are a group's after the other's.
 *
 * Strips outermost, so that the x and dy of all these groups come from a cache.
 */
static void groups_of(const task *all, int64_t groups, int64_t first, int64_t last, int add, real *scratch) {
    const int64_t c = all->x->c / groups, outs = all->dy->c / groups;
    for (int64_t begin = 0; begin < all->positions; begin += STRIP)
        for (int64_t g = first; g < last; g++) {
            block x = *all->x, dy = *all->dy;
            x.at += g * c, x.c = c, dy.at += g * outs, dy.c = outs;
            task own = *all;
            own.x = &x, own.dy = &dy, own.dw = all->dw + g * outs * all->row;
            const int64_t end = least(begin + STRIP, all->positions);
            pack_dy(&own, begin, end, scratch);
            for (int64_t u = 0; u < own.taps * own.panels; u++) panel_of(&own, u, begin, end, scratch, add || begin > 0);
        }
}

/* All groups, one at least for each thread; the same bits for any number of threads. */
static void deal_groups(const task *k, int64_t groups, int add, real *scratch) {
#pragma omp parallel if (WORTH(k->positions * k->dy->c))
    {
        const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
        groups_of(k, groups, groups * me / team, groups * (me + 1) / team, add, scratch + me * STRIP * (k->dy->c / groups));
    }
}

/* One group by all threads. */
static void one_group(task k, int add, real *scratch, real *partial) {
    const block *x = k.x, *dy = k.dy;
    real *const dw = k.dw;
    const int64_t row = k.row;
    const int64_t whole = k.taps * x->c, size = dy->c * whole, units = k.taps * k.panels, strips = (k.positions + STRIP - 1) / STRIP;
    const int threads = WORTH(k.positions * dy->c) ? omp_get_max_threads() : 1;
    if (threads == 1 || partial) {
#pragma omp parallel num_threads(threads)
        {
            const int me = omp_get_thread_num(), team = omp_get_num_threads();
            const int64_t first = strips * me / team, last = strips * (me + 1) / team;
            task mine = k;
            real *packed_dy = scratch + me * STRIP * dy->c;
            if (me) mine.dw = partial + (me - 1) * size, mine.row = whole;
            for (int64_t i = first; i < last; i++) {
                const int64_t begin = i * STRIP, end = least(begin + STRIP, k.positions);
                pack_dy(&k, begin, end, packed_dy);
                for (int64_t u = 0; u < units; u++) panel_of(&mine, u, begin, end, packed_dy, i > first || (add && !me));
            }
            if (me && first == last) memset(mine.dw, 0, (size_t)size * sizeof(real));
            if (team > 1) {
#pragma omp barrier
#pragma omp for schedule(static)
                for (int64_t j = 0; j < dy->c; j++)
                    for (int other = 1; other < team; other++)
                        for (int64_t q = 0; q < whole; q++) dw[j * row + q] += partial[(other - 1) * size + j * whole + q];
            }
        }
        return;
    }
#pragma omp parallel num_threads(threads)
    for (int64_t group = 0; group < strips; group += 4) { /* a few strips at a time stay in the shared cache */
        const int64_t stop = least(strips, group + 4);
#pragma omp for schedule(static)
        for (int64_t i = group; i < stop; i++)
            pack_dy(&k, i * STRIP, least((i + 1) * STRIP, k.positions), scratch + (i - group) * STRIP * dy->c);
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < units; u++)
            for (int64_t i = group; i < stop; i++)
                panel_of(&k, u, i * STRIP, least((i + 1) * STRIP, k.positions), scratch + (i - group) * STRIP * dy->c, add || i > 0);
    }
}

/* dw (add 0: is, add 1: grows by) the gradient by the weights of all groups.
 *
 * geometry  an axis each for d, h, w
 * scratch   STRIPS times STRIP K elements, K of one group, STRIPS the larger of 4 and the threads
 * partial   (threads - 1) times the dw of one group, or NULL: then threads share dw out instead of the positions
 */
EXPORT void FN(conv_weights)(const array *given_x, const array *given_dy, const array *given_dw, const axis *geometry, int64_t groups,
                             int64_t add, const array *scratch, const array *partial) {
    const block all_x = block_of(given_x), all_dy = block_of(given_dy), dw = block_of(given_dw);
    block x = all_x, dy = all_dy;
    task k = {.x = &x, .dy = &dy, .d = geometry[0], .h = geometry[1], .w = geometry[2], .dw = dw.at, .row = dw.d * dw.h * dw.w * dw.c};
    k.taps = k.d.kernel * k.h.kernel * k.w.kernel, k.panels = (dw.c + NR - 1) / NR;
    k.positions = dy.n * k.d.out * k.h.out * k.w.out;
    if (k.positions == 0) {
        if (!add) memset(dw.at, 0, (size_t)(dw.n * k.row) * sizeof(real));
    } else if (groups > omp_get_max_threads())
        deal_groups(&k, groups, (int)add, scratch->data);
    else
        for (int64_t g = 0; g < groups; g++) {
            x.c = dw.c, dy.c = dw.n / groups;
            x.at = all_x.at + g * x.c, dy.at = all_dy.at + g * dy.c, k.dw = dw.at + g * dy.c * k.row;
            one_group(k, (int)add, scratch->data, data_of(partial));
        }
}
