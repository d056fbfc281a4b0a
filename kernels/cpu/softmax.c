/* Softmax and cross-entropy of a block of classes.
 *
 * formula    block_max: top = max of x over the block
 *            block_sums: sum e^(x - top); x_label - top, 0 if the label is elsewhere; sum (x - top)
 *            gradient: dx = weight (e^(x - top) / Z - s / classes - (1 - s) [k = label])
 * memory     x, dx blocks (N, K, *S), classes at unit stride; what is known of a position lies in order of N, *S
 * threads    positions are divided
 * guarantee  dx may be x; sums go to float64 after 64 vectors; a position does not depend on the others
 * reference  softmax.py: block_max, block_sums, gradient
 *
 * e^x in float32: x = n log 2 + r with |r| <= log(2) / 2, then e^r by a polynomial of degree 6 and 2^n by the bits
 * of the exponent; 1.3 units in the last place at most, 0 below the normal numbers. float64 asks libm.
 */
#include "rows.h"

#if REAL_BITS == 32

/* Coefficients of r^3 to r^6: least largest relative error on |r| <= 0.3467, found by weighted least squares (4e-9). */
INLINE vec exponential(vec x) {
    const ivec low = x < -87.33654f;
    x = choose(low, splat(-87.33654f), x);
    x = choose(x > 88.37f, splat(88.37f), x);
    /* Adding 1.5 * 2^23 leaves the nearest integer in the last bits. */
    const vec shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const vec r = (x - n * 0.693145752f) - n * 1.42860677e-6f; /* log 2 in two parts, the first of few bits */
    vec p = r * 1.38637684e-3f + 8.36749578e-3f;
    p = p * r + 4.16672383e-2f;
    p = p * r + 1.66665339e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1;
    const ivec scale = ((ivec)shifted - (ivec)splat(12582912.0f) + 127) << 23;
    return (vec)((ivec)(p * (vec)scale) & ~low);
}

#else

INLINE vec exponential(vec x) {
    vec y;
    for (int k = 0; k < VL; k++) y[k] = exp(x[k]);
    return y;
}

#endif

/* The part of a row from j on, as a vector; what lies behind its end is `fill`. */
INLINE vec load_end(const real *row, int64_t j, int64_t k, real fill) {
    real part[VL];
    for (int64_t i = 0; i < VL; i++) part[i] = j + i < k ? row[j + i] : fill;
    return load(part);
}

INLINE void store_end(real *row, int64_t j, int64_t k, vec v) {
    real part[VL];
    store(part, v);
    for (int64_t i = 0; i < VL; i++)
        if (j + i < k) row[j + i] = part[i];
}

INLINE vec some(const real *row, int64_t j, int64_t k, real fill) {
    return j + VL <= k ? load(row + j) : load_end(row, j, k, fill);
}

/* A NaN stays: it is kept once it is there, and taken where it comes. */
INLINE vec greater(vec v, vec top) { return choose((ivec)(v > top) | (ivec)(v != v), v, top); }

static real row_max(const real *row, int64_t k) {
    vec top = splat(-INFINITY);
    for (int64_t j = 0; j < k; j += VL) top = greater(some(row, j, k, -INFINITY), top);
    real best = top[0];
    for (int64_t i = 1; i < VL; i++) best = top[i] > best || top[i] != top[i] ? top[i] : best;
    return best;
}

INLINE double total_of(vec v) {
    double sum = 0;
    for (int64_t i = 0; i < VL; i++) sum += v[i];
    return sum;
}

/* Sums of e^(x - top) and of x - top. */
static void row_sums(const real *row, int64_t k, real top, double *exponentials, double *plain) {
    *exponentials = *plain = 0;
    for (int64_t from = 0; from < k; from += 64 * VL) {
        vec e = {0}, s = {0};
        const int64_t to = least(from + 64 * VL, k);
        int64_t j = from;
        for (; j + VL <= to; j += VL) {
            const vec below = load(row + j) - top;
            e += exponential(below);
            s += below;
        }
        if (j < to) {
            e += exponential(load_end(row, j, to, -INFINITY) - top);
            s += load_end(row, j, to, top) - top;
        }
        *exponentials += total_of(e);
        *plain += total_of(s);
    }
}

static void row_gradient(const real *row, int64_t k, real top, real share, real uniform, real weight, real *out) {
    int64_t j = 0;
    for (; j + VL <= k; j += VL) store(out + j, (exponential(load(row + j) - top) * share - uniform) * weight);
    if (j < k) store_end(out, j, k, (exponential(load_end(row, j, k, top) - top) * share - uniform) * weight);
}

EXPORT void FN(softmax_max)(const array *given, const array *given_top) {
    block x = block_of(given);
    real *top = given_top->data;
    fold((block *[]){&x}, 1);
    const int64_t total = positions(&x);
#pragma omp parallel for schedule(static) if (WORTH(total * x.c))
    for (int64_t p = 0; p < total; p++) top[p] = row_max(element(&x, place_of(&x, p)), x.c);
}

/* sums (3, positions) */
EXPORT void FN(softmax_sums)(const array *given, const array *given_top, const array *given_labels, int64_t k_start, const array *given_sums) {
    block x = block_of(given);
    const real *top = given_top->data;
    const int64_t *labels = given_labels->data;
    double *sums = given_sums->data;
    fold((block *[]){&x}, 1);
    const int64_t total = positions(&x);
#pragma omp parallel for schedule(static) if (WORTH(total * x.c))
    for (int64_t p = 0; p < total; p++) {
        const real *row = element(&x, place_of(&x, p));
        const int64_t local_k = labels[p] - k_start;
        row_sums(row, x.c, top[p], &sums[p], &sums[2 * total + p]);
        sums[total + p] = local_k >= 0 && local_k < x.c ? row[local_k] - top[p] : 0;
    }
}

EXPORT void FN(softmax_gradient)(const array *given, const array *given_top, const array *given_sum_exp, const array *given_labels,
                                 int64_t k_start, double uniform, double picked, const array *given_weight, const array *given_dx) {
    block x = block_of(given), dx = block_of(given_dx);
    const real *top = given_top->data;
    const double *sum_exp = given_sum_exp->data, *weight = given_weight->data;
    const int64_t *labels = given_labels->data;
    fold((block *[]){&x, &dx}, 2);
    const int64_t total = positions(&x);
#pragma omp parallel for schedule(static) if (WORTH(total * x.c))
    for (int64_t p = 0; p < total; p++) {
        const place q = place_of(&x, p);
        const real *row = element(&x, q), w = (real)weight[p], share = (real)(1 / sum_exp[p]);
        real *out = element(&dx, q);
        const int64_t local_k = labels[p] - k_start;
        const int here = local_k >= 0 && local_k < x.c;
        /* Read before it is overwritten: dx may be x. The label's own element is made as the others are. */
        const real below = here ? row[local_k] - top[p] : 0;
        row_gradient(row, x.c, top[p], share, (real)uniform, w, out);
        if (here) out[local_k] = ((exponential(splat(below))[0] * share - (real)uniform) - (real)picked) * w;
    }
}
