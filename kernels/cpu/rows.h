/* How kernels that touch every element walk over blocks: runs of positions, patterns of channels.
 *
 * A position is one (n, d, h, w); it holds C elements side by side. Positions are numbered in that order whatever
 * the strides are. Dims that follow one another in memory are folded, so a dense block is one long row:
 *
 *     N 2  H 3  W 4, dense            ->   one row of 24 positions
 *     the middle of a margin buffer   ->   6 rows of 4
 *
 * A vector over channels (a mean, a bias) is written out `period` times, so that the pattern fills whole vectors
 * even where C does not:
 *
 *     C = 3, VL = 4    positions   0     1     2     3
 *                      pattern     a b c a|b c a b|c a b c      period 4
 *
 * Sums are made in the slots of such a pattern: an element of position p goes to slot (p mod period, channel),
 * always in the order of p, so they are the same for all strides.
 */
#ifndef GRIDNN_ROWS_H
#define GRIDNN_ROWS_H

#include "common.h"

enum { MOST_BLOCKS = 4 };
enum { QUAD = 4 }; /* vectors that a loop over positions keeps in registers */

typedef struct {
    int64_t n, d, h, w;
} place;

INLINE int64_t positions(const block *b) { return b->n * b->d * b->h * b->w; }

INLINE place place_of(const block *b, int64_t p) {
    place q;
    q.w = p % b->w, p /= b->w;
    q.h = p % b->h, p /= b->h;
    q.d = p % b->d, q.n = p / b->d;
    return q;
}

INLINE real *element(const block *b, place q) {
    return b->at + q.n * b->sn + q.d * b->sd + q.h * b->sh + q.w * b->sw;
}

/* Rewrite blocks of one shape so that dims that follow one another in all of them are one, w. */
static inline void fold(block *const *blocks, int count) {
    const int64_t from[4] = {blocks[0]->w, blocks[0]->h, blocks[0]->d, blocks[0]->n};
    int64_t extent[4] = {1, 1, 1, 1}, stride[MOST_BLOCKS][4] = {{0}};
    int last = -1;
    for (int dim = 0; dim < 4; dim++) {
        if (from[dim] == 1) continue;
        int follows = last >= 0;
        for (int b = 0; b < count; b++) {
            const int64_t own[4] = {blocks[b]->sw, blocks[b]->sh, blocks[b]->sd, blocks[b]->sn};
            if (last >= 0) follows = follows && own[dim] == extent[last] * stride[b][last];
        }
        if (follows) {
            extent[last] *= from[dim];
            continue;
        }
        extent[++last] = from[dim];
        for (int b = 0; b < count; b++) {
            const int64_t own[4] = {blocks[b]->sw, blocks[b]->sh, blocks[b]->sd, blocks[b]->sn};
            stride[b][last] = own[dim];
        }
    }
    for (int b = 0; b < count; b++) {
        block *to = blocks[b];
        to->w = extent[0], to->h = extent[1], to->d = extent[2], to->n = extent[3];
        to->sw = extent[0] == 1 ? to->c : stride[b][0];
        to->sh = stride[b][1], to->sd = stride[b][2], to->sn = stride[b][3];
    }
}

/* The part [from, to) of a total that the calling thread has, in whole units. */
INLINE void own_share(int64_t total, int64_t unit, int64_t *from, int64_t *to) {
    const int64_t units = (total + unit - 1) / unit, threads = omp_get_num_threads(), me = omp_get_thread_num();
    *from = least(units * me / threads * unit, total);
    *to = least(units * (me + 1) / threads * unit, total);
}

/* How often a pattern of C channels is written out: whole quads of vectors where that stays small. */
INLINE int64_t period_of(int64_t c) {
    for (int64_t period = 1; period * c <= 1024; period++)
        if (period * c % (QUAD * VL) == 0) return period;
    return 1;
}

/* Positions of a run to take before the next quad of channels: about 8 KB, which stay in the nearest cache. */
INLINE int64_t near_count(int64_t length) { return most(8192 / (length * (int64_t)sizeof(real)), 1); }

/* Memory of a call; where there is none left nothing can go on. */
static inline void *scratch(int64_t bytes) {
    void *found = aligned_alloc(64, (size_t)((bytes + 127) / 64 * 64));
    if (found == NULL) abort();
    return found;
}

#endif
