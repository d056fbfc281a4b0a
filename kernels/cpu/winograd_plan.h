/* How a call of Winograd's method is cut: tiles, strips of tiles, channels for threads, and the scratch for it all.
 *
 *     forward    zeros | U, shared | a thread's: sink, V, M | the next thread's ...
 *     weights    zeros | D, a copy for each share of strips | a thread's: V, W | ...
 */
#ifndef GRIDNN_WINOGRAD_PLAN_H
#define GRIDNN_WINOGRAD_PLAN_H

#include "winograd_points.h"

/* Measured on 512 KB of L2 a core; a factor of 4 to either side changes a layer's time by 5 % at most. */
enum { STRIP_BYTES = 768 << 10, SUM_BYTES = 2 << 20 }; /* values of a strip: forward, weights */
enum { LEAST_STRIP = 12 * MR, MOST_STRIP = 32 * MR };  /* tiles; the least so that reading U or D is worth it */
enum { LEAST_SHARE = 8 * MR };                         /* tiles of a thread, before channels are shared out */
enum { LEAST_ROWS = 64 };                              /* channels of a thread in weights */
enum { BLOCK = 64 };                                   /* columns of M: whole panels */

typedef struct {
    int64_t m, high, wide, count; /* side of a tile of the output; tiles down and across a sample, and in all */
} tiling;

typedef struct {
    int64_t threads;
    int64_t strip, strips;      /* tiles of a strip, and how many */
    int64_t groups, group;      /* of channels that are dealt: columns of M, or rows of D */
    int64_t u_point;            /* elements from one point to the next, and from one row to the next: U or D */
    int64_t v_row, v_point;     /* V */
    int64_t m_row, m_point;     /* M or W */
    int64_t zeros, shared, own; /* elements of the parts of the scratch; own is a thread's */
} plan;

INLINE int64_t up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

/* An odd number of cache lines: what is written at 36 points, or read down a column, then meets different sets. */
INLINE int64_t odd_lines(int64_t elements) {
    const int64_t line = 64 / sizeof(real);
    return ((elements + line - 1) / line | 1) * line;
}

INLINE tiling tiles_of(const block *y, int64_t r) {
    const int64_t m = SIDE + 1 - r, high = (y->h + m - 1) / m, wide = (y->w + m - 1) / m;
    return (tiling){m, high, wide, y->n * high * wide};
}

INLINE int64_t team(tiling tiles, int64_t c, int64_t k) {
    return WORTH(tiles.count * POINTS * (c + k)) ? omp_get_max_threads() : 1;
}

/* Strips of equal length, each with values of at most so many bytes, `channels` a tile; of `lots` threads. */
static void cut_strips(plan *p, tiling tiles, int64_t lots, int64_t channels, int64_t bytes, int64_t unit) {
    const int64_t fit = bytes / (POINTS * channels * (int64_t)sizeof(real));
    const int64_t longest = least(MOST_STRIP, most(LEAST_STRIP, fit)), share = (tiles.count + lots - 1) / lots;
    const int64_t parts = most(1, (share + longest - 1) / longest);
    p->strip = most(unit, up((share + parts - 1) / parts, unit));
    p->strips = (tiles.count + p->strip - 1) / p->strip;
}

static plan plan_forward(tiling tiles, int64_t c, int64_t k) {
    plan p;
    p.threads = team(tiles, c, k);
    int64_t lots = most(1, least(p.threads, tiles.count / LEAST_SHARE));
    while (p.threads % lots) lots--;
    p.groups = most(1, least(p.threads / lots, (k + NR - 1) / NR));
    p.group = up((k + p.groups - 1) / p.groups, NR);
    p.v_row = packed(c);
    p.m_row = packed(least(k, BLOCK));
    cut_strips(&p, tiles, lots, p.v_row + p.m_row, STRIP_BYTES, MR);
    p.u_point = odd_lines(packed(k) * c);
    p.v_point = odd_lines(p.strip * p.v_row);
    p.m_point = odd_lines(p.strip * p.m_row);
    p.zeros = odd_lines(most(c, k));
    p.shared = POINTS * p.u_point;
    p.own = p.zeros + POINTS * (p.v_point + p.m_point);
    return p;
}

static plan plan_weights(tiling tiles, int64_t c, int64_t k) {
    plan p;
    const int64_t threads = team(tiles, c, k);
    p.groups = most(1, least(threads, k / LEAST_ROWS));
    while (threads % p.groups) p.groups--;
    p.group = up((k + p.groups - 1) / p.groups, MR);
    p.v_row = packed(c);
    p.m_row = odd_lines(p.group);
    cut_strips(&p, tiles, threads / p.groups, p.v_row + p.m_row, SUM_BYTES, 1);
    p.threads = p.groups * most(1, least(threads / p.groups, p.strips));
    p.u_point = odd_lines(k * p.v_row);
    p.v_point = odd_lines(p.strip * p.v_row);
    p.m_point = odd_lines(p.strip * p.m_row);
    p.zeros = odd_lines(most(c, k));
    p.shared = POINTS * p.u_point * (p.threads / p.groups);
    p.own = POINTS * (p.v_point + p.m_point);
    return p;
}

/* Where the elements of the square of tile t are: `size` a side, `lo` before the first output of the tile. */
INLINE void square_of(tiling tiles, int64_t t, const block *x, int64_t size, int64_t lo_h, int64_t lo_w, real *outside,
                      real **at) {
    const int64_t j = t % tiles.wide, i = t / tiles.wide % tiles.high, n = t / tiles.wide / tiles.high;
    const int64_t h0 = i * tiles.m - lo_h, w0 = j * tiles.m - lo_w;
    for (int64_t h = h0; h < h0 + size; h++) {
        real *row = x->at + n * x->sn + h * x->sh;
        const int inside = h >= 0 && h < x->h;
        for (int64_t w = w0; w < w0 + size; w++) *at++ = inside && w >= 0 && w < x->w ? row + w * x->sw : outside;
    }
}

#endif
