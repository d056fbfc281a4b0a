/* The inner loops of depthwise.c: some outputs by a vector of channels kept in registers.
 *
 * Two kinds, which read where a table of pointers says:
 *
 *     tile     ROWS outputs of any kind        every tap reads its own       ind[tap][output]
 *     slide    SHORT or LONG outputs of a      a column of x is read once    ind[row of the window][column]
 *              row, one channel a group        for all taps that meet it
 *
 *     a slide, 3 taps, step 1      x   q0  q1  q2  q3 ..        q2 x tap 2 goes to output 0
 *                                                               q2 x tap 1 goes to output 1
 *                                                               q2 x tap 0 goes to output 2
 */
#ifndef GRIDNN_DEPTHWISE_TILES_H
#define GRIDNN_DEPTHWISE_TILES_H

#include "depthwise.h"

enum { ROWS = 6 };            /* outputs of a tile: with two vectors of each, enough sums to hide a product's delay */
enum { SHORT = 7, LONG = 8 }; /* outputs of a slide: what divides the width better */

/* Where vector number i begins: the last one lies over the one before if channels do not fill it. */
INLINE int64_t lanes_from(int64_t i, int64_t c) { return least(i * VL, c - VL); }

/* What a kernel is told. */
typedef struct {
    int64_t taps, c;          /* taps, or rows of the window for a slide; channels */
    const int64_t *line;      /* of each: where its weights are, in those of a vector of channels */
    int64_t all;              /* weights of a vector of channels */
    const real **ind;         /* tile: [tap * ROWS + output]; slide: [row * columns + column] */
    int64_t pitch;            /* slide: from the weights of a column to those of the next */
    int64_t last;             /* tile: the tap that reaches furthest */
    int64_t below, below_out; /* how far the next row of outputs and what it reads are */
    real *out[LONG];
    const real *weights, *bias;
    int relu;
} job;

/* Ask for what the next row of outputs reads and writes, where vector number i begins a cache line: so few loads are in
 * flight that memory would be waited for, and columns that begin far from one another are no stream a processor sees.
 */
INLINE void ask_ahead(const job *k, int64_t i, const real *const *column, const int columns, const int outs) {
    if (i % (64 / VB)) return;
#pragma GCC unroll 16
    for (int q = 0; q < columns; q++) __builtin_prefetch(column[q] + i * VL + k->below, 0, 2);
#pragma GCC unroll 8
    for (int q = 0; q < outs; q++) __builtin_prefetch(k->out[q] + i * VL + k->below_out, 1, 2);
}

INLINE void put(const job *k, int64_t c, real *to, vec sum) { store(to + c, k->relu ? larger((vec){0}, sum) : sum); }

/* ROWS outputs by nv vectors of channels. */
INLINE void tile_of(const int nv, const int m, const job *k, int64_t block) {
    const int64_t c = lanes_from(block, k->c), all = k->all;
    const real *weights = k->weights + block * all;
    vec sum[ROWS][2];
#pragma GCC unroll 2
    for (int v = 0; v < nv; v++) {
        const vec bias = k->bias ? load(k->bias + c + v * VL) : (vec){0};
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) sum[i][v] = bias;
    }
    for (int64_t t = 0; t < k->taps; t++) {
        const real *line = weights + k->line[t], *const *row = k->ind + t * ROWS;
        if (m == 1) {
            vec w[2];
#pragma GCC unroll 2
            for (int v = 0; v < nv; v++) w[v] = load(line + v * all);
            /* Vectors of a row one after the other: rows begin at the same place of their cache lines, and some
             * processors cannot read the same part of two lines at once. */
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                for (int v = 0; v < nv; v++) sum[i][v] += load(row[i] + c + v * VL) * w[v];
            continue;
        }
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) {
            vec x[ROWS];
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) x[i] = load(row[i] + c + v * VL);
#pragma GCC unroll 8
            for (int j = 0; j < m; j++) {
                const vec w = load(line + j * VL + v * all);
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; i++) sum[i][v] += spread(x[i], m, j) * w;
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) put(k, c + v * VL, k->out[i], sum[i][v]);
}

/* A tile over all channels. */
INLINE void tiles_of(const int m, const job *k) {
    int64_t i = 0;
    const real *const *column = k->ind + k->last * ROWS;
    const int columns = k->taps ? ROWS : 0;
    if (m == 1 || VB == 64)
        for (; (i + 2) * VL <= k->c; i += 2) {
            ask_ahead(k, i, column, columns, ROWS);
            if (VB == 64) ask_ahead(k, i + 1, column, columns, ROWS);
            tile_of(2, m, k, i);
        }
    for (; i * VL < k->c; i++) {
        ask_ahead(k, i, column, columns, ROWS);
        tile_of(1, m, k, i);
    }
}

static void tiles(int64_t m, const job *k) {
    switch (m) {
    case 1: tiles_of(1, k); break;
    case 2: tiles_of(2, k); break;
    case 4: tiles_of(4, k); break;
    default: tiles_of(8, k);
    }
}

/* Part [from, to) of a row of the window: its weights are in registers while the columns pass. */
INLINE void part_of(const int outs, const int jump, const int from, const int to, vec *sum, const real *line, int64_t pitch,
                    const real *const *column, int64_t c) {
    vec w[5];
#pragma GCC unroll 5
    for (int s = from; s < to; s++) w[s - from] = load(line + s * pitch);
#pragma GCC unroll 32
    for (int q = from; q < (outs - 1) * jump + to; q++) {
        const vec x = load(column[q] + c);
#pragma GCC unroll 5
        for (int s = from; s < to; s++)
            if (q >= s && (q - s) % jump == 0 && (q - s) / jump < outs) sum[(q - s) / jump] += x * w[s - from];
    }
}

/* `outs` outputs of a row by one vector of channels; a long row of the window in two parts, which registers hold. */
INLINE void slide_of(const int taps, const int jump, const int outs, const job *k, int64_t block) {
    const int columns = (outs - 1) * jump + taps, half = taps > 5 ? (taps + 1) / 2 : taps;
    const int64_t c = lanes_from(block, k->c);
    const real *weights = k->weights + block * k->all;
    vec sum[LONG];
#pragma GCC unroll 8
    for (int i = 0; i < outs; i++) sum[i] = k->bias ? load(k->bias + c) : (vec){0};
    for (int64_t r = 0; r < k->taps; r++) {
        const real *line = weights + k->line[r], *const *column = k->ind + r * columns;
        part_of(outs, jump, 0, half, sum, line, k->pitch, column, c);
        if (half < taps) part_of(outs, jump, half, taps, sum, line, k->pitch, column, c);
    }
#pragma GCC unroll 8
    for (int i = 0; i < outs; i++) put(k, c, k->out[i], sum[i]);
}

/* A slide over all channels. */
INLINE void slides_of(const int taps, const int jump, const int outs, const job *k) {
    const int columns = (outs - 1) * jump + taps;
    for (int64_t i = 0; i * VL < k->c; i++) {
        for (int64_t r = most(k->taps - jump, 0); r < k->taps; r++)
            ask_ahead(k, i, k->ind + r * columns, outs * jump, r + 1 < k->taps ? 0 : outs);
        slide_of(taps, jump, outs, k, i);
    }
}

typedef void slide(const job *);

#define SLIDE(taps, jump, outs) \
    static void slide_##taps##_##jump##_##outs(const job *k) { slides_of(taps, jump, outs, k); }
#define SLIDES(outs)                                                                          \
    SLIDE(1, 1, outs) SLIDE(2, 1, outs) SLIDE(3, 1, outs) SLIDE(4, 1, outs) SLIDE(5, 1, outs) \
    SLIDE(7, 1, outs) SLIDE(3, 2, outs) SLIDE(5, 2, outs) SLIDE(7, 2, outs)
#define SLIDES_BY_TAPS(outs)                                                                               \
    {{NULL, slide_1_1_##outs, slide_2_1_##outs, slide_3_1_##outs, slide_4_1_##outs, slide_5_1_##outs, NULL, \
      slide_7_1_##outs},                                                                                   \
     {NULL, NULL, NULL, slide_3_2_##outs, NULL, slide_5_2_##outs, NULL, slide_7_2_##outs}}
SLIDES(7)
SLIDES(8)
enum { MOST_SLID = 7 };
static slide *const slides[2][2][MOST_SLID + 1] = {SLIDES_BY_TAPS(7), SLIDES_BY_TAPS(8)}; /* by length, jump and taps */

#endif
