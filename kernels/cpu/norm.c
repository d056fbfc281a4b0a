/* Batch norm: statistics per channel over samples and space.
 *
 * formula    moments: sum of (x - shift), sum of (x - shift)^2
 *            apply: y = (x - mean) inv_std gamma + beta, then + add, then relu
 *            backward_sums: sum of g, sum of g xhat;  g = dy where y > 0 (all of it without y), xhat = (x - mean) inv_std
 *            backward_apply: dx = inv_std gamma (g - sums0 / count - xhat sums1 / count)
 *            Differences x - mean are made first, so nothing cancels where the mean is large.
 * memory     blocks of free strides; vectors of channels are written out as patterns (rows.h)
 * threads    positions are divided; the sums of threads are added in their order
 * guarantee  y may be x or add, dx may be dy or x; sums go to float64 after 64 numbers and do not depend on strides
 * reference  norm.py: moments, apply, backward_sums, backward_apply
 * source     S. Ioffe, C. Szegedy, Batch Normalization, ICML 2015
 */
#include "rows.h"

INLINE vec positive(vec x) { return (vec)((ivec)x & ~(ivec)(x < (vec){0})); }
INLINE vec kept(vec y, vec dy) { return (vec)((ivec)dy & (ivec)(y > (vec){0})); }

/* Slots of two sums over `count` rows of each operand; rows lie as far apart as `step` says.
 *
 * Without g: moments of x about m. With g: sums of g and of g (x - m), g masked by y where there is a y.
 */
typedef struct {
    const real *x, *g, *y;
    int64_t step_x, step_g, step_y;
} sources;

INLINE void sum_columns(sources at, int64_t count, const real *m, real *first, real *second, const int wide) {
    vec a[QUAD], b[QUAD], middle[QUAD];
    for (int k = 0; k < wide; k++)
        a[k] = load(first + k * VL), b[k] = load(second + k * VL), middle[k] = load(m + k * VL);
    for (int64_t i = 0; i < count; i++)
        for (int k = 0; k < wide; k++) {
            const vec d = load(at.x + i * at.step_x + k * VL) - middle[k];
            vec g = at.g ? load(at.g + i * at.step_g + k * VL) : d;
            if (at.y) g = kept(load(at.y + i * at.step_y + k * VL), g);
            a[k] += g;
            b[k] += g * d;
        }
    for (int k = 0; k < wide; k++) store(first + k * VL, a[k]), store(second + k * VL, b[k]);
}

INLINE void sum_quads(sources at, int64_t count, const real *m, real *first, real *second, int64_t length) {
    int64_t j = 0;
    for (; j + QUAD * VL <= length; j += QUAD * VL) {
        const sources here = {at.x + j, at.g ? at.g + j : NULL, at.y ? at.y + j : NULL, at.step_x, at.step_g, at.step_y};
        sum_columns(here, count, m + j, first + j, second + j, QUAD);
    }
    for (; j + VL <= length; j += VL) {
        const sources here = {at.x + j, at.g ? at.g + j : NULL, at.y ? at.y + j : NULL, at.step_x, at.step_g, at.step_y};
        sum_columns(here, count, m + j, first + j, second + j, 1);
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t t = j; t < length; t++) {
            const real d = at.x[i * at.step_x + t] - m[t];
            real g = at.g ? at.g[i * at.step_g + t] : d;
            if (at.y) g = at.y[i * at.step_y + t] > 0 ? g : 0;
            first[t] += g;
            second[t] += g * d;
        }
}

static void sum_rows(sources at, int64_t count, const real *m, real *first, real *second, int64_t length) {
    const int64_t near = near_count(length);
    for (int64_t n; count > 0; count -= n) {
        n = least(count, near);
        if (at.g == NULL)
            sum_quads((sources){at.x, NULL, NULL, at.step_x, 0, 0}, n, m, first, second, length);
        else if (at.y == NULL)
            sum_quads((sources){at.x, at.g, NULL, at.step_x, at.step_g, 0}, n, m, first, second, length);
        else
            sum_quads(at, n, m, first, second, length);
        at.x += n * at.step_x;
        if (at.g) at.g += n * at.step_g;
        if (at.y) at.y += n * at.step_y;
    }
}

/* Both sums of every channel into sums (2, C); `g` and `y` may be NULL. */
static void two_sums(const array *given_x, const array *given_g, const array *given_y, const double *middle, double *sums) {
    block x = block_of(given_x), g = given_g ? block_of(given_g) : x, y = given_y ? block_of(given_y) : x;
    fold((block *[]){&x, &g, &y}, 3);
    const int64_t total = positions(&x), c = x.c, period = period_of(c), length = period * c;
    const int64_t group = 64 * period; /* positions until the slots go to float64 */
    const int dense = x.sw == c && g.sw == c && y.sw == c, most_threads = omp_get_max_threads();
    const int64_t bytes = length * (int64_t)sizeof(real);
    real *m = scratch(bytes), *all_slots = scratch(2 * most_threads * bytes);
    double *all_sums = scratch(2 * most_threads * c * (int64_t)sizeof(double));
    for (int64_t j = 0; j < length; j++) m[j] = (real)middle[j % c];
    memset(all_sums, 0, (size_t)(2 * most_threads * c) * sizeof(double));
#pragma omp parallel if (WORTH(total * c))
    {
        double *own = all_sums + 2 * omp_get_thread_num() * c;
        real *first = all_slots + 2 * omp_get_thread_num() * length, *second = first + length;
        int64_t p, to;
        own_share(total, group, &p, &to);
        memset(first, 0, (size_t)(2 * bytes));
        for (int64_t run; p < to; p += run) {
            const place q = place_of(&x, p);
            const int64_t phase = p % period;
            run = least(least(x.w - q.w, to - p), group - p % group);
            /* Whole periods together, where dense as one pattern; the ends of a run a position at a time. */
            const int64_t whole = phase == 0 ? run / period : 0, parts = whole == 0 || dense ? 1 : period;
            const int64_t step = whole ? period : 0, wide = whole && dense ? length : c;
            run = whole ? whole * period : 1;
            for (int64_t f = 0; f < parts; f++) {
                const int64_t slot = (phase + f) * c;
                const sources at = {element(&x, q) + f * x.sw, given_g ? element(&g, q) + f * g.sw : NULL,
                                    given_y ? element(&y, q) + f * y.sw : NULL, step * x.sw, step * g.sw, step * y.sw};
                sum_rows(at, most(whole, 1), m + slot, first + slot, second + slot, wide);
            }
            if ((p + run) % group == 0 || p + run == to) {
                for (int64_t f = 0; f < period; f++)
                    for (int64_t j = 0; j < c; j++) own[j] += first[f * c + j], own[c + j] += second[f * c + j];
                memset(first, 0, (size_t)(2 * bytes));
            }
        }
    }
    memset(sums, 0, (size_t)(2 * c) * sizeof(double));
    for (int t = 0; t < most_threads; t++)
        for (int64_t j = 0; j < 2 * c; j++) sums[j] += all_sums[2 * t * c + j];
    free(m);
    free(all_slots);
    free(all_sums);
}

/* Vectors are float64, those of a layer's parameters as its data: shift (C,), sums (2, C). */
EXPORT void FN(norm_moments)(const array *x, const array *shift, const array *sums) { two_sums(x, NULL, NULL, shift->data, sums->data); }

/* statistics (2, C): mean, inv_std. */
EXPORT void FN(norm_backward_sums)(const array *x, const array *y, const array *dy, const array *statistics, const array *given_sums) {
    const int64_t c = x->extents[1];
    const double *mean = statistics->data, *inv_std = mean + c;
    double *sums = given_sums->data;
    two_sums(x, dy, y, mean, sums);
    for (int64_t j = 0; j < c; j++) sums[c + j] *= inv_std[j];
}

/* One row of an elementwise pass. Forward: (x - m) s + b, + extra, relu. Backward: g s - b - (x - m) r. */
typedef struct {
    const real *m, *s, *b, *r; /* patterns */
} patterns;

enum { ADD = 1, RECTIFY = 2, BACKWARD = 4, MASKED = 8 };

INLINE void pass_row(const int what, const real *x, const real *extra, const real *mask, real *out, patterns v, int64_t length) {
    int64_t j = 0;
    for (; j + VL <= length; j += VL) {
        const vec d = load(x + j) - load(v.m + j);
        vec result;
        if (what & BACKWARD) {
            vec g = load(extra + j);
            if (what & MASKED) g = kept(load(mask + j), g);
            result = (g * load(v.s + j) - load(v.b + j)) - d * load(v.r + j);
        } else {
            result = d * load(v.s + j) + load(v.b + j);
            if (what & ADD) result += load(extra + j);
            if (what & RECTIFY) result = positive(result);
        }
        store(out + j, result);
    }
    for (; j < length; j++) {
        const real d = x[j] - v.m[j];
        real result;
        if (what & BACKWARD) {
            const real g = !(what & MASKED) || mask[j] > 0 ? extra[j] : 0;
            result = (g * v.s[j] - v.b[j]) - d * v.r[j];
        } else {
            result = d * v.s[j] + v.b[j];
            if (what & ADD) result += extra[j];
            if (what & RECTIFY) result = result < 0 ? 0 : result;
        }
        out[j] = result;
    }
}

#define PASS_ROWS(what)                                                                                                \
    for (int64_t i = 0; i < count; i++)                                                                                \
    pass_row(what, x + i * step[0], extra + i * step[1], mask + i * step[2], out + i * step[3], v, length)

static void pass_rows(int what, const real *x, const real *extra, const real *mask, real *out, const int64_t *step, patterns v,
                      int64_t count, int64_t length) {
    switch (what) {
    case 0: PASS_ROWS(0); break;
    case ADD: PASS_ROWS(ADD); break;
    case RECTIFY: PASS_ROWS(RECTIFY); break;
    case ADD | RECTIFY: PASS_ROWS(ADD | RECTIFY); break;
    case BACKWARD: PASS_ROWS(BACKWARD); break;
    default: PASS_ROWS(BACKWARD | MASKED);
    }
}

/* An elementwise pass over blocks; those it does not use are given as x. coefficients (4, C): m, s, b, r. */
static void pass(int what, const array *const *given, const double *coefficients) {
    block x = block_of(given[0]), extra = block_of(given[1]), mask = block_of(given[2]), out = block_of(given[3]);
    fold((block *[]){&x, &extra, &mask, &out}, 4);
    const int64_t total = positions(&x), c = x.c, period = period_of(c), length = period * c;
    const int dense = x.sw == c && extra.sw == c && mask.sw == c && out.sw == c;
    real *v = scratch(4 * length * (int64_t)sizeof(real));
    for (int64_t k = 0; k < 4; k++)
        for (int64_t j = 0; j < length; j++) v[k * length + j] = (real)coefficients[k * c + j % c];
    const patterns all = {v, v + length, v + 2 * length, v + 3 * length};
#pragma omp parallel if (WORTH(total * c))
    {
        const int64_t rows[4] = {x.sw, extra.sw, mask.sw, out.sw}, long_rows[4] = {length, length, length, length};
        int64_t p, to;
        own_share(total, period, &p, &to);
        for (int64_t run; p < to; p += run) {
            const place q = place_of(&x, p);
            const real *a = element(&x, q), *b = element(&extra, q), *m = element(&mask, q);
            real *o = element(&out, q);
            run = least(x.w - q.w, to - p);
            if (!dense) {
                pass_rows(what, a, b, m, o, rows, all, run, c);
                continue;
            }
            const int64_t whole = run / period, done = whole * length;
            pass_rows(what, a, b, m, o, long_rows, all, whole, length);
            pass_rows(what, a + done, b + done, m + done, o + done, long_rows, all, 1, run * c - done);
        }
    }
    free(v);
}

EXPORT void FN(norm_apply)(const array *x, const array *add, const array *y, const array *statistics, const array *given_gamma,
                           const array *given_beta, int64_t relu) {
    const int64_t c = x->extents[1];
    const double *mean = statistics->data, *inv_std = mean + c;
    const real *gamma = given_gamma->data, *beta = given_beta->data;
    double *v = scratch(4 * c * (int64_t)sizeof(double));
    for (int64_t j = 0; j < c; j++) {
        v[j] = mean[j];
        v[c + j] = inv_std[j] * (double)gamma[j];
        v[2 * c + j] = beta[j];
        v[3 * c + j] = 0;
    }
    pass((add ? ADD : 0) | (relu ? RECTIFY : 0), (const array *[]){x, add ? add : x, x, y}, v);
    free(v);
}

/* sums (2, C): both backward sums, like count over all ranks. */
EXPORT void FN(norm_backward_apply)(const array *x, const array *y, const array *dy, const array *dx, const array *statistics,
                                    const array *given_gamma, const array *given_sums, int64_t count) {
    const int64_t c = x->extents[1];
    const double *mean = statistics->data, *inv_std = mean + c, *sums = given_sums->data;
    const real *gamma = given_gamma->data;
    double *v = scratch(4 * c * (int64_t)sizeof(double));
    for (int64_t j = 0; j < c; j++) {
        const double scale = inv_std[j] * (double)gamma[j];
        v[j] = mean[j];
        v[c + j] = scale;
        v[2 * c + j] = scale * sums[j] / (double)most(count, 1);
        v[3 * c + j] = scale * sums[c + j] / (double)most(count, 1) * inv_std[j];
    }
    pass(BACKWARD | (y ? MASKED : 0), (const array *[]){x, dy, y ? y : x, dx}, v);
    free(v);
}

#if REAL_BITS == 64
/* From the sums of all ranks to what a pass needs: mean and 1 / standard deviation of the batch, and the running ones moved.
 *
 * sums (2, C) of x - running mean and of its square; running (2, C) mean and variance; out (2, C).
 */
EXPORT void FN(norm_statistics)(const array *given_sums, double count, double momentum, double eps, const array *given_mean,
                                const array *given_variance, const array *given_out) {
    const int64_t channels = given_mean->extents[0];
    const double *sums = given_sums->data;
    double *mean = given_mean->data, *variance = given_variance->data, *out = given_out->data;
    const double spare = count / (count > 1 ? count - 1 : 1); /* unbiased, as the running variance is */
    for (int64_t c = 0; c < channels; c++) {
        const double first = sums[c] / count, second = sums[channels + c] / count;
        const double now = mean[c] + first, spread = second - first * first > 0 ? second - first * first : 0;
        out[c] = now, out[channels + c] = 1 / sqrt(spread + eps);
        mean[c] += momentum * (now - mean[c]);
        variance[c] += momentum * (spread * spare - variance[c]);
    }
}
#endif
