/* Max and average pooling over windows of one to three dims, and sums over the whole space.
 *
 * formula    input row of (output o, tap r) = o stride + r dilation - pad_lo, in every dim
 *            max: the first element in scan order wins a tie, a NaN stays, padding never wins
 *            average: sum times 1 / (taps of the window, or the real elements of it)
 *            backward: what each input element gets is gathered from the outputs that meet it
 * memory     blocks of free strides; the loop over channels is the inner one, the window is walked in registers
 * threads    rows of the output (forward) or of the input (backward); no two write one element
 * guarantee  every element of the output is written exactly once; results do not depend on strides or threads
 * reference  pool.py: max_forward, max_backward, average_forward, average_backward, sum_space, spread_space
 */
#include "rows.h"

typedef struct {
    int64_t kernel[3], stride[3], dilation[3], pad_lo[3]; /* of d, h, w */
} window;

INLINE ivec splat_int(sint x) { return x - (ivec){0}; }

/* Taps [lo, hi) of an output that lie on real rows of an extent. */
typedef struct {
    int64_t lo, hi, start; /* start: input row of tap 0, maybe not real */
} taps;

INLINE taps taps_of(const window *of, int dim, int64_t o, int64_t extent) {
    const int64_t step = of->dilation[dim], start = o * of->stride[dim] - of->pad_lo[dim];
    taps t = {start < 0 ? (-start + step - 1) / step : 0, 0, start};
    t.hi = start < extent ? least(of->kernel[dim], (extent - 1 - start) / step + 1) : 0;
    if (t.hi < t.lo) t.hi = t.lo;
    return t;
}

/* For every input row of a dim: the (output, tap) pairs that meet it, by ascending tap. */
typedef struct {
    int64_t *first; /* of each row, and the end */
    struct {
        int64_t out, tap;
    } *pairs;
} meetings;

static meetings meetings_of(const window *of, int dim, int64_t extent, int64_t outs) {
    meetings found = {scratch((extent + 1) * 8), scratch(most(extent, 1) * of->kernel[dim] * 16)};
    int64_t count = 0;
    for (int64_t i = 0; i < extent; i++) {
        found.first[i] = count;
        for (int64_t tap = 0; tap < of->kernel[dim]; tap++) {
            const int64_t from = i + of->pad_lo[dim] - tap * of->dilation[dim];
            if (from < 0 || from % of->stride[dim] || from / of->stride[dim] >= outs) continue;
            found.pairs[count].out = from / of->stride[dim], found.pairs[count++].tap = tap;
        }
    }
    found.first[extent] = count;
    return found;
}

static void forget(meetings *m) {
    for (int dim = 0; dim < 3; dim++) free(m[dim].first), free(m[dim].pairs);
}

/* The taps of a window in scan order, backwards, with the flat number and the offset of each. */
#define EACH_TAP_BACKWARDS(number, offset, x)                                                                          \
    for (int64_t rd = t[0].hi - 1; rd >= t[0].lo; rd--)                                                                \
        for (int64_t rh = t[1].hi - 1; rh >= t[1].lo; rh--)                                                            \
            for (int64_t rw = t[2].hi - 1,                                                                             \
                         number = (rd * of->kernel[1] + rh) * of->kernel[2] + rw,                                      \
                         offset = (t[0].start + rd * of->dilation[0]) * x->sd +                                        \
                                  (t[1].start + rh * of->dilation[1]) * x->sh + (t[2].start + rw * of->dilation[2]) * x->sw; \
                 rw >= t[2].lo; rw--, number--, offset -= of->dilation[2] * x->sw)

/* As the reference does: backwards with >=, so that the first of equals wins and a real -inf wins over padding. */
INLINE void max_columns(const window *of, const block *x, const real *at, const taps *t, real *y, uint8_t *saved,
                        const int wide) {
    vec best[QUAD];
    ivec won[QUAD];
    for (int k = 0; k < wide; k++) best[k] = splat(-INFINITY), won[k] = (ivec){0};
    EACH_TAP_BACKWARDS(number, offset, x) {
        const ivec tap = splat_int((sint)number);
        for (int k = 0; k < wide; k++) {
            const vec v = load(at + offset + k * VL);
            const ivec wins = v >= best[k];
            won[k] = (tap & wins) | (won[k] & ~wins);
            best[k] = choose(wins | (ivec)(v != v), v, best[k]);
        }
    }
    /* Between integers and bytes by a plain loop over memory: GCC makes conversions of generic vectors scalar. */
    sint numbers[QUAD * VL];
    for (int k = 0; k < wide; k++) store(y + k * VL, best[k]), *(ivec *)(numbers + k * VL) = won[k];
    for (int i = 0; i < wide * VL; i++) saved[i] = (uint8_t)numbers[i];
}

EXPORT void FN(pool_max_forward)(const array *given_x, const array *given_y, const array *given_saved, const window *of) {
    const block in = block_of(given_x), outs = block_of(given_y), s = block_of_bytes(given_saved, 1), *x = &in, *y = &outs;
    uint8_t *saved_at = (uint8_t *)s.at;
    const int64_t rows = y->n * y->d * y->h, c = y->c;
#pragma omp parallel for schedule(static) if (WORTH(rows * y->w * c))
    for (int64_t row = 0; row < rows; row++) {
        const int64_t oh = row % y->h, od = row / y->h % y->d, n = row / y->h / y->d;
        taps t[3] = {taps_of(of, 0, od, x->d), taps_of(of, 1, oh, x->h), {0, 0, 0}};
        for (int64_t ow = 0; ow < y->w; ow++) {
            t[2] = taps_of(of, 2, ow, x->w);
            const real *at = x->at + n * x->sn;
            real *out = y->at + n * y->sn + od * y->sd + oh * y->sh + ow * y->sw;
            uint8_t *saved = saved_at + n * s.sn + od * s.sd + oh * s.sh + ow * s.sw;
            int64_t j = 0;
            for (; j + QUAD * VL <= c; j += QUAD * VL) max_columns(of, x, at + j, t, out + j, saved + j, QUAD);
            for (; j + VL <= c; j += VL) max_columns(of, x, at + j, t, out + j, saved + j, 1);
            for (; j < c; j++) {
                real best = -INFINITY;
                int64_t won = 0;
                EACH_TAP_BACKWARDS(number, offset, x) {
                    const real v = at[offset + j];
                    if (v >= best) won = number;
                    if (v >= best || v != v) best = v;
                }
                out[j] = best, saved[j] = (uint8_t)won;
            }
        }
    }
}

/* The outputs that meet input (id, ih, iw), by ascending tap; FLAT_TAP is the flat number of the tap there. */
#define EACH_MEETING(od, oh, ow)                                                                                       \
    for (int64_t a = m[0].first[id]; a < m[0].first[id + 1]; a++)                                                      \
        for (int64_t b = m[1].first[ih], od = m[0].pairs[a].out; b < m[1].first[ih + 1]; b++)                          \
            for (int64_t e = m[2].first[iw], oh = m[1].pairs[b].out, ow = 0;                                           \
                 e < m[2].first[iw + 1] && (ow = m[2].pairs[e].out, 1); e++)
#define FLAT_TAP ((m[0].pairs[a].tap * of->kernel[1] + m[1].pairs[b].tap) * of->kernel[2] + m[2].pairs[e].tap)

INLINE void gather_max(const window *of, const meetings *m, const block *dy, const block *s, const real *at,
                       const uint8_t *saved, int64_t id, int64_t ih, int64_t iw, real *dx, const int wide) {
    vec sum[QUAD];
    for (int k = 0; k < wide; k++) sum[k] = (vec){0};
    EACH_MEETING(od, oh, ow) {
        const real *g = at + od * dy->sd + oh * dy->sh + ow * dy->sw;
        const uint8_t *won = saved + od * s->sd + oh * s->sh + ow * s->sw;
        const ivec tap = splat_int((sint)FLAT_TAP);
        sint numbers[QUAD * VL];
        for (int i = 0; i < wide * VL; i++) numbers[i] = won[i];
        for (int k = 0; k < wide; k++)
            sum[k] += (vec)((ivec)load(g + k * VL) & (ivec)(*(const ivec *)(numbers + k * VL) == tap));
    }
    for (int k = 0; k < wide; k++) store(dx + k * VL, sum[k]);
}

EXPORT void FN(pool_max_backward)(const array *given_dy, const array *given_saved, const array *given_dx, const window *of) {
    const block in = block_of(given_dx), outs = block_of(given_dy), won = block_of_bytes(given_saved, 1);
    const block *dx = &in, *dy = &outs, *s = &won;
    const meetings m[3] = {meetings_of(of, 0, dx->d, dy->d), meetings_of(of, 1, dx->h, dy->h),
                           meetings_of(of, 2, dx->w, dy->w)};
    const int64_t rows = dx->n * dx->d * dx->h, c = dx->c;
#pragma omp parallel for schedule(static) if (WORTH(rows * dx->w * c))
    for (int64_t row = 0; row < rows; row++) {
        const int64_t ih = row % dx->h, id = row / dx->h % dx->d, n = row / dx->h / dx->d;
        const real *at = dy->at + n * dy->sn;
        const uint8_t *saved = (const uint8_t *)s->at + n * s->sn;
        for (int64_t iw = 0; iw < dx->w; iw++) {
            real *out = dx->at + n * dx->sn + id * dx->sd + ih * dx->sh + iw * dx->sw;
            int64_t j = 0;
            for (; j + QUAD * VL <= c; j += QUAD * VL) gather_max(of, m, dy, s, at + j, saved + j, id, ih, iw, out + j, QUAD);
            for (; j + VL <= c; j += VL) gather_max(of, m, dy, s, at + j, saved + j, id, ih, iw, out + j, 1);
            for (; j < c; j++) {
                real sum = 0;
                EACH_MEETING(od, oh, ow)
                if (saved[od * s->sd + oh * s->sh + ow * s->sw + j] == FLAT_TAP)
                    sum += at[od * dy->sd + oh * dy->sh + ow * dy->sw + j];
                out[j] = sum;
            }
        }
    }
    forget((meetings *)m);
}

INLINE real share_of(const window *of, const taps *t, int count_pad) {
    const int64_t all = of->kernel[0] * of->kernel[1] * of->kernel[2];
    const int64_t met = (t[0].hi - t[0].lo) * (t[1].hi - t[1].lo) * (t[2].hi - t[2].lo);
    return (real)(1.0 / (double)(count_pad ? all : most(met, 1)));
}

INLINE void average_columns(const window *of, const block *x, const real *at, const taps *t, real share, real *y,
                            const int wide) {
    vec sum[QUAD];
    for (int k = 0; k < wide; k++) sum[k] = (vec){0};
    EACH_TAP_BACKWARDS(number, offset, x)
    for (int k = 0; k < wide; k++) sum[k] += load(at + offset + k * VL);
    for (int k = 0; k < wide; k++) store(y + k * VL, sum[k] * share);
}

EXPORT void FN(pool_average_forward)(const array *given_x, const array *given_y, const window *of, int64_t count_pad) {
    const block in = block_of(given_x), outs = block_of(given_y), *x = &in, *y = &outs;
    const int64_t rows = y->n * y->d * y->h, c = y->c;
#pragma omp parallel for schedule(static) if (WORTH(rows * y->w * c))
    for (int64_t row = 0; row < rows; row++) {
        const int64_t oh = row % y->h, od = row / y->h % y->d, n = row / y->h / y->d;
        taps t[3] = {taps_of(of, 0, od, x->d), taps_of(of, 1, oh, x->h), {0, 0, 0}};
        for (int64_t ow = 0; ow < y->w; ow++) {
            t[2] = taps_of(of, 2, ow, x->w);
            const real *at = x->at + n * x->sn, share = share_of(of, t, count_pad);
            real *out = y->at + n * y->sn + od * y->sd + oh * y->sh + ow * y->sw;
            int64_t j = 0;
            for (; j + QUAD * VL <= c; j += QUAD * VL) average_columns(of, x, at + j, t, share, out + j, QUAD);
            for (; j + VL <= c; j += VL) average_columns(of, x, at + j, t, share, out + j, 1);
            for (; j < c; j++) {
                real sum = 0;
                EACH_TAP_BACKWARDS(number, offset, x) sum += at[offset + j];
                out[j] = sum * share;
            }
        }
    }
}

/* shares: what an element weighs in each output of a dim; their product is the weight in an output. */
INLINE void gather_average(const meetings *m, const block *dy, double *const *shares, const real *at,
                           int64_t id, int64_t ih, int64_t iw, real *dx, const int wide) {
    vec sum[QUAD];
    for (int k = 0; k < wide; k++) sum[k] = (vec){0};
    EACH_MEETING(od, oh, ow) {
        const real *g = at + od * dy->sd + oh * dy->sh + ow * dy->sw;
        const real share = (real)(shares[0][od] * shares[1][oh] * shares[2][ow]);
        for (int k = 0; k < wide; k++) sum[k] += load(g + k * VL) * share;
    }
    for (int k = 0; k < wide; k++) store(dx + k * VL, sum[k]);
}

EXPORT void FN(pool_average_backward)(const array *given_dy, const array *given_dx, const window *of, int64_t count_pad) {
    const block in = block_of(given_dx), out = block_of(given_dy), *dx = &in, *dy = &out;
    const int64_t outs[3] = {dy->d, dy->h, dy->w}, extents[3] = {dx->d, dx->h, dx->w};
    meetings m[3];
    double *shares[3];
    for (int dim = 0; dim < 3; dim++) {
        m[dim] = meetings_of(of, dim, extents[dim], outs[dim]);
        shares[dim] = scratch(outs[dim] * 8);
        for (int64_t o = 0; o < outs[dim]; o++) {
            const taps t = taps_of(of, dim, o, extents[dim]);
            shares[dim][o] = 1.0 / (double)(count_pad ? of->kernel[dim] : most(t.hi - t.lo, 1));
        }
    }
    const int64_t rows = dx->n * dx->d * dx->h, c = dx->c;
#pragma omp parallel for schedule(static) if (WORTH(rows * dx->w * c))
    for (int64_t row = 0; row < rows; row++) {
        const int64_t ih = row % dx->h, id = row / dx->h % dx->d, n = row / dx->h / dx->d;
        const real *at = dy->at + n * dy->sn;
        for (int64_t iw = 0; iw < dx->w; iw++) {
            real *out = dx->at + n * dx->sn + id * dx->sd + ih * dx->sh + iw * dx->sw;
            int64_t j = 0;
            for (; j + QUAD * VL <= c; j += QUAD * VL) gather_average(m, dy, shares, at + j, id, ih, iw, out + j, QUAD);
            for (; j + VL <= c; j += VL) gather_average(m, dy, shares, at + j, id, ih, iw, out + j, 1);
            for (; j < c; j++) {
                real sum = 0;
                EACH_MEETING(od, oh, ow)
                sum += at[od * dy->sd + oh * dy->sh + ow * dy->sw + j] *
                       (real)(shares[0][od] * shares[1][oh] * shares[2][ow]);
                out[j] = sum;
            }
        }
    }
    forget(m);
    for (int dim = 0; dim < 3; dim++) free(shares[dim]);
}

/* y (N, C) = sum over space: 64 positions in registers or slots, then float64. */
EXPORT void FN(pool_sum_space)(const array *given_x, const array *given_y) {
    const block in = block_of(given_x), out = block_of(given_y), *x = &in, *y = &out;
    const int64_t c = x->c, inside = x->d * x->h * x->w;
#pragma omp parallel if (WORTH(inside * x->n * c))
    {
        double *sum = scratch(c * (int64_t)sizeof(double));
        real *slots = scratch(c * (int64_t)sizeof(real));
#pragma omp for schedule(static)
        for (int64_t n = 0; n < x->n; n++) {
            memset(sum, 0, (size_t)c * sizeof(double));
            memset(slots, 0, (size_t)c * sizeof(real));
            for (int64_t p = 0; p < inside; p++) {
                const place q = place_of(x, n * inside + p);
                const real *at = element(x, q);
                int64_t j = 0;
                for (; j + VL <= c; j += VL) store(slots + j, load(slots + j) + load(at + j));
                for (; j < c; j++) slots[j] += at[j];
                if ((p + 1) % 64 == 0 || p + 1 == inside) {
                    for (int64_t i = 0; i < c; i++) sum[i] += slots[i];
                    memset(slots, 0, (size_t)c * sizeof(real));
                }
            }
            for (int64_t j = 0; j < c; j++) y->at[n * y->sn + j] = (real)sum[j];
        }
        free(sum);
        free(slots);
    }
}

/* dx = dy (N, C) at every position. */
EXPORT void FN(pool_spread_space)(const array *given_dy, const array *given_dx) {
    const block given = block_of(given_dy), dx = block_of(given_dx), *dy = &given;
    const int64_t rows = dx.n * dx.d * dx.h, c = dx.c;
#pragma omp parallel for schedule(static) if (WORTH(rows * dx.w * c))
    for (int64_t row = 0; row < rows; row++) {
        const int64_t h = row % dx.h, d = row / dx.h % dx.d, n = row / dx.h / dx.d;
        real *out = dx.at + n * dx.sn + d * dx.sd + h * dx.sh;
        const real *from = dy->at + n * dy->sn;
        for (int64_t w = 0; w < dx.w; w++) memcpy(out + w * dx.sw, from, (size_t)c * sizeof(real));
    }
}
