/* Direct convolution without gathered columns: forward and gradient by the input are one walk.
 *
 *     forward         y[o]  = sum over taps t of  x[stride o + dilation t - pad]  W[t]       depth C, columns K
 *     backward data   dx[i] = sum over taps t of dy[(i + pad - dilation t) / stride] W[t]^T  depth K, columns C
 *
 * Both say: target[first + step j] = sum over taps of source[jump j + offset(tap)] W(tap), dim by dim.  Backward data with
 * stride s is s such walks a dim, one a phase i mod s, each with the taps that divide.  A tap outside the source reads zeros.
 *
 * memory     source and target N, D, H, W, C with any outer strides; weights K, T, R, S, C / G without gaps
 * groups     all in one walk: the pointers of a few tiles serve every group, which reads and writes its own channels
 * threads    blocks of target positions; each keeps its sums while the packed weights of a few taps stay in the cache
 * guarantee  any extents, tails by narrower tiles; the same bits for any number of threads
 * reference  gridnn/compute/cpu/reference/conv.py
 * source     the indirect convolution algorithm, Dukhan 2019, arXiv:1907.02129
 */
#include "micro.h"
#include "walk.h"

#define DEPTH 256   /* lines of packed weights that a tile runs over before its sums go back to memory */
#define MAX_TAPS 64 /* taps of one run */
#define BATCH 4     /* tiles that a group's weights serve before the next group's; with one group there is no next */
static const real zeros[DEPTH];

/* A run: consecutive taps over all of the depth, or one tap over a part of it. */
typedef struct {
    int64_t tap, taps, from, depth;
} run;

INLINE int64_t runs_of(int64_t taps, int64_t depth) {
    return depth > DEPTH ? taps * ((depth + DEPTH - 1) / DEPTH) : (taps + least(MAX_TAPS, DEPTH / most(depth, 1)) - 1) / least(MAX_TAPS, DEPTH / most(depth, 1));
}

INLINE run run_number(int64_t i, int64_t taps, int64_t depth) {
    if (depth > DEPTH) {
        const int64_t parts = (depth + DEPTH - 1) / DEPTH, each = (depth + parts - 1) / parts;
        const int64_t from = i % parts * each;
        return (run){i / parts, 1, from, least(each, depth - from)};
    }
    const int64_t many = least(MAX_TAPS, DEPTH / most(depth, 1));
    return (run){i * many, least(many, taps - i * many), 0, depth};
}

/* Pack the weights of a walk: run by run, panel by panel, tap by tap, line by line.
 *
 * turned 0: lines are input channels, columns output channels (forward); 1: the reverse (backward data).
 * w is (groups, outs, kernel, ins); outs and ins are those of a group.
 */
static void pack(const real *w, const walk *k, int64_t outs, int64_t ins, int64_t kernel, int64_t groups, int turned, real *to) {
    const int64_t taps = taps_of(k), depth = turned ? outs : ins, columns = turned ? ins : outs, wide = packed(columns);
    const int64_t runs = runs_of(taps, depth), row = kernel * ins;
#pragma omp parallel for collapse(2) schedule(static) if (WORTH(groups * taps * depth * columns))
    for (int64_t i = 0; i < groups * runs; i++)
        for (int64_t c0 = 0; c0 < columns; c0 += NR) {
            const int64_t g = i / runs;
            const run r = run_number(i % runs, taps, depth);
            const int64_t before = depth > DEPTH ? r.tap * depth + r.from : r.tap * depth;
            const int64_t width = least(NR, wide - c0), real_width = least(NR, columns - c0);
            real *line = to + g * taps * depth * wide + before * wide + r.taps * r.depth * c0;
            for (int64_t t = 0; t < r.taps; t++) {
                const real *tap = w + g * outs * row + tap_number(k, r.tap + t) * ins;
                if (turned)
                    for (int64_t d = 0; d < r.depth; d++, line += width) {
                        const real *from = tap + (r.from + d) * row + c0;
                        for (int64_t j = 0; j < real_width; j++) line[j] = from[j];
                        for (int64_t j = real_width; j < width; j++) line[j] = 0;
                    }
                else {
                    for (int64_t j = 0; j < width; j++) {
                        const real *from = tap + (c0 + j) * row + r.from;
                        for (int64_t d = 0; d < r.depth; d++) line[d * width + j] = j < real_width ? from[d] : 0;
                    }
                    line += r.depth * width;
                }
            }
        }
}

/* Where a tile's rows begin in the source: addresses and indices, one array each so that they make vectors. */
typedef struct {
    const real *at[8];
    int64_t d[8], h[8], w[8];
} origins;

/* The taps of a run: how far from a row's begin, in elements and in each dim. */
typedef struct {
    int64_t shift[MAX_TAPS], d[MAX_TAPS], h[MAX_TAPS], w[MAX_TAPS], low[3], high[3];
} reach;

static void reach_of(const block *x, const walk *k, run r, reach *to) {
    for (int a = 0; a < 3; a++) to->low[a] = INT64_MAX / 2, to->high[a] = INT64_MIN / 2;
    for (int64_t t = 0; t < r.taps; t++) {
        const int64_t i = r.tap + t, s = i % k->w.taps, q = i / k->w.taps;
        const int64_t at[3] = {k->d.offset[q / k->h.taps], k->h.offset[q % k->h.taps], k->w.offset[s]};
        to->d[t] = at[0], to->h[t] = at[1], to->w[t] = at[2];
        to->shift[t] = at[0] * x->sd + at[1] * x->sh + at[2] * x->sw + r.from;
        for (int a = 0; a < 3; a++) to->low[a] = least(to->low[a], at[a]), to->high[a] = most(to->high[a], at[a]);
    }
}

/* Row pointers of a tile, tap by tap; outside the source they point to `none`. */
INLINE void point(const block *x, const origins *rows, int64_t taps, const reach *far, int one_row, const real *none, const real **ind) {
    const int64_t last = rows->w[MR - 1];
    const int inner = one_row && rows->d[0] + far->low[0] >= 0 && rows->d[0] + far->high[0] < x->d && rows->h[0] + far->low[1] >= 0 &&
                      rows->h[0] + far->high[1] < x->h && rows->w[0] + far->low[2] >= 0 && last + far->high[2] < x->w;
    if (inner) {
        for (int64_t t = 0; t < taps; t++, ind += MR)
            for (int j = 0; j < MR; j++) ind[j] = rows->at[j] + far->shift[t];
        return;
    }
    for (int64_t t = 0; t < taps; t++, ind += MR)
        for (int j = 0; j < MR; j++) {
            const uint64_t d = (uint64_t)(rows->d[j] + far->d[t]), h = (uint64_t)(rows->h[j] + far->h[t]), w = (uint64_t)(rows->w[j] + far->w[t]);
            const int inside = (d < (uint64_t)x->d) & (h < (uint64_t)x->h) & (w < (uint64_t)x->w);
            ind[j] = inside ? rows->at[j] + far->shift[t] : none;
        }
}

/* Walk: every target position of the walk is written (add 0) or added to (add 1); positions no tap reaches get zero.
 *
 * weights is what `pack` made; every group reads and writes its own channels.
 * Where it adds, targets of one output row may share elements: a row is one thread's and is walked in order.
 */
static void go(const block *x, const walk *k, const real *weights, const block *y, int64_t groups, const real *bias, int relu, int add) {
    const int64_t taps = taps_of(k), depth = x->c / groups, columns = y->c / groups, wide = packed(columns);
    const int64_t runs = runs_of(taps, depth), per_sample = k->d.count * k->h.count * k->w.count;
    const int64_t total = y->n * per_sample, threads = omp_get_max_threads();
    /* Rows of a block: their sums stay near the core over all runs; and enough blocks for the threads. */
    int64_t rows = runs > 1 ? least(most(32768 / most(y->c, 1), 48), 384) : 192;
    rows = most(least(rows, (total + 4 * threads - 1) / (4 * threads)), MR);
    const int64_t unit = add ? most(k->w.count, 1) : MR, batch = groups > 1 ? BATCH : 1;
    rows = (rows + unit - 1) / unit * unit;
    /* Zeros are walked through as rows are, from group to group. */
    real *long_zeros = groups > 1 ? calloc((size_t)(x->c + DEPTH), sizeof(real)) : NULL;
    if (groups > 1 && long_zeros == NULL) abort();
    const real *none = groups > 1 ? long_zeros : zeros;
#pragma omp parallel for schedule(dynamic) if (WORTH(total * columns * groups))
    for (int64_t begin = 0; begin < total; begin += rows) {
        const int64_t end = least(begin + rows, total);
        for (int64_t i = 0; i < most(runs, 1); i++) {
            const run r = runs ? run_number(i, taps, depth) : (run){0, 0, 0, 0};
            const real *panels = weights + (depth > DEPTH ? r.tap * depth + r.from : r.tap * depth) * wide;
            const int last = i >= runs - 1;
            reach far;
            reach_of(x, k, r, &far);
            int64_t n = begin / per_sample, d = begin % per_sample, h, w;
            w = d % k->w.count, d /= k->w.count, h = d % k->h.count, d /= k->h.count;
            for (int64_t p = begin; p < end; p += batch * MR) {
                real *to[BATCH][MR];
                const real *ind[BATCH][MAX_TAPS * MR];
                const int64_t many = least(batch, (end - p + MR - 1) / MR);
                for (int64_t b = 0; b < many; b++) {
                    const int one_row = p + (b + 1) * MR <= end && w + MR <= k->w.count;
                    origins from;
                    for (int j = 0; j < MR; j++) {
                        const int64_t xd = d * k->d.jump, xh = h * k->h.jump, xw = w * k->w.jump;
                        from.at[j] = x->at + n * x->sn + xd * x->sd + xh * x->sh + xw * x->sw;
                        from.d[j] = xd, from.h[j] = xh, from.w[j] = xw;
                        to[b][j] = y->at + n * y->sn + (k->d.first + d * k->d.step) * y->sd + (k->h.first + h * k->h.step) * y->sh +
                                   (k->w.first + w * k->w.step) * y->sw;
                        if (++w == k->w.count) {
                            w = 0;
                            if (++h == k->h.count) {
                                h = 0;
                                if (++d == k->d.count) d = 0, n++;
                            }
                        }
                    }
                    point(x, &from, r.taps, &far, one_row, none, ind[b]);
                }
                for (int64_t g = 0; g < groups; g++) {
                    const real *panel = panels + g * taps * depth * wide, *some = last && bias ? bias + g * columns : NULL;
                    for (int64_t b = 0; b < many; b++) {
                        for (int64_t c0 = 0; c0 < columns; c0 += NR) {
                            const int64_t width = least(NR, columns - c0);
                            tile((int)least(MR, end - p - b * MR), width, ind[b], r.taps, r.depth, panel + r.taps * r.depth * c0, to[b],
                                 (finish){add || i > 0, some ? some + c0 : NULL, last && relu});
                            for (int j = 0; j < MR; j++) to[b][j] += width;
                        }
                        for (int64_t t = 0; t < r.taps * MR && groups > 1; t++) ind[b][t] += depth;
                    }
                }
            }
        }
    }
    free(long_zeros);
}

/* y is, or grows by, the sum of all walks over x, plus bias where there is one, rectified if relu.
 *
 * scratch holds G taps depth (columns + 64) elements: the packed weights of a walk.
 */
EXPORT void FN(conv)(const array *given_x, const array *given_w, const array *given_y, const course *how, const array *bias, int64_t relu,
                     const array *scratch) {
    const block x = block_of(given_x), w = block_of(given_w), y = block_of(given_y);
    for (int64_t i = 0; i < how->many; i++) {
        const walk *k = how->walks + i;
        pack(w.at, k, w.n / how->groups, w.c, w.d * w.h * w.w, how->groups, (int)how->turned, scratch->data);
        go(&x, k, scratch->data, &y, how->groups, data_of(bias), (int)relu, (int)how->adds);
    }
}
