/* Elementwise operations: rectifier, sums of blocks, bias.
 *
 * formula    relu: y = max(x, 0), NaN stays; relu_backward: dx = dy where y > 0, else 0; add: y = a + b, then relu
 *            bias: y += b by channel, then relu; bias_gradient: db += sum of dy over all but channels
 * memory     blocks of free strides; where all of them are dense over W and C the inner loop does not see rows
 * threads    positions are divided; the sums of threads are added in their order
 * guarantee  every output may be the block of an input of the same strides (in place)
 * reference  activation.py (relu), NumPy's own + and sum
 */
#include "rows.h"

enum { RELU, RELU_BACKWARD, ADD, ADD_RELU };

INLINE vec positive(vec x) { return (vec)((ivec)x & ~(ivec)(x < (vec){0})); }
INLINE vec kept(vec y, vec dy) { return (vec)((ivec)dy & (ivec)(y > (vec){0})); }

INLINE real positive1(real x) { return x < 0 ? 0 : x; }

INLINE void span_of(int op, const real *a, const real *b, real *y, int64_t n) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        const vec u = load(a + i), v = load(b + i);
        store(y + i, op == RELU ? positive(u) : op == RELU_BACKWARD ? kept(u, v) : op == ADD ? (vec)(u + v) : positive(u + v));
    }
    for (; i < n; i++) {
        const real u = a[i], v = b[i];
        y[i] = op == RELU ? positive1(u) : op == RELU_BACKWARD ? (u > 0 ? v : 0) : op == ADD ? u + v : positive1(u + v);
    }
}

static void span(int op, const real *a, const real *b, real *y, int64_t n) {
    switch (op) {
    case RELU: span_of(RELU, a, a, y, n); break;
    case RELU_BACKWARD: span_of(RELU_BACKWARD, a, b, y, n); break;
    case ADD: span_of(ADD, a, b, y, n); break;
    default: span_of(ADD_RELU, a, b, y, n);
    }
}

static void each(int op, const array *given_a, const array *given_b, const array *given_y) {
    block a = block_of(given_a), b = block_of(given_b), y = block_of(given_y);
    fold((block *[]){&a, &b, &y}, 3);
    const int64_t total = positions(&y), c = y.c, unit = most(1024 / c, 1);
    const int dense = a.sw == c && b.sw == c && y.sw == c;
#pragma omp parallel if (WORTH(total * c))
    {
        int64_t p, to;
        own_share(total, unit, &p, &to);
        for (int64_t run; p < to; p += run) {
            const place q = place_of(&y, p);
            const real *u = element(&a, q), *v = element(&b, q);
            real *out = element(&y, q);
            run = least(y.w - q.w, to - p);
            if (dense)
                span(op, u, v, out, run * c);
            else
                for (int64_t i = 0; i < run; i++) span(op, u + i * a.sw, v + i * b.sw, out + i * y.sw, c);
        }
    }
}

EXPORT void FN(relu)(const array *x, const array *y) { each(RELU, x, x, y); }

EXPORT void FN(relu_backward)(const array *y, const array *dy, const array *dx) { each(RELU_BACKWARD, y, dy, dx); }

EXPORT void FN(add)(const array *a, const array *b, const array *y, int64_t relu) {
    each(relu ? ADD_RELU : ADD, a, b, y);
}

/* y += pattern over `count` rows that lie `step` apart. */
INLINE void bias_columns(real *y, int64_t step, int64_t count, const real *b, int64_t length, int relu) {
    for (int64_t i = 0; i < count; i++) {
        real *at = y + i * step;
        int64_t j = 0;
        for (; j + VL <= length; j += VL) {
            const vec sum = load(at + j) + load(b + j);
            store(at + j, relu ? positive(sum) : sum);
        }
        for (; j < length; j++) at[j] = relu ? positive1(at[j] + b[j]) : at[j] + b[j];
    }
}

static void bias_span(real *y, int64_t step, int64_t count, const real *b, int64_t length, int relu) {
    if (relu)
        bias_columns(y, step, count, b, length, 1);
    else
        bias_columns(y, step, count, b, length, 0);
}

EXPORT void FN(bias)(const array *given, const array *given_b, int64_t relu) {
    block y = block_of(given);
    const real *b = given_b->data;
    fold((block *[]){&y}, 1);
    const int64_t total = positions(&y), c = y.c, period = period_of(c), length = period * c;
    real *pattern = scratch(length * (int64_t)sizeof(real));
    for (int64_t j = 0; j < length; j++) pattern[j] = b[j % c];
#pragma omp parallel if (WORTH(total * c))
    {
        int64_t p, to;
        own_share(total, period, &p, &to);
        for (int64_t run; p < to; p += run) {
            const place q = place_of(&y, p);
            real *at = element(&y, q);
            run = least(y.w - q.w, to - p);
            if (y.sw != c) {
                bias_span(at, y.sw, run, pattern, c, relu);
                continue;
            }
            const int64_t whole = run / period;
            bias_span(at, length, whole, pattern, length, relu);
            bias_span(at + whole * length, length, 1, pattern, (run - whole * period) * c, relu);
        }
    }
    free(pattern);
}

/* slots += sum of dy, masked by y > 0 and written to dx where there is a y; rows lie sd, sy, sx apart. */
INLINE void gradient_columns(const real *dy, int64_t sd, const real *y, int64_t sy, real *dx, int64_t sx, int64_t count,
                             real *slots, int64_t from, int64_t wide) {
    vec sum[QUAD];
    for (int k = 0; k < wide; k++) sum[k] = load(slots + from + k * VL);
    for (int64_t i = 0; i < count; i++)
        for (int k = 0; k < wide; k++) {
            const int64_t j = from + k * VL;
            vec g = load(dy + i * sd + j);
            if (y) {
                g = kept(load(y + i * sy + j), g);
                store(dx + i * sx + j, g);
            }
            sum[k] += g;
        }
    for (int k = 0; k < wide; k++) store(slots + from + k * VL, sum[k]);
}

static void gradient_span(const real *dy, int64_t sd, const real *y, int64_t sy, real *dx, int64_t sx, int64_t count,
                          real *slots, int64_t length) {
    const int64_t near = near_count(length);
    for (int64_t n; count > 0; count -= n, dy += n * sd, dx += n * sx, y += y ? n * sy : 0) {
        n = least(count, near);
        int64_t j = 0;
        if (y)
            for (; j + QUAD * VL <= length; j += QUAD * VL) gradient_columns(dy, sd, y, sy, dx, sx, n, slots, j, QUAD);
        else
            for (; j + QUAD * VL <= length; j += QUAD * VL) gradient_columns(dy, sd, NULL, 0, NULL, 0, n, slots, j, QUAD);
        for (; j + VL <= length; j += VL) gradient_columns(dy, sd, y, sy, dx, sx, n, slots, j, 1);
        for (int64_t i = 0; i < n; i++)
            for (int64_t t = j; t < length; t++) {
                real g = dy[i * sd + t];
                if (y) dx[i * sx + t] = g = y[i * sy + t] > 0 ? g : 0;
                slots[t] += g;
            }
    }
}

/* `given_y` and `given_dx` are NULL where nothing is masked; db grows by the sums, which are made in float64. */
EXPORT void FN(bias_gradient)(const array *given, const array *given_y, const array *given_dx, const array *given_db) {
    const int masked = given_y != NULL;
    block dy = block_of(given), y = masked ? block_of(given_y) : dy, dx = masked ? block_of(given_dx) : dy;
    real *db = given_db->data;
    fold((block *[]){&dy, &y, &dx}, 3);
    const int64_t total = positions(&dy), c = dy.c, period = period_of(c), length = period * c;
    const int64_t group = 64 * period; /* positions until the slots go to float64 */
    const int dense = dy.sw == c && y.sw == c && dx.sw == c, most_threads = omp_get_max_threads();
    double *sums = scratch(most_threads * c * (int64_t)sizeof(double));
    real *all_slots = scratch(most_threads * length * (int64_t)sizeof(real));
    memset(sums, 0, (size_t)(most_threads * c) * sizeof(double));
#pragma omp parallel if (WORTH(total * c))
    {
        double *sum = sums + omp_get_thread_num() * c;
        real *slots = all_slots + omp_get_thread_num() * length;
        int64_t p, to;
        own_share(total, group, &p, &to);
        memset(slots, 0, (size_t)length * sizeof(real));
        for (int64_t run; p < to; p += run) {
            const place q = place_of(&dy, p);
            const real *g = element(&dy, q), *v = masked ? element(&y, q) : NULL;
            real *out = masked ? element(&dx, q) : NULL;
            const int64_t phase = p % period;
            run = least(least(dy.w - q.w, to - p), group - p % group);
            /* Whole periods together, where dense as one pattern; the ends of a run a position at a time. */
            const int64_t whole = phase == 0 ? run / period : 0, parts = whole == 0 || dense ? 1 : period;
            const int64_t step = whole ? period : 0, wide = whole && dense ? length : c;
            run = whole ? whole * period : 1;
            for (int64_t f = 0; f < parts; f++)
                gradient_span(g + f * dy.sw, step * dy.sw, masked ? v + f * y.sw : NULL, step * y.sw,
                              masked ? out + f * dx.sw : NULL, step * dx.sw, most(whole, 1), slots + (phase + f) * c, wide);
            if ((p + run) % group == 0 || p + run == to) {
                for (int64_t j = 0; j < length; j++) sum[j % c] += slots[j];
                memset(slots, 0, (size_t)length * sizeof(real));
            }
        }
    }
    for (int64_t j = 0; j < c; j++) {
        double sum = 0;
        for (int t = 0; t < most_threads; t++) sum += sums[t * c + j];
        db[j] += (real)sum;
    }
    free(sums);
    free(all_slots);
}
