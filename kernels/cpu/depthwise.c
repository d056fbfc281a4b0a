/* Convolution whose groups are narrower than a vector: M channels in and M out in each, M = 1 (depthwise), 2, 4 or 8.
 *
 * A vector holds the channels of whole groups, so that input and output lanes are the same channels:
 *
 *     M = 1    y[o][c..] += x[o + t][c..] W[t][c..]
 *     M = 4    y[o][c..] += (x0 x0 x0 x0 x4 x4 x4 x4) W[t][0][c..]  +  (x1 x1 x1 x1 x5 x5 x5 x5) W[t][1][c..]  + ...
 *
 * A tile is a few outputs; its sums stay in registers while taps pass, then come the next channels of the same outputs.
 * What a tile reads is a table of pointers, to zeros outside x, made once for all channels (see depthwise_tiles.h).
 *
 * memory     source and target N, D, H, W, C with any outer strides; weights K, T, R, S, M without gaps
 * threads    rows of a sample; no two write one element
 * guarantee  any extents with C >= VL; the last vector may lie over the one before, the last slide of a row over the one
 *            before, and write the same numbers again; the same bits for any number of threads
 * reference  gridnn/compute/cpu/reference/conv.py
 */
#include "depthwise_tiles.h"
#include "walk.h"

enum { UNIT_BYTES = 128 << 10 }; /* of the source that a thread goes through for one walk before it takes the next walk */

/* The weights of all groups, (C, taps, M) in memory, as C / VL, taps, M, VL; turned: M in and M out are swapped. */
static void pack(const real *w, int64_t c, int64_t taps, int64_t m, int turned, real *to) {
    for (int64_t i = 0; i * VL < c; i++)
        for (int64_t t = 0; t < taps; t++)
            for (int64_t j = 0; j < m; j++, to += VL)
                for (int64_t l = 0; l < VL; l++) {
                    const int64_t k = lanes_from(i, c) + l;
                    to[l] = turned ? w[((k - k % m + j) * taps + t) * m + k % m] : w[(k * taps + t) * m + j];
                }
}

/* What a thread keeps for a walk: where its taps read, and room for a table of pointers. */
typedef struct {
    real *zeros, *spill; /* C elements each: what is read outside, where outputs go that there are not */
    const walk *k;
    int64_t taps, rows;    /* in all; in depth and height */
    int64_t *shift, *line; /* of each tap: elements from an output's origin, where its weights are */
    int64_t *row_line;     /* of the rows of the window that an output row has */
    char *inside;          /* of each tap along w */
    const real **ind;
    slide *fast;  /* NULL where tiles are taken */
    int64_t outs; /* of a slide */
} hands;

static hands hands_for(int64_t taps, int64_t c) {
    const int64_t pointers = taps * (LONG * 2 + MOST_SLID);
    hands own = {.zeros = scratch((2 * c + taps * 4 + pointers) * 8)};
    own.spill = own.zeros + c, own.shift = (int64_t *)own.zeros + 2 * c;
    own.line = own.shift + taps, own.row_line = own.line + taps, own.inside = (char *)(own.row_line + taps);
    own.ind = (const real **)(own.row_line + 2 * taps);
    memset(own.zeros, 0, (size_t)c * sizeof(real));
    return own;
}

/* Take up a walk; slides where the taps of a row lie side by side and there is a kernel for so many. */
static void take(hands *own, const walk *k, const block *x, int64_t m) {
    own->k = k, own->taps = taps_of(k), own->rows = k->d.taps * k->h.taps, own->fast = NULL;
    for (int64_t i = 0; i < own->taps; i++) {
        const int64_t q = i / k->w.taps;
        own->shift[i] = k->d.offset[q / k->h.taps] * x->sd + k->h.offset[q % k->h.taps] * x->sh + k->w.offset[i % k->w.taps] * x->sw;
        own->line[i] = tap_number(k, i) * m * VL;
    }
    int follow = m == 1 && k->w.taps > 0 && k->w.taps <= MOST_SLID && k->w.jump <= 2 && k->w.count >= SHORT;
    for (int64_t s = 1; s < k->w.taps; s++)
        follow &= k->w.offset[s] - k->w.offset[s - 1] == (k->w.offset[1] > k->w.offset[0] ? 1 : -1);
    if (!follow) return;
    const int64_t by_long = (k->w.count + LONG - 1) / LONG * LONG, by_short = (k->w.count + SHORT - 1) / SHORT * SHORT;
    const int longer = k->w.count >= LONG && by_long <= by_short; /* fewer outputs computed twice */
    own->outs = longer ? LONG : SHORT, own->fast = slides[longer][k->w.jump - 1][k->w.taps];
}

/* Where a target is. */
INLINE real *target(const walk *k, const block *y, int64_t n, int64_t d, int64_t h, int64_t w) {
    return y->at + n * y->sn + (k->d.first + d * k->d.step) * y->sd + (k->h.first + h * k->h.step) * y->sh + (k->w.first + w * k->w.step) * y->sw;
}

/* Pointers of a tile: `count` targets from (d, h, w) on, none behind them; and where the targets are. */
static void point(const hands *own, const block *x, const block *y, int64_t n, int64_t d, int64_t h, int64_t w, int64_t count, job *to) {
    const walk *k = own->k;
    for (int64_t i = 0; i < ROWS; i++) {
        const int64_t xd = d * k->d.jump, xh = h * k->h.jump, xw = w * k->w.jump;
        const real *row = x->at + n * x->sn + xd * x->sd + xh * x->sh + xw * x->sw;
        for (int64_t s = 0; s < k->w.taps; s++) own->inside[s] = i < count && within(xw + k->w.offset[s], x->w);
        for (int64_t q = 0, t = 0; q < own->rows; q++) {
            const int inside = within(xd + k->d.offset[q / k->h.taps], x->d) & within(xh + k->h.offset[q % k->h.taps], x->h);
            for (int64_t s = 0; s < k->w.taps; s++, t++) own->ind[t * ROWS + i] = inside & own->inside[s] ? row + own->shift[t] : own->zeros;
        }
        to->out[i] = i < count ? target(k, y, n, d, h, w) : own->spill;
        if (++w == k->w.count) {
            w = 0;
            if (++h == k->h.count) h = 0, d++;
        }
    }
}

/* Whether the first tap reaches furthest down, as in the gradient by the input. */
INLINE int turned(const walk *k) { return k->h.taps > 1 && k->h.offset[1] < k->h.offset[0]; }

/* Targets of rows [begin, end) of a walk in one sample, by tiles. */
static void by_tiles(const hands *own, const block *x, const block *y, int64_t n, int64_t begin, int64_t end, int64_t m, job k) {
    const int64_t wide = own->k->w.count, high = own->k->h.count;
    k.last = turned(own->k) ? 0 : most(own->taps - 1, 0);
    k.taps = own->taps, k.line = own->line, k.below = own->k->h.jump * x->sh, k.below_out = own->k->h.step * y->sh;
    for (int64_t p = begin * wide; p < end * wide; p += ROWS) {
        point(own, x, y, n, p / wide / high, p / wide % high, p % wide, least(ROWS, end * wide - p), &k);
        tiles(m, &k);
    }
}

/* The same by slides: row by row, with the rows of the window that lie inside. */
static void by_slides(const hands *own, const block *x, const block *y, int64_t n, int64_t begin, int64_t end, job k) {
    const walk *of = own->k;
    const int64_t wide = of->w.count, columns = (own->outs - 1) * of->w.jump + of->w.taps;
    const int64_t first = of->w.taps > 1 && of->w.offset[1] < of->w.offset[0] ? of->w.taps - 1 : 0; /* the leftmost tap */
    k.line = own->row_line, k.below = of->h.jump * x->sh, k.below_out = of->h.step * y->sh;
    k.pitch = of->w.taps > 1 ? (of->w.tap[1] - of->w.tap[0]) * VL * (first ? -1 : 1) : 0;
    for (int64_t row = begin; row < end; row++) {
        const int64_t d = row / of->h.count, h = row % of->h.count, xd = d * of->d.jump, xh = h * of->h.jump;
        for (int64_t from = 0; from < wide; from += own->outs) {
            const int64_t w = least(from, wide - own->outs), xw = w * of->w.jump + of->w.offset[first];
            k.taps = 0;
            for (int64_t i = 0; i < own->rows; i++) { /* top down */
                const int64_t q = turned(of) ? own->rows - 1 - i : i;
                const int64_t zd = xd + of->d.offset[q / of->h.taps], zh = xh + of->h.offset[q % of->h.taps];
                if (!within(zd, x->d) || !within(zh, x->h)) continue;
                const real *at = x->at + n * x->sn + zd * x->sd + zh * x->sh, **to = own->ind + k.taps * columns;
                for (int64_t e = 0; e < columns; e++) to[e] = within(xw + e, x->w) ? at + (xw + e) * x->sw : own->zeros;
                own->row_line[k.taps++] = own->line[q * of->w.taps + first];
            }
            for (int64_t i = 0; i < own->outs; i++) k.out[i] = target(of, y, n, d, h, w + i);
            own->fast(&k);
        }
    }
}

/* Every target position of all walks is written: y = sums of x by weights, plus bias (or NULL), rectified if relu.
 *
 * scratch holds the weights, packed: as many elements as they have, K rounded up to whole vectors.
 */
EXPORT void FN(depthwise)(const array *given_x, const array *given_w, const array *given_y, const course *how, const array *given_bias,
                          int64_t relu, const array *scratch) {
    const block source = block_of(given_x), w = block_of(given_w), target = block_of(given_y), *x = &source, *y = &target;
    const walk *walks = how->walks;
    const int64_t m = w.c, kernel = w.d * w.h * w.w, many = how->many;
    const real *bias = data_of(given_bias);
    real *weights = scratch->data;
    pack(w.at, w.n, kernel, m, (int)how->turned, weights);
    int64_t most_taps = 1, most_rows = 1;
    for (int64_t i = 0; i < many; i++)
        most_taps = most(most_taps, taps_of(walks + i)), most_rows = most(most_rows, walks[i].d.count * walks[i].h.count);
    const int64_t bytes = x->d * x->h * x->w * x->c * (int64_t)sizeof(real), threads = omp_get_max_threads();
    int64_t parts = most((bytes + UNIT_BYTES - 1) / UNIT_BYTES, (4 * threads + y->n - 1) / y->n);
    parts = least(parts, most_rows);
    /* All walks go over a few rows of a sample before the next: what they read and write is then in a cache. */
#pragma omp parallel if (WORTH(positions(y) * y->c * m))
    {
        hands own = hands_for(most_taps, y->c);
        const job each = {.c = y->c, .all = kernel * m * VL, .ind = own.ind, .weights = weights, .bias = bias, .relu = (int)relu};
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < y->n * parts; unit++) {
            const int64_t n = unit / parts, part = unit % parts;
            for (int64_t i = 0; i < many; i++) {
                const walk *k = walks + i;
                const int64_t rows = k->d.count * k->h.count, begin = rows * part / parts, end = rows * (part + 1) / parts;
                if (begin == end || k->w.count == 0) continue;
                take(&own, k, x, m);
                if (own.fast)
                    by_slides(&own, x, y, n, begin, end, each);
                else
                    by_tiles(&own, x, y, n, begin, end, m, each);
            }
        }
        free(own.zeros);
    }
}
