/* Gradient by the weights of a convolution whose groups are narrower than a vector (see depthwise.c).
 *
 *     dw[t][j][c..] = sum over positions o of  dy[o][c..] spread(x[stride o + dilation t - pad][c..], j)
 *
 * A few taps of a row of the window by a few vectors of channels stay in registers while positions pass. Columns that
 * have the same taps inside x make a segment, so that no product is with padding and no position is asked twice:
 *
 *     7 columns, window of 5, pad 2     column   0    1    2 3 4   5    6
 *                                       taps     2-4  1-4  0-4     0-3  0-2      5 segments, each in parts of TAPS
 *
 * memory     x, dy N, D, H, W, C with any outer strides; dw C, T, R, S, M without gaps
 * threads    blocks of output rows; each thread sums into its own dw, added in the order of the threads
 * guarantee  any extents with C >= VL; the same bits for a fixed number of threads
 * reference  gridnn/compute/cpu/reference/conv.py
 */
#include "depthwise.h"

enum { NEAR = 96 }; /* positions of a block: their few vectors of x and dy stay in the first cache for all taps */
enum { TAPS = VB == 64 ? 5 : 3 };

/* One dim: output extent, input extent, and how a tap t moves: x = stride o + dilation t - pad. */
typedef struct {
    int64_t out, in, kernel, stride, dilation, pad;
} axis;

/* Columns [from, to) of the output, and the taps that all of them have. */
typedef struct {
    int64_t from, to, tap, taps;
} segment;

/* The first of the outputs or taps at which an index that goes up by `step` from `start` is at least `bound`. */
INLINE int64_t reaches(int64_t start, int64_t step, int64_t bound) {
    return start >= bound ? 0 : (bound - start + step - 1) / step;
}

static int64_t segments_of(axis w, int64_t part, segment *to) {
    int64_t count = 0, first = 0, last_lo = 0, last_hi = 0;
    for (int64_t o = 0; o <= w.out; o++) {
        const int64_t start = o * w.stride - w.pad;
        const int64_t lo = reaches(start, w.dilation, 0), hi = most(least(reaches(start, w.dilation, w.in), w.kernel), lo);
        if (o > 0 && (o == w.out || lo != last_lo || hi != last_hi)) {
            for (int64_t tap = last_lo; tap < last_hi; tap += part)
                to[count++] = (segment){first, o, tap, least(part, last_hi - tap)};
            first = o;
        }
        last_lo = lo, last_hi = hi;
    }
    return count;
}

/* A rectangle of positions for a few taps of one row of the window. */
typedef struct {
    const real *x, *dy;
    int64_t rows, columns, x_row, x_column, x_tap, dy_row, dy_column;
    real *to;
    int64_t width; /* from one line of `to` to the next: M lines a tap */
} area;

INLINE void sums_of(const int taps, const int nv, const int m, const area *a, int64_t c, int64_t slot) {
    vec sum[TAPS * 8][4];
    real *to = a->to + slot;
#pragma GCC unroll 40
    for (int t = 0; t < taps * m; t++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) sum[t][v] = (vec){0};
    for (int64_t h = 0; h < a->rows; h++) {
        const real *x = a->x + h * a->x_row + c, *dy = a->dy + h * a->dy_row + c;
        for (int64_t w = 0; w < a->columns; w++, x += a->x_column, dy += a->dy_column)
            /* Two vectors of a position one after the other: see the tile of depthwise.c. */
#pragma GCC unroll 4
            for (int v = 0; v < nv; v += 2) {
                const int pair = v + 1 < nv ? 2 : 1;
                vec g[2];
#pragma GCC unroll 2
                for (int u = 0; u < pair; u++) g[u] = load(dy + (v + u) * VL);
#pragma GCC unroll 8
                for (int t = 0; t < taps; t++)
#pragma GCC unroll 2
                    for (int u = 0; u < pair; u++) {
                        const vec line = load(x + t * a->x_tap + (v + u) * VL);
#pragma GCC unroll 8
                        for (int j = 0; j < m; j++) sum[t * m + j][v + u] += g[u] * (m > 1 ? spread(line, m, j) : line);
                    }
            }
    }
#pragma GCC unroll 40
    for (int t = 0; t < taps * m; t++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) store(to + t * a->width + v * VL, load(to + t * a->width + v * VL) + sum[t][v]);
}

typedef void sums(const area *, int64_t, int64_t);

#define SUMS(taps, m, nv) \
    static void sums_##taps##_##m##_##nv(const area *a, int64_t c, int64_t slot) { sums_of(taps, nv, m, a, c, slot); }
#define ALL(m, nv) SUMS(1, m, nv) SUMS(2, m, nv) SUMS(3, m, nv) MORE(m, nv)
#if VB == 64
#define MORE(m, nv) SUMS(4, m, nv) SUMS(5, m, nv)
#define ROW(m, nv) {sums_1_##m##_##nv, sums_2_##m##_##nv, sums_3_##m##_##nv, sums_4_##m##_##nv, sums_5_##m##_##nv}
#else
#define MORE(m, nv)
#define ROW(m, nv) {sums_1_##m##_##nv, sums_2_##m##_##nv, sums_3_##m##_##nv}
#endif
ALL(1, 1)
ALL(1, 4)
ALL(2, 1)
ALL(2, 2)
ALL(4, 1)
ALL(8, 1)
/* By M and whether many vectors: as many as leave registers for TAPS taps. */
static sums *const single[4][TAPS] = {ROW(1, 1), ROW(2, 1), ROW(4, 1), ROW(8, 1)};
static sums *const several[4][TAPS] = {ROW(1, 4), ROW(2, 2), ROW(4, 1), ROW(8, 1)};

/* Where channel c lies in a line of sums: the last vector lies over the one before in x, but not in the sums. */
INLINE int64_t slot_of(int64_t c, int64_t channels) {
    const int64_t whole = channels / VL * VL;
    return c < whole ? c : c - (channels - VL) + whole;
}

/* dw (add 0: is, add 1: grows by) the gradient by the weights of all groups; geometry is an axis each for d, h, w. */
EXPORT void FN(depthwise_weights)(const array *given_x, const array *given_dy, const array *given_dw, const axis *geometry, int64_t add) {
    const block source = block_of(given_x), target = block_of(given_dy), *x = &source, *dy = &target;
    const axis d = geometry[0], h = geometry[1], w = geometry[2];
    real *dw = given_dw->data;
    const int64_t m = given_dw->extents[1], c = x->c, taps = d.kernel * h.kernel * w.kernel, width = (c + VL - 1) / VL * VL, size = taps * m * width;
    const int64_t deep = least(most(NEAR / most(w.out, 1), 1), most(h.out, 1)), blocks = (h.out + deep - 1) / deep;
    const int64_t units = dy->n * d.out * blocks, wide = most(4 / m, 1) * VL;
    const int threads = WORTH(units * deep * w.out * c * m) ? omp_get_max_threads() : 1, kind = __builtin_ctzll((uint64_t)m);
    real *sum = scratch(threads * size * (int64_t)sizeof(real));
    segment *found = scratch(w.out * w.kernel * (int64_t)sizeof(segment));
    const int64_t segments = segments_of(w, m == 8 ? (VB == 64 ? 3 : 1) : TAPS, found);
#pragma omp parallel num_threads(threads)
    {
        const int me = omp_get_thread_num(), team = omp_get_num_threads();
        memset(sum + me * size, 0, (size_t)size * sizeof(real));
        for (int64_t unit = units * me / team; unit < units * (me + 1) / team; unit++) {
            const int64_t top = unit % blocks * deep, bottom = least(top + deep, h.out), od = unit / blocks % d.out, n = unit / blocks / d.out;
            for (int64_t from = 0; from < c;) {
                const int many = from + wide <= c;
                const int64_t at = least(from, c - VL), slot = from;
                from += many ? wide : VL;
                for (int64_t q = 0; q < d.kernel * h.kernel; q++) {
                    const int64_t xd = od * d.stride + q / h.kernel * d.dilation - d.pad, start = q % h.kernel * h.dilation - h.pad;
                    const int64_t lo = most(reaches(start, h.stride, 0), top), hi = least(reaches(start, h.stride, h.in), bottom);
                    if (!within(xd, d.in) || lo >= hi) continue;
                    const real *rows = x->at + n * x->sn + xd * x->sd + (lo * h.stride + start) * x->sh;
                    for (const segment *s = found; s < found + segments; s++) {
                        const area a = {
                            .x = rows + (s->from * w.stride + s->tap * w.dilation - w.pad) * x->sw,
                            .dy = dy->at + n * dy->sn + od * dy->sd + lo * dy->sh + s->from * dy->sw,
                            .rows = hi - lo, .columns = s->to - s->from,
                            .x_row = h.stride * x->sh, .x_column = w.stride * x->sw, .x_tap = w.dilation * x->sw,
                            .dy_row = dy->sh, .dy_column = dy->sw,
                            .to = sum + me * size + (q * w.kernel + s->tap) * m * width, .width = width};
                        (many ? several : single)[kind][s->taps - 1](&a, at, slot);
                    }
                }
            }
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t k = 0; k < c; k++)
            for (int64_t i = 0; i < taps * m; i++) {
                real total = 0;
                for (int other = 0; other < team; other++) total += sum[other * size + i * width + slot_of(k, c)];
                dw[k * taps * m + i] = add ? dw[k * taps * m + i] + total : total;
            }
    }
    free(sum);
    free(found);
}
